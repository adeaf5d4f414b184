"""Point it at folders of pictures: it knows what is in them, finds what looks alike, and clears out duplicates."""

from .catalog import Catalog
from .embed.embedder import Embedder, load_embedder
from .errors import (
    CatalogDamaged,
    CatalogError,
    CatalogLocked,
    CatalogNotFound,
    IndexerError,
    InvalidArgument,
    ModelError,
    OutOfMemory,
    PictureError,
    UnsafeRemoval,
    WrongFormat,
    WrongModel,
)
from .records import (
    BuildReport,
    CatalogInfo,
    ExportReport,
    ImageRecord,
    Label,
    Match,
    ModelId,
    NeighboursInfo,
    Preprocess,
    Progress,
    QueryResult,
    Skipped,
    VerifyReport,
)

__version__ = "0.1.0"

__all__ = [
    "BuildReport",
    "Catalog",
    "CatalogDamaged",
    "CatalogError",
    "CatalogInfo",
    "CatalogLocked",
    "CatalogNotFound",
    "Embedder",
    "ExportReport",
    "ImageRecord",
    "IndexerError",
    "InvalidArgument",
    "Label",
    "Match",
    "ModelError",
    "ModelId",
    "NeighboursInfo",
    "OutOfMemory",
    "PictureError",
    "Preprocess",
    "Progress",
    "QueryResult",
    "Skipped",
    "UnsafeRemoval",
    "VerifyReport",
    "WrongFormat",
    "WrongModel",
    "load_embedder",
]
