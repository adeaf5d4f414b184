"""What of the machine may be used: what taskset leaves, and what a container's limits leave."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from indexer import machine


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Control groups in which this process is in /job/step, as SLURM has it."""
    (tmp_path / "groups" / "job" / "step").mkdir(parents=True)
    (tmp_path / "own").write_text("12:memory:/elsewhere\n0::/job/step\n")
    monkeypatch.setattr(machine, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(machine, "_OWN_GROUP", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    return tmp_path / "groups"


def test_without_limits_all_of_it(groups: Path) -> None:
    (groups / "job" / "cpu.max").write_text("max 100000\n")
    (groups / "job" / "memory.max").write_text("max\n")
    assert machine.cores() == 16
    assert machine.memory() == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize("folder", [".", "job", "job/step"])
def test_the_least_of_all_limits_holds(groups: Path, folder: str) -> None:
    (groups / "cpu.max").write_text("900000 100000\n")
    (groups / "memory.max").write_text("9000000\n")
    (groups / folder / "cpu.max").write_text("250000 100000\n")
    (groups / folder / "memory.max").write_text("8000000\n")
    (groups.parent / "cpu.max").write_text("100000 100000\n")  # no group's
    assert machine.cores() == 3
    assert machine.memory() == 8_000_000


@pytest.mark.parametrize(("limit", "cores"), [("50000 100000", 1), ("1600000 100000", 16), ("9900000 100000", 16)])
def test_there_is_one_core_at_least_and_no_more_than_are_allowed(groups: Path, limit: str, cores: int) -> None:
    (groups / "cpu.max").write_text(limit)
    assert machine.cores() == cores


@pytest.mark.parametrize("text", ["", "0 0", "max", "x y", "-1 100000"])
def test_what_says_nothing_limits_nothing(groups: Path, text: str) -> None:
    (groups / "cpu.max").write_text(text)
    (groups / "memory.max").write_text(text)
    assert machine.cores() == 16
    assert machine.memory() > 8_000_000


def test_where_there_are_no_groups(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (groups / "cpu.max").write_text("100000 100000")
    (groups.parent / "own").write_text("4:memory:/job\n")
    assert machine.cores() == 16
    (groups.parent / "own").unlink()
    assert machine.cores() == 16
    monkeypatch.delattr(os, "sched_getaffinity")
    assert machine.cores() == os.cpu_count()
