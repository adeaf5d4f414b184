"""Candidates through the neighbour index, where all pairs would take too long: nearly the same, in bounds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from indexer.neighbours import pairs
from indexer.neighbours.choosing import FLAT, Wish
from indexer.neighbours.index import NeighbourIndex
from indexer.records import Fingerprint, PictureInfo, Progress, Source, Stamp
from indexer.store.rows import Entry
from indexer.store.store import Store
from indexer.verbs import candidates, nearest
from indexer.verbs.candidates import TOP, TOP_LOOKS, Candidates, Nodes

from ..fakes import FakeEmbedder

DIM = 48
COUNT = 3000
INFO = PictureInfo(64, 64, "PNG")
Rows = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


def vectors(seed: int = 0) -> Rows:
    """Unit rows, each followed by one that is close to it."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((COUNT, DIM), np.float32)
    rows[1::2] = rows[::2] + 0.3 * rows[1::2]
    return rows


def signatures(seed: int = 0) -> Bytes:
    """Noise, but every tenth looks like the one five places later."""
    made: Bytes = np.random.default_rng(seed).integers(0, 256, (COUNT, 64 * 64), np.uint8)
    made[5::10] = made[::10] // 2 + 60
    return made


def filled(
    folder: Path, rows: Rows, seen: Bytes, pixels: list[int], kind: str = "IVF32,PQ12x4fs", covered: int = COUNT
) -> Store:
    """A catalog without any picture. pixels: what each shows, by number; covered: so many are in the index."""
    folder.mkdir()
    store = Store.create(folder)
    fake = FakeEmbedder()
    store.use_model(fake.id, fake.source, fake.classes)
    root = store.add_root(b"/p")
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    entries = [
        Entry(
            Source(root, b"/p", b"%05d.png" % number, Stamp(1, 2, 3)),
            hashlib.sha256(b"%d" % number).digest(),
            number,
            INFO,
            Fingerprint(hashlib.sha256(b"p%d" % pixels[number]).digest(), seen[number].tobytes()),
            unit[number],
        )
        for number in range(len(rows))
    ]
    store.commit(entries[:covered], [], store.model())
    nearest.refresh(store, folder, lambda _: None, Wish(kind, recall=0.97))
    store.commit(entries[covered:], [], store.model())
    return store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(candidates, "BLOCK", 700)
    monkeypatch.setattr(candidates, "PATIENCE", -1.0)
    store = filled(tmp_path / "c", vectors(), signatures(), list(range(COUNT)))
    yield store
    store.close()


def look_for(
    store: Store,
    threshold: float = 0.6,
    other: Store | None = None,
    *,
    with_looks: bool = True,
    all_pairs: bool = False,
) -> tuple[Nodes, Candidates]:
    stages: list[Progress] = []
    sides = [side for side in (store, other) if side]
    nodes = [Nodes.of(side, side.model()) for side in sides]  # type: ignore[arg-type]
    with store.snapshot():
        found = candidates.candidates(
            nodes[0], nodes[1] if other else None, threshold, stages.append, with_looks=with_looks, all_pairs=all_pairs
        )
    assert any(stage.stage == "pairs" and stage.done == stage.total for stage in stages)
    return nodes[0], found


def as_dict(found: Candidates) -> dict[tuple[int, int], float]:
    return dict(zip(zip(found.left.tolist(), found.right.tolist(), strict=True), found.scores.tolist(), strict=True))


@pytest.mark.parametrize("with_looks", [False, True], ids=["vectors", "looks too"])
def test_an_index_finds_nearly_the_same_with_the_same_scores(store: Store, with_looks: bool) -> None:
    _, exact = look_for(store, with_looks=with_looks, all_pairs=True)
    _, found = look_for(store, with_looks=with_looks)
    assert exact.recall is None
    assert found.recall is not None and 0.9 < found.recall <= 1
    wanted, named = as_dict(exact), as_dict(found)
    assert len(wanted) > COUNT / 2
    assert named.items() <= wanted.items()
    assert len(named) >= 0.97 * len(wanted)
    assert list(named) == sorted(named)
    assert all(left < right for left, right in named)


def test_the_looks_find_what_the_vectors_do_not(store: Store) -> None:
    _, without = look_for(store, with_looks=False)
    _, found = look_for(store)
    more = as_dict(found).keys() - as_dict(without).keys()
    assert len(more) > 0.9 * COUNT / 10


