"""What a scan finds, in which order, and why a file is not read."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import sys
import tempfile
import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.pictures import scan
from indexer.pictures.scan import UNSETTLED, Content, Refused, find, identify, read, settled, stamp_of, walk
from indexer.records import FoundFile, Stamp, Unlisted

from .samples import FORMATS, encode, every_format, kind_of, quarters, source

ODD_NAMES = [
    b"new\nline.png",
    b"-rf.png",
    b"--help.png",
    b'it\'s "quoted".png',
    b"$(touch gone) `x`; & |.png",
    b"not utf-8 \xff\xfe.png",
    unicodedata.normalize("NFC", "caf\u00e9.png").encode(),
    unicodedata.normalize("NFD", "caf\u00e9.png").encode(),
    b" .png ",
    b"\\back\\slash.png",
    b"%s%n.png",
]
PNG = encode(quarters(), "PNG")
HOUR = 3600 * 10**9


def paths(root: Path, below: bytes = b"") -> list[bytes]:
    return [file.path for file in walk(os.fsencode(root), below)]


def write(root: Path, *names: str | bytes, data: bytes = b"x") -> None:
    for name in names:
        full = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "wb") as file:
            file.write(data)


def listener(path: Path) -> socket.socket:
    """A socket in the file system; its name is short because the kernel allows 108 bytes."""
    server = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        server.bind(path.name)
    finally:
        os.chdir(here)
    return server


# -- walk --------------------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "a.b", "a-b", "a b", "b", "A", "a0", "a\n", "\u00e9", "e\u0301", "a.jpg", "\udcff", ".h"])
TREES = st.lists(st.lists(NAMES, min_size=1, max_size=4).map("/".join), max_size=25)


@given(TREES, st.sampled_from([1, 2, 1000]))
@settings(max_examples=120, deadline=None)
def test_walk_yields_every_file_in_the_order_of_full_paths(tree: list[str], longest_run: int) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("indexer.pictures.scan._LONGEST_RUN", longest_run)
        for name in tree:
            with contextlib.suppress(FileExistsError, NotADirectoryError, IsADirectoryError):
                write(Path(folder), name)
        full = os.fsencode(folder)
        there = [os.path.join(where, name) for where, _, names in os.walk(full) for name in names]
        relative = [os.path.relpath(path, full) for path in there]
        assert paths(Path(folder)) == sorted(path for path in relative if b"/." not in b"/" + path)


def test_walk_sorts_a_folder_where_its_files_sort(tmp_path: Path) -> None:
    write(tmp_path, "a", "a.b", "a-b", "b/a", "b.c", "b-c")
    assert paths(tmp_path) == [b"a", b"a-b", b"a.b", b"b-c", b"b.c", b"b/a"]


def test_walk_below_a_folder_yields_paths_from_the_root(tmp_path: Path) -> None:
    write(tmp_path, "a/b/c.png", "a/d.png", "e.png")
    assert paths(tmp_path, b"a") == [b"a/b/c.png", b"a/d.png"]


def test_walk_tells_size_and_times(tmp_path: Path) -> None:
    write(tmp_path, "a.png", data=b"12345")
    status = (tmp_path / "a.png").stat()
    assert list(walk(os.fsencode(tmp_path))) == [
        FoundFile(b"a.png", 5, status.st_mtime_ns, status.st_ctime_ns),
    ]


def test_walk_passes_over_hidden_files_and_what_systems_leave_behind(tmp_path: Path) -> None:
    write(tmp_path, "._a.png", ".hidden.png", ".cache/a.png", "Thumbs.db", "desktop.ini", "@eaDir/a.png", "a.png")
    write(tmp_path, "$RECYCLE.BIN/a.png", "sub/._b.png", "sub/Thumbs.db", "sub/b.png")
    assert paths(tmp_path) == [b"a.png", b"sub/b.png"]


@pytest.mark.skipif(sys.platform == "darwin", reason="this file system takes only UTF-8, and normalises it")
def test_odd_names_are_found_and_read(tmp_path: Path) -> None:
    write(tmp_path, *ODD_NAMES, data=PNG)
    assert paths(tmp_path) == sorted(ODD_NAMES)
    for name in ODD_NAMES:
        content = read(source(tmp_path, name))
        assert isinstance(content, Content)
        assert content.data == PNG


def test_symbolic_links_are_not_followed(tmp_path: Path) -> None:
    write(tmp_path, "outside/a.png", "root/b.png")
    (tmp_path / "root/folder").symlink_to(tmp_path / "outside")
    (tmp_path / "root/file.png").symlink_to(tmp_path / "outside/a.png")
    (tmp_path / "root/loop").symlink_to(tmp_path / "root")
    (tmp_path / "root/nowhere.png").symlink_to(tmp_path / "nowhere")
    assert paths(tmp_path / "root") == [b"b.png"]


def test_a_root_that_is_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    write(tmp_path, "real/a.png")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert paths(tmp_path / "link") == [b"a.png"]
    assert [file.path for file in find(os.fsencode(tmp_path / "link"))] == [b"a.png"]


def test_pipes_and_sockets_are_not_found(tmp_path: Path) -> None:
    write(tmp_path, "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    with listener(tmp_path / "socket.png"):
        assert paths(tmp_path) == [b"a.png"]


def test_a_folder_without_permission_comes_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a.png", "b/secret.png", "b-c.png", "c.png")
    refuse(monkeypatch, "listdir", os.fsencode(tmp_path / "b"), PermissionError(13, "Permission denied"))
    found = list(walk(os.fsencode(tmp_path)))
    assert [item.path for item in found] == [b"a.png", b"b-c.png", b"b/", b"c.png"]
    assert found[2] == Unlisted(b"b/", "no permission to list it")


def test_a_folder_that_a_disk_cannot_list_comes_with_the_system_s_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "b/lost.png")
    refuse(monkeypatch, "listdir", os.fsencode(tmp_path / "b"), OSError(5, "Input/output error"))
    assert list(walk(os.fsencode(tmp_path))) == [Unlisted(b"b/", "the system could not list it (Input/output error)")]


def test_a_root_that_cannot_be_listed(tmp_path: Path) -> None:
    assert list(walk(os.fsencode(tmp_path / "gone"))) == [Unlisted(b"", "vanished before it was looked at")]


def test_a_folder_that_vanishes_is_unlisted_and_not_empty(tmp_path: Path) -> None:
    write(tmp_path, "a.png", "b/gone.png", "c.png")
    found = walk(os.fsencode(tmp_path))
    first = next(found)
    (tmp_path / "b/gone.png").unlink()
    (tmp_path / "b").rmdir()
    assert [first.path, *(item.path for item in found)] == [b"a.png", b"b/", b"c.png"]


def test_a_file_that_vanishes_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexer.pictures.scan._LONGEST_RUN", 1)  # the second is looked at after the first has come
    write(tmp_path, "a.png", "b.png", "c.png")
    found = walk(os.fsencode(tmp_path))
    first = next(found)
    (tmp_path / "b.png").unlink()
    assert [first.path, *(item.path for item in found)] == [b"a.png", b"c.png"]


@pytest.fixture
def closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that may be listed but not entered: its names are there, their sizes and times are not."""
    write(tmp_path, "a.png", "b/secret.png", "b-c.png", "c.png")
    denied = PermissionError(13, "Permission denied")
    for name in ("a.png", "b", "b-c.png", "c.png"):
        refuse(monkeypatch, "lstat", os.fsencode(tmp_path / name), denied)
    refuse(monkeypatch, "listdir", os.fsencode(tmp_path / "b"), denied)
    return tmp_path


