"""export: vectors and metadata as one table, a row an image, for other tools."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import CatalogError, IndexerError, InvalidArgument
from ..files import replacement
from ..halves import unit
from ..records import ExportReport, ImageRecord
from ..store.rows import StoredModel
from ..store.store import Store

COLUMNS = ("path", "sha256", "width", "height", "bytes", "labels")
BLOCK = 1000
# what a spreadsheet takes for a formula at the start of a cell
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

Row = tuple[ImageRecord, npt.NDArray[np.float32]]


def export(store: Store, file: Path) -> ExportReport:
    """Write every image with its vector; the format follows the ending: .parquet, .npy (+ .csv), .csv or .jsonl.

    The file appears when it is complete.
    """
    require_ending(file)
    writer = _WRITERS[file.suffix.lower()]
    with store.snapshot():
        model = store.require_model()
        rows = writer(file, model.id.dim, _rows(store, model))
    return ExportReport(str(file), rows)


def require_ending(file: Path) -> None:
    """Raises InvalidArgument for a name that does not say what to write."""
    if file.suffix.lower() not in _WRITERS:
        raise InvalidArgument(f"{file} has no ending that indexer exports. Use one of {', '.join(_WRITERS)}.")


def _rows(store: Store, model: StoredModel) -> Iterator[list[Row]]:
    """Blocks of images, ordered by path, each with its vector."""
    for block in store.images.blocks(BLOCK):
        contents = [content for content, _ in block]
        _, found, rows = store.vectors.of(sorted(set(contents)), model)
        if len(found) < len(set(contents)):
            raise CatalogError("Some images have no vector of the present model yet. Finish it with: indexer build.")
        vectors = dict(zip(found.tolist(), unit(rows), strict=True))
        yield [(image, vectors[content]) for content, image in block]


def _cells(image: ImageRecord) -> dict[str, Any]:
    labels = [{"label": label.label, "probability": round(label.probability, 6)} for label in image.labels]
    return {
        "path": image.path,
        "sha256": image.sha256,
        "width": image.width,
        "height": image.height,
        "bytes": image.bytes,
        "labels": labels,
    }


def _write_jsonl(target: Path, _dim: int, blocks: Iterator[list[Row]]) -> int:
    count = 0
    with replacement(target) as out, out.open("w", encoding="ascii") as file:
        for block in blocks:
            for image, vector in block:
                file.write(json.dumps({**_cells(image), "vector": _numbers(vector)}) + "\n")
            count += len(block)
    return count


def _write_csv(target: Path, dim: int, blocks: Iterator[list[Row]], *, vectors: bool = True) -> int:
    count = 0
    with replacement(target) as out, out.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, *(["vector"] if vectors else [])])
        for block in blocks:
            for image, vector in block:
                cells = {**_cells(image), "labels": "; ".join(label.label for label in image.labels)}
                row = [defused(cells[name]) for name in COLUMNS]
                writer.writerow([*row, " ".join(map(str, _numbers(vector)))] if vectors else row)
            count += len(block)
    return count


def _write_npy(target: Path, dim: int, blocks: Iterator[list[Row]]) -> int:
    """The vectors as (N, dim) float32; the other columns go into a .csv beside, row for row."""
    beside = target.with_suffix(".csv")
    if not _may_be_replaced(beside):
        raise InvalidArgument(f"{beside}, where the other columns go, is no export of indexer's. Give another name.")
    count = 0
    header = {"descr": "<f4", "fortran_order": False}
    with replacement(target) as out, out.open("wb") as file:

        def passing() -> Iterator[list[Row]]:
            nonlocal count
            for block in blocks:
                file.write(np.stack([vector for _, vector in block]).astype("<f4").tobytes())
                count += len(block)
                yield block

        np.lib.format.write_array_header_1_0(file, {**header, "shape": (0, dim)})
        _write_csv(beside, dim, passing(), vectors=False)
        file.seek(0)
        np.lib.format.write_array_header_1_0(file, {**header, "shape": (count, dim)})
    return count


def _may_be_replaced(table: Path) -> bool:
    """Whether a table that nobody has named is not there, or has just the columns that an earlier export put there."""
    try:
        with table.open("rb") as file:
            return file.readline().rstrip(b"\r\n") == ",".join(COLUMNS).encode()
    except OSError:  # mostly since it is not there; what else there is, writing it will say
        return True


def _write_parquet(target: Path, dim: int, blocks: Iterator[list[Row]]) -> int:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise IndexerError("Parquet needs an extra. Install it: pip install pyarrow.") from None
    label = pa.struct([("label", pa.string()), ("probability", pa.float32())])
    kinds = (pa.string(), pa.string(), pa.int32(), pa.int32(), pa.int64(), pa.list_(label))
    fields = [*zip(COLUMNS, kinds, strict=True), ("vector", pa.list_(pa.float32(), dim))]
    schema = pa.schema(fields)
    count = 0
    with replacement(target) as out, pq.ParquetWriter(str(out), schema) as writer:
        for block in blocks:
            cells = [_cells(image) for image, _ in block]
            columns = {name: [row[name] for row in cells] for name in COLUMNS}
            # Parquet's strings are valid Unicode; a name that is not keeps its bytes as \udcXX escapes
            columns["path"] = [path.encode("utf-8", "backslashreplace").decode() for path in columns["path"]]
            rows = np.stack([vector for _, vector in block]).reshape(-1)
            arrays = [pa.array(columns[name], kind) for name, kind in zip(COLUMNS, kinds, strict=True)]
            arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(rows, pa.float32()), dim))
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            count += len(block)
    return count


_WRITERS: dict[str, Callable[[Path, int, Iterator[list[Row]]], int]] = {
    ".parquet": _write_parquet,
    ".npy": _write_npy,
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
}


def _numbers(vector: npt.NDArray[np.float32]) -> list[float]:
    return [float(f"{value:.7g}") for value in vector.tolist()]


def defused(cell: Any) -> Any:
    """A cell that no spreadsheet runs as a formula: a quote in front, as OWASP advises ('CSV Injection')."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
