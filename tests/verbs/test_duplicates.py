"""Groups of duplicates: every tier with its reason, no chaining, in any order of files; and what is remembered."""

from __future__ import annotations

import os
import random
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest
from PIL import Image, ImageOps

from indexer import Catalog, CatalogError, DuplicateGroup, InvalidArgument, WrongModel
from indexer.embed.embedder import Embedded
from indexer.pictures.edits import EDITS
from indexer.preprocess import Pixels
from indexer.records import Tier
from indexer.verbs import candidates, keeping
from indexer.verbs.plans import read_plan

from ..conftest import PHOTOS
from ..fakes import FakeEmbedder

NAMES = ("bee", "bridge", "cat", "coffee", "dahlia", "rocket")
SLIGHT = ("resized 50 %", "JPEG q30", "brighter", "blurred")


def photo(name: str, side: int = 256) -> Image.Image:
    with Image.open(PHOTOS / f"{name}.jpg") as image:
        return ImageOps.contain(image.convert("RGB"), (side, side))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six different photographs."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in NAMES:
        photo(name).save(folder / f"{name}.png")
    return folder


def built(folder: Path, *roots: Path, weights: str = "0" * 64) -> Catalog:
    catalog = Catalog.create(folder, loader=lambda _: FakeEmbedder(weights))
    catalog.build(list(roots))
    return catalog


def names(group: DuplicateGroup) -> dict[str, str]:
    """Name of each image -> its tier."""
    return {Path(image.path).name: image.tier for image in group.images}


def test_different_pictures_are_no_duplicates(tmp_path: Path, photos: Path) -> None:
    with built(tmp_path / "c", photos) as catalog:
        report = catalog.duplicates(tier="copy")
        assert (len(report), report.images) == (0, 6)
        assert report.removable == ()


def test_the_same_bytes(tmp_path: Path, photos: Path) -> None:
    shutil.copy(photos / "cat.png", photos / "cat (1).png")
    with built(tmp_path / "c", photos) as catalog:
        (group,) = catalog.duplicates(tier="exact")
    assert group.tier == "exact"
    assert group.min_score == pytest.approx(1, abs=1e-6)
    assert Path(group.keep.path).name == "cat.png"
    (other,) = group.others
    assert (other.action, other.why) == ("remove", "the same bytes")


def test_the_same_pixels_in_another_file(tmp_path: Path, photos: Path) -> None:
    photo("cat").save(photos / "cat.bmp")
    photo("cat").save(photos / "cat.tiff")
    with built(tmp_path / "c", photos) as catalog:
        assert len(catalog.duplicates(tier="exact")) == 0
        (group,) = catalog.duplicates(tier="pixels")
    assert set(names(group)) == {"cat.png", "cat.bmp", "cat.tiff"}
    assert {image.tier for image in group.others} == {"pixels"}
    assert group.min_score == pytest.approx(1, abs=1e-6)


