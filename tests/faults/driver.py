"""`indexer`, with the fake embedder, in a process that comes to grief at a named point of its work.

    PLAN='{"point": "commit after", "nth": 2, ...}' python -m tests.faults.driver build FOLDER --catalog DIR

Nothing in indexer knows of this: the points are planted by wrapping its functions.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

from ..fakes import FakeEmbedder

# so small that every build commits several times
COMMIT_IMAGES = 5
# a decoder that never comes to an end, and lets nothing in Python interrupt it
HANGING = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from indexer.pictures.serving import serve; "
    "from tests.faults.driver import hang; serve(hang)"
)


@dataclass(frozen=True)
class Plan:
    """What is to happen.

    log: a file that is told of every forward pass and commit. nth: from 1. file_size: bytes that a file may have.
    dawdle: seconds that a forward pass takes longer. hang: decoders never answer.
    """

    log: str
    point: str = ""
    nth: int = 1
    fake: bool = True
    file_size: int | None = None
    dawdle: float = 0.0
    hang: bool = False

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class Grief:
    """Kills its own process at the nth call."""

    def __init__(self, nth: int) -> None:
        self.left = nth

    def __call__(self) -> None:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)  # in a thread, until it has happened


def before(owner: Any, name: str) -> Callable[[Grief], None]:
    """When a function or method is called."""

    def plant(grief: Grief) -> None:
        def call(real: Callable[..., Any], *a: Any, **k: Any) -> Any:
            grief()
            return real(*a, **k)

        wrap(owner, name, call)

    return plant


def after(owner: Any, name: str) -> Callable[[Grief], None]:
    """When it returns."""

    def plant(grief: Grief) -> None:
        def call(real: Callable[..., Any], *a: Any, **k: Any) -> Any:
            result = real(*a, **k)
            grief()
            return result

        wrap(owner, name, call)

    return plant


def within(owner: Any, name: str) -> Callable[[Grief], None]:
    """Before each thing that a generator gives."""

    def plant(grief: Grief) -> None:
        def items(real: Callable[..., Iterator[Any]], *a: Any, **k: Any) -> Iterator[Any]:
            for item in real(*a, **k):
                grief()
                yield item

        wrap(owner, name, items)

    return plant


def renaming(ending: str, *, done: bool) -> Callable[[Grief], None]:
    """Before or after a file with such a name takes its place."""

    def plant(grief: Grief) -> None:
        def replace(real: Callable[..., None], source: Any, target: Any) -> None:
            hit = os.fspath(target).endswith(ending)
            if hit and not done:
                grief()
            real(source, target)
            if hit and done:
                grief()

        wrap(os, "replace", replace)

    return plant


def wrap(owner: Any, name: str, call: Callable[..., Any]) -> None:
    """Put a function in the place of another, which is given to it first."""
    real = getattr(owner, name)

    @functools.wraps(real)
    def wrapper(*a: Any, **k: Any) -> Any:
        return call(real, *a, **k)

    setattr(owner, name, wrapper)


def points() -> dict[str, Callable[[Grief], None]]:
    """Every named point of a repair and of a build, in the order in which it comes to them."""
    from sqlite_utils.db import Database

    from indexer.neighbours import making
    from indexer.pictures import batches
    from indexer.pictures.decoders import Decoders
    from indexer.store import lock, salvage, seal
    from indexer.store.store import Store
    from indexer.store.survey import Survey
    from indexer.verbs import build, nearest

    return {
        "salvage before": before(salvage, "_copy"),
        "salvage after": after(salvage, "_copy"),
        "salvage rename before": renaming("/catalog.sqlite", done=False),
        "salvage rename after": renaming("/catalog.sqlite", done=True),
        "salvaged": after(salvage, "salvage"),
        "made": before(Store, "_migrate"),
        "migration": before(Database, "execute"),
        "lock": after(lock, "_acquire"),
        "left over": after(build, "remove_left_over"),
        "seal break before": before(seal, "break_it"),
        "seal break after": after(seal, "break_it"),
        "root": after(Store, "add_root"),
        "scan": within(build, "find"),
        "read": before(batches, "read"),
        "model": after(Store, "use_model"),
        "decode": after(Decoders, "submit"),
        "embed before": before(FakeEmbedder, "forward"),
        "embed after": after(FakeEmbedder, "forward"),
        "commit before": before(Store, "commit"),
        "commit contents": after(Store, "_insert_contents"),
        "commit vectors": after(Store, "_insert_vectors"),
        "commit after": after(Store, "commit"),
        "clean-up before": before(Survey, "finish"),
        "clean-up after": after(Survey, "finish"),
        "index before": before(making, "_write_rows"),
        "index after": after(making, "_write_rows"),
        "stamp after": after(making, "append_stamp"),
        "index rename before": renaming(".faiss", done=False),
        "index rename after": renaming(".faiss", done=True),
        "index named": after(Store, "use_neighbours"),
        "others removed": after(nearest, "remove_others"),
        "refreshed": after(nearest, "refresh"),
        "seal before": before(seal, "make"),
        "seal rename before": renaming(".seal", done=False),
        "seal rename after": renaming(".seal", done=True),
        "seal after": after(seal, "make"),
    }


def hang(*_: object) -> NoReturn:
    """Instead of decoding."""
    say(json.loads(os.environ["PLAN"])["log"], "hang", os.getpid())
    ctypes.PyDLL(None).sleep(60)
    raise AssertionError


def say(log: str, word: str, number: int) -> None:
    """One line in the log, whole even when the process is killed right after."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(handle, f"{word} {number}\n".encode())
    os.close(handle)


def tell(plan: Plan) -> None:
    """Keep a log of what is embedded and of what is committed."""
    from indexer.store.store import Store

    def forward(real: Callable[..., Any], embedder: FakeEmbedder, batch: Any) -> Any:
        say(plan.log, "embed", len(batch))
        time.sleep(plan.dawdle)
        return real(embedder, batch)

    def commit(real: Callable[..., None], store: Store, *a: Any) -> None:
        real(store, *a)
        say(plan.log, "commit", store.generation)

    wrap(FakeEmbedder, "forward", forward)
    wrap(Store, "commit", commit)


def main() -> None:
    from indexer.cli import common
    from indexer.cli import main as run
    from indexer.pictures import scan, worker
    from indexer.verbs import build, nearest

    plan = Plan(**json.loads(os.environ["PLAN"]))
    scan.SETTLED_NS = 0  # files of a test are young
    build.COMMIT_IMAGES = COMMIT_IMAGES
    nearest.MAX_TAIL = 0  # a few new pictures are enough to have an index written
    if plan.fake:
        common.loader = lambda *_: lambda _: FakeEmbedder(batch_size=4)
    tell(plan)
    if plan.hang:
        worker.BOOT = HANGING
    if plan.point:
        points()[plan.point](Grief(plan.nth))
    if plan.file_size is not None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (plan.file_size, plan.file_size))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    run()


if __name__ == "__main__":
    sys.argv[0] = "indexer"
    main()