def test_what_cannot_be_looked_at_is_not_taken_for_gone(closed: Path) -> None:
    reason = "no permission to read it"
    assert list(walk(os.fsencode(closed))) == [
        Unlisted(b"a.png", reason),
        Unlisted(b"b-c.png", reason),
        Unlisted(b"b/", "no permission to list it"),
        Unlisted(b"c.png", reason),
    ]


def test_nor_where_the_listing_does_not_tell_files_from_folders(closed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, "scandir", os.fsencode(closed), PermissionError(13, "Permission denied"))
    assert list(walk(os.fsencode(closed))) == [Unlisted(b"", "no permission to list it")]


def test_a_very_deep_tree_is_walked(tmp_path: Path) -> None:
    depth = sys.getrecursionlimit() + 100
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        for _ in range(depth):
            os.mkdir("d")
            os.chdir("d")
        write(Path("."), "a.png")
        assert paths(tmp_path) == [b"d/" * depth + b"a.png"]
    finally:  # by hand: shutil.rmtree, which clears tmp_path, is not made for so deep a tree
        os.unlink("a.png")
        for _ in range(depth):
            os.chdir("..")
            os.rmdir("d")
        os.chdir(here)


# -- find --------------------------------------------------------------------------------------------------------------


def test_find_takes_a_single_file(tmp_path: Path) -> None:
    write(tmp_path, "sub/a.png", "sub/b.png")
    stamp = source(tmp_path, "sub/a.png").stamp
    assert list(find(os.fsencode(tmp_path), b"sub/a.png")) == [FoundFile(b"sub/a.png", *stamp)]


