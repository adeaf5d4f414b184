"""Records as text: tables where a person looks, tab-separated lines where a program reads."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..records import (
    TIERS,
    Applied,
    BenchReport,
    BuildReport,
    Calibration,
    CatalogInfo,
    DuplicateGroup,
    DuplicatesReport,
    ImageRecord,
    Match,
    Skipped,
    VerifyReport,
)

if TYPE_CHECKING:
    from rich.table import Table

SHOWN_SKIPS = 10
# of a Progress, for people
STAGES = {
    "scan": "looking for files",
    "check": "checking the catalog",
    "load": "loading the model",
    "embed": "embedding",
    "index": "indexing",
    "train": "training the index",
    "measure": "measuring the index",
    "pairs": "comparing vectors",
    "looks": "comparing looks",
    "compare": "comparing pictures",
    "edit": "editing pictures",
    "decode": "decoding",
    "forward": "running the model",
    "commit": "storing",
    "query": "searching",
    "agree": "comparing precisions",
}


def printable(text: str) -> str:
    """A name that cannot move the cursor, colour the terminal or break a line."""
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def in_line(path: str) -> str:
    """A path in a line that another program reads: its bytes, but for what would break the line or do something."""
    return "".join(c if c.isprintable() or "\udc80" <= c <= "\udcff" else _escaped(c) for c in path)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was no Unicode
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def short(path: str) -> str:
    """A path as seen from here, where that is shorter."""
    try:
        relative = os.path.relpath(path)
    except (ValueError, FileNotFoundError):  # another drive; the current folder was deleted
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


def command(*words: str | Path, catalog: Path | None = None) -> str:
    """What to type next, whatever is in the names; with the catalog, where one was named."""
    named = () if catalog is None else ("--catalog", catalog)
    return shlex.join(map(str, ("indexer", *words, *named)))


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
        yield from _left_out(report)
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
            f"  embedded {report.embedded:,} at {report.images_per_second:.1f} pictures/s "
            f"with {printable(report.model or '')} on {report.device}, {report.precision}; "
            f"{report.seconds:.1f} s in all"
        )
    else:
        yield f"  nothing to embed ({report.seconds:.2f} s)"
    yield from _left_out(report)
    yield from (f"  {printable(remark)}" for remark in report.remarks)
    if report.new_skipped:
        yield f"Skipped {plural(len(report.new_skipped), 'new file')}:"
        yield from (f"  {line}" for line in skips(report.new_skipped[:SHOWN_SKIPS]))
        if len(report.new_skipped) > SHOWN_SKIPS:
            yield f"  ... and {len(report.new_skipped) - SHOWN_SKIPS:,} more; see: indexer skips"


def _left_out(report: BuildReport) -> Iterator[str]:
    if report.exclude:
        yield printable(f"  left out: {', '.join(report.exclude)}")


def skips(items: Iterable[Skipped]) -> Iterator[str]:
    """A line a file."""
    return (f"{short(item.path)}: {printable(item.reason)}" for item in items)


def skip_lines(items: Iterable[Skipped]) -> Iterator[str]:
    """The same for another program."""
    return (f"{in_line(item.path)}: {printable(item.reason)}" for item in items)


def match_lines(matches: Sequence[Match]) -> Iterator[str]:
    """Tab-separated: score, path."""
    return (f"{match.score:.4f}\t{in_line(match.path)}" for match in matches)


def match_table(title: str, matches: Sequence[Match]) -> Table:
    """A table for a terminal."""
    table = _table(("", "score", "picture", "size", "label"), title=f"like {title}")
    for match in matches:
        _add_row(
            table,
            *(str(match.rank), f"{match.score:.3f}", short(match.path), _dimensions(match.image), _label(match.image)),
        )
    return table


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()) -> Table:
    """Any table for a terminal; some columns flush right."""
    made = _table(columns, right=right)
    for row in rows:
        _add_row(made, *row)
    return made


def info(found: CatalogInfo) -> Iterator[tuple[str, str]]:
    """Names and values."""
    yield "catalog", printable(str(Path(found.catalog).absolute()))
    yield "format", str(found.format)
    yield "model", f"{printable(found.model)} ({found.dim} dimensions)" if found.model else "none yet"
    for root in found.roots:
        yield "folder", printable(root)
    for pattern in found.exclude:
        yield "left out", printable(pattern)
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


def _add_row(table: Table, *cells: str) -> None:
    """A row that reads as it is written: no markup, no :cat: that becomes a picture of one."""
    from rich.text import Text

    table.add_row(*(Text(printable(cell)) for cell in cells))


def _dimensions(image: ImageRecord) -> str:
    return f"{image.width} x {image.height}"


def _label(image: ImageRecord) -> str:
    if not image.labels:
        return ""
    return f"{image.labels[0].label.split(',')[0]} {image.labels[0].probability:.0%}"


def verify(report: VerifyReport) -> Iterator[str]:
    """What is wrong and what was done about it, or that all is well."""
    if report.ok and not report.repaired:
        yield "Everything is as it was written."
    yield from (f"damaged: {printable(problem)}" for problem in report.problems)
    yield from (f"repaired: {printable(what)}" for what in report.repaired)
    yield from (f"lost: {printable(what)}" for what in report.lost)
    yield from (f"note: {printable(note)}" for note in report.notes)


def group_lines(group: DuplicateGroup) -> Iterator[str]:
    """Tab-separated: group, tier, action, score, path."""
    return (
        f"{group.id}\t{image.tier}\t{image.action}\t{image.score:.4f}\t{in_line(image.path)}" for image in group.images
    )


def group_table(group: DuplicateGroup) -> Table:
    """A group for a terminal."""
    columns = ("", "score", "picture", "size", "bytes", "why")
    table = _table(columns, right=("score", "size", "bytes"), title=group.id)
    for image in group.images:
        why = f"kept: {image.why}" if image is group.keep else f"{image.tier}: {image.why}"
        _add_row(
            table,
            image.action,
            "" if image is group.keep else f"{image.score:.3f}",
            short(image.path),
            _dimensions(image.image),
            size(image.image.bytes),
            why,
        )
    return table


def found_duplicates(report: DuplicatesReport) -> str:
    """How many there are, of which tiers; or how many pictures are in the other catalog too."""
    others = [image for group in report for image in group.others]
    tiers = [(sum(image.tier == tier for image in others), tier) for tier in TIERS]
    counts = ", ".join(f"{count:,} {tier}" for count, tier in tiers if count) or "none"
    if report.against:
        share = len(others) / report.images if report.images else 0
        found = f"{len(others):,} of {plural(report.images, 'picture')} ({share:.2%})"
        return f"{found} are in {printable(report.against)} too: {counts}"
    groups = plural(len(report), "group")
    return f"{groups} of duplicates among {plural(report.images, 'picture')}; beside those to keep: {counts}"


def duplicates(report: DuplicatesReport, plan: Path | None, catalog: Path | None = None) -> Iterator[str]:
    """What was found in all, and how to go on. catalog: where one was named."""
    yield f"{found_duplicates(report)} ({report.seconds:.1f} s)"
    freed = sum(image.image.bytes for image in report.removable)
    if freed:
        yield f"Without them {size(freed)} less."
    if report.recall is not None:
        yield f"{approximate(report.recall)} To compare all pairs, which takes longer: --all-pairs."
    if report.remembered:
        again = command("dedup", "--ask-again", catalog=catalog)
        yield f"{plural(report.remembered, 'group')} left out: remembered as no duplicates. To see them again: {again}"
    if report.unread:
        yield f"{plural(report.unread, 'picture')} could not be read for a closer look."
    if not report.calibrated:
        yield "Thresholds are cautious defaults; indexer calibrate measures them on your pictures."
    if plan is not None:
        yield f"Wrote {plan}. Look at it, then: {command('apply', plan, catalog=catalog)}"


def approximate(recall: float) -> str:
    """What a search through an index is worth."""
    return f"Approximate: an index named the nearest pictures, about {recall:.1%} of them."


def applied(step: Applied) -> str:
    """A line a file."""
    state = "done" if step.done else "would" if step.would else "left"
    return f"{state}\t{step.action}\t{printable(step.path)}" + (f"\t{printable(step.why)}" if step.why else "")


def calibration(found: Calibration) -> Iterator[str]:
    """The thresholds, and what they would do."""
    yield (
        f"Measured on {plural(found.sample, 'picture')} with ten edits each and {found.pairs:,} pairs of different "
        f"pictures; {printable(found.model)}."
    )
    yield f"copy      from {found.copy:.2f}, then verified"
    yield f"similar   from {found.similar:.2f}"
    yield ""
    yield "edit             found   and verified   (of those at or above the copy threshold)"
    for name, (recall, verified) in found.edits.items():
        yield f"{name:<16}{recall:>6.0%}   {verified:>12.0%}"
    yield f"Shares are known to about {found.uncertainty:.0%}."
    yield f"Where no false pair is expected, there may still be {found.unseen:,.0f} in the whole collection."
    yield ""
    yield "threshold   edits found   verified   false pairs expected   precision unverified"
    for point in found.points[::5]:
        yield (
            f"{point.threshold:>9.2f}   {point.recall:>11.0%}   {point.verified:>8.0%}   {point.false_pairs:>20,.0f}   "
            f"{point.precision:>20.3f}"
        )


def bench(report: BenchReport) -> Iterator[str]:
    """What the machine does, stage by stage, and which of them is the slowest."""
    from ..neighbours.choosing import EXACT_NUMBERS

    where = f" with {report.device_name}" if report.device_name else ""
    yield f"machine   {printable(report.processor)}, {plural(report.cores, 'core')}; {report.device}{where}"
    yield f"model     {printable(report.model)}, {report.operations / 1e9:,.1f} GFLOP a picture"
    yield f"pictures  {printable(report.pictures)}"
    yield ""
    decoding = report.decoding
    processes = "1 process" if decoding.processes == 1 else f"{decoding.processes:,} processes"
    yield f"{'stage':<34}{'pictures/s':>12}"
    yield _rate("decode, one core", decoding.decode)
    yield _rate("prepare, one core", decoding.prepare)
    yield _rate(f"decode and prepare, {processes}", decoding.together)
    yield _rate(f"forward, {report.precision}, batch {report.batch}", report.stages["forward"])
    yield _rate("store", report.store)
    yield _rate(f"end to end, {plural(report.built, 'picture')}", report.end_to_end)
    yield f"Bottleneck: {report.bottleneck}. A build reaches {report.share_of_bottleneck:.0%} of it."
    yield ""
    yield f"{'forward':<10}{'batch':>6}{'pictures/s':>12}{'share of peak':>15}{'peak':>16}"
    for found in report.forwards:
        peak = f"{found.peak / 1e9:,.0f} GFLOP/s"
        yield f"{found.precision:<10}{found.batch:>6}{found.rate:>12,.1f}{found.share:>15.0%}{peak:>16}"
    yield "The peak is what large matrix products reach here in this precision, measured; it is no data sheet's."
    for agreed in report.agreements:
        yield (
            f"{agreed.precision} against fp32, {plural(agreed.pictures, 'picture')}: cosine {agreed.mean_cosine:.5f} "
            f"in the mean, {agreed.lowest_cosine:.5f} at least; same nearest neighbour {agreed.same_first:.0%}"
        )
    yield ""
    yield f"{'exact search among':<24}{'a query':>12}{'vectors/s':>16}"
    for search in report.searches:
        yield f"{plural(search.vectors, 'vector'):<24}{search.seconds * 1e3:>9,.2f} ms{search.rate:>16,.0f}"
    within = f"{_rounded(report.searched_within(0.01))} in 10 ms, {_rounded(report.searched_within(0.1))} in 100 ms"
    yield f"That is some {within}. From {_rounded(EXACT_NUMBERS // report.dim)} vectors on build makes an index."
    yield ""
    yield from map(printable, report.remarks)
    yield f"Measured in {report.seconds:.0f} s."


def _rate(what: str, rate: float) -> str:
    return f"{what:<34}{rate:>12,.1f}"


def _rounded(count: int) -> str:
    """Two digits of it."""
    return f"{float(f'{count:.2g}'):,.0f}"
