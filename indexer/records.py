"""What travels between the rooms: small frozen records, no behaviour beyond derived properties."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal, NamedTuple, get_args


class Stamp(NamedTuple):
    """What tells that a file is still the one that was read: bytes, and times in nanoseconds."""

    size: int
    mtime_ns: int
    ctime_ns: int


class FoundFile(NamedTuple):
    """One regular file below a root; flat, since millions of them pass by."""

    path: bytes
    """Relative to the root, as the file system spells it (os.fsencode)."""
    size: int
    mtime_ns: int
    ctime_ns: int

    @property
    def stamp(self) -> Stamp:
        """What of it is compared."""
        return Stamp(*self[1:])


class Unlisted(NamedTuple):
    """A folder below a root that could not be listed; what it holds is unknown, not gone."""

    path: bytes
    reason: str


class Source(NamedTuple):
    """A file on its way through a build: where it is, and what the scan saw of it."""

    root_id: int
    root: bytes
    path: bytes
    stamp: Stamp

    @property
    def full(self) -> bytes:
        """The path to open."""
        return os.path.join(self.root, self.path)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that could not be indexed, with the reason: a result, not an accident."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Label:
    """One class that a picture was given: its name, its index in the model's head, its probability (0 to 1)."""

    label: str
    index: int
    probability: float


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How an upright RGB picture becomes a model's input; the words and defaults are timm's.

    size: (height, width) in pixels. crop_mode: 'center', 'squash' or 'border'.
    mean, std: per channel, on the 0 to 1 scale.
    """

    size: tuple[int, int]
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    crop_mode: str = "center"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def to_json(self) -> str:
        """The canonical text that goes into the model id and the store."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Preprocess:
        """The opposite of to_json()."""
        values = json.loads(text)
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **lists})


FLOAT = "float"
"""ModelId.numerics of fp32, bf16 and fp16."""
INT8 = "int8"


@dataclass(frozen=True, slots=True)
class ModelId:
    """What decides a vector: two vectors may be compared only if this is the same.

    name: architecture and tag. weights: SHA-256 of the weight file, hex.
    numerics: 'float' for fp32, bf16 and fp16, whose vectors mix; 'int8', which does not mix with them.
    """

    name: str
    weights: str
    preprocess: Preprocess
    dim: int
    pooling: str = "pre_logits"
    numerics: str = FLOAT

    @property
    def key(self) -> str:
        """A short text that is equal exactly when the whole id is: the name and twelve hex digits."""
        parts = [self.name, self.weights, self.preprocess.to_json(), self.dim, self.pooling, self.numerics]
        return f"{self.name}@{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]}"


HELD = ("colour", "alpha", "deep", "frames")
"""What a picture file may hold: colour; transparency; more than 8 bits a sample; frames or pages after the first."""


@dataclass(frozen=True, slots=True)
class PictureInfo:
    """What is known of a content besides its pixels: size of the upright picture, and what its EXIF says."""

    width: int
    height: int
    format: str
    taken: str | None = None
    """When the picture was taken, 'YYYY-MM-DDTHH:MM:SS' in the camera's own time."""
    camera: str | None = None
    shown: int | None = None
    """Thousandths of the picture within its uniform borders, 1000 without borders; None where nobody has looked."""
    holds: str | None = None
    """What another version of it may lack, words of HELD with spaces between; None where nobody has looked."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What tells whether two contents show the same picture, without reading them again.

    pixels: SHA-256 of the upright RGB picture. signature: a small grey one, see pictures/signature.py.
    """

    pixels: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image of the catalog: a file, and what is known of its content."""

    path: str
    sha256: str
    bytes: int
    width: int
    height: int
    format: str
    taken: str | None = None
    camera: str | None = None
    labels: tuple[Label, ...] = ()
    modified_ns: int = 0
    """The file's modification time when it was read, nanoseconds since 1970."""
    shown: int | None = None
    holds: str | None = None
    """Both as in PictureInfo."""


@dataclass(frozen=True, slots=True)
class Match:
    """One neighbour of a queried picture. score: cosine similarity, 1 = same; rank: from 1."""

    rank: int
    score: float
    image: ImageRecord

    @property
    def path(self) -> str:
        """Where the neighbour is."""
        return self.image.path


@dataclass(frozen=True, slots=True)
class QueryResult:
    """The neighbours of one queried picture, best first."""

    query: str
    matches: tuple[Match, ...]
    seconds: float


Tier = Literal["exact", "pixels", "copy", "probable", "similar"]
"""How sure it is that two images are the same picture, from same bytes to alike. TIERS has them in this order."""

