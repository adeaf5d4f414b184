"""What goes to the trash overwrites nothing there, can be found again, and leaves no note where it is refused."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from indexer.errors import PictureError
from indexer.verbs import moves, trash
from indexer.verbs.trash import Trash, throw_away

from ..conftest import before

OLD, NEW = b"the picture", b"a new version"
SHA256 = hashlib.sha256(OLD).hexdigest()
USER = os.getuid()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of our own; returns its trash."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    (tmp_path / "home").mkdir()
    return tmp_path / "home" / ".local" / "share" / "Trash"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "disk" / "from").mkdir(parents=True)
    (tmp_path / "disk" / "from" / "a b.jpg").write_bytes(OLD)
    return tmp_path / "disk" / "from" / "a b.jpg"


@pytest.fixture
def disk(source: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The source's folder is on a disk of its own, without the home folder."""
    disk = source.parent.parent
    real = trash._device
    monkeypatch.setattr(trash, "_device", lambda path: -1 if b"/home" in path else real(path))
    monkeypatch.setattr(os.path, "ismount", lambda path: os.fsencode(path) == os.fsencode(disk))
    return disk


def throw(source: Path) -> None:
    throw_away(os.fsencode(source), SHA256, os.lstat(source))


def find(source: Path) -> Path | None:
    found = Trash().find(os.fsencode(source), SHA256)
    return None if found is None else Path(os.fsdecode(found.file))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def put(folder: Path, name: str, data: bytes, note: str | None) -> None:
    """As another program has put it into a trash folder."""
    for part in ("files", "info"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "files" / name).write_bytes(data)
    if note is not None:
        (folder / "info" / f"{name}.trashinfo").write_text(note)


def note(path: Path | str, deleted: str = "2024-01-01T00:00:00") -> str:
    return f"[Trash Info]\nPath={path}\nDeletionDate={deleted}\n"


def test_a_file_goes_to_the_trash(source: Path, home: Path) -> None:
    throw(source)
    assert not source.exists()
    assert find(source) == home / "files" / "a b.jpg"
    assert [path.stat().st_mode & 0o777 for path in (home, home / "files", home / "info")] == [0o700] * 3
    text = (home / "info" / "a b.jpg.trashinfo").read_text()
    assert text.startswith(f"[Trash Info]\nPath={str(source).replace(' ', '%20')}\nDeletionDate=20")


