"""Times that lie: a change is noticed whatever the clock says, and what has not changed is not read for ever."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from indexer import BuildReport, Catalog
from indexer.pictures import batches, scan
from indexer.preprocess import Pixels
from indexer.records import Source

from ..conftest import save_picture
from ..fakes import FakeEmbedder
from .harness import assert_finished

SECOND = 1_000_000_000
FAT = 2 * SECOND


@pytest.fixture
def catalog(tmp_path: Path, fake: FakeEmbedder) -> Iterator[Catalog]:
    with Catalog.create(tmp_path / "catalog", loader=lambda _: fake) as made:
        yield made


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the clock that tells fresh files from old ones ahead by some seconds."""
    real = time.time_ns
    return lambda seconds: monkeypatch.setattr(time, "time_ns", lambda: real() + int(seconds * SECOND))


@pytest.fixture
def was_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that builds have read."""
    names: list[str] = []

    def read(source: Source) -> scan.Content | scan.Refused:
        names.append(os.fsdecode(os.path.basename(source.path)))
        return scan.read(source)

    monkeypatch.setattr(batches, "read", read)
    return names


def counts(report: BuildReport) -> dict[str, int]:
    names = ("added", "changed", "moved", "removed", "unchanged", "skipped", "embedded")
    return {name: getattr(report, name) for name in names if getattr(report, name)}


def build(catalog: Catalog, pictures: Path) -> dict[str, int]:
    return counts(catalog.build([pictures], workers=1))


def bmp(path: Path, seed: int) -> Path:
    """A picture whose file is as long as that of every other seed."""
    return save_picture(path.with_suffix(".bmp"), seed)


def rewrite(path: Path, seed: int, *, forge: bool = True) -> None:
    """Other content of the same length in the same file; with forge, also with the same mtime."""
    before = path.stat()
    data = bmp(path.with_name("other"), seed).read_bytes()
    path.with_name("other.bmp").unlink()
    assert len(data) == before.st_size
    assert data != path.read_bytes()
    with path.open("r+b") as file:
        file.write(data)
    if forge:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def assert_true(catalog: Catalog) -> None:
    """Every image has the hash and the vector of what is in its file."""
    for image in catalog:
        data = Path(image.path).read_bytes()
        assert hashlib.sha256(data).hexdigest() == image.sha256, image.path
        with Image.open(image.path) as opened:
            vector = FakeEmbedder().embed([np.asarray(opened.convert("RGB"))])[0]
        matches = catalog.query(vector, k=3)
        assert image.path in {match.path for match in matches if match.score > 0.999}


# -- clocks that are off -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "moment", [-SECOND, 0, 4_000_000_000 * SECOND, 10_413_792_000 * SECOND, -11_676_096_000 * SECOND]
)
def test_a_time_from_the_past_or_the_future_is_a_time(
    catalog: Catalog, pictures: Path, later: Callable[[float], None], was_read: list[str], moment: int
) -> None:
    later(10)
    build(catalog, pictures)
    os.utime(pictures / "a.png", ns=(moment, moment))
    later(20)
    was_read.clear()
    assert build(catalog, pictures) == {"unchanged": 6}
    assert was_read == ["a.png"]  # a touched file is read, not embedded
    assert build(catalog, pictures) == {"unchanged": 6}
    assert was_read == ["a.png"]
    rewrite(pictures / "d.bmp", 77)
    os.utime(pictures / "d.bmp", ns=(moment, moment))
    later(30)
    assert build(catalog, pictures) == {"changed": 1, "unchanged": 5, "embedded": 1}
    assert_true(catalog)


def test_a_file_from_the_future_that_is_replaced_by_an_older_one(
    catalog: Catalog, pictures: Path, later: Callable[[float], None]
) -> None:
    later(10)
    for day in (3, 2, 1):
        save_picture(pictures / "a.png", 50 + day)
        moment = time.time_ns() + day * 86_400 * SECOND
        os.utime(pictures / "a.png", ns=(moment, moment))
        report = build(catalog, pictures)
        assert report.get("changed", 0) + report.get("added", 0) >= 1
        assert_true(catalog)


@pytest.mark.parametrize("hours", [-24, 24])
def test_a_clock_that_was_set(
    catalog: Catalog, pictures: Path, later: Callable[[float], None], was_read: list[str], hours: int
) -> None:
    """Between two builds the clock jumps: nothing is read for it, and every change is noticed."""
    later(10)
    build(catalog, pictures)
    later(3600 * hours)
    was_read.clear()
    assert build(catalog, pictures) == {"unchanged": 6}
    assert was_read == []
    rewrite(pictures / "d.bmp", 78)
    assert build(catalog, pictures) == {"changed": 1, "unchanged": 5, "embedded": 1}
    assert_true(catalog)


# -- times that are coarse ---------------------------------------------------------------------------------------------


@pytest.fixture
def fat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stamps as a FAT disk gives them: even seconds, and no time of the last change of the file's facts."""

    def compared(status: os.stat_result) -> tuple[int, int, int]:
        moment = status.st_mtime_ns // FAT * FAT
        return status.st_size, moment, moment

    monkeypatch.setattr(scan, "compared", compared)


