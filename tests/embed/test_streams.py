"""Batches that are under way at the same time: in order, within bounds, and what is left when it ends early."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from indexer import Embedder, load_embedder
from indexer.embed.embedder import Embedded
from indexer.embed.streams import Finish, in_order, in_thread
from indexer.preprocess import Pixels

from ..conftest import EVA_TINY


def batch(number: int) -> Pixels:
    return np.full((1, 2, 2, 3), number, np.uint8)


def result(pixels: Pixels) -> Embedded:
    row = np.full((len(pixels), 1), pixels.flat[0], np.float32)
    return Embedded(row, row.astype(np.int64), row)


def numbers(results: Iterator[Embedded | None]) -> list[int | None]:
    return [None if embedded is None else int(embedded.vectors[0, 0]) for embedded in results]


@pytest.mark.parametrize("ahead", [1, 2, 3])
def test_in_order_and_only_so_many_ahead(ahead: int) -> None:
    drawn: list[int] = []
    under_way: list[int] = []

    def batches() -> Iterator[Pixels]:
        for number in range(7):
            drawn.append(number)
            yield batch(number)

    def start(pixels: Pixels) -> Finish:
        under_way.append(int(pixels.flat[0]))
        assert len(under_way) <= ahead

        def finish() -> Embedded:
            under_way.remove(int(pixels.flat[0]))
            return result(pixels)

        return finish

    assert numbers(in_order(batches(), start, ahead)) == drawn == list(range(7))
    assert under_way == []


def test_nothing_comes_back_as_nothing_in_its_place() -> None:
    batches = [None, batch(1), None, None, batch(2), None]
    started: list[int] = []

    def start(pixels: Pixels) -> Finish:
        started.append(len(pixels))
        return lambda: result(pixels)

    assert numbers(in_order(batches, start, 2)) == [None, 1, None, None, 2, None]
    assert started == [1, 1]
    assert list(in_order([], start, 2)) == []


def test_the_thread_works_while_the_last_result_is_used() -> None:
    begun = threading.Semaphore(0)

    def forward(pixels: Pixels) -> Embedded:
        begun.release()
        return result(pixels)

    stream = in_thread((batch(number) for number in range(4)), forward, 2)
    next(stream)
    assert begun.acquire(timeout=5)
    assert begun.acquire(timeout=5)  # the second, though nobody has asked for it
    assert numbers(stream) == [1, 2, 3]


def test_an_error_comes_where_its_result_would(photos: list[Pixels]) -> None:
    def forward(pixels: Pixels) -> Embedded:
        if pixels.flat[0] == 2:
            raise ValueError("two")
        return result(pixels)

    stream = in_thread((batch(number) for number in range(5)), forward, 2)
    assert [next(stream), next(stream)]
    with pytest.raises(ValueError, match="two"):
        next(stream)


def test_given_up_early_it_leaves_no_thread_and_starts_no_more() -> None:
    done: list[int] = []

    def forward(pixels: Pixels) -> Embedded:
        time.sleep(0.05)
        done.append(int(pixels.flat[0]))
        return result(pixels)

    before = threading.active_count()
    stream = in_thread((batch(number) for number in range(100)), forward, 3)
    next(stream)
    stream.close()
    assert threading.active_count() == before
    assert len(done) <= 2


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return load_embedder(str(EVA_TINY), device="cpu", precision="fp32")


@pytest.mark.parametrize("sizes", [[4, 4, 4, 4, 1], [1], [4, 0, 3], []])
def test_a_stream_is_forward_of_each_batch(embedder: Embedder, fitted: Pixels, sizes: list[int]) -> None:
    ends = np.cumsum([0, *sizes])
    batches = [fitted[start:end] for start, end in itertools.pairwise(ends)]
    streamed = list(embedder.stream([*batches, None], sum(sizes)))
    assert streamed.pop() is None
    assert len(streamed) == len(batches)
    for embedded, pixels in zip(streamed, batches, strict=True):
        expected = embedder.forward(pixels)
        assert embedded is not None
        assert np.array_equal(embedded.vectors, expected.vectors)
        assert np.array_equal(embedded.indices, expected.indices)
        assert np.array_equal(embedded.probabilities, expected.probabilities)


def test_memory_that_runs_out_is_remarked(fitted: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = load_embedder(str(EVA_TINY), device="cpu", precision="fp32", batch_size=8)
    expected = embedder.forward(fitted[:8]).vectors
    features: Callable[[object], object] = embedder._features  # type: ignore[attr-defined]

    def limited(pixels: Pixels) -> object:
        if len(pixels) > 4:
            raise MemoryError
        return features(pixels)

    monkeypatch.setattr(embedder, "_features", limited)
    (embedded,) = embedder.stream([fitted[:8]])
    assert embedded is not None
    assert np.allclose(embedded.vectors, expected, atol=1e-5)
    assert list(embedder.remarks) == ["Memory ran out on cpu: batches are of 4 now."]
