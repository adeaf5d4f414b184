"""A condition that a user writes, held to being one: it can read the documented columns and do nothing else."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import chain

import numpy as np
import numpy.typing as npt

from ..errors import InvalidArgument
from .sqlite_errors import code_of

COLUMNS = (
    "path",
    "bytes",
    "width",
    "height",
    "format",
    "taken",
    "camera",
    "sha256",
    "modified",
    "label",
    "probability",
)
_BEHIND_THE_VIEW = frozenset({"images", "roots", "contents", "models", "labels", "classes"})
# what a condition can be the cause of; None: of Python's own refusals, of a second statement for one
_TO_BLAME = frozenset(
    {
        *(sqlite3.SQLITE_ERROR, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_AUTH),
        *(sqlite3.SQLITE_INTERRUPT, None),
    }
)
# bytes of a text or blob that it may make; a path has 4,096 at most
_LONGEST = 1 << 20
_FORBIDDEN_FUNCTIONS = frozenset({"load_extension", "writefile", "readfile", "edit", "fts3_tokenizer"})


def images_where(conn: sqlite3.Connection, condition: str) -> npt.NDArray[np.int64]:
    """Content id and image id, (M, 2), of the images for which an SQL condition over COLUMNS holds.

    Raises InvalidArgument for anything that is not one condition, or that SQLite cannot read, and sqlite3.Error where
    the condition is not to blame.
    """
    if not balanced(condition):
        raise InvalidArgument(_refusal(condition, "its brackets or quotes do not match"))
    conn.set_authorizer(_only_pictures)
    longest = conn.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST)
    try:
        return np.fromiter(chain.from_iterable(_passing(conn, condition)), np.int64).reshape(-1, 2)
    finally:
        conn.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, longest)
        conn.set_authorizer(None)


def _passing(conn: sqlite3.Connection, condition: str) -> Iterator[tuple[int, int]]:
    try:
        yield from conn.execute(f"SELECT content_id, image_id FROM pictures WHERE (\n{condition}\n)")
    except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
        if isinstance(error, sqlite3.Error) and code_of(error) not in _TO_BLAME:
            raise
        interrupted = code_of(error) == sqlite3.SQLITE_INTERRUPT if isinstance(error, sqlite3.Error) else False
        raise InvalidArgument(_refusal(condition, "it takes too long" if interrupted else str(error))) from None


def images_labelled(conn: sqlite3.Connection, label: str) -> npt.NDArray[np.int64]:
    """The same, of the images of which the current model has a label among its best: a class by any of its names.

    Raises InvalidArgument for one that no class has.
    """
    rows = conn.execute(
        "SELECT class, classes.name, description, model_id FROM classes JOIN models ON models.id = model_id AND current"
    )
    known = [((index, model), (name, text, *text.split(","))) for index, name, text, model in rows]
    wanted = label.strip().casefold()
    named = [one for one, spellings in known if wanted in {spelling.strip().casefold() for spelling in spellings}]
    if not named:
        import difflib

        words = [spelling.strip() for _, (_, _, *parts) in known for spelling in parts]
        near = difflib.get_close_matches(label, words, n=3)
        hint = f"Did you mean {', '.join(near)}?" if near else "See indexer classify for what the model says."
        raise InvalidArgument(f"The model knows no label '{label}'. {hint}")
    sql = (
        "SELECT labels.content_id, images.id FROM labels JOIN images ON images.content_id = labels.content_id "
        f"WHERE (class, model_id) IN (VALUES {','.join(['(?, ?)'] * len(named))})"
    )
    return np.fromiter(chain.from_iterable(conn.execute(sql, list(chain(*named)))), np.int64).reshape(-1, 2)


def balanced(condition: str) -> bool:
    """Whether brackets close in order and quotes end, so that nothing can step out of the brackets around it."""
    depth, position = 0, 0
    closing = {"'": "'", '"': '"', "`": "`", "[": "]"}
    while position < len(condition):
        character = condition[position]
        if character in closing:
            position = condition.find(closing[character], position + 1)
            if position < 0:
                return False
        elif condition.startswith("--", position):
            position = condition.find("\n", position)
            if position < 0:
                return depth == 0
        elif condition.startswith("/*", position):
            position = condition.find("*/", position)
            if position < 0:
                return False
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth < 0:
            return False
        position += 1
    return depth == 0 and bool(condition.strip())


def _only_pictures(action: int, first: str | None, second: str | None, _database: str | None, view: str | None) -> int:
    if action == sqlite3.SQLITE_SELECT:
        return sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_FUNCTION:
        return sqlite3.SQLITE_DENY if second in _FORBIDDEN_FUNCTIONS else sqlite3.SQLITE_OK
    # an empty column is SQLite saying that a table of the view takes part, without any value of it being read
    takes_part = second == "" and first in _BEHIND_THE_VIEW
    if action == sqlite3.SQLITE_READ and (first == "pictures" or view == "pictures" or takes_part):
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY


def _refusal(condition: str, why: str) -> str:
    return f"The condition '{condition}' was refused: {why}. Write an SQL condition over {', '.join(COLUMNS)}."
