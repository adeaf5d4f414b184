"""A decoder that does what it is told: it stands in for one that crashes, hangs, eats memory, or was taken over."""

from __future__ import annotations

import ctypes
import json
import os
import sys
import threading
import time
from dataclasses import asdict
from typing import Any, NoReturn

import numpy as np

from indexer.errors import PictureError
from indexer.pictures import serving
from indexer.pictures.prepare import DIGEST_BYTES, Limits, Prepared
from indexer.pictures.signature import SIGNATURE_BYTES
from indexer.records import Fingerprint, PictureInfo, Preprocess

# what a test starts instead of a worker's own boot code
BOOT = "import json,sys; sys.path[:]=json.loads(sys.argv[1]); from tests.pictures.planted import main; main()"
# where serve() sends its answers, as main() keeps it: serve() moves them off stdout
ANSWERS = -1
# bytes of shared memory in which a picture has room
ENOUGH = 1 << 16
# how much longer than its limit a worker lives whose parent is gone
GRACE_SECONDS = 2.5

hoard: list[bytes] = []


def answer(data: bytes, kind: str, preprocess: Preprocess, limits: Limits, exact: bool) -> Prepared:
    """A picture of one byte's grey, or a disaster."""
    order = data.decode()
    if order == "segfault":
        ctypes.string_at(0)
    elif order == "abort":
        os.abort()
    elif order == "exit":
        os._exit(0)
    elif order == "raise":
        raise RuntimeError("a bug")
    elif order == "loop":
        while True:
            pass
    elif order == "sleep in C":
        ctypes.CDLL(None).sleep(3600)
    elif order == "sleep a little":
        time.sleep(0.3)
    elif order == "hoard":
        while True:
            hoard.append(bytes(1 << 20))
    elif order == "print":
        for stream in (sys.stdout, sys.stderr):
            stream.write("chatter from Python\n")
            stream.flush()
        ctypes.CDLL(None).puts(b"chatter from C")
        os.write(1, b'{"answers": [{"reason": "not from the decoder"}]}\n')
        os.write(2, b"TIFFReadDirectory: Warning, Unknown field\n")
    elif order == "die later":
        threading.Timer(0.05, os._exit, [1]).start()
    elif order.startswith("send "):
        os.write(ANSWERS, order.removeprefix("send ").encode())
        time.sleep(3600)
    elif order.startswith("cut "):
        claim(int(order.removeprefix("cut ")), {})
    elif order.startswith("claim "):
        claim(ENOUGH, json.loads(order.removeprefix("claim ")))
    elif order.startswith("tell "):
        raise PictureError(str(eval(order.removeprefix("tell "))))  # the order comes from the test, word for word
    height, width = preprocess.size
    pixels = np.full((height, width, 3), len(data), np.uint8)
    known = Fingerprint(bytes(DIGEST_BYTES), bytes(SIGNATURE_BYTES))
    return Prepared(pixels, PictureInfo(width, height, "PLANTED"), known)


def claim(room: int, claimed: dict[str, Any]) -> NoReturn:
    """Answer that there is a picture, in shared memory of so many bytes. claimed: what its sound facts give way to."""
    os.ftruncate(shared(), room)
    info = {**asdict(PictureInfo(16, 16, "PLANTED")), **claimed.get("info", {})}
    answer = {"seconds": [0, 0], **claimed, "info": info}
    os.write(ANSWERS, json.dumps({"answers": [answer]}).encode() + b"\n")
    time.sleep(3600)
    raise AssertionError


def shared() -> int:
    """The memory that this process shares with its parent."""
    return next(n for n in range(3, 100) if os.path.realpath(f"/proc/self/fd/{n}").startswith("/memfd:"))


def main() -> None:
    global ANSWERS
    ANSWERS = os.dup(1)
    serving.GRACE_SECONDS = GRACE_SECONDS
    serving.serve(answer)