def test_find_takes_a_folder_and_the_root(tmp_path: Path) -> None:
    write(tmp_path, "sub/a.png", "b.png")
    assert [file.path for file in find(os.fsencode(tmp_path), b"sub")] == [b"sub/a.png"]
    assert [file.path for file in find(os.fsencode(tmp_path))] == [b"b.png", b"sub/a.png"]


def test_find_says_what_is_not_there(tmp_path: Path) -> None:
    assert list(find(os.fsencode(tmp_path), b"a.png")) == [Unlisted(b"a.png", "vanished before it was looked at")]


def test_find_takes_neither_links_nor_pipes(tmp_path: Path) -> None:
    write(tmp_path, "real/a.png")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "link.png").symlink_to(tmp_path / "real/a.png")
    os.mkfifo(tmp_path / "pipe.png")
    link, other = "a symbolic link, and those are not followed", "neither a file nor a folder"
    for name, reason in ((b"link", link), (b"link.png", link), (b"pipe.png", other)):
        assert list(find(os.fsencode(tmp_path), name)) == [Unlisted(name, reason)]


# -- read --------------------------------------------------------------------------------------------------------------


def test_read_gives_the_bytes_their_hash_and_their_kind(tmp_path: Path) -> None:
    write(tmp_path, "a.png", data=PNG)
    there = source(tmp_path, "a.png")
    assert read(there) == Content(there, hashlib.sha256(PNG).digest(), PNG, "PNG")


@pytest.mark.parametrize(("pillow_format", "data"), every_format().items(), ids=FORMATS)
def test_formats_are_told_by_content_and_never_by_ending(tmp_path: Path, pillow_format: str, data: bytes) -> None:
    for name in ("right", "wrong.txt", "wrong.jpg", "wrong.eps"):
        write(tmp_path, name, data=data)
        content = read(source(tmp_path, name))
        assert isinstance(content, Content), name
        assert content.kind == kind_of(pillow_format)


