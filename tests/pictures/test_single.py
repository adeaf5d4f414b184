"""Pictures that a user names one by one, and thumbnails."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from indexer.errors import IndexerError, PictureError
from indexer.pictures import single, worker
from indexer.pictures.decoders import Decoders
from indexer.pictures.prepare import Limits, Prepared
from indexer.pictures.scan import Content, read_path
from indexer.pictures.single import prepare_each, thumbnails
from indexer.records import Preprocess

from .samples import BLUE, GREEN, RED, TOLERANCE, WHITE, encode, quarters

SPEC = Preprocess((16, 16), "bilinear")
PNG = encode(quarters(), "PNG")

pytestmark = pytest.mark.timeout(60)


def write(path: Path, data: bytes = PNG) -> bytes:
    path.write_bytes(data)
    return os.fsencode(path)


def reason_of(path: bytes) -> str:
    with pytest.raises(PictureError) as caught:
        read_path(path)
    return caught.value.reason


def opened(data: bytes | None) -> Image.Image:
    assert data is not None
    return Image.open(io.BytesIO(data))


# -- read_path ---------------------------------------------------------------------------------------------------------


def test_a_named_file_is_read(tmp_path: Path) -> None:
    content = read_path(write(tmp_path / "a.png"))
    assert (content.data, content.kind, content.sha256) == (PNG, "PNG", hashlib.sha256(PNG).digest())


@pytest.mark.parametrize("name", [b".hidden.png", b"-rf.png", b"new\nline.png", b"\xff.png", b"no ending"])
def test_a_named_file_may_have_any_name(tmp_path: Path, name: bytes) -> None:
    full = os.path.join(os.fsencode(tmp_path), name)
    with open(full, "wb") as file:
        file.write(PNG)
    assert read_path(full).data == PNG


def test_a_named_file_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    assert read_path(b"a.png").data == PNG


def test_a_link_that_is_named_is_followed(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    assert read_path(os.fsencode(tmp_path / "link.png")).data == PNG


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    assert reason_of(os.fsencode(tmp_path / "gone.png")) == "there is no such file"
    assert reason_of(os.fsencode(tmp_path)) == "a folder, not a picture"
    assert reason_of(write(tmp_path / "empty.png", b"")) == "empty file"
    assert reason_of(write(tmp_path / "a.txt", b"text")) == "not a picture"
    assert reason_of(write(tmp_path / "a.jpg", b"text")) == "not a picture, whatever its name says"
    assert reason_of(write(tmp_path / "a.jpg", b"%!PS-Adobe-3.0")) == "EPS is not a format that indexer opens"
    assert reason_of(os.fsencode(tmp_path / "a.txt" / "b.png")) == "the system could not read it (Not a directory)"
    assert reason_of(os.fsencode(tmp_path / ("x" * 300))) == "the system could not read it (File name too long)"
    assert reason_of(b"a\0b.png") == "there is no such file"


def test_a_link_to_nowhere_or_to_itself_says_why(tmp_path: Path) -> None:
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    assert reason_of(os.fsencode(tmp_path / "nowhere.png")) == "there is no such file"
    assert "symbolic links" in reason_of(os.fsencode(tmp_path / "loop.png"))


def test_a_file_without_permission_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.png")

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        assert reason_of(path) == "no permission to read it"
    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", refuse)
        assert reason_of(path) == "no permission to read it"


@pytest.mark.timeout(10)
def test_a_pipe_or_a_device_is_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even opened: that would take the bytes from whom they are meant for."""
    os.mkfifo(tmp_path / "pipe.png")
    monkeypatch.setattr(os, "open", None)
    assert reason_of(os.fsencode(tmp_path / "pipe.png")) == "neither a file nor a folder"
    assert reason_of(b"/dev/zero") == "neither a file nor a folder"


# -- prepare_each ------------------------------------------------------------------------------------------------------


def test_nothing_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "BOOT", "raise SystemExit(1)")
    assert list(prepare_each([], SPEC, Limits())) == []


def test_limits_count(tmp_path: Path) -> None:
    (refused,) = prepare_each([write(tmp_path / "a.png")], SPEC, Limits(pixels=100))
    assert isinstance(refused, PictureError)
    assert "--max-pixels" in refused.reason


def test_a_decoder_that_cannot_be_started_is_no_fault_of_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "BOOT", "raise SystemExit(1)")
    with pytest.raises(IndexerError, match="could not be started"):
        list(prepare_each([write(tmp_path / "a.png")], SPEC, Limits()))


