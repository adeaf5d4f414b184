"""The pages in a real browser: names do nothing, thumbnails show."""

from __future__ import annotations

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from indexer import Catalog
from indexer.render.html import write_gallery, write_groups

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
    dom = opened(tmp_path / "page.html", tmp_path / "profile")
    assert "<title>Pictures like &lt;img src=x onerror=alert(1)&gt;.jpg" in dom
    assert_inert(dom, images=6)
    assert "49.png" not in dom


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_groups_are_inert_in_a_browser(catalog: Catalog, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    for name in NASTY:
        save_picture(folder / name, 0)
        save_picture(folder / "sub" / name, 0, size=(80, 60))
    catalog.build([folder])
    report = catalog.duplicates()
    write_groups(report, tmp_path / "page.html")
    dom = opened(tmp_path / "page.html", tmp_path / "profile")
    assert "of duplicates among 10 pictures" in dom
    assert_inert(dom, images=sum(len(group.images) for group in report))


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_on_a_phone_the_first_duplicate_is_seen_beside_what_is_kept(catalog: Catalog, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save_picture(tmp_path / "pictures" / name, 0)
    catalog.build([tmp_path / "pictures"])
    write_groups(catalog.duplicates(), tmp_path / "page.html")
    # a window of Chromium is never narrower than 500 pixels
    (tmp_path / "phone.html").write_text(PHONE)
    dom = opened(tmp_path / "phone.html", tmp_path / "profile", "--allow-file-access-from-files")
    left, right, inner = map(float, dom.partition("<title>")[2].partition("</title>")[0].split())
    assert 0 < left < right <= inner < 340


PHONE = """<title></title><iframe src="page.html" style="width: 340px; border: 0"></iframe><script>
window.onload = () => {
  const page = document.querySelector("iframe").contentDocument;
  const second = page.querySelectorAll("figure")[1].getBoundingClientRect();
  document.title = [second.left, second.right, page.querySelector(".row").getBoundingClientRect().right].join(" ");
};
</script>"""


def opened(page: Path, profile: Path, *more: str) -> str:
    """What a browser makes of a page."""
    command = [str(BROWSER), *QUIET, *more, f"--user-data-dir={profile}", "--dump-dom", f"file://{page}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def assert_inert(dom: str, images: int) -> None:
    tags = Tags()
    tags.feed(dom)
    assert len([tag for tag in tags.found if tag[0] == "img"]) == images
    assert all(dict(attributes)["src"].startswith("data:") for tag, attributes in tags.found if tag == "img")
    assert not [name for _, attributes in tags.found for name, _ in attributes if name.startswith("on")]
    assert not [tag for tag, _ in tags.found if tag == "script"]


class Tags(HTMLParser):
    """Every tag of a page with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, list[tuple[str, str]]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, [(name, value or "") for name, value in attrs]))
