"""Which of several duplicates is kept, and the words for it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from indexer.errors import InvalidArgument
from indexer.records import ImageRecord
from indexer.verbs.keeping import DEFAULT, Keeping, lacks

CAMERA = ImageRecord(
    "/p/IMG_1.jpg", "a" * 64, 4_000_000, 4032, 3024, "JPEG", "2024-05-01T10:00:00", "Canon EOS", modified_ns=5 * 10**9
)
STRIPPED = replace(CAMERA, path="/p/whatsapp.jpg", sha256="b" * 64, bytes=900_000, taken=None, camera=None)
SMALL = replace(CAMERA, path="/p/a.jpg", sha256="c" * 64, width=1600, height=1200, bytes=300_000)
LOSSLESS = replace(STRIPPED, path="/p/z.png", sha256="d" * 64, format="PNG", bytes=20_000_000)


def best(rules: str, *images: ImageRecord) -> ImageRecord:
    """The one to keep, in whatever order they come."""
    keeping = Keeping.parse(rules)
    found = {min(order, key=keeping.key).path for order in itertools.permutations(images)}
    assert len(found) == 1
    return next(image for image in images if image.path in found)


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        (DEFAULT, CAMERA),
        ("resolution", CAMERA),
        ("bytes", LOSSLESS),
        ("format", LOSSLESS),
        ("exif", CAMERA),  # both cameras' files tell as much: the first by path
        ("exif,resolution", CAMERA),
        ("path:*.png", LOSSLESS),
        ("path:*/wh*", STRIPPED),
        ("shortest-path", SMALL),
    ],
)
def test_the_first_rule_that_tells_them_apart_decides(rules: str, kept: ImageRecord) -> None:
    assert best(rules, CAMERA, STRIPPED, SMALL, LOSSLESS) is kept


def test_time_is_that_of_the_camera_where_it_is_known() -> None:
    later = replace(CAMERA, path="/p/later.jpg", taken="2024-06-01T10:00:00", modified_ns=1)
    assert best("oldest", CAMERA, later) is CAMERA
    assert best("newest", CAMERA, later) is later
    copied = replace(STRIPPED, path="/p/copied.jpg", modified_ns=1)
    assert best("oldest", STRIPPED, copied) is copied
    assert best("newest", STRIPPED, copied) is STRIPPED


@pytest.mark.parametrize("name", ["IMG_1 (1).jpg", "IMG_1 - Copy.jpg", "Copy of IMG_1.jpg", "IMG_1~2.jpg"])
def test_what_is_named_as_a_copy_is_one(name: str) -> None:
    assert best(DEFAULT, CAMERA, replace(CAMERA, path=f"/p/{name}")) is CAMERA


@pytest.mark.parametrize("border", [100, 250, 600])
def test_a_frame_is_not_resolution(border: int) -> None:
    width, height = CAMERA.width + 2 * border, CAMERA.height + 2 * border
    share = CAMERA.width * CAMERA.height / (width * height)
    framed = replace(CAMERA, path="/p/1.jpg", width=width, height=height, bytes=9_000_000, shown=int(1000 * share))
    assert best(DEFAULT, CAMERA, framed) is CAMERA
    assert best(DEFAULT, SMALL, framed) is framed  # a frame takes nothing away either
    assert Keeping.parse(DEFAULT).why(CAMERA, [framed]).startswith("4032x3024 without a border")


def test_of_two_with_borders_the_one_that_shows_more_is_kept() -> None:
    wide, narrow = replace(CAMERA, path="/p/a.jpg", shown=500), replace(CAMERA, shown=800)
    assert best("resolution", wide, narrow) is narrow
    assert Keeping.parse("resolution").why(narrow, [wide]) == "4032x3024 with less of a border"


def test_copies_whose_borders_differ_by_a_line_are_equal() -> None:
    assert best(DEFAULT, replace(CAMERA, shown=975), replace(STRIPPED, shown=1000)).path == CAMERA.path
    assert best(DEFAULT, replace(CAMERA, shown=703), replace(STRIPPED, shown=712)).path == CAMERA.path


def test_where_as_much_is_shown_the_other_rules_decide() -> None:
    keeping = Keeping.parse(DEFAULT)
    worse, better = replace(STRIPPED, shown=817), replace(CAMERA, shown=799)  # on two sides of a step
    assert best(DEFAULT, worse, better) is worse
    assert keeping.best(worse, [better]) is better
    assert keeping.best(worse, [replace(better, shown=750)]) is worse
    assert keeping.best(worse, [replace(better, width=4000)]) is worse
    assert keeping.best(better, [worse]) is better


def test_what_has_more_in_it_is_kept() -> None:
    grey = replace(CAMERA, path="/p/grey.png", format="PNG", bytes=9_000_000, holds="")
    coloured = replace(STRIPPED, holds="colour")
    clear = replace(STRIPPED, path="/p/b.png", holds="colour alpha")
    deep = replace(STRIPPED, path="/p/c.png", holds="colour alpha deep")
    keeping = Keeping.parse(DEFAULT)
    assert best(DEFAULT, grey, coloured) is coloured
    assert keeping.why(coloured, [grey]).startswith("colour")
    assert best(DEFAULT, grey, coloured, clear, deep) is deep
    assert keeping.why(deep, [coloured]).startswith("transparency and more than 8 bits")
    assert best(DEFAULT, grey, replace(coloured, holds=None)).path == coloured.path  # read by an older indexer
    assert best(DEFAULT, replace(SMALL, holds="colour"), grey) is grey  # it shows more, and the other stays too
    animated = replace(STRIPPED, path="/p/a.gif", format="GIF", holds="colour frames")
    assert best(DEFAULT, coloured, animated) is coloured


def test_what_would_be_lost() -> None:
    grey, deep = replace(CAMERA, holds=""), replace(CAMERA, holds="colour alpha deep")
    assert lacks(grey, deep) == ["colour", "transparency", "more than 8 bits"]
    assert lacks(deep, grey) == []
    assert lacks(replace(CAMERA, holds=None), replace(CAMERA, holds="colour")) == []
    (unknown,) = lacks(deep, replace(CAMERA, format="PNG", holds=None))
    assert unknown.startswith("perhaps transparency")
    hidden = replace(CAMERA, holds="colour alpha frames")
    assert lacks(hidden, hidden) == ["transparency", "frames or pages after the first"]  # those of the other may differ


def test_equals_are_told_apart_by_path() -> None:
    assert best("resolution", CAMERA, replace(CAMERA, path="/p/IMG_0.jpg")).path == "/p/IMG_0.jpg"


def test_the_words_name_what_decided() -> None:
    keeping = Keeping.parse(DEFAULT)
    assert keeping.why(CAMERA, [SMALL]).startswith("4032x3024")
    assert "EXIF" in keeping.why(CAMERA, [STRIPPED])
    assert keeping.why(CAMERA, []) == "the only one"
    assert keeping.why(replace(SMALL, path="/p/a longer path.jpg"), [CAMERA]) == "chosen against the rules"


@pytest.mark.parametrize("rules", ["", "prettiest", "resolution,,bytes", "bytes,bytes", "path", "path:"])
def test_rules_that_cannot_be_meant(rules: str) -> None:
    with pytest.raises(InvalidArgument):
        Keeping.parse(rules)