@pytest.mark.parametrize("value", ["", "relative"])
def test_a_data_folder_that_is_none(source: Path, home: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", value)
    throw(source)
    assert find(source) == home / "files" / "a b.jpg"


def test_equal_names(source: Path, home: Path) -> None:
    for _ in range(3):
        source.write_bytes(OLD)
        throw(source)
    assert sorted(files(home / "files")) == ["a b 1.jpg", "a b 2.jpg", "a b.jpg"]
    assert sorted(files(home / "info")) == [f"a b{number}.jpg.trashinfo" for number in (" 1", " 2", "")]


@pytest.mark.parametrize("which", ["files", "info"])
def test_what_another_program_puts_there_meanwhile_stays(
    source: Path, home: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    name = "a b.jpg" if which == "files" else "a b.jpg.trashinfo"
    where, function = (moves, "rename") if which == "files" else (trash, "_write_note")
    before(monkeypatch, where, function, lambda: (home / which / name).write_bytes(NEW))
    throw(source)
    assert files(home / which)[name] == NEW
    assert find(source) == home / "files" / "a b 1.jpg"
    assert len(files(home)) == 3


def test_the_note_is_on_disk_first(source: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = []
    fsync, rename = os.fsync, moves.rename

    def noted(handle: int) -> None:
        events.append(os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    def renamed(old: bytes, new: bytes) -> None:
        events.append("rename")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(moves, "rename", renamed)
    throw(source)
    first, last = events[: events.index("rename")], events[events.index("rename") :]
    assert first == [str(home / "info" / "a b.jpg.trashinfo"), str(home / "info")]
    assert {str(home / "files"), str(source.parent)} <= set(last)


@pytest.mark.parametrize("where", [(trash, "carry"), (os, "fsync")])
def test_what_is_refused_leaves_no_note(
    source: Path, home: Path, monkeypatch: pytest.MonkeyPatch, where: tuple[object, str]
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(*where, refused)
    with pytest.raises(PictureError, match="No space left"):
        throw(source)
    assert source.read_bytes() == OLD
    assert files(home) == {}


def test_a_version_that_is_saved_meanwhile_stays(source: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before(monkeypatch, trash, "carry", lambda: source.write_bytes(NEW))
    with pytest.raises(PictureError, match="it changed"):
        throw(source)
    assert source.read_bytes() == NEW
    assert files(home) == {}


def test_what_cannot_go_back_keeps_its_note(source: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two versions were saved: one before the file went, one before it could go back."""
    before(monkeypatch, trash, "carry", lambda: source.write_bytes(NEW))
    before(monkeypatch, moves, "has_bytes", lambda: source.write_bytes(b"newest"))
    with pytest.raises(PictureError):
        throw(source)
    assert source.read_bytes() == b"newest"
    assert files(home / "files") == {"a b.jpg": NEW}
    assert len(files(home / "info")) == 1


def test_what_is_in_the_trash_keeps_its_note_whatever_fails_then(
    source: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failed(_: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(moves, "sync_folder", failed)
    with pytest.raises(PictureError):
        throw(source)
    assert find(source) == home / "files" / "a b.jpg"
    assert len(files(home / "info")) == 1


def test_a_file_that_may_not_be_written(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PictureError, match="no permission to put into the trash it"):
        throw(source)
    assert source.exists()


def test_a_name_that_is_no_unicode(source: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(source.parent) + b"/\xff\xfe.jpg"))
    source.rename(odd)
    throw(odd)
    assert find(odd) is not None


# -- other disks -------------------------------------------------------------------------------------------------------


def test_the_trash_of_a_disk(source: Path, disk: Path) -> None:
    throw(source)
    assert find(source) == disk / f".Trash-{USER}" / "files" / "a b.jpg"
    (text,) = files(disk / f".Trash-{USER}" / "info").values()
    assert b"\nPath=from/a%20b.jpg\n" in text


def test_a_trash_that_all_share(source: Path, disk: Path) -> None:
    (disk / ".Trash").mkdir()
    (disk / ".Trash").chmod(0o1777)
    throw(source)
    assert find(source) == disk / ".Trash" / str(USER) / "files" / "a b.jpg"


@pytest.mark.parametrize("kind", ["not sticky", "a link"])
def test_a_trash_that_anybody_may_replace_is_not_used(source: Path, disk: Path, kind: str) -> None:
    (disk / "elsewhere").mkdir()
    (disk / "elsewhere").chmod(0o1777)
    if kind == "a link":
        (disk / ".Trash").symlink_to("elsewhere")
    else:
        (disk / ".Trash").mkdir(0o777)
    throw(source)
    assert find(source) == disk / f".Trash-{USER}" / "files" / "a b.jpg"


def test_a_trash_that_is_a_link_is_not_used(source: Path, disk: Path) -> None:
    (disk / "elsewhere").mkdir()
    (disk / f".Trash-{USER}").symlink_to("elsewhere")
    with pytest.raises(PictureError, match="there may be no trash folder on its disk"):
        throw(source)
    assert source.read_bytes() == OLD


def test_where_only_the_trash_of_another_disk_is_left(
    source: Path, tmp_path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where XDG_DATA_HOME is on another disk than the home folder: the file is copied, and the copy is proven."""
    real, home = moves.rename, tmp_path / "home" / ".local" / "share" / "Trash"

    def rename(old: bytes, new: bytes) -> None:
        if old == os.fsencode(source):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        real(old, new)

    (disk / f".Trash-{USER}").write_bytes(b"in the way")
    monkeypatch.setattr(trash, "_device", lambda path: -1 if b"Trash" in path else os.stat(source).st_dev)
    monkeypatch.setattr(moves, "rename", rename)
    os.utime(source, ns=(10**18, 10**18))
    with monkeypatch.context() as patch, pytest.raises(PictureError, match="other bytes"):
        patch.setattr(moves, "digest", lambda path: ("0" * 64, os.lstat(path)))
        throw(source)
    assert (source.read_bytes(), files(home)) == (OLD, {})
    throw(source)
    assert not source.exists()
    assert find(source) == home / "files" / "a b.jpg"
    assert (home / "files" / "a b.jpg").stat().st_mtime_ns == 10**18


# -- what other programs put there -------------------------------------------------------------------------------------


def test_the_one_that_was_put_there_last(source: Path, home: Path) -> None:
    put(home, "1", OLD, note(source, "2020-01-01T00:00:00"))
    put(home, "2", OLD, note(source, "2024-01-01T00:00:00"))
    put(home, "3", OLD, note(source, "2022-01-01T00:00:00"))
    assert find(source) == home / "files" / "2"


def test_only_the_bytes_that_it_had(source: Path, home: Path) -> None:
    put(home, "1", OLD, note(source, "2020-01-01T00:00:00"))
    put(home, "2", NEW, note(source, "2024-01-01T00:00:00"))
    put(home, "3", b"", note(source, "2025-01-01T00:00:00"))
    (home / "files" / "3").unlink()
    put(home, "4", OLD, note(source.with_name("another.jpg")))
    assert find(source) == home / "files" / "1"


@pytest.mark.parametrize("text", ["", "[Trash Info]\n", note("/a%00b"), note("%00"), note("")])
def test_a_note_that_does_not_tell_stops_nothing(source: Path, home: Path, text: str) -> None:
    put(home, "odd", OLD, text)
    (home / "info" / "folder.trashinfo").mkdir()
    (home / "files" / "folder").mkdir()
    assert find(source) is None
    put(home, "1", OLD, note(source))
    assert find(source) == home / "files" / "1"


@pytest.mark.parametrize("text", ["", None, "[Trash Info]\nPath="])
@pytest.mark.parametrize("name", ["a b.jpg", "a b 12.jpg"])
def test_a_file_whose_note_was_lost_is_found_by_its_name(source: Path, home: Path, text: str | None, name: str) -> None:
    put(home, "a b 3.jpg", NEW, text)
    put(home, "a b 4.jpg", OLD, note(source.with_name("another.jpg")))
    put(home, "a b too.jpg", OLD, text)
    assert find(source) is None
    put(home, name, OLD, text)
    assert find(source) == home / "files" / name


@pytest.mark.parametrize("place", [f".Trash-{USER}", f".Trash/{USER}"])
def test_what_another_program_put_into_the_trash_of_a_disk(source: Path, disk: Path, place: str) -> None:
    put(disk / place, "a b.jpg", OLD, note("from/a%20b.jpg"))
    assert find(source) == disk / place / "files" / "a b.jpg"


def test_elsewhere_the_system_puts_it_away(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trash, "FREEDESKTOP", False)
    monkeypatch.setattr("send2trash.send2trash", os.unlink)
    throw(source)
    assert not source.exists()
    assert find(source) is None
