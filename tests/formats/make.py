"""Write the small catalog that pins the present format: python -m tests.formats.make FOLDER.

Run once for each format that is released, never again: what it wrote then must be readable for ever.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
import time
from pathlib import Path

from indexer import Catalog
from indexer.store.store import FILE, Store

from ..conftest import save_picture
from ..fakes import FakeEmbedder

ROOT = b"/home/somebody/pictures"


def main(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        pictures = Path(scratch) / "pictures"
        for seed in range(5):
            save_picture(pictures / f"{seed}.png", seed)
        (pictures / "copy.png").write_bytes((pictures / "0.png").read_bytes())
        (pictures / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
        (pictures / "notes.txt").write_text("no picture")
        time.sleep(2.5)
        with Catalog.create(folder, loader=lambda _: FakeEmbedder()) as catalog:
            catalog.build([pictures])
    conn = sqlite3.connect(folder / FILE)
    conn.execute("UPDATE roots SET path = ?", [ROOT])
    conn.commit()
    conn.execute("VACUUM")
    conn.close()
    (folder / "catalog.seal").unlink()
    (folder / "build.lock").unlink()
    store = Store.open(folder)
    store.seal()
    store.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
