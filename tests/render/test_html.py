"""The gallery: self-contained, and inert whatever a file is called."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from html import unescape
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest

from indexer import Catalog, IndexerError
from indexer.pictures.single import thumbnails
from indexer.records import DuplicatesReport
from indexer.render import html
from indexer.render.html import write_gallery, write_groups

from ..conftest import save_picture

NASTY = "<img src=x onerror=alert(1)>.png"


@pytest.fixture
def page(catalog: Catalog, pictures: Path, tmp_path: Path) -> str:
    save_picture(pictures / NASTY, 80)
    save_picture(pictures / "quote\"'&.png", 81)
    catalog.build([pictures])
    results, _ = catalog.query_many([pictures / NASTY, pictures / "a.png"], k=7)
    (pictures / "b.png").unlink()
    write_gallery(results, tmp_path / "page.html")
    return (tmp_path / "page.html").read_text()


def test_it_is_self_contained(page: str) -> None:
    sources = re.findall(r'src="([^"]*)"', page)
    assert sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert "<script" not in page
    assert 'http-equiv="Content-Security-Policy" content="default-src \'none\'' in page
    assert all(link.startswith("file:///") for link in re.findall(r'href="([^"]*)"', page))


def test_names_are_inert(page: str) -> None:
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;.png" in page
    assert re.search(r"%3Cimg%20src%3Dx", page)


def test_links_lead_to_files_of_any_name(catalog: Catalog, pictures: Path, tmp_path: Path) -> None:
    names = ["caf\N{LATIN SMALL LETTER E WITH ACUTE}.png", "\udcff\udcfe.png", "100% #1?.png", "two\nlines.png"]
    for seed, name in enumerate(names, 80):
        save_picture(pictures / name, seed)
    catalog.build([pictures])
    results, _ = catalog.query_many([pictures / "a.png"], k=20)
    write_gallery(results, tmp_path / "page.html")
    links = re.findall(r'href="file://([^"]*)"', (tmp_path / "page.html").read_text())
    assert {os.fsdecode(unquote_to_bytes(unescape(link))) for link in links} == {image.path for image in catalog}


def test_every_match_is_shown(page: str) -> None:
    assert page.count("<li>") == 14
    assert "cannot be shown" in page  # the one that has gone meanwhile


def test_a_page_without_any_query_says_so(tmp_path: Path) -> None:
    write_gallery([], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "<title>No picture to look for could be read · indexer</title>" in page
    assert "<h1>No picture to look for could be read</h1>" in page
    assert "similarity" not in page


@pytest.fixture
def copies(catalog: Catalog, pictures: Path) -> DuplicatesReport:
    """Of three pictures 53, 2 and 2 files."""
    for seed, count in enumerate((53, 2, 2), 90):
        for number in range(count):
            save_picture(pictures / "copies" / f"{seed} {number:02}.png", seed)
    catalog.build([pictures / "copies"])
    return catalog.duplicates(tier="exact")


def test_a_large_group_is_shown_in_part(copies: DuplicatesReport, tmp_path: Path) -> None:
    write_groups(copies, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<figure") == page.count('src="data:image/jpeg;base64,') == 50 + 2 + 2
    assert page.count("53 pictures, similarity from") == page.count("and 3 more") == 1
    assert page.count(" more</p>") == 1
    assert page.count('<figure class="keep">') == 3


def test_a_thumbnail_is_made_once_for_all_files_of_the_same_bytes(
    copies: DuplicatesReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def counted(paths: Sequence[str], side: int) -> list[bytes | None]:
        made.extend(paths)
        return thumbnails(paths, side)

    monkeypatch.setattr(html, "thumbnails", counted)
    write_groups(copies, tmp_path / "page.html")
    assert len(made) == 3
    for path in made[:2]:
        os.unlink(path)  # the next file of these bytes serves as well
    made.clear()
    write_groups(copies, tmp_path / "page.html")
    assert len(made) == 5
    assert "cannot be shown" not in (tmp_path / "page.html").read_text()


def test_a_page_has_only_so_many_images(
    copies: DuplicatesReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(html, "MOST_IMAGES", 53)
    write_groups(copies, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<section>") == 2
    assert page.count("<figure") == 52
    assert "The first 2 are shown; the plan has all." in page
    assert "<title>3 groups of duplicates among 57 pictures; " in page


def test_a_place_that_cannot_be_written(catalog: Catalog, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(IndexerError, match="cannot be written"):
        write_gallery([], tmp_path / "nowhere" / "page.html")
