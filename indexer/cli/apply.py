"""indexer apply."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import click

from ..records import Applied, ApplyAction
from . import common


@click.command(short_help="Carry a plan of dedup out, or undo it.")
@click.argument("plan", required=False, type=click.Path(path_type=Path))
@common.catalog_option
@click.option(
    "--action",
    type=click.Choice(list(get_args(ApplyAction))),
    default="trash",
    show_default=True,
    help="What becomes of what the plan removes; links point to the image that is kept.",
)
@click.option("--to", metavar="DIR", type=common.a_folder, help="Where --action move puts files.")
@click.option("--yes", is_flag=True, help="Really do it; without, only say what would be done.")
@click.option("--log", metavar="FILE", type=common.a_file, help="The undo log. Default: PLAN.log.")
@click.option("--undo", metavar="LOG", type=click.Path(path_type=Path), help="Put back what this log says was done.")
@common.json_option
@common.debug_option
def apply(
    plan: Path | None,
    catalog: Path | None,
    action: str,
    to: Path | None,
    yes: bool,
    log: Path | None,
    undo: Path | None,
    as_json: bool,
) -> None:
    """Carry out PLAN, which indexer dedup --plan wrote and a person may have edited.

    Just before a file is touched, it and the image that is kept are read again: both must still be what they were.
    The last copy of a picture, links, and what lies outside the catalog's folders are never touched. Exit code 3: some
    files were left alone, with the reason.
    """
    from ..catalog import Catalog
    from ..render import text

    if (plan is None) == (undo is None):
        raise click.UsageError("Give a plan to carry out, or --undo LOG: one of them.")
    if undo is not None:
        done, left = _show(Catalog.undo(undo), as_json)
    else:
        assert plan is not None
        with Catalog.open(common.find_catalog(catalog), readonly=not yes) as opened:
            steps = opened.apply(plan, action=action, to=to, yes=yes, log=log)  # type: ignore[arg-type]
            done, left = _show(steps, as_json)
            images = len(opened)
        if not yes:
            common.say("This was a dry run: nothing was changed. Add --yes to do it.")
            return
        if set(done) - {"delete"}:  # an earlier run may have done another action than this one
            what = "what was not deleted" if done["delete"] else "everything"
            common.say(f"Put {what} back with: {text.command('apply', '--undo', log or f'{plan}.log')}")
        if done:
            from ..verbs.build import SAFE_REMOVAL

            many = done.total() - done["hardlink"] > SAFE_REMOVAL * images  # which a build takes for an accident
            prune = ("--prune",) if many else ()
            common.say(f"Bring the catalog in line with: {text.command('build', *prune, catalog=catalog)}")
    if left:
        common.say(f"Left alone: {text.plural(left, 'file')}, each with the reason; done: {done.total():,}.")
        sys.exit(common.SOME_SKIPPED)


def _show(steps: Iterator[Applied], as_json: bool) -> tuple[Counter[str], int]:
    """Print every step; how many were done, by action, and how many files were left alone."""
    from ..render import jsonl, text

    done: Counter[str] = Counter()
    left = 0
    for step in steps:
        if step.done:
            done[step.action] += 1
        else:
            left += 1
        click.echo(jsonl.dumps(jsonl.applied(step)) if as_json else text.applied(step))
    return done, left