TIERS: tuple[Tier, ...] = get_args(Tier)

Action = Literal["keep", "remove", "leave"]
"""What is to become of an image: 'leave' is for one that is not ours to touch, or that was only pointed out."""


ApplyAction = Literal["trash", "move", "hardlink", "symlink", "delete"]
"""What becomes of the files that a plan removes."""


@dataclass(frozen=True, slots=True)
class DuplicateImage:
    """One image of a group. score: cosine similarity to the keeper, tier: why it is in the group, 1 and 'exact' for
    the keeper itself. why: a few words for a person.
    """

    image: ImageRecord
    score: float
    tier: Tier
    action: Action
    why: str

    @property
    def path(self) -> str:
        """Where it is."""
        return self.image.path


@dataclass(frozen=True, slots=True)
class DuplicateGroup:
    """Images that belong together, one of them the keeper; every other is a duplicate of the keeper itself.

    id: twelve hex digits that depend on the contents of the group alone, not on where they are. tier: the least sure
    of its members'. min_score: the lowest cosine similarity to the keeper.
    """

    id: str
    keep: DuplicateImage
    others: tuple[DuplicateImage, ...]

    @property
    def images(self) -> tuple[DuplicateImage, ...]:
        """The keeper, then the others."""
        return (self.keep, *self.others)

    @property
    def tier(self) -> Tier:
        """The least sure tier of the members."""
        return max((other.tier for other in self.others), key=TIERS.index)

    @property
    def min_score(self) -> float:
        """The lowest similarity of a member to the keeper."""
        return min(other.score for other in self.others)


@dataclass(frozen=True, slots=True)
class DuplicatesReport:
    """The groups of duplicates of a catalog, and how they were looked for. len() and iteration are of the groups.

    threshold: the lowest cosine similarity of a candidate. calibrated: whether it was measured on this collection.
    images: how many were looked through. candidates: pairs that were checked. recall: the share of the candidates that
    was expected to be found, since an index named the nearest; None where all pairs were looked at.
    remembered: groups that are left out since somebody has said that they are no duplicates. unread: pictures that
    --thorough could not read.
    """

    catalog: str
    uuid: str
    model: str
    threshold: float
    calibrated: bool
    groups: tuple[DuplicateGroup, ...]
    images: int
    candidates: int
    seconds: float
    recall: float | None = None
    remembered: int = 0
    unread: int = 0
    against: str | None = None

    def __len__(self) -> int:
        """Groups."""
        return len(self.groups)

    def __iter__(self) -> Iterator[DuplicateGroup]:
        """Groups, the surest first."""
        return iter(self.groups)

    @property
    def removable(self) -> tuple[DuplicateImage, ...]:
        """What a plan of these groups would remove."""
        return tuple(image for group in self.groups for image in group.others if image.action == "remove")


@dataclass(frozen=True, slots=True)
class CalibrationPoint:
    """What a threshold would do. recall: share of the known edits at or above it, found (0 to 1); verified: share that
    is also recognised as a copy. false_pairs: pairs of different pictures at or above it that a collection of this size
    would have. precision: share of all pairs at or above it that would be duplicates, unverified; see calibrate.py.
    """

    threshold: float
    recall: float
    verified: float
    false_pairs: float
    precision: float
    verified_precision: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """The thresholds for a collection and a model, and what they rest on.

    copy: lowest cosine similarity of candidates that are then verified. similar: of pairs that are not. Recall is known
    to about `uncertainty` (95 %). edits: edit -> (recall, verified) at `copy`. pairs: unrelated pairs that were seen.
    """

    model: str
    images: int
    sample: int
    pairs: int
    copy: float
    similar: float
    uncertainty: float
    edits: Mapping[str, tuple[float, float]]
    points: tuple[CalibrationPoint, ...]

    @property
    def unseen(self) -> float:
        """False pairs that the whole collection may still have where the sample has shown none (95 %)."""
        return 3 / self.sample * (self.images - self.sample) / 2


