"""apply: carries a plan out, one file at a time, each looked at again just before it is touched."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from ..errors import InvalidArgument, PictureError
from ..files import network_file_system
from ..pictures.scan import digest, why
from ..records import Applied, ApplyAction
from . import trash
from .moves import end_move, entry_key, has_bytes, is_still, move, put, same_entry, seen_twice
from .plans import Plan, PlannedGroup, PlannedImage
from .undo_log import Entry, UndoLog, read_own


@dataclass(frozen=True, slots=True)
class _Task:
    """One file to remove, and what was seen of it and of the one that stays.

    moved: a run that was killed has already put it at the target.
    """

    source: bytes
    target: bytes
    keeper: bytes
    status: os.stat_result
    keeper_status: os.stat_result
    moved: bool = False


def apply(
    plan: Plan,
    *,
    uuid: str,
    roots: Sequence[bytes],
    action: ApplyAction = "trash",
    to: str | os.PathLike[str] | None = None,
    yes: bool = False,
    log: str | os.PathLike[str],
) -> Iterator[Applied]:
    """Do with every image that a plan removes what `action` says; without yes only look whether it could be done.

    uuid, roots: of the catalog; nothing outside its folders is touched. to: for 'move', a folder that is in none of
    them. log: see undo_log.py; a run that was killed goes on with the same log. Hold the catalog's lock meanwhile: two
    plans at once could remove each other's keepers, and files on a network file system are not locked.
    Just before a file is touched, it and one that the plan keeps are read again, and must be what they were; while it
    is, both are locked.
    Raises InvalidArgument at once, CatalogError when the log cannot be written.
    """
    plan.check()
    if plan.uuid != uuid:
        raise InvalidArgument(f"The plan is for another catalog, {plan.catalog}. Name that one with --catalog.")
    if action not in get_args(ApplyAction):
        raise InvalidArgument(f"There is no action {action!r}. Known: {', '.join(get_args(ApplyAction))}.")
    if (action == "move") != (to is not None):
        raise InvalidArgument(
            "The action move needs a folder to move to, and no other takes one. Give both or neither."
        )
    folder = b"" if to is None else os.path.abspath(os.fsencode(to))
    for root in roots if to is not None else ():
        if _is_inside(folder, root):
            raise InvalidArgument(
                f"{os.fsdecode(folder)} is in {os.fsdecode(root)}, where the next build would find the files again. "
                "Move them to a folder outside, or to a hidden one."
            )
    read_own(Path(log), uuid)  # here, since nothing of what follows happens before the first file is asked for
    return _Run(plan, roots, action, folder, yes, Path(log)).each()


class _Run:
    """One way through a plan."""

    def __init__(
        self, plan: Plan, roots: Sequence[bytes], action: ApplyAction, folder: bytes, yes: bool, log: Path
    ) -> None:
        self.plan = plan
        self.roots = sorted(roots, key=len, reverse=True)  # of two that hold a file, the inner one
        self.action = action
        self.folder = folder
        self.yes = yes
        self.file = log
        self.log: UndoLog | None = None
        self.before: dict[str, Entry] = {}
        self.kept: dict[tuple[int, int, str], list[bytes]] = {}
        self.network: dict[int, bool] = {}

    def each(self) -> Iterator[Applied]:
        """What becomes of each image that is to be removed, in the plan's order."""
        opened: AbstractContextManager[UndoLog | None] = (
            UndoLog(self.file, self.plan.uuid) if self.yes else nullcontext()
        )
        with opened as self.log:
            entries = self.log.entries if self.log else read_own(self.file, self.plan.uuid)
            self.before = {entry.source: entry for entry in entries.values()}
            self._note_what_stays()
            for group in self.plan.groups:
                for image in group.having("remove"):
                    yield self._one(group, image)

    def _note_what_stays(self) -> None:
        """No image that the plan keeps or leaves is touched, under whatever other name it may also be removed."""
        for group in self.plan.groups:
            for image in (*group.having("keep"), *group.having("leave")):
                full = os.fsencode(image.path)
                try:
                    self.kept.setdefault(entry_key(full), []).append(full)
                except OSError:
                    continue  # its folder is gone: nothing to protect, and it will be no keeper

    def _one(self, group: PlannedGroup, image: PlannedImage) -> Applied:
        entry = self.before.get(image.path)
        if entry and entry.sha256 != image.sha256:
            entry = None
        try:
            if entry and _was_done(entry):
                if self.log and entry.state == "intent":
                    self.log.became(entry, "done")
                return Applied(image.path, entry.method, True, "already done")
            task = self._task(group, image)
            if self.action == "hardlink" and os.path.samestat(task.status, task.keeper_status):
                return Applied(image.path, self.action, True, "already a hard link to what is kept")
            resumed = entry is not None and entry.state == "intent" and os.fsencode(entry.target) == task.target
            task = replace(task, moved=self._is_moved(task, image.sha256, resumed=resumed))
            if self.log is None:
                return Applied(image.path, self.action, False, f"dry run: {_intention(self.action, task)}", would=True)
            self._carry_out(self.log, task, image.sha256)
        except PictureError as error:
            return Applied(image.path, self.action, False, error.reason)
        except OSError as error:
            return Applied(image.path, self.action, False, why(error, _VERBS[self.action]))
        return Applied(image.path, self.action, True)

    def _task(self, group: PlannedGroup, image: PlannedImage) -> _Task:
        """Everything that must be true before a file is touched. Raises PictureError with what is not."""
        source = os.fsencode(image.path)
        root = self._root_of(source)
        for other in self.kept.get(entry_key(source), []):
            if same_entry(source, other):
                raise PictureError(f"the plan keeps the same file as {os.fsdecode(other)}")
        status = _intact(source, image.sha256)
        keeper, keeper_status = self._keeper(group, image)
        if self.action == "hardlink" and keeper_status.st_dev != status.st_dev:
            raise PictureError(f"{os.fsdecode(keeper)} is on another disk, where no hard link reaches")
        if not _unchanged(os.lstat(source), status):
            raise PictureError("it changed while it was looked at")
        return _Task(source, self._target(source, root, keeper), keeper, status, keeper_status)

    def _root_of(self, source: bytes) -> bytes:
        for root in self.roots:
            if source.startswith(root.rstrip(b"/") + b"/") and os.path.normpath(source) == source:
                real = os.path.realpath(os.path.dirname(source))
                if _below(real, os.path.realpath(root)):
                    return root
                raise PictureError(f"a link in its path leads out of {os.fsdecode(root)}")
        raise PictureError("it is outside the catalog's folders")

    def _keeper(self, group: PlannedGroup, image: PlannedImage) -> tuple[bytes, os.stat_result]:
        """One of the group that stays and is what it was; for a link, one with the same bytes.

        dedup compared all of a group with the first that it keeps. Where that one is not what it was, what else stays
        may be another picture, or a smaller one, unless it has the same bytes.
        """
        linking = self.action in ("hardlink", "symlink")
        reasons = []
        for other in group.having("keep"):
            same = other.sha256 == image.sha256
            if linking and not same:
                reasons.append(f"{other.path} has other bytes, so a link to it would be another file")
                continue
            if reasons and not same:
                reasons.append(f"{other.path}, which is kept too, has other bytes and was not compared with it")
                continue
            try:
                return os.fsencode(other.path), _intact(os.fsencode(other.path), other.sha256)
            except PictureError as error:
                reasons.append(f"of what is kept, {other.path}: {error.reason}")
        raise PictureError("; ".join(reasons))

    def _target(self, source: bytes, root: bytes, keeper: bytes) -> bytes:
        if self.action == "move":
            return os.path.join(self.folder, os.path.relpath(source, root))
        if self.action != "symlink":
            return b""
        if not keeper.startswith(root.rstrip(b"/") + b"/"):
            return keeper
        # within one folder of the catalog, so that the link survives when the disk is mounted elsewhere
        above = [os.path.realpath(os.path.dirname(path)) for path in (keeper, source)]
        return os.path.join(os.path.relpath(above[0], above[1]), os.path.basename(keeper))

    def _is_moved(self, task: _Task, sha256: str, *, resumed: bool) -> bool:
        """Whether a run that was killed has put the very file where it shall go; anything else there is refused."""
        if self.action != "move" or not os.path.lexists(task.target):
            return False
        if same_entry(task.source, task.target) or not resumed or not has_bytes(task.target, sha256):
            raise _Taken(task.target)
        return True

    def _carry_out(self, log: UndoLog, task: _Task, sha256: str) -> None:
        with self._held(task):
            entry = log.intend(self.action, task.source, task.target, task.keeper, sha256, task.status)
            try:
                _look_again(task)
            except (OSError, PictureError):
                log.became(entry, "failed")
                raise
            try:
                _act(self.action, task, sha256)
            except (OSError, PictureError) as error:
                # what failed may have been done by then: undo looks at the files
                if isinstance(error, _Taken) or _is_as_it_was(self.action, task):
                    log.became(entry, "failed")
                raise
            log.became(entry, "done")

    @contextmanager
    def _held(self, task: _Task) -> Iterator[None]:
        """Within, no apply of another catalog removes what stays here, or keeps what goes."""
        with ExitStack() as handles:
            if not self._is_on_network(task.source, task.status):
                handles.callback(os.close, _locked(task.source, fcntl.LOCK_EX))
            # two names of one file: its lock is held, and another would be refused
            one = os.path.samestat(task.status, task.keeper_status)
            if not one and not self._is_on_network(task.keeper, task.keeper_status):
                _require_kept(task)
                handles.callback(os.close, _locked(task.keeper, fcntl.LOCK_SH))
            yield

    def _is_on_network(self, path: bytes, status: os.stat_result) -> bool:
        """Whether locks cannot be trusted there, or keep others, and oneself, from reading."""
        if status.st_dev not in self.network:
            self.network[status.st_dev] = network_file_system(Path(os.fsdecode(path))) is not None
        return self.network[status.st_dev]


