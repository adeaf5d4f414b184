"""A file that is moved is never lost and overwrites nothing, whatever another program does to it meanwhile."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from indexer.errors import PictureError
from indexer.verbs import moves

from ..conftest import before

OLD, NEW = b"the picture", b"a new version"
SHA256 = hashlib.sha256(OLD).hexdigest()

at_once = pytest.mark.skipif(sys.platform != "linux", reason="only Linux looks and renames in one step")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "a.jpg").write_bytes(OLD)
    return tmp_path / "from" / "a.jpg"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "to" / "a.jpg"


def move(source: Path, target: Path) -> None:
    moves.move(os.fsencode(source), os.fsencode(target), SHA256, os.lstat(source))


def files(source: Path, target: Path) -> tuple[bytes | None, bytes | None]:
    return source.read_bytes() if source.exists() else None, target.read_bytes() if target.exists() else None


def save(path: Path) -> None:
    """As a program does that keeps the old version until the new one is whole."""
    path.with_suffix(".new").write_bytes(NEW)
    os.replace(path.with_suffix(".new"), path)


def refuse(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    """The system refuses the first call of a function of os."""

    def refused() -> None:
        raise OSError(number, os.strerror(number))

    before(monkeypatch, os, name, refused)


def other_disk(monkeypatch: pytest.MonkeyPatch, source: Path) -> None:
    real = moves.rename

    def rename(old: bytes, new: bytes) -> None:
        if old == os.fsencode(source):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        real(old, new)

    refuse(monkeypatch, "link", errno.EXDEV)
    monkeypatch.setattr(moves, "rename", rename)


Disk = Callable[[pytest.MonkeyPatch, Path], None]
KINDS: dict[str, Disk] = {
    "links": lambda monkeypatch, source: None,
    "no links": lambda monkeypatch, source: refuse(monkeypatch, "link", errno.EPERM),
    "another disk": other_disk,
}


@pytest.fixture(params=KINDS)
def disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, source: Path) -> str:
    KINDS[request.param](monkeypatch, source)
    return str(request.param)


def test_a_file_is_moved(disk: str, source: Path, target: Path) -> None:
    os.utime(source, ns=(10**18, 10**18))
    move(source, target)
    assert files(source, target) == (None, OLD)
    assert target.stat().st_mtime_ns == 10**18
    assert [path.name for path in target.parent.iterdir()] == ["a.jpg"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_disk_that_syncs_no_folders(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refused(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refused)
    move(source, target)
    assert files(source, target) == (None, OLD)


def test_what_is_at_the_target_stays(disk: str, source: Path, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(NEW)
    with pytest.raises(FileExistsError):
        move(source, target)
    assert files(source, target) == (OLD, NEW)


@at_once
def test_what_comes_to_the_target_after_a_look_stays(
    disk: str, source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target.parent.mkdir()
    target.write_bytes(NEW)
    monkeypatch.setattr(os.path, "lexists", lambda _: False)
    with pytest.raises(FileExistsError):
        move(source, target)
    assert files(source, target) == (OLD, NEW)


def test_without_a_rename_that_looks(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moves, "_rename_at_once", lambda *_: errno.EINVAL)
    target.parent.mkdir()
    target.write_bytes(NEW)
    with pytest.raises(FileExistsError):
        moves.rename(os.fsencode(source), os.fsencode(target))
    assert files(source, target) == (OLD, NEW)
    target.unlink()
    moves.rename(os.fsencode(source), os.fsencode(target))
    assert files(source, target) == (None, OLD)


def test_a_version_that_is_saved_meanwhile_stays(
    disk: str, source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before(monkeypatch, moves, "sync_folder", lambda: save(source))
    if disk == "no links":
        move(source, target)  # by then nothing of the move is left to do
    else:
        with pytest.raises(PictureError, match="changed"):
            move(source, target)
    assert files(source, target) == (NEW, OLD)


def test_what_is_written_into_it_meanwhile_stays(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before(monkeypatch, moves, "sync_folder", lambda: source.write_bytes(NEW))
    with pytest.raises(PictureError, match="changed"):
        move(source, target)
    assert files(source, target) == (NEW, None)


@pytest.mark.parametrize("kind", ["links", "no links"])
def test_a_version_that_is_saved_just_before_stays(
    kind: str, source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    KINDS[kind](monkeypatch, source)
    before(monkeypatch, os, "link", lambda: save(source))
    with pytest.raises(PictureError, match="changed"):
        move(source, target)
    assert files(source, target) == (NEW, None)


@pytest.mark.parametrize("last", [False, True])
def test_what_was_moved_stays_when_the_source_vanishes(
    last: bool, disk: str, source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = os.unlink

    def vanished(path: bytes) -> None:
        if path == os.fsencode(source):
            unlink(path)
        unlink(path)

    if last:
        monkeypatch.setattr(os, "unlink", vanished)
    else:
        before(monkeypatch, moves, "sync_folder", lambda: source.exists() and unlink(source))
    move(source, target)
    assert files(source, target) == (None, OLD)


@pytest.mark.parametrize("vanishes", ["neither", "source", "target"])
def test_a_source_that_may_not_go(vanishes: str, source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The move is taken back, unless the target is all that is left."""
    unlink = os.unlink

    def refused(path: bytes) -> None:
        if path != os.fsencode(source):
            return unlink(path)
        if vanishes != "neither":
            unlink(source if vanishes == "source" else target)
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "unlink", refused)
    if vanishes == "source":
        move(source, target)
    else:
        with pytest.raises(OSError, match="Permission" if vanishes == "neither" else "No such file"):
            move(source, target)
    assert files(source, target) == ((None, OLD) if vanishes == "source" else (OLD, None))


