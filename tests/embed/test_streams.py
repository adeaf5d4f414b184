"""Batches that are under way at the same time: in order, within bounds, and what is left when it ends early."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError

import numpy as np
import pytest
import torch

from indexer import Embedder, load_embedder
from indexer.embed.embedder import Embedded
from indexer.embed.streams import Finish, in_order, in_threads, wanted
from indexer.preprocess import Pixels

from ..conftest import EVA_TINY


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return load_embedder(str(EVA_TINY), device="cpu", precision="fp32")


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

    stream = in_threads((batch(number) for number in range(4)), forward)
    next(stream)
    assert begun.acquire(timeout=5)
    assert begun.acquire(timeout=5)  # the second, though nobody has asked for it
    assert numbers(stream) == [1, 2, 3]


def test_an_error_comes_where_its_result_would(photos: list[Pixels]) -> None:
    def forward(pixels: Pixels) -> Embedded:
        if pixels.flat[0] == 2:
            raise ValueError("two")
        return result(pixels)

    stream = in_threads((batch(number) for number in range(5)), forward)
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
    stream = in_threads((batch(number) for number in range(100)), forward)
    next(stream)
    stream.close()
    assert threading.active_count() == before
    assert len(done) <= 2


def test_several_threads_work_at_once_and_results_keep_their_order() -> None:
    together, begun = threading.Barrier(3, timeout=5), threading.Semaphore(0)
    threads: set[str] = set()

    def forward(pixels: Pixels) -> Embedded:
        threads.add(threading.current_thread().name)
        if pixels.flat[0] < 3:
            together.wait()
            time.sleep(0.05 * (3 - int(pixels.flat[0])))  # the first is done last
        return result(pixels)

    stream = in_threads((batch(number) for number in range(9)), forward, 3, begun.release)
    assert numbers(stream) == list(range(9))
    assert len(threads) == 3
    assert [begun.acquire(blocking=False) for _ in range(4)] == [True] * 3 + [False]  # once in each of them


def test_given_up_it_ends_what_is_computed_where_that_asks() -> None:
    under_way, ended = threading.Barrier(3, timeout=5), 0

    def forward(pixels: Pixels) -> Embedded:
        nonlocal ended
        wanted()
        if pixels.flat[0]:
            under_way.wait()
            deadline = time.monotonic() + 60
            try:
                while time.monotonic() < deadline:
                    wanted()
            finally:
                ended += 1
        return result(pixels)

    stream = in_threads((batch(number) for number in range(4)), forward, 2)
    next(stream)
    under_way.wait()
    started = time.monotonic()
    stream.close()
    assert time.monotonic() - started < 5
    assert ended == 2
    wanted()  # in a thread of no stream


def test_a_pass_through_the_model_ends_when_it_is_given_up(embedder: Embedder, fitted: Pixels) -> None:
    model: torch.nn.Module = embedder._model  # type: ignore[attr-defined]
    begun, given_up, reached = threading.Event(), threading.Event(), threading.Event()

    def first(*_: object) -> None:
        """Stays in the first layer until the stream is given up."""
        begun.set()
        deadline = time.monotonic() + 60
        while not given_up.is_set() and time.monotonic() < deadline:
            try:
                wanted()
            except CancelledError:
                given_up.set()
            time.sleep(0.001)

    layers = [layer for layer in model.modules() if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear))]
    hooks = [layers[0].register_forward_hook(first), layers[-1].register_forward_hook(lambda *_: reached.set())]
    stream = embedder.stream(itertools.chain([None], [fitted[:1]]), 1)
    try:
        next(stream)
        assert begun.wait(5)
        stream.close()
        assert given_up.is_set()
        assert not reached.is_set()
    finally:
        for hook in hooks:
            hook.remove()
    assert np.isfinite(embedder.embed([fitted[0]])).all()  # others are not given up


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


@pytest.mark.parametrize(("allowed", "used"), [(64, 4), (2, 2)])
def test_cores_work_apart_where_there_are_batches_enough(
    embedder: Embedder, fitted: Pixels, monkeypatch: pytest.MonkeyPatch, allowed: int, used: int
) -> None:
    """As many as torch has threads, but no more than a container allows."""
    monkeypatch.setattr("indexer.embed.eva.cores", lambda: allowed)
    shares: list[tuple[str, int]] = []
    forward = embedder.forward

    def seen(pixels: Pixels) -> Embedded:
        shares.append((threading.current_thread().name, torch.get_num_threads()))
        time.sleep(0.02)  # so that the other has its turn
        return forward(pixels)

    monkeypatch.setattr(embedder, "forward", seen)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        for total, threads in [(None, 1), (2 * 8 * embedder.batch_size - 1, 1), (2 * 8 * embedder.batch_size, 2)]:
            shares.clear()
            streamed = list(embedder.stream((fitted[at : at + 1] for at in range(6)), total))
            assert {name for name, _ in shares} == {f"embedder_{number}" for number in range(threads)}
            assert {cores for _, cores in shares} == {used // threads}
            assert torch.get_num_threads() == 4
            for at, embedded in enumerate(streamed):
                assert embedded is not None
                assert np.allclose(embedded.vectors, forward(fitted[at : at + 1]).vectors, atol=1e-6)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("allowed", "used"), [(64, 4), (2, 2)])
def test_a_few_pictures_take_the_cores_that_are_allowed(
    embedder: Embedder, fitted: Pixels, monkeypatch: pytest.MonkeyPatch, allowed: int, used: int
) -> None:
    monkeypatch.setattr("indexer.embed.eva.cores", lambda: allowed)
    counts: list[int] = []
    features = embedder._features  # type: ignore[attr-defined]

    def seen(pixels: torch.Tensor) -> torch.Tensor:
        counts.append(torch.get_num_threads())
        return features(pixels)  # type: ignore[no-any-return]

    monkeypatch.setattr(embedder, "_features", seen)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        embedder.forward(fitted[:1])
        embedder.forward_tokens(fitted[:1])
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
    assert counts == [used, used]


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
