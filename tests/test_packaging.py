"""What goes into the source archive."""

from __future__ import annotations

import tomllib

from .conftest import ROOT


def test_the_tests_run_from_a_source_archive() -> None:
    """A pattern without a slash before it would take files of that name anywhere."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert {"/data", "/indexer", "/tests", "/README.md", "/Makefile"} <= set(included)
    assert all(name.startswith("/") and (ROOT / name[1:]).exists() for name in included)
