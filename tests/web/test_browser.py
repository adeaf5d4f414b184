"""The forms in a real browser, which says of itself where it comes from."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from ..conftest import INDEXER, PHOTOS
from ..render.test_browser import BROWSER, QUIET
from .test_server import serving


class Tab:
    """A page that does what DevTools' protocol says, over two pipes of Chromium's."""

    def __init__(self, to: BinaryIO, of: BinaryIO) -> None:
        self._to, self._of = to, of
        self._numbers, self._read, self._session = count(1), b"", {}
        target = self.do("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.do("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}

    def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        command = {"id": number, "method": method, "params": parameters, **self._session}
        self._to.write(json.dumps(command).encode() + b"\0")
        while True:
            while b"\0" not in self._read:
                more = self._of.read(1 << 16)
                assert more, "the browser has gone"
                self._read += more
            said, _, self._read = self._read.partition(b"\0")
            answer = json.loads(said)
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def value(self, script: str) -> Any:
        return self.do("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def wait(self, script: str) -> None:
        """Until it is true of the page."""
        for _ in range(300):
            if self.value(f"document.readyState === 'complete' && Boolean({script})"):
                return
            time.sleep(0.1)
        raise AssertionError(self.value("document.body.innerText"))

    def send(self, field: str, file: Path) -> None:
        found = self.do("Runtime.evaluate", expression=f"document.querySelector('{field}')")["result"]["objectId"]
        self.do("DOM.setFileInputFiles", files=[str(file)], objectId=found)


@contextmanager
def browsing(folder: Path) -> Iterator[Tab]:
    to_read, to = os.pipe()
    of, of_write = os.pipe()
    command = f'exec "$0" "$@" 3<&{to_read} 4>&{of_write}'
    words = [*QUIET, "--remote-debugging-pipe", f"--user-data-dir={folder / 'profile'}"]
    process = subprocess.Popen(
        ["/bin/bash", "-c", command, str(BROWSER), *words], pass_fds=(to_read, of_write), stderr=subprocess.DEVNULL
    )
    os.close(to_read)
    os.close(of_write)
    with os.fdopen(to, "wb", 0) as commands, os.fdopen(of, "rb", 0) as answers, process:
        try:
            tab = Tab(commands, answers)
            tab.do("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
            yield tab
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_a_plan_is_chosen_and_a_picture_sent(built: Path, tmp_path: Path) -> None:
    shutil.copy(PHOTOS / "cat.jpg", tmp_path / "copy.jpg")
    subprocess.run([*INDEXER, "build", str(tmp_path / "copy.jpg")], cwd=built, check=True, capture_output=True)
    with serving(built) as (_, address), browsing(tmp_path) as tab:
        tab.do("Page.navigate", url=f"{address}duplicates")
        tab.wait("document.querySelector('form[action$=look]')")
        tab.value("document.querySelector('form[action$=look] button').click()")
        tab.wait("document.querySelector('button[value=plan]')")
        assert tab.value("document.querySelectorAll('figure').length") == 2
        tab.wait("[...document.images].every(image => image.naturalWidth > 0)")
        tab.value("document.querySelectorAll('input[value=leave]')[1].click()")
        tab.value("document.querySelector('button[value=plan]').click()")
        plan = tmp_path / "plan.json"
        for _ in range(100):
            if plan.exists():
                break
            time.sleep(0.1)
        (group,) = json.loads(plan.read_bytes())["groups"]
        assert [image["action"] for image in group["images"]] == ["keep", "leave"]
        tab.value("document.querySelector('button[name=keep]').click()")
        tab.wait("location.hash == '#0-1' && document.querySelectorAll('input[value=keep]:checked').length == 2")
        tab.send("input[type=file]", PHOTOS / "coffee.jpg")
        tab.value("document.querySelector('form[action=\"/like\"] button').click()")
        tab.wait("document.title.startsWith('Pictures like coffee.jpg')")
        assert tab.value("document.querySelector('.grid .name').innerText") == "coffee.jpg"


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_a_group_wider_than_the_page_does_not_widen_it(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(12):
        shutil.copy(PHOTOS / "cat.jpg", tmp_path / "photos" / f"{number}.jpg")
    model = PHOTOS.parent / "eva-tiny"
    for words in (["build", "photos", "--model", str(model)], ["dedup", "--html", "groups.html"]):
        subprocess.run([*INDEXER, *words], cwd=tmp_path, check=True, capture_output=True)
    with browsing(tmp_path) as tab:
        tab.do("Page.navigate", url=(tmp_path / "groups.html").as_uri())
        tab.wait("document.querySelectorAll('figure').length == 12")
        assert tab.value("document.querySelector('.row').scrollWidth > innerWidth")
        assert tab.value("document.documentElement.scrollWidth <= innerWidth")
