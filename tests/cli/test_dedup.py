"""dedup, apply and calibrate as a person and a script see them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps

from indexer import Catalog
from indexer.verbs import candidates, duplicates
from indexer.verbs.plans import read_plan

from ..conftest import PHOTOS
from .conftest import Run

GROUP = {"id", "tier", "min_score", "keep", "expected_recall", "images"}
IMAGE = {"path", "score", "width", "height", "bytes", "tier", "action", "why"}


@pytest.fixture
def folder(tmp_path: Path, run: Run) -> Path:
    """A catalog of three photographs and a smaller copy of one."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("bee", "bridge", "cat"):
        with Image.open(PHOTOS / f"{name}.jpg") as image:
            ImageOps.contain(image, (256, 256)).save(folder / f"{name}.png")
    with Image.open(folder / "cat.png") as image:
        image.resize((image.width // 2, image.height // 2)).save(folder / "small.jpg")
    assert run("build", folder).code == 0
    return folder


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_groups_as_json(run: Run, folder: Path) -> None:
    done = run("dedup", "--json")
    (group,) = lines(done.out)
    assert done.code == 0
    assert set(group) == GROUP
    assert (group["tier"], group["keep"]) == ("copy", str(folder / "cat.png"))
    assert all(set(image) == IMAGE for image in group["images"])
    assert [image["action"] for image in group["images"]] == ["keep", "remove"]
    assert group["min_score"] == group["images"][1]["score"]


def test_groups_in_a_pipe(run: Run, folder: Path) -> None:
    done = run("dedup")
    first, second = (line.split("\t") for line in done.out.splitlines())
    assert first[1:4] == ["exact", "keep", "1.0000"]
    assert second[1:3] == ["copy", "remove"]
    assert second[4] == str(folder / "small.jpg")
    assert "1 group of duplicates among 4 pictures; beside those to keep: 1 copy" in done.err
    assert "indexer calibrate" in done.err


def test_nothing_is_found(run: Run, folder: Path) -> None:
    done = run("dedup", "--tier", "exact")
    assert (done.code, done.out) == (0, "")
    assert "0 groups of duplicates among 4 pictures" in done.err


def test_a_dry_run_only_reads_the_catalog(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be on a disk that cannot be written."""
    run("dedup", "--plan", "plan.json")
    opened: list[bool] = []
    open_it = Catalog.open

    def watched(folder: Path, **options: Any) -> Catalog:
        opened.append(options["readonly"])
        return open_it(folder, **options)

    monkeypatch.setattr(Catalog, "open", watched)
    assert "would" in run("apply", "plan.json").out
    assert opened == [True]


def test_a_plan_a_page_and_what_apply_says(run: Run, folder: Path, tmp_path: Path) -> None:
    done = run("dedup", "--plan", "plan.json", "--html", "groups.html")
    assert "indexer apply plan.json" in done.err
    page = Path("groups.html").read_text()
    assert "1 group of duplicates among 4 pictures" in page
    assert page.count("data:image/jpeg;base64,") == 2

    dry = run("apply", "plan.json", "--action", "delete")
    assert dry.code == 0
    assert dry.out.startswith(f"would\tdelete\t{folder / 'small.jpg'}\tdry run")
    assert "nothing was changed" in dry.err
    assert (folder / "small.jpg").exists()
    (step,) = lines(run("apply", "plan.json", "--action", "delete", "--json").out)
    assert step.pop("why").startswith("dry run: ")
    assert step == {"path": str(folder / "small.jpg"), "action": "delete", "done": False, "would": True}

    done = run("apply", "plan.json", "--action", "move", "--to", tmp_path / "moved", "--yes", "--json")
    (step,) = lines(done.out)
    assert (done.code, step) == (
        0,
        {"path": str(folder / "small.jpg"), "action": "move", "done": True, "would": False, "why": ""},
    )
    assert "indexer build" in done.err
    assert not (folder / "small.jpg").exists()

    back = run("apply", "--undo", "plan.json.log")
    assert (back.code, back.out) == (0, f"done\tmove\t{folder / 'small.jpg'}\n")
    assert (folder / "small.jpg").exists()


def test_what_comes_next_can_be_typed_as_it_is_said(run: Run, folder: Path) -> None:
    """Also of a catalog and a plan with spaces, and where so much was removed that a build takes it for an accident."""
    assert run("build", folder, "--catalog", "my catalog").code == 0
    said = run("dedup", "--catalog", "my catalog", "--plan", "my plan.json").err
    apply = command_after("Look at it, then: ", said)
    assert apply == ["apply", "my plan.json", "--catalog", "my catalog"]
    done = run(*apply, "--yes", "--action", "move", "--to", "moved")
    assert done.code == 0
    build = run(*command_after("Bring the catalog in line with: ", done.err))
    assert (build.code, build.err) == (0, "")
    assert "removed 1" in build.out
    back = run(*command_after("Put everything back with: ", done.err))
    assert back.out == f"done\tmove\t{folder / 'small.jpg'}\n"


def test_what_cannot_be_put_back_is_not_said_to_be(run: Run, folder: Path) -> None:
    run("dedup", "--plan", "plan.json")
    done = run("apply", "plan.json", "--yes", "--action", "delete")
    assert "Put everything back" not in done.err
    assert "indexer build --prune" in done.err
    again = run("apply", "plan.json", "--yes")
    assert again.out == f"done\tdelete\t{folder / 'small.jpg'}\talready done\n"
    assert "back with" not in again.err


def test_what_an_earlier_run_deleted_is_not_said_to_come_back(run: Run, folder: Path) -> None:
    run("dedup", "--plan", "plan.json")
    (folder / "other.jpg").write_bytes((folder / "small.jpg").read_bytes())
    plan = json.loads(Path("plan.json").read_text())
    images = plan["groups"][0]["images"]
    other = {**next(image for image in images if image["action"] == "remove"), "path": str(folder / "other.jpg")}
    run("apply", "plan.json", "--yes", "--action", "delete")
    images.append(other)
    Path("plan.json").write_text(json.dumps(plan))
    done = run("apply", "plan.json", "--yes", "--action", "move", "--to", "moved")
    back = run(*command_after("Put what was not deleted back with: ", done.err))
    assert back.out.startswith(f"done\tmove\t{folder / 'other.jpg'}\n")


def command_after(words: str, said: str) -> list[str]:
    """What is to be typed next, without the program's name."""
    (line,) = (line for line in said.splitlines() if words in line)
    program, *command = shlex.split(line.partition(words)[2])
    assert program == "indexer"
    return command


def test_what_is_approximate_says_so(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = run("dedup", "--json", "--plan", "plan.json", "--html", "groups.html")
    assert "Approximate" not in exact.err + Path("groups.html").read_text()
    assert lines(exact.out)[0]["expected_recall"] is None
    assert read_plan("plan.json").recall is None

    found = candidates.candidates
    monkeypatch.setattr(duplicates, "candidates", lambda *args, **more: found(*args, **more)._replace(recall=0.987))
    done = run("dedup", "--json", "--plan", "plan.json", "--html", "groups.html")
    assert "about 98.7%" in done.err
    assert "--all-pairs" in done.err
    assert "about 98.7%" in Path("groups.html").read_text()
    assert lines(done.out)[0]["expected_recall"] == 0.987
    assert read_plan("plan.json").recall == 0.987


def test_what_is_left_alone_is_exit_code_three(run: Run, folder: Path) -> None:
    run("dedup", "--plan", "plan.json")
    (folder / "small.jpg").write_bytes(b"something else")
    done = run("apply", "plan.json", "--action", "delete", "--yes")
    assert done.code == 3
    assert done.out.startswith(f"left\tdelete\t{folder / 'small.jpg'}\t")
    assert done.err == "Left alone: 1 file, each with the reason; done: 0.\n"
    assert (folder / "small.jpg").exists()


def test_a_plan_does_nothing_on_a_terminal(run: Run, folder: Path) -> None:
    run("dedup", "--plan", "plan.json")
    plan = json.loads(Path("plan.json").read_text())
    for image in plan["groups"][0]["images"]:
        image["path"] = "/\x1b[31mred"
    Path("plan.json").write_text(json.dumps(plan))
    done = run("apply", "plan.json")
    assert (done.code, done.out) == (1, "")
    assert done.err == "Error: The plan has /\\x1b[31mred twice. Delete one of the two.\n"


def test_a_group_that_is_none(run: Run, folder: Path) -> None:
    (group,) = lines(run("dedup", "--json").out)
    done = run("dedup", "--keep-all", group["id"])
    assert (done.code, done.out) == (0, "")
    assert f"Group {group['id']} is remembered" in done.err
    after = run("dedup", "--json")
    assert after.out == ""
    assert "1 group left out" in after.err
    assert "indexer dedup --ask-again" in after.err
    again = run("dedup", "--ask-again", "--json")
    assert lines(again.out) == [group]
    assert "Forgot 1 group" in again.err
    assert lines(run("dedup", "--json").out) == [group]
    assert "Forgot 0 groups" in run("dedup", "--ask-again").err
    assert run("verify").code == 0


def test_against(run: Run, folder: Path, tmp_path: Path) -> None:
    assert run("build", folder / "small.jpg", folder / "bee.png", "--catalog", "other").code == 0
    done = run("dedup", "--against", "other", "--json")
    assert {group["tier"] for group in lines(done.out)} == {"exact", "copy"}
    assert "3 of 4 pictures (75.00%) are in other too: 2 exact, 1 copy" in done.err


def test_calibrate(run: Run, folder: Path) -> None:
    done = run("calibrate", "--sample", "3", "--json", "--html", "thresholds.html")
    (found,) = lines(done.out)
    assert done.code == 0
    assert (found["sample"], found["images"]) == (3, 4)
    assert found["edits"]["resized 50 %"] == {"recall": 1.0, "verified": 1.0}
    recalls = [point["recall"] for point in found["points"]]
    assert recalls == sorted(recalls, reverse=True)
    assert "<svg" in Path("thresholds.html").read_text()
    assert "cautious defaults" not in run("dedup").err
    assert "copy      from" in run("calibrate", "--sample", "2").out
    assert run("verify").code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dedup", "--keep-all", "zz"], "'zz' names no group"),
        (["dedup", "--keep-all", "zz", "--plan", "plan.json"], "Ask for --plan or --html afterwards"),
        (["dedup", "--keep-all", "zz", "--ask-again"], "Give one of the two"),
        (["dedup", "--against", "nowhere"], "There is no catalog in nowhere"),
        (["apply", "nowhere.json"], "nowhere.json"),
        (["apply", "--undo", "nowhere.log"], "nowhere.log"),
    ],
)
def test_bad_input(run: Run, folder: Path, words: list[str], said: str) -> None:
    done = run(*words)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("Error: ")
    assert said in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["apply"], "Error: Give a plan to carry out, or --undo LOG"),
        (["apply", "plan.json", "--undo", "log"], "Error: Give a plan to carry out, or --undo LOG"),
        (["dedup", "--threshold", "much"], "Invalid value for '--threshold': 'much' is not a valid float"),
        (["dedup", "--threshold", "2"], "Invalid value for '--threshold': 2.0 is not in the range -1<=x<=1"),
        (["dedup", "--threshold", "nan"], "Invalid value for '--threshold': nan is no number"),
        (
            ["dedup", "--keep", "prettiest"],
            "Invalid value for '--keep': There is no rule 'prettiest' for what to keep.",
        ),
        (["dedup", "--keep", "bytes,bytes"], "The rule bytes comes twice"),
    ],
)
def test_wrong_usage(run: Run, folder: Path, words: list[str], said: str) -> None:
    done = run(*words)
    assert (done.code, done.out) == (2, "")
    assert said in done.err


def test_a_threshold_is_a_number_or_auto(run: Run, folder: Path) -> None:
    found = run("dedup", "--json").out
    assert run("dedup", "--json", "--threshold", "auto").out == found
    assert run("dedup", "--json", "--threshold", "-0.5").out == found
    assert run("dedup", "--json", "--threshold", "1").out == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["build"], "looking for files"),
        (["dedup"], "comparing vectors"),
        (["calibrate", "--sample", "1"], "loading the model"),
    ],
)
def test_the_bar_begins_with_what_is_done_first(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    begun: list[str] = []
    monkeypatch.setattr("rich.progress.Progress.add_task", lambda _, description, **__: begun.append(description))
    monkeypatch.setattr("rich.progress.Progress.update", lambda *_, **__: None)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert run(*words).code == 0
    assert begun == [said]
