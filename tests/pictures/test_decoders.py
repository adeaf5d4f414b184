"""A picture that crashes, hangs or bloats its decoder costs only itself; and nothing stays behind."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from indexer.errors import IndexerError, PictureError
from indexer.pictures import exchange, worker
from indexer.pictures.decode import decode
from indexer.pictures.decoders import GROUP, Decoders
from indexer.pictures.prepare import Limits, Prepared, prepare
from indexer.preprocess import fit
from indexer.records import PictureInfo, Preprocess

from . import planted
from .samples import encode, every_format, kind_of, quarters

SPEC = Preprocess((16, 16), "bilinear")
EVERY_FORMAT = every_format()

pytestmark = pytest.mark.timeout(60)
linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc")


# what of a planted worker takes for ever, and what the others may take: a busy machine can leave them without a core
# for longer than a test wants to wait for these
HANGS = (b"loop", b"sleep in C", b"send {")
ROOM_SECONDS = 30.0


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Decoders]]:
    """Starts decoders with a planted worker inside; closes them after the test.

    Their limit of seconds counts for requests in which one hangs.
    """
    monkeypatch.setattr(worker, "BOOT", planted.BOOT)
    tell = worker.Worker._tell

    def with_room(self: worker.Worker, message: dict[str, Any], seconds: float) -> None:
        hangs = any(job.data.startswith(HANGS) for job in self.jobs)
        tell(self, message, seconds if hangs else max(seconds, ROOM_SECONDS))

    monkeypatch.setattr(worker.Worker, "_tell", with_room)
    started: list[Decoders] = []

    def make(count: int = 1, **limits: float) -> Decoders:
        started.append(Decoders(SPEC, count, Limits(**limits)))  # type: ignore[arg-type]
        return started[-1]

    yield make
    for decoders in started:
        decoders.close()


def reason_of(future: Future[Prepared]) -> str:
    with pytest.raises(PictureError) as caught:
        future.result()
    return caught.value.reason


def tell(decoders: Decoders, expression: str) -> str:
    """What an expression is worth in a planted worker."""
    return reason_of(decoders.submit(f"tell {expression}".encode(), "JPEG"))


def process_id(decoders: Decoders) -> int:
    return int(tell(decoders, "os.getpid()"))


def children() -> set[int]:
    """The processes that this one has started and not yet buried, zombies among them."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state_and_parent = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(state_and_parent[1]) == os.getpid():
            found.add(int(path.parent.name))
    return found


def open_files() -> list[str]:
    with os.scandir("/proc/self/fd") as listing:
        return [entry.name for entry in listing if os.path.lexists(entry.path)]


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


# -- real pictures -----------------------------------------------------------------------------------------------------


def test_a_worker_gives_what_decoding_here_gives() -> None:
    with Decoders(SPEC, 2) as decoders:
        futures = {name: decoders.submit(data, kind_of(name)) for name, data in EVERY_FORMAT.items()}
        for name, future in futures.items():
            here = decode(EVERY_FORMAT[name], kind_of(name))
            assert np.array_equal(future.result().pixels, fit(here.picture, SPEC)), name
            assert future.result().info == replace(here.info, shown=1000, holds="colour")


@pytest.mark.parametrize("exact", [True, False])
def test_a_worker_fits_as_exactly_as_it_is_told_to(exact: bool) -> None:
    noise = Image.effect_noise((400, 300), 90).convert("RGB")
    with Decoders(SPEC, 1, exact=exact) as decoders:
        pixels = decoders.submit(encode(noise, "PNG"), "PNG").result().pixels
    assert np.array_equal(pixels, fit(noise, SPEC, exact))
    assert not np.array_equal(pixels, fit(noise, SPEC, not exact))


@pytest.mark.parametrize("size", [(1, 1), (300, 200), (70_000, 4), (3, 90_000), (1200, 900)])
def test_the_digest_is_that_of_all_pixels(size: tuple[int, int]) -> None:
    picture = Image.effect_noise(size, 90).convert("RGB")
    known = prepare(encode(picture, "PNG"), "PNG", SPEC, Limits()).fingerprint
    assert known.pixels == hashlib.sha256(b"%d x %d\n" % size + picture.tobytes()).digest()


