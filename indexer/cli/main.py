"""The `indexer` command: its commands, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import io
import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING

import click

from ..errors import IndexerError
from ..render.text import printable
from . import common
from .apply import apply
from .bench import bench
from .build import build
from .calibrate import calibrate
from .classify import classify
from .dedup import dedup
from .embed import embed
from .export import export
from .info import info
from .models import models
from .query import query
from .serve import serve
from .skips import skips
from .verify import verify

if TYPE_CHECKING:
    from typing_extensions import Buffer

DONE, ERROR, USAGE, INTERRUPTED, BROKEN_PIPE, TERMINATED = 0, 1, 2, 130, 141, 143


_stopping: list[int] = []


class Terminated(BaseException):
    """SIGTERM: the same way out as Ctrl-C, with another exit code."""


class ReaderGone(BaseException):
    """The reader of stdout has seen enough, which click would report as an error."""


class ResultsRefused(BaseException):
    """stdout takes no more, as on a full disk."""


class Results(io.FileIO):
    """The file of stdout, whose failures are told from those of any other."""

    def write(self, data: Buffer, /) -> int:
        """Raises ReaderGone, ResultsRefused."""
        try:
            return super().write(data)
        except BrokenPipeError as error:
            raise ReaderGone from error
        except OSError as error:
            raise ResultsRefused(error.strerror) from error


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="indexer", message="indexer %(version)s")
def cli() -> None:
    """Point it at folders of pictures: it knows what is in them, finds what looks alike, and clears out duplicates.

    \b
    indexer build ~/Pictures      make a catalog of them, or bring it up to date
    indexer query cat.jpg         the pictures most like this one
    indexer dedup                 groups of pictures that are the same

    Results go to stdout, everything else to stderr; --json prints JSON.
    Exit codes: 0 done, 1 error, 2 wrong usage, 3 done but some files were skipped, 130 interrupted.
    """


COMMANDS = (
    *(build, query, serve, dedup, apply, calibrate, classify, embed),
    *(models, info, skips, verify, export, bench),
)
for command in COMMANDS:
    cli.add_command(command)


def main() -> None:
    """Run the command line and exit."""
    debug = "--debug" in sys.argv[1:]
    _prepare_streams()
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)
    try:
        sys.exit(cli.main(prog_name="indexer", standalone_mode=False) or DONE)
    except click.ClickException as error:
        if not isinstance(error, click.exceptions.NoArgsIsHelpError):  # whose message is all of --help
            error.message = printable(error.message)  # type: ignore[misc]  # which click does not change itself
        error.show()
        sys.exit(error.exit_code)
    except IndexerError as error:
        if debug:
            raise
        common.say(f"Error: {error}")
        sys.exit(ERROR)
    except (click.Abort, KeyboardInterrupt):
        common.say("Interrupted. What was committed stays; the same command goes on from there.")
        sys.exit(INTERRUPTED)
    except Terminated:
        common.say("Terminated. What was committed stays; the same command goes on from there.")
        sys.exit(TERMINATED)
    except ReaderGone:
        _drop_results()
        sys.exit(BROKEN_PIPE)
    except ResultsRefused as error:
        _drop_results()
        if debug:
            raise
        common.say(f"Error: The results cannot be written ({error}). Make room, or send them elsewhere.")
        sys.exit(ERROR)


def _drop_results() -> None:
    """Nothing is to be said of what waits to be written, not even by the interpreter's own flush at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _stop(number: int, _frame: FrameType | None) -> None:
    """The first signal unwinds and keeps what is done, the second leaves at once; both lose nothing committed."""
    if _stopping:
        os._exit(128 + number)
    _stopping.append(number)
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated


def _prepare_streams() -> None:
    """All three are there, and names that are no Unicode pass through as the bytes that they are."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by the caller: its number would be that of the next file to be opened
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
    given = sys.__stdout__
    if given is not None and sys.stdout is given:
        file = io.BufferedWriter(Results(given.fileno(), "w", closefd=False))
        sys.stdout = io.TextIOWrapper(file, given.encoding, line_buffering=given.line_buffering)
    for stream in (sys.stdout, sys.stderr, sys.stdin):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="surrogateescape")
