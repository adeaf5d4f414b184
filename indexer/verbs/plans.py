"""The plan: a JSON file that says what would be done to which duplicate, for a person to review and change."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast, get_args

from ..errors import InvalidArgument, WrongFormat
from ..files import replace_file
from ..records import Action, Tier

VERSION = 1
ENDING = ".json"

_Reader = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class PlannedImage:
    """One file of a group, as it was when the plan was made, and what is to be done with it.

    path: absolute; bytes that are no Unicode as surrogateescape gives them. score: cosine similarity to the keeper.
    """

    path: str
    sha256: str
    bytes: int
    width: int
    height: int
    score: float
    tier: Tier
    action: Action
    why: str = ""


@dataclass(frozen=True, slots=True)
class PlannedGroup:
    """Images that belong together. Removing any takes at least one that is kept."""

    id: str
    tier: Tier
    min_score: float
    images: tuple[PlannedImage, ...]
    kept_because: str = ""

    def having(self, action: Action) -> list[PlannedImage]:
        """The images with an action, in the plan's order."""
        return [image for image in self.images if image.action == action]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done to the images of one catalog. uuid: the catalog's, so that no other is touched.

    recall: see DuplicatesReport.
    """

    catalog: str
    uuid: str
    model: str | None
    threshold: float
    groups: tuple[PlannedGroup, ...]
    recall: float | None = None

    def check(self) -> None:
        """Raises InvalidArgument for a plan that cannot be meant, whoever made it."""
        seen: dict[str, Action] = {}
        for group in self.groups:
            if group.having("remove") and not group.having("keep"):
                raise InvalidArgument(
                    f"Group {group.id} removes {group.having('remove')[0].path} and keeps nothing. "
                    'Set the action of one of its images to "keep".'
                )
            for image in group.images:
                if "remove" in (image.action, seen.get(image.path)) and image.path in seen:
                    raise InvalidArgument(f"The plan has {image.path} twice. Delete one of the two.")
                seen[image.path] = image.action


def write_plan(file: str | os.PathLike[str], plan: Plan) -> None:
    """Write a plan, whole or not at all; of what is there, only a .json gives way to it.

    Names stay readable: only what is no Unicode is written as \\udcXX. Raises InvalidArgument for another file, such as
    a picture, and CatalogError where the disk refuses.
    """
    if os.path.exists(file) and Path(file).suffix.lower() != ENDING:
        raise InvalidArgument(f"{os.fspath(file)} is there, and would be lost. Give a name that ends in {ENDING}.")
    groups = [_without_nothing(asdict(group)) for group in plan.groups]
    head = {"catalog": plan.catalog, "uuid": plan.uuid, "model": plan.model, "threshold": plan.threshold}
    head |= {} if plan.recall is None else {"expected_recall": plan.recall}
    text = json.dumps({"indexer_plan": VERSION, **head, "groups": groups}, ensure_ascii=False, indent=1)
    replace_file(Path(file), text.encode("utf-8", "backslashreplace") + b"\n")


def read_plan(file: str | os.PathLike[str]) -> Plan:
    """A plan as it is after a person has edited it; fields that are not known are passed over.

    Raises InvalidArgument, or WrongFormat for one of a newer indexer.
    """
    name = os.fspath(file)
    try:
        text = Path(file).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InvalidArgument(f"The plan {name} cannot be read ({error.strerror or error}). Check the path.") from error
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{name} is no plan: it is not UTF-8. {_MAKE}") from error
    try:
        values = json.loads(text, object_pairs_hook=_no_doubles, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{name} is no plan, or damaged: {error}. Mend it, or {_MAKE_LOWER}") from error
    if not isinstance(values, dict) or "indexer_plan" not in values:
        raise InvalidArgument(f"{name} is no plan of indexer. {_MAKE}")
    version = values["indexer_plan"]
    if type(version) is int and version > VERSION:
        raise WrongFormat(f"The plan {name} was written by a newer indexer. Update this one, or {_MAKE_LOWER}")
    if type(version) is not int or version != VERSION:
        raise InvalidArgument(f"{name} is no plan of indexer: its version is {version!r}. {_MAKE}")
    try:
        plan = _plan(values)
    except _Wrong as error:
        raise InvalidArgument(f"The plan {name} says {error}. Mend it, or {_MAKE_LOWER}") from error
    plan.check()
    return plan


_MAKE = "Make one with: indexer dedup --plan FILE."
_MAKE_LOWER = "m" + _MAKE[1:]


class _Wrong(Exception):
    """A value of the wrong type, or none where one is needed."""


def _plan(values: Mapping[str, Any]) -> Plan:
    get = _getter(values, "")
    groups = get("groups", _list)
    return Plan(
        get("catalog", _text),
        get("uuid", _text),
        get("model", lambda value: None if value is None else _text(value)),
        get("threshold", _number),
        tuple(_group(group, f"groups[{i}]") for i, group in enumerate(groups)),
        get("expected_recall", _number) if "expected_recall" in values else None,
    )


def _group(values: Any, place: str) -> PlannedGroup:
    get = _getter(values, place)
    images = get("images", _list)
    return PlannedGroup(
        get("id", _text),
        get("tier", _one_of(Tier)),
        get("min_score", _number),
        tuple(_image(image, f"{place}.images[{i}]") for i, image in enumerate(images)),
        get("kept_because", _text, ""),
    )


def _image(values: Any, place: str) -> PlannedImage:
    get = _getter(values, place)
    return PlannedImage(
        get("path", _path),
        get("sha256", _digest),
        get("bytes", _count),
        get("width", _count),
        get("height", _count),
        get("score", _number),
        get("tier", _one_of(Tier)),
        get("action", _one_of(Action)),
        get("why", _text, ""),
    )


def _getter(values: Any, place: str) -> Callable[..., Any]:
    """A function that reads one field of an object, and says where it is when it is wrong."""
    if not isinstance(values, dict):
        raise _Wrong(f"{values!r:.60} at {place}, where an object is needed")

    def get(name: str, reader: _Reader, default: Any = None) -> Any:
        if name not in values and default is not None:
            return default
        where = f"{place}.{name}" if place else name
        if name not in values:
            raise _Wrong(f"nothing for {where}")
        try:
            return reader(values[name])
        except _Wrong as error:
            raise _Wrong(f"{values[name]!r:.60} for {where}, where {error} is needed") from None

    return get


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _Wrong("text")
    return value


def _list(value: Any) -> Sequence[Any]:
    if not isinstance(value, list):
        raise _Wrong("a list")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise _Wrong("a whole number")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) < 1e9:
        raise _Wrong("a number")
    return float(value)


def _digest(value: Any) -> str:
    if len(_text(value)) != 64 or not set(value) <= set("0123456789abcdef"):
        raise _Wrong("a SHA-256 of 64 hex digits")
    return cast(str, value)


def _path(value: Any) -> str:
    try:
        absolute = os.fsencode(_text(value)).startswith(b"/") and "\0" not in value
    except UnicodeEncodeError:
        absolute = False
    if not absolute:
        raise _Wrong("an absolute path")
    return cast(str, value)


def _one_of(words: Any) -> _Reader:
    known = get_args(words)

    def read(value: Any) -> str:
        if value not in known:
            raise _Wrong("one of " + ", ".join(known))
        return cast(str, value)

    return read


def _without_nothing(group: dict[str, Any]) -> dict[str, Any]:
    """What heads a group first, then its images; no empty explanation."""
    images = group.pop("images")
    if not group["kept_because"]:
        del group["kept_because"]
    return {**group, "images": images}


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON takes the last of two fields of one name; a person may have meant either."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} comes twice in one object")
    return values


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")