@dataclass(frozen=True, slots=True)
class Applied:
    """What apply did, or would do, with one image. why: the reason where it was not done, else a remark or ''.

    would: a dry run has found that it could be done; why then says what.
    """

    path: str
    action: str
    done: bool
    why: str = ""
    would: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a build is; passed to the progress callback. total is None while folders are still being listed."""

    stage: str
    done: int = 0
    total: int | None = None
    embedded: int = 0
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What a build did: counts of files, the state of the catalog after it, and the time it took.

    embedded: pictures that went through the model. skipped: all listed skips in the roots that were built;
    new_skipped: those that this build has added to the list.
    """

    catalog: str
    model: str | None
    dim: int | None
    device: str | None
    precision: str | None
    images: int
    contents: int
    added: int = 0
    changed: int = 0
    moved: int = 0
    removed: int = 0
    unchanged: int = 0
    skipped: int = 0
    new_skipped: tuple[Skipped, ...] = ()
    ignored: int = 0
    embedded: int = 0
    seconds: float = 0.0
    embedding_seconds: float = 0.0
    dry_run: bool = False
    warnings: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    """What the embedder has decided by itself: that it has compiled, that memory ran out."""
    exclude: tuple[str, ...] = ()
    """Patterns of what was left out."""

    @property
    def images_per_second(self) -> float:
        """Pictures that went through the model, over the time from when it was loaded until they were committed."""
        return self.embedded / self.embedding_seconds if self.embedding_seconds else 0.0


@dataclass(frozen=True, slots=True)
class NeighboursInfo:
    """The neighbour index: its kind, how many vectors it covers, and its measured recall@10 (1 = exact)."""

    kind: str
    covered: int
    recall: float


@dataclass(frozen=True, slots=True)
class CatalogInfo:
    """What is in a catalog. exclude: patterns of what builds leave out. bytes: file name -> size on disk."""

    catalog: str
    format: int
    model: str | None
    dim: int | None
    roots: tuple[str, ...]
    images: int
    contents: int
    vectors: int
    skipped: int
    neighbours: NeighboursInfo
    bytes: Mapping[str, int] = field(default_factory=dict)
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a check of a catalog found, and what of it was repaired. lost: what could not be saved."""

    problems: tuple[str, ...]
    repaired: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether there was nothing to complain of."""
        return not self.problems


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export wrote."""

    file: str
    rows: int


@dataclass(frozen=True, slots=True)
class DecodingRate:
    """Pictures a second: `decode` and `prepare` (fitting to the model, and the fingerprint) on one core of CPU time,
    `together` both of them in all decoding processes, of which there are `processes`.
    """

    decode: float
    prepare: float
    together: float
    processes: int


@dataclass(frozen=True, slots=True)
class ForwardRate:
    """Pictures a second of a model alone. batch: pictures a pass.

    peak: operations a second of this machine's own matrix products in this precision. share: of it that the model's
    operations come to (1 = all).
    """

    precision: str
    batch: int
    rate: float
    peak: float
    share: float


@dataclass(frozen=True, slots=True)
class PrecisionAgreement:
    """How vectors in a precision compare with those in fp32, of so many pictures; see embed/agreement.py."""

    precision: str
    pictures: int
    mean_cosine: float
    lowest_cosine: float
    same_first: float


@dataclass(frozen=True, slots=True)
class SearchRate:
    """Exact search among so many vectors. seconds: of one query."""

    vectors: int
    seconds: float

    @property
    def rate(self) -> float:
        """Vectors a second."""
        return self.vectors / self.seconds


@dataclass(frozen=True, slots=True)
class BenchReport:
    """What a machine does with a model; rates are pictures a second.

    operations: of one picture in the model, two a multiply-accumulate. precision, batch: what a build uses here, and
    what is meant by `forward`. pictures: what they were. store: committed. end_to_end: from files to committed, in a
    build of `built` pictures, once it runs. remarks: what was left out, and why.
    """

    processor: str
    cores: int
    device: str
    device_name: str | None
    model: str
    dim: int
    operations: float
    pictures: str
    precision: str
    batch: int
    decoding: DecodingRate
    forwards: tuple[ForwardRate, ...]
    agreements: tuple[PrecisionAgreement, ...]
    store: float
    built: int
    end_to_end: float
    searches: tuple[SearchRate, ...]
    seconds: float
    remarks: tuple[str, ...] = ()

    @property
    def stages(self) -> dict[str, float]:
        """What goes on at the same time in a build."""
        forward = next(f.rate for f in self.forwards if (f.precision, f.batch) == (self.precision, self.batch))
        return {"decode and prepare": self.decoding.together, "forward": forward, "store": self.store}

    @property
    def bottleneck(self) -> str:
        """The slowest of the stages."""
        return min(self.stages, key=self.stages.__getitem__)

    @property
    def share_of_bottleneck(self) -> float:
        """What the whole reaches of its slowest stage (1 = all)."""
        return self.end_to_end / self.stages[self.bottleneck]

    def searched_within(self, seconds: float) -> int:
        """How many vectors an exact search reads in that time."""
        return int(max(self.searches, key=lambda s: s.vectors).rate * seconds)
