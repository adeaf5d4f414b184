"""build: new, changed, moved, removed, skipped; and that nothing is forgotten by mistake."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from indexer import (
    BuildReport,
    Catalog,
    CatalogError,
    InvalidArgument,
    ModelError,
    PictureError,
    Progress,
    UnsafeRemoval,
    WrongModel,
)
from indexer.embed.embedder import Embedded
from indexer.pictures import scan
from indexer.pictures.decode import MAX_PIXELS
from indexer.pictures.decoders import Decoders
from indexer.preprocess import Pixels, fit
from indexer.records import FoundFile, Preprocess
from indexer.render import jsonl, text
from indexer.store.rows import Entry, Known
from indexer.store.store import Store
from indexer.verbs import build as build_verb

from ..conftest import save_picture
from ..fakes import AheadEmbedder, FakeEmbedder


@pytest.fixture(autouse=True)
def old_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a test are young; what young files need has tests of its own."""
    monkeypatch.setattr(scan, "SETTLED_NS", 0)


def counts(report: BuildReport) -> dict[str, int]:
    names = ("added", "changed", "moved", "removed", "unchanged", "skipped", "ignored", "embedded")
    return {name: getattr(report, name) for name in names if getattr(report, name)}


def paths(catalog: Catalog) -> list[str]:
    return [image.path for image in catalog]


def test_everything_is_added_and_then_unchanged(catalog: Catalog, pictures: Path, fake: FakeEmbedder) -> None:
    assert counts(catalog.build([pictures])) == {"added": 6, "embedded": 6}
    assert len(catalog) == 6
    fake.batches.clear()
    assert counts(catalog.build([pictures])) == {"unchanged": 6}
    assert fake.batches == []


@pytest.mark.parametrize(("precision", "exact"), [("fp32", True), ("bf16", False), ("fp16", False), ("int8", False)])
def test_only_fp32_is_given_the_very_pixels_of_the_reference(
    catalog: Catalog, tmp_path: Path, fake: FakeEmbedder, monkeypatch: pytest.MonkeyPatch, precision: str, exact: bool
) -> None:
    given: list[Pixels] = []
    forward = fake.forward

    def noted(batch: Pixels) -> Embedded:
        given.append(batch)
        return forward(batch)

    monkeypatch.setattr(fake, "precision", precision)
    monkeypatch.setattr(fake, "forward", noted)
    picture = Image.effect_noise((400, 300), 90).convert("RGB")
    picture.save(tmp_path / "noise.png")
    assert counts(catalog.build([tmp_path / "noise.png"])) == {"added": 1, "embedded": 1}
    assert np.array_equal(given[0][0], fit(picture, fake.preprocess, exact))
    assert not np.array_equal(given[0][0], fit(picture, fake.preprocess, not exact))


def test_a_build_that_finds_nothing_new_writes_nothing(
    catalog: Catalog, pictures: Path, reopen: Callable[[], Catalog]
) -> None:
    catalog.build([pictures])
    catalog.close()
    before = {path.name: (path.stat().st_ino, path.read_bytes()) for path in catalog.folder.iterdir()}
    with reopen() as opened:
        opened.build([pictures])
    after = {path.name: (path.stat().st_ino, path.read_bytes()) for path in catalog.folder.iterdir()}
    assert {name for name in before | after if before.get(name) != after.get(name)} <= {"build.lock"}


def test_a_build_that_finds_nothing_new_loads_no_model(
    catalog: Catalog, pictures: Path, reopen: Callable[[], Catalog]
) -> None:
    catalog.build([pictures])

    def refuse(_: str) -> FakeEmbedder:
        raise AssertionError("the model was loaded")

    with Catalog.open(catalog.folder, loader=refuse) as again:
        assert again.build().unchanged == 6
        (pictures / "a.png").rename(pictures / "z.png")
        assert counts(again.build()) == {"moved": 1, "unchanged": 5}


