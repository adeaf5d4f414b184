"""What calibrate measures, and that dedup goes by it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from indexer import Catalog, CatalogError, InvalidArgument
from indexer.verbs.calibration import DEFAULT_COPY, GRID

from ..conftest import PHOTOS
from ..fakes import FakeEmbedder


@pytest.fixture
def calibrated(tmp_path: Path) -> Iterator[Catalog]:
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in sorted(PHOTOS.glob("*.jpg"))[:8]:
        with Image.open(path) as image:
            ImageOps.contain(image, (256, 256)).save(folder / f"{path.stem}.png")
    with Catalog.create(tmp_path / "catalog", loader=lambda _: FakeEmbedder()) as catalog:
        catalog.build([folder])
        yield catalog


def test_it_says_what_each_threshold_would_do(calibrated: Catalog) -> None:
    found = calibrated.calibrate(sample=8)
    assert (found.images, found.sample, found.pairs) == (8, 8, 8 * 7)
    assert [point.threshold for point in found.points] == list(GRID)
    for one, next_one in zip(found.points, found.points[1:], strict=False):
        assert one.recall >= next_one.recall
        assert one.verified <= one.recall
        assert one.false_pairs >= next_one.false_pairs
    assert found.points[0].false_pairs <= 8 * 7 / 2
    assert found.edits["JPEG q30"] == (1.0, 1.0)
    assert 0 < found.uncertainty < 0.5
    assert found.unseen == 0  # every pair was looked at
    chosen = next(point for point in found.points if point.threshold == found.copy)
    assert chosen.verified_precision >= 0.99
    strict = next(point for point in found.points if point.threshold == found.similar)
    assert strict.precision >= 0.99 or found.similar == GRID[-1]


def test_it_is_the_same_every_time(calibrated: Catalog) -> None:
    found = calibrated.calibrate(sample=4)
    assert calibrated.calibrate(sample=4) == found
    assert found.unseen == pytest.approx(3 / 4 * 4 / 2)


def test_duplicates_go_by_it(calibrated: Catalog) -> None:
    assert (calibrated.duplicates().threshold, calibrated.duplicates().calibrated) == (DEFAULT_COPY, False)
    found = calibrated.calibrate(sample=4)
    report = calibrated.duplicates()
    assert (report.threshold, report.calibrated) == (found.copy, True)
    assert calibrated.duplicates(tier="similar").threshold == found.similar
    assert calibrated.duplicates(threshold=0.77).threshold == 0.77


def test_copies_in_the_collection_are_not_false_pairs(calibrated: Catalog, tmp_path: Path) -> None:
    before = calibrated.calibrate(sample=8)
    for path in (tmp_path / "photos").glob("*.png"):
        with Image.open(path) as image:
            image.save(path.with_suffix(".jpg"), quality=90)
    calibrated.build()
    after = calibrated.calibrate(sample=16)
    high = GRID.index(0.95)
    assert after.points[high].false_pairs == before.points[high].false_pairs == 0
    assert after.points[high].precision == 1


def test_pictures_that_are_gone_are_passed_over(calibrated: Catalog, tmp_path: Path) -> None:
    paths = sorted((tmp_path / "photos").iterdir())
    for path in paths[:5]:
        path.unlink()
    assert calibrated.calibrate(sample=8).sample == 3
    for path in paths[5:]:
        path.unlink()
    with pytest.raises(CatalogError, match="None of the sampled pictures can be read"):
        calibrated.calibrate(sample=8)


def test_bad_input(calibrated: Catalog, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="tells nothing"):
        calibrated.calibrate(sample=0)
    with (
        Catalog.create(tmp_path / "empty", loader=lambda _: FakeEmbedder()) as empty,
        pytest.raises(CatalogError, match="holds no vectors yet"),
    ):
        empty.calibrate()


def test_no_model_is_loaded_where_there_is_nothing_to_measure(tmp_path: Path) -> None:
    def refuse(_: str) -> FakeEmbedder:
        raise AssertionError

    with (
        Catalog.create(tmp_path / "catalog", loader=refuse) as empty,
        pytest.raises(CatalogError, match="holds no vectors yet"),
    ):
        empty.calibrate()
    (tmp_path / "photos").mkdir()
    shutil.copy(PHOTOS / "cat.jpg", tmp_path / "photos")
    shutil.copy(PHOTOS / "cat.jpg", tmp_path / "photos" / "copy.jpg")
    with Catalog.open(tmp_path / "catalog", loader=lambda _: FakeEmbedder()) as catalog:
        catalog.build([tmp_path / "photos"])
    with Catalog.open(tmp_path / "catalog", loader=refuse) as alone:
        with pytest.raises(CatalogError, match="no two different pictures"):
            alone.calibrate()
        assert not alone.duplicates().calibrated