def test_every_picture_gets_its_own_answer() -> None:
    greys = range(0, 240, 6)
    with Decoders(SPEC, 3) as decoders:
        futures = [decoders.submit(encode(Image.new("RGB", (8, 8), (g, g, g)), "PNG"), "PNG") for g in greys]
        assert [int(future.result().pixels.max()) for future in futures] == list(greys)


def test_a_bad_picture_has_the_reason_that_decoding_here_has() -> None:
    with Decoders(SPEC, 1, Limits(pixels=100)) as decoders:
        assert reason_of(decoders.submit(b"\xff\xd8\xffjunk", "JPEG")).startswith("damaged")
        too_large = reason_of(decoders.submit(EVERY_FORMAT["PNG"], "PNG"))
    assert too_large == "too large: 32 x 16 is over 100 pixels (--max-pixels raises the limit)"


def test_the_limit_on_pixels_is_the_only_one() -> None:
    """Pillow's own, of 179 million, does not count."""
    data = b"P4 20000 10000\n" + bytes(2500 * 10000)
    with Decoders(SPEC, 1) as decoders:
        info = decoders.submit(data, "PPM").result().info
    assert (info.width, info.height) == (20000, 10000)


@linux
@pytest.mark.parametrize("pillow_format", ["JPEG", "PNG", "GIF", "TIFF"])
def test_a_picture_that_needs_too_much_memory_costs_only_itself(pillow_format: str) -> None:
    data = encode(Image.new("L", (6000, 6000)), pillow_format)
    with Decoders(SPEC, 1, Limits(megabytes=40)) as decoders:
        assert reason_of(decoders.submit(data, pillow_format)) == "needed more than 40 MB to decode"
        assert decoders.submit(EVERY_FORMAT[pillow_format], pillow_format).result()


# -- planted disasters -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("disaster", ["segfault", "abort", "exit", "raise"])
def test_a_crash_costs_one_picture_and_about_a_second(start: Callable[..., Decoders], disaster: str) -> None:
    decoders = start()
    assert decoders.submit(b"a", "JPEG").result()
    begun = time.monotonic()
    assert reason_of(decoders.submit(disaster.encode(), "JPEG")) == "crashed the decoder"
    assert decoders.submit(b"four", "JPEG").result().pixels.max() == 4
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("disaster", ["loop", "sleep in C"])
def test_a_hang_costs_one_picture_and_the_time_limit(start: Callable[..., Decoders], disaster: str) -> None:
    decoders = start(seconds=0.5)
    assert decoders.submit(b"a", "JPEG").result()
    begun = time.monotonic()
    assert reason_of(decoders.submit(disaster.encode(), "JPEG")) == "took longer than 0.5 s to decode"
    assert 0.5 <= time.monotonic() - begun < 5
    assert decoders.submit(b"four", "JPEG").result().pixels.max() == 4


@linux
def test_eating_memory_costs_one_picture(start: Callable[..., Decoders]) -> None:
    decoders = start(megabytes=1500)
    before = process_id(decoders)
    assert reason_of(decoders.submit(b"hoard", "JPEG")) == "needed more than 1,500 MB to decode"
    tell(decoders, "hoard.clear()")
    assert decoders.submit(b"four", "JPEG").result().pixels.max() == 4
    assert process_id(decoders) == before