def test_the_source_stays_until_its_bytes_are_at_the_target(source: Path, target: Path) -> None:
    target.parent.mkdir()
    for there, error in ((None, FileNotFoundError), (NEW, PictureError)):
        if there:
            target.write_bytes(there)
        with pytest.raises(error):
            moves.end_move(os.fsencode(source), os.fsencode(target), SHA256, os.lstat(source))
        assert files(source, target) == (OLD, there)


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The source's folder, seen through another file system: with another device and inode."""
    (tmp_path / "pool").symlink_to("from")
    monkeypatch.setattr(os.path, "samestat", lambda *_: False)
    return tmp_path / "pool" / "a.jpg"


@pytest.mark.parametrize("links", [True, False])
def test_a_folder_that_is_seen_twice(
    links: bool, source: Path, shown: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "a.jpg").write_bytes(OLD)
    for one, other, twice in (
        (source, shown, True),
        (shown, source, True),
        (source, tmp_path / "to" / "a.jpg", False),
    ):
        if not links:
            refuse(monkeypatch, "link", errno.EPERM)
        assert moves.seen_twice(os.fsencode(one), os.fsencode(other)) == twice
        assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["a.jpg", "a.jpg"]


def test_a_folder_of_a_pool_whose_new_files_go_to_another_disk(
    source: Path, shown: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without hard links what appears on the disk tells, where what appears in the pool does not."""
    make = moves._make_empty
    monkeypatch.setattr(moves, "_make_empty", lambda name: None if b"/pool/" in name else make(name))
    refuse(monkeypatch, "link", errno.EPERM)
    assert moves.seen_twice(os.fsencode(shown), os.fsencode(source))


def test_a_copy_overwrites_only_what_was_seen(source: Path, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(b"what is to go")
    seen = os.lstat(target)
    save(target)
    with pytest.raises(PictureError, match="changed"):
        moves.copy(os.fsencode(source), os.fsencode(target), SHA256, instead_of=seen)
    assert files(source, target) == (OLD, NEW)
    moves.copy(os.fsencode(source), os.fsencode(target), SHA256, instead_of=os.lstat(target))
    assert files(source, target) == (OLD, OLD)


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is synced, renamed and unlinked, in order."""
    seen: list[tuple[str, str]] = []
    fsync, unlink, rename = os.fsync, os.unlink, moves.rename

    def synced(handle: int) -> None:
        seen.append(("sync", os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    def gone(path: bytes) -> None:
        seen.append(("unlink", os.fsdecode(path)))
        unlink(path)

    def renamed(old: bytes, new: bytes) -> None:
        seen.append(("rename", os.fsdecode(new)))
        rename(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "unlink", gone)
    monkeypatch.setattr(moves, "rename", renamed)
    return seen


def test_a_move_is_on_disk_before_the_source_goes_and_after(
    source: Path, target: Path, events: list[tuple[str, str]]
) -> None:
    move(source, target)
    assert events == [("sync", str(target.parent)), ("unlink", str(source)), ("sync", str(source.parent))]


def test_a_copy_is_on_disk_before_it_has_its_name(source: Path, target: Path, events: list[tuple[str, str]]) -> None:
    target.parent.mkdir()
    moves.copy(os.fsencode(source), os.fsencode(target), SHA256)
    kept = [(what, Path(path).suffix or path) for what, path in events if what != "unlink"]
    assert kept == [("sync", ".tmp"), ("rename", ".jpg"), ("sync", str(target.parent))]


def test_a_copy_has_the_times_and_the_mode(source: Path, target: Path) -> None:
    target.parent.mkdir()
    source.chmod(0o640)
    os.utime(source, ns=(10**18, 10**18))
    moves.copy(os.fsencode(source), os.fsencode(target), SHA256)
    assert (target.stat().st_mtime_ns, target.stat().st_mode & 0o777) == (10**18, 0o640)


def test_a_copy_with_other_bytes_does_not_appear(source: Path, target: Path) -> None:
    target.parent.mkdir()
    with pytest.raises(PictureError, match="other bytes"):
        moves.copy(os.fsencode(source), os.fsencode(target), "0" * 64)
    assert list(target.parent.iterdir()) == []


def test_a_link_to_nowhere_is_something(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moves, "_rename_at_once", lambda *_: errno.ENOSYS)
    target.parent.mkdir()
    target.symlink_to("nowhere")
    with pytest.raises(FileExistsError):
        moves.rename(os.fsencode(source), os.fsencode(target))
    assert target.is_symlink()


@pytest.mark.parametrize(("one", "other"), [("\u00fc.jpg", "u\u0308.jpg"), ("A.JPG", "a.jpg")])
def test_spellings_that_a_disk_may_take_for_one(tmp_path: Path, one: str, other: str) -> None:
    assert moves.entry_key(os.fsencode(tmp_path / one)) == moves.entry_key(os.fsencode(tmp_path / other))
