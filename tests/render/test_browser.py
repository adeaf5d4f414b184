"""The gallery in a real browser: names do nothing, thumbnails show."""

from __future__ import annotations

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from indexer import Catalog
from indexer.render.html import write_gallery

from ..conftest import save_picture

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
NASTY = (
    "<img src=x onerror=alert(1)>.jpg",
    "<img src=x onerror=\"document.title='owned'\">.png",
    "';document.title='owned';'.png",
    "\" onload=\"document.title='owned'.png",
    "{{ 7 * 7 }}.png",
)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_names_are_inert_in_a_browser(catalog: Catalog, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    for seed, name in enumerate(NASTY):
        save_picture(folder / name, seed)
    catalog.build([folder])
    results, _ = catalog.query_many([folder / NASTY[0]], k=9, include_self=True)
    write_gallery(results, tmp_path / "page.html")
    command = [
        str(BROWSER),
        *QUIET,
        f"--user-data-dir={tmp_path}/profile",
        "--dump-dom",
        f"file://{tmp_path}/page.html",
    ]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "<title>Pictures like &lt;img src=x onerror=alert(1)&gt;.jpg" in dom
    tags = Tags()
    tags.feed(dom)
    assert len([tag for tag in tags.found if tag[0] == "img"]) == 6
    assert all(dict(attributes)["src"].startswith("data:") for tag, attributes in tags.found if tag == "img")
    assert not [name for _, attributes in tags.found for name, _ in attributes if name.startswith("on")]
    assert not [tag for tag, _ in tags.found if tag == "script"]
    assert "49.png" not in dom


class Tags(HTMLParser):
    """Every tag of a page with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, list[tuple[str, str]]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, [(name, value or "") for name, value in attrs]))