def test_a_turned_picture_is_the_same_as_exif_says(tmp_path: Path, photos: Path) -> None:
    """The pixels lie on their side, and EXIF sets them upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    photo("bridge").rotate(90, expand=True).save(photos / "turned.png", exif=exif)
    with built(tmp_path / "c", photos) as catalog:
        (group,) = catalog.duplicates(tier="pixels")
    assert set(names(group)) == {"bridge.png", "turned.png"}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_copy(tmp_path: Path, photos: Path, edit: str) -> None:
    EDITS[edit](photo("bridge")).convert("RGB").save(photos / "edited.jpg", quality=85)
    with built(tmp_path / "c", photos) as catalog:
        assert len(catalog.duplicates(tier="pixels")) == 0
        (group,) = catalog.duplicates()
    assert set(names(group)) == {"bridge.png", "edited.jpg"}
    assert group.tier == "copy"
    (other,) = group.others
    assert other.why.startswith("the same picture")
    assert other.action == ("leave" if "with a local change" in other.why else "remove")
    assert other.score == group.min_score < 1


def fates(catalog: Catalog, **options: Any) -> dict[str, tuple[str, str]]:
    """Name of each image of the only group -> its action, and why."""
    (group,) = catalog.duplicates(**options)
    return {Path(image.path).name: (image.action, image.why) for image in group.images}


def test_a_copy_that_was_just_made_is_not_the_oldest(tmp_path: Path) -> None:
    """Its times are not trusted to tell whether it changes, but they are known."""
    (tmp_path / "two").mkdir()
    photo("cat").save(tmp_path / "two" / "z.png")
    shutil.copy(tmp_path / "two" / "z.png", tmp_path / "two" / "a.png")
    os.utime(tmp_path / "two" / "z.png", (1_500_000_000, 1_500_000_000))
    with built(tmp_path / "c", tmp_path / "two") as catalog:
        assert fates(catalog, keep="oldest")["z.png"] == ("keep", "oldest, 2017-07-14")
        assert fates(catalog, keep="newest")["a.png"][0] == "keep"


def test_a_border_seen_inexactly_does_not_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoded again, a framed picture may seem to show a line more; it is no better for that."""
    monkeypatch.setattr(keeping, "_BORDER_STEP", 4)  # some of a few pictures are on two sides of a step then
    misled = 0
    for number, name in enumerate(NAMES):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        framed = ImageOps.expand(photo(name), 20 + number, "white")
        framed.save(folder / "original.jpg", quality=92)
        framed.save(folder / "again.jpg", quality=20)
        framed.resize((framed.width // 2, framed.height // 2)).save(folder / "small.jpg")
        with built(tmp_path / f"c{number}", folder) as catalog:
            records = {Path(image.path).name: image for image in catalog}
            first = min(records.values(), key=keeping.Keeping.parse().key)
            misled += Path(first.path).name == "again.jpg"
            assert {n: action for n, (action, _) in fates(catalog).items()}["original.jpg"] == "keep"
    assert misled > 0


def test_pages_that_nobody_compared_are_left_alone(tmp_path: Path, photos: Path) -> None:
    cover, pages = photo("cat"), [photo(name) for name in ("bee", "coffee", "dahlia")]
    (tmp_path / "scans").mkdir()
    cover.save(tmp_path / "scans" / "2023.tiff", save_all=True, append_images=pages[:2])
    cover.save(tmp_path / "scans" / "2024.tiff", save_all=True, append_images=pages)
    shutil.copy(tmp_path / "scans" / "2024.tiff", tmp_path / "scans" / "2024 (1).tiff")
    cover.convert("P", palette=Image.Palette.ADAPTIVE).save(
        tmp_path / "scans" / "film.gif", save_all=True, append_images=pages
    )
    with built(tmp_path / "c", tmp_path / "scans") as catalog:
        found = fates(catalog)
    assert found["2024.tiff"][0] == "keep"  # it is the largest
    assert found["2024 (1).tiff"] == ("remove", "the same bytes")
    for name in ("2023.tiff", "film.gif"):
        action, why = found[name]
        assert action == "leave"
        assert why.endswith("; left, since it has frames or pages after the first")


def test_colour_is_not_given_away(tmp_path: Path, photos: Path) -> None:
    """A grey copy is lossless and larger; whoever has it kept all the same does not lose the colours."""
    (tmp_path / "two").mkdir()
    photo("cat").save(tmp_path / "two" / "cat.jpg", quality=95)
    photo("cat").convert("L").save(tmp_path / "two" / "grey.png")
    with built(tmp_path / "c", tmp_path / "two") as catalog:
        assert fates(catalog) == {"cat.jpg": ("keep", ANY), "grey.png": ("remove", ANY)}
        found = fates(catalog, keep="format")
    assert found["grey.png"][0] == "keep"
    assert found["cat.jpg"][0] == "leave"
    assert found["cat.jpg"][1].endswith("; left, since it has colour")


def test_what_is_drawn_in_white_on_nothing_is_left_alone(tmp_path: Path) -> None:
    """Over white, all of it is white."""
    (tmp_path / "icons").mkdir()
    for number in range(2):
        icon = Image.new("RGBA", (100, 100), (255, 255, 255, 0))
        icon.paste((255, 255, 255, 255), (10 + 40 * number, 10, 30 + 40 * number, 90))
        icon.save(tmp_path / "icons" / f"{number}.png")
    with built(tmp_path / "c", tmp_path / "icons") as catalog:
        assert sorted(action for action, _ in fates(catalog).values()) == ["keep", "leave"]


def test_transparency_and_depth_are_kept(tmp_path: Path) -> None:
    logo = photo("rocket").convert("RGBA")
    logo.paste((255, 255, 255, 0), (0, 0, logo.width, 40))
    flat = Image.alpha_composite(Image.new("RGBA", logo.size, "white"), logo).convert("RGB")
    levels = np.asarray(photo("cat").convert("L")).astype(np.uint16) * 257
    (tmp_path / "two").mkdir()
    logo.save(tmp_path / "two" / "logo.png")
    flat.save(tmp_path / "two" / "flat.bmp")
    Image.fromarray(levels).save(tmp_path / "two" / "scan.png")
    Image.fromarray((levels >> 8).astype(np.uint8)).save(tmp_path / "two" / "scan.bmp")
    with built(tmp_path / "c", tmp_path / "two") as catalog:
        found = {Path(group.keep.path).name: [image.action for image in group.others] for group in catalog.duplicates()}
    assert found == {"logo.png": ["remove"], "scan.png": ["remove"]}


@pytest.mark.parametrize("tier", ["copy", "similar"])
def test_what_is_only_like_another_still_leads_its_own_copies(tmp_path: Path, photos: Path, tier: Tier) -> None:
    """Were it a member of the other's group, none of them could be removed."""
    (tmp_path / "two").mkdir()
    original = photo("bridge")
    original.save(tmp_path / "two" / "bridge.png")
    if tier == "copy":  # of a local change
        other = original.copy()
        other.paste("white", (30, 110, 226, 150))
    else:
        other = original.crop((100, 0, 200, 100))
    other.save(tmp_path / "two" / "other.jpg", quality=90)
    shutil.copy(tmp_path / "two" / "other.jpg", tmp_path / "two" / "other (1).jpg")
    with built(tmp_path / "c", tmp_path / "two") as catalog:
        report = catalog.duplicates(tier=tier, threshold=-1.0)
    actions = {Path(image.path).name: image.action for group in report for image in group.images}
    assert actions["other (1).jpg"] == "remove"
    assert actions["other.jpg"] == "keep"
    assert actions.get("bridge.png", "leave") == "leave"


def test_while_a_change_of_models_is_half_done(tmp_path: Path, photos: Path) -> None:
    """What has no vector of the new model yet is not compared."""
    for name in NAMES:
        shutil.copy(photos / f"{name}.png", photos / f"{name} again.png")
        photo(name).save(photos / f"{name}.bmp")
    built(tmp_path / "c", photos).close()

    class Stopped(FakeEmbedder):
        def forward(self, batch: Pixels, k: int | None = None) -> Embedded:
            if self.batches:
                raise KeyboardInterrupt
            return super().forward(batch, k)

    stopped = Catalog.open(tmp_path / "c", loader=lambda _: Stopped("1" * 64, batch_size=4))
    with stopped as catalog, pytest.raises(KeyboardInterrupt):
        catalog.build(switch_model=True)
    with Catalog.open(tmp_path / "c", loader=lambda _: FakeEmbedder("1" * 64)) as catalog:
        half = catalog.duplicates()
        assert 0 < catalog.info().vectors < 12
        assert 0 < len(half) < 6
        with pytest.raises(CatalogError, match="indexer build"):
            catalog.export(tmp_path / "all.jsonl")
        catalog.build()
        assert len(catalog.duplicates()) == 6
        assert catalog.export(tmp_path / "all.jsonl").rows == 18


def test_a_local_change_is_for_a_person_to_judge(tmp_path: Path, photos: Path) -> None:
    """A caption; or a shot of a burst in which only the subject has moved."""
    captioned = photo("bridge")
    captioned.paste("white", (30, 110, 226, 150))
    captioned.save(photos / "captioned.png")
    with built(tmp_path / "c", photos) as catalog:
        (group,) = catalog.duplicates()
    (other,) = group.others
    assert (other.tier, other.action) == ("copy", "leave")
    assert "with a local change" in other.why


def test_scores_are_those_of_a_query(tmp_path: Path, photos: Path) -> None:
    photo("cat", 128).save(photos / "small.jpg", quality=60)
    with built(tmp_path / "c", photos) as catalog:
        (group,) = catalog.duplicates()
        found = {match.path: match.score for match in catalog.query(group.keep.path)}
    assert group.others[0].score == pytest.approx(found[group.others[0].path], abs=1e-6)


def test_what_is_only_alike_is_pointed_out_and_left(tmp_path: Path, photos: Path) -> None:
    """A vector alone is no reason to remove anything, however alike it is."""

    class Colour(FakeEmbedder):
        """Every picture is much like every other one."""

        def forward(self, batch: object) -> object:  # type: ignore[override]
            embedded = super().forward(batch)  # type: ignore[arg-type]
            rows = embedded.vectors + 3
            return replace(embedded, vectors=rows / np.linalg.norm(rows, axis=1, keepdims=True))

    with Catalog.create(tmp_path / "c", loader=lambda _: Colour()) as catalog:  # type: ignore[arg-type, return-value]
        catalog.build([photos])
        assert len(catalog.duplicates()) == 0
        (group,) = catalog.duplicates(tier="similar")
    assert group.tier == "similar"
    assert {image.action for image in group.others} == {"leave"}
    assert group.min_score >= 0.9


@pytest.fixture
def tilted(photos: Path) -> Path:
    """The six photographs, and another one held askew, which a signature cannot tell."""
    width, height = photo("dahlia").size
    middle = (width // 8, height // 8, width * 7 // 8, height * 7 // 8)
    photo("dahlia").rotate(8, Image.Resampling.BICUBIC).crop(middle).save(photos / "tilted.png")
    return photos


def test_a_thorough_search_shows_what_it_finds(tmp_path: Path, tilted: Path) -> None:
    with built(tmp_path / "c", tilted) as catalog:
        assert len(catalog.duplicates(threshold=-1)) == 0
        (group,) = catalog.duplicates(threshold=-1, thorough=True)
    assert names(group) == {"dahlia.png": "exact", "tilted.png": "probable"}
    assert [image.action for image in group.images] == ["keep", "leave"]


def test_a_thorough_search_says_at_once_what_it_needs(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not when the first pair comes up that needs it, which may be after hours, or never."""
    monkeypatch.setitem(sys.modules, "cv2", None)
    with (
        built(tmp_path / "c", photos) as catalog,
        pytest.raises(InvalidArgument, match="A thorough comparison needs an extra: pip install "),
    ):
        catalog.duplicates(thorough=True)


def test_every_member_is_a_copy_of_the_keeper_itself(tmp_path: Path, photos: Path) -> None:
    """A panorama is cut into stretches of which only the neighbours overlap enough."""
    wide = photo("bridge", 512)
    step = wide.width // 10
    for i in range(6):
        wide.crop((i * step, 0, i * step + wide.width // 2, wide.height)).save(photos / f"stretch{i}.png")
    with built(tmp_path / "c", photos) as catalog:
        report = catalog.duplicates()
        for group in report:
            paths = {image.path for image in group.images}
            assert len(paths) == len(group.images)
            for other in group.others:
                alone = [group.keep.path, other.path]
                with built(tmp_path / Path(other.path).stem, *map(Path, alone)) as two:
                    assert len(two.duplicates()) == 1
        assert sum(len(group.images) for group in report) == len({i.path for g in report for i in g.images})


def summary(catalog: Catalog) -> list[tuple[str, str, list[str]]]:
    return [
        (group.id, Path(group.keep.path).name, sorted(Path(other.path).name for other in group.others))
        for group in sorted(catalog.duplicates(), key=lambda group: group.id)
    ]


def test_the_order_of_files_does_not_matter(tmp_path: Path, photos: Path) -> None:
    for name in NAMES[:3]:
        for edit in SLIGHT:
            EDITS[edit](photo(name)).convert("RGB").save(photos / f"{name} {edit.replace(' ', '')}.png")
    files = sorted(photos.iterdir())
    found = []
    for seed in range(3):
        random.Random(seed).shuffle(files)
        catalog = Catalog.create(tmp_path / str(seed), loader=lambda _: FakeEmbedder())
        for file in files:
            catalog.build([file])
        found.append(summary(catalog))
        catalog.close()
    assert found[0] == found[1] == found[2]
    assert [len(others) for _, _, others in found[0]] == [4, 4, 4]


def test_a_hundred_copies_are_one_group(tmp_path: Path, photos: Path) -> None:
    """Many more than a picture nominates."""
    count = 5 * candidates.TOP
    for i in range(count):
        photo("dahlia", 180 - i).save(photos / f"copy{i:03}.jpg", quality=95 - i % 60)
    with built(tmp_path / "c", photos) as catalog:
        (group,) = catalog.duplicates()
    assert len(group.images) == count + 1
    assert Path(group.keep.path).name == "dahlia.png"


def test_a_copy_in_a_frame_is_not_kept_for_its_size(tmp_path: Path, photos: Path) -> None:
    ImageOps.expand(photo("cat"), 30, "white").save(photos / "a framed cat.png")
    with built(tmp_path / "c", photos) as catalog:
        (group,) = catalog.duplicates(tier="copy")
        assert names(group) == {"cat.png": "exact", "a framed cat.png": "copy"}
        assert Path(group.keep.path).name == "cat.png"
        assert "without a border" in group.keep.why


@pytest.mark.parametrize(
    ("rules", "kept"), [("resolution", "cat.png"), ("path:*small*", "small.jpg"), ("format", "cat.png")]
)
def test_rules_say_which_to_keep(tmp_path: Path, photos: Path, rules: str, kept: str) -> None:
    photo("cat", 128).save(photos / "small.jpg", quality=90)
    with built(tmp_path / "c", photos) as catalog:
        (group,) = catalog.duplicates(keep=rules)
        assert Path(group.keep.path).name == kept
        assert (group.keep.action, group.keep.score, group.keep.tier) == ("keep", 1.0, "exact")
        assert group.keep.why


# -- two catalogs ------------------------------------------------------------------------------------------------------


@pytest.fixture
def test_set(tmp_path: Path) -> Path:
    folder = tmp_path / "test set"
    folder.mkdir()
    photo("cat", 128).save(folder / "leaked.jpg", quality=70)
    photo("bee").save(folder / "bee.png")
    photo("bee").save(folder / "bee.bmp")
    with Image.open(PHOTOS / "sunset.jpg") as other:
        other.save(folder / "sunset.jpg")
    return folder


def test_against_another_catalog(tmp_path: Path, photos: Path, test_set: Path) -> None:
    shutil.copy(photos / "dahlia.png", photos / "dahlia again.png")  # within ours: not what was asked for
    before = sorted((path.name, path.stat().st_mtime_ns) for path in test_set.iterdir())
    built(tmp_path / "theirs", test_set).close()
    with built(tmp_path / "ours", photos) as ours:
        report = ours.duplicates(against=tmp_path / "theirs")
        groups = {Path(group.keep.path).name: group for group in report}
        assert report.against == str(tmp_path / "theirs")
    assert len(report.removable) == 2
    leaked, bee = groups.pop("leaked.jpg"), groups.popitem()[1]
    assert not groups
    assert [(Path(o.path).name, o.tier, o.action) for o in leaked.others] == [("cat.png", "copy", "remove")]
    assert [(Path(o.path).name, o.tier) for o in bee.others] == [("bee.png", "exact")]
    assert sorted((path.name, path.stat().st_mtime_ns) for path in test_set.iterdir()) == before


@pytest.mark.parametrize("linked", [False, True])
def test_a_file_that_both_catalogs_have_is_not_removed(tmp_path: Path, photos: Path, linked: bool) -> None:
    """The other catalog is only read, and its files stay, by whatever name it knows their folder."""
    shutil.copytree(photos, photos / "part")
    (tmp_path / "link").symlink_to(photos)
    built(tmp_path / "theirs", (tmp_path / "link" if linked else photos) / "part").close()
    with built(tmp_path / "ours", photos) as ours:
        report = ours.duplicates(against=tmp_path / "theirs")
        ours.plan(report, tmp_path / "plan.json")
        for image in (image for group in report for image in group.others):
            inside = Path(image.path).parent.name == "part"
            assert image.action == ("leave" if inside else "remove")
            assert image.why.endswith("this very file") is inside
        assert len(list(ours.apply(tmp_path / "plan.json"))) == len(NAMES)
    assert sum(len(group.others) for group in report) == 2 * len(NAMES)


def test_against_what_cannot_be_compared(tmp_path: Path, photos: Path, test_set: Path) -> None:
    built(tmp_path / "theirs", test_set, weights="1" * 64).close()
    with built(tmp_path / "ours", photos) as ours:
        with pytest.raises(WrongModel, match="cannot be compared"):
            ours.duplicates(against=tmp_path / "theirs")
        with pytest.raises(InvalidArgument, match="is this catalog itself"):
            ours.duplicates(against=tmp_path / "ours")


# -- what is remembered ------------------------------------------------------------------------------------------------


@pytest.fixture
def with_copy(photos: Path) -> Path:
    photo("cat", 128).save(photos / "small.jpg", quality=90)
    return photos


def test_a_decision_is_remembered_until_a_new_member_comes(tmp_path: Path, with_copy: Path) -> None:
    with built(tmp_path / "c", with_copy) as catalog:
        report = catalog.duplicates()
        (group,) = report
        assert catalog.keep_all(report, [group.id[:6]]) == [group]
        assert (len(catalog.duplicates()), catalog.duplicates().remembered) == (0, 1)
        os.rename(with_copy / "small.jpg", with_copy / "renamed.jpg")
        catalog.build()
        assert len(catalog.duplicates()) == 0
        shutil.copy(with_copy / "renamed.jpg", with_copy / "once more.jpg")
        catalog.build()
        (again,) = catalog.duplicates()
        assert len(again.images) == 3
        assert Catalog.verify(tmp_path / "c").ok


def test_a_decision_needs_one_group(tmp_path: Path, with_copy: Path) -> None:
    with built(tmp_path / "c", with_copy) as catalog:
        report = catalog.duplicates()
        for id in ("zz", ""):
            with pytest.raises(InvalidArgument, match="names no group"):
                catalog.keep_all(report, [report.groups[0].id, id])
        assert len(catalog.duplicates()) == 1  # nothing was remembered of the first either


def test_an_edited_plan_is_remembered(tmp_path: Path, with_copy: Path) -> None:
    plan = tmp_path / "plan.json"
    with built(tmp_path / "c", with_copy) as catalog:
        catalog.plan(catalog.duplicates(), plan)
        assert [image.action for image in read_plan(plan).groups[0].images] == ["keep", "remove"]
        plan.write_text(plan.read_text().replace('"remove"', '"keep"'))
        assert not list(catalog.apply(plan))
        assert len(catalog.duplicates()) == 1  # a dry run
        assert not list(catalog.apply(plan, yes=True))
        assert len(catalog.duplicates()) == 0


def test_a_plan_takes_the_place_of_a_plan_only(tmp_path: Path, with_copy: Path) -> None:
    picture, plan = with_copy / "small.jpg", tmp_path / "plan.JSON"
    before = picture.read_bytes()
    with built(tmp_path / "c", with_copy) as catalog:
        report = catalog.duplicates()
        with pytest.raises(InvalidArgument, match=r"small\.jpg is there, and would be lost"):
            catalog.plan(report, picture)
        assert picture.read_bytes() == before
        for _ in range(2):
            catalog.plan(report, plan)
        assert len(read_plan(plan).groups) == 1


def test_actions_are_for_images_of_the_report(tmp_path: Path, with_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = tmp_path / "plan.json"
    monkeypatch.chdir(with_copy)
    with built(tmp_path / "c", with_copy) as catalog:
        report = catalog.duplicates()
        catalog.plan(report, plan, {"small.jpg": "keep"})
        assert [image.action for image in read_plan(plan).groups[0].images] == ["keep", "keep"]
        before = plan.read_bytes()
        with pytest.raises(InvalidArgument, match=r"smal\.jpg is in no group of the report"):
            catalog.plan(report, plan, {"smal.jpg": "keep"})
        with pytest.raises(InvalidArgument, match=r"no action 'destroy'\. Choose from keep, remove, leave"):
            catalog.plan(report, plan, {"small.jpg": "destroy"})  # type: ignore[dict-item]
        assert plan.read_bytes() == before


def test_a_plan_is_carried_out_and_undone(tmp_path: Path, with_copy: Path) -> None:
    plan = tmp_path / "plan.json"
    data = (with_copy / "small.jpg").read_bytes()
    with built(tmp_path / "c", with_copy) as catalog:
        catalog.plan(catalog.duplicates(), plan)
        (step,) = catalog.apply(plan, action="move", to=tmp_path / "moved")
        assert not step.done
        (step,) = catalog.apply(plan, action="move", to=tmp_path / "moved", yes=True)
        assert (step.done, Path(step.path).name) == (True, "small.jpg")
        assert not (with_copy / "small.jpg").exists()
        assert catalog.build(prune=True).removed == 1
        assert len(catalog.duplicates()) == 0
    (back,) = Catalog.undo(f"{plan}.log")
    assert back.done
    assert (with_copy / "small.jpg").read_bytes() == data


def test_what_cannot_be_meant_by_apply_is_said_at_once(tmp_path: Path, with_copy: Path) -> None:
    """Not when the first file is asked for, which may be never."""
    plan, log = tmp_path / "plan.json", tmp_path / "plan.json.log"
    with built(tmp_path / "c", with_copy) as catalog:
        catalog.plan(catalog.duplicates(), plan)
        for yes in (False, True):
            with pytest.raises(InvalidArgument, match="no action 'nonsense'"):
                catalog.apply(plan, action="nonsense", yes=yes)  # type: ignore[arg-type]
            with pytest.raises(InvalidArgument, match="needs a folder"):
                catalog.apply(plan, action="move", yes=yes)
            with pytest.raises(InvalidArgument, match="nowhere"):
                catalog.apply(tmp_path / "nowhere.json", yes=yes)
            for text, said in (("a letter", "no undo log"), ('{"indexer_undo": 1, "uuid": "x"}', "another catalog")):
                log.write_text(text)
                with pytest.raises(InvalidArgument, match=said):
                    catalog.apply(plan, yes=yes)
                log.unlink()
        catalog.apply(plan, action="delete", yes=True)
        assert (with_copy / "small.jpg").exists()
        assert not log.exists()
        catalog.build()  # nothing is locked by what was never begun
        with Catalog.open(tmp_path / "c", readonly=True) as reader:
            (step,) = reader.apply(plan)
            assert step.why.startswith("dry run")
            with pytest.raises(CatalogError, match="opened for reading"):
                reader.apply(plan, yes=True)
    with pytest.raises(InvalidArgument, match="no undo log"):
        Catalog.undo(plan)


# -- what cannot be meant ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 1.5},
        {"threshold": float("nan")},
        {"tier": "certain"},
        {"keep": "prettiest"},
        {"thorough": True, "tier": "copy"},
    ],
)
def test_what_cannot_be_meant(tmp_path: Path, photos: Path, options: dict[str, object]) -> None:
    with built(tmp_path / "c", photos) as catalog, pytest.raises(InvalidArgument):
        catalog.duplicates(**options)  # type: ignore[arg-type]


def test_an_empty_catalog(tmp_path: Path) -> None:
    with (
        Catalog.create(tmp_path / "c", loader=lambda _: FakeEmbedder()) as catalog,
        pytest.raises(CatalogError, match="holds no vectors yet"),
    ):
        catalog.duplicates()


def test_a_threshold_is_kept(tmp_path: Path, photos: Path) -> None:
    EDITS["cropped 20 %"](photo("bridge")).save(photos / "cropped.png")
    with built(tmp_path / "c", photos) as catalog:
        (group,) = catalog.duplicates()
        just_below, just_above = group.min_score - 1e-4, group.min_score + 1e-4
        assert len(catalog.duplicates(threshold=just_below)) == 1
        assert len(catalog.duplicates(threshold=just_above)) == 0


def test_a_picture_that_vanished_is_still_listed(tmp_path: Path, with_copy: Path) -> None:
    """Nothing is read again; apply looks before it touches anything."""
    with built(tmp_path / "c", with_copy) as catalog:
        (with_copy / "small.jpg").unlink()
        assert len(catalog.duplicates()) == 1
