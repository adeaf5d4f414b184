"""From bytes to an upright RGB picture: every format, every mode, and whatever a hostile file does."""

from __future__ import annotations

import io
import random
import struct
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image, ImageOps, TiffImagePlugin

from indexer.errors import PictureError
from indexer.pictures.decode import NO_HEIF, abilities, decode
from indexer.preprocess import fit
from indexer.records import Preprocess

from .samples import (
    BLACK,
    BLUE,
    FORMATS,
    GREEN,
    HAS_HEIF,
    RED,
    TOLERANCE,
    WHITE,
    difference,
    encode,
    every_format,
    kind_of,
    quarters,
)

Colour = tuple[int, int, int]

EVERY_FORMAT = every_format()
ORIENTATION, MAKE, MODEL, EXIF_IFD, TAKEN = 0x0112, 0x010F, 0x0110, 0x8769, 0x9003
# what a viewer does for each of EXIF's eight orientations
TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def pixels(data: bytes) -> list[Colour]:
    """The first row of a decoded picture."""
    return [(int(r), int(g), int(b)) for r, g, b in np.asarray(decode(data).picture)[0]]


def greys(data: bytes) -> list[int]:
    row = pixels(data)
    assert all(r == g == b for r, g, b in row)
    return [r for r, _, _ in row]


def grey_row(*values: float, dtype: str = "u1") -> Image.Image:
    return Image.fromarray(np.array([values], dtype))


def palette_row() -> Image.Image:
    """Red, green, blue and black, by their numbers in a palette."""
    row = Image.new("P", (4, 1))
    row.putpalette([*RED, *GREEN, *BLUE, *BLACK])
    for i in range(4):
        row.putpixel((i, 0), i)
    return row


def exif(orientation: int = 1, **texts: str) -> Image.Exif:
    block = Image.Exif()
    block[ORIENTATION] = orientation
    for name, tag in (("make", MAKE), ("model", MODEL)):
        if name in texts:
            block[tag] = texts[name]
    if "taken" in texts:
        block.get_ifd(EXIF_IFD)[TAKEN] = texts["taken"]
    return block


def reason_of(data: bytes, kind: str | None = None, **limits: int) -> str:
    with pytest.raises(PictureError) as caught:
        decode(data, kind, **limits)
    return caught.value.reason


# -- formats -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pillow_format", "data"), EVERY_FORMAT.items(), ids=FORMATS)
@pytest.mark.parametrize("told", [True, False])
def test_every_format_is_decoded(pillow_format: str, data: bytes, told: bool) -> None:
    decoded = decode(data, kind_of(pillow_format) if told else None)
    assert difference(decoded.picture, quarters()) <= TOLERANCE
    assert (decoded.info.width, decoded.info.height, decoded.info.format) == (32, 16, pillow_format)
    assert decoded.info.taken is decoded.info.camera is None


@pytest.mark.parametrize("pillow_format", ["GIF", "WEBP", "PNG", "TIFF", "MPO", "AVIF"])
def test_the_first_frame_counts(pillow_format: str) -> None:
    later = [Image.new("RGB", (32, 16), colour) for colour in (BLACK, GREEN)]
    data = encode(quarters(), pillow_format, save_all=True, append_images=later)
    with Image.open(io.BytesIO(data)) as image:
        assert getattr(image, "n_frames", 1) == 3
    assert difference(decode(data).picture, quarters()) <= TOLERANCE


@pytest.mark.skipif(not HAS_HEIF, reason="needs the extra heif")
def test_heic_without_the_extra_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(quarters(), "HEIF")
    monkeypatch.delitem(Image.OPEN, "HEIF")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert reason_of(data, "HEIC") == NO_HEIF == "HEIC needs an extra: pip install pillow-heif"


@pytest.mark.parametrize("data", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"8BPS\0\1" + bytes(40), b"x"])
def test_a_format_that_is_not_allowed_is_not_opened(data: bytes) -> None:
    assert reason_of(data) == "damaged: its header cannot be read"