def test_disasters_in_a_row_and_beside_each_other(start: Callable[..., Decoders]) -> None:
    decoders = start(2, seconds=0.5)
    orders = [b"a", b"segfault", b"abc", b"loop", b"exit", b"abcdef", b"segfault", b"abcdefgh"]
    futures = [decoders.submit(order, "JPEG") for order in orders]
    outcomes = [f.exception() or int(f.result().pixels.max()) for f in futures]
    crashed, late = "crashed the decoder", "took longer than 0.5 s to decode"
    assert [o.reason if isinstance(o, PictureError) else o for o in outcomes] == [
        1,
        crashed,
        3,
        late,
        crashed,
        6,
        crashed,
        8,
    ]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many files each request was for."""
    counts: list[int] = []
    tell = worker.Worker._tell

    def counting(self: worker.Worker, message: dict[str, Any], seconds: float) -> None:
        counts.append(len(message.get("files", ())))
        tell(self, message, seconds)

    monkeypatch.setattr(worker.Worker, "_tell", counting)
    return counts


def in_a_group(decoders: Decoders, orders: list[bytes]) -> list[int | str]:
    """Greys or reasons of some orders, most of which wait together while the first one is worked on."""
    with decoders._lock:
        futures = [decoders.submit(order, "JPEG") for order in orders]
    outcomes: list[int | str] = []
    for future in futures:
        try:
            outcomes.append(int(future.result(timeout=20).pixels.max()))
        except PictureError as error:
            outcomes.append(error.reason)
    return outcomes


def test_files_that_wait_go_together(start: Callable[..., Decoders], asked: list[int]) -> None:
    orders = [b"x" * (1 + number % 7) for number in range(60)]
    assert in_a_group(start(2), orders) == [len(order) for order in orders]
    assert max(asked) == GROUP
    assert sum(asked) == 60
    assert asked.count(1) >= 4  # the last ones are shared out


def test_large_files_go_alone(
    start: Callable[..., Decoders], asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.pictures.decoders.GROUP_BYTES", 10)
    assert in_a_group(start(), [b"x" * 11] * 3 + [b"x" * 5] * 6) == [11] * 3 + [5] * 6
    assert asked[1:] == [1, 1, 1, 2, 2, 1, 1]


@pytest.mark.parametrize(
    ("disaster", "seconds", "reason"),
    [
        ("segfault", 10, "crashed the decoder"),
        ("raise", 10, "crashed the decoder"),
        ("loop", 0.5, "took longer than 0.5 s to decode"),
        ("send {}\n", 10, "crashed the decoder"),
        ('send {"answers": []}\n', 10, "crashed the decoder"),
        ("tell 'damaged'", 10, "damaged"),
        pytest.param("cut 0", 10, "crashed the decoder", marks=linux),
        pytest.param("hoard", 10, "needed more than 1,500 MB to decode", marks=linux),
    ],
)
def test_a_disaster_among_others_costs_none_of_them(
    start: Callable[..., Decoders], asked: list[int], disaster: str, seconds: float, reason: str
) -> None:
    decoders = start(seconds=seconds, megabytes=1500)
    orders = [b"x" * number for number in range(1, 17)]
    orders[3] = disaster.encode()
    wanted: list[int | str] = [*range(1, 17)]
    wanted[3] = reason
    assert in_a_group(decoders, orders) == wanted
    assert max(asked) == GROUP  # it was among others


def test_files_come_after_one_that_cannot_be_handed_over(
    start: Callable[..., Decoders], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the system allows no file of its length."""
    put = exchange.put

    def put_some(shared: int, data: bytes, place: int = 0) -> int:
        if len(data) > 100:
            raise OSError(errno.EFBIG, "File too large")
        return put(shared, data, place)

    monkeypatch.setattr(worker, "put", put_some)
    assert in_a_group(start(), [b"x", b"x" * 200, b"xx", b"xxx"]) == [1, "crashed the decoder", 2, 3]


