"""A catalog of six pictures behind a desk, asked without a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from indexer import Catalog
from indexer.web.app import create_app
from indexer.web.desk import Desk

from ..fakes import FakeEmbedder


@pytest.fixture
def desk(catalog: Catalog, pictures: Path, reopen: Callable[[], Catalog]) -> Iterator[Desk]:
    catalog.build([pictures])
    with Desk(reopen) as opened:
        yield opened


@pytest.fixture
def client(desk: Desk) -> FlaskClient:
    return create_app(desk, {"localhost"}).test_client()


@pytest.fixture
def reopen(tmp_path: Path, fake: FakeEmbedder) -> Callable[[], Catalog]:
    """Opens the catalog for reading, as the command does."""
    return lambda: Catalog.open(tmp_path / "catalog", loader=lambda _: fake, readonly=True)