def test_no_other_plugin_of_pillow_is_ever_imported() -> None:
    """Formats with interpreters behind them cannot be reached, not even by way of a file that nobody recognises."""
    code = (
        "import sys\n"
        "from indexer.errors import PictureError\n"
        "from indexer.pictures.decode import decode\n"
        "for data in (b'%!PS-Adobe-3.0 EPSF-3.0', b'junk', b'\\xff\\xd8\\xffjunk'):\n"
        "    try: decode(data)\n"
        "    except PictureError: pass\n"
        "print(*sorted(name for name in sys.modules if name.startswith('PIL.') and name.endswith('ImagePlugin')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [
        f"PIL.{name}ImagePlugin" for name in ("Avif", "Bmp", "Gif", "Jpeg", "Mpo", "Png", "Ppm", "Tiff", "WebP")
    ]


# -- orientation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("pillow_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "MPO"])
def test_pictures_are_turned_once_as_their_exif_says(pillow_format: str, orientation: int) -> None:
    turn = TURNS[orientation]
    upright = quarters() if turn is None else quarters().transpose(turn)
    decoded = decode(encode(quarters(), pillow_format, exif=exif(orientation)))
    assert difference(decoded.picture, upright) <= TOLERANCE
    assert (decoded.info.width, decoded.info.height) == upright.size


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate"])
def test_a_tiff_is_turned_once_however_it_is_packed(compression: str | None) -> None:
    data = encode(quarters(), "TIFF", exif=exif(6), compression=compression)
    assert difference(decode(data).picture, quarters().transpose(Image.Transpose.ROTATE_270)) == 0


@pytest.mark.skipif(not HAS_HEIF, reason="needs the extra heif")
@pytest.mark.parametrize("orientation", TURNS)
def test_heic_is_turned_once_as_its_container_says(orientation: int) -> None:
    picture = quarters(64, 32)
    turn = TURNS[orientation]
    upright = picture if turn is None else picture.transpose(turn)
    stored = picture.copy()
    stored.info["exif"] = exif(orientation).tobytes()  # the plugin writes the container's own property from this
    assert difference(decode(encode(stored, "HEIF"), "HEIC").picture, upright) <= TOLERANCE


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_turns_nothing(orientation: int) -> None:
    assert difference(decode(encode(quarters(), "PNG", exif=exif(orientation))).picture, quarters()) == 0


# -- modes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pillow_format", ["PNG", "TIFF", "WEBP", "AVIF"])
def test_alpha_is_put_over_white(pillow_format: str) -> None:
    picture = Image.new("RGBA", (48, 16), (*RED, 255))
    picture.paste((0, 0, 0, 0), (16, 0, 32, 16))
    picture.paste((*BLUE, 128), (32, 0, 48, 16))
    options = {"lossless": True} if pillow_format == "WEBP" else {}
    row = np.asarray(decode(encode(picture, pillow_format, **options)).picture)[8, [8, 24, 40]].astype(int)
    assert np.abs(row - [RED, WHITE, (127, 127, 255)]).max() <= TOLERANCE


@pytest.mark.parametrize("pillow_format", ["PNG", "TIFF"])
def test_grey_with_alpha_is_put_over_white(pillow_format: str) -> None:
    picture = Image.merge("LA", [grey_row(0, 100, 0, 0), grey_row(255, 255, 0, 128)])
    assert greys(encode(picture, pillow_format)) == [0, 100, 255, 127]


def test_palettes_are_looked_up() -> None:
    for pillow_format in ("PNG", "GIF", "BMP", "TIFF"):
        assert pixels(encode(palette_row(), pillow_format)) == [RED, GREEN, BLUE, BLACK], pillow_format


def test_the_transparent_colour_of_a_palette_is_white() -> None:
    for pillow_format in ("PNG", "GIF"):
        data = encode(palette_row(), pillow_format, transparency=1)
        assert pixels(data) == [RED, WHITE, BLUE, BLACK], pillow_format


def test_a_palette_with_alpha_is_put_over_white() -> None:
    data = encode(palette_row(), "PNG", transparency=b"\xff\x80\x00\xff")
    assert pixels(data) == [RED, (127, 255, 127), WHITE, BLACK]


