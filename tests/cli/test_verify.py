"""indexer verify: what it says to type next, what it shows meanwhile, and which catalog it finds."""

from __future__ import annotations

import json
import shlex
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from indexer.cli import verify
from indexer.records import Progress

from .conftest import Run


def harm(folder: Path, sql: str) -> None:
    """Change a row behind the back of everything."""
    with closing(sqlite3.connect(folder / "catalog.sqlite")) as conn:
        conn.execute(sql)
        conn.commit()


def test_what_to_type_next_names_the_catalog_that_was_named(run: Run, pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my catalog"
    assert run("build", pictures, "--catalog", folder).code == 0
    harm(folder, "UPDATE contents SET width = width + 1 WHERE id = 2")
    found = run("verify", "--catalog", folder)
    assert found.code == 1
    (hint,) = found.err.splitlines()
    head, _, words = hint.partition(": ")
    assert head == "Repair it with"
    assert run(*shlex.split(words)[1:]).code == 0
    assert run("verify", "--catalog", folder).code == 0


def test_a_repair_shows_how_far_it_is(run: Run, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Progress] = []

    @contextmanager
    def recorder(first: str) -> Iterator[Callable[[Progress], None]]:
        yield seen.append

    assert run("build", pictures).code == 0
    harm(Path(".indexer"), "UPDATE vectors SET vector = zeroblob(length(vector)) WHERE id = 2")
    monkeypatch.setattr(verify, "progress_bar", recorder, raising=False)
    assert run("verify", "--repair").code == 0
    assert [(step.done, step.total) for step in seen if step.stage == "embed"] == [(1, 1)]


def test_a_catalog_of_which_only_the_seal_is_left_is_found(run: Run, pictures: Path) -> None:
    assert run("build", pictures).code == 0
    Path(".indexer/catalog.sqlite").unlink()
    for words in (["info"], ["build"], ["build", pictures], ["build", pictures, "--dry-run"], ["dedup"]):
        done = run(*words)
        assert done.code == 1
        assert "is damaged" in done.err
        assert "indexer verify --repair" in done.err
        assert not Path(".indexer/catalog.sqlite").exists()
    assert run("verify").code == 1
    assert run("verify", "--repair").code == 0
    assert json.loads(run("info", "--json").out)["images"] == 6
    assert run("verify").out == "Everything is as it was written.\n"


def test_what_was_lost_is_no_success(run: Run, pictures: Path) -> None:
    assert run("build", pictures, "--exclude", "*.tif").code == 0
    Path(".indexer/catalog.seal").unlink()
    harm(Path(".indexer"), "UPDATE meta SET value = 7 WHERE key = 'exclude'")
    done = run("verify", "--repair", "--json")
    report = json.loads(done.out)
    assert (done.code, report["ok"]) == (1, False)
    assert any("indexer build --exclude" in lost for lost in report["lost"])
    assert any("catalog.before-repair.sqlite" in note for note in report["notes"])


def test_a_build_that_a_repair_has_brought_to_its_end_is_not_left_to_be_run(run: Run, pictures: Path) -> None:
    assert run("build", pictures).code == 0
    Path(".indexer/catalog.seal").unlink()
    assert "run indexer build" in run("verify").out
    assert run("verify", "--repair").out == "repaired: the last build was brought to its end\n"
