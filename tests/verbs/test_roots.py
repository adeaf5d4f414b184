"""Which roots and places the paths of a build become: no file is ever in two of them."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer import BuildReport, Catalog, UnsafeRemoval
from indexer.pictures import scan
from indexer.records import FoundFile
from indexer.store.store import Store
from indexer.verbs.roots import Place, parts, resolve

from ..conftest import save_picture


@pytest.fixture(autouse=True)
def old_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a test are young; what young files need has tests of its own."""
    monkeypatch.setattr(scan, "SETTLED_NS", 0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    (tmp_path / "store").mkdir()
    with closing(Store.create(tmp_path / "store")) as made:
        yield made


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Files and folders side by side, in every order of their names."""
    folder = tmp_path / "photos"
    for seed, name in enumerate(["a.png", "sub/x.png", "sub/deep/y.png", "sub-way/s.png", "z.png"]):
        save_picture(folder / name, seed)
    return folder


def places(store: Store, *paths: Path) -> list[Place]:
    return resolve(store, paths, prune=False)[0]


def counts(report: BuildReport) -> dict[str, int]:
    names = ("added", "changed", "moved", "removed", "unchanged", "skipped", "embedded")
    return {name: getattr(report, name) for name in names if getattr(report, name)}


def assert_sound(catalog: Catalog, *, roots: list[Path]) -> None:
    """These are the roots, and no file is in two of them."""
    assert catalog.info().roots == tuple(map(str, roots))
    paths = [image.path for image in catalog]
    assert len(paths) == len(set(paths))


# -- what is named -----------------------------------------------------------------------------------------------------


def test_a_folder_beside_a_file_is_a_place_below_the_folder_of_both(store: Store, photos: Path) -> None:
    root = os.fsencode(photos)
    for names in (["a.png", "sub"], ["sub", "z.png"]):
        assert places(store, *(photos / name for name in names)) == [Place(root, os.fsencode(name)) for name in names]
    assert places(store, photos / "sub/deep/y.png", photos / "a.png") == [
        Place(root, b"a.png"), Place(root, b"sub/deep/y.png"),
    ]  # fmt: skip


def test_what_lies_in_another_place_comes_with_it(store: Store, photos: Path) -> None:
    root = os.fsencode(photos)
    named = [photos / "sub/x.png", photos / "sub", photos / "sub-way", photos / "sub/deep", photos / "z.png"]
    expected = [Place(root, b"sub-way"), Place(root, b"sub"), Place(root, b"z.png")]
    assert places(store, *named) == places(store, *reversed(named)) == expected
    assert places(store, *named, photos, photos) == [Place(root, b"")]
    assert places(store, Path("/"), *named) == [Place(b"/", b"")]


def test_folders_side_by_side_stay_roots_of_their_own(store: Store, photos: Path) -> None:
    named = [photos / "sub", photos / "sub-way"]
    assert sorted(places(store, *named), key=lambda place: place.root) == [
        Place(os.fsencode(name), b"") for name in named
    ]


def test_a_known_root_is_put_below_a_new_one_around_it(store: Store, photos: Path) -> None:
    root = os.fsencode(photos)
    store.add_root(root + b"/sub")
    assert places(store, photos / "sub/deep") == [Place(root + b"/sub", b"deep")]
    assert places(store, photos / "sub") == [Place(root + b"/sub", b"")]
    assert places(store, photos / "sub", photos / "z.png") == [Place(root, b"sub"), Place(root, b"z.png")]
    assert places(store, photos / "sub/deep", photos / "z.png") == [Place(root, b"sub/deep"), Place(root, b"z.png")]


NAMES = st.lists(st.sampled_from(["a", "a-b", "a.b", "b"]), min_size=1, max_size=3).map("/".join)


@given(st.lists(NAMES, max_size=8), st.data())
@settings(max_examples=100, deadline=None)
def test_whatever_is_named_no_file_comes_twice_and_none_is_left_out(tree: list[str], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder, closing(Store.create(Path(folder))) as store:
        top = os.path.join(os.fsencode(folder), b"photos")
        for name in map(os.fsencode, tree):
            os.makedirs(os.path.join(top, name), exist_ok=True)
            Path(os.fsdecode(os.path.join(top, name, b"f.png"))).touch()
        files = [os.path.join(where, name) for where, _, names in os.walk(top) for name in names]
        folders = [where for where, _, _ in os.walk(top) if os.path.isdir(where)]
        for _ in range(3 if files else 0):
            named = data.draw(st.lists(st.sampled_from(files + folders), min_size=1, max_size=5))
            chosen, _ = resolve(store, [os.fsdecode(path) for path in named], prune=False)
            found = [
                os.path.join(place.root, file.path)
                for place in chosen
                for file in scan.find(place.root, place.below)
                if isinstance(file, FoundFile)
            ]
            assert sorted(found) == sorted(
                file for file in files if any(file == path or file.startswith(path + b"/") for path in named)
            )
            known = store.roots()
            for place in chosen:
                if place.root in known:
                    continue
                # what a dry run looks at is what the root would hold once it is there, in the same order
                held = [
                    start + file.path
                    for part, start in parts(place, known)
                    for file in scan.find(part.root, part.below)
                    if isinstance(file, FoundFile) and os.path.lexists(part.full)
                ]
                inside = [root + b"/" for root in known if root.startswith(place.root + b"/")]
                assert held == [
                    file.path
                    for file in scan.find(place.root, place.below)
                    if isinstance(file, FoundFile) and os.path.join(place.root, file.path).startswith(tuple(inside))
                ]
            for root in {place.root for place in chosen} - known.keys():
                store.add_root(root)
            roots = list(store.roots())
            assert {place.root for place in chosen} <= set(roots)
            assert not [(one, other) for one in roots for other in roots if one.startswith(other + b"/")]


def test_many_files_are_sorted_out_at_once(store: Store) -> None:
    store.add_root(b"/photos")
    started = time.monotonic()
    named = [f"/photos/{number:06}.jpg" for number in range(20_000)]
    assert len(resolve(store, named, prune=False)[0]) == 20_000
    assert time.monotonic() - started < 20  # comparing each with all took ten minutes


def test_the_store_is_not_asked_for_its_roots_for_every_file(
    catalog: Catalog, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, roots = 0, Store.roots

    def count(self: Store) -> dict[bytes, int]:
        nonlocal asked
        asked += 1
        return roots(self)

    monkeypatch.setattr(Store, "roots", count)
    for number in range(40):
        shutil.copy(photos / "a.png", photos / f"{number}.png")
    assert catalog.build(sorted(photos.glob("*.png"))).added == 42
    assert asked < 20


# -- what becomes of it ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("files", [["a.png"], ["z.png"], ["a.png", "z.png"]])
def test_files_and_folders_of_one_folder_have_one_root(catalog: Catalog, photos: Path, files: list[str]) -> None:
    named = [photos / name for name in [*files, "sub", "sub-way"]]
    number = len(files) + 3
    for paths in (sorted(named), sorted(named, reverse=True)):
        assert counts(catalog.build(paths, dry_run=True)).get("added", 0) == number - len(catalog)
        catalog.build(paths)
        assert_sound(catalog, roots=[photos])
        assert len(catalog) == number
    assert counts(catalog.build(named)) == {"unchanged": number}
    assert catalog.build().images == 5
    assert_sound(catalog, roots=[photos])
    assert list(catalog.duplicates(tier="exact")) == []


@pytest.mark.parametrize(
    ("known", "named", "roots"),
    [
        (["sub"], ["a.png", "sub"], ["."]),
        (["sub"], ["sub/deep", "z.png"], ["."]),
        (["sub/deep", "sub-way"], ["sub/x.png", "sub-way"], ["sub", "sub-way"]),
        (["sub/deep", "sub-way"], ["sub/x.png", "sub-way", "z.png"], ["."]),
        (["sub-way", "sub/deep/y.png"], ["."], ["."]),
        (["sub"], ["z.png"], ["."]),
        (["."], ["sub", "z.png"], ["."]),
    ],
)
def test_known_roots_among_what_is_named(
    catalog: Catalog, photos: Path, known: list[str], named: list[str], roots: list[str]
) -> None:
    """A dry run says what will come of it, and what was known goes through no model again."""
    catalog.build([photos / name for name in known])
    before, old_roots = len(catalog), catalog.info().roots
    save_picture(photos / "sub/new.png", 90)
    for paths in ([photos / name for name in named], [photos / name for name in reversed(named)]):
        foreseen = catalog.build(paths, dry_run=True)
        assert (len(catalog), catalog.info().roots) == (before, old_roots)
        report = catalog.build(paths)
        assert (report.added, report.unchanged) == (foreseen.added, foreseen.unchanged)
        assert report.embedded == report.added == len(catalog) - before
        assert_sound(catalog, roots=[photos / name for name in roots])
        before, old_roots = len(catalog), catalog.info().roots
    catalog.build([photos])
    assert counts(catalog.build()) == {"unchanged": 6}
    assert_sound(catalog, roots=[photos])


def test_a_dry_run_counts_what_is_gone_from_a_root_that_another_would_take_in(catalog: Catalog, photos: Path) -> None:
    catalog.build([photos / "sub"])
    save_picture(photos / "sub/x.png", 50, size=(50, 50))
    (photos / "sub/deep/y.png").unlink()
    foreseen = catalog.build([photos], dry_run=True)
    assert counts(foreseen) == {"added": 3, "changed": 1, "removed": 1}
    assert counts(catalog.build([photos], prune=True)) == {**counts(foreseen), "embedded": 4}


@pytest.mark.parametrize("dry_run", [False, True])
def test_an_empty_root_is_refused_before_another_takes_it_in(catalog: Catalog, photos: Path, dry_run: bool) -> None:
    """Below another it would be a folder like any other, of which a few files may be gone."""
    for seed in range(100, 140):
        save_picture(photos / "sub-way" / f"{seed}.png", seed)
    catalog.build([photos / "sub", photos / "sub-way"])
    roots = catalog.info().roots
    shutil.rmtree(photos / "sub")
    (photos / "sub").mkdir()
    for _ in range(2):
        with pytest.raises(UnsafeRemoval, match=r"sub is empty, but the catalog knows 2 files"):
            catalog.build(sorted(photos.iterdir()), dry_run=dry_run)
        assert catalog.info().roots == roots
    report = catalog.build(sorted(photos.iterdir()), prune=True, dry_run=dry_run)
    assert (report.added, report.removed) == (2, 2)


def test_naming_files_says_that_their_folder_is_known_from_then_on(catalog: Catalog, photos: Path) -> None:
    for dry_run in (True, False):
        (warning,) = catalog.build([photos / "a.png", photos / "sub"], dry_run=dry_run).warnings
        assert f"everything in {photos}. To go on" in warning
    assert catalog.build([photos / "a.png", photos / "z.png"]).warnings == ()  # it was known
    assert catalog.build().added == 1
    assert len(catalog) == 5


def test_naming_a_folder_says_nothing_of_the_files_in_it(catalog: Catalog, photos: Path) -> None:
    assert catalog.build([photos / "a.png", photos / "sub/x.png", photos]).warnings == ()


def test_many_folders_of_files_are_one_warning(catalog: Catalog, photos: Path) -> None:
    (warning,) = catalog.build([photos / "sub/x.png", photos / "sub-way/s.png"]).warnings
    assert f"everything in {photos / 'sub'} and 1 other folder. To go on" in warning
