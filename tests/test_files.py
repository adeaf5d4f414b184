"""Files that appear whole or not at all, beside whatever a user has in the same folder."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from indexer import IndexerError
from indexer.files import remove_left_over, replace_file, replacement, temporary_of


def test_a_replacement_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(handle: int) -> None:
        found = os.fstat(handle)
        steps.append("sync folder" if stat.S_ISDIR(found.st_mode) else f"sync {found.st_size} bytes")
        fsync(handle)

    def replaced(source: Path, target: Path) -> None:
        steps.append(f"name it {target.name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    replace_file(tmp_path / "page.html", b"new")
    assert steps == ["sync 3 bytes", "name it page.html", "sync folder"]
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_users_own_file_is_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "page.html.tmp"
    mine.write_text("mine")
    replace_file(tmp_path / "page.html", b"new")
    with pytest.raises(ZeroDivisionError), replacement(tmp_path / "page.html") as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert mine.read_text() == "mine"
    assert (tmp_path / "page.html").read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 2


def test_what_a_killed_process_leaves_is_written_over(tmp_path: Path) -> None:
    temporary_of(tmp_path / "a.npy").write_text("of one that was killed")
    replace_file(tmp_path / "a.npy", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]
    assert (tmp_path / "a.npy").read_text() == "new"


def test_what_a_killed_process_leaves_in_a_catalog_is_removed(tmp_path: Path) -> None:
    left = temporary_of(tmp_path / "catalog.seal")
    assert left.name.startswith(".")
    left.write_text("half")
    remove_left_over(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["nowhere/page.html", "file/page.html", "folder", ".", ""])
def test_what_cannot_be_written_is_an_error_of_ours(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("folder").mkdir()
    with pytest.raises(IndexerError, match="cannot be written"):
        replace_file(Path(name), b"x")
    assert sorted(os.listdir()) == ["file", "folder"]
    assert os.listdir("folder") == []


def test_a_users_files_in_a_catalogs_folder_stay(tmp_path: Path) -> None:
    """A catalog may be in any folder, that of the pictures too."""
    (tmp_path / "notes.tmp").write_text("mine")
    (tmp_path / "work.tmp").mkdir()
    (tmp_path / "work.tmp" / "thesis.txt").write_text("mine")
    page = temporary_of(tmp_path / "page.html")
    page.write_text("half")  # that another process is writing
    (tmp_path / ".indexer-salvage.tmp").mkdir()
    (tmp_path / ".indexer-salvage.tmp" / "catalog.sqlite").write_text("half")
    remove_left_over(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [page.name, "notes.tmp", "work.tmp"]
    assert (tmp_path / "work.tmp" / "thesis.txt").read_text() == "mine"
