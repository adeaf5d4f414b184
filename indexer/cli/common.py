"""What several commands share: options, finding the catalog, reading paths, printing."""

from __future__ import annotations

import errno
import functools
import math
import os
import stat
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..embed.zoo import DEFAULT_MODEL
from ..errors import CatalogNotFound, InvalidArgument
from ..records import Skipped
from ..render.text import printable, skips

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..catalog import Catalog
    from ..embed.embedder import Embedder

F = TypeVar("F", bound=Callable[..., Any])

FOLDER = ".indexer"
VARIABLE = "INDEXER_CATALOG"
SOME_SKIPPED = 3


class Number(click.FloatRange):
    """A number in a range; click takes nan for in any, and inf for in one without an end."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Raises BadParameter, which is wrong usage."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{number} is no number to count with.", param, ctx)
        return number


def checked(check: Callable[[Any], object]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """For callback=: what `check` raises InvalidArgument for is wrong usage."""

    def callback(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
        try:
            if value is not None:
                check(value)
        except InvalidArgument as error:
            raise click.BadParameter(str(error), ctx, param) from error
        return value

    return callback


class Place(click.Path):
    """Where something is to be, as a Path. An empty one would mean this folder, which nobody means by it."""

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        """Raises BadParameter, which is wrong usage."""
        if not os.fspath(value):
            self.fail("An empty path names nothing. Give that of a file or a folder.", param, ctx)
        return super().convert(value, param, ctx)


class Result(Place):
    """Where a result is to be, in place of an older one, and never of a picture that a shell has put here."""

    def __init__(self, *endings: str) -> None:
        """endings: of results of this kind; a new file may have any."""
        super().__init__(path_type=Path, dir_okay=False, readable=False)
        self.endings = endings

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        """Raises BadParameter, which is wrong usage."""
        found = super().convert(value, param, ctx)
        path = Path(os.fsdecode(found))
        try:
            mode = path.stat().st_mode
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                self.fail(f"{found!s} cannot be written ({error.strerror}). Give a shorter name.", param, ctx)
            return found  # it is not there; or nobody may look there, as who writes it will be told
        if not stat.S_ISREG(mode):
            self.fail(f"{found!s} is no ordinary file. Give the name of one.", param, ctx)
        if self.endings and path.suffix.lower() not in self.endings:
            self.fail(f"{found!s} is there, and would be lost. Give a name that ends in {self.endings[0]}.", param, ctx)
        return found


a_folder = Place(path_type=Path)
a_file = Result()
a_page = Result(".html", ".htm")
a_plan = Result(".json")
an_array = Result(".npy")

catalog_option = click.option(
    "--catalog",
    metavar="DIR",
    envvar=VARIABLE,
    show_envvar=True,
    type=a_folder,
    help="The catalog. Default: the nearest .indexer/ here or above.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
debug_option = click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback for errors.")
null_option = click.option("-0", "--null", is_flag=True, help="Paths on stdin (-) are separated by NUL, not newline.")
max_pixels_option = click.option(
    "--max-pixels", type=click.IntRange(1), default=250_000_000, show_default=True, help="Skip larger pictures."
)


def model_options(command: F) -> F:
    """--device, --precision and --batch-size."""
    for option in (
        click.option(
            "--batch-size", type=click.IntRange(1), help="Pictures a forward pass. Default: by device and model."
        ),
        click.option(
            "--precision",
            type=click.Choice(["auto", "fp32", "bf16", "fp16", "int8"]),
            default="auto",
            show_default=True,
            help="auto: what the device does well. int8: CPUs only; its vectors do not mix with the others'.",
        ),
        click.option(
            "--device",
            default="auto",
            show_default=True,
            metavar="D",
            help="auto, cpu, cuda (every GPU, where there are several), cuda:N (one) or mps.",
        ),
    ):
        command = option(command)
    return command


def model_option(default: str = DEFAULT_MODEL) -> Callable[[F], F]:
    """--model. default: in words."""
    return click.option(
        "--model",
        metavar="M",
        help=f"A timm name, hf-hub:OWNER/NAME, or a folder with config.json and model.safetensors. Default: {default}.",
    )


def loader(device: str, precision: str, batch_size: int | None) -> Callable[[str], Embedder]:
    """load_embedder with the command's options."""
    from ..embed.embedder import load_embedder

    return functools.partial(load_embedder, device=device, precision=precision, batch_size=batch_size)


def find_catalog(given: Path | None) -> Path:
    """The catalog's folder: the given one, or the nearest .indexer/ in this folder or above.

    Raises CatalogNotFound.
    """
    if given is not None:
        return given
    with suppress(FileNotFoundError):  # this folder was deleted
        here = Path.cwd()
        for folder in (here, *here.parents):
            if is_catalog(folder / FOLDER):
                return folder / FOLDER
    raise CatalogNotFound(
        "There is no catalog here or in a folder above. Make one: indexer build FOLDER; or name one: --catalog DIR."
    )


def is_catalog(folder: Path) -> bool:
    """Whether a catalog is in this folder, or the seal from which to make it again; without what opening it imports."""
    return any((folder / name).is_file() for name in ("catalog.sqlite", "catalog.seal"))


def open_catalog(given: Path | None, loading: Callable[[str], Embedder] | None = None) -> Catalog:
    """The catalog, for reading."""
    from ..catalog import Catalog

    folder = find_catalog(given)
    if loading is None:
        return Catalog.open(folder, readonly=True)
    return Catalog.open(folder, loader=loading, readonly=True)


def expand(paths: Sequence[str], null: bool) -> list[str]:
    """The paths of the command line; '-' stands for those on stdin.

    Raises InvalidArgument where there are none after all, which would stand for everything, or pass for done.
    """
    found: list[str] = []
    for path in paths:
        if path == "-":
            text = os.fsdecode(sys.stdin.buffer.read())
            found += [line for line in text.split("\0" if null else "\n") if line]
        else:
            found.append(path)
    if paths and not found:
        raise InvalidArgument("No path came on stdin, so nothing was done.")
    return found


def is_terminal() -> bool:
    """Whether a person looks at stdout."""
    return sys.stdout.isatty()


def show(table: RenderableType, least: int = 0) -> None:
    """Print a rich table; colour follows the terminal and NO_COLOR. least: cells to which no line is folded."""
    from rich.console import Console

    console = Console(soft_wrap=False)
    console.width = max(console.width, least)
    console.print(table)


def say(message: str) -> None:
    """Talk, on stderr, in one line that no name in it can break or colour."""
    click.echo(printable(message), err=True)


def say_skipped(skipped: Iterable[Skipped]) -> None:
    """Why some named pictures were left out."""
    for line in skips(skipped):
        say(f"Skipped {line}")


def finish(skipped: Sequence[Skipped], done: int) -> None:
    """The exit code of a command over named pictures: an error where none of them could be used."""
    if skipped:
        sys.exit(SOME_SKIPPED if done else 1)
