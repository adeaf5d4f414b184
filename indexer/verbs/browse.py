"""browse: the images of a catalog, page by page, and those of some bytes."""

from __future__ import annotations

import re

from ..errors import InvalidArgument
from ..records import ImageRecord
from ..store.store import Store

_DIGEST = re.compile("[0-9a-f]{64}")


def images(store: Store, after: bytes, count: int, where: str | None, label: str | None) -> list[ImageRecord]:
    """The next images beyond a path, of those that a filter lets through."""
    if count < 1:
        raise InvalidArgument(f"A page of {count} images shows nothing. Give 1 or more.")
    with store.snapshot():
        passing = store.images.where(where, label)
        return store.images.after(after, count, None if passing is None else passing.images)


def holding(store: Store, sha256: str) -> list[ImageRecord]:
    """Every image with these bytes, in the order in which they were found."""
    if not _DIGEST.fullmatch(sha256):
        raise InvalidArgument(f"'{sha256}' is no SHA-256. Give 64 hex digits, in lower case.")
    with store.snapshot():
        content = store.images.content_of(bytes.fromhex(sha256))
        if content is None:
            return []
        ids = store.images.of([content]).get(content, [])
        records = store.images.by_id(ids)
    return [records[image] for image in ids]
