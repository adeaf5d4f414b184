"""duplicates: groups of images that show the same picture, each with one to keep, and why.

Candidates come from the vectors and from looks, the decision from the signatures that build has stored; no picture is
read again, but for the undecided ones with `thorough`.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np

from ..errors import InvalidArgument, WrongModel
from ..neighbours.groups import leader_groups
from ..records import (
    TIERS,
    Action,
    DuplicateGroup,
    DuplicateImage,
    DuplicatesReport,
    ImageRecord,
    Progress,
    Tier,
)
from ..store.rows import StoredModel
from ..store.store import Store
from .calibration import Thresholds, thresholds
from .candidates import TOP, Candidates, Nodes, candidates
from .judging import Judge, Judged
from .keeping import DEFAULT, Keeping, lacks
from .plans import Plan, PlannedGroup, PlannedImage

# how often groups are compared with one another; a handful was always enough
ROUNDS = 20
# what may be removed without a person looking at it
SURE: tuple[Tier, ...] = ("exact", "pixels", "copy")


@dataclass(frozen=True, slots=True)
class DuplicateOptions:
    """What to look for. threshold None: what calibrate has found, or a cautious default. keep: see keeping.py.

    thorough: goes with a tier that has what is probable. all_pairs: never let an index name the nearest in place of
    looking at every pair.
    """

    threshold: float | None
    tier: Tier
    keep: str = DEFAULT
    mirrors: bool = False
    thorough: bool = False
    all_pairs: bool = False

    def check(self) -> None:
        """Raises InvalidArgument for values that cannot be meant."""
        if self.threshold is not None and not -1.0 <= self.threshold <= 1.0:
            raise InvalidArgument(f"A threshold of {self.threshold} is no cosine similarity. Give -1 to 1, or auto.")
        if self.tier not in TIERS:
            raise InvalidArgument(f"There is no tier '{self.tier}'. Choose from {', '.join(TIERS)}.")
        if self.thorough and TIERS.index(self.tier) < TIERS.index("probable"):
            raise InvalidArgument(
                f"A thorough search finds what is probable; tier '{self.tier}' leaves that out. Give one of the two."
            )


class Node(NamedTuple):
    """A picture: the content that stands for it, in this catalog (side 0) or the other (side 1)."""

    side: int
    content: int


class Link(NamedTuple):
    """Why one node is linked to another. to_ask: whether a person should look before anything is removed."""

    tier: Tier
    why: str
    to_ask: bool = False


def duplicates(
    store: Store,
    folder: Path,
    options: DuplicateOptions,
    progress: Callable[[Progress], None],
    against: tuple[Store, Path] | None = None,
) -> DuplicatesReport:
    """Groups of duplicates in a catalog; or, against another one, of what is in both: that one's images are kept.

    Raises InvalidArgument, CatalogError for a catalog without vectors, WrongModel where the two cannot be compared.
    """
    options.check()
    started = time.monotonic()
    keeping = Keeping.parse(options.keep)
    with store.snapshot():
        model = store.require_model()
        if against is None:
            return _Search(store, model, options, keeping, progress).run(folder, started)
        other, other_folder = against
        with other.snapshot():
            if other.uuid == store.uuid:
                raise InvalidArgument(
                    f"{other_folder} is this catalog itself. Give --against another, or leave it out."
                )
            theirs = other.require_model()
            if theirs.id != model.id:
                raise WrongModel(
                    f"The catalog in {other_folder} has vectors of {theirs.id.key}, this one of {model.id.key}; they "
                    "cannot be compared. Build both with the same model."
                )
            return _Search(store, model, options, keeping, progress, (other, theirs)).run(
                folder, started, str(other_folder)
            )


def keep_all(store: Store, report: DuplicatesReport, ids: Sequence[str]) -> list[DuplicateGroup]:
    """Remember that the images of some groups, named by the beginnings of their ids, are no duplicates.

    Raises InvalidArgument for an id that names none or several; nothing is remembered then.
    """
    chosen = []
    for id in ids:
        found = [group for group in report if id and group.id.startswith(id)]
        if len(found) != 1:
            what = "no group" if not found else f"{len(found)} groups"
            raise InvalidArgument(f"'{id}' names {what}. Give the id that dedup shows with the same options.")
        chosen += found
    for group in chosen:
        store.decide(b"".join(_digests(image.image for image in group.images)), time.time_ns())
    return chosen


def planned(report: DuplicatesReport, actions: Mapping[str, Action]) -> Plan:
    """The report as a plan. actions: see Catalog.plan().

    Raises InvalidArgument for a path that is in no group, for an unknown action, and for a plan that cannot be meant.
    """
    chosen = {os.path.abspath(path): action for path, action in actions.items()}
    known = {image.path for group in report for image in group.images}
    for path, action in chosen.items():
        if path not in known:
            raise InvalidArgument(f"{path} is in no group of the report. Give the path of an image that is in one.")
        if action not in get_args(Action):
            raise InvalidArgument(f"There is no action '{action}'. Choose from {', '.join(get_args(Action))}.")
    plan = Plan(
        report.catalog,
        report.uuid,
        report.model,
        report.threshold,
        tuple(
            PlannedGroup(
                group.id,
                group.tier,
                group.min_score,
                tuple(_planned(image, chosen.get(image.path, image.action)) for image in group.images),
                group.keep.why,
            )
            for group in report.groups
        ),
        report.recall,
    )
    plan.check()
    return plan


def _planned(found: DuplicateImage, action: Action) -> PlannedImage:
    image = found.image
    size = (image.bytes, image.width, image.height)
    return PlannedImage(image.path, image.sha256, *size, found.score, found.tier, action, found.why)


def keep_kept(store: Store, plan: Plan) -> None:
    """Remember the groups of which a person has decided to keep every image."""
    for group in plan.groups:
        if len(group.images) > 1 and all(image.action == "keep" for image in group.images):
            store.decide(b"".join(sorted(bytes.fromhex(image.sha256) for image in group.images)), time.time_ns())


class _Search:
    """One run: what all its steps share."""

    def __init__(
        self,
        store: Store,
        model: StoredModel,
        options: DuplicateOptions,
        keeping: Keeping,
        progress: Callable[[Progress], None],
        other: tuple[Store, StoredModel] | None = None,
    ) -> None:
        self.sides = [(store, model), *([other] if other else [])]
        self.options = options
        self.keeping = keeping
        self.progress = progress
        self.across = other is not None
        self.limits: Thresholds = thresholds(store, model)
        self.nodes = [Nodes.of(*side, by_pixels=self._wants("pixels")) for side in self.sides]
        self.links: dict[tuple[Node, Node], Link] = {}
        self.crowded: set[Node] = set()
        self.records: dict[Node, list[ImageRecord]] = {}
        self.repeated = set() if self.across else self._repeated()
        self.judge = Judge(mirrors=options.mirrors, thorough=options.thorough)

    def run(self, folder: Path, started: float, against: str | None = None) -> DuplicatesReport:
        found = self._candidates(self.nodes, all_pairs=self.options.all_pairs)
        self._link(self.nodes, found)
        if self.across:
            self._link_same()
        else:
            self.crowded = self._with_many_partners(found)
        self._read({node for pair in self.links for node in pair} | self.repeated)
        groups = [self._group(leader, members) for leader, members in self._grouped().items()]
        kept = [group for group, remembered in self._remembered(groups) if not remembered]
        store, model = self.sides[0]
        return DuplicatesReport(
            catalog=str(folder),
            uuid=store.uuid,
            model=model.id.key,
            threshold=self._threshold(),
            calibrated=self.limits.calibrated,
            groups=tuple(sorted(kept, key=lambda group: (TIERS.index(group.tier), group.keep.path))),
            images=store.count("images"),
            candidates=len(found.left),
            recall=found.recall,
            seconds=time.monotonic() - started,
            remembered=len(groups) - len(kept),
            unread=self.judge.unread,
            against=against,
        )

    # -- linking ---------------------------------------------------------------------------------------------------

    def _threshold(self) -> float:
        if self.options.threshold is not None:
            return self.options.threshold
        return self.limits.similar if self.options.tier == "similar" else self.limits.copy

    def _wants(self, tier: Tier) -> bool:
        return TIERS.index(tier) <= TIERS.index(self.options.tier)

    def _candidates(self, nodes: Sequence[Nodes], *, all_pairs: bool) -> Candidates:
        if not self._wants("copy"):
            return Candidates.none()
        lowest = self.limits.copy if self.options.threshold is None else self.options.threshold
        other = nodes[1] if self.across else None
        with_looks = self.options.threshold is None
        return candidates(nodes[0], other, lowest, self.progress, with_looks=with_looks, all_pairs=all_pairs)

    def _link(self, nodes: Sequence[Nodes], found: Candidates) -> None:
        there = nodes[-1]
        for done, (i, j, score, judged) in enumerate(self.judge.judge(nodes[0], there, found)):
            if done % 5000 == 0:
                self.progress(Progress("compare", done, len(found.left)))
            link = self._verdict(score, judged)
            if link is not None:
                left, right = Node(0, int(nodes[0].contents[i])), Node(int(self.across), int(there.contents[j]))
                self.links[left, right] = self.links[right, left] = link

    def _verdict(self, score: float, judged: Judged) -> Link | None:
        if judged.tier is not None:
            return Link(judged.tier, judged.why, judged.changed) if self._wants(judged.tier) else None
        least = self.limits.similar if self.options.threshold is None else self.options.threshold
        if self._wants("similar") and score >= least:
            return Link("similar", "alike, but not the same picture")
        return None

    def _with_many_partners(self, found: Candidates) -> set[Node]:
        """Those that may have more partners than they were allowed to nominate."""
        contents = self.nodes[0].contents
        counts = np.bincount(np.concatenate([found.left, found.right]), minlength=len(contents))
        return {Node(0, int(content)) for content in contents[counts >= TOP]}

    def _link_same(self) -> None:
        """The pictures that both catalogs hold."""
        ours, theirs = self.nodes
        key: Literal["pixels", "sha256"] = "pixels" if self._wants("pixels") else "sha256"
        for left, right in _in_both(
            ours.store.fingerprints.contents_by(key, ours.model),
            theirs.store.fingerprints.contents_by(key, theirs.model),
        ):
            a, b = Node(0, ours.stands_for(left)), Node(1, theirs.stands_for(right))
            self.links[a, b] = self.links[b, a] = Link("pixels", "")

    def _repeated(self) -> set[Node]:
        """Pictures that several images show."""
        nodes = self.nodes[0]
        several = {nodes.stands_for(content) for content in nodes.store.images.repeated(nodes.model)} | set(nodes.twins)
        return {Node(0, content) for content in several}

    # -- grouping --------------------------------------------------------------------------------------------------

    def _read(self, nodes: Iterable[Node]) -> None:
        """The images of every node, the best to keep first."""
        for side, all_nodes in enumerate(self.nodes):
            store = all_nodes.store
            mine = sorted(node.content for node in nodes if node.side == side)
            contents = {content: all_nodes.twins.get(content, (content,)) for content in mine}
            held = store.images.of(sorted({one for same in contents.values() for one in same}))
            records = store.images.by_id([image for images in held.values() for image in images])
            for content, same in contents.items():
                images = [records[image] for one in same for image in held.get(one, ())]
                self.records[Node(side, content)] = sorted(images, key=self.keeping.key)

    def _grouped(self) -> dict[Node, list[Node]]:
        order = sorted(self.records, key=lambda node: self.keeping.key(self.records[node][0]))
        leaders = [node for node in order if node.side == int(self.across)]
        if self.across:
            sure = self._surest(leaders)
        else:
            sure = self._with_best_leaders(self._joined(self._groups(leaders, self._sure_links()), leaders))
        taken = {member for members in sure.values() for member in members}
        weak = {
            (leader, member)
            for (leader, member), link in self.links.items()
            if link.tier not in SURE and not taken.intersection((leader, member))
            if member not in sure and member not in self.repeated
        }
        for leader, members in self._groups(leaders, weak).items():
            sure.setdefault(leader, []).extend(members)
        taken |= {member for members in sure.values() for member in members}
        for node in self.repeated - taken:
            sure.setdefault(node, [])
        return sure

    def _surest(self, leaders: Sequence[Node]) -> dict[Node, list[Node]]:
        """Every picture with one that is the same there, before it goes with one that it is a copy of."""
        same = {pair for pair, link in self.links.items() if link.tier == "pixels"}
        groups = self._groups(leaders, same)
        taken = {member for members in groups.values() for member in members}
        rest = {(leader, member) for leader, member in self._sure_links() if member not in taken}
        for leader, members in self._groups(leaders, rest).items():
            groups.setdefault(leader, []).extend(members)
        return groups

    def _sure_links(self) -> set[tuple[Node, Node]]:
        return {pair for pair in self.links if self._is_sure(*pair)}

    def _joined(self, groups: dict[Node, list[Node]], order: Sequence[Node]) -> dict[Node, list[Node]]:
        """Groups of one picture made one: a picture nominates TOP partners only, so that many copies come as several.

        Every member that changes its group is compared with its new keeper itself.
        """
        nodes = self.nodes[0]
        leader_of = {member: leader for leader, members in groups.items() for member in members}
        heads = {leader_of.get(node, node) for pair in self._sure_links() for node in pair if node in self.crowded}
        for _ in range(ROUNDS):
            some = nodes.subset([head.content for head in sorted(heads)])
            self._link([some], self._candidates([some], all_pairs=True))
            alike = {pair for pair in self._sure_links() if heads.issuperset(pair)}
            absorbed = self._groups([node for node in order if node in heads], alike)
            if not absorbed:
                break
            rest: set[Node] = set()
            for leader, others in absorbed.items():
                moving = [node for old in others for node in (old, *groups.pop(old, ()))]
                self._link([nodes], nodes.pairs_with(leader.content, [node.content for node in moving]))
                stay = [node for node in moving if self._is_sure(leader, node)]
                groups.setdefault(leader, []).extend(stay)
                heads -= set(others)
                rest |= set(moving) - set(stay)
            among = {pair for pair in self._sure_links() if rest.issuperset(pair)}
            again = self._groups([node for node in order if node in rest], among)
            groups.update(again)
            heads |= rest - {member for members in again.values() for member in members}
        return groups

    def _with_best_leaders(self, groups: dict[Node, list[Node]]) -> dict[Node, list[Node]]:
        """The same with the best of the members that show as much as their leader, if all are verified against it."""
        nodes, chosen = self.nodes[0], {}
        for leader, members in groups.items():
            of = {self.records[node][0].path: node for node in (leader, *members)}
            best = of[self.keeping.best(self.records[leader][0], [self.records[node][0] for node in members]).path]
            rest = [node for node in (leader, *members) if node != best]
            if best != leader:
                self._link([nodes], nodes.pairs_with(best.content, [node.content for node in rest]))
                if not all(self._is_sure(best, node) for node in rest):
                    best, rest = leader, members
            chosen[best] = rest
        return chosen

    def _is_sure(self, leader: Node, node: Node) -> bool:
        """Whether one may lead the other. What would only be left alone leads the images that are just like it."""
        link = self.links.get((leader, node))
        return link is not None and link.tier in SURE and not (link.to_ask and node in self.repeated)

    def _groups(self, leaders: Sequence[Node], pairs: set[tuple[Node, Node]]) -> dict[Node, list[Node]]:
        linked: defaultdict[Node, list[Node]] = defaultdict(list)
        for leader, member in pairs:
            linked[leader].append(member)
        return leader_groups(leaders, {leader: sorted(members) for leader, members in linked.items()})

    def _group(self, leader: Node, members: Sequence[Node]) -> DuplicateGroup:
        keeper = self.records[leader][0]
        whole = [(image, leader) for image in self.records[leader][1:]] if not self.across else []
        whole += [(image, member) for member in members for image in self.records[member]]
        scores = self._scores(leader, keeper, whole)
        others = []
        for image, node in whole:
            link = self._link_of(image, node, leader)
            action, why = self._fate(image, keeper, link)
            others.append(DuplicateImage(image, scores[image.sha256], link.tier, action, why))
        others.sort(key=lambda other: (TIERS.index(other.tier), -other.score, other.path))
        keep = DuplicateImage(keeper, 1.0, "exact", "keep", self._why_kept(keeper, [image for image, _ in whole]))
        images = [keeper, *(other.image for other in others)]
        return DuplicateGroup(hashlib.sha256(b"".join(_digests(images))).hexdigest()[:12], keep, tuple(others))

    def _fate(self, image: ImageRecord, keeper: ImageRecord, link: Link) -> tuple[Action, str]:
        """What to do with an image, and why. Nothing that the keeper lacks goes, whatever chose the keeper."""
        if link.tier not in SURE or link.to_ask:
            return "leave", link.why
        if self.across and self._is_in_the_other(image.path):
            return "leave", f"{link.why}; left, since the other catalog has this very file"
        lacking = [] if link.tier == "exact" else lacks(keeper, image)
        if lacking:
            return "leave", f"{link.why}; left, since it has {' and '.join(lacking)}"
        return "remove", link.why

    def _is_in_the_other(self, path: str) -> bool:
        """Whether the other catalog has this very file, by whatever links its folders were named."""
        store = self.nodes[1].store
        full = os.fsencode(path)
        real, names = os.path.realpath(full), {full}
        for root in store.roots():
            there = os.path.join(os.path.realpath(root), b"")
            if real.startswith(there):
                names.add(os.path.join(root, real.removeprefix(there)))
        return any(store.images.place_of(name) for name in names)

    def _why_kept(self, keeper: ImageRecord, others: Sequence[ImageRecord]) -> str:
        return "the other catalog is only read" if self.across else self.keeping.why(keeper, others)

    def _link_of(self, image: ImageRecord, node: Node, leader: Node) -> Link:
        keeper, *more = self.records[leader]
        if image.sha256 == keeper.sha256:
            return Link("exact", "the same bytes")
        if self.across and any(image.sha256 == other.sha256 for other in more):
            return Link("exact", "the same bytes as another of its images there")
        if node == leader or self.links[leader, node].tier == "pixels":
            return Link("pixels", f"the same pixels, {_size_of(image)}")
        link = self.links[leader, node]
        return link._replace(why=f"{link.why}, {_size_of(image)}")

    def _scores(self, leader: Node, keeper: ImageRecord, whole: Iterable[tuple[ImageRecord, Node]]) -> dict[str, float]:
        """Cosine similarity to the keeper, by content."""
        wanted: defaultdict[int, set[str]] = defaultdict(set)
        wanted[leader.side].add(keeper.sha256)
        for image, node in whole:
            wanted[node.side].add(image.sha256)
        rows = {}
        for side, digests in wanted.items():
            store, model = self.sides[side]
            for digest in digests:
                content = store.images.content_of(bytes.fromhex(digest))
                assert content is not None
                rows[digest] = store.vectors.of_content(content, model)
        first = rows[keeper.sha256]
        assert first is not None
        return {digest: min(max(float(row @ first), -1.0), 1.0) for digest, row in rows.items() if row is not None}

    def _remembered(self, groups: Iterable[DuplicateGroup]) -> Iterator[tuple[DuplicateGroup, bool]]:
        """Whether somebody has said of all members of a group that they are no duplicates."""
        decided = [
            Counter(digests[i : i + 32] for i in range(0, len(digests), 32)) for digests in self.sides[0][0].decisions()
        ]
        by_digest: defaultdict[bytes, list[Counter[bytes]]] = defaultdict(list)
        for decision in decided:
            for digest in decision:
                by_digest[digest].append(decision)
        for group in groups:
            members = Counter(_digests(image.image for image in group.images))
            known = by_digest.get(next(iter(members)), ())
            yield group, any(members <= decision for decision in known)


def _digests(images: Iterable[ImageRecord]) -> list[bytes]:
    """What a group consists of, whatever its files are called: the digests, as often as there are images."""
    return sorted(bytes.fromhex(image.sha256) for image in images)


def _size_of(image: ImageRecord) -> str:
    return f"{image.width} x {image.height} {image.format}"


def _in_both(left: Iterator[tuple[bytes, int]], right: Iterator[tuple[bytes, int]]) -> Iterator[tuple[int, int]]:
    """The values of equal keys from two streams that are ordered by them."""
    a, b = next(left, None), next(right, None)
    while a is not None and b is not None:
        if a[0] < b[0]:
            a = next(left, None)
        elif b[0] < a[0]:
            b = next(right, None)
        else:
            yield a[1], b[1]
            a = next(left, None)
