"""apply touches nothing that it should not, and undo puts back what it did; with real files, links and kills."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from indexer.errors import CatalogError, InvalidArgument, WrongFormat
from indexer.records import Applied, ApplyAction
from indexer.verbs import moves
from indexer.verbs.apply import apply
from indexer.verbs.plans import Plan, PlannedGroup, PlannedImage, read_plan, write_plan
from indexer.verbs.undo import undo
from indexer.verbs.undo_log import Entry, UndoLog, read

from ..conftest import ROOT

Apply = Callable[..., list[Applied]]
Meanwhile = Callable[[Callable[[], object]], None]
KEEP, COPY, TWIN = b"the picture", b"a smaller one", b"the picture"


@pytest.fixture(autouse=True)
def trash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trash of our own."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    return tmp_path / "share" / "Trash"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "keep.jpg").write_bytes(KEEP)
    (root / "sub" / "copy.jpg").write_bytes(COPY)
    (root / "twin.jpg").write_bytes(TWIN)
    return root


def image(path: Path, data: bytes, action: str, tier: str = "copy") -> PlannedImage:
    digest = hashlib.sha256(data).hexdigest()
    return PlannedImage(str(path), digest, len(data), 4, 3, 0.9, tier, action)  # type: ignore[arg-type]


def plan_of(*images: PlannedImage, uuid: str = "u") -> Plan:
    return Plan("/c", uuid, "m", 0.4, (PlannedGroup("abc", "copy", 0.9, images),))


@pytest.fixture
def plan(root: Path) -> Plan:
    return plan_of(
        image(root / "keep.jpg", KEEP, "keep"),
        image(root / "sub" / "copy.jpg", COPY, "remove"),
        image(root / "twin.jpg", TWIN, "remove", "exact"),
    )


@pytest.fixture
def run(root: Path, tmp_path: Path) -> Apply:
    def runner(
        plan: Plan, action: ApplyAction = "delete", *, yes: bool = True, to: Path | None = None
    ) -> list[Applied]:
        log = tmp_path / "log"
        return list(apply(plan, uuid="u", roots=[os.fsencode(root)], action=action, to=to, yes=yes, log=log))

    return runner


def files(root: Path) -> dict[str, bytes | str]:
    """What lies below a folder: contents, or where a link points."""
    return {
        str(path.relative_to(root)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


ALL = {"keep.jpg": KEEP, "sub/copy.jpg": COPY, "twin.jpg": TWIN}


@pytest.mark.parametrize("action", ["trash", "move", "hardlink", "symlink", "delete"])
def test_a_dry_run_changes_nothing(run: Apply, plan: Plan, root: Path, tmp_path: Path, action: ApplyAction) -> None:
    steps = run(plan, action, yes=False, to=tmp_path / "to" if action == "move" else None)
    assert [step.done for step in steps] == [False, False]
    assert [step.would for step in steps] == [action not in ("hardlink", "symlink"), True]
    assert files(root) == ALL
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root"]


@pytest.mark.parametrize("action", ["trash", "move", "delete"])
def test_what_is_marked_goes_and_nothing_else(
    run: Apply, plan: Plan, root: Path, tmp_path: Path, action: ApplyAction
) -> None:
    to = tmp_path / "to" if action == "move" else None
    assert all(step.done for step in run(plan, action, to=to))
    assert files(root) == {"keep.jpg": KEEP}
    if to:
        assert files(to) == {"sub/copy.jpg": COPY, "twin.jpg": TWIN}
    again = run(plan, action, to=to)
    assert [(step.done, step.why) for step in again] == [(True, "already done")] * 2
    back = list(undo(tmp_path / "log"))
    assert [step.done for step in back] == [action != "delete"] * 2
    assert files(root) == (ALL if action != "delete" else {"keep.jpg": KEEP})


@pytest.mark.parametrize("action", ["hardlink", "symlink"])
def test_links_are_for_the_same_bytes_only(
    run: Apply, plan: Plan, root: Path, tmp_path: Path, action: ApplyAction
) -> None:
    os.utime(root / "twin.jpg", ns=(10**18, 10**18))
    copy, twin = run(plan, action)
    assert not copy.done
    assert "other bytes" in copy.why
    assert twin.done
    assert (root / "twin.jpg").samefile(root / "keep.jpg")
    assert (root / "twin.jpg").is_symlink() == (action == "symlink")
    assert (root / "sub" / "copy.jpg").read_bytes() == COPY
    assert all(step.done for step in undo(tmp_path / "log"))
    assert files(root) == ALL
    assert not (root / "twin.jpg").samefile(root / "keep.jpg")
    assert (root / "twin.jpg").stat().st_mtime_ns == 10**18


def changed(root: Path) -> None:
    (root / "sub" / "copy.jpg").write_bytes(b"edited since")


def keeper_changed(root: Path) -> None:
    (root / "keep.jpg").write_bytes(b"edited since")


def keeper_gone(root: Path) -> None:
    (root / "keep.jpg").unlink()


def keeper_is_the_victim(root: Path) -> None:
    (root / "keep.jpg").unlink()
    (root / "keep.jpg").symlink_to(root / "twin.jpg")


def victim_is_a_link(root: Path) -> None:
    os.rename(root / "sub" / "copy.jpg", root.parent / "elsewhere.jpg")
    (root / "sub" / "copy.jpg").symlink_to(root.parent / "elsewhere.jpg")


def folder_leads_out(root: Path) -> None:
    os.rename(root / "sub", root.parent / "elsewhere")
    (root / "sub").symlink_to(root.parent / "elsewhere")


def gone(root: Path) -> None:
    (root / "sub" / "copy.jpg").unlink()


@pytest.mark.parametrize(
    ("harm", "left"),
    [
        (changed, {"copy.jpg"}),
        (gone, {"copy.jpg"}),
        (victim_is_a_link, {"copy.jpg"}),
        (folder_leads_out, {"copy.jpg"}),
        (keeper_changed, {"copy.jpg", "twin.jpg"}),
        (keeper_gone, {"copy.jpg", "twin.jpg"}),
        (keeper_is_the_victim, {"copy.jpg", "twin.jpg"}),
    ],
)
@pytest.mark.parametrize("action", ["trash", "delete"])
def test_what_is_not_as_it_was_is_left(
    run: Apply, plan: Plan, root: Path, harm: Callable[[Path], None], left: set[str], action: ApplyAction
) -> None:
    harm(root)
    before = files(root.parent)
    steps = run(plan, action)
    assert {Path(step.path).name for step in steps if not step.done} == left
    assert all(step.why for step in steps if not step.done)
    after = files(root.parent)
    assert {name for name in before if name not in after} == {
        f"root/{name}" for name in ("twin.jpg",) if name not in left
    }
    assert all(after[name] == before[name] for name in before if name in after)


@pytest.mark.parametrize("harm", [keeper_changed, keeper_gone])
def test_what_else_is_kept_stands_in_only_for_the_same_bytes(
    run: Apply, root: Path, harm: Callable[[Path], None]
) -> None:
    """A thumbnail that the plan keeps too is not what the others were compared with."""
    for name, data in (("thumb.jpg", b"tiny"), ("same.jpg", TWIN)):
        (root / name).write_bytes(data)
    keep = image(root / "keep.jpg", KEEP, "keep"), image(root / "thumb.jpg", b"tiny", "keep")
    twin, same = image(root / "twin.jpg", TWIN, "remove"), image(root / "same.jpg", TWIN, "keep")
    harm(root)
    (step,) = run(plan_of(*keep, twin))
    assert not step.done
    assert step.why.endswith(f"{root / 'thumb.jpg'}, which is kept too, has other bytes and was not compared with it")
    assert (root / "twin.jpg").exists()
    (step,) = run(plan_of(*keep, twin, same))
    assert step.done


def test_what_lies_outside_the_folders_is_left(run: Apply, root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.jpg").write_bytes(COPY)
    (tmp_path / "root2").mkdir()
    (tmp_path / "root2" / "near.jpg").write_bytes(COPY)
    for path in (tmp_path / "outside.jpg", tmp_path / "root2" / "near.jpg", root / ".." / "outside.jpg"):
        (step,) = run(plan_of(image(root / "keep.jpg", KEEP, "keep"), image(path, COPY, "remove")))
        assert (step.done, step.why) == (False, "it is outside the catalog's folders")
        assert path.exists()


def test_hard_links_of_one_file(run: Apply, root: Path) -> None:
    """One name may go as long as another stays."""
    (root / "twin.jpg").unlink()
    os.link(root / "keep.jpg", root / "twin.jpg")
    (step,) = run(plan_of(image(root / "keep.jpg", KEEP, "keep"), image(root / "twin.jpg", TWIN, "remove", "exact")))
    assert step.done
    assert files(root) == {"keep.jpg": KEEP, "sub/copy.jpg": COPY}


def mount_pool(disk: Path, pool: Path) -> None:
    """Show a disk's folder a second time, with other devices and inodes."""
    for name in ("upper", "work"):
        (pool.parent / name).mkdir()
    options = f"lowerdir={disk},upperdir={pool.parent / 'upper'},workdir={pool.parent / 'work'}"
    done = subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(pool)], capture_output=True)
    if done.returncode:
        pytest.skip("no permission to mount, or no overlayfs")