def test_changed_moved_removed_and_copied_files_are_told_apart(
    catalog: Catalog, pictures: Path, fake: FakeEmbedder
) -> None:
    for seed in range(10, 30):
        save_picture(pictures / f"more{seed}.png", seed)
    catalog.build([pictures])
    fake.batches.clear()
    save_picture(pictures / "a.png", 99)
    (pictures / "b.png").rename(pictures / "sub" / "moved.png")
    (pictures / "c.jpg").unlink()
    shutil.copy(pictures / "d.bmp", pictures / "copy.bmp")
    report = catalog.build([pictures])
    assert counts(report) == {
        "added": 1, "changed": 1, "moved": 1, "removed": 1, "unchanged": 23, "embedded": 1,
    }  # fmt: skip
    assert report.images == 26
    assert report.contents == 25
    assert str(pictures / "b.png") not in paths(catalog)
    assert str(pictures / "sub" / "moved.png") in paths(catalog)


def test_copies_are_embedded_once(catalog: Catalog, pictures: Path, fake: FakeEmbedder) -> None:
    for number in range(9):
        shutil.copy(pictures / "a.png", pictures / f"copy{number}.png")
    report = catalog.build([pictures])
    assert (report.images, report.contents, report.embedded) == (15, 6, 6)


def test_vectors_belong_to_their_pictures(catalog: Catalog, pictures: Path, fake: FakeEmbedder) -> None:
    """Whatever is skipped on the way, no picture's vector is filed under another's path."""
    (pictures / "aa.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    (pictures / "ba.txt").write_text("no picture")
    shutil.copy(pictures / "a.png", pictures / "bb.png")
    catalog.build([pictures])
    for image in catalog:
        with Image.open(image.path) as opened:
            vector = fake.embed([np.asarray(opened.convert("RGB"))])[0]
        best = catalog.query(vector, k=2)
        assert image.path in {match.path for match in best if match.score > 0.999}, image.path


def test_skips_are_listed_once_and_tried_again_when_they_change(catalog: Catalog, pictures: Path) -> None:
    broken = pictures / "broken.jpg"
    broken.write_bytes((pictures / "c.jpg").read_bytes()[:-300])
    (pictures / "notes.txt").write_text("no picture")
    report = catalog.build([pictures])
    assert counts(report) == {"added": 6, "skipped": 1, "ignored": 1, "embedded": 6}
    assert [skip.path for skip in report.new_skipped] == [str(broken)]
    assert [skip.path for skip in catalog.skips()] == [str(broken)]
    again = catalog.build([pictures])
    assert counts(again) == {"unchanged": 6, "skipped": 1, "ignored": 1}
    assert again.new_skipped == ()
    save_picture(broken, 50)
    assert counts(catalog.build([pictures])) == {"added": 1, "unchanged": 6, "ignored": 1, "embedded": 1}
    assert list(catalog.skips()) == []


def test_what_is_tried_again_as_it_was_is_no_new_skip(
    catalog: Catalog, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = pictures / "broken.jpg"
    broken.write_bytes((pictures / "c.jpg").read_bytes()[:-300])
    monkeypatch.setattr(scan, "SETTLED_NS", 10**15)  # it was written just now, so its times tell nothing yet
    assert len(catalog.build([pictures]).new_skipped) == 1
    for limit in (MAX_PIXELS, MAX_PIXELS // 2):
        report = catalog.build([pictures], max_pixels=limit)
        assert (report.skipped, report.new_skipped) == (1, ())
    assert [skip.path for skip in catalog.skips()] == [str(broken)]
    os.utime(broken, (1, 1))
    assert len(catalog.build([pictures]).new_skipped) == 1  # another file, and broken too
    report = catalog.build([pictures], max_pixels=100)  # another reason
    assert (report.skipped, len(report.new_skipped)) == (1, 1)


def test_an_image_that_breaks_is_no_image_any_more(catalog: Catalog, pictures: Path) -> None:
    catalog.build([pictures])
    (pictures / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    report = catalog.build([pictures])
    assert (report.images, report.contents, report.skipped) == (5, 5, 1)
    assert str(pictures / "a.png") not in paths(catalog)


def test_a_skip_whose_file_is_gone_is_forgotten(catalog: Catalog, pictures: Path) -> None:
    (pictures / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    catalog.build([pictures])
    (pictures / "broken.png").unlink()
    assert catalog.build([pictures]).skipped == 0
    assert list(catalog.skips()) == []


def test_a_larger_pixel_limit_tries_again_what_was_too_large(catalog: Catalog, pictures: Path) -> None:
    assert catalog.build([pictures], max_pixels=100).skipped == 6
    assert counts(catalog.build([pictures])) == {"added": 6, "embedded": 6}


@pytest.mark.parametrize("number", [np.nan, np.inf, 0.0])
def test_a_picture_without_a_usable_vector_is_skipped(
    catalog: Catalog, pictures: Path, fake: FakeEmbedder, monkeypatch: pytest.MonkeyPatch, number: float
) -> None:
    """A zero vector is what torch makes of one that it cannot bring to length 1."""
    forward = fake.forward

    def given(batch: Pixels) -> Embedded:
        embedded = forward(batch)
        embedded.vectors[np.isnan(embedded.vectors).all(axis=1)] = number
        return embedded

    monkeypatch.setattr(fake, "forward", given)
    Image.new("RGB", (40, 30)).save(pictures / "black.png")
    shutil.copy(pictures / "black.png", pictures / "black2.png")
    report = catalog.build([pictures])
    assert {skip.reason for skip in report.new_skipped} == {"the model gives no usable vector for it"}
    assert (report.images, report.skipped) == (6, 2)
    assert counts(catalog.build([pictures])) == {"unchanged": 6, "skipped": 2}
    for black in (pictures / "black.png", Image.new("RGB", (40, 30))):
        with pytest.raises(PictureError, match="no usable vector"):
            catalog.query(black)


def test_a_picture_without_usable_classes_is_skipped_too(
    catalog: Catalog, pictures: Path, fake: FakeEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A classifier may overflow where the vector does not."""
    forward = fake.forward

    def overflown(batch: Pixels) -> Embedded:
        embedded = forward(batch)
        embedded.probabilities[0, 1] = np.nan
        return embedded

    monkeypatch.setattr(fake, "forward", overflown)
    report = catalog.build([pictures])
    assert {skip.reason for skip in report.new_skipped} == {"the model gives no usable vector for it"}
    assert (report.images, report.skipped) == (5, 1)


def test_a_missing_root_is_not_taken_for_a_deletion(catalog: Catalog, pictures: Path, tmp_path: Path) -> None:
    catalog.build([pictures])
    pictures.rename(tmp_path / "unmounted")
    with pytest.raises(UnsafeRemoval, match="Mount its disk"):
        catalog.build([pictures])
    report = catalog.build()
    assert report.images == 6
    assert "is not there" in report.warnings[0]
    pictures.mkdir()
    with pytest.raises(UnsafeRemoval, match="is empty"):
        catalog.build([pictures])
    assert len(catalog) == 6
    assert catalog.build([pictures], prune=True).removed == 6
    assert len(catalog) == 0
    assert catalog.info().roots == (str(pictures),)  # it is there


@pytest.mark.parametrize("rest", [True, False])
def test_a_root_that_is_gone_for_good_is_forgotten(
    catalog: Catalog, pictures: Path, tmp_path: Path, rest: bool
) -> None:
    if rest:
        save_picture(tmp_path / "rest" / "a.png", 99)
        catalog.build([tmp_path / "rest"])
    (pictures / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    catalog.build([pictures])
    shutil.rmtree(pictures)
    assert catalog.build([pictures], prune=True).removed == 6
    assert catalog.info().roots == ((str(tmp_path / "rest"),) if rest else ())
    assert list(catalog.skips()) == []
    if rest:
        assert catalog.build().warnings == ()
    else:
        with pytest.raises(InvalidArgument, match="no folders yet"):
            catalog.build()


def test_losing_more_than_a_tenth_needs_prune(catalog: Catalog, pictures: Path) -> None:
    for seed in range(100, 114):
        save_picture(pictures / f"{seed}.png", seed)
    catalog.build([pictures])
    for name in ("100", "101"):
        (pictures / f"{name}.png").unlink()
    assert catalog.build([pictures]).removed == 2  # exactly a tenth of twenty
    for name in ("102", "103"):
        (pictures / f"{name}.png").unlink()
    report = catalog.build([pictures])
    assert (report.removed, report.images) == (0, 18)
    assert "--prune" in report.warnings[0]
    assert catalog.build([pictures], prune=True).removed == 2


def test_a_renamed_folder_is_moved_whole(catalog: Catalog, pictures: Path, fake: FakeEmbedder) -> None:
    catalog.build([pictures])
    fake.batches.clear()
    (pictures / "sub").rename(pictures / "other")
    for name in "abcd":
        for file in pictures.glob(f"{name}.*"):
            file.rename(pictures / f"new-{file.name}")
    assert counts(catalog.build([pictures])) == {"moved": 6}
    assert fake.batches == []


def cannot_be_listed(monkeypatch: pytest.MonkeyPatch, ending: bytes) -> None:
    """Folders whose path ends so."""
    real = os.listdir

    def refusing(path: bytes) -> list[bytes]:
        if path.endswith(ending):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "listdir", refusing)


def test_a_folder_that_cannot_be_listed_keeps_its_images(
    catalog: Catalog, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog.build([pictures])
    cannot_be_listed(monkeypatch, b"/sub")
    for _ in range(2):
        report = catalog.build([pictures])
        assert (report.images, report.removed, report.skipped) == (6, 0, 1)
    assert [skip.reason for skip in catalog.skips()] == ["no permission to list it"]
    monkeypatch.undo()
    assert catalog.build([pictures]).skipped == 0


def test_a_folder_that_cannot_be_entered_keeps_its_images(
    catalog: Catalog, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its names can be listed, and nothing else."""
    catalog.build([pictures])
    real_lstat, real_listdir = os.lstat, os.listdir

    def refused(path: bytes | Path) -> bool:
        return os.fsencode(path).startswith(os.fsencode(pictures / "_")[:-1]) and not os.fsencode(path).endswith(b"/")

    def lstat(path: bytes | Path) -> os.stat_result:
        if refused(path):
            raise PermissionError(13, "Permission denied")
        return real_lstat(path)

    def listdir(path: bytes) -> list[bytes]:
        if refused(path):
            raise PermissionError(13, "Permission denied")
        return real_listdir(path)

    monkeypatch.setattr(os, "lstat", lstat)
    monkeypatch.setattr(os, "listdir", listdir)
    report = catalog.build([pictures])
    assert (report.images, report.removed) == (6, 0)
    assert report.skipped == len(real_listdir(pictures))
    monkeypatch.undo()
    assert counts(catalog.build([pictures])) == {"unchanged": 6}


def test_single_files_and_folders_below_a_root(catalog: Catalog, pictures: Path) -> None:
    assert counts(catalog.build([pictures / "a.png"])) == {"added": 1, "embedded": 1}
    assert catalog.build([pictures / "sub"]).added == 2
    assert catalog.info().roots == (str(pictures),)
    assert counts(catalog.build([pictures])) == {"added": 3, "unchanged": 3, "embedded": 3}
    (pictures / "sub" / "e.png").unlink()
    assert catalog.build([pictures / "a.png"]).removed == 0
    assert catalog.build([pictures / "sub"], prune=True).removed == 1


def test_a_root_above_another_takes_it_in(catalog: Catalog, pictures: Path, fake: FakeEmbedder) -> None:
    catalog.build([pictures / "sub"])
    (pictures / "sub" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    catalog.build([pictures / "sub"])
    fake.batches.clear()
    assert counts(catalog.build([pictures])) == {"added": 4, "unchanged": 2, "skipped": 1, "embedded": 4}
    assert catalog.info().roots == (str(pictures),)
    assert len(paths(catalog)) == len(set(paths(catalog))) == 6


def test_a_dry_run_counts_and_changes_nothing(catalog: Catalog, pictures: Path, fake: FakeEmbedder) -> None:
    assert counts(catalog.build([pictures], dry_run=True)) == {"added": 6}
    assert len(catalog) == 0
    assert catalog.info().roots == ()
    catalog.build([pictures])
    (pictures / "a.png").unlink()
    save_picture(pictures / "b.png", 77, size=(50, 50))
    assert counts(catalog.build([pictures], dry_run=True)) == {"changed": 1, "removed": 1, "unchanged": 4}
    assert len(catalog) == 6


def test_a_dry_run_needs_no_more_than_to_read(
    catalog: Catalog, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog.build([pictures])
    save_picture(pictures / "new.png", 77)
    before = (catalog.folder / "catalog.sqlite").read_bytes()
    cannot_be_listed(monkeypatch, b"/sub")
    with Catalog.open(catalog.folder, readonly=True) as reader:
        for paths in ([], [pictures]):
            report = reader.build(paths, dry_run=True)
            assert (report.added, report.unchanged, report.skipped) == (1, 6, 1)
            assert (report.new_skipped, report.warnings) == ((), ())
        with pytest.raises(CatalogError, match="opened for reading"):
            reader.build([pictures])
    assert list(catalog.skips()) == []
    assert (catalog.folder / "catalog.sqlite").read_bytes() == before


def test_a_dry_run_says_what_a_build_would_refuse(catalog: Catalog, pictures: Path) -> None:
    for seed in range(100, 114):
        save_picture(pictures / f"{seed}.png", seed)
    catalog.build([pictures])
    for seed in range(100, 102):
        (pictures / f"{seed}.png").unlink()
    assert catalog.build(dry_run=True).warnings == ()  # exactly a tenth of twenty
    (pictures / "102.png").unlink()
    report = catalog.build(dry_run=True)
    assert "3 of the 20 images known in" in report.warnings[0]
    assert "if they have not moved they are kept. If that is meant, run again with --prune." in report.warnings[0]
    assert (catalog.build().removed, len(catalog)) == (0, 20)
    report = catalog.build(dry_run=True, prune=True)
    assert (report.removed, report.warnings) == (3, ())


def test_a_file_just_written_is_read_again_until_its_times_can_be_trusted(
    catalog: Catalog, pictures: Path, monkeypatch: pytest.MonkeyPatch, fake: FakeEmbedder
) -> None:
    monkeypatch.setattr(scan, "SETTLED_NS", 10**18)
    catalog.build([pictures])
    before = (pictures / "a.png").stat()
    replacement = save_picture(pictures.parent / "same-size.bmp", 5)
    shutil.copy(replacement, pictures / "d.bmp")
    os.utime(pictures / "d.bmp", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert counts(catalog.build([pictures])) == {"changed": 1, "unchanged": 5, "embedded": 1}


def test_names_in_any_bytes(catalog: Catalog, pictures: Path) -> None:
    names = [
        b"new\nline.png",
        b"-dash.png",
        b"quote'\".png",
        b"\xff\xfe.png",
        "\u00e9.png".encode(),
        "e\u0301.png".encode(),
    ]
    for number, name in enumerate(names):
        target = os.path.join(os.fsencode(pictures), name)
        shutil.copy(os.fsencode(save_picture(pictures.parent / "new.png", 200 + number)), target)
    assert catalog.build([pictures]).added == 12
    for name in names:
        full = os.path.join(pictures, os.fsdecode(name))
        assert full in catalog
        assert catalog[full].path == full
        assert catalog.query(full, k=1)[0].path != full
    assert catalog.build([pictures]).unchanged == 12


def test_work_is_committed_as_it_goes(catalog: Catalog, pictures: Path, reopen: Callable[[], Catalog]) -> None:
    """Stopped in the middle, a build keeps what it has embedded, and the next one goes on from there."""
    for seed in range(300, 340):
        save_picture(pictures / f"{seed}.png", seed)
    seen: list[Progress] = []

    def stop(progress: Progress) -> None:
        seen.append(progress)
        if progress.embedded >= 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        catalog.build([pictures], progress=stop)
    with reopen() as again:
        kept = len(again)
        assert 16 <= kept < 46
        report = again.build([pictures])
        assert (report.images, report.embedded, report.unchanged) == (46, 46 - kept, kept)


def many(pictures: Path) -> Path:
    """Forty pictures more, and a copy and something broken among them."""
    for seed in range(300, 340):
        save_picture(pictures / f"{seed}.png", seed)
    shutil.copy(pictures / "305.png", pictures / "33-copy.png")
    (pictures / "310a.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    return pictures


@pytest.mark.parametrize(("allowed", "asked", "used"), [(3, None, 3), (100, None, 32), (3, 1, 1)])
def test_there_is_a_decoder_for_every_core_that_may_be_used(
    catalog: Catalog, pictures: Path, monkeypatch: pytest.MonkeyPatch, allowed: int, asked: int | None, used: int
) -> None:
    made: list[int] = []

    class Counted(Decoders):
        def __init__(self, preprocess: Preprocess, count: int, *rest: Any, **more: Any) -> None:
            made.append(count)
            super().__init__(preprocess, count, *rest, **more)

    monkeypatch.setattr("indexer.verbs.build.cores", lambda: allowed)
    monkeypatch.setattr("indexer.verbs.build.Decoders", Counted)
    assert catalog.build([pictures], workers=asked).added
    assert made == [used]


def test_an_embedder_that_works_ahead_ends_with_the_same(tmp_path: Path, pictures: Path) -> None:
    many(pictures)
    found = []
    for kind in (FakeEmbedder, AheadEmbedder):
        with Catalog.create(tmp_path / kind.__name__, loader=lambda _, kind=kind: kind(batch_size=4)) as catalog:
            report = catalog.build([pictures], workers=1)
            assert counts(report) == {"added": 47, "skipped": 1, "embedded": 46}
            catalog.export(tmp_path / f"{kind.__name__}.npy")
        found.append(np.load(tmp_path / f"{kind.__name__}.npy"))
    assert np.array_equal(*found)


def test_what_is_under_way_counts_as_work_that_may_be_lost(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most COMMIT_IMAGES are embedded and not committed, however far ahead the embedder works."""
    monkeypatch.setattr(build_verb, "COMMIT_IMAGES", 12)
    embedder, committed, most = AheadEmbedder(batch_size=4), [0], [0]
    commit, forward = Store.commit, AheadEmbedder.forward

    def counted(self: Store, entries: list[Entry], *others: Any) -> None:
        commit(self, entries, *others)
        committed[0] += len(entries)

    def weighed(self: AheadEmbedder, batch: Pixels) -> Embedded:
        embedded = forward(self, batch)
        most[0] = max(most[0], sum(self.batches) - committed[0])
        return embedded

    monkeypatch.setattr(Store, "commit", counted)
    monkeypatch.setattr(AheadEmbedder, "forward", weighed)
    with Catalog.create(tmp_path / "catalog", loader=lambda _: embedder) as catalog:
        assert catalog.build([many(pictures)]).embedded == 46
    assert 4 < most[0] <= 12


def test_stopped_while_it_works_ahead_it_keeps_what_was_taken(tmp_path: Path, pictures: Path) -> None:
    many(pictures)

    def stop(progress: Progress) -> None:
        if progress.embedded >= 16:
            raise KeyboardInterrupt

    before = threading.active_count()
    with Catalog.create(tmp_path / "catalog", loader=lambda _: AheadEmbedder(batch_size=4)) as catalog:
        with pytest.raises(KeyboardInterrupt):
            catalog.build([pictures], progress=stop)
        assert 16 <= len(catalog) < 46
    assert threading.active_count() <= before
    embedder = AheadEmbedder()
    with Catalog.create(tmp_path / "catalog", loader=lambda _: embedder) as catalog:
        assert catalog.build([pictures]).contents == 46
    assert sum(embedder.batches) <= 30


def test_what_the_embedder_remarks_is_reported(catalog: Catalog, pictures: Path, fake: FakeEmbedder) -> None:
    fake.remarks = ("Memory ran out on cpu: batches are of 4 now.",)
    report = catalog.build([pictures])
    assert report.remarks == fake.remarks
    assert f"  {fake.remarks[0]}" in list(text.build(report))
    assert jsonl.build(report)["remarks"] == list(fake.remarks)


def test_the_embedder_is_told_how_many_may_come(
    catalog: Catalog, pictures: Path, fake: FakeEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    totals: list[int | None] = []
    stream = FakeEmbedder.stream

    def told(self: FakeEmbedder, batches: Any, total: int | None = None) -> Any:
        totals.append(total)
        return stream(self, batches, total)

    monkeypatch.setattr(FakeEmbedder, "stream", told)
    catalog.build([pictures])
    assert totals == [6]


def test_an_unknown_path_is_an_error_and_leaves_everything(catalog: Catalog, pictures: Path) -> None:
    with pytest.raises(InvalidArgument, match="no file or folder"):
        catalog.build([pictures, pictures / "typo"])
    with pytest.raises(InvalidArgument, match="no folders yet"):
        catalog.build()


def test_an_empty_name_is_not_the_current_folder(
    catalog: Catalog, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pictures)
    with pytest.raises(InvalidArgument, match="An empty name is no folder"):
        catalog.build([""])
    assert len(catalog) == 0


def test_another_model_is_refused_unless_it_is_meant(catalog: Catalog, pictures: Path) -> None:
    catalog.build([pictures])
    other = FakeEmbedder(weights="1" * 64)
    with Catalog.open(catalog.folder, model="other", loader=lambda _: other) as again:
        with pytest.raises(WrongModel) as refusal:
            again.build([pictures])
        assert other.id.key in str(refusal.value)
        assert FakeEmbedder().id.key in str(refusal.value)
        with pytest.raises(WrongModel):
            again.query(Image.new("RGB", (9, 9), "red"))
        assert again.build([pictures], switch_model=True).embedded == 6
        assert again.info().model == other.id.key
    with Catalog.open(catalog.folder, model="fake", loader=lambda _: FakeEmbedder()) as back:
        assert counts(back.build([pictures], switch_model=True)) == {"unchanged": 6}  # never embedded twice


def test_another_model_that_cannot_be_had_is_not_all_that_is_said(catalog: Catalog, pictures: Path) -> None:
    """Perhaps nobody wanted another one."""
    catalog.build([pictures])

    def out_of_reach(_: str) -> FakeEmbedder:
        raise ModelError("The hub cannot be reached.")

    with (
        Catalog.open(catalog.folder, model="other", loader=out_of_reach) as again,
        pytest.raises(ModelError, match=r"The hub .* The catalog's own is fake: leave --model out for it\."),
    ):
        again.build([pictures])
    with (
        Catalog.open(catalog.folder, loader=out_of_reach) as own,
        pytest.raises(ModelError, match=r"^The hub cannot be reached\.$"),
    ):
        own.query(Image.new("RGB", (9, 9), "red"))


def test_where_a_model_folder_has_moved_it_says_how_to_go_on(tmp_path: Path, pictures: Path) -> None:
    place, moved, new = tmp_path / "model", tmp_path / "moved", save_picture(tmp_path / "new.png", 77)
    place.mkdir()

    def load(source: str) -> FakeEmbedder:
        if not Path(source).exists():
            raise ModelError(f"There is no folder {source}.")
        fake = FakeEmbedder()
        fake.source = source
        return fake

    with Catalog.create(tmp_path / "catalog", model=str(place), loader=load) as catalog:
        catalog.build([pictures])
    place.rename(moved)
    with Catalog.open(tmp_path / "catalog", loader=load) as catalog:
        with pytest.raises(ModelError) as raised:
            catalog.query(new)
        assert str(raised.value) == f"There is no folder {place}. If it has moved: indexer build --model FOLDER."
    with Catalog.open(tmp_path / "catalog", model=str(moved), loader=load) as catalog:
        catalog.build()
    with Catalog.open(tmp_path / "catalog", loader=load) as catalog:
        assert len(catalog.query(new)) == 6


def test_progress_is_told(catalog: Catalog, pictures: Path) -> None:
    seen: list[Progress] = []
    catalog.build([pictures], progress=seen.append)
    assert {"load", "embed", "index"} <= {progress.stage for progress in seen}
    last = [progress for progress in seen if progress.stage == "embed"][-1]
    assert (last.done, last.total, last.embedded) == (6, 6, 6)


def test_seconds_and_speed_are_sane(catalog: Catalog, pictures: Path) -> None:
    started = time.monotonic()
    report = catalog.build([pictures])
    assert 0 < report.seconds <= time.monotonic() - started
    assert 0 < report.embedding_seconds < report.seconds
    assert report.images_per_second == pytest.approx(6 / report.embedding_seconds)


def test_a_model_folder_is_found_again_from_everywhere(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    asked: list[str] = []

    def load(source: str) -> FakeEmbedder:
        asked.append(source)
        fake = FakeEmbedder()
        fake.source = source
        return fake

    monkeypatch.chdir(tmp_path)
    with Catalog.create(tmp_path / "catalog", model="model", loader=load) as catalog:
        catalog.build([pictures])
    monkeypatch.chdir("/")
    with Catalog.open(tmp_path / "catalog", loader=load) as catalog:
        catalog.embedder()
    assert asked == [str(tmp_path / "model")] * 2


@pytest.mark.parametrize("stretch", [1, 2, 3, 5, 100])
def test_two_streams_are_compared_as_wholes(monkeypatch: pytest.MonkeyPatch, stretch: int) -> None:
    """However many at once: every path comes once, in order, and only what is as it was is just counted."""
    monkeypatch.setattr(build_verb, "STRETCH", stretch)
    rng = np.random.default_rng(stretch)

    def chance() -> float:
        return float(rng.random())

    for _ in range(200):
        paths = [b"%02d" % number for number in range(rng.integers(0, 13))]
        few = float(rng.choice([0.02, 0.3]))  # how often something has changed
        found = [FoundFile(path, 1, 2, 3) for path in paths if rng.random() > few]
        olds = [
            Known(path, 1, 2, 3 + (chance() < few), None if chance() < few else 7, None, chance() > few)
            for path in paths
            if rng.random() > few
        ]
        files, known = {file.path: file for file in found}, {old.path: old for old in olds}
        expected = [(files.get(path), known.get(path)) for path in sorted(files.keys() | known.keys())]
        for item in build_verb._merge(iter(found), iter(olds)):
            if not isinstance(item, int):
                assert item == expected.pop(0)
                continue
            for file, old in expected[:item]:
                assert file and old and old.image_id and old.current and old[:4] == file
            assert item > 0
            del expected[:item]
        assert not expected


def test_no_decoders_at_all(catalog: Catalog, pictures: Path) -> None:
    for count in (0, -1):
        with pytest.raises(InvalidArgument, match="decoding processes"):
            catalog.build([pictures], workers=count)
