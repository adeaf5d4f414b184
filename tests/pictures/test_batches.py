"""From files to batches: in order, within bounds, each content decoded once, what cannot be used in its place."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from indexer.errors import IndexerError, PictureError
from indexer.pictures import batches as batches_module
from indexer.pictures.batches import CHUNK, Batch, Picture, batches
from indexer.pictures.decoders import Decoders
from indexer.pictures.prepare import Limits, Prepared, prepare
from indexer.pictures.scan import UNSETTLED, Content, Refused, read
from indexer.records import Preprocess, Source

from .samples import encode, source

SPEC = Preprocess((4, 4), "nearest")

pytestmark = pytest.mark.timeout(30)


class HereDecoders(Decoders):
    """Decodes at once and in this process, and remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__(SPEC, 1)
        self.asked: list[bytes] = []
        self.kinds: set[str] = set()

    def submit(self, data: bytes, kind: str) -> Future[Prepared]:
        self.asked.append(data)
        self.kinds.add(kind)
        future: Future[Prepared] = Future()
        try:
            future.set_result(prepare(data, kind, SPEC, Limits()))
        except PictureError as error:
            future.set_exception(error)
        return future


@pytest.fixture
def here() -> Iterator[HereDecoders]:
    decoders = HereDecoders()
    yield decoders
    decoders.close()


def nothing_known(_: Sequence[bytes]) -> set[bytes]:
    return set()


def no_decoders() -> Decoders:
    raise AssertionError("there is nothing to decode")


def run(
    sources: Iterable[Source],
    decoders: Decoders,
    size: int = 8,
    known: Callable[[Sequence[bytes]], set[bytes]] = nothing_known,
) -> list[Batch]:
    return list(batches(sources, size=lambda: size, known=known, decoders=lambda: decoders))