def test_the_transparent_colour_of_other_pictures_is_white() -> None:
    assert greys(encode(grey_row(0, 100, 200), "PNG", transparency=100)) == [0, 255, 200]
    assert pixels(encode(palette_row().convert("RGB"), "PNG", transparency=GREEN)) == [RED, WHITE, BLUE, BLACK]


@pytest.mark.parametrize("pillow_format", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb(pillow_format: str) -> None:
    data = encode(quarters().convert("CMYK"), pillow_format)
    assert difference(decode(data).picture, quarters()) <= TOLERANCE


@pytest.mark.parametrize("mode", ["YCbCr", "LAB"])
def test_other_colour_spaces_become_rgb(mode: str) -> None:
    neutral = Image.new(mode, (4, 4), (128, 128, 128))
    assert all(100 <= grey <= 140 for grey in np.asarray(decode(encode(neutral, "TIFF")).picture).flat)


@pytest.mark.parametrize(
    ("pillow_format", "options"),
    [("PNG", {}), ("GIF", {}), ("BMP", {}), ("PPM", {}), ("TIFF", {}), ("TIFF", {"compression": "group4"})],
)
def test_one_bit_is_black_and_white(pillow_format: str, options: dict[str, object]) -> None:
    assert greys(encode(grey_row(0, 255, 255, 0).convert("1"), pillow_format, **options)) == [0, 255, 255, 0]


SIXTEEN_BIT = (0, 257, 100 * 257, 65535)


@pytest.mark.parametrize(
    "data",
    [
        encode(grey_row(*SIXTEEN_BIT, dtype="<u2"), "PNG"),
        encode(grey_row(*SIXTEEN_BIT, dtype="<u2"), "TIFF"),
        encode(grey_row(*SIXTEEN_BIT, dtype=">u2"), "TIFF"),
        b"P5 4 1 65535\n" + np.array(SIXTEEN_BIT, ">u2").tobytes(),
    ],
    ids=["PNG", "TIFF", "TIFF, big-endian", "PPM"],
)
def test_sixteen_bits_are_scaled_and_not_clipped(data: bytes) -> None:
    assert greys(data) == [0, 1, 100, 255]


def test_sixteen_bits_are_scaled_by_their_range_and_not_by_what_is_in_them() -> None:
    """A dark room must not look like a bright one."""
    assert greys(encode(grey_row(0, 128, 129, 255, dtype="<u2"), "PNG")) == [0, 0, 1, 1]


def test_colours_of_sixteen_bits_are_scaled() -> None:
    samples = np.array([[0, 257, 65535], [65535, 100 * 257, 0]], ">u2")
    data = png(b"\0" + samples.tobytes(), width=2, height=1, bits=16, colour_type=2)
    assert pixels(data) == [(0, 1, 255), (255, 100, 0)]


@pytest.mark.parametrize(
    ("samples", "wanted"),
    [
        ((0.0, 0.25, 0.5, 1.0), [0, 64, 128, 255]),
        ((0.0, 1.5, 100.0, 255.0), [0, 2, 100, 255]),
        ((0.0, 257.0, 25700.0, 65535.0), [0, 1, 100, 255]),
        ((0.0, 1e5, 5e4, 2e5), [0, 128, 64, 255]),  # beyond every usual range: stretched to its own
        ((-1.0, 0.0, 0.5, 1.0), [0, 128, 191, 255]),
        ((0.0, float("nan"), float("inf"), 1.0), [0, 0, 0, 255]),
        ((0.0, 0.0, 0.0, 0.0), [0, 0, 0, 0]),
        ((-3.0, -3.0, -3.0, -3.0), [0, 0, 0, 0]),
    ],
)
def test_floats_are_scaled_and_not_clipped(samples: tuple[float, ...], wanted: list[int]) -> None:
    assert greys(encode(grey_row(*samples, dtype="f4"), "TIFF")) == wanted


@pytest.mark.parametrize(
    ("samples", "wanted"),
    [
        ((0, 1, 100, 255), [0, 1, 100, 255]),
        ((0, 1, 1, 0), [0, 1, 1, 0]),  # whole numbers are never a range of 0 to 1
        ((0, 257, 25700, 65535), [0, 1, 100, 255]),
        ((-100, 0, 155, 100), [0, 100, 255, 200]),
    ],
)
def test_thirty_two_bits_are_scaled_and_not_clipped(samples: tuple[int, ...], wanted: list[int]) -> None:
    assert greys(encode(grey_row(*samples, dtype="i4"), "TIFF")) == wanted


# -- what a file says of itself ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pillow_format", ["JPEG", "PNG", "WEBP", "AVIF", "MPO", *(["HEIF"] if HAS_HEIF else [])])
def test_time_and_camera_are_told(pillow_format: str) -> None:
    block = exif(taken="2024:05:01 12:30:00", make="Canon", model="EOS 5D")
    info = decode(encode(quarters(), pillow_format, exif=block), kind_of(pillow_format)).info
    assert (info.taken, info.camera) == ("2024-05-01T12:30:00", "Canon EOS 5D")


def test_time_and_camera_of_a_tiff_are_told() -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[MAKE], tags[ORIENTATION], tags[EXIF_IFD] = "Epson", 6, {TAKEN: "1999:12:31 23:59:59"}
    info = decode(encode(quarters(), "TIFF", tiffinfo=tags, compression=None)).info
    assert (info.taken, info.camera, info.width, info.height) == ("1999-12-31T23:59:59", "Epson", 16, 32)


@pytest.mark.parametrize("taken", ["0000:00:00 00:00:00", "    :  :     :  :  ", "yesterday", "", "2024-05-01"])
def test_a_time_that_is_none_is_not_told(taken: str) -> None:
    assert decode(encode(quarters(), "JPEG", exif=exif(taken=taken))).info.taken is None


def test_the_make_is_not_said_twice() -> None:
    repeated = exif(make="Canon", model="Canon EOS 5D")
    assert decode(encode(quarters(), "JPEG", exif=repeated)).info.camera == "Canon EOS 5D"


def test_a_camera_s_name_is_one_short_printable_line() -> None:
    info = decode(encode(quarters(), "JPEG", exif=exif(make="Ev\x1b[31mil\nCo ", model="m" * 5000))).info
    assert info.camera == "Ev[31milCo " + "m" * 64
    assert decode(encode(quarters(), "JPEG", exif=exif(make=" ", model=""))).info.camera is None


BROKEN_EXIF = [
    b"Exif\0\0",
    b"Exif\0\0II*\0",
    b"Exif\0\0garbage and more garbage",
    b"Exif\0\0II*\0\xff\xff\xff\x7f",
    b"Exif\0\0" + exif(6, make="Canon").tobytes()[6:30],
    b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(range(256)),
    # orientation 6, but given as a text, and from beyond the end
    b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\2\0\4\0\0\0six\0\0\0\0\0",
    b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\xff\0\0\0\xff\xff\xff\x7f\0\0\0\0",
]


@pytest.mark.filterwarnings("ignore")  # Pillow grumbles; a worker's stderr goes nowhere
@pytest.mark.parametrize("pillow_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("block", BROKEN_EXIF, ids=range(len(BROKEN_EXIF)))
def test_a_broken_exif_block_does_not_break_the_picture(pillow_format: str, block: bytes) -> None:
    decoded = decode(encode(quarters(), pillow_format, exif=block))
    assert difference(decoded.picture, quarters()) <= TOLERANCE
    assert decoded.info.taken is None


@pytest.mark.filterwarnings("ignore")
def test_a_broken_exif_directory_does_not_break_a_tiff() -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[EXIF_IFD] = {TAKEN: "1999:12:31 23:59:59"}
    data = encode(quarters(), "TIFF", tiffinfo=tags, compression=None)
    entry = data.index(struct.pack("<HHI", EXIF_IFD, 4, 1)) + 8
    for offset in (5, len(data) - 3, 0x7FFFFFFF):
        broken = data[:entry] + struct.pack("<I", offset) + data[entry + 4 :]
        assert difference(decode(broken).picture, quarters()) == 0


@pytest.mark.parametrize("error", [struct.error("short"), SyntaxError("no TIFF"), RecursionError(), KeyError(7)])
def test_whatever_reading_exif_raises_does_not_break_the_picture(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    data = encode(quarters(), "PNG", exif=exif(6, make="Canon"))
    for where in ("get_ifd", "__getitem__", "load"):
        with monkeypatch.context() as patched:
            patched.setattr(Image.Exif, where, fail)
            decoded = decode(data)
        turned = where == "get_ifd"  # the orientation is told before that
        assert decoded.picture.size == ((16, 32) if turned else (32, 16))
        assert decoded.info.taken is decoded.info.camera is None


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pillow_format", FORMATS)
def test_a_truncated_file_is_refused(pillow_format: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = encode(noise, pillow_format)
    reason = reason_of(data[: len(data) * 2 // 3], kind_of(pillow_format))
    assert reason.startswith(("truncated or damaged: the picture is not complete", "damaged: "))


@pytest.mark.parametrize("pillow_format", ["JPEG", "PNG", "TIFF", "PPM", "GIF", "BMP"])
def test_the_usual_truncation_is_called_that(pillow_format: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = encode(noise, pillow_format, **({"compression": None} if pillow_format == "TIFF" else {}))
    assert reason_of(data[: len(data) * 2 // 3]) == "truncated or damaged: the picture is not complete"


@pytest.mark.parametrize(("pillow_format", "data"), EVERY_FORMAT.items(), ids=FORMATS)
def test_a_picture_over_the_pixel_limit_names_the_way_out(pillow_format: str, data: bytes) -> None:
    kind = kind_of(pillow_format)
    assert decode(data, kind, max_pixels=32 * 16)
    reason = reason_of(data, kind, max_pixels=32 * 16 - 1)
    assert reason == "too large: 32 x 16 is over 511 pixels (--max-pixels raises the limit)"


def test_a_bomb_is_refused_before_its_pixels_are_decoded() -> None:
    data = png(bytes(10), width=100_000, height=100_000, bits=8, colour_type=2)
    assert reason_of(data) == "too large: it is over 250,000,000 pixels (--max-pixels raises the limit)"


def test_the_preview_in_a_raw_file_is_not_taken_for_the_picture() -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[254] = 1
    assert reason_of(encode(quarters(), "TIFF", tiffinfo=tags)) == "camera raw is not a format that indexer opens"


def test_a_picture_without_pixels_is_refused() -> None:
    for data in (
        b"P6 0 0 255\n",
        b"P6 4 0 255\n",
        png(b"", width=0, height=0, bits=8, colour_type=2),
        b"GIF89a\0\0\0\0\0\0\0;",
    ):
        assert reason_of(data)


@pytest.mark.parametrize(
    ("owner", "where"), [(Image.Image, "load"), (ImageOps, "exif_transpose"), (Image.Exif, "get_ifd")]
)
def test_a_shortage_of_memory_is_no_fault_of_the_file(
    monkeypatch: pytest.MonkeyPatch, owner: object, where: str
) -> None:
    """Neither a reason to call it damaged, nor to leave it lying on its side."""

    def short(*_: object, **__: object) -> None:
        raise MemoryError

    data = encode(quarters(), "PNG", exif=exif(6))
    monkeypatch.setattr(owner, where, short)
    with pytest.raises(MemoryError):
        decode(data)


@pytest.mark.parametrize("message", ["out of memory error when reading image file", "Pixel allocation: Out of memory"])
def test_a_shortage_of_memory_in_a_c_library_is_one_too(monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    def short(*_: object, **__: object) -> None:
        raise OSError(message)

    monkeypatch.setattr(Image.Image, "load", short)
    with pytest.raises(MemoryError):
        decode(EVERY_FORMAT["PNG"])


# -- hostile files -----------------------------------------------------------------------------------------------------

MUTATIONS_PER_FORMAT = 40
SPEC = Preprocess((16, 16), "bilinear")


def mutations(data: bytes, others: list[bytes], chance: random.Random) -> Iterator[bytes]:
    """Broken versions of one file: cut, flipped, blanked, doubled, grafted; near its head more often than not."""
    for _ in range(MUTATIONS_PER_FORMAT):
        broken = bytearray(data)
        for _ in range(chance.choice((1, 1, 2, 8))):
            at = int(len(broken) * chance.random() ** chance.choice((1, 3)))
            length = chance.choice((1, 2, 4, 16))
            how = chance.randrange(6)
            if how == 0:
                del broken[at:]
            elif how == 1:
                broken[at : at + length] = chance.randbytes(length)
            elif how == 2:
                broken[at : at + length] = chance.choice((b"\0", b"\xff", b"\x7f")) * length
            elif how == 3:
                broken[at:at] = broken[at : at + 4 * length]
            elif how == 4:
                del broken[at : at + length]
            else:
                other = chance.choice(others)
                broken[at : at + 64] = other[at : at + 64]
        yield bytes(broken)


def more_samples() -> list[bytes]:
    """What the plain formats do not reach: the other decoders behind the same names."""
    block = exif(6, taken="2024:05:01 12:30:00", make="Canon", model="EOS")
    row = palette_row().resize((32, 16))
    return [
        encode(quarters(), "JPEG", progressive=True, exif=block),
        encode(quarters().convert("CMYK"), "JPEG"),
        encode(row, "PNG", transparency=b"\xff\x80\x00\xff"),
        encode(quarters(), "PNG", exif=block, save_all=True, append_images=[Image.new("RGB", (32, 16), RED)]),
        encode(quarters(), "GIF", save_all=True, append_images=[Image.new("RGB", (32, 16), RED)], interlace=1),
        encode(quarters(), "WEBP", lossless=True, exif=block),
        *(
            encode(quarters(), "TIFF", compression=how, exif=block)
            for how in (None, "tiff_deflate", "jpeg", "packbits", "zstd")
        ),
        encode(quarters().convert("1"), "TIFF", compression="group4"),
        encode(quarters().convert("F"), "TIFF", compression="tiff_lzw"),
        encode(quarters().convert("P"), "BMP"),
        b"P2 4 1 255\n0 10 200 255\n",
        b"P5 4 1 65535\n" + bytes(8),
        b"Pf 4 1 -1.0\n" + bytes(16),
    ]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(60)
def test_a_hostile_file_gives_a_picture_or_a_reason(capfd: pytest.CaptureFixture[str]) -> None:
    chance = random.Random(20240501)
    originals = [*EVERY_FORMAT.values(), *more_samples()]
    outcomes: Counter[str] = Counter()
    for data in originals:
        for broken in mutations(data, originals, chance):
            try:
                decoded = decode(broken, max_pixels=1_000_000)
            except PictureError as error:
                assert error.reason.isprintable(), broken
                assert 0 < len(error.reason) < 160, broken
                assert " at 0x" not in error.reason, broken  # no person understands an address
                outcomes[error.reason.partition(" ")[0]] += 1
            else:
                assert decoded.picture.mode == "RGB"
                assert decoded.picture.size == (decoded.info.width, decoded.info.height)
                assert fit(decoded.picture, SPEC).shape == (16, 16, 3)
                outcomes["decoded"] += 1
    assert sum(outcomes.values()) == len(originals) * MUTATIONS_PER_FORMAT
    assert min(outcomes[word] for word in ("decoded", "damaged:", "truncated", "too")) > 0
    assert capfd.readouterr().out == ""  # what C libraries have to say goes to stderr


@pytest.mark.parametrize(
    "error",
    [
        OSError("cannot read"),
        ValueError("bad value"),
        SyntaxError("not a PNG file"),
        NotImplementedError("no such compression"),
        struct.error("unpack requires a buffer"),
        zlib.error("Error -3"),
        EOFError("end"),
        IndexError("list index out of range"),
        RecursionError("maximum recursion depth exceeded"),
        OverflowError("too big"),
        KeyError(("tag", 7)),
        ZeroDivisionError(),
        AssertionError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_pillow_raises_becomes_a_reason(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Image.Image, "load", fail)
    assert reason_of(EVERY_FORMAT["PNG"])


def test_a_reason_is_one_short_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("two\nlines, \x1b[31mred, " + "and long" * 100)

    monkeypatch.setattr(Image.Image, "load", fail)
    reason = reason_of(EVERY_FORMAT["PNG"])
    assert reason.isprintable()
    assert len(reason) < 160


def test_abilities_name_what_decides_whether_a_picture_can_be_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    now = abilities()
    assert all(word in now for word in ("indexer ", "pillow ", "heif ", "250000000 pixels"))
    assert abilities(1000) != now
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert "heif none" in abilities()


def png(rows: bytes, *, width: int, height: int, bits: int, colour_type: int) -> bytes:
    """A PNG written by hand (ISO/IEC 15948), for what Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    packed = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


# -- what the RGB picture does not show --------------------------------------------------------------------------------


def held(data: bytes) -> str | None:
    return decode(data).info.holds


@pytest.mark.parametrize("name", FORMATS)
def test_an_ordinary_picture_holds_nothing_more(name: str) -> None:
    """An MPO neither: telephones put a preview, or a map of brightness, behind every photograph."""
    assert held(EVERY_FORMAT[name]) == ""


@pytest.mark.parametrize("name", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_frames_and_pages_after_the_first(name: str) -> None:
    pages = [Image.new("RGB", (32, 16), colour) for colour in (RED, BLUE)]
    assert held(encode(quarters(), name, save_all=True, append_images=pages)) == "frames"


def test_another_picture_in_an_mpo_is_a_frame() -> None:
    beside = quarters().rotate(180)
    assert held(encode(quarters(), "MPO", save_all=True, append_images=[beside])) == "frames"
    assert held(encode(quarters(), "MPO", save_all=True, append_images=[beside.resize((8, 4))])) == ""
    decoded = decode(encode(quarters(), "MPO", save_all=True, append_images=[Image.new("RGB", (32, 16), RED)]))
    assert np.abs(np.asarray(decoded.picture).astype(int) - np.asarray(quarters())).mean() < 20


@pytest.mark.parametrize("brand", [b"mp42", b"isom", b"qt  "])
def test_a_film_behind_a_photograph_is_frames(brand: bytes) -> None:
    photograph = encode(quarters(), "JPEG")
    assert held(photograph + b"\0\0\0\x18ftyp" + brand + bytes(100)) == "frames"
    assert held(photograph + bytes(100)) == ""


def test_frames_that_are_damaged_are_frames() -> None:
    whole = encode(quarters(), "GIF", save_all=True, append_images=[quarters().rotate(180)])
    assert held(whole[:-10]) == "frames"


def test_what_lets_through_what_lies_behind() -> None:
    opaque = quarters().convert("RGBA")
    clear = opaque.copy()
    clear.putpixel((0, 0), (255, 0, 0, 254))
    assert held(encode(opaque, "PNG")) == ""
    assert held(encode(clear, "PNG")) == "alpha"
    palette = quarters().convert("P", palette=Image.Palette.ADAPTIVE)
    assert held(encode(palette, "PNG", transparency=palette.getpixel((0, 0)))) == "alpha"
    assert held(encode(palette, "PNG", transparency=255)) == ""  # of a colour that it does not use


def test_more_than_eight_bits() -> None:
    levels = np.linspace(0, 65535, 512).astype(np.uint16).reshape(16, 32)
    assert held(encode(Image.fromarray(levels), "PNG")) == "deep"
    assert held(encode(Image.fromarray(levels), "TIFF")) == "deep"
    assert held(encode(Image.fromarray(levels.astype(np.float32)), "TIFF", compression=None)) == "deep"
    assert held(sixteen_bit_png(levels)) == "deep"
    sample = levels.astype(">u2").tobytes()
    assert held(b"P5 32 16 65535\n" + sample) == "deep"
    assert held(b"P6 16 16 65535\n" + sample + sample[: 16 * 16 * 2]) == "deep"
    assert held(b"P6 16 16 255\n" + sample[: 16 * 16 * 3]) == ""


def sixteen_bit_png(levels: np.ndarray) -> bytes:
    """RGB of 16 bits, which Pillow reads but does not write (PNG specification, third edition, 11.2)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = levels.shape
    rows = np.repeat(levels.astype(">u2")[:, :, None], 3, axis=2).reshape(height, -1)
    body = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")