def test_looks_that_no_structure_suits_are_searched_exactly(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    _, exact = look_for(store, all_pairs=True)
    monkeypatch.setattr(candidates, "structures", lambda *_: (FLAT,))
    _, found = look_for(store)
    assert as_dict(found).items() <= as_dict(exact).items()
    assert len(found.left) >= 0.97 * len(exact.left)


@pytest.mark.parametrize("across", [False, True], ids=["within", "against"])
def test_what_the_index_does_not_cover_is_found_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, across: bool
) -> None:
    monkeypatch.setattr(candidates, "PATIENCE", -1.0)
    covered = COUNT - 100
    store = filled(tmp_path / "c", vectors(), signatures(), list(range(COUNT)), covered=covered)
    other = store
    if across:
        other = filled(tmp_path / "o", vectors(), signatures(), list(range(COUNT)), covered=covered)
    nodes, found = look_for(store, other=other if across else None, with_looks=False)
    assert found.recall is not None
    number = {int(content): i for i, content in enumerate(nodes.contents)}
    late = [number[content] for content in range(covered + 1, COUNT + 1)]  # contents are numbered from 1
    pairs = set(as_dict(found))
    for first, second in zip(late[::2], late[1::2], strict=True):  # each is followed by one that is close to it
        assert (min(first, second), max(first, second)) in pairs
        assert not across or {(first, first), (second, first), (first, second)} <= pairs
    store.close()
    other.close()


def test_an_index_that_names_what_is_gone_does_no_harm(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    _, before = look_for(store, with_looks=False)
    search = NeighbourIndex.search

    def astray(self: NeighbourIndex, *arguments: Any) -> Any:
        scores, ids = search(self, *arguments)
        ids[:, -1], ids[::7, -2] = COUNT + 5, -1
        return scores, ids

    monkeypatch.setattr(NeighbourIndex, "search", astray)
    _, found = look_for(store, with_looks=False)
    assert as_dict(found).items() <= as_dict(before).items()
    assert len(found.left) > 0.95 * len(before.left)


def test_against_another_catalog(store: Store, tmp_path: Path) -> None:
    theirs = vectors(1)
    theirs[:500] = vectors()[700:1200]
    other = filled(tmp_path / "other", theirs, signatures(1), list(range(COUNT)))
    _, exact = look_for(store, other=other, all_pairs=True)
    _, found = look_for(store, other=other)
    other.close()
    wanted, named = as_dict(exact), as_dict(found)
    assert len(wanted) > 500
    assert named.items() <= wanted.items()
    assert len(named) >= 0.97 * len(wanted)


def test_one_picture_in_many_files_is_one_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "PATIENCE", -1.0)
    rows = vectors()
    rows[2::4] = rows[::4]
    rows[3::4] = rows[1::4]
    shows = [number - 2 if number % 4 > 1 else number for number in range(COUNT)]
    store = filled(tmp_path / "c", rows, signatures(), shows)
    nodes, found = look_for(store, threshold=0.9, with_looks=False)
    store.close()
    assert len(nodes.contents) == len(nodes.rows) == COUNT / 2
    assert len(found.left) == pytest.approx(COUNT / 4, rel=0.05)  # each with the one that is close to it


def test_many_almost_equal_pictures_stay_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "PATIENCE", -1.0)
    rng = np.random.default_rng(0)
    rows = 1 + rng.standard_normal((COUNT, DIM), np.float32) * np.float32(1e-2)
    seen = (signatures()[:1] // 2 + rng.integers(0, 9, (COUNT, 64 * 64))).astype(np.uint8)
    store = filled(tmp_path / "c", rows, seen, list(range(COUNT)))
    _, found = look_for(store)
    store.close()
    assert COUNT * 2 < len(found.left) <= COUNT * (TOP + TOP_LOOKS)


def test_a_catalog_without_such_an_index_is_compared_pair_by_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "PATIENCE", -1.0)
    store = filled(tmp_path / "c", vectors(), signatures(), list(range(COUNT)), kind="flat")
    _, found = look_for(store, with_looks=False)
    store.close()
    assert found.recall is None


def test_small_collections_are_never_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.ones((50_000, 2), np.float16)
    assert pairs.estimate(rows[:20_000], 0.5, 4, multiplier=pairs.Blas()) == 0
    assert pairs.estimate(rows, 2.0, 4, multiplier=pairs.Blas()) > 0
