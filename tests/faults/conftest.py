"""Files of a test are young; what young files need is tested in test_clocks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from indexer.pictures import scan
from indexer.verbs import nearest


@pytest.fixture(autouse=True)
def short_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    """The index is behind at once, so that a build has one to write."""
    monkeypatch.setattr(nearest, "MAX_TAIL", 0)


@pytest.fixture(scope="module")
def old_files() -> Iterator[None]:
    """Times are trusted at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "SETTLED_NS", 0)
        yield
