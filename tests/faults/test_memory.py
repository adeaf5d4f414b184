"""A build's memory does not grow with the number of pictures."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ..conftest import ROOT

# what is remembered of the last few thousand pictures, and SQLite's cache of 16 MB, have come to their size by then
WARM = 60_000


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """A folder that does not stay until pytest's third run from now."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def weights(folder: Path, pictures: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Pictures done and resident megabytes, (N, 2)."""
    command = [sys.executable, "-m", "tests.faults.weigh", str(folder), str(pictures)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return np.array(json.loads(done.stdout), np.float64) / [1, 1 << 20]


def megabytes_per_10_000(weighed: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> float:
    return float(np.polyfit(weighed[:, 0], weighed[:, 1], 1)[0]) * 10_000


def test_memory_stays_flat_over_some_thousands(scratch: Path) -> None:
    weighed = weights(scratch, 8000)
    assert weighed[-1, 0] == 8000
    assert weighed[-1, 1] - weighed[weighed[:, 0] > 5000][0, 1] < 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_memory_stays_flat_over_two_hundred_thousand(scratch: Path) -> None:
    weighed = weights(scratch, 200_000)
    assert weighed[-1, 0] == 200_000
    assert megabytes_per_10_000(weighed[weighed[:, 0] > WARM]) < 0.2
    assert megabytes_per_10_000(weighed) < 1
    assert weighed[:, 1].max() < 200
