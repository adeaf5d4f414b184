"""Files of a test are young; what young files need is tested in test_clocks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from indexer.pictures import scan


@pytest.fixture(scope="module")
def old_files() -> Iterator[None]:
    """Times are trusted at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "SETTLED_NS", 0)
        yield
