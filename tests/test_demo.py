"""What `make demo` shows: photographs and edited copies of them, with the trained model of data/eva-tiny."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from indexer import Catalog

from .conftest import EVA_TINY, PHOTOS, ROOT


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, str(ROOT / "data" / "make_copies.py"), str(PHOTOS), str(folder / "pictures")]
    subprocess.run(command, check=True, capture_output=True)
    with Catalog.create(folder / "catalog", model=str(EVA_TINY)) as catalog:
        assert catalog.build([folder / "pictures"]).embedded == 105
        yield catalog


def original(path: str) -> str:
    return Path(path).stem.partition("--")[0]


def test_every_edited_copy_finds_its_original_first(demo: Catalog) -> None:
    copies = [image.path for image in demo if "--" in image.path]
    results, skipped = demo.query_many(copies, k=1, where="path NOT LIKE '%--%'")
    assert (len(results), skipped) == (84, [])
    for result in results:
        (best,) = result.matches
        assert Path(best.path).stem == original(result.query)


def test_every_photograph_finds_its_four_copies_before_all_others(demo: Catalog) -> None:
    photographs = [image.path for image in demo if "--" not in image.path]
    results, _ = demo.query_many(photographs, k=4)
    assert len(results) == 21
    for result in results:
        assert {original(match.path) for match in result.matches} == {original(result.query)}