@pytest.mark.usefixtures("fat")
def test_a_change_in_the_same_two_seconds_is_noticed(catalog: Catalog, pictures: Path) -> None:
    bmp(pictures / "d", 60)
    build(catalog, pictures)
    for seed in range(61, 67):
        rewrite(pictures / "d.bmp", seed, forge=False)  # mostly in the same even second
        assert build(catalog, pictures)["changed"] == 1
        assert_true(catalog)
        time.sleep(0.1)


@pytest.mark.usefixtures("fat")
def test_a_change_right_after_the_reading_is_noticed_however_long_the_model_takes(
    catalog: Catalog, pictures: Path, fake: FakeEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts is how fresh a file was when it was read, not when it was committed."""
    bmp(pictures / "d", 60)
    real = FakeEmbedder.forward

    def slow(self: FakeEmbedder, batch: Pixels) -> object:
        if self is fake and not self.batches:
            rewrite(pictures / "d.bmp", 61, forge=False)
            time.sleep(2.2)
        return real(self, batch)

    monkeypatch.setattr(FakeEmbedder, "forward", slow)
    build(catalog, pictures)
    assert build(catalog, pictures)["changed"] == 1
    assert_true(catalog)


@pytest.mark.usefixtures("fat")
def test_old_files_with_coarse_times_are_read_once(
    catalog: Catalog, pictures: Path, later: Callable[[float], None], was_read: list[str]
) -> None:
    for path in pictures.rglob("*.*"):
        os.utime(path, ns=(0, path.stat().st_mtime_ns // FAT * FAT))
    later(10)
    build(catalog, pictures)
    was_read.clear()
    assert build(catalog, pictures) == {"unchanged": 6}
    assert was_read == []


def test_the_same_length_and_mtime_right_after_a_build(catalog: Catalog, pictures: Path) -> None:
    build(catalog, pictures)
    rewrite(pictures / "d.bmp", 70)
    assert build(catalog, pictures) == {"changed": 1, "unchanged": 5, "embedded": 1}
    assert_true(catalog)


def test_the_same_length_and_mtime_long_after_a_build(
    catalog: Catalog, pictures: Path, later: Callable[[float], None], was_read: list[str]
) -> None:
    """By then its times are trusted; the system's own one gives the change away."""
    later(10)
    build(catalog, pictures)
    was_read.clear()
    rewrite(pictures / "d.bmp", 70)
    assert build(catalog, pictures) == {"changed": 1, "unchanged": 5, "embedded": 1}
    assert was_read == ["d.bmp"]
    assert_true(catalog)


def test_files_are_read_again_only_while_they_are_fresh(
    catalog: Catalog, pictures: Path, later: Callable[[float], None], was_read: list[str]
) -> None:
    build(catalog, pictures)
    was_read.clear()
    build(catalog, pictures)
    assert len(was_read) == 6
    later(10)
    build(catalog, pictures)
    was_read.clear()
    assert build(catalog, pictures) == {"unchanged": 6}
    assert was_read == []


# -- names -------------------------------------------------------------------------------------------------------------


def test_a_name_that_changes_its_case_only(catalog: Catalog, pictures: Path) -> None:
    build(catalog, pictures)
    (pictures / "a.png").rename(pictures / "A.PNG")
    (pictures / "sub").rename(pictures / "Sub")
    assert build(catalog, pictures) == {"moved": 3, "unchanged": 3}
    assert {Path(image.path).name for image in catalog} == {"A.PNG", "b.png", "c.jpg", "d.bmp", "e.png", "f.png"}
    assert_true(catalog)


def test_two_names_of_one_file(catalog: Catalog, pictures: Path, fake: FakeEmbedder) -> None:
    os.link(pictures / "a.png", pictures / "sub" / "a too.png")
    assert build(catalog, pictures) == {"added": 7, "embedded": 6}
    assert catalog.info().contents == 6
    assert build(catalog, pictures) == {"unchanged": 7}
    os.link(pictures / "b.png", pictures / "b too.png")
    assert build(catalog, pictures) == {"added": 1, "unchanged": 7}
    data = save_picture(pictures.parent / "new.png", 80).read_bytes()
    (pictures / "a.png").write_bytes(data)  # which is both
    assert build(catalog, pictures) == {"changed": 2, "unchanged": 6, "embedded": 1}
    assert sum(fake.batches) == 7
    assert_true(catalog)
    (pictures / "a.png").unlink()
    assert catalog.build([pictures], prune=True).removed == 1
    assert_true(catalog)


# -- files that change while they are read -----------------------------------------------------------------------------


def replace(path: Path) -> None:
    os.replace(bmp(path.with_name("other"), 90), path)


def write_over(path: Path) -> None:
    rewrite(path, 91)


def cut(path: Path) -> None:
    os.truncate(path, 100)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(100))