@pytest.fixture
def pool(root: Path) -> Iterator[Path]:
    """A folder of the root that shows another one, disk, once more."""
    disk, pool = root / "disk", root / "pool"
    disk.mkdir()
    pool.mkdir()
    (disk / "only.jpg").write_bytes(TWIN)
    mount_pool(disk, pool)
    yield pool
    subprocess.run(["umount", str(pool)], check=True)


@pytest.mark.parametrize("action", ["trash", "move", "symlink", "delete"])
@pytest.mark.parametrize("kept_in_pool", [True, False])
def test_one_file_that_is_seen_through_two_file_systems_is_no_duplicate(
    run: Apply, root: Path, pool: Path, tmp_path: Path, action: ApplyAction, kept_in_pool: bool
) -> None:
    seen = [pool / "only.jpg", root / "disk" / "only.jpg"]
    keeper, source = seen if kept_in_pool else seen[::-1]
    plan = plan_of(image(keeper, TWIN, "keep"), image(source, TWIN, "remove", "exact"))
    (step,) = run(plan, action, to=tmp_path / "to" if action == "move" else None)
    if kept_in_pool:  # what is removed in the pool is only hidden there: overlayfs leaves the folder below alone
        assert (step.done, "is seen a second time as that of" in step.why) == (False, True)
    assert keeper.read_bytes() == TWIN
    assert not [path for path in root.rglob("*") if path.name.endswith(".tmp")]


@pytest.mark.parametrize("again", [True, False])
def test_what_a_killed_look_beside_a_file_left_is_cleared_away(
    run: Apply, plan: Plan, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    link = os.link

    def killed(*paths: bytes) -> None:
        link(*paths)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "link", killed)
        run(plan)
    assert len(files(root)) == len(ALL) + 1
    if again:
        run(plan)
    else:
        assert [step.why for step in undo(tmp_path / "log")] == ["it is where it was"]
    assert files(root) == ({"keep.jpg": KEEP} if again else ALL)


def test_where_it_cannot_be_told_whether_two_are_one(
    run: Apply, plan: Plan, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "link", refused)
    monkeypatch.setattr("indexer.verbs.moves._make_empty", refused)
    copy, twin = run(plan)
    assert (copy.done, twin.done) == (False, True)
    assert copy.why.startswith(f"it may be the same file as {root / 'keep.jpg'}")