def test_files_come_after_a_group_whose_worker_has_gone(
    start: Callable[..., Decoders], monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[int] = []
    ask = worker.Worker.ask

    def ask_some(self: worker.Worker) -> None:
        if len(self.jobs) > 1:
            groups.append(len(self.jobs))
            if len(groups) == 2:  # handed to one that has been at work
                raise BrokenPipeError
        ask(self)

    monkeypatch.setattr(worker.Worker, "ask", ask_some)
    assert in_a_group(start(), [b"x" * number for number in range(1, 13)]) == [*range(1, 13)]
    assert groups == [6, 3]


def test_every_file_hears_that_no_worker_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with Decoders(SPEC, 1) as decoders:
        with decoders._lock:
            futures = [decoders.submit(b"x", "JPEG") for _ in range(3)]
        for future in futures:
            assert str(future.exception(timeout=20)) == worker.NOT_STARTED


@linux
def test_a_group_that_something_else_has_killed_is_decoded_all_the_same(
    start: Callable[..., Decoders], asked: list[int]
) -> None:
    decoders = start()
    orders = [b"x", b"x", b"sleep a little", *[b"x" * number for number in range(1, 14)]]
    process = process_id(decoders)

    def kill() -> None:
        wait_until(lambda: max(asked) > 1)
        os.kill(process, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    assert in_a_group(decoders, orders) == [1, 1, len(b"sleep a little"), *range(1, 14)]
    killer.join()
    assert not is_alive(process)


def test_a_worker_that_died_after_its_answer_costs_nothing(start: Callable[..., Decoders]) -> None:
    """As after damage to its heap, or by the hand of the system when memory is short."""
    decoders = start()
    process = process_id(decoders)
    assert decoders.submit(b"die later", "JPEG").result()
    wait_until(lambda: not is_alive(process))
    assert decoders.submit(b"four", "JPEG").result().pixels.max() == 4


NO_ANSWERS = [
    "no JSON\n",
    "[]\n",
    "{}\n",
    '{"answers": 1}\n',
    '{"answers": []}\n',
    '{"answers": [1]}\n',
    '{"answers": [{}]}\n',
    '{"answers": [{"reason": "damaged"}, {"reason": "damaged"}]}\n',
    '{"answers": [{"info": {"width": 1, "height": 1, "format": "X", "shown": null}, "seconds": [0, 0]}]}\nabc',
    "9" * 5000 + "\n",
    "[" * 60_000 + "\n",
    " " * 200_000,
]


def test_an_answer_that_is_none_counts_as_a_crash(start: Callable[..., Decoders]) -> None:
    """A decoder that was taken over can send what it likes: it neither breaks the build nor fills its memory."""
    decoders = start()
    for answer in NO_ANSWERS:
        assert reason_of(decoders.submit(f"send {answer}".encode(), "JPEG")) == "crashed the decoder", answer[:50]
    assert decoders.submit(b"four", "JPEG").result().pixels.max() == 4


LONG = "x" * 201
NO_FACTS: list[dict[str, Any]] = [
    {"reason": ["damaged"]},
    {"reason": ""},
    {"reason": LONG},
    {"reason": "two\nlines"},
    {"reason": "\ud800"},  # which no store takes
    {"seconds": [0]},
    {"seconds": [0, -1]},
    {"seconds": [0, math.nan]},
    {"seconds": [math.inf, 0]},
    {"seconds": ["0", 0]},
    {"info": {"width": 0}},
    {"info": {"width": -5, "height": -5}},
    {"info": {"width": 10**30}},
    {"info": {"width": 500, "height": 500_001}},
    {"info": {"width": 16.0}},
    {"info": {"width": True}},
    {"info": {"height": "16"}},
    {"info": {"height": None}},
    {"info": {"format": None}},
    {"info": {"format": ""}},
    {"info": {"format": LONG}},
    {"info": {"taken": ["2026"]}},
    {"info": {"taken": "\ud800"}},
    {"info": {"camera": "\x1b[2J"}},
    {"info": {"camera": LONG}},
    {"info": {"holds": 1}},
    {"info": {"holds": "colour\n"}},
    {"info": {"shown": -1}},
    {"info": {"shown": 1001}},
    {"info": {"shown": 0.5}},
    {"info": {"colour": "red"}},
]


@linux
@pytest.mark.parametrize("claimed", NO_FACTS, ids=lambda claimed: ascii(claimed)[:60])
def test_facts_that_no_picture_has_count_as_a_crash(start: Callable[..., Decoders], claimed: dict[str, Any]) -> None:
    """They would end the build at its commit, or stay in the catalog."""
    assert reason_of(start().submit(f"claim {json.dumps(claimed)}".encode(), "JPEG")) == "crashed the decoder"


@linux
def test_facts_that_a_picture_can_have_are_believed(start: Callable[..., Decoders]) -> None:
    facts = {
        "width": 500,
        "height": 500_000,
        "taken": "2026-01-01T00:00:00",
        "camera": "Ž" * 129,
        "shown": 0,
        "holds": "",
    }
    prepared = start().submit(f"claim {json.dumps({'info': facts, 'seconds': [0.5, 2]})}".encode(), "JPEG").result()
    assert prepared.info == PictureInfo(**facts, format="PLANTED")  # type: ignore[arg-type]
    assert (prepared.decoding, prepared.fitting) == (0.5, 2)


def test_half_an_answer_is_not_waited_for(start: Callable[..., Decoders]) -> None:
    decoders = start(seconds=0.5)
    assert reason_of(decoders.submit(b"send {", "JPEG")) == "took longer than 0.5 s to decode"
    assert decoders.submit(b"four", "JPEG").result().pixels.max() == 4


@linux
@pytest.mark.parametrize("size", [0, 1, 16 * 16 * 3])
def test_pixels_that_are_too_few_count_as_a_crash(start: Callable[..., Decoders], size: int) -> None:
    """Also where the shared memory is cut short, which would end a process that had mapped it."""
    decoders = start()
    assert reason_of(decoders.submit(f"cut {size}".encode(), "JPEG")) == "crashed the decoder"
    assert decoders.submit(b"four", "JPEG").result().pixels.max() == 4


@linux
def test_what_is_written_later_changes_nothing(start: Callable[..., Decoders]) -> None:
    decoders = start()
    first = decoders.submit(b"a", "JPEG").result()
    assert decoders.submit(b"four", "JPEG").result().pixels.max() == 4
    assert first.pixels.max() == 1


@linux
def test_shared_memory_has_no_name_and_shrinks_after_a_large_file(
    start: Callable[..., Decoders], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "KEPT_BYTES", 1 << 20)
    decoders = start()
    assert tell(decoders, "os.readlink(f'/proc/self/fd/{shared()}')") == "/memfd:indexer (deleted)"
    assert tell(decoders, "os.fstat(shared()).st_size " + " " * (2 << 20)) == str((2 << 20) + 32)
    assert int(tell(decoders, "os.fstat(shared()).st_size")) < 100


def test_what_a_decoder_prints_goes_nowhere(start: Callable[..., Decoders], capfd: pytest.CaptureFixture[str]) -> None:
    decoders = start()
    for _ in range(3):
        assert decoders.submit(b"print", "JPEG").result().pixels.max() == 5
    decoders.close()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("boot", ["raise SystemExit(1)", "import no_such_module", "print('hello')"])
def test_a_worker_that_does_not_start_is_no_fault_of_the_picture(monkeypatch: pytest.MonkeyPatch, boot: str) -> None:
    """A million pictures must not be skipped for it."""
    monkeypatch.setattr(worker, "BOOT", boot)
    with Decoders(SPEC, 1) as decoders:
        for _ in range(2):
            error = decoders.submit(EVERY_FORMAT["PNG"], "PNG").exception()
            assert isinstance(error, IndexerError)
            assert not isinstance(error, PictureError)
            assert "process" in str(error)


# -- what a worker is --------------------------------------------------------------------------------------------------


def test_workers_start_on_first_use_and_stay(start: Callable[..., Decoders], monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    real = subprocess.Popen

    def counting(*arguments: object, **options: object) -> subprocess.Popen[bytes]:
        started.append(arguments)
        return real(*arguments, **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(subprocess, "Popen", counting)
    decoders = start(3)
    assert not started
    for _ in range(6):
        decoders.submit(b"a", "JPEG").result()
    assert len(started) <= 3


def test_a_worker_is_small(start: Callable[..., Decoders]) -> None:
    large = {"torch", "timm", "faiss", "click", "rich", "jinja2"}
    assert tell(start(), f"{large} & sys.modules.keys() or 'none'") == "none"


@linux
def test_a_worker_keeps_to_one_core(start: Callable[..., Decoders]) -> None:
    assert tell(start(), "os.environ['OMP_NUM_THREADS'], os.environ['OPENBLAS_NUM_THREADS']") == "('1', '1')"


@linux
def test_a_crash_writes_no_core_file(start: Callable[..., Decoders]) -> None:
    decoders = start()
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    limit = tell(decoders, "__import__('resource').getrlimit(__import__('resource').RLIMIT_CORE)")
    resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))
    assert limit == "(0, 0)"


def test_ctrl_c_is_the_parent_s_business(start: Callable[..., Decoders]) -> None:
    decoders = start()
    process = process_id(decoders)
    os.kill(process, signal.SIGINT)
    assert process_id(decoders) == process


# -- ends --------------------------------------------------------------------------------------------------------------


@linux
def test_nothing_stays_behind(start: Callable[..., Decoders]) -> None:
    before, threads = children(), set(threading.enumerate())
    numbers = len(os.listdir("/proc/self/fd"))
    decoders = start(2, seconds=0.5)
    for order in (b"a", b"segfault", b"loop", b"raise", b"b", b"c"):
        decoders.submit(order, "JPEG").exception()
    assert children() > before
    assert any("memfd" in os.readlink(f"/proc/self/fd/{number}") for number in open_files())
    decoders.close()
    assert children() == before
    assert set(threading.enumerate()) == threads
    assert len(os.listdir("/proc/self/fd")) == numbers


@linux
def test_closing_ends_also_a_decoder_in_the_middle_of_a_picture(start: Callable[..., Decoders]) -> None:
    before = children()
    decoders = start(2, seconds=30)
    for _ in range(2):
        decoders.submit(b"a", "JPEG").result()
    running = [decoders.submit(b"loop", "JPEG") for _ in range(2)]
    waiting = [decoders.submit(b"a", "JPEG") for _ in range(5)]
    wait_until(lambda: all(future.running() for future in running))
    begun = time.monotonic()
    decoders.close()
    assert time.monotonic() - begun < 5
    assert children() == before
    assert all(isinstance(future.exception(), IndexerError) for future in running)
    assert all(future.cancelled() for future in waiting)


@linux
def test_closing_ends_also_a_decoder_that_is_being_started(
    start: Callable[..., Decoders], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun_to_start = threading.Event()
    real = subprocess.Popen

    def slowly(*arguments: object, **options: object) -> subprocess.Popen[bytes]:
        begun_to_start.set()
        time.sleep(0.3)
        return real(*arguments, **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(subprocess, "Popen", slowly)
    before = children()
    decoders = start(seconds=30)
    decoders.submit(b"loop", "JPEG")
    begun_to_start.wait()
    begun = time.monotonic()
    decoders.close()
    assert time.monotonic() - begun < 5
    assert children() == before


def test_closing_twice_or_unused_is_nothing(start: Callable[..., Decoders]) -> None:
    decoders = start()
    decoders.close()
    decoders.close()


PARENT = """
import json, sys, time
sys.path[:] = json.loads(sys.argv[1])
from indexer.pictures import worker
from indexer.pictures.decoders import Decoders
from indexer.pictures.prepare import Limits
from indexer.records import Preprocess
from tests.pictures import planted
worker.BOOT = planted.BOOT
decoders = Decoders(Preprocess((16, 16)), 2, Limits(seconds=2))
ids = [decoders.submit(b"tell os.getpid()", "JPEG").exception().reason for _ in range(2)]
for order in sys.argv[2:]:
    decoders.submit(order.encode(), "JPEG")
time.sleep(0.3)
print(*ids, flush=True)
time.sleep(3600)
"""


@linux
@pytest.mark.parametrize("orders", [[], ["loop", "sleep in C"]])
def test_workers_whose_parent_is_killed_end_by_themselves(orders: list[str]) -> None:
    command = [sys.executable, "-c", PARENT, json.dumps(sys.path), *orders]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        ids = {int(word) for word in parent.stdout.readline().split()}
        assert ids
        assert all(is_alive(process) for process in ids)
        parent.kill()
    wait_until(lambda: not any(is_alive(process) for process in ids), seconds=5)


def test_prepare_is_decode_and_fit() -> None:
    prepared = prepare(EVERY_FORMAT["PNG"], "PNG", SPEC, Limits())
    assert np.array_equal(prepared.pixels, fit(quarters(), SPEC))
    assert prepared.info.format == "PNG"


def test_a_higher_pixel_limit_brings_memory_along() -> None:
    assert Limits.for_pixels(1000) == Limits(pixels=1000)
    assert Limits.for_pixels(1_000_000_000).megabytes > 11_000


KILLS_ITSELF = (
    "import os, signal\n"
    "left = int(open(os.environ['LEFT']).read())\n"
    "if left:\n"
    "    open(os.environ['LEFT'], 'w').write(str(left - 1))\n"
    "    os.kill(os.getpid(), signal.SIGKILL)\n"
)


@pytest.mark.parametrize("times", [1, 2])
def test_a_process_that_is_killed_while_it_starts_is_started_once_more(
    start: Callable[..., Decoders], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """By the system, say, when memory runs out: that says nothing of the picture."""
    left = tmp_path / "left"
    left.write_text(str(times))
    monkeypatch.setenv("LEFT", str(left))
    monkeypatch.setattr(worker, "BOOT", KILLS_ITSELF + planted.BOOT)
    future = start().submit(b"fine", "PLANTED")
    if times == 1:
        assert future.result().info.format == "PLANTED"
    else:
        with pytest.raises(IndexerError, match="could not be started"):
            future.result()
