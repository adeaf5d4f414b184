"""Images page by page, images of some bytes, and their files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from indexer import Catalog, InvalidArgument, PictureError

from ..conftest import save_picture


@pytest.fixture
def filled(catalog: Catalog, tmp_path: Path) -> Catalog:
    """Three roots, of which one's name begins another's and sorts after it with what is in it."""
    for seed, name in enumerate(["a/x.png", "a/z.png", "a-b/y.png", "a/sub/w.jpg", "c/\udcff.png", "a/sub-1/v.png"]):
        save_picture(tmp_path / name, seed)
    catalog.build([tmp_path / name for name in ("a", "a-b", "c")])
    return catalog


def paged(catalog: Catalog, count: int, where: str | None = None) -> list[str]:
    found: list[str] = []
    while part := catalog.images(after=found[-1] if found else "", count=count, where=where):
        assert len(part) <= count
        found += [image.path for image in part]
    return found


@pytest.mark.parametrize("count", [1, 2, 3, 6, 100])
def test_pages_are_the_images_in_their_order(filled: Catalog, count: int) -> None:
    assert paged(filled, count) == [image.path for image in filled]


@pytest.mark.parametrize("count", [1, 2, 100])
def test_pages_of_some_images(filled: Catalog, count: int) -> None:
    expected = [image.path for image in filled if image.format == "PNG"]
    assert len(expected) == 5
    assert paged(filled, count, "format = 'png'") == expected
    assert filled.images(label="grey", where="width < 0") == []


def test_a_page_begins_beyond_any_path(filled: Catalog, tmp_path: Path) -> None:
    every = [image.path for image in filled]
    for after, first in (("a/y", "a/z.png"), ("a/z.png", "a-b/y.png"), ("b", "c/\udcff.png"), ("a-b", "a-b/y.png")):
        assert filled.images(after=tmp_path / after)[0].path == str(tmp_path / first)
    assert [image.path for image in filled.images(after="/")] == every
    assert filled.images(after=tmp_path / "d") == filled.images(after=os.fsdecode(b"\xff")) == []


@pytest.mark.parametrize("count", [0, -1])
def test_a_page_of_nothing(filled: Catalog, count: int) -> None:
    with pytest.raises(InvalidArgument, match=f"A page of {count} images shows nothing. Give 1 or more."):
        filled.images(count=count)


def test_every_image_of_some_bytes(filled: Catalog, tmp_path: Path) -> None:
    copy = tmp_path / "c" / "copy.png"
    copy.write_bytes((tmp_path / "a" / "x.png").read_bytes())
    filled.build()
    digest = filled[copy].sha256
    assert {image.path for image in filled.holding(digest)} == {str(copy), str(tmp_path / "a" / "x.png")}
    assert {image.sha256 for image in filled.holding(digest)} == {digest}
    assert filled.holding("0" * 64) == []


@pytest.mark.parametrize("digest", ["", "0" * 63, "F" * 64, "g" * 64, "0" * 64 + "\n"])
def test_what_is_no_digest(filled: Catalog, digest: str) -> None:
    with pytest.raises(InvalidArgument, match="is no SHA-256"):
        filled.holding(digest)


def test_a_file_is_read_as_it_was_indexed_or_not_at_all(filled: Catalog, tmp_path: Path) -> None:
    path = tmp_path / "a" / "x.png"
    image, data = filled[path], path.read_bytes()
    assert Catalog.read(image) == data
    with Catalog.thumbnails(32) as thumbnails:
        assert thumbnails.of(image)[:2] == b"\xff\xd8"
        save_picture(path, 90)
        for use in (Catalog.read, thumbnails.of):
            with pytest.raises(PictureError, match=r"x\.png: not what was indexed any more"):
                use(image)
        assert thumbnails.of(os.fspath(path))[:2] == b"\xff\xd8"  # a file is what it is
        path.write_bytes(b"no picture")
        with pytest.raises(PictureError, match="not a picture"):
            thumbnails.of(os.fspath(path))