@pytest.mark.parametrize("action", ["keep", "leave"])
def test_what_stays_is_not_touched_under_another_name(run: Apply, root: Path, action: str) -> None:
    (root / "link").symlink_to(root / "sub")
    keep, copy = image(root / "keep.jpg", KEEP, "keep"), root / "sub" / "copy.jpg"
    (step,) = run(plan_of(keep, image(copy, COPY, action), image(root / "link" / "copy.jpg", COPY, "remove")))
    assert (step.done, step.why) == (False, f"the plan keeps the same file as {copy}")
    assert copy.read_bytes() == COPY


def test_another_file_that_has_the_name_now_is_not_said_to_be_done(run: Apply, root: Path) -> None:
    keep, path = image(root / "keep.jpg", KEEP, "keep"), root / "sub" / "copy.jpg"
    assert run(plan_of(keep, image(path, COPY, "remove")))[0].done
    (step,) = run(plan_of(keep, image(path, b"another", "remove")))
    assert not step.done


def test_a_folder_to_move_to(run: Apply, plan: Plan, root: Path, tmp_path: Path) -> None:
    """A hidden one is passed over by the next build; a link into the root is not."""
    (tmp_path / "away").symlink_to(root)
    with pytest.raises(InvalidArgument, match="where the next build would find"):
        run(plan, "move", to=tmp_path / "away")
    assert files(root) == ALL
    assert all(step.done for step in run(plan, "move", to=root / ".removed"))
    assert files(root) == {"keep.jpg": KEEP, ".removed/sub/copy.jpg": COPY, ".removed/twin.jpg": TWIN}


def test_the_same_bytes_at_the_target_are_somebody_elses(run: Apply, plan: Plan, root: Path, tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "twin.jpg").write_bytes(TWIN)
    assert [step.done for step in run(plan, "move", to=tmp_path / "to")] == [True, False]
    assert (root / "twin.jpg").read_bytes() == TWIN
    assert [step.done for step in undo(tmp_path / "log")] == [True]
    assert (tmp_path / "to" / "twin.jpg").read_bytes() == TWIN


def test_what_will_be_done_is_on_disk_first(
    run: Apply, plan: Plan, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[tuple[str, str]] = []
    fsync, unlink = os.fsync, os.unlink

    def synced(handle: int) -> None:
        fsync(handle)
        if os.readlink(f"/proc/self/fd/{handle}") == str(tmp_path / "log"):
            events.append(("noted", json.loads((tmp_path / "log").read_text().splitlines()[-1]).get("source", "")))

    def gone(path: bytes) -> None:
        unlink(path)
        if path.endswith(b".jpg"):
            events.append(("gone", os.fsdecode(path)))

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "unlink", gone)
    run(plan)
    wanted = [str(root / "sub" / "copy.jpg"), str(root / "twin.jpg")]
    assert events == [event for path in wanted for event in (("noted", path), ("gone", path), ("noted", ""))]


# -- undo --------------------------------------------------------------------------------------------------------------


def test_undo_begins_with_the_last(run: Apply, root: Path, tmp_path: Path) -> None:
    keep, path = image(root / "keep.jpg", KEEP, "keep"), root / "sub" / "copy.jpg"
    run(plan_of(keep, image(path, COPY, "remove")), "move", to=tmp_path / "one")
    path.write_bytes(b"later")
    run(plan_of(keep, image(path, b"later", "remove")), "move", to=tmp_path / "two")
    last, first = undo(tmp_path / "log")
    assert (last.done, first.done) == (True, False)
    assert path.read_bytes() == b"later"


