"""Text for people: inert on a terminal, and in the right units."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from rich.console import Console

from indexer.records import (
    Applied,
    BuildReport,
    CatalogInfo,
    DuplicateGroup,
    DuplicateImage,
    ImageRecord,
    Label,
    Match,
    NeighboursInfo,
)
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


def test_a_path_is_shown_from_a_folder_that_was_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    assert text.short("/a.png") == "/a.png"


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 KB"), (20_000, "20 KB"), (5_500_000_000, "5.5 GB")]
)
def test_size(count: int, shown: str) -> None:
    assert text.size(count) == shown


def test_plural() -> None:
    assert [text.plural(n, "picture") for n in (0, 1, 2000)] == ["0 pictures", "1 picture", "2,000 pictures"]


def test_a_model_and_its_labels_do_nothing_on_a_terminal() -> None:
    red = "\x1b[31mred"
    image = ImageRecord("a.png", "0" * 64, 1, 2, 3, "PNG", labels=(Label(red, 0, 0.5),))
    table = io.StringIO()
    Console(file=table, width=200).print(text.match_table("a.png", [Match(1, 0.5, image)]))
    neighbours = NeighboursInfo("flat", 0, 1.0)
    info = CatalogInfo("c", 2, red, 4, (), 1, 1, 1, 0, neighbours, {})
    report = BuildReport("c", red, 4, "cpu", "fp32", images=1, contents=1, embedded=1)
    shown = [table.getvalue(), *(value for _, value in text.info(info)), *text.build(report)]
    assert sum("\\x1b[31mred" in line for line in shown) == 3
    assert not any("\x1b" in line for line in shown)


def test_a_table_shows_what_is_written() -> None:
    """Brackets are no markup, and :cat: is no picture of one."""
    odd = "[/]x [bold]y :cat: [link=a]"
    image = ImageRecord(f"/{odd}.png", "0" * 64, 1, 2, 3, "PNG", labels=(Label(odd, 0, 0.5),))
    group = DuplicateGroup(
        "abc",
        DuplicateImage(image, 1.0, "exact", "keep", f"its path matches *{odd}*"),
        (DuplicateImage(image, 0.9, "copy", "remove", "\x1b[31mred"),),
    )
    for table, count in (
        (text.group_table(group), 3),
        (text.match_table(odd, [Match(1, 0.5, image)]), 3),
        (text.table(("a", "b"), [(odd, odd)]), 2),
    ):
        shown = io.StringIO()
        Console(file=shown, width=400).print(table)
        assert shown.getvalue().count(odd) == count
        assert "\x1b" not in shown.getvalue()


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
