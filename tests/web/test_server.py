"""`indexer serve` as a process of its own, asked over real connections, with the tiny real model."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from PIL import Image

from indexer import Catalog, CatalogError, CatalogNotFound, InvalidArgument
from indexer.web.server import is_local, serve

from ..conftest import INDEXER, PHOTOS


@contextmanager
def serving(folder: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server, in a session of its own, and its address; it ends with the block."""
    process = subprocess.Popen(
        [*INDEXER, "serve", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def got(address: str, data: bytes | None = None) -> bytes:
    with urlopen(address, data, timeout=60) as answer:
        return bytes(answer.read())


def digests_of(built: Path) -> list[str]:
    with Catalog.open(built / ".indexer", readonly=True) as catalog:
        return [image.sha256 for image in catalog]


def test_a_page_its_pictures_and_what_is_like_one_that_is_sent(built: Path) -> None:
    with serving(built) as (process, address):
        assert address.startswith("http://127.0.0.1:")
        assert got(address).count(b"<li>") == 21
        images = json.loads(got(f"{address}api/images?where=width>0"))["images"]
        assert len(images) == 21
        with ThreadPoolExecutor(16) as pool:
            digests = digests_of(built)
            small = list(pool.map(lambda digest: got(f"{address}thumbnail/{digest}"), digests * 3))
        assert all(one.startswith(b"\xff\xd8") for one in small)
        assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text()
        again = io.BytesIO()
        Image.open(PHOTOS / "cat.jpg").save(again, "JPEG", quality=40)
        found = json.loads(got(f"{address}api/query?k=3", again.getvalue()))["matches"]
        assert found[0]["path"] == str(PHOTOS / "cat.jpg")
        assert found[0]["score"] > 0.95 > found[1]["score"]
        with pytest.raises(HTTPError, match="422") as refused:
            got(f"{address}api/query", b"no picture")
        refused.value.close()


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_a_signal_stops_it(built: Path, sent: signal.Signals, code: int) -> None:
    with serving(built) as (process, address):
        got(f"{address}thumbnail/{digests_of(built)[0]}")  # a decoder runs now
        with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2].strip("/")))):  # and somebody waits
            os.killpg(process.pid, sent)
            _, err = process.communicate(timeout=20)  # it looks for something to do every 30
    assert process.returncode == code
    assert "Traceback" not in err
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_a_name_that_stands_for_several_addresses_gets_one_port(built: Path) -> None:
    with serving(built, "--host", "localhost") as (_, address):
        assert address.startswith("http://localhost:")
        assert b"21 pictures" in got(address)


def test_an_address_that_cannot_be_had(built: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [*INDEXER, "serve", "--port", str(port)], cwd=built, capture_output=True, text=True, timeout=60
        )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Error: 127.0.0.1:{port} cannot be used (")
    assert "Choose another --host or --port" in done.stderr


@pytest.mark.parametrize("host", ["no.such.host.invalid", "300.1.1.1", "a" * 70, "::g"])
def test_a_host_that_is_none(built: Path, host: str) -> None:
    with pytest.raises(InvalidArgument, match="Choose another --host"):
        serve(lambda: Catalog.open(built / ".indexer", readonly=True), host, 0)


def test_a_catalog_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CatalogNotFound):
        serve(lambda: Catalog.open(tmp_path, readonly=True), "127.0.0.1", 0)


@pytest.mark.parametrize("package", ["flask", "waitress"])
def test_without_its_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    for name in ("indexer.web.app", package):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(CatalogError, match=r"not installed. Install it: pip install flask waitress\."):
        serve(lambda: pytest.fail("nothing is opened"), "127.0.0.1", 0)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("127.1.2.3", True),
        ("0.0.0.0", False),
        ("box", False),
    ],
)
def test_who_can_reach_it(host: str, local: bool) -> None:
    assert is_local(host) == local
