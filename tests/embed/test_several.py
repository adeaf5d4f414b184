"""Several devices, a process each. Two of them are the CPU here; the mechanism is the same."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from indexer import Catalog, Embedder, ModelError, OutOfMemory, load_embedder
from indexer.embed import devices, several
from indexer.embed.embedder import Embedded
from indexer.embed.several import SeveralDevices
from indexer.preprocess import Pixels

from ..conftest import EVA_TINY, ROOT

ROWS = 2
# what a process runs whose device holds no picture at all
TOO_SMALL = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from indexer.embed import eva, several\n"
    "def full(*_): raise MemoryError\n"
    "eva.TimmEmbedder._features = full; several.serve()"
)
PARENT = """
import sys
import numpy as np
from indexer import load_embedder
from indexer.embed.several import SeveralDevices
def batches():
    while True:
        yield np.zeros((2, 64, 64, 3), np.uint8)
first = load_embedder({model!r}, device="cpu", precision="fp32", batch_size=2)
for embedded in SeveralDevices(first, ["cpu", "cpu"]).stream(batches()):
    print("embedded", flush=True)
"""


@pytest.fixture(scope="module")
def first() -> Embedder:
    return load_embedder(str(EVA_TINY), device="cpu", precision="fp32", batch_size=ROWS)


@pytest.fixture
def two(first: Embedder) -> SeveralDevices:
    return SeveralDevices(first, ["cpu", "cpu"])


def batches_of(fitted: Pixels, *sizes: int) -> list[Pixels]:
    ends = np.cumsum([0, *sizes])
    return [fitted[start:end] for start, end in itertools.pairwise(ends)]


def exhaust(stream: Iterator[Embedded | None]) -> None:
    """Until it ends by itself: one process may give results before the other has failed."""
    for _ in stream:
        pass


def children() -> set[int]:
    """Processes of this one that run."""
    task = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    return {int(word) for word in task.read_text().split()} if task.exists() else set()


def test_the_vectors_of_one_in_order(
    two: SeveralDevices, first: Embedder, fitted: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, turns, start = children(), list[int](), several._Worker.start

    def noted(self: several._Worker, batch: Pixels) -> Callable[[], Embedded]:
        turns.append(self.process.pid)
        return start(self, batch)

    monkeypatch.setattr(several._Worker, "start", noted)
    batches: list[Pixels | None] = [*batches_of(fitted, 2, 1, 2, 2, 0, 2, 2, 3, 2, 2)]
    batches[3:3] = [None, None]
    results = list(two.stream(batches))
    assert len(results) == len(batches)
    for embedded, pixels in zip(results, batches, strict=True):
        if pixels is None:
            assert embedded is None
            continue
        expected = first.forward(pixels)
        assert embedded is not None
        assert np.array_equal(embedded.vectors, expected.vectors)
        assert np.array_equal(embedded.indices, expected.indices)
        assert np.array_equal(embedded.probabilities, expected.probabilities)
    assert children() == before
    assert turns == [*turns[:2]] * 5
    assert turns[0] != turns[1]


def test_a_few_pictures_start_no_process(two: SeveralDevices, fitted: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(several, "_Worker", None)
    assert len(list(two.stream(batches_of(fitted, 2, 2), total=4))) == 2


def test_what_is_no_stream_runs_on_the_first(
    two: SeveralDevices, first: Embedder, photos: list[Pixels], fitted: Pixels
) -> None:
    assert (two.id, two.source, two.precision, two.batch_size) == (first.id, first.source, "fp32", ROWS)
    assert (two.device, two.classes, two.preprocess) == ("cpu, cpu", first.classes, first.preprocess)
    assert np.array_equal(two.embed(photos[:2]), first.embed(photos[:2]))
    assert np.array_equal(two.tokens(photos[:2]), first.tokens(photos[:2]))
    assert two.classify(photos[:2], 3) == first.classify(photos[:2], 3)
    assert np.array_equal(two.forward_tokens(fitted[:2]), first.forward_tokens(fitted[:2]))
    assert np.array_equal(two.forward(fitted[:2], 7).indices, first.forward(fitted[:2], 7).indices)
    assert two.forward(fitted[:2], 7).indices.shape == (2, 7)


def test_a_build_ends_with_the_same_vectors(two: SeveralDevices, first: Embedder, tmp_path: Path) -> None:
    found = []
    for name, embedder in (("one", first), ("several", two)):
        with Catalog.create(tmp_path / name, loader=lambda _, embedder=embedder: embedder) as catalog:
            report = catalog.build([ROOT / "data" / "photos"], workers=1)
            assert (report.embedded, report.device) == (21, embedder.device)
            catalog.export(tmp_path / f"{name}.npy")
        found.append(np.load(tmp_path / f"{name}.npy"))
    assert np.array_equal(*found)


def test_a_process_that_dies_is_an_error_with_a_way_out(
    two: SeveralDevices, fitted: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = children()

    def batches() -> Iterator[Pixels]:
        for number in itertools.count():
            if number == 9:
                os.kill(min(children() - before), signal.SIGKILL)
            yield fitted[:ROWS]

    with pytest.raises(ModelError) as caught:
        list(two.stream(batches()))
    assert str(caught.value).startswith("The process that embeds on cpu was killed by signal 9. What was committed")
    assert "run the same command again" in str(caught.value)
    assert children() == before


def test_one_that_cannot_load_the_model_says_why(two: SeveralDevices, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(two._first), "source", "/no/such/folder", raising=False)
    monkeypatch.setattr(two._first, "source", "/no/such/folder")
    with pytest.raises(ModelError, match="There is no folder /no/such/folder"):
        exhaust(two.stream(itertools.repeat(np.zeros((ROWS, 64, 64, 3), np.uint8))))


def test_one_that_does_not_start(two: SeveralDevices, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(several, "BOOT", "raise SystemExit(3)")
    with pytest.raises(ModelError, match="on cpu ended with code 3"):
        exhaust(two.stream(itertools.repeat(np.zeros((ROWS, 64, 64, 3), np.uint8))))


def test_a_device_that_holds_no_picture(two: SeveralDevices, fitted: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(several, "BOOT", TOO_SMALL)
    with pytest.raises(OutOfMemory, match="does not fit cpu with a single picture"):
        list(two.stream(batches_of(fitted, 2, 2)))


def test_given_up_early_it_leaves_no_process(two: SeveralDevices, fitted: Pixels) -> None:
    before = children()
    stream = two.stream(itertools.repeat(fitted[:ROWS]))
    next(stream)
    assert len(children() - before) == 2
    stream.close()
    assert children() == before


def test_no_process_outlives_a_killed_parent() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(model=str(EVA_TINY))],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        start_new_session=True,
    )
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"embedded\n"
        group = {pid for pid in running() if os.getpgid(pid) == parent.pid}
        assert len(group) == 3
        parent.kill()
        parent.communicate(timeout=60)
        deadline = time.monotonic() + 5
        while any(pid in running() for pid in group):
            assert time.monotonic() < deadline, "a process has outlived its parent"
            time.sleep(0.02)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)


def running() -> set[int]:
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if (folder / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                    os.getpgid(int(folder.name))
                    found.add(int(folder.name))
            except OSError:
                continue
    return found


def test_cuda_is_every_gpu_and_cuda_n_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert devices.choose_devices("cuda") == ["cuda:0", "cuda:1", "cuda:2"]
    assert devices.choose_devices("cuda:1") == ["cuda:1"]
    assert devices.choose_devices("auto") == ["cuda:0"]
    assert devices.choose_devices("cpu") == ["cpu"]
