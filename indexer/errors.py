"""Everything that indexer raises on purpose.

    IndexerError
    ├── InvalidArgument       a value that cannot be meant: k=0, an unknown label, a folder that is not there
    ├── PictureError          one picture that cannot be used; in a build it becomes a Skipped
    ├── ModelError            a model that cannot be found, loaded or used
    │   └── OutOfMemory       one single picture does not fit the device
    └── CatalogError          the catalog as a whole
        ├── CatalogNotFound   no catalog here
        ├── CatalogLocked     another process is building it
        ├── CatalogDamaged    what is stored is not what was written
        ├── WrongFormat       written by a newer indexer, or no catalog at all
        ├── WrongModel        the vectors are of another model than the one asked for
        └── UnsafeRemoval     a root is missing or has lost so much that it is not taken for a wish

Every message names the thing, the limit, and the way out, as "WHAT. WHAT TO DO."
"""


class IndexerError(Exception):
    """The parent of all errors that indexer raises on purpose."""


class InvalidArgument(IndexerError, ValueError):
    """A value that cannot be meant."""


class PictureError(IndexerError):
    """One picture that cannot be used.

    reason: a few words that a person understands, without the path.
    """

    def __init__(self, reason: str, path: str | None = None) -> None:
        """Keep the bare reason apart from the message that also names the picture."""
        super().__init__(f"{path}: {reason}" if path else reason)
        self.reason = reason


class ModelError(IndexerError):
    """A model that cannot be found, loaded or used."""


class OutOfMemory(ModelError, MemoryError):
    """One single picture does not fit the device."""


class CatalogError(IndexerError):
    """The catalog as a whole cannot be used as asked."""


class CatalogNotFound(CatalogError):
    """There is no catalog here."""


class CatalogLocked(CatalogError):
    """Another process is building this catalog."""


class CatalogDamaged(CatalogError):
    """What is stored is not what was written."""


class WrongFormat(CatalogError):
    """Written by a newer indexer, or no catalog at all."""


class WrongModel(CatalogError):
    """The catalog's vectors are of another model than the one asked for."""


class UnsafeRemoval(CatalogError):
    """A root is missing, empty, or has lost so much that it may be an unmounted disk."""
