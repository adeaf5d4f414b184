"""Which of several duplicates to keep: rules in an order, the first that tells two pictures apart decides."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

from ..errors import InvalidArgument
from ..records import HELD, ImageRecord

# The largest; of those what has the most in it; what a camera wrote, not what a messenger or an editor stripped; then
# what lost least. The rest decides between files of the same bytes: no 'IMG (1).jpg', and the one that was there first.
DEFAULT = "resolution,complete,exif,format,bytes,name,oldest,shortest-path"

# Lossless first. HEIF (HEIC) before JPEG: cameras write both, and only the JPEG is ever made from the other.
# AVIF, WebP and GIF are what web sites and messengers make of a photograph.
_FORMATS = ("TIFF", "PNG", "BMP", "PPM", "HEIF", "MPO", "JPEG", "AVIF", "WEBP", "GIF")
_LOSSLESS = 4
# formats of pictures that hold no more than colour
_PLAIN = ("JPEG", "MPO")
# how programs and people name a copy: 'x (1)', 'x - Copy', 'x copy 2', 'Copy of x', 'x~2', 'x_edited', 'x - Kopie'
_COPY_NAME = re.compile(
    r"\(\d+\)$|~\d+$|[ _-](copy|kopie|copie|copia)( ?\(?\d+\)?)?$|^(copy of|kopie von|copie de|copia de) |[ _-]edited$",
    re.IGNORECASE,
)
_HOLDS = {
    "colour": "colour",
    "alpha": "transparency",
    "deep": "more than 8 bits",
    "frames": "frames or pages after the first",
}
# two that both have them may differ in nothing else: pictures are compared over white, and their first frames only
_NOT_COMPARED = {"alpha", "frames"}
# properties that are named besides the one that decided
_FURTHER = 2
# In thousandths of a picture. Borders are seen a little differently in copies of one: a line or two are none, and steps
# so wide mostly hide the rest. Always down, so that a frame adds nothing.
_NO_BORDER, _BORDER_STEP = 970, 50
# copies of one picture may seem to differ by so much
_AS_MUCH = 60


@dataclass(frozen=True, slots=True)
class Rule:
    """One way to prefer. rank: lower is better. says: what speaks for one against another, in a person's words."""

    name: str
    rank: Callable[[ImageRecord], Any]
    says: Callable[[ImageRecord, ImageRecord], str]


@dataclass(frozen=True, slots=True)
class Keeping:
    """Rules in the order in which they are asked."""

    rules: tuple[Rule, ...]

    @classmethod
    def parse(cls, text: str = DEFAULT) -> Keeping:
        """From names separated by commas: those of RULES, and path:GLOB.

        A GLOB is matched against the whole path; its * also stands for slashes.
        Raises InvalidArgument for a name that is unknown or comes twice.
        """
        names = [part if part.lstrip().startswith("path:") else part.strip() for part in text.split(",")]
        rules = tuple(_rule(name.lstrip()) for name in names)
        for i, rule in enumerate(rules):
            if rule.name in {earlier.name for earlier in rules[:i]}:
                raise InvalidArgument(f"The rule {rule.name} comes twice. Name each once, the most important first.")
        return cls(rules)

    def key(self, image: ImageRecord) -> tuple[Any, ...]:
        """Sorts the best first. The path comes last, so that the order never depends on how images were given."""
        return (*(rule.rank(image) for rule in self.rules), image.path)

    def best(self, keep: ImageRecord, others: Sequence[ImageRecord]) -> ImageRecord:
        """The one to keep of those that show as much as far as one can tell, where borders are seen inexactly.

        A picture alone cannot tell that: 81.7 and 79.9 % are on two sides of a step.
        """
        alike = [other for other in others if _shows_as_much(keep, other)]
        return min([keep, *alike], key=lambda image: self.key(replace(image, shown=keep.shown)))

    def why(self, keep: ImageRecord, others: Sequence[ImageRecord]) -> str:
        """What speaks for a picture against the best of the others: what decided, then a little more.

        Says so where no rule speaks for it: then its path came first, or a person has chosen.
        """
        rivals = [image for image in others if image.path != keep.path]
        if not rivals:
            return "the only one"
        best = min(rivals, key=self.key)
        ranks = [(rule, rule.rank(keep), rule.rank(best)) for rule in self.rules]
        better = [rule.says(keep, best) for rule, own, other in ranks if own < other]
        if better:
            return ", ".join(better[: 1 + _FURTHER])
        return "first by path" if self.key(keep) < self.key(best) else "chosen against the rules"