_VERBS = {
    "trash": "put into the trash",
    "move": "move",
    "hardlink": "put a link in place of",
    "symlink": "put a link in place of",
    "delete": "delete",
}


def _act(action: ApplyAction, task: _Task, sha256: str) -> None:
    if action == "trash":
        trash.throw_away(task.source, sha256, task.status)
    elif action == "delete":
        os.unlink(task.source)
    elif action == "hardlink":
        put(lambda temporary: _link_to_kept(task, temporary), task.source, instead_of=task.status)
    elif action == "symlink":
        put(lambda temporary: os.symlink(task.target, temporary), task.source, instead_of=task.status)
    elif task.moved:
        end_move(task.source, task.target, sha256, task.status)
    else:
        try:
            move(task.source, task.target, sha256, task.status)
        except FileExistsError as error:  # since it was looked at
            raise _Taken(error.filename2 or error.filename) from error


def _link_to_kept(task: _Task, name: bytes) -> None:
    os.link(task.keeper, name)
    if not is_still(name, task.keeper_status):  # another file has the keeper's name by now
        raise _went(task.keeper)


class _Taken(PictureError):
    """Something else is where a file shall go."""

    def __init__(self, target: bytes) -> None:
        super().__init__(f"there is already something at {os.fsdecode(target)}")


