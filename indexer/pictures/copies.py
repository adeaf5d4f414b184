"""Whether two pictures are copies of one, told by their likenesses: many pairs at once, with numpy alone.

A copy may have been encoded again, resized, recoloured, blurred, cropped, bordered or written on; another shot of the same
scene is none. One likeness is laid over the other, and then their details are compared, block by block.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from .alignment import Floats, box, levelled, reduced, refine, sample, search
from .signature import SIDE

COPY_TRIMMED, COPY_MEAN = 0.86, 0.73
UNDECIDED_TRIMMED = 0.50
WHOLE_MEAN = 0.80
REJECT = 0.45
BEST = 2
MAX_WEIGHT, NOISE, TRIMMED = 12, 0.56, 0.3
BLOCK = 8
BATCH = 128


class Verdict(IntEnum):
    DIFFERENT = 0
    UNDECIDED = 1
    COPY = 2


@dataclass
class Comparison:
    htrim: Floats
    hmean: Floats
    turned: npt.NDArray[np.int8]


def detail(p: Floats) -> Floats:
    return p - box(p, 3)


def blocks(x):
    n = SIDE // BLOCK
    return x.reshape(-1, n, BLOCK, n, BLOCK).mean(axis=(2, 4)).reshape(len(x), n * n)


def score(template: Floats, seen: Floats, inside=None):
    """(K,64,64) each -> htrim, hmean"""
    a, b = detail(template), detail(seen)
    if inside is None:
        share = np.float32(1)
        n = np.float32(1)
    else:
        m = inside.reshape(a.shape).astype(np.float32)
        a = a * m
        b = b * m
        n = blocks(m)
        share = n
    n = np.maximum(n, 1e-6)
    ma, mb = blocks(a) / n, blocks(b) / n
    va = np.maximum(blocks(a * a) / n - ma * ma, 0)
    vb = np.maximum(blocks(b * b) / n - mb * mb, 0)
    cov = blocks(a * b) / n - ma * mb
    root = np.sqrt(va * vb)
    s = cov / (root + NOISE)
    w = np.minimum(np.sqrt(root), MAX_WEIGHT) * share
    order = np.argsort(s, axis=1)
    s = np.take_along_axis(s, order, 1)
    w = np.take_along_axis(w, order, 1)
    total = np.maximum(w.sum(1), 1e-6)
    hmean = (s * w).sum(1) / total
    # leave out the worst that hold 30 % of the weight
    kept = np.clip(np.cumsum(w, 1) - TRIMMED * total[:, None], 0, w)
    htrim = (s * kept).sum(1) / np.maximum(kept.sum(1), 1e-6)
    if inside is not None:
        ok = m.mean(axis=(1, 2)) >= 0.5
        htrim, hmean = htrim * ok, hmean * ok
    return htrim, hmean


def decide(ht, hm):
    return np.where((ht >= COPY_TRIMMED) | (hm >= COPY_MEAN), 2, np.where(ht >= UNDECIDED_TRIMMED, 1, 0))


def prepare(x):
    x = x.astype(np.float32)
    return x, levelled(reduced(x, 32)), levelled(reduced(x, 16))


ID = np.eye(2, 3, dtype=np.float32)


def starts(a16, b16, best=BEST):
    """-> coarse score (K,), maps (K, P, 2,3), swapped (P,)"""
    s1, m1 = search(b16, a16, best)   # windows of a: template b, source a
    s2, m2 = search(a16, b16, best)
    return s1, m1, s2, m2


def compare(left, right, best=BEST, reject=REJECT, debug=None):
    a, a32, a16 = prepare(left)
    b, b32, b16 = prepare(right)
    ht, hm = score(a, b)
    ht0, hm0 = ht.copy(), hm.copy()
    s1, m1, s2, m2 = starts(a16, b16, best)
    coarse = np.maximum(s1[:, 0], s2[:, 0])
    if debug is not None:
        debug.update(coarse=coarse, ht0=ht0, hm0=hm0)
    todo = np.flatnonzero((decide(ht, hm) < 2) & (coarse >= reject))
    if debug is not None:
        debug['todo'] = len(todo)
    def attempt(todo, maps, direction):
        if not len(todo):
            return
        t, s, t32, s32 = (b, a, b32, a32) if direction == 0 else (a, b, a32, b32)
        maps = refine(t32[todo], s32[todo], maps)
        seen, inside = sample(s[todo], maps)
        h, m = score(t[todo], seen.reshape(-1, SIDE, SIDE), inside)
        better = (h > ht[todo])
        ht[todo] = np.where(better, h, ht[todo])
        hm[todo] = np.where(better, m, hm[todo])
    for k in range(best + 1):
        for direction in (0, 1):
            todo = todo[decide(ht[todo], hm[todo]) < 2]
            if k == 0:
                if direction == 1: continue
                maps = np.broadcast_to(ID, (len(todo), 2, 3)).copy()
            else:
                maps = (m1, m2)[direction][todo, k - 1]
            attempt(todo, maps, direction)
    return ht, hm
