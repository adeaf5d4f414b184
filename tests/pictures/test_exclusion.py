from __future__ import annotations

import os
from pathlib import Path

import pytest

from indexer.errors import InvalidArgument
from indexer.pictures.exclusion import Exclusion, resolved
from indexer.pictures.scan import find
from indexer.records import FoundFile

FILES = ["a.jpg", "b.png", "raw/c.jpg", "2019/raw/d.jpg", "2019/raw.jpg", "2019/Raw/e.jpg", "raw-old/f.jpg"]
FILES.append("rau\udce9.jpg")  # no Unicode


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in FILES:
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "tree"


def left(tree: Path, *patterns: str, below: str = "") -> set[str]:
    exclusion = Exclusion(resolved(patterns))
    found = list(find(os.fsencode(tree), os.fsencode(below), exclusion.excludes))
    assert all(isinstance(file, FoundFile) for file in found)
    paths = [file.path for file in found]
    assert paths == sorted(paths)
    return {os.fsdecode(path) for path in paths}


def test_without_patterns_nothing_is_left_out(tree: Path) -> None:
    assert left(tree) == set(FILES)
    assert Exclusion(()).excludes is None


@pytest.mark.parametrize(
    ("patterns", "out"),
    [
        (["raw"], {"raw/c.jpg", "2019/raw/d.jpg"}),
        (["raw/"], {"raw/c.jpg", "2019/raw/d.jpg"}),
        (["raw*"], {"raw/c.jpg", "2019/raw/d.jpg", "2019/raw.jpg", "raw-old/f.jpg"}),
        (["[rR]aw"], {"raw/c.jpg", "2019/raw/d.jpg", "2019/Raw/e.jpg"}),
        (["*.png", "2019"], {"b.png", "2019/raw/d.jpg", "2019/raw.jpg", "2019/Raw/e.jpg"}),
        (["rau?.jpg"], {"rau\udce9.jpg"}),
        (["rau\udce9.jpg"], {"rau\udce9.jpg"}),
        (["a"], set()),
        (["jpg"], set()),
    ],
)
def test_names_are_left_out_wherever_they_are(tree: Path, patterns: list[str], out: set[str]) -> None:
    assert left(tree, *patterns) == set(FILES) - out


def test_a_path_is_as_seen_from_here(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree.parent)
    assert left(tree, "tree/raw") == set(FILES) - {"raw/c.jpg"}
    assert left(tree, "./tree/2019/raw/") == set(FILES) - {"2019/raw/d.jpg"}
    assert left(tree, str(tree / "2019/r*")) == set(FILES) - {"2019/raw/d.jpg", "2019/raw.jpg"}
    assert left(tree, "tree/*.jpg") == {"b.png"}  # a star goes across folders, as in fnmatch
    assert left(tree, "raw/c.jpg", "elsewhere/raw") == set(FILES)
    monkeypatch.chdir(tree / "2019")
    assert left(tree, "../raw", "./raw.jpg") == set(FILES) - {"raw/c.jpg", "2019/raw.jpg"}


def test_what_is_special_in_the_current_folder_s_name_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("a[1]", "a1"):
        (tmp_path / folder / "raw").mkdir(parents=True)
        (tmp_path / folder / "raw/x.jpg").touch()
    monkeypatch.chdir(tmp_path / "a[1]")
    assert left(tmp_path, "./raw") == {"a1/raw/x.jpg"}


@pytest.mark.parametrize("pattern", ["", "/", ".", "..", "./"])
def test_a_pattern_that_fits_no_name_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidArgument, match="leaves nothing or everything out"):
        resolved([pattern])


def test_a_place_below_what_is_left_out(tree: Path) -> None:
    root = os.fsencode(tree)
    exclusion = Exclusion(["raw", str(tree / "2019/Raw")])
    assert exclusion.around(root, b"") is None
    assert exclusion.around(root, b"2019") is None
    assert exclusion.around(root, b"2019/raw/d.jpg") == root + b"/2019/raw"
    assert exclusion.around(root, b"2019/Raw") == root + b"/2019/Raw"
    assert exclusion.around(root + b"/raw", b"") is None  # a folder that is named is meant, whatever its name
    assert exclusion.around(root + b"/2019/Raw", b"") == root + b"/2019/Raw"