def test_many_files_come_in_order_from_one_set_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    class Counted(Decoders):
        def __init__(self, preprocess: Preprocess, count: int, limits: Limits, exact: bool) -> None:
            made.append(count)
            super().__init__(preprocess, count, limits, exact)

    monkeypatch.setattr(single, "Decoders", Counted)
    data = [PNG, encode(quarters().rotate(180), "PNG"), PNG[:50]] * 15
    paths = [write(tmp_path / f"{i}.png", bytes_) for i, bytes_ in enumerate(data)]
    paths.insert(20, b"there is none")
    prepared = list(prepare_each(paths, SPEC, Limits()))
    missing = prepared.pop(20)
    assert isinstance(missing, PictureError) and missing.reason == "there is no such file"
    first, turned = prepared[:2]
    assert isinstance(first, Prepared) and isinstance(turned, Prepared)
    assert not np.array_equal(first.pixels, turned.pixels)
    for i, item in enumerate(prepared):
        if i % 3 == 2:
            assert isinstance(item, PictureError)
            assert item.reason == "truncated or damaged: the picture is not complete"
        else:
            assert isinstance(item, Prepared)
            assert np.array_equal(item.pixels, (first, turned)[i % 3].pixels)
    assert len(made) == 1


def test_files_are_not_read_long_before_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []

    def counted(path: bytes) -> Content:
        read.append(path)
        return read_path(path)

    monkeypatch.setattr(single, "read_path", counted)
    path = write(tmp_path / "a.png")
    stream = prepare_each([path] * 200, SPEC, Limits())
    next(stream)
    assert len(read) <= 20
    stream.close()


# -- thumbnails --------------------------------------------------------------------------------------------------------


def test_thumbnails_fit_a_square_and_keep_their_shape(tmp_path: Path) -> None:
    sizes = {"wide": (64, 32), "high": (32, 64), "square": (64, 64), "small": (8, 4), "odd": (37, 23), "long": (900, 1)}
    for name, size in sizes.items():
        encode(quarters(*size), "PNG")
        write(tmp_path / f"{name}.png", encode(quarters(*size), "PNG"))
    made = [opened(data) for data in thumbnails([str(tmp_path / f"{name}.png") for name in sizes], 32)]
    assert [image.format for image in made] == ["JPEG"] * len(sizes)
    assert [image.size for image in made] == [(32, 16), (16, 32), (32, 32), (32, 16), (32, 20), (32, 1)]


def test_a_thumbnail_shows_its_picture_upright_and_without_a_border(tmp_path: Path) -> None:
    block = Image.Exif()
    block[0x0112] = 6
    write(tmp_path / "a.png", encode(quarters(400, 200), "PNG", exif=block))
    (data,) = thumbnails([str(tmp_path / "a.png")], 100)
    image = opened(data).convert("RGB")
    assert image.size == (50, 100)
    corners = [image.getpixel(at) for at in ((2, 2), (47, 2), (2, 97), (47, 97))]
    assert np.abs(np.array(corners) - [BLUE, RED, WHITE, GREEN]).max() <= 2 * TOLERANCE


@pytest.mark.parametrize("size", [(80, 40), (40, 80)])
def test_a_thumbnail_shows_the_whole_picture(tmp_path: Path, size: tuple[int, int]) -> None:
    framed = Image.new("RGB", size, RED)
    framed.paste(WHITE, (8, 8, size[0] - 8, size[1] - 8))
    write(tmp_path / "a.png", encode(framed, "PNG"))
    (data,) = thumbnails([str(tmp_path / "a.png")], 40)
    pixels = np.asarray(opened(data)).astype(int)
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert np.abs(edge - RED).max() <= 5 * TOLERANCE
    assert np.abs(pixels[pixels.shape[0] // 2, pixels.shape[1] // 2] - WHITE).max() <= TOLERANCE


def test_a_dark_picture_has_no_light_border(tmp_path: Path) -> None:
    for width, height in ((37, 23), (23, 37), (100, 33), (33, 100), (101, 7), (64, 63)):
        write(tmp_path / "a.png", encode(Image.new("RGB", (width, height)), "PNG"))
        (data,) = thumbnails([str(tmp_path / "a.png")], 32)
        assert np.asarray(opened(data)).max() <= TOLERANCE, (width, height)


def test_a_thumbnail_that_cannot_be_had_is_none(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    write(tmp_path / "broken.png", PNG[:50])
    write(tmp_path / "c.txt", b"text")
    names = ["gone.png", "a.png", "broken.png", "c.txt", "", "a.png"]
    made = thumbnails([str(tmp_path / name) for name in names], 32)
    assert [data is not None for data in made] == [False, True, False, False, False, True]
    assert made[1] == made[5]
    assert thumbnails([], 32) == []


def test_a_thumbnail_of_a_name_that_is_no_text(tmp_path: Path) -> None:
    full = os.path.join(os.fsencode(tmp_path), b"\xff.png")
    with open(full, "wb") as file:
        file.write(PNG)
    assert thumbnails([os.fsdecode(full)], 32)[0] is not None
