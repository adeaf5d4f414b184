"""What a build leaves out stays out, is remembered, and is forgotten no more easily than what is gone."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from indexer import Catalog
from indexer.errors import CatalogDamaged, InvalidArgument, UnsafeRemoval
from indexer.pictures import scan

from ..conftest import save_picture
from ..fakes import FakeEmbedder

Reopen = Callable[[], Catalog]


def names(catalog: Catalog) -> set[str]:
    return {os.path.basename(image.path) for image in catalog}


@pytest.fixture(autouse=True)
def old_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "SETTLED_NS", 0)


@pytest.fixture
def many(pictures: Path) -> Path:
    """Thirty pictures more, so that two are less than a tenth of all."""
    for seed in range(100, 130):
        save_picture(pictures / f"{seed}.png", seed)
    return pictures


def test_what_is_left_out_is_not_indexed_and_that_is_remembered(
    catalog: Catalog, reopen: Reopen, pictures: Path, fake: FakeEmbedder
) -> None:
    assert catalog.build([pictures], exclude=["sub", "*.jpg"]).embedded == 3
    assert names(catalog) == {"a.png", "b.png", "d.bmp"}
    assert catalog.info().exclude == ("sub", "*.jpg")
    save_picture(pictures / "sub/new.png", 77)
    with reopen() as again:
        generation = again._store.generation
        for report in (again.build(), again.build([pictures]), again.build([pictures], exclude=["sub", "*.jpg"])):
            assert (report.unchanged, report.added, report.removed) == (3, 0, 0)
        assert again._store.generation == generation
        assert again.build(exclude=["*.jpg"]).added == 3
        assert again.info().exclude == ("*.jpg",)
        assert again.build(exclude=[]).added == 1
        assert again.info().exclude == ()
    assert sum(fake.batches) == 7


def test_what_was_known_of_it_is_forgotten(catalog: Catalog, many: Path) -> None:
    catalog.build([many])
    report = catalog.build(exclude=["sub"])
    assert (report.removed, report.warnings) == (2, ())
    assert not {"e.png", "f.png"} & names(catalog)
    assert len(catalog) == 34
    assert (many / "sub/e.png").exists()


def test_much_is_forgotten_only_when_that_is_meant(catalog: Catalog, pictures: Path) -> None:
    catalog.build([pictures])
    for report in (catalog.build(exclude=["sub"]), catalog.build()):
        (warning,) = report.warnings
        assert "2 of the 6 images known" in warning
        assert "gone or left out" in warning
        assert "--prune" in warning
        assert len(catalog) == 6
    assert catalog.build(prune=True).removed == 2
    assert catalog.build().warnings == ()
    with pytest.raises(UnsafeRemoval, match="empty but for what is left out"):
        catalog.build([pictures], exclude=["*"])
    assert len(catalog) == 4
    assert catalog.info().exclude == ("sub",)  # what was refused is not remembered


def test_a_path_is_left_out(catalog: Catalog, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_picture(pictures / "other/sub/g.png", 90)
    monkeypatch.chdir(pictures.parent)
    assert catalog.build(["pictures"], exclude=["pictures/sub"]).added == 5
    monkeypatch.chdir("/")
    assert catalog.build().unchanged == 5
    assert catalog.info().exclude == (str(pictures / "sub"),)


def test_what_is_left_out_cannot_be_named(catalog: Catalog, pictures: Path) -> None:
    catalog.build([pictures], exclude=["sub"])
    for place in (pictures / "sub", pictures / "sub/e.png"):
        with pytest.raises(InvalidArgument, match="sub is left out of this catalog") as refusal:
            catalog.build([place])
        assert "--exclude" in str(refusal.value)
    with pytest.raises(InvalidArgument, match="left out"):
        catalog.build(exclude=[str(pictures)])
    assert catalog.info().exclude == ("sub",)
    assert catalog.build([pictures / "sub"], exclude=["*.jpg"]).added == 2


def test_a_dry_run_counts_without_it_and_remembers_nothing(catalog: Catalog, many: Path) -> None:
    assert catalog.build([many], exclude=["sub"], dry_run=True).added == 34
    catalog.build([many])
    assert catalog.build(exclude=["sub"], dry_run=True).removed == 2
    assert catalog.info().exclude == ()


def test_what_would_fit_nothing_is_refused_before_anything_is_done(catalog: Catalog, pictures: Path) -> None:
    with pytest.raises(InvalidArgument, match="leaves nothing or everything out"):
        catalog.build([pictures], exclude=["sub", "/"])
    assert len(catalog) == 0
    assert catalog.info().roots == ()


def test_a_damaged_memory_of_it_is_found_and_never_taken_for_another(
    catalog: Catalog, reopen: Reopen, pictures: Path
) -> None:
    catalog.build([pictures], exclude=["sub"])
    catalog.close()
    file = catalog.folder / "catalog.sqlite"
    with closing(sqlite3.connect(file)) as db:
        ((value,),) = db.execute("SELECT value FROM meta WHERE key = 'exclude'")
        db.execute("UPDATE meta SET value = ? WHERE key = 'exclude'", [value.replace("sub", "suc")])
        db.commit()
    with reopen() as again:
        with pytest.raises(CatalogDamaged, match="leave out is damaged"):
            again.build()
        assert len(again) == 4
    assert any("leave out is damaged" in problem for problem in Catalog.verify(catalog.folder).problems)
    Catalog.verify(catalog.folder, repair=True, loader=lambda _: FakeEmbedder())
    assert Catalog.verify(catalog.folder).ok


def test_a_repair_keeps_what_is_left_out(catalog: Catalog, reopen: Reopen, pictures: Path) -> None:
    patterns = ["sub", "rau\udce9"]
    catalog.build([pictures], exclude=patterns)
    catalog.close()
    file = catalog.folder / "catalog.sqlite"
    with closing(sqlite3.connect(file)) as db:
        db.execute("UPDATE images SET checksum = checksum + 1 WHERE id = 1")
        db.commit()
    assert not Catalog.verify(catalog.folder).ok
    Catalog.verify(catalog.folder, repair=True, loader=lambda _: FakeEmbedder())
    assert Catalog.verify(catalog.folder).ok
    with reopen() as again:
        assert again.info().exclude == tuple(patterns)
        assert len(again) == 4
