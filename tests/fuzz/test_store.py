"""Hypothesis against the store: any order of commits, removals and questions, compared with a plain dictionary."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from indexer.records import Fingerprint, ModelId, PictureInfo, Preprocess, Source, Stamp
from indexer.store.checking import problems
from indexer.store.rows import Entry, Refusal
from indexer.store.store import Store
from indexer.store.survey import Survey

KNOWN = Fingerprint(bytes(32), bytes(4096))
MODEL = ModelId("m", "0" * 64, Preprocess((8, 8)), dim=8)
names = st.binary(min_size=1, max_size=6).filter(lambda name: b"\0" not in name and b"/" not in name)
texts = st.one_of(st.none(), st.text(max_size=10))


def vector(seed: int) -> np.ndarray:
    row = np.random.default_rng(seed).standard_normal(8).astype(np.float32)
    unit: np.ndarray = row / np.linalg.norm(row)
    return unit


class Stores(RuleBasedStateMachine):
    """The store, and what should be in it: path -> seed of its content, or its reason."""

    def __init__(self) -> None:
        super().__init__()
        self.scratch = tempfile.TemporaryDirectory()
        self.store = Store.create(Path(self.scratch.name))
        self.root = self.store.add_root(b"/r")
        self.model = self.store.use_model(MODEL, "m", [("a", "a"), ("b", "b")])
        self.images: dict[bytes, int] = {}
        self.skips: dict[bytes, str | None] = {}

    def source(self, path: bytes, size: int = 1) -> Source:
        return Source(self.root, b"/r", path, Stamp(size, 2, 3))

    @rule(items=st.dictionaries(names, st.integers(0, 9), max_size=5), taken=texts, camera=texts)
    def commit(self, items: dict[bytes, int], taken: str | None, camera: str | None) -> None:
        entries = []
        for path, seed in items.items():
            info = PictureInfo(seed + 1, 5, "PNG", taken, camera)
            digest = hashlib.sha256(bytes([seed])).digest()
            labels = ((seed % 2, 0.5),)
            entries.append(Entry(self.source(path, seed), digest, seed, info, KNOWN, vector(seed), labels))
        self.store.commit(entries, [], self.model)
        self.images.update(items)
        for path in items:
            self.skips.pop(path, None)

    @rule(path=names, reason=texts)
    def refuse(self, path: bytes, reason: str | None) -> None:
        self.store.commit([], [Refusal(self.source(path), reason, "x")], self.model)
        self.images.pop(path, None)
        self.skips[path] = reason

    @precondition(lambda self: self.images)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        gone = data.draw(st.sets(st.sampled_from(sorted(self.images))))
        survey = Survey(self.store)
        for known in self.store.known(self.root, b"", self.model, set()):
            if known.path in gone:
                survey.add_gone(self.root, known.path, known.image_id)
        survey.finish()
        for path in gone:
            del self.images[path]

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = Store.open(Path(self.scratch.name))

    @invariant()
    def everything_is_there(self) -> None:
        found = list(self.store.known(self.root, b"", self.model, set()))
        assert [known.path for known in found] == sorted([*self.images, *self.skips])
        assert {known.path for known in found if known.image_id is not None} == set(self.images)
        assert {known.path: known.reason for known in found if known.image_id is None} == self.skips
        for path, seed in self.images.items():
            place = self.store.images.place_of(b"/r/" + path)
            assert place
            row = self.store.vectors.of_content(place[1], self.model)
            assert row is not None
            assert row @ vector(seed) > 0.999
        assert list(problems(self.store)) == []

    def teardown(self) -> None:
        self.store.close()
        self.scratch.cleanup()


TestStores = Stores.TestCase
