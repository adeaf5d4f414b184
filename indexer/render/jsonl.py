"""Records as JSON, with the field names that scripts rely on. Adding a field is fine, renaming one is not."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from ..embed.zoo import KnownModel
from ..records import (
    Applied,
    BenchReport,
    BuildReport,
    Calibration,
    CatalogInfo,
    DuplicateGroup,
    DuplicateImage,
    ImageRecord,
    Label,
    Match,
    QueryResult,
    Skipped,
    VerifyReport,
)

_BUILD = (
    *("catalog", "model", "dim", "device", "precision", "images", "contents"),
    *("added", "changed", "moved", "removed", "unchanged", "skipped", "ignored", "embedded"),
    *("seconds", "images_per_second"),
)


def dumps(value: dict[str, Any]) -> str:
    """One line of ASCII; bytes of a file name that are no Unicode come as \\udcXX.

    Raises ValueError for a number that is not finite: JSON has none.
    """
    return json.dumps(value, ensure_ascii=True, allow_nan=False)


def build(report: BuildReport) -> dict[str, Any]:
    """BuildReport."""
    found = {name: getattr(report, name) for name in _BUILD}
    found["seconds"] = round(report.seconds, 3)
    found["images_per_second"] = round(report.images_per_second, 2)
    new = [skip(item) for item in report.new_skipped]
    said = {"warnings": list(report.warnings), "remarks": list(report.remarks)}
    said["exclude"] = list(report.exclude)
    return {**found, "new_skipped": new, "dry_run": report.dry_run, **said}


def query(result: QueryResult) -> dict[str, Any]:
    """QueryResult."""
    matches = [match(item) for item in result.matches]
    return {"query": result.query, "seconds": round(result.seconds, 4), "matches": matches}


def match(item: Match) -> dict[str, Any]:
    """Match."""
    return {"rank": item.rank, "score": round(item.score, 6), **image(item.image)}


def image(record: ImageRecord) -> dict[str, Any]:
    """The part of an ImageRecord that results carry."""
    return {
        "path": record.path,
        "width": record.width,
        "height": record.height,
        "bytes": record.bytes,
        "labels": labels(record.labels),
    }


def group(found: DuplicateGroup, recall: float | None) -> dict[str, Any]:
    """DuplicateGroup. keep: the path of the image to keep. recall: of the report that it is from."""
    return {
        "id": found.id,
        "tier": found.tier,
        "min_score": round(found.min_score, 6),
        "keep": found.keep.path,
        "expected_recall": recall,
        "images": [_member(image) for image in found.images],
    }


def _member(found: DuplicateImage) -> dict[str, Any]:
    record = {name: value for name, value in image(found.image).items() if name != "labels"}
    return {
        "path": record.pop("path"),
        "score": round(found.score, 6),
        **record,
        "tier": found.tier,
        "action": found.action,
        "why": found.why,
    }


def applied(step: Applied) -> dict[str, Any]:
    """Applied. would: a dry run has found that it could be done."""
    return {"path": step.path, "action": step.action, "done": step.done, "would": step.would, "why": step.why}


def calibration(found: Calibration) -> dict[str, Any]:
    """Calibration."""
    edits = {name: {"recall": recall, "verified": verified} for name, (recall, verified) in found.edits.items()}
    return {**asdict(found), "edits": edits}


def bench(report: BenchReport) -> dict[str, Any]:
    """BenchReport, with what follows from it."""
    searches = [{**asdict(search), "vectors_per_second": search.rate} for search in report.searches]
    return {
        **asdict(report),
        "searches": searches,
        "searched_within_10_ms": report.searched_within(0.01),
        "searched_within_100_ms": report.searched_within(0.1),
        "stages": report.stages,
        "bottleneck": report.bottleneck,
        "share_of_bottleneck": report.share_of_bottleneck,
    }


def labels(found: tuple[Label, ...]) -> list[dict[str, Any]]:
    """Labels, best first."""
    return [{"label": item.label, "index": item.index, "probability": round(item.probability, 6)} for item in found]


def skip(item: Skipped) -> dict[str, Any]:
    """Skipped."""
    return asdict(item)


def model(known: KnownModel) -> dict[str, Any]:
    """KnownModel."""
    return asdict(known)


def info(found: CatalogInfo) -> dict[str, Any]:
    """CatalogInfo."""
    return {**asdict(found), "roots": list(found.roots), "exclude": list(found.exclude)}


def verify(report: VerifyReport) -> dict[str, Any]:
    """VerifyReport."""
    return {"ok": report.ok, **{name: list(value) for name, value in asdict(report).items()}}
