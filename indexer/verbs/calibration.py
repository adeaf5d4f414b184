"""calibrate: what a threshold means for this collection and this model, measured on known edits of its own pictures.

Recall is the share of edits that a threshold keeps. False pairs are those of different pictures, scaled from a sample
to the whole collection. Precision needs to know how many duplicates there are: as many as verified copies were found in
the sample, and one for every hundred pictures at the least.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..embed.embedder import Embedder
from ..errors import CatalogError, InvalidArgument
from ..halves import unit
from ..neighbours.pairs import pairs_above
from ..pictures.copies import Verdict, compare
from ..pictures.edits import EDITS, edited, signature_of
from ..pictures.signature import likenesses
from ..pictures.single import shrunk
from ..records import Calibration, CalibrationPoint, Progress
from ..store.rows import StoredModel
from ..store.store import Store
from ..store.vectors import as_stored
from .candidates import TOP, Candidates, Nodes
from .judging import Judge

Scores = npt.NDArray[np.float32]

# where nothing was calibrated: low enough for nearly all copies (they are verified), high enough for few others
DEFAULT_COPY, DEFAULT_SIMILAR = 0.4, 0.9
PRECISION = 0.99
# of near neighbours that are different pictures, so many were taken for copies: see benchmarks/copies.py
FALSE_ACCEPT = 1e-4
GRID = tuple(round(0.30 + 0.01 * step, 2) for step in range(70))
SAMPLE = 100
PICTURE_SIDE = 640
_AT_ONCE = 8
_FEWEST_COPIES = 0.01


class Thresholds(NamedTuple):
    """Lowest cosine similarity of what is verified, and of what is not."""

    copy: float
    similar: float
    calibrated: bool


class _Edits(NamedTuple):
    """(pictures, edits) each: similarity to the original, and whether the edit is recognised as its copy."""

    scores: Scores
    verified: npt.NDArray[np.bool_]


class _Unrelated(NamedTuple):
    """counts: for each threshold, pairs of a sampled picture and another one that is no copy, at or above it."""

    counts: npt.NDArray[np.float64]
    pairs: int
    copies: int


def thresholds(store: Store, model: StoredModel) -> Thresholds:
    """What the last calibration of the catalog's model found, or cautious defaults."""
    kept = store.calibration(model)
    if kept is None:
        return Thresholds(DEFAULT_COPY, DEFAULT_SIMILAR, calibrated=False)
    found = json.loads(kept)
    return Thresholds(found["copy"], found["similar"], calibrated=True)


def calibrate(
    store: Store, embedder: Callable[[], Embedder], sample: int, progress: Callable[[Progress], None]
) -> Calibration:
    """Measure, store and return the thresholds for the catalog's model.

    embedder: asked for when there is something to measure. sample: pictures to edit, each in ten ways.
    Raises InvalidArgument, and CatalogError where there are no two pictures, or none can be read.
    """
    if sample < 1:
        raise InvalidArgument(f"A sample of {sample} pictures tells nothing. Give 1 or more.")
    model = store.require_model()
    with store.snapshot():
        nodes = Nodes.of(store, model)
        if len(nodes.contents) < 2:
            raise CatalogError(
                "The catalog holds no two different pictures, so there is nothing to tell copies from. Add some with: "
                "indexer build FOLDER."
            )
        progress(Progress("load"))
        loaded = embedder()
        places = np.unique(np.linspace(0, len(nodes.contents) - 1, min(sample, len(nodes.contents))).astype(np.int64))
        edits = _edit(nodes, places, loaded, progress)
        unrelated = _unrelated(nodes, places)
        found = _calibration(nodes, len(places), edits, unrelated, store.count("images"))
    store.keep_calibration(model, json.dumps(asdict(found)))
    return found


def _edit(
    nodes: Nodes, places: npt.NDArray[np.int64], embedder: Embedder, progress: Callable[[Progress], None]
) -> _Edits:
    scores, verified = [], []
    for start in range(0, len(places), _AT_ONCE):
        part = places[start : start + _AT_ONCE]
        pictures = shrunk([nodes.path_of(int(nodes.contents[place])) for place in part], PICTURE_SIDE)
        for place, picture in zip(part, pictures, strict=True):
            if picture is None:
                continue
            versions = [edited(picture, name) for name in EDITS]
            original = unit(nodes.rows[place : place + 1])[0]
            scores.append(as_stored(embedder.embed(versions)) @ original)
            seen = likenesses([signature_of(version) for version in versions])
            own = likenesses([nodes.signature_of(int(nodes.contents[place]))] * len(versions))
            verified.append(compare(own, seen).verdicts == Verdict.COPY)
        progress(Progress("edit", min(start + _AT_ONCE, len(places)), len(places)))
    if not scores:
        raise CatalogError("None of the sampled pictures can be read. Check that the folders are there.")
    return _Edits(np.stack(scores), np.stack(verified))


def _unrelated(nodes: Nodes, places: npt.NDArray[np.int64]) -> _Unrelated:
    """Every sampled picture against all others, without those that are verified copies."""
    counts = np.zeros(len(GRID))
    sampled = nodes.rows[places]
    edges = np.array([*GRID, np.inf], np.float32)
    for start in range(0, len(nodes.rows), TOP * 256):
        scores = unit(sampled) @ unit(nodes.rows[start : start + TOP * 256]).T
        counts += np.histogram(scores, edges)[0][::-1].cumsum()[::-1]
    counts -= len(places)  # each with itself
    near = pairs_above(sampled, GRID[0], TOP, others=nodes.rows)
    others = places[near.left] != near.right
    pairs = Candidates(places[near.left[others]], near.right[others], near.scores[others])
    copies = [score for _, _, score, judged in Judge().judge(nodes, nodes, pairs) if judged.tier == "copy"]
    counts -= np.histogram(copies, edges)[0][::-1].cumsum()[::-1]
    return _Unrelated(np.maximum(counts, 0), len(places) * (len(nodes.rows) - 1), len(copies))


def _calibration(nodes: Nodes, sample: int, edits: _Edits, unrelated: _Unrelated, images: int) -> Calibration:
    size = len(nodes.contents)
    copies = max(unrelated.copies, _FEWEST_COPIES * sample)
    points = []
    for threshold, false in zip(GRID, unrelated.counts.tolist(), strict=True):
        above = edits.scores >= threshold
        recall, verified = float(above.mean()), float((above & edits.verified).mean())
        points.append(
            CalibrationPoint(
                threshold,
                recall,
                verified,
                false_pairs=false / sample * size / 2,
                precision=_share(copies * recall, false),
                verified_precision=_share(copies * verified, false * FALSE_ACCEPT),
            )
        )
    copy = next((point.threshold for point in points if point.verified_precision >= PRECISION), GRID[-1])
    similar = next((point.threshold for point in points if point.precision >= PRECISION), GRID[-1])
    above = edits.scores >= copy
    by_edit = {
        name: (float(above[:, i].mean()), float((above & edits.verified)[:, i].mean())) for i, name in enumerate(EDITS)
    }
    recall = float(above.mean())
    # edits of one picture are not independent: the number of pictures counts
    uncertainty = 1.96 * math.sqrt(max(recall * (1 - recall), 0.25 / len(edits.scores)) / len(edits.scores))
    key = nodes.model.id.key
    return Calibration(
        key, images, len(edits.scores), unrelated.pairs, copy, similar, uncertainty, by_edit, tuple(points)
    )


def _share(true: float, false: float) -> float:
    return true / (true + false) if true + false > 0 else 1.0
