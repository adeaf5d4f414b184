"""Text for people: inert on a terminal, and in the right units."""

from __future__ import annotations

import os

import pytest

from indexer.records import Applied
from indexer.render import text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain é 猫.jpg", "plain é 猫.jpg"),
        ("a\x1b[31mred\x07", "a\\x1b[31mred\\x07"),
        ("two\nlines\r\t", "two\\nlines\\r\\t"),
        (os.fsdecode(b"\xff.jpg"), "\\xff.jpg"),
        ("\u202ejpg.exe", "\\u202ejpg.exe"),
    ],
)
def test_printable(name: str, shown: str) -> None:
    assert text.printable(name) == shown


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 KB"), (20_000, "20 KB"), (5_500_000_000, "5.5 GB")]
)
def test_size(count: int, shown: str) -> None:
    assert text.size(count) == shown


def test_plural() -> None:
    assert [text.plural(n, "picture") for n in (0, 1, 2000)] == ["0 pictures", "1 picture", "2,000 pictures"]


@pytest.mark.parametrize(
    ("step", "state"),
    [
        (Applied("/a.jpg", "delete", True), "done"),
        (Applied("/a.jpg", "delete", False, "it goes", would=True), "would"),
        (Applied("/a.jpg", "delete", False, "dry run or not, it is left"), "left"),
    ],
)
def test_applied(step: Applied, state: str) -> None:
    assert text.applied(step).split("\t")[:3] == [state, "delete", "/a.jpg"]
