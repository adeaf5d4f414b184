"""query: the right neighbours, the right number of them, from whatever is given."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from indexer import Catalog, CatalogError, InvalidArgument, PictureError, WrongModel
from indexer.neighbours import stamp
from indexer.pictures import scan
from indexer.verbs import nearest
from indexer.verbs import query as query_verb

from ..conftest import save_picture
from ..fakes import FakeEmbedder


@pytest.fixture(autouse=True)
def old_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "SETTLED_NS", 0)


@pytest.fixture
def filled(catalog: Catalog, pictures: Path) -> Catalog:
    """Twenty-six different pictures, twenty of them large."""
    for seed in range(20, 40):
        save_picture(pictures / "large" / f"{seed}.png", seed, size=(400, 300))
    catalog.build([pictures])
    return catalog


def exact(catalog: Catalog, fake: FakeEmbedder, query: Path) -> list[str]:
    """Every other image, best first, by the plain definition."""
    rows = {image.path: fake.embed([np.asarray(Image.open(image.path).convert("RGB"))])[0] for image in catalog}
    vector = rows.pop(str(query))
    return sorted(rows, key=lambda path: -float(rows[path] @ vector))


def test_neighbours_are_those_of_exact_search(filled: Catalog, fake: FakeEmbedder, pictures: Path) -> None:
    for name in ("a.png", "sub/e.png", "large/25.png"):
        matches = filled.query(pictures / name, k=25)
        assert [match.path for match in matches] == exact(filled, fake, pictures / name)
        assert [match.rank for match in matches] == list(range(1, 26))
        assert all(a.score >= b.score for a, b in pairwise(matches))


def test_scores_are_cosines_of_what_was_embedded(filled: Catalog, fake: FakeEmbedder, pictures: Path) -> None:
    vector = fake.embed([np.asarray(Image.open(pictures / "a.png").convert("RGB"))])[0]
    for match in filled.query(pictures / "a.png", k=5):
        other = fake.embed([np.asarray(Image.open(match.path).convert("RGB"))])[0]
        assert match.score == pytest.approx(float(vector @ other), abs=1e-3)


def test_the_queried_file_is_left_out_but_its_copies_are_not(filled: Catalog, pictures: Path) -> None:
    shutil.copy(pictures / "a.png", pictures / "copy.png")
    filled.build([pictures])
    assert filled.query(pictures / "a.png", k=1)[0].path == str(pictures / "copy.png")
    assert filled.query(pictures / "a.png", k=1)[0].score == pytest.approx(1, abs=1e-6)
    itself = filled.query(pictures / "a.png", k=2, include_self=True)
    assert {match.path for match in itself} == {str(pictures / "a.png"), str(pictures / "copy.png")}


def test_an_indexed_picture_needs_no_model(filled: Catalog, pictures: Path) -> None:
    def refuse(_: str) -> FakeEmbedder:
        raise AssertionError("the model was loaded")

    with Catalog.open(filled.folder, loader=refuse, readonly=True) as again:
        assert len(again.query(pictures / "a.png", k=3)) == 3


@pytest.mark.parametrize("kind", ["path", "str", "image", "array", "vector"])
def test_a_new_picture_in_any_form(filled: Catalog, fake: FakeEmbedder, tmp_path: Path, kind: str) -> None:
    new = save_picture(tmp_path / "new.png", 25, size=(399, 301))  # the blocks of large/25.png in another size
    image = Image.open(new)
    pixels = np.asarray(image.convert("RGB"))
    given = {"path": new, "str": str(new), "image": image, "array": pixels, "vector": fake.embed([pixels])[0]}[kind]
    best = filled.query(given, k=1)[0]
    assert best.path.endswith("large/25.png")
    assert best.score > 0.99


def test_a_build_seals_while_a_query_loads_its_model(
    filled: Catalog, fake: FakeEmbedder, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.store.store.SEAL_SECONDS", 0.1)
    new = save_picture(tmp_path / "new.png", 77)

    def load(_: str) -> FakeEmbedder:
        save_picture(pictures / "another.png", 77)
        filled.build([pictures])
        return fake

    with Catalog.open(filled.folder, loader=load, readonly=True) as reader:
        with pytest.raises(InvalidArgument, match="refused"):  # before anything is loaded
            reader.query(new, where="no_such_column")
        assert not (pictures / "another.png").exists()
        assert reader.query(new, k=1)[0].path == str(pictures / "another.png")
    report = Catalog.verify(filled.folder)
    assert (report.problems, report.notes) == ((), ())


def test_vectors_of_two_models_are_not_compared(filled: Catalog, pictures: Path, tmp_path: Path) -> None:
    def load(_: str) -> FakeEmbedder:
        with Catalog.open(filled.folder, model="other", loader=lambda _: FakeEmbedder("1" * 64)) as other:
            other.build(switch_model=True)
        return FakeEmbedder()

    with Catalog.open(filled.folder, loader=load, readonly=True) as reader:
        with pytest.raises(WrongModel, match="meanwhile"):
            reader.query(save_picture(tmp_path / "new.png", 77))
        assert len(reader.query(pictures / "a.png", k=3)) == 3  # of the other model by now


def test_several_queries_keep_their_order_and_skip_what_is_broken(
    filled: Catalog, pictures: Path, tmp_path: Path
) -> None:
    new = save_picture(tmp_path / "new.png", 30)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    results, skipped = filled.query_many([new, broken, pictures / "a.png", tmp_path / "none.png"], k=2)
    assert [result.query for result in results] == [str(new), str(pictures / "a.png")]
    assert results[0].matches[0].path.endswith("large/30.png")
    assert {skip.path for skip in skipped} == {str(broken), str(tmp_path / "none.png")}
    with pytest.raises(PictureError, match="no such file"):
        filled.query(tmp_path / "none.png")


def test_k_stays_k_under_a_filter(
    filled: Catalog, fake: FakeEmbedder, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [path for path in exact(filled, fake, pictures / "a.png") if "/large/" in path][:15]
    for few in (2000, 0):  # straight from the store, and through the index
        monkeypatch.setattr(nearest, "FEW", few)
        matches = filled.query(pictures / "a.png", k=15, where="width > 100")
        assert [match.path for match in matches] == expected


def test_filters_look_at_images_not_contents(filled: Catalog, pictures: Path) -> None:
    shutil.copy(pictures / "a.png", pictures / "sub" / "copy.png")
    filled.build([pictures])
    matches = filled.query(pictures / "b.png", k=50, where="path LIKE '%/sub/%'")
    assert {os.path.basename(match.path) for match in matches} == {"copy.png", "e.png", "f.png"}


def test_labels_filter(filled: Catalog, pictures: Path) -> None:
    by_label = {name: filled.query(pictures / "a.png", k=50, label=name) for name in ("dim", "n2", "Bright, light")}
    assert all(len(matches) == 25 for matches in by_label.values())  # all three classes are among each one's five
    with pytest.raises(InvalidArgument, match="Did you mean bright"):
        filled.query(pictures / "a.png", label="brigth")
    Image.effect_noise((40, 30), 3).point(lambda v: v + 110).convert("RGB").save(pictures / "light.png")
    assert filled.build([pictures]).added == 1
    top = filled.query(pictures / "a.png", k=50, where="label = 'grey'")
    assert len(top) == 25
    assert {match.image.labels[0].label for match in top} == {"grey"}


def test_an_image_of_the_catalog_is_asked_for_without_its_file(filled: Catalog, pictures: Path) -> None:
    image = filled[pictures / "a.png"]
    expected = filled.query(pictures / "a.png", k=5)
    (pictures / "a.png").unlink()
    assert filled.query(image, k=5) == expected
    assert filled.query(image, k=5, include_self=True)[0].path == image.path
    with pytest.raises(PictureError, match=r"a\.png: not in the catalog any more"):
        filled.query(replace(image, sha256="0" * 64))


@pytest.mark.parametrize(
    "condition",
    [
        "1) OR (1",
        "1; DELETE FROM images",
        "path IN (SELECT source FROM models)",
        "(SELECT count(*) FROM vectors) > 1",
        "1 -- comment",
        "(1",
        "'open",
        "",
        "no_such_column > 1",
        "1) UNION SELECT id, id FROM images WHERE (1",
        "load_extension('x')",
        "1 /* open",
        "length(zeroblob(2000000)) > 1",  # and not a gigabyte
    ],
)
def test_anything_but_a_condition_is_refused(filled: Catalog, pictures: Path, condition: str) -> None:
    if condition == "1 -- comment":
        assert filled.query(pictures / "a.png", k=50, where=condition)
        return
    with pytest.raises(InvalidArgument, match="refused"):
        filled.query(pictures / "a.png", where=condition)
    assert len(filled) == 26


@pytest.mark.parametrize(
    "condition",
    [
        "width > 1000 OR height BETWEEN 1 AND 9999",
        "path LIKE '%)%' OR path LIKE '%('  OR 1",
        "format = 'png' AND (bytes > 10 AND (taken IS NULL))",
        "sha256 <> '' AND modified > 0 AND camera IS NULL AND probability > 0.1",
        "label IN (SELECT label FROM pictures WHERE probability > 0.1)",
        "EXISTS (SELECT 1)",
    ],
)
def test_conditions_in_sql(filled: Catalog, pictures: Path, condition: str) -> None:
    assert len(filled.query(pictures / "a.png", k=10, where=condition)) == 10


def test_a_filter_that_matches_nothing(filled: Catalog, pictures: Path) -> None:
    assert filled.query(pictures / "a.png", where="width > 100000") == []


def test_min_score(filled: Catalog, pictures: Path) -> None:
    every = filled.query(pictures / "a.png", k=25)
    limit = every[9].score
    assert len(filled.query(pictures / "a.png", k=25, min_score=limit)) == 10


def test_more_neighbours_than_there_are(filled: Catalog, pictures: Path) -> None:
    assert len(filled.query(pictures / "a.png", k=1000)) == 25


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"k": 0}, "asks for nothing"),
        ({"k": 2.5}, "no number of neighbours"),
        ({"k": "3"}, "no number of neighbours"),
        ({"image": np.array(["a"] * 48)}, "real numbers"),
        ({"min_score": 1.5}, "no cosine"),
        ({"image": np.zeros(48)}, "no direction"),
        ({"image": np.full(48, np.nan)}, "no direction"),
        ({"image": np.ones(47)}, "47 numbers"),
        ({"image": np.ones((5, 5))}, "uint8 RGB"),
        ({"image": 5}, "no picture"),
    ],
)
def test_arguments_that_cannot_be_meant(filled: Catalog, pictures: Path, given: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        filled.query(**{"image": pictures / "a.png", **given})  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [1e-300, 1e-30, 1e-5, 1e30, 1e300])
def test_how_long_a_vector_is_does_not_matter(filled: Catalog, length: float) -> None:
    vector = np.random.default_rng(0).standard_normal(48)
    long, plain = filled.query(vector * length, k=5), filled.query(vector, k=5)
    assert [match.image.path for match in long] == [match.image.path for match in plain]
    assert [match.score for match in long] == pytest.approx([match.score for match in plain], abs=1e-6)


@pytest.mark.parametrize("length", [1e-38, 1e-30, 1e-12, 1e-9, 1.0, 1e9, 1e12, 1e30, 1e37])
@pytest.mark.parametrize("alone", [True, False])
def test_vectors_of_float32_of_any_length_are_brought_to_length_1(length: float, alone: bool) -> None:
    made = np.random.default_rng(0).standard_normal((1100, 1000))
    made[5 if alone else slice(None)] *= length / 10
    given = made.astype(np.float32)
    exact = given.astype(np.float64) / np.abs(given).max(axis=1, keepdims=True)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    found = query_verb._unit(given)
    assert found.dtype == np.float32
    assert np.abs(found - exact).max() < 3e-7


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_a_vector_of_float32_without_a_direction_is_refused(filled: Catalog, value: float) -> None:
    vectors = np.ones((3, 48), np.float32)
    vectors[1] = value
    with pytest.raises(InvalidArgument, match="no direction"):
        filled.nearest(vectors)


@pytest.mark.parametrize("condition", ["", "  "])
def test_an_empty_condition_is_said_to_be_empty(filled: Catalog, condition: str) -> None:
    vector = np.ones(48, np.float32)
    with pytest.raises(InvalidArgument, match="An empty condition was refused"):
        filled.query(vector, where=condition)
    with pytest.raises(InvalidArgument, match="An empty condition was refused"):
        filled.nearest(vector[None], where=condition)


def test_one_thing_alone_is_no_list(filled: Catalog, pictures: Path) -> None:
    report, path = filled.duplicates(), pictures / "a.png"
    with Image.open(path) as image:
        for given in (path, str(path), os.fsencode(path), image, None):
            with pytest.raises(InvalidArgument, match="Give a list: "):
                filled.query_many(given)  # type: ignore[arg-type]
    for alone in ("sub", pictures):
        for call in (
            lambda: filled.build(alone),  # type: ignore[arg-type]  # noqa: B023
            lambda: filled.build(exclude=alone),  # type: ignore[arg-type]  # noqa: B023
            lambda: filled.keep_all(report, alone),  # type: ignore[arg-type]  # noqa: B023
        ):
            with pytest.raises(InvalidArgument, match="Give a list: "):
                call()
    assert filled.info().exclude == ()
    assert filled.query_many(iter([path]))[0][0].matches == tuple(filled.query(path))
    assert filled.build(iter([pictures]), exclude=iter(["*.bmp"])).removed == 1


@pytest.mark.parametrize("readonly", [False, True])
def test_a_catalog_stays_where_it_is_whatever_the_current_folder(
    filled: Catalog, fake: FakeEmbedder, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, readonly: bool
) -> None:
    folder = filled.folder
    monkeypatch.chdir(folder.parent)
    with Catalog.open(folder.name, loader=lambda _: fake, readonly=readonly) as opened:
        monkeypatch.chdir(tmp_path / "pictures")
        assert opened.folder == folder
        assert len(opened.query(pictures / "a.png")) == len(filled.query(pictures / "a.png"))
        assert (opened.is_in_place, opened.info().catalog) == (True, str(folder))
        assert opened.duplicates().catalog == str(folder)
        save_picture(pictures / "new.png", 77)
        assert opened.build(dry_run=True).added == 1
        if not readonly:
            report = opened.build()
            assert (report.added, report.catalog) == (1, str(folder))
    assert Catalog.verify(folder).ok


def test_an_empty_catalog_says_so(catalog: Catalog, pictures: Path) -> None:
    with pytest.raises(CatalogError, match="no vectors yet"):
        catalog.query(pictures / "a.png")


@pytest.mark.parametrize("harm", ["missing", "cut", "zeroed", "foreign", "stamp"])
def test_a_lost_or_damaged_index_changes_no_answer(
    filled: Catalog, fake: FakeEmbedder, pictures: Path, harm: str
) -> None:
    before = filled.query(pictures / "a.png", k=25)
    (file,) = filled.folder.glob(stamp.PATTERN)
    data = bytearray(file.read_bytes())
    if harm == "missing":
        file.unlink()
    elif harm == "cut":
        file.write_bytes(data[:-100])
    elif harm == "zeroed":
        data[1000:2000] = bytes(1000)
        file.write_bytes(data)
    elif harm == "foreign":
        file.write_bytes(os.urandom(len(data)))
    elif harm == "stamp":
        data[-60] ^= 1
        file.write_bytes(data)
    assert filled.query(pictures / "a.png", k=25) == before
    filled.build([pictures])
    (again,) = filled.folder.glob(stamp.PATTERN)
    assert stamp.read_stamp(again) is not None
    assert filled.query(pictures / "a.png", k=25) == before


def test_new_vectors_are_found_before_the_index_covers_them(
    filled: Catalog, pictures: Path, fake: FakeEmbedder
) -> None:
    covered = filled.info().neighbours.covered
    save_picture(pictures / "late.png", 25, size=(80, 60))
    filled.build([pictures])
    assert filled.info().neighbours.covered == covered  # one more is not worth writing it anew
    assert filled.query(pictures / "large" / "25.png", k=1)[0].path.endswith("late.png")
    assert [m.path for m in filled.query(pictures / "a.png", k=26)] == exact(filled, fake, pictures / "a.png")


def test_deleted_images_are_never_found(filled: Catalog, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "refresh", lambda *_, **__: [])  # as if it had been killed before that
    gone = {filled.query(pictures / "a.png", k=2)[i].path for i in range(2)}
    for path in gone:
        os.unlink(path)
    filled.build([pictures])
    matches = filled.query(pictures / "a.png", k=23)
    assert len(matches) == 23
    assert not gone & {match.path for match in matches}


def test_collection_protocol(filled: Catalog, pictures: Path, reopen: Callable[[], Catalog]) -> None:
    assert len(filled) == 26
    assert str(pictures / "a.png") in filled
    assert pictures / "none.png" not in filled
    assert 5 not in filled
    record = filled[pictures / "large" / "20.png"]
    assert (record.width, record.height, record.format, record.bytes) == (
        400, 300, "PNG", (pictures / "large" / "20.png").stat().st_size,
    )  # fmt: skip
    assert len(record.labels) == 3
    with pytest.raises(KeyError):
        filled[pictures / "none.png"]
    assert [image.path for image in filled] == sorted(image.path for image in filled)


def test_a_pil_image_that_cannot_be_loaded_is_skipped(catalog: Catalog, pictures: Path, tmp_path: Path) -> None:
    """It is read only now."""
    catalog.build([pictures])
    whole = save_picture(tmp_path / "whole.png", 5, size=(200, 200))
    (tmp_path / "half.png").write_bytes(whole.read_bytes()[:400])
    with Image.open(tmp_path / "half.png") as half, Image.open(whole) as good:
        results, skipped = catalog.query_many([half, good])
        assert [len(result.matches) > 0 for result in results] == [True]
        assert [skip.path for skip in skipped] == [str(tmp_path / "half.png")]
    with Image.open(tmp_path / "half.png") as half, pytest.raises(PictureError, match="cannot be decoded"):
        catalog.query(half)


def test_a_pil_image_is_turned_as_its_exif_says(catalog: Catalog, pictures: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(pictures / "c.jpg") as image:
        image.save(pictures / "turned.jpg", exif=exif)
    catalog.build([pictures])
    with Image.open(pictures / "turned.jpg") as turned:
        (match,) = catalog.query(turned, k=1)
    assert Path(match.path).name == "turned.jpg"
    assert match.score == pytest.approx(1, abs=1e-6)


def test_a_picture_is_itself_by_whatever_link_it_is_named(catalog: Catalog, pictures: Path, tmp_path: Path) -> None:
    catalog.build([pictures])
    (tmp_path / "folder").symlink_to(pictures)
    (tmp_path / "link.png").symlink_to(pictures / "a.png")
    for name in (tmp_path / "folder" / "a.png", tmp_path / "link.png"):
        assert str(pictures / "a.png") not in [match.path for match in catalog.query(name, k=6)]