def touch(path: Path) -> None:
    os.utime(path)


@pytest.mark.parametrize("disturb", [replace, write_over, cut, grow, touch])
@pytest.mark.parametrize("moment", ["before it is opened", "in the middle"])
def test_a_file_that_changes_while_it_is_read(
    catalog: Catalog,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    disturb: Callable[[Path], None],
    moment: str,
) -> None:
    victim = bmp(pictures / "d", 60)
    undisturbed = [os.fsencode(str(victim))]

    def then(real: Callable[..., object], path_of: Callable[..., bytes]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            if undisturbed and undisturbed[0].endswith(path_of(*arguments)):
                undisturbed.clear()
                disturb(victim)
            return real(*arguments)

        return call

    if moment == "in the middle":  # after the first bytes
        monkeypatch.setattr(scan, "identify", then(scan.identify, lambda _, path=b"": path))
    else:
        monkeypatch.setattr(batches, "read", then(scan.read, lambda source: source.full))
    report = catalog.build([pictures], workers=1)
    assert not undisturbed
    assert [(skip.path, skip.reason) for skip in report.new_skipped] == [(str(victim), "changed while it was read")]
    assert str(victim) not in catalog
    assert_true(catalog)
    again = build(catalog, pictures)
    if disturb is cut:
        assert again == {"unchanged": 5, "skipped": 1}
    else:
        assert again == {"added": 1, "unchanged": 5, "embedded": 1}
    assert_true(catalog)
    catalog.close()
    assert_finished(catalog.folder)


@pytest.mark.parametrize("known", [False, True])
def test_a_file_that_vanishes_before_it_is_read(
    catalog: Catalog, pictures: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    victim = pictures / "d.bmp"
    if known:
        build(catalog, pictures)
        rewrite(victim, 61)
    with monkeypatch.context() as patch:

        def read(source: Source) -> scan.Content | scan.Refused:
            if source.full == os.fsencode(str(victim)):
                victim.unlink()
            return scan.read(source)

        patch.setattr(batches, "read", read)
        report = catalog.build([pictures], workers=1)
    assert [skip.reason for skip in report.new_skipped] == ["vanished before it was looked at"]
    assert catalog.build([pictures], workers=1, prune=True).skipped == 0
    assert str(victim) not in catalog
    assert len(catalog) == 5
    assert_true(catalog)
