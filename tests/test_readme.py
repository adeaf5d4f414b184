"""The README against the code: its snippets run, and it names every command, option and public name."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import click
import pytest

import indexer
from indexer import Catalog
from indexer.cli.main import cli
from indexer.store.filters import COLUMNS

from .conftest import ROOT

README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_there_are_snippets() -> None:
    assert len(SNIPPETS) >= 2


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_snippets_run(snippet: str, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(ROOT / "data")
    done = subprocess.run([sys.executable, "-c", snippet], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_every_command_is_named_and_explained(command: str) -> None:
    assert f"`indexer {command}" in README
    assert cli.commands[command].help


def test_every_option_is_explained() -> None:
    for name, command in cli.commands.items():
        for parameter in command.params:
            assert not isinstance(parameter, click.Option) or parameter.help, (name, parameter.name)


def test_every_column_of_a_condition_is_named() -> None:
    for column in COLUMNS:
        assert f"`{column}`" in README


def test_the_format_section_names_every_table_and_column(catalog: Catalog) -> None:
    section = README.partition("## Format")[2].partition("\n## ")[0]
    conn = sqlite3.connect(catalog.folder / "catalog.sqlite")
    tables = [name for (name,) in conn.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    for table in tables:
        if table.startswith("sqlite_"):
            continue
        assert f"`{table}`" in section, table
        if table.startswith("_"):
            continue
        for (column,) in conn.execute("SELECT name FROM pragma_table_info(?)", [table]):
            assert f"`{column}`" in section, f"{table}.{column}"
    conn.close()


def test_the_version_is_one() -> None:
    assert f"**{indexer.__version__}**" in README
    assert f'version = "{indexer.__version__}"' in (ROOT / "pyproject.toml").read_text()
