"""The command as a process of its own: signals, pipes, and what it loads."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..conftest import EVA_TINY, INDEXER, PHOTOS, ROOT, save_picture

SLOW = """
import sys, time
sys.path.insert(0, {root!r})
from tests.fakes import FakeEmbedder
from indexer.cli import common, main
class Slow(FakeEmbedder):
    def forward(self, batch):
        open("forwards", "a").write("x")
        {forward}
        return super().forward(batch)
common.loader = lambda *_: lambda _: Slow()
sys.argv[0] = "indexer"
main()
"""


@pytest.mark.parametrize("words", [["build"], ["query", str(PHOTOS / "cat.jpg")], ["info"], ["skips"], ["--help"]])
def test_what_needs_no_model_loads_no_torch_and_no_faiss(built: Path, words: list[str]) -> None:
    script = (
        "import sys, runpy\nsys.argv[1:] = " + repr(words) + "\n"
        "try:\n    runpy.run_module('indexer', run_name='__main__')\n"
        "except SystemExit as done:\n    assert not done.code, done.code\n"
        "loaded = {'torch', 'timm', 'faiss', 'indexer.pictures.decoders'} & sys.modules.keys()\n"
        "print(*loaded, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=built, capture_output=True, text=True, check=True)
    needed = "indexer.pictures.decoders" if words == ["build"] else ""  # decoders, for what might be new
    assert done.stderr.splitlines()[-1] == needed


def test_the_command_is_installed(built: Path) -> None:
    command = Path(sys.executable).parent / "indexer"
    done = subprocess.run([command, "info", "--json"], cwd=built, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["images"] == 21


@contextmanager
def slow_build(folder: Path, forward: str = "time.sleep(0.3)", batches: int = 2) -> Iterator[subprocess.Popen[str]]:
    """A build that takes many seconds and is at this batch, in a session of its own, as a terminal would start it.

    It ends with the block, whatever it makes of signals.
    """
    for seed in range(200):
        save_picture(folder / "pictures" / f"{seed:03}.png", seed)
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW.format(root=str(ROOT), forward=forward), "build", "pictures"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        wait_for(folder / "forwards", batches)
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(mark: Path, size: int = 1) -> None:
    """Wait until a process has made a file of so many bytes."""
    deadline = time.monotonic() + 60
    while not (mark.exists() and mark.stat().st_size >= size):
        assert time.monotonic() < deadline, f"there is no {mark.name}"
        time.sleep(0.05)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_a_build_and_keeps_what_it_did(tmp_path: Path, sent: signal.Signals, code: int) -> None:
    with slow_build(tmp_path) as process:
        started = time.monotonic()
        os.killpg(process.pid, sent)  # a terminal's Ctrl-C reaches the decoders too
        _, err = process.communicate(timeout=30)
        assert time.monotonic() - started < 5
    assert process.returncode == code
    assert "goes on from there" in err
    assert "Traceback" not in err
    done = subprocess.run([*INDEXER, "info", "--json"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert 0 < json.loads(done.stdout)["images"] < 200
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # no decoder is left


DEAF = """exec('''
while True:
    try:
        time.sleep(60)
    except BaseException:
        open("unwound", "a").write("x")
''')"""


def test_a_second_signal_leaves_at_once(tmp_path: Path) -> None:
    with slow_build(tmp_path, DEAF, batches=1) as process:
        os.kill(process.pid, signal.SIGTERM)
        wait_for(tmp_path / "unwound")  # two that come together are one
        assert process.poll() is None
        started = time.monotonic()
        os.kill(process.pid, signal.SIGTERM)
        process.communicate(timeout=30)
        assert time.monotonic() - started < 2
    assert process.returncode == 143
    done = subprocess.run([*INDEXER, "info", "--json"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_reader_that_is_gone_is_no_error(built: Path) -> None:
    process = subprocess.Popen(
        [*INDEXER, "models", "--json"], cwd=built, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stderr
    process.stdout.close()
    assert (process.stderr.read(), process.wait(60)) == ("", 141)
    process.stderr.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", ["models", "info --json", "skips --help", "--help"])
def test_results_that_do_not_fit_are_one_line(built: Path, words: str, unbuffered: str) -> None:
    command = f"{' '.join(INDEXER)} {words} > /dev/full"
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(command, shell=True, cwd=built, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "Error: The results cannot be written (No space left on device). Make room, or send them elsewhere.\n"
    )


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_may_be_closed(built: Path, closed: str) -> None:
    command = f"{' '.join(INDEXER)} dedup --html page.html {closed}"
    done = subprocess.run(command, shell=True, cwd=built, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (built / "page.html").read_bytes().endswith(b"</html>")
    (built / "page.html").unlink()


def test_a_name_that_is_no_unicode_goes_through_a_pipe(tmp_path: Path) -> None:
    """Only what would break a line, or do something on a terminal, is escaped."""
    for name in (b"\xff.jpg", b"\x1b[31m \xfe.jpg"):
        shutil.copy(os.fsencode(PHOTOS / "cat.jpg"), os.path.join(os.fsencode(tmp_path), name))
    build = [*INDEXER, "build", ".", "--model", str(EVA_TINY)]
    subprocess.run(build, cwd=tmp_path, capture_output=True, check=True)
    ask = " ".join(map(shlex.quote, [*INDEXER, "query"]))
    found = subprocess.run(f"{ask} '{PHOTOS / 'cat.jpg'}'", shell=True, cwd=tmp_path, capture_output=True, check=True)
    names = sorted(line.split(b"/")[-1] for line in found.stdout.splitlines())
    assert names == [b"\\x1b[31m \xfe.jpg", b"\xff.jpg"]
    again = f"{ask} '{PHOTOS / 'cat.jpg'}' | cut -f2 | grep -av 31m | {ask} - --json"
    done = subprocess.run(again, shell=True, cwd=tmp_path, capture_output=True, check=True)
    assert os.fsencode(json.loads(done.stdout)["query"]).endswith(b"/\xff.jpg")


def test_a_name_goes_through_a_pipe_as_it_was_given(tmp_path: Path) -> None:
    given = [os.fsencode(tmp_path) + b"/\xff.jpg", b"./\xff.jpg"]
    shutil.copy(os.fsencode(PHOTOS / "cat.jpg"), given[0])
    (tmp_path / "half.jpg").write_bytes((PHOTOS / "cat.jpg").read_bytes()[:5000])
    os.rename(tmp_path / "half.jpg", os.fsencode(tmp_path) + b"/\xfe.jpg")
    classify = [*INDEXER, "classify", "-k", "1", "--model", str(EVA_TINY), *map(os.fsdecode, given)]
    done = subprocess.run(classify, cwd=tmp_path, capture_output=True, check=True)
    assert [line.split(b"\t")[0] for line in done.stdout.splitlines()] == given
    build = subprocess.run([*INDEXER, "build", ".", "--model", str(EVA_TINY)], cwd=tmp_path, capture_output=True)
    assert build.returncode == 3
    done = subprocess.run([*INDEXER, "skips"], cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout.startswith(os.fsencode(tmp_path) + b"/\xfe.jpg: truncated")


def test_a_page_is_written_whoever_leaves(tmp_path: Path) -> None:
    for name in ("cat.jpg", "copy.jpg"):
        shutil.copy(PHOTOS / "cat.jpg", tmp_path / name)
    subprocess.run([*INDEXER, "build", ".", "--model", str(EVA_TINY)], cwd=tmp_path, capture_output=True, check=True)
    for command in (["query", "cat.jpg"], ["dedup"]):
        process = subprocess.Popen(
            [*INDEXER, *command, "--json", "--html", "page.html"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout and process.stderr
        process.stdout.close()
        assert b"page.html" in process.stderr.read()
        assert process.wait(60) == 141
        process.stderr.close()
        assert b"</html>" in (tmp_path / "page.html").read_bytes()
        (tmp_path / "page.html").unlink()


def test_a_reader_that_has_seen_enough(built: Path) -> None:
    command = " ".join([*INDEXER, "query", f"{PHOTOS}/cat.jpg", f"{PHOTOS}/bee.jpg", "--json"])
    done = subprocess.run(f"{command} | head -c 10", shell=True, cwd=built, capture_output=True, text=True, check=True)
    assert (len(done.stdout), done.stderr) == (10, "")
