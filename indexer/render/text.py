"""Records as text: tables where a person looks, tab-separated lines where a program reads."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..records import BuildReport, CatalogInfo, ImageRecord, Match, Skipped, VerifyReport

if TYPE_CHECKING:
    from rich.table import Table

SHOWN_SKIPS = 10


def printable(text: str) -> str:
    """A name that cannot move the cursor, colour the terminal or break a line."""
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was no Unicode
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def short(path: str) -> str:
    """A path as seen from here, where that is shorter."""
    try:
        relative = os.path.relpath(path)
    except ValueError:  # another drive
        return printable(path)
    return printable(min(path, relative, key=len) if not relative.startswith("..") else path)


def size(count: int) -> str:
    """Bytes for people."""
    value = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError


def plural(count: int, word: str) -> str:
    """'1 picture', '2,000 pictures'."""
    return f"{count:,} {word}" + ("" if count == 1 else "s")


def build(report: BuildReport) -> Iterator[str]:
    """A summary that reads well."""
    if report.dry_run:
        yield (
            f"Would read {plural(report.added, 'new file')} and {report.changed:,} changed, "
            f"and forget {report.removed:,}; {report.unchanged:,} unchanged. Nothing was done."
        )
        return
    different = "" if report.contents == report.images else f", {report.contents:,} of them different"
    yield f"{plural(report.images, 'picture')} in {printable(report.catalog)}{different}"
    counts = {
        name: getattr(report, name)
        for name in ("added", "changed", "moved", "removed", "unchanged", "skipped", "ignored")
        if getattr(report, name)
    }
    yield "  " + (", ".join(f"{name} {count:,}" for name, count in counts.items()) or "no pictures found")
    if report.embedded:
        yield (
            f"  embedded {report.embedded:,} at {report.images_per_second:.1f} pictures/s with {report.model} "
            f"on {report.device}, {report.precision}; {report.seconds:.1f} s in all"
        )
    else:
        yield f"  nothing to embed ({report.seconds:.2f} s)"
    if report.new_skipped:
        yield f"Skipped {plural(len(report.new_skipped), 'new file')}:"
        yield from (f"  {line}" for line in skips(report.new_skipped[:SHOWN_SKIPS]))
        if len(report.new_skipped) > SHOWN_SKIPS:
            yield f"  ... and {len(report.new_skipped) - SHOWN_SKIPS:,} more; see: indexer skips"


def skips(items: Iterable[Skipped]) -> Iterator[str]:
    """A line a file."""
    return (f"{short(item.path)}: {printable(item.reason)}" for item in items)


def match_lines(matches: Sequence[Match]) -> Iterator[str]:
    """Tab-separated: score, path."""
    return (f"{match.score:.4f}\t{printable(match.path)}" for match in matches)


def match_table(title: str, matches: Sequence[Match]) -> Table:
    """A table for a terminal."""
    table = _table(("", "score", "picture", "size", "label"), title=f"like {title}")
    for match in matches:
        table.add_row(
            str(match.rank), f"{match.score:.3f}", _name(match.path), _dimensions(match.image), _label(match.image)
        )
    return table


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()) -> Table:
    """Any table for a terminal; some columns flush right."""
    made = _table(columns, right=right)
    for row in rows:
        made.add_row(*row)
    return made


def info(found: CatalogInfo) -> Iterator[tuple[str, str]]:
    """Names and values."""
    yield "catalog", printable(str(Path(found.catalog).absolute()))
    yield "format", str(found.format)
    yield "model", f"{found.model} ({found.dim} dimensions)" if found.model else "none yet"
    for root in found.roots:
        yield "folder", printable(root)
    yield "images", f"{found.images:,} ({found.contents:,} different, {found.vectors:,} vectors)"
    yield "skipped", f"{found.skipped:,}" + (" (see: indexer skips)" if found.skipped else "")
    covered = f", covers {found.neighbours.covered:,}, recall@10 {found.neighbours.recall:.3f}"
    yield "neighbours", found.neighbours.kind + (covered if found.neighbours.covered else "")
    for name, count in found.bytes.items():
        yield "on disk", f"{name}, {size(count)}"


def _table(columns: Sequence[str], right: Sequence[str] = ("", "score", "size"), title: str | None = None) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, title=Text(title) if title else None, title_justify="left", pad_edge=False)
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return made


def _name(path: str) -> str:
    from rich.markup import escape

    return escape(short(path))


def _dimensions(image: ImageRecord) -> str:
    return f"{image.width} x {image.height}"


def _label(image: ImageRecord) -> str:
    from rich.markup import escape

    return escape(f"{image.labels[0].label.split(',')[0]} {image.labels[0].probability:.0%}") if image.labels else ""


def verify(report: VerifyReport) -> Iterator[str]:
    """What is wrong and what was done about it, or that all is well."""
    if report.ok and not report.repaired:
        yield "Everything is as it was written."
    yield from (f"damaged: {printable(problem)}" for problem in report.problems)
    yield from (f"repaired: {printable(what)}" for what in report.repaired)
    yield from (f"lost: {printable(what)}" for what in report.lost)
    yield from (f"note: {printable(note)}" for note in report.notes)
