"""A decoding process: what it does between its start and its end. worker.py is its parent's side."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ..errors import PictureError
from ..records import Preprocess
from .decode import load_plugins
from .exchange import put, receive, send, take
from .prepare import Limits, Prepared, prepare

# so much longer than its limit a worker lives in a picture that its parent, being gone, does not end
GRACE_SECONDS = 5.0


def serve(answer: Callable[[bytes, str, Preprocess, Limits, bool], Prepared] | None = None) -> None:
    """The worker's side: answer requests from stdin until it closes. answer: what to do with one, for tests."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers itself
    requests, answering = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that a C library prints may mix with the answers
    settings = receive(requests)
    shared = settings["shared"]
    preprocess, limits = Preprocess.from_json(settings["preprocess"]), Limits(**settings["limits"])
    exact = settings["exact"]
    _prepare_process(limits)
    send(answering, {})
    while True:
        try:
            request = receive(requests)
        except EOFError:
            return
        data = take(shared, sum(size for size, _ in request["files"]))
        answers: list[dict[str, Any]] = []
        room = start = 0
        for size, kind in request["files"]:
            # a worker whose parent is gone must not hang on for ever: the alarm ends it
            _alarm(limits.seconds + GRACE_SECONDS)
            try:
                prepared = (answer or prepare)(data[start : start + size], kind, preprocess, limits, exact)
            except PictureError as error:
                answers.append({"reason": error.reason})
            except MemoryError:
                answers.append({"reason": f"needed more than {limits.megabytes:,} MB to decode"})
            else:
                known = prepared.fingerprint
                room += put(shared, prepared.pixels.tobytes() + known.pixels + known.signature, room)
                answers.append({"info": asdict(prepared.info), "seconds": (prepared.decoding, prepared.fitting)})
            start += size
        send(answering, {"answers": answers})
        _alarm(0)


def _alarm(seconds: float) -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _die_with_parent() -> None:
    """Have the system end this process when the one that started it is gone; elsewhere than on Linux the alarm does."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, prctl(2)


def _prepare_process(limits: Limits) -> None:
    """Import what decoding needs, then allow so much memory on top."""
    from PIL import Image

    load_plugins()
    _die_with_parent()
    Image.MAX_IMAGE_PIXELS = None  # our own limit is checked before the pixels are decoded
    try:
        import resource
        from pathlib import Path

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is nothing to write gigabytes about
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):  # no such limit on this system
        return
    limit = pages * resource.getpagesize() + (limits.megabytes << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