def grey(number: int) -> bytes:
    """A picture that no other number gives."""
    return encode(Image.new("RGB", (4, 4), (number % 256, number // 256, 0)), "BMP")


def number_of(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> int:
    return int(pixels[0, 0, 0]) + 256 * int(pixels[0, 0, 1])


def files(root: Path, contents: Iterable[bytes]) -> list[Source]:
    found = []
    for i, data in enumerate(contents):
        (root / f"{i:04}.bmp").write_bytes(data)
        found.append(source(root, f"{i:04}.bmp"))
    return found


def outcomes(made: Sequence[Batch]) -> list[Picture | Refused]:
    return [outcome for batch in made for outcome in batch.outcomes]


def summary(made: Sequence[Batch]) -> list[object]:
    """A picture's number where it has a slot, None where it needs none, the reason where it is refused."""
    told: list[object] = []
    for batch in made:
        for outcome in batch.outcomes:
            if isinstance(outcome, Refused):
                told.append(outcome.reason)
            elif outcome.slot is None:
                told.append(None)
            else:
                assert batch.pixels is not None
                told.append(number_of(batch.pixels[outcome.slot]))
    return told


def test_every_file_comes_in_its_place_with_its_own_pixels(tmp_path: Path, here: HereDecoders) -> None:
    """Pictures, refusals, ignored files and repetitions, over more than two chunks."""
    contents: list[bytes] = []
    wanted: list[object] = []
    for i in range(2 * CHUNK + 20):
        if i % 7 == 3:
            contents.append(b"")
            wanted.append("empty file")
        elif i % 7 == 5:
            contents.append(grey(i - 1))
            wanted.append(None)
        else:
            contents.append(grey(i))
            wanted.append(i)
    there = files(tmp_path, contents)
    made = run(there, here)
    assert [outcome.source for outcome in outcomes(made)] == there
    assert summary(made) == wanted


def test_slots_number_the_pixels_of_a_batch(tmp_path: Path, here: HereDecoders) -> None:
    made = run(files(tmp_path, [grey(1), b"", grey(2), grey(1), grey(3)]), here)
    assert len(made) == 1
    assert len(made[0]) == 5
    slots = [outcome.slot if isinstance(outcome, Picture) else "refused" for outcome in made[0].outcomes]
    assert slots == [0, "refused", 1, None, 2]
    assert made[0].pixels is not None
    assert made[0].pixels.shape == (3, 4, 4, 3)
    assert made[0].pixels.dtype == np.uint8


def test_info_comes_with_the_pixels_and_only_with_them(tmp_path: Path, here: HereDecoders) -> None:
    first, second = outcomes(run(files(tmp_path, [grey(1), grey(1)]), here))
    assert isinstance(first, Picture) and isinstance(second, Picture)
    assert first.info is not None
    assert (first.info.width, first.info.height, first.info.format) == (4, 4, "BMP")
    assert second.info is None
    assert first.sha256 == second.sha256 != b""
    assert here.kinds == {"BMP"}


@pytest.mark.parametrize("size", [1, 3, 8, 100])
def test_batches_hold_at_most_size_pictures(tmp_path: Path, here: HereDecoders, size: int) -> None:
    made = run(files(tmp_path, map(grey, range(20))), here, size)
    lengths = [0 if batch.pixels is None else len(batch.pixels) for batch in made]
    assert lengths == [size] * (20 // size) + [20 % size] * (20 % size > 0)


def test_batches_shrink_when_the_device_runs_out_of_memory(tmp_path: Path, here: HereDecoders) -> None:
    sizes = [8]
    there = files(tmp_path, map(grey, range(20)))
    lengths = []
    for batch in batches(there, size=lambda: sizes[-1], known=nothing_known, decoders=lambda: here):
        assert batch.pixels is not None
        lengths.append(len(batch.pixels))
        sizes.append(3)
    assert lengths == [8, 3, 3, 3, 3]


def test_nothing_gives_nothing(here: HereDecoders) -> None:
    assert run([], here) == []


# -- each content once -------------------------------------------------------------------------------------------------


def test_equal_contents_are_decoded_once_near_and_far(tmp_path: Path, here: HereDecoders) -> None:
    numbers = [1, 1, 2, *range(100, 100 + 2 * CHUNK), 1, 2, 1]
    made = run(files(tmp_path, map(grey, numbers)), here)
    assert len(here.asked) == len(set(numbers))
    assert summary(made) == [1, None, 2, *range(100, 100 + 2 * CHUNK), None, None, None]


def test_a_broken_content_gives_all_its_files_the_same_reason(tmp_path: Path, here: HereDecoders) -> None:
    broken = grey(1)[:60]
    made = run(files(tmp_path, [broken, grey(2), broken, *map(grey, range(100, 100 + 2 * CHUNK)), broken]), here)
    reasons = [outcome.reason for outcome in outcomes(made) if isinstance(outcome, Refused)]
    assert reasons == ["truncated or damaged: the picture is not complete"] * 3
    assert here.asked.count(broken) == 1


def test_a_content_that_was_long_ago_is_decoded_again(
    tmp_path: Path, here: HereDecoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is remembered is bounded; the store knows the content by then, unless it was broken."""
    monkeypatch.setattr(batches_module, "MAX_UNDER_WAY", CHUNK)
    made = run(files(tmp_path, map(grey, [1, *range(100, 100 + 3 * CHUNK), 1])), here)
    assert here.asked.count(grey(1)) == 2
    assert summary(made)[0] == summary(made)[-1] == 1


def test_known_contents_are_not_decoded(tmp_path: Path, here: HereDecoders) -> None:
    asked: list[bytes] = []

    def known(digests: Sequence[bytes]) -> set[bytes]:
        assert threading.current_thread() is threading.main_thread()
        asked.extend(digests)
        return set(digests[::2])

    made = run(files(tmp_path, [*map(grey, range(6)), b""]), here, known=known)
    assert summary(made) == [None, 1, None, 3, None, 5, "empty file"]
    assert here.asked == [grey(1), grey(3), grey(5)]
    assert asked == [outcome.sha256 for outcome in outcomes(made) if isinstance(outcome, Picture)]


def test_without_anything_to_decode_no_decoder_is_asked_for(tmp_path: Path) -> None:
    made = list(
        batches(files(tmp_path, [grey(1), b"", grey(2), grey(1)]), size=lambda: 8, known=set, decoders=no_decoders)
    )
    assert summary(made) == [None, "empty file", None, None]
    assert [batch.pixels for batch in made] == [None]


def test_a_batch_names_a_bounded_number_of_files(
    tmp_path: Path, here: HereDecoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches_module, "MAX_OUTCOMES", 10)
    there = files(tmp_path, map(grey, range(25)))
    made = list(batches(there, size=lambda: 8, known=set, decoders=no_decoders))
    assert [len(batch) for batch in made] == [10, 10, 5]
    assert all(batch.pixels is None for batch in made)


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_used_comes_in_its_place(tmp_path: Path, here: HereDecoders) -> None:
    for name, data in (
        ("a.png", grey(1)),
        ("b.txt", b"no picture"),
        ("c.eps", b"%!PS-Adobe-3.0"),
        ("d.png", grey(2)),
        ("e.png", grey(3)),
        ("f.png", b"\x89PNG\r\n\x1a\n cut"),
        ("g.png", grey(4)),
    ):
        (tmp_path / name).write_bytes(data)
    there = [source(tmp_path, path.name) for path in sorted(tmp_path.iterdir())]
    (tmp_path / "d.png").unlink()
    (tmp_path / "e.png").write_bytes(grey(300) + b"more")
    made = run(there, here)
    assert summary(made) == [
        1,
        None,
        "EPS is not a format that indexer opens",
        "vanished before it was looked at",
        "changed while it was read",
        "damaged: its header cannot be read",
        4,
    ]
    ignored, changed = outcomes(made)[1], outcomes(made)[4]
    assert ignored == Refused(there[1], None)
    assert changed.source == there[4]._replace(stamp=UNSETTLED)


def test_a_decoder_that_cannot_be_started_stops_everything(tmp_path: Path, here: HereDecoders) -> None:
    """It is nothing to skip pictures for."""

    def submit(data: bytes, kind: str) -> Future[Prepared]:
        future: Future[Prepared] = Future()
        future.set_exception(IndexerError("A decoding process could not be started."))
        return future

    here.submit = submit  # type: ignore[method-assign]
    with pytest.raises(IndexerError, match="could not be started"):
        run(files(tmp_path, [grey(1), grey(1)]), here)


# -- bounds ------------------------------------------------------------------------------------------------------------


class Counted:
    """A source that tells how far it was drawn."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = sources
        self.drawn = 0

    def __iter__(self) -> Iterator[Source]:
        for each in self.sources:
            self.drawn += 1
            yield each


def test_files_are_drawn_a_bounded_way_ahead(tmp_path: Path, here: HereDecoders) -> None:
    counted = Counted(files(tmp_path, map(grey, range(10 * CHUNK))))
    done = 0
    for batch in batches(counted, size=lambda: 8, known=nothing_known, decoders=lambda: here):
        done += len(batch)
        # two chunks being read, one being looked up, two batches being decoded
        assert counted.drawn <= done + 3 * CHUNK + 2 * 8 + 1
        assert len(here.asked) <= done + 2 * 8 + 1
    assert done == counted.drawn == 10 * CHUNK


def test_large_files_are_drawn_less_far_ahead(
    tmp_path: Path, here: HereDecoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches_module, "MAX_HELD_BYTES", 3 * len(grey(0)))
    counted = Counted(files(tmp_path, map(grey, range(60))))
    done = 0
    for batch in batches(counted, size=lambda: 10, known=nothing_known, decoders=lambda: here):
        done += len(batch)
        assert counted.drawn <= done + 3 * 4 + 4 + 1  # four files are more than the three that may be held
    assert done == 60


@pytest.mark.parametrize(("size", "ahead"), [(1, 16), (8, 16), (20, 40)])
def test_decoding_runs_ahead_of_the_model(tmp_path: Path, here: HereDecoders, size: int, ahead: int) -> None:
    stream = batches(
        files(tmp_path, map(grey, range(3 * CHUNK))), size=lambda: size, known=nothing_known, decoders=lambda: here
    )
    next(stream)
    assert ahead <= len(here.asked) - size <= ahead + 1
    stream.close()


def test_closing_early_leaves_nothing_behind(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with Decoders(SPEC, 2) as decoders:
        counted = Counted(files(tmp_path, map(grey, range(10 * CHUNK))))
        stream = batches(counted, size=lambda: 8, known=nothing_known, decoders=lambda: decoders)
        assert summary([next(stream)]) == list(range(8))
        assert any(thread.name.startswith("readers") for thread in threading.enumerate())
        stream.close()
        assert not any(thread.name.startswith("readers") for thread in threading.enumerate())
        assert counted.drawn < 4 * CHUNK
    assert set(threading.enumerate()) == before


def test_closing_early_reads_no_further(tmp_path: Path, here: HereDecoders, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []

    def slow_read(each: Source) -> Content | Refused:
        reads.append(each)
        time.sleep(0.005)
        return read(each)

    monkeypatch.setattr(batches_module, "read", slow_read)
    counted = Counted(files(tmp_path, map(grey, range(4 * CHUNK))))
    stream = batches(counted, size=lambda: 1, known=nothing_known, decoders=lambda: here)
    next(stream)
    stream.close()
    assert len(reads) < counted.drawn


def test_real_decoders_keep_the_order_too(tmp_path: Path) -> None:
    """Large pictures among small ones: the small ones are done first."""
    large = encode(Image.new("RGB", (3000, 2000), (7, 0, 0)), "PNG")
    contents = [large if i % 10 == 0 else grey(100 + i) for i in range(40)]
    with Decoders(SPEC, 3) as decoders:
        told = summary(run(files(tmp_path, contents), decoders))
    assert told == [7, *(None if i % 10 == 0 else 100 + i for i in range(1, 40))]


@pytest.mark.parametrize("stretch", [1, 3, 8, 50])
@pytest.mark.parametrize("size", [1, 8])
def test_wherever_decoders_put_pictures_they_are_in_their_batch(tmp_path: Path, stretch: int, size: int) -> None:
    """Also after pictures that left room, which had been given, empty; and what was put there stays."""
    broken, contents = b"BM" + bytes(100), [grey(100 + i) for i in range(40)]
    for place in (3, 4, 17, 30):
        contents[place] = broken
    with Decoders(SPEC, 2, stretch=stretch) as decoders:
        made = run(files(tmp_path, [*contents, contents[0]]), decoders, size)
    told = summary(made)
    assert [one for one in told if isinstance(one, int)] == [100 + i for i in range(40) if contents[i] != broken]
    assert [i for i, one in enumerate(told) if isinstance(one, str)] == [3, 4, 17, 30]
    assert all(batch.pixels is None or batch.pixels.flags.c_contiguous for batch in made)


def test_a_batch_of_what_lies_together_is_no_copy() -> None:
    room = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 3), np.uint8)
    for rows in ([0], [0, 1, 2, 3, 4, 5, 6, 7], [3, 4, 5]):
        made = batches_module._joined([room[row] for row in rows])
        assert made is not None
        assert np.array_equal(made, room[rows])
        assert np.shares_memory(made, room)


def test_what_lies_in_two_arrays_is_not_taken_for_one() -> None:
    """Even where one begins as the other ends."""
    memory = bytearray(np.random.default_rng(0).integers(0, 256, 96, np.uint8))
    one, other = (np.ndarray((2, 2, 2, 3), np.uint8, memory, start) for start in (0, 24))
    made = batches_module._joined([one[1], other[0], other[1]])
    assert made is not None
    assert np.array_equal(made, np.stack([one[1], other[0], other[1]]))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=20))
def test_whatever_lies_anywhere_is_joined_in_order(places: list[tuple[int, int]]) -> None:
    rng = np.random.default_rng(0)
    rooms = [rng.integers(0, 256, (6, 2, 2, 3), np.uint8) for _ in range(3)]
    lone = [rng.integers(0, 256, (2, 2, 3), np.uint8) for _ in range(6)]
    pictures = [rooms[room][row] if room < 3 else lone[row] for room, row in places]
    made = batches_module._joined(pictures)
    assert made is not None
    assert np.array_equal(made, np.stack(pictures))