@pytest.mark.parametrize("action", ["move", "symlink"])
def test_what_is_not_known_to_be_done_is_undone(
    run: Apply, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: ApplyAction
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    plan = plan_of(image(root / "keep.jpg", KEEP, "keep"), image(root / "twin.jpg", TWIN, "remove", "exact"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(UndoLog, "became", killed)
        run(plan, action, to=tmp_path / "to" if action == "move" else None)
    assert files(root) != ALL
    assert [step.done for step in undo(tmp_path / "log")] == [True]
    assert files(root) == ALL


def test_what_was_undone_is_not_undone_again(run: Apply, plan: Plan, tmp_path: Path) -> None:
    run(plan, "move", to=tmp_path / "to")
    assert [step.done for step in undo(tmp_path / "log")] == [True, True]
    assert states(tmp_path) == {"undone"}
    assert list(undo(tmp_path / "log")) == []


def test_undo_goes_on_after_what_the_system_refuses(run: Apply, plan: Plan, root: Path, tmp_path: Path) -> None:
    run(plan, "move", to=tmp_path / "to")
    (root / "sub").rmdir()
    (root / "sub").write_bytes(b"a file now")
    done = {Path(step.path).name: step.done for step in undo(tmp_path / "log")}
    assert done == {"twin.jpg": True, "copy.jpg": False}
    assert (root / "twin.jpg").read_bytes() == TWIN
    assert (tmp_path / "to" / "sub" / "copy.jpg").read_bytes() == COPY


def test_what_changed_since_it_was_moved_stays(run: Apply, plan: Plan, root: Path, tmp_path: Path) -> None:
    run(plan, "move", to=tmp_path / "to")
    moved = tmp_path / "to" / "twin.jpg"
    moved.write_bytes(b"edited since")
    done = {Path(step.path).name: (step.done, step.why) for step in undo(tmp_path / "log")}
    assert done == {"copy.jpg": (True, ""), "twin.jpg": (False, f"{moved} is gone or has changed")}
    assert not (root / "twin.jpg").exists()


def test_a_link_to_what_changed_since_stays(run: Apply, plan: Plan, root: Path, tmp_path: Path) -> None:
    run(plan, "symlink")
    (root / "keep.jpg").write_bytes(b"edited since")
    (back,) = undo(tmp_path / "log")
    assert (back.done, back.why) == (False, f"{root / 'keep.jpg'}, which it links to, is gone or has changed")
    assert (root / "twin.jpg").is_symlink()


@pytest.mark.parametrize("action", ["move", "symlink"])
@pytest.mark.parametrize("to", ["nowhere", "sub/copy.jpg"])
def test_a_link_of_a_persons_own_is_not_replaced(
    run: Apply, plan: Plan, root: Path, tmp_path: Path, action: ApplyAction, to: str
) -> None:
    run(plan, action, to=tmp_path / "to" if action == "move" else None)
    (root / "twin.jpg").unlink(missing_ok=True)
    (root / "twin.jpg").symlink_to(to)
    done = {Path(step.path).name: (step.done, step.why) for step in undo(tmp_path / "log")}
    assert done["twin.jpg"] == (False, "there is something else now")
    assert os.readlink(root / "twin.jpg") == to


def test_undo_takes_the_note_out_of_the_trash_too(
    run: Apply, plan: Plan, root: Path, tmp_path: Path, trash: Path
) -> None:
    run(plan, "trash")
    assert [len(list((trash / name).iterdir())) for name in ("files", "info")] == [2, 2]
    assert [step.done for step in undo(tmp_path / "log")] == [True, True]
    assert [len(list((trash / name).iterdir())) for name in ("files", "info")] == [0, 0]
    assert files(root) == ALL


def test_two_groups_that_remove_each_others_keepers(run: Apply, root: Path) -> None:
    one, other = root / "keep.jpg", root / "twin.jpg"
    first = PlannedGroup(
        "a", "exact", 1.0, (image(one, KEEP, "keep"), image(root / "sub" / "copy.jpg", COPY, "remove"))
    )
    second = PlannedGroup("b", "exact", 1.0, (image(other, TWIN, "keep"), image(one, KEEP, "remove")))
    plan = Plan("/c", "u", "m", 0.4, (first, second))
    with pytest.raises(InvalidArgument, match="twice"):
        run(plan)
    assert files(root) == ALL


def test_nothing_is_overwritten(run: Apply, plan: Plan, root: Path, tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "twin.jpg").write_bytes(b"was here before")
    copy, twin = run(plan, "move", to=tmp_path / "to")
    assert (copy.done, twin.done) == (True, False)
    assert (tmp_path / "to" / "twin.jpg").read_bytes() == b"was here before"
    (root / "sub" / "copy.jpg").write_bytes(b"came since")
    (back,) = undo(tmp_path / "log")
    assert not back.done
    assert (root / "sub" / "copy.jpg").read_bytes() == b"came since"
    assert (tmp_path / "to" / "sub" / "copy.jpg").read_bytes() == COPY


@pytest.mark.parametrize("name", ["new\nline.jpg", "space .jpg", "-rf.jpg", "'quote\".jpg", "ü.jpg"])
@pytest.mark.parametrize("action", ["trash", "move"])
def test_any_name(run: Apply, root: Path, tmp_path: Path, name: str, action: ApplyAction) -> None:
    path = root / name
    path.write_bytes(COPY)
    write_plan(tmp_path / "plan.json", plan_of(image(root / "keep.jpg", KEEP, "keep"), image(path, COPY, "remove")))
    (step,) = run(read_plan(tmp_path / "plan.json"), action, to=tmp_path / "to" if action == "move" else None)
    assert (step.path, step.done) == (str(path), True)
    assert not path.exists()
    assert [back.done for back in undo(tmp_path / "log")] == [True]
    assert path.read_bytes() == COPY


def test_a_name_that_is_no_unicode(run: Apply, root: Path, tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(root) + b"/\xff\xfe.jpg"))
    path.write_bytes(COPY)
    write_plan(tmp_path / "plan.json", plan_of(image(root / "keep.jpg", KEEP, "keep"), image(path, COPY, "remove")))
    (step,) = run(read_plan(tmp_path / "plan.json"), "move", to=tmp_path / "to")
    assert step.done
    assert [back.done for back in undo(tmp_path / "log")] == [True]
    assert path.read_bytes() == COPY


# -- killed half-way ---------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from indexer.verbs.apply import apply
from indexer.verbs.plans import read_plan
left = int(sys.argv[1])
def counted(name):
    real = getattr(os, name)
    def step(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    setattr(os, name, step)
for name in ("unlink", "replace", "rename", "link", "symlink", "fsync", "write"):
    counted(name)
action, plan, root, log, to = sys.argv[2:]
list(apply(read_plan(plan), uuid="u", roots=[os.fsencode(root)], action=action, to=to or None, yes=True, log=log))
"""


@pytest.mark.parametrize("action", ["trash", "move", "hardlink", "symlink", "delete"])
def test_killed_at_every_step_it_can_be_run_again(
    run: Apply, plan: Plan, root: Path, tmp_path: Path, action: ApplyAction
) -> None:
    write_plan(tmp_path / "plan.json", plan)
    to = tmp_path / "to" if action == "move" else None
    wanted = None
    for steps in range(0, 60, 1 if action == "move" else 2):
        words = [str(steps), action, *map(str, (tmp_path / "plan.json", root, tmp_path / "log", to or ""))]
        done = subprocess.run([sys.executable, "-c", KILLED, *words], cwd=ROOT, capture_output=True)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        assert KEEP in files(tmp_path).values()
        assert COPY in files(tmp_path).values() or action == "delete"
        run(plan, action, to=to)
        after = files(tmp_path / "to") if to else files(root)
        wanted = wanted or after
        assert after == wanted
        assert not [name for name in files(tmp_path) if name.endswith(".tmp")]
        list(undo(tmp_path / "log"))
        for name, data in ALL.items():
            if action == "delete":
                (root / name).write_bytes(data)
            assert (root / name).read_bytes() == data
        (tmp_path / "log").unlink()
        if done.returncode == 0:
            return
    raise AssertionError("more steps than were looked at")


# -- another program at the same files ---------------------------------------------------------------------------------


@pytest.fixture
def while_it_is_noted(monkeypatch: pytest.MonkeyPatch) -> Meanwhile:
    """Something happens while the log is written, once everything was looked at."""

    def happens(act: Callable[[], object]) -> None:
        intend = UndoLog.intend

        def noted(self: UndoLog, *args: Any) -> Entry:
            monkeypatch.setattr(UndoLog, "intend", intend)
            entry = intend(self, *args)
            act()
            return entry

        monkeypatch.setattr(UndoLog, "intend", noted)

    return happens


def test_what_comes_to_the_target_meanwhile_is_not_what_was_moved(
    run: Apply, plan: Plan, root: Path, tmp_path: Path, while_it_is_noted: Meanwhile
) -> None:
    def come() -> None:
        (tmp_path / "to" / "sub").mkdir(parents=True)
        (tmp_path / "to" / "sub" / "copy.jpg").write_bytes(b"something else")

    while_it_is_noted(come)
    copy, twin = run(plan, "move", to=tmp_path / "to")
    assert (copy.done, twin.done) == (False, True)
    assert copy.why == f"there is already something at {tmp_path / 'to' / 'sub' / 'copy.jpg'}"
    assert states(tmp_path) == {"failed", "done"}
    assert files(root) == {"keep.jpg": KEEP, "sub/copy.jpg": COPY}
    assert files(tmp_path / "to") == {"sub/copy.jpg": b"something else", "twin.jpg": TWIN}


def killed_before_a_move(run: Apply, plan: Plan, to: Path, while_it_is_noted: Meanwhile) -> Path:
    """A move is noted and no more; returns where its file would be, in a folder that is there."""

    def stop() -> None:
        raise KeyboardInterrupt

    while_it_is_noted(stop)
    with pytest.raises(KeyboardInterrupt):
        run(plan, "move", to=to)
    (to / "sub").mkdir(parents=True)
    return to / "sub" / "copy.jpg"


@pytest.mark.parametrize("there", [COPY, b"something else"])
def test_a_move_that_was_killed_is_ended_with_the_bytes_at_the_target(
    run: Apply,
    plan: Plan,
    root: Path,
    tmp_path: Path,
    while_it_is_noted: Meanwhile,
    there: bytes,
) -> None:
    moved = killed_before_a_move(run, plan, tmp_path / "to", while_it_is_noted)
    moved.write_bytes(COPY)
    while_it_is_noted(lambda: moved.write_bytes(there))
    copy, _ = run(plan, "move", to=tmp_path / "to")
    assert copy.done == (there == COPY)
    assert (root / "sub" / "copy.jpg").exists() == (there != COPY)
    assert moved.read_bytes() == there


@pytest.mark.parametrize("harm", [keeper_gone, keeper_changed])
@pytest.mark.parametrize("action", ["trash", "move", "hardlink", "symlink", "delete"])
def test_a_keeper_that_goes_meanwhile(
    run: Apply,
    root: Path,
    tmp_path: Path,
    while_it_is_noted: Meanwhile,
    harm: Callable[[Path], None],
    action: ApplyAction,
) -> None:
    plan = plan_of(image(root / "keep.jpg", KEEP, "keep"), image(root / "twin.jpg", TWIN, "remove", "exact"))
    while_it_is_noted(lambda: harm(root))
    (step,) = run(plan, action, to=tmp_path / "to" if action == "move" else None)
    assert (step.done, step.why) == (
        False,
        f"{root / 'keep.jpg'}, which stays, changed or went while it was looked at",
    )
    assert files(root)["twin.jpg"] == TWIN


def test_a_keeper_that_goes_before_it_is_locked(run: Apply, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(image(root / "keep.jpg", KEEP, "keep"), image(root / "twin.jpg", TWIN, "remove", "exact"))
    monkeypatch.setattr(fcntl, "flock", lambda *_: keeper_gone(root))
    (step,) = run(plan)
    assert (step.done, step.why.partition(", which")[0]) == (False, str(root / "keep.jpg"))
    assert files(root)["twin.jpg"] == TWIN


@pytest.mark.parametrize("action", ["trash", "delete"])
def test_a_version_that_is_saved_meanwhile_stays(
    run: Apply, root: Path, plan: Plan, while_it_is_noted: Meanwhile, action: ApplyAction
) -> None:
    while_it_is_noted(lambda: changed(root))
    copy, twin = run(plan, action)
    assert (copy.done, twin.done) == (False, True)
    assert files(root) == {"keep.jpg": KEEP, "sub/copy.jpg": b"edited since"}


@pytest.fixture
def two(root: Path, tmp_path: Path, while_it_is_noted: Meanwhile) -> Callable[[], tuple[Applied, Applied]]:
    """Two catalogs of one folder, each about to delete what the other keeps; the second begins within the first."""

    def step(uuid: str, kept: str, gone: str) -> Applied:
        images = image(root / kept, KEEP, "keep"), image(root / gone, TWIN, "remove", "exact")
        plan, log = plan_of(*images, uuid=uuid), tmp_path / f"{uuid}.log"
        (found,) = apply(plan, uuid=uuid, roots=[os.fsencode(root)], action="delete", yes=True, log=log)
        return found

    def run() -> tuple[Applied, Applied]:
        within: list[Applied] = []
        while_it_is_noted(lambda: within.append(step("v", "twin.jpg", "keep.jpg")))
        return step("u", "keep.jpg", "twin.jpg"), within[0]

    return run


def test_two_that_remove_each_others_keepers(two: Callable[[], tuple[Applied, Applied]], root: Path) -> None:
    first, second = two()
    assert (first.done, second.done) == (True, False)
    assert second.why == f"another program, such as another apply, has locked {root / 'keep.jpg'}"
    assert files(root) == {"keep.jpg": KEEP, "sub/copy.jpg": COPY}


@pytest.mark.parametrize("network", [False, True])
def test_two_where_nothing_can_be_locked(
    two: Callable[[], tuple[Applied, Applied]], root: Path, monkeypatch: pytest.MonkeyPatch, network: bool
) -> None:
    def flock(*_: int) -> None:
        assert not network, "a lock on a network file system"
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr("indexer.verbs.apply.network_file_system", lambda _: "nfs" if network else None)
    first, second = two()
    assert (first.done, second.done) == (False, True)
    assert files(root) == {"sub/copy.jpg": COPY, "twin.jpg": TWIN}


@pytest.mark.parametrize(
    ("name", "how", "done"),
    [
        ("twin.jpg", fcntl.LOCK_SH, False),
        ("keep.jpg", fcntl.LOCK_EX, False),
        ("keep.jpg", fcntl.LOCK_SH, True),
    ],
)
def test_what_another_program_has_locked(run: Apply, root: Path, name: str, how: int, done: bool) -> None:
    plan = plan_of(image(root / "keep.jpg", KEEP, "keep"), image(root / "twin.jpg", TWIN, "remove", "exact"))
    with (root / name).open() as file:
        fcntl.flock(file, how)
        handles = len(os.listdir("/dev/fd"))
        (step,) = run(plan)
        assert len(os.listdir("/dev/fd")) == handles
    assert step.done == done
    assert (root / "twin.jpg").exists() != done
    (step,) = run(plan)
    assert step.done


@pytest.mark.parametrize("action", ["hardlink", "symlink"])
def test_what_takes_the_place_of_a_link_meanwhile_stays(
    run: Apply, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: ApplyAction
) -> None:
    twin, new = root / "twin.jpg", root / "new.jpg"
    run(plan_of(image(root / "keep.jpg", KEEP, "keep"), image(twin, TWIN, "remove", "exact")), action)
    copystat = shutil.copystat

    def saved(*args: Any, **kwargs: Any) -> None:
        new.write_bytes(b"a new version")
        os.replace(new, twin)
        copystat(*args, **kwargs)

    monkeypatch.setattr(shutil, "copystat", saved)
    (back,) = undo(tmp_path / "log")
    assert (back.done, back.why) == (False, "it changed while it was looked at")
    assert twin.read_bytes() == b"a new version"


def test_a_hard_link_is_one_to_what_was_read(
    run: Apply, plan: Plan, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def saved(*paths: bytes) -> None:
        (root / "new.jpg").write_bytes(b"a new version")
        os.replace(root / "new.jpg", root / "keep.jpg")
        link(*paths)

    monkeypatch.setattr(os, "link", saved)
    _, twin = run(plan, "hardlink")
    assert (twin.done, twin.why.partition(", which")[0]) == (False, str(root / "keep.jpg"))
    assert files(root) == ALL | {"keep.jpg": b"a new version"}


# -- what fails --------------------------------------------------------------------------------------------------------


def states(tmp_path: Path) -> set[str]:
    return {entry.state for entry in read(tmp_path / "log")[1].values()}


@pytest.mark.parametrize("action", ["trash", "move", "hardlink", "symlink"])
def test_what_fails_once_it_is_done_can_be_put_back(
    run: Apply, plan: Plan, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: ApplyAction
) -> None:
    def failed(_: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr("indexer.verbs.moves.sync_folder", failed)
        steps = run(plan, action, to=tmp_path / "to" if action == "move" else None)
    assert not any(step.done for step in steps)
    assert states(tmp_path) == {"intent"}
    assert all(step.done for step in undo(tmp_path / "log"))
    assert files(root) == ALL
    assert not (root / "twin.jpg").is_symlink()
    assert not (root / "twin.jpg").samefile(root / "keep.jpg")
    assert files(tmp_path / "share") == files(tmp_path / "to") == {}


def test_what_was_refused_is_noted_as_failed(
    run: Apply, plan: Plan, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = os.unlink

    def refused(path: bytes) -> None:
        if not path.endswith(b".tmp"):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        unlink(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refused)
        steps = run(plan)
    assert [(step.done, step.why) for step in steps] == [(False, "no permission to delete it")] * 2
    assert states(tmp_path) == {"failed"}
    assert list(undo(tmp_path / "log")) == []


def test_a_hard_link_to_what_was_renamed_is_undone(run: Apply, plan: Plan, root: Path, tmp_path: Path) -> None:
    twin, renamed = root / "twin.jpg", root / "renamed.jpg"
    twin.chmod(0o600)
    os.utime(twin, ns=(10**18, 10**18))
    run(plan, "hardlink")
    (root / "keep.jpg").rename(renamed)
    kept = renamed.stat()
    assert [step.done for step in undo(tmp_path / "log")] == [True]
    assert not twin.samefile(renamed)
    assert twin.read_bytes() == TWIN
    assert (twin.stat().st_mode & 0o777, twin.stat().st_mtime_ns) == (0o600, 10**18)
    assert (renamed.stat().st_mode, renamed.stat().st_mtime_ns) == (kept.st_mode, kept.st_mtime_ns)


# -- undone half-way ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["hardlink", "symlink"])
@pytest.mark.parametrize("mode", [0o600, 0o2640])
def test_a_link_is_undone_with_times_and_mode_though_it_is_killed(
    run: Apply, plan: Plan, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: ApplyAction, mode: int
) -> None:
    def stamp() -> tuple[int, int]:
        status = (root / "twin.jpg").lstat()
        return status.st_mode & 0o7777, status.st_mtime_ns

    (root / "twin.jpg").chmod(mode)
    os.utime(root / "twin.jpg", ns=(10**18, 10**18))
    run(plan, action)
    replace = os.replace

    def killed(*paths: bytes) -> None:
        replace(*paths)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", killed)
        list(undo(tmp_path / "log"))
    assert stamp() == (mode, 10**18)
    (root / "twin.jpg").chmod(0o644)  # as the undo of an older indexer left it
    os.utime(root / "twin.jpg", ns=(0, 0))
    assert [step.done for step in undo(tmp_path / "log")] == [True]
    assert stamp() == (mode, 10**18)
    assert files(root) == ALL


@pytest.mark.parametrize("which", ["apply", "undo"])
@pytest.mark.parametrize("links", [True, False])
def test_a_move_that_was_killed_between_its_two_places_leaves_one(
    run: Apply, plan: Plan, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str, links: bool
) -> None:
    """Where there are no hard links the one is a copy of the other."""
    moved = tmp_path / "to" / "sub" / "copy.jpg"

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    if which == "undo":
        run(plan, "move", to=tmp_path / "to")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("indexer.verbs.moves._unlink_moved", killed)
        list(undo(tmp_path / "log")) if which == "undo" else run(plan, "move", to=tmp_path / "to")
    twice = root / "twin.jpg" if which == "undo" else root / "sub" / "copy.jpg"
    at_target = tmp_path / "to" / twice.relative_to(root)
    assert twice.samefile(at_target)
    if not links:
        shutil.copy2(twice, moved.with_name("copy"))
        os.replace(moved.with_name("copy"), at_target)
    assert all(step.done for step in undo(tmp_path / "log"))
    assert files(root) == ALL
    assert files(tmp_path / "to") == {}
    assert all(step.done for step in run(plan, "move", to=tmp_path / "to"))


def test_what_was_at_the_target_of_a_killed_move_stays_where_it_is_another_picture(
    run: Apply, plan: Plan, root: Path, tmp_path: Path, while_it_is_noted: Meanwhile
) -> None:
    moved = killed_before_a_move(run, plan, tmp_path / "to", while_it_is_noted)
    moved.write_bytes(b"something else")
    assert [step.why for step in undo(tmp_path / "log")] == ["it is where it was"]
    assert moved.read_bytes() == b"something else"
    assert files(root) == ALL


def test_a_target_that_leads_to_the_file_itself_stays(run: Apply, plan: Plan, root: Path, tmp_path: Path) -> None:
    run(plan, "move", to=tmp_path / "to")
    shutil.rmtree(root)
    (root.parent / "to").rename(root)
    (tmp_path / "to").symlink_to(root)
    assert [step.why for step in undo(tmp_path / "log")] == ["it is where it was"] * 2
    assert files(root) == {"sub/copy.jpg": COPY, "twin.jpg": TWIN}


class Killed(BaseException):
    """Nothing that would change a file is done any more."""


@pytest.fixture
def dying() -> Callable[[int], pytest.MonkeyPatch]:
    """Within, only so many steps are done, as where a process is killed then."""

    def patched(steps: int) -> pytest.MonkeyPatch:
        patch = pytest.MonkeyPatch()
        left = [steps]

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def step(*args: Any, **kwargs: Any) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
                return real(*args, **kwargs)

            return step

        for name in ("unlink", "replace", "rename", "link", "symlink", "fsync", "write", "chmod", "utime", "mkdir"):
            patch.setattr(os, name, counted(getattr(os, name)))
        patch.setattr("indexer.verbs.moves._rename_at_once", counted(moves._rename_at_once))
        return patch

    return patched


@pytest.mark.parametrize("action", ["trash", "move", "hardlink", "symlink"])
def test_undo_that_was_killed_at_every_step_can_be_run_again(
    run: Apply, plan: Plan, root: Path, tmp_path: Path, action: ApplyAction, dying: Callable[[int], pytest.MonkeyPatch]
) -> None:
    (root / "twin.jpg").chmod(0o600)
    os.utime(root / "twin.jpg", ns=(10**18, 10**18))
    for steps in range(60):
        run(plan, action, to=tmp_path / "to" if action == "move" else None)
        killed, patch = False, dying(steps)
        try:
            list(undo(tmp_path / "log"))
        except Killed:
            killed = True
        finally:
            patch.undo()
        assert sorted({KEEP, COPY} - set(files(tmp_path).values())) == []
        assert all(step.done for step in undo(tmp_path / "log"))
        assert files(root) == ALL
        twin = (root / "twin.jpg").stat()
        assert (twin.st_mode & 0o777, twin.st_mtime_ns, twin.st_nlink) == (0o600, 10**18, 1)
        assert files(tmp_path / "to") == {}
        (tmp_path / "log").unlink()
        if not killed:
            return
    raise AssertionError("more steps than were looked at")


def test_one_log_is_not_undone_twice_at_once(run: Apply, plan: Plan, root: Path, tmp_path: Path) -> None:
    run(plan, "move", to=tmp_path / "to")
    first = undo(tmp_path / "log")
    assert next(first).done
    with pytest.raises(CatalogError, match="Another program is using the undo log"):
        next(undo(tmp_path / "log"))
    assert [step.done for step in first] == [True]
    assert files(root) == ALL


# -- a disk that is not there ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["move", "symlink"])
def test_nothing_is_put_back_beneath_a_disk_that_is_not_mounted(
    run: Apply, plan: Plan, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: ApplyAction
) -> None:
    ismount = os.path.ismount
    monkeypatch.setattr(os.path, "ismount", lambda path: os.fsencode(path) == os.fsencode(root) or ismount(path))
    done = sum(step.done for step in run(plan, action, to=tmp_path / "to" if action == "move" else None))
    os.rename(root, tmp_path / "disk")
    root.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os.path, "ismount", ismount)
        steps = [(step.done, step.why) for step in undo(tmp_path / "log")]
    assert steps == [(False, f"the disk that was at {root} is not there; mount it")] * done
    assert list(root.iterdir()) == []
    root.rmdir()
    os.rename(tmp_path / "disk", root)
    assert [step.done for step in undo(tmp_path / "log")] == [True] * done
    assert files(root) == ALL


def test_an_older_log_makes_no_folders_where_a_disk_may_be_missing(
    run: Apply, plan: Plan, root: Path, tmp_path: Path
) -> None:
    """It does not say where disks were mounted."""
    run(plan, "move", to=tmp_path / "to")
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    for line in lines:
        line.pop("mount", None)
    (tmp_path / "log").write_text("".join(json.dumps(line) + "\n" for line in lines))
    os.rename(root, tmp_path / "disk")
    assert [step.why.partition(";")[0] for step in undo(tmp_path / "log")] == [
        "neither its folder nor that of what was kept is there"
    ] * 2
    assert not root.exists()
    os.rename(tmp_path / "disk", root)
    (root / "sub").rmdir()
    assert [step.done for step in undo(tmp_path / "log")] == [True, True]
    assert files(root) == ALL


# -- plans -------------------------------------------------------------------------------------------------------------


def test_a_plan_survives_its_file(plan: Plan, tmp_path: Path) -> None:
    write_plan(tmp_path / "plan.json", plan)
    assert read_plan(tmp_path / "plan.json") == plan
    assert json.loads((tmp_path / "plan.json").read_text())["indexer_plan"] == 1


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda text: text[: len(text) // 2], "no plan, or damaged"),
        (lambda text: "[]", "no plan of indexer"),
        (lambda text: text.replace('"indexer_plan": 1', '"indexer_plan": "1"'), "no plan of indexer"),
        (lambda text: text.replace('"remove"', '"burn"'), "one of keep, remove, leave"),
        (lambda text: text.replace('"keep"', '"leave"'), "keeps nothing"),
        (lambda text: text.replace("/root/keep.jpg", "/root/twin.jpg"), "twice"),
        (lambda text: text.replace('"sha256": "', '"sha256": "x'), "64 hex digits"),
        (lambda text: text.replace('"path": "/', '"path": "'), "an absolute path"),
        (lambda text: text.replace('"groups"', '"group"'), "nothing for groups"),
        (lambda text: text.replace('"keep"', '"remove", "action": "keep"', 1), "twice"),
        (lambda text: text.replace('"score": 0.9', '"score": NaN', 1), "no number"),
        (lambda text: text.replace('"score": 0.9', '"score": 1e999', 1), "a number"),
        (lambda text: text.replace('"score": 0.9', '"score": true', 1), "a number"),
        (lambda text: text.replace("keep.jpg", "ke\\u0000ep.jpg", 1), "an absolute path"),
        (lambda text: text.replace('"bytes": 11', '"bytes": true', 1), "a whole number"),
        (lambda text: text.replace('"bytes": 11', '"bytes": -11', 1), "a whole number"),
        (lambda text: text.replace('"indexer_plan": 1', '"indexer_plan": true'), "its version"),
        (lambda text: "[" * 200_000, "no plan, or damaged"),
    ],
)
def test_a_plan_that_makes_no_sense(plan: Plan, tmp_path: Path, edit: Callable[[str], str], said: str) -> None:
    file = tmp_path / "plan.json"
    write_plan(file, plan)
    text = edit(file.read_text())
    assert text != file.read_text()
    file.write_text(text)
    with pytest.raises(InvalidArgument, match=said):
        read_plan(file)


def test_a_plan_that_an_editor_has_marked_as_utf_8(plan: Plan, tmp_path: Path) -> None:
    write_plan(tmp_path / "plan.json", plan)
    (tmp_path / "plan.json").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "plan.json").read_bytes())
    assert read_plan(tmp_path / "plan.json") == plan


@pytest.mark.parametrize("actions", [("remove", "leave"), ("leave", "remove"), ("remove", "remove")])
def test_a_file_that_is_removed_comes_once(root: Path, actions: tuple[str, str]) -> None:
    copies = (image(root / "sub" / "copy.jpg", COPY, action) for action in actions)
    with pytest.raises(InvalidArgument, match="twice"):
        plan_of(image(root / "keep.jpg", KEEP, "keep"), *copies).check()


def test_a_plan_of_a_newer_indexer(plan: Plan, tmp_path: Path) -> None:
    write_plan(tmp_path / "plan.json", plan)
    text = (tmp_path / "plan.json").read_text().replace('"indexer_plan": 1', '"indexer_plan": 2')
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(WrongFormat, match="newer"):
        read_plan(tmp_path / "plan.json")


def test_what_cannot_be_meant(run: Apply, plan: Plan, root: Path, tmp_path: Path) -> None:
    cases: tuple[tuple[Callable[[], object], str], ...] = (
        (lambda: run(replace(plan, uuid="other")), "another catalog"),
        (lambda: run(plan, "burn"), "no action 'burn'"),
        (lambda: run(plan, "move"), "needs a folder"),
        (lambda: run(plan, "delete", to=tmp_path / "to"), "needs a folder"),
        (lambda: run(plan, "move", to=root / "here"), "where the next build would find"),
        (lambda: list(undo(tmp_path / "nowhere")), "nowhere"),
    )
    for wrong, said in cases:
        with pytest.raises(InvalidArgument, match=said):
            wrong()
    assert files(root) == ALL