def _is_as_it_was(action: ApplyAction, task: _Task) -> bool:
    """Whether a file is proven to be where it was, and nowhere else."""
    try:
        moved = action == "move" and os.path.lexists(task.target)
        return is_still(task.source, task.status) and not moved
    except OSError:
        return False


def _was_done(entry: Entry) -> bool:
    """Whether what was begun, and perhaps said to be done, has come about and still stands."""
    source, keeper = os.fsencode(entry.source), os.fsencode(entry.keeper)
    if entry.state not in ("intent", "done"):
        return False
    if entry.method == "hardlink":
        return os.path.lexists(source) and os.path.samefile(source, keeper) and not os.path.islink(source)
    if entry.method == "symlink":
        return os.path.islink(source) and os.readlink(source) == os.fsencode(entry.target)
    if entry.method == "move" and entry.state == "intent" and not has_bytes(os.fsencode(entry.target), entry.sha256):
        return False
    return not os.path.lexists(source)


def _intention(action: ApplyAction, task: _Task) -> str:
    keeper = os.fsdecode(task.keeper)
    return {
        "trash": f"goes to the trash, {keeper} stays",
        "delete": f"is deleted, {keeper} stays",
        "move": f"goes to {os.fsdecode(task.target)}, {keeper} stays",
        "hardlink": f"becomes a hard link to {keeper}",
        "symlink": f"becomes a symbolic link to {keeper}",
    }[action]


def _intact(path: bytes, sha256: str) -> os.stat_result:
    found, status = digest(path)
    if found != sha256:
        raise PictureError("it has changed since the plan was made")
    return status


def _look_again(task: _Task) -> None:
    """What was true when the files were read still is."""
    if not _unchanged(os.lstat(task.source), task.status):
        raise PictureError("it changed while it was looked at")
    _require_apart(task)
    _require_kept(task)


def _require_apart(task: _Task) -> None:
    """The file is not the one that stays under another name, see seen_twice()."""
    if os.path.samestat(task.status, task.keeper_status):
        return  # a hard link: one name may go
    keeper = os.fsdecode(task.keeper)
    try:
        twice = seen_twice(task.source, task.keeper)
    except OSError as error:
        raise PictureError(
            f"it may be the same file as {keeper}, seen through another file system; to tell, one must be able to "
            "write to both folders"
        ) from error
    if twice:
        raise PictureError(
            f"its folder is seen a second time as that of {keeper}, through another file system; they may be one file"
        )
    if not is_still(task.source, task.status):
        raise PictureError("it changed while it was looked at")


def _require_kept(task: _Task) -> None:
    try:
        if _unchanged(os.lstat(task.keeper), task.keeper_status):
            return
    except FileNotFoundError:
        pass
    raise _went(task.keeper)


def _went(keeper: bytes) -> PictureError:
    return PictureError(f"{os.fsdecode(keeper)}, which stays, changed or went while it was looked at")


def _locked(path: bytes, how: int) -> int:
    """A handle that locks a file for as long as it is open; raises PictureError where another program does that."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise PictureError(f"another program, such as another apply, has locked {os.fsdecode(path)}") from None
    except OSError:
        return handle  # a disk that knows no locks
    return handle


def _unchanged(now: os.stat_result, before: os.stat_result) -> bool:
    fields = ("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")
    return all(getattr(now, field) == getattr(before, field) for field in fields)


def _is_inside(folder: bytes, root: bytes) -> bool:
    """Whether a build of the root would look into the folder, which need not be there yet."""
    real, top = os.path.realpath(folder), os.path.realpath(root)
    hidden = any(part.startswith(b".") for part in os.path.relpath(real, top).split(b"/") if part != b".")
    return _below(real, top) and not hidden


def _below(real: bytes, root: bytes) -> bool:
    return real == root or real.startswith(root.rstrip(b"/") + b"/")
