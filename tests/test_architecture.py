"""The rules of the house: who may import whom, which door each heavy library has, what starting up may load."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import indexer

PACKAGE = Path(indexer.__file__).parent

# lower never imports higher; names on one line never import each other
LEVELS = [
    {"errors", "records", "preprocess", "files", "halves", "machine"},
    {"pictures", "embed", "store", "neighbours"},
    {"verbs"},
    {"catalog", "render"},
    {"web"},
    {"cli"},
]
WITHIN_LOWEST = {("preprocess", "errors"), ("preprocess", "records"), ("files", "errors")}
DOORS = {
    "torch": {
        "embed/devices.py",
        "embed/eva.py",
        "embed/fused.py",
        "embed/linears.py",
        "embed/loading.py",
        "embed/peak.py",
        "embed/pipeline.py",
        "neighbours/pairs.py",
    },
    "timm": {"embed/fused.py", "embed/loading.py"},
    "safetensors": {"embed/loading.py"},
    "huggingface_hub": {"embed/loading.py"},
    "faiss": {"neighbours/index.py", "neighbours/nominator.py", "neighbours/plane.py", "neighbours/threads.py"},
    "sqlite_utils": {"store/connection.py", "store/migrations.py"},
    "sqlite3": {"store/connection.py", "store/filters.py", "store/salvage.py", "store/sqlite_errors.py"},
    "PIL": {
        "pictures/decode.py",
        "pictures/edits.py",
        "pictures/samples.py",
        "pictures/signature.py",
        "pictures/prepare.py",
        "pictures/serving.py",
        "pictures/single.py",
        "preprocess.py",
    },
    "cv2": {"pictures/thorough.py"},
    "pillow_heif": {"pictures/decode.py"},
    "jinja2": {"render/html.py"},
    "rich": {"render/text.py", "cli/common.py", "cli/progress.py"},
    "pyarrow": {"verbs/export.py"},
    "send2trash": {"verbs/trash.py"},
    "flask": {"web/app.py", "web/server.py"},
    "werkzeug": {"web/app.py"},
    "waitress": {"web/server.py"},
}
TALKERS = {"print", "input", "exit", "quit"}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text())


def room(name: str) -> str:
    return name.partition("/")[0].removesuffix(".py")


def level(name: str) -> int:
    return next(i for i, rooms in enumerate(LEVELS) if name in rooms)


def imported(name: str, tree: ast.Module) -> Iterator[str]:
    """Absolute dotted names of everything that a module imports, wherever in it."""
    package = ["indexer", *name.split("/")[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{stem}.{alias.name}" for alias in node.names)


def test_imports_point_downwards() -> None:
    seen = 0
    for name, tree in modules():
        here = room(name)
        if here in ("__init__", "__main__"):
            continue
        for target in imported(name, tree):
            parts = target.split(".")
            if parts[0] != "indexer" or len(parts) < 2 or parts[1] == here:
                continue
            seen += 1
            allowed = level(parts[1]) < level(here) or (here, parts[1]) in WITHIN_LOWEST
            assert allowed, f"{name} imports {target}"
    assert seen > 50


def test_the_web_does_not_reach_past_the_catalog() -> None:
    reached = {
        target.split(".")[1]
        for name, tree in modules()
        if room(name) == "web"
        for target in imported(name, tree)
        if target.startswith("indexer.")
    }
    assert reached - {"web"} == {"catalog", "errors", "records", "render"}


def test_each_heavy_library_has_its_door() -> None:
    used: dict[str, set[str]] = {library: set() for library in DOORS}
    for name, tree in modules():
        for target in imported(name, tree):
            if (library := target.split(".")[0]) in DOORS:
                used[library].add(name)
    assert used == DOORS


def test_only_the_command_line_talks() -> None:
    for name, tree in modules():
        if room(name) in ("cli", "__main__"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in TALKERS, f"{name} calls {node.func.id}"
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                what = f"{node.value.id}.{node.attr}"
                # a program of its own, or what starts it
                allowed = name in ("pictures/serving.py", "pictures/worker.py", "embed/several.py")
                assert allowed or what not in ("sys.exit", "sys.argv", "sys.stdout", "os.environ", "os.getenv"), name


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import indexer.cli.main", {"torch", "timm", "faiss", "sqlite_utils", "PIL", "rich", "jinja2", "flask"}),
        ("import indexer", {"torch", "timm", "faiss", "sqlite_utils", "PIL", "rich", "jinja2"}),
        ("import indexer.pictures.serving", {"torch", "timm", "faiss", "sqlite_utils", "rich"}),
    ],
)
def test_importing_is_light(code: str, absent: set[str]) -> None:
    script = f"import sys; {code}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not absent & set(loaded)


def test_public_names_are_what_is_visible() -> None:
    visible = {name for name in vars(indexer) if not name.startswith("_")}
    rooms = {path.stem for path in PACKAGE.iterdir()}
    assert sorted(visible - rooms) == sorted(set(indexer.__all__) - rooms) == sorted(indexer.__all__)