def test_a_file_that_is_no_picture_by_content_nor_by_ending_is_ignored(tmp_path: Path) -> None:
    write(tmp_path, "notes.txt", "Makefile", "archive.zip", "png", data=b"Notes on pictures.\n")
    write(tmp_path, "empty", "empty.txt", data=b"")
    for name in ("notes.txt", "Makefile", "archive.zip", "png", "empty", "empty.txt"):
        refused = read(source(tmp_path, name))
        assert isinstance(refused, Refused), name
        assert refused.reason is None, name


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.jpg", b"", "empty file"),
        ("a.JPG", b"no picture at all", "not a picture, whatever its name says"),
        ("a.jpg", b"<!DOCTYPE html>", "not a picture, whatever its name says"),
        ("a.heic", b"\0" * 40, "not a picture, whatever its name says"),
        ("a.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n", "EPS is not a format that indexer opens"),
        ("a", b"%!PS-Adobe-3.0 EPSF-3.0\n", "EPS is not a format that indexer opens"),
        ("a.psd", b"8BPS\0\1", "PSD is not a format that indexer opens"),
        ("a.cr2", b"II*\0\x10\0\0\0CR\2\0", "camera raw is not a format that indexer opens"),
        ("a.jp2", b"\0\0\0\x0cjP  \r\n", "JPEG 2000 is not a format that indexer opens"),
        ("a.pfm", b"PF\n2 2\n-1.0\n", "PFM in colour is not a format that indexer opens"),
        ("a.ico", b"\0\0\1\0\1\0", "ICO is not a format that indexer opens"),
        ("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG is not a format that indexer opens"),
        ("a.tga", b"\0\0\2\0" + b"\0" * 14, "TGA is not a format that indexer opens"),
        ("a.raf", b"FUJIFILMCCD-RAW 0201", "RAF is not a format that indexer opens"),
    ],
)
def test_a_file_that_is_not_opened_says_why(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    write(tmp_path, name, data=data)
    there = source(tmp_path, name)
    assert read(there) == Refused(there, reason)


@pytest.mark.parametrize(
    "head",
    [
        b"BMW sells cars\n",
        b"Convert WEBP to PNG\n",
        b"\0\0\1\0 no icon without an ending",
        b"P1 is urgent, P2 is not\n",
        b"P7 332\n",
        b"GIF88a",
        b"",
    ],
)
def test_text_that_begins_like_a_picture_is_ignored(head: bytes) -> None:
    assert identify(head, b"notes.txt") == (None, None)


@pytest.mark.parametrize(
    ("brand", "kind"),
    [
        *((brand, "AVIF") for brand in (b"avif", b"avis")),
        *((brand, "HEIC") for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")),
        (b"isom", None),
        (b"mp42", None),
    ],
)
def test_of_what_lies_in_boxes_only_pictures_are_opened(brand: bytes, kind: str | None) -> None:
    """The same container holds films; their brands are those of ISO/IEC 14496-12 and 23008-12."""
    assert identify(b"\0\0\0\x1cftyp" + brand + bytes(20), b"film.mp4") == (kind, None)


@pytest.mark.parametrize("digit", b"123456")
@pytest.mark.parametrize("rest", [b"\n32 16\n", b" 32 16 255\n", b"\n# a comment\n32 16\n", b"#comment\n", b"\r\n32"])
def test_netpbm_is_told_by_its_digit(digit: int, rest: bytes) -> None:
    assert identify(b"P%c" % digit + rest) == ("PPM", None)


def test_a_file_over_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a.png", data=PNG + bytes(3 << 20))
    monkeypatch.setattr(scan, "MAX_FILE_BYTES", 2 << 20)
    refused = read(source(tmp_path, "a.png"))
    assert isinstance(refused, Refused)
    assert refused.reason == "larger than 2 MB (3 MB)"


def test_a_file_without_permission_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a.png", data=PNG)
    there = source(tmp_path, "a.png")
    refuse(monkeypatch, "open", there.full, PermissionError(13, "Permission denied"))
    assert read(there) == Refused(there, "no permission to read it")


def test_a_file_that_vanished_is_looked_for_again(tmp_path: Path) -> None:
    write(tmp_path, "a.png")
    there = source(tmp_path, "a.png")
    (tmp_path / "a.png").unlink()
    assert read(there) == Refused(there._replace(stamp=UNSETTLED), "vanished before it was looked at")


def test_a_disk_that_fails_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file's times do not change when its disk is back: with its stamp stored, it would be skipped for ever."""
    write(tmp_path, "a.png", data=PNG)
    there = source(tmp_path, "a.png")
    refuse(monkeypatch, "open", there.full, OSError(5, "Input/output error"))
    expected = Refused(there._replace(stamp=UNSETTLED), "the system could not read it (Input/output error)")
    assert read(there) == expected


def test_a_link_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.png", "secret.png", data=PNG)
    there = source(tmp_path, "a.png")
    (tmp_path / "a.png").unlink()
    (tmp_path / "a.png").symlink_to(tmp_path / "secret.png")
    reason = "the system could not read it (Too many levels of symbolic links)"  # ELOOP: as O_NOFOLLOW puts it
    assert read(there) == Refused(there._replace(stamp=UNSETTLED), reason)


@pytest.mark.timeout(10)
def test_what_has_taken_the_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    write(tmp_path, "pipe.png", "open-pipe.png", "full-pipe.png", "folder.png", "socket.png", data=PNG)
    there = {name: source(tmp_path, name) for name in os.listdir(tmp_path)}
    for name in there:
        (tmp_path / name).unlink()
    for name in ("pipe.png", "open-pipe.png", "full-pipe.png"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "folder.png").mkdir()
    with listener(tmp_path / "socket.png"):
        silent = os.open(tmp_path / "open-pipe.png", os.O_RDWR)
        talking = os.open(tmp_path / "full-pipe.png", os.O_RDWR)
        os.write(talking, PNG)
        before = len(os.listdir("/dev/fd"))
        outcomes = {name: read(there[name]) for name in there}
        assert len(os.listdir("/dev/fd")) == before
        os.close(silent)
        os.close(talking)
    for name, outcome in outcomes.items():
        assert isinstance(outcome, Refused), name
        assert outcome.reason, name
        assert outcome.source.stamp == UNSETTLED, name


def test_a_file_changed_since_the_scan_is_read_again_next_time(tmp_path: Path) -> None:
    write(tmp_path, "a.png", data=PNG)
    there = source(tmp_path, "a.png")
    write(tmp_path, "a.png", data=PNG + b"more")
    assert read(there) == Refused(there._replace(stamp=UNSETTLED), "changed while it was read")


@pytest.mark.parametrize("new", [PNG + b"longer", PNG[:-10], PNG[:-1] + b"x"])
def test_a_file_that_changes_under_the_reader_is_read_again_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new: bytes
) -> None:
    write(tmp_path, "a.png", data=PNG)
    os.utime(tmp_path / "a.png", ns=(0, time.time_ns() - HOUR))
    there = source(tmp_path, "a.png")

    def identify_late(head: bytes, path: bytes) -> tuple[str | None, str | None]:
        write(tmp_path, "a.png", data=new)
        return identify(head, path)

    monkeypatch.setattr(scan, "identify", identify_late)
    assert read(there) == Refused(there._replace(stamp=UNSETTLED), "changed while it was read")


# -- stamps ------------------------------------------------------------------------------------------------------------


def test_a_stamp_settles_two_seconds_after_the_last_change() -> None:
    now = time.time_ns()
    old = Stamp(1, now - HOUR, now - HOUR)
    assert settled(old) == old
    for fresh in (Stamp(1, now, now - HOUR), Stamp(1, now - HOUR, now), Stamp(1, now - 10**9, now - 10**9)):
        assert settled(fresh) == fresh._replace(size=-1)


def test_a_stamp_from_the_future_settles() -> None:
    """A camera with a wrong clock must not have its pictures read in every build."""
    now = time.time_ns()
    future = Stamp(1, now + HOUR, now - HOUR)
    assert settled(future) == future


@pytest.mark.parametrize("moment", [-(10**20), -(2**63) - 1, 2**63, 10**20])
def test_a_time_that_64_bits_do_not_hold_is_the_nearest_that_they_do(moment: int) -> None:
    """A file of the year 2300, or of 1600: some file systems know such times, and SQLite's numbers end before."""
    nearest = 2**63 - 1 if moment > 0 else 1 - 2**63
    for name, other in (("st_mtime_ns", "st_ctime_ns"), ("st_ctime_ns", "st_mtime_ns")):
        stamp = stamp_of(os.stat_result([7] * 10, {name: moment, other: 5}))
        assert sorted(stamp) == sorted((7, nearest, 5))
        assert settled(stamp) == stamp


def test_no_file_has_the_unsettled_stamp(tmp_path: Path) -> None:
    write(tmp_path, "a.png", data=b"")
    os.utime(tmp_path / "a.png", ns=(0, 0))
    assert stamp_of((tmp_path / "a.png").stat()) != UNSETTLED


def refuse(monkeypatch: pytest.MonkeyPatch, function: str, path: bytes, error: OSError) -> None:
    """Let one function of os fail for one path, as it does for users who are not root."""
    real = getattr(os, function)

    def refusing(asked: bytes, *args: int) -> object:
        if asked == path:
            raise error
        return real(asked, *args)

    monkeypatch.setattr(os, function, refusing)
