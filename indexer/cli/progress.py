"""A progress bar, where a person looks."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from ..records import Progress


def progress_bar(first: str) -> AbstractContextManager[Callable[[Progress], None]]:
    """A bar where a person looks at stderr, else nothing. first: the stage that a command begins with."""
    return _bar(first) if sys.stderr.isatty() else _silence()


@contextmanager
def _silence() -> Iterator[Callable[[Progress], None]]:
    yield lambda _: None


@contextmanager
def _bar(first: str) -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    from ..render.text import STAGES

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(STAGES[first], total=None, note="")
        since = 0.0

        def update(progress: Progress) -> None:
            nonlocal since
            if not progress.embedded:
                since = time.monotonic()  # loading the model is over when the first batch is
            elapsed = time.monotonic() - since
            speed = f"{progress.embedded / elapsed:.1f} pictures/s" if progress.embedded and elapsed > 1 else ""
            skipped = f", {progress.skipped:,} skipped" if progress.skipped else ""
            bar.update(
                task,
                description=STAGES[progress.stage],
                completed=progress.done,
                total=progress.total,
                note=speed + skipped,
            )

        yield update
