"""From files to batches of model inputs: read ahead, in order, within bounds; what cannot be used comes inline."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..errors import PictureError
from ..preprocess import Pixels
from ..records import Fingerprint, PictureInfo, Source
from .decoders import Decoders
from .prepare import Prepared
from .scan import Content, Refused, read

READERS = 4
# files that are read, hashed and looked up together, and so many times more are read meanwhile
CHUNK, AHEAD = 256, 2
# bytes of files that one stage may hold: pictures are small, but a folder of 500 MB TIFFs exists
MAX_HELD_BYTES = 256 << 20
# files that are drawn before their turn, however small the batches: many decoders should have something to do
LEAST_AHEAD = 16
# files that a batch may name, however few of them need embedding
MAX_OUTCOMES = 1024
# contents of which is remembered that they are on their way; later ones are found in the store
MAX_UNDER_WAY = 16 * CHUNK


class Picture(NamedTuple):
    """One file to embed, or (slot None) one whose content needs no embedding: it is known, or an earlier file's."""

    source: Source
    sha256: bytes
    info: PictureInfo | None = None
    fingerprint: Fingerprint | None = None
    slot: int | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """What a stretch of files came to, in their order. pixels: uint8, (N, H, W, 3), one for every slot."""

    outcomes: list[Picture | Refused]
    pixels: Pixels | None

    def __len__(self) -> int:
        """Files, not slots."""
        return len(self.outcomes)


@dataclass(slots=True)
class _Shared:
    """The decoding of one content, shared by the files that hold it; the first of them takes the pixels."""

    future: Future[Prepared] | None
    reason: str | None = None

    def take(self) -> Prepared | None:
        """The picture for the first who asks, None for the others. Raises PictureError for all of them."""
        future, self.future = self.future, None
        if future is not None:
            try:
                return future.result()
            except PictureError as error:
                self.reason = error.reason
        if self.reason is not None:
            raise PictureError(self.reason)
        return None


class _Pending(NamedTuple):
    """A file on its way. shared is None where there is nothing to decode."""

    source: Source
    sha256: bytes = b""
    shared: _Shared | None = None
    refused: Refused | None = None


def batches(
    sources: Iterable[Source],
    *,
    size: Callable[[], int],
    known: Callable[[Sequence[bytes]], set[bytes]],
    decoders: Callable[[], Decoders],
) -> Generator[Batch]:
    """Batches of at most size() pictures to embed, in the order of the files.

    size: asked again for every picture, since a device that runs out of memory makes its batches smaller.

    known: of some SHA-256 digests, those whose content needs no embedding; called from the caller's thread.
    decoders: asked for when the first picture has to be decoded.
    """
    outcomes: list[Picture | Refused] = []
    pixels: list[Pixels] = []
    with closing(_reading(sources)) as chunks:  # its threads end with this, not when somebody collects it
        for pending in _ahead(_decoding(chunks, known, decoders), size):
            outcome, fitted = _finish(pending, len(pixels))
            outcomes.append(outcome)
            if fitted is not None:
                pixels.append(fitted)
            if len(pixels) >= size() or len(outcomes) >= MAX_OUTCOMES:
                yield Batch(outcomes, _joined(pixels))
                outcomes, pixels = [], []
    if outcomes:
        yield Batch(outcomes, _joined(pixels))


def _joined(pictures: Sequence[Pixels]) -> Pixels | None:
    """One array of them, (N, H, W, 3): without a copy where they lie in one, one after the other."""
    if not pictures:
        return None
    stretches = list(_stretches(pictures))
    return stretches[0] if len(stretches) == 1 else np.concatenate(stretches)


def _stretches(pictures: Sequence[Pixels]) -> Iterator[Pixels]:
    """Arrays (N, H, W, 3) in which they lie, as far as one follows the other there."""
    places = [picture.__array_interface__["data"][0] for picture in pictures]
    start = 0
    for end in range(1, len(pictures) + 1):
        first, around = pictures[start], pictures[start].base
        if around is None or around.ndim != first.ndim + 1:
            yield first[None]
        elif end < len(pictures) and pictures[end].base is around and places[end] - places[end - 1] == first.nbytes:
            continue
        else:
            at = (places[start] - around.__array_interface__["data"][0]) // first.nbytes
            yield around[at : at + end - start]
        start = end


def _reading(sources: Iterable[Source]) -> Generator[list[Content | Refused]]:
    """Chunks of files, read and hashed in threads, AHEAD chunks ahead."""
    with ThreadPoolExecutor(READERS, "readers") as threads:
        ahead: deque[list[Future[list[Content | Refused]]]] = deque()
        given_up = threading.Event()

        def read_some(some: Sequence[Source]) -> list[Content | Refused]:
            return [read(source) for source in some if not given_up.is_set()]

        try:
            for chunk in _chunks(sources):
                share = -(-len(chunk) // READERS)
                shares = [chunk[start : start + share] for start in range(0, len(chunk), share)]
                ahead.append([threads.submit(read_some, some) for some in shares])
                if len(ahead) > AHEAD:
                    yield [file for future in ahead.popleft() for file in future.result()]
            while ahead:
                yield [file for future in ahead.popleft() for file in future.result()]
        finally:
            given_up.set()
            threads.shutdown(wait=False, cancel_futures=True)


def _chunks(sources: Iterable[Source]) -> Iterator[list[Source]]:
    chunk: list[Source] = []
    held = 0
    for source in sources:
        chunk.append(source)
        held += source.stamp.size
        if len(chunk) == CHUNK or held > MAX_HELD_BYTES // (AHEAD + 2):  # those ahead, one looked up, last files
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk


def _decoding(
    chunks: Iterable[list[Content | Refused]],
    known: Callable[[Sequence[bytes]], set[bytes]],
    decoders: Callable[[], Decoders],
) -> Iterator[_Pending]:
    """Every file, with the decoding of its content under way where that is needed."""
    under_way: dict[bytes, _Shared] = {}
    for chunk in chunks:
        done = known([file.sha256 for file in chunk if isinstance(file, Content)])
        for file in chunk:
            if isinstance(file, Refused):
                yield _Pending(file.source, refused=file)
            elif file.sha256 in done:
                yield _Pending(file.source, file.sha256)
            else:
                if file.sha256 not in under_way:
                    under_way[file.sha256] = _Shared(decoders().submit(file.data, file.kind))
                yield _Pending(file.source, file.sha256, under_way[file.sha256])
        while len(under_way) > MAX_UNDER_WAY:
            del under_way[next(iter(under_way))]


def _ahead(stream: Iterable[_Pending], size: Callable[[], int]) -> Iterator[_Pending]:
    """The same stream, drawn two batches early or a little more, so that decoding runs while the model does."""
    waiting: deque[_Pending] = deque()
    held = 0
    for item in stream:
        waiting.append(item)
        held += item.source.stamp.size
        while len(waiting) > max(2 * size(), LEAST_AHEAD) or held > MAX_HELD_BYTES:
            first = waiting.popleft()
            held -= first.source.stamp.size
            yield first
    yield from waiting


def _finish(pending: _Pending, slot: int) -> tuple[Picture | Refused, Pixels | None]:
    if pending.refused is not None:
        return pending.refused, None
    try:
        prepared = pending.shared.take() if pending.shared else None
    except PictureError as error:
        return Refused(pending.source, error.reason), None
    if prepared is None:
        return Picture(pending.source, pending.sha256), None
    return Picture(pending.source, pending.sha256, prepared.info, prepared.fingerprint, slot), prepared.pixels