def _rule(name: str) -> Rule:
    if name.startswith("path:") and len(name) > len("path:"):
        glob = name.removeprefix("path:")
        return Rule(name, lambda image: not fnmatchcase(image.path, glob), lambda *_: f"its path matches {glob}")
    if name not in RULES:
        known = ", ".join([*RULES, "path:GLOB"])
        raise InvalidArgument(f"There is no rule {name!r} for what to keep. Known: {known}.")
    return RULES[name]


def _pixels(image: ImageRecord) -> float:
    """Pixels within uniform borders: a copy in a frame is larger than its original, and shows no more."""
    shown = 1000 if _is_whole(image) else image.shown or 0
    return image.width * image.height * (shown - shown % _BORDER_STEP) / 1000


def _shows_as_much(image: ImageRecord, other: ImageRecord) -> bool:
    if (image.width, image.height) != (other.width, other.height) or None in (image.shown, other.shown):
        return False
    return abs((image.shown or 0) - (other.shown or 0)) <= _AS_MUCH


def _is_whole(image: ImageRecord) -> bool:
    """Whether it has no border, as far as anybody has looked."""
    return image.shown is None or image.shown >= _NO_BORDER


def _says_pixels(image: ImageRecord, other: ImageRecord) -> str:
    size = f"{image.width}x{image.height}"
    if image.width * image.height > other.width * other.height:
        return size
    return f"{size} without a border" if _is_whole(image) else f"{size} with less of a border"


def lacks(keep: ImageRecord, image: ImageRecord) -> list[str]:
    """What might be lost with an image for which another is kept, in a person's words."""
    if image.holds is None and image.format not in _PLAIN:
        return ["perhaps transparency or frames, which an older indexer did not look for"]
    both = _held(keep) - _NOT_COMPARED
    return [_HOLDS[word] for word in HELD if word in _held(image) - both]


def _held(image: ImageRecord) -> set[str]:
    """Of most photographs that nobody has looked at, that they have colour is true."""
    return {"colour"} if image.holds is None else set(image.holds.split())


def _complete(image: ImageRecord) -> int:
    """Frames do not count: an animation shows its first one in fewer colours than a picture of its own would."""
    return -len(_held(image) - {"frames"})


def _says_complete(image: ImageRecord, other: ImageRecord) -> str:
    return " and ".join(_HOLDS[word] for word in HELD if word in _held(image) - _held(other))


def _exif(image: ImageRecord) -> int:
    """0 for a file that says both when and with what it was taken."""
    return (image.taken is None) + (image.camera is None)


def _says_exif(image: ImageRecord, _: ImageRecord) -> str:
    if image.camera and image.taken:
        return "original camera EXIF"
    return "EXIF names the camera" if image.camera else "EXIF says when it was taken"


def _format(image: ImageRecord) -> int:
    if image.format not in _FORMATS:
        return len(_FORMATS)
    return max(_FORMATS.index(image.format), _LOSSLESS - 1)


def _says_format(image: ImageRecord, _: ImageRecord) -> str:
    return f"lossless {image.format}" if image.format in _FORMATS[:_LOSSLESS] else image.format


def _named_as_copy(image: ImageRecord) -> bool:
    return bool(_COPY_NAME.search(os.path.splitext(os.path.basename(image.path))[0]))


def _moment(image: ImageRecord) -> tuple[str, int]:
    """When a picture was taken, else when its file was modified; the file also orders those taken in one second.

    An order of pairs ('EXIF if both have it') would not be one: it runs in circles.
    """
    modified = datetime.fromtimestamp(image.modified_ns / 1e9, UTC)
    return image.taken or modified.strftime("%Y-%m-%dT%H:%M:%S"), image.modified_ns


def _newest(image: ImageRecord) -> tuple[tuple[int, ...], int]:
    text, modified = _moment(image)
    return tuple(-ord(c) for c in text), -modified


def _says_moment(word: str) -> Callable[[ImageRecord, ImageRecord], str]:
    return lambda image, _: f"{word}, {_moment(image)[0][:10]}"


RULES = {
    rule.name: rule
    for rule in (
        Rule("resolution", lambda i: -_pixels(i), _says_pixels),
        Rule("complete", _complete, _says_complete),
        Rule("exif", _exif, _says_exif),
        Rule("format", _format, _says_format),
        Rule("bytes", lambda i: -i.bytes, lambda i, _: f"{i.bytes:,} bytes"),
        Rule("name", _named_as_copy, lambda *_: "not named as a copy"),
        Rule("oldest", _moment, _says_moment("oldest")),
        Rule("newest", _newest, _says_moment("newest")),
        Rule("shortest-path", lambda i: len(i.path), lambda *_: "shortest path"),
    )
}
"""The rules by name, without path:GLOB."""
