"""Serving: from an address to a stop. A door to waitress."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from ..catalog import Catalog
from ..errors import CatalogError, InvalidArgument
from .desk import Desk

if TYPE_CHECKING:
    from flask import Flask

# requests at a time; most of them wait for a decoder or the catalog
THREADS = 8


def serve(
    open_catalog: Callable[[], Catalog], host: str, port: int, started: Callable[[str], None] = lambda _: None
) -> None:
    """Serve a catalog until KeyboardInterrupt, or what else ends the thread.

    open_catalog: opens it for reading. port: 0 takes a free one. started: told the address of the start page.
    Raises InvalidArgument for an address that cannot be had, CatalogError without the packages that this needs, and
    what open_catalog() does.
    """
    try:
        import waitress  # noqa: F401  # asked for first, so that nothing is opened without it

        from .app import create_app
    except ImportError as error:
        raise CatalogError(
            f"The page needs {error.name}, which is not installed. Install it: pip install flask waitress."
        ) from None
    name, host = socket.gethostname().casefold(), host.strip("[]")  # as an address is printed
    with Desk(open_catalog) as desk, _listening(host, port) as listening:
        app = create_app(desk, {host.casefold(), "localhost", name, f"{name}.local"})
        with _running(app, listening) as served:
            started(f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}/")
            with suppress(KeyboardInterrupt):
                served.result()


@contextmanager
def _running(app: Flask, listening: socket.socket) -> Iterator[Future[None]]:
    """Serve an app for the time of the block."""
    from waitress import create_server, wasyncore

    logging.getLogger("waitress").setLevel(logging.ERROR)  # of what it warns, nobody can do anything about it
    most = app.config["MAX_CONTENT_LENGTH"] + (1 << 20)  # the app says what is too much
    stopping, open_sockets = threading.Event(), dict[int, Any]()
    server = create_server(
        app,
        open_sockets,
        sockets=[listening],
        threads=THREADS,
        ident=None,
        max_request_body_size=most,
        outbuf_high_watermark=1 << 40,  # no thread waits for a slow reader; what does not go out lies in a file
    )

    def run() -> None:
        while not stopping.is_set():
            wasyncore.loop(use_poll=True, map=open_sockets, count=1)

    try:
        # not in this thread: its loop would take what a signal raises for a failed connection
        with ThreadPoolExecutor(1, "server") as thread:
            try:
                yield thread.submit(run)
            finally:
                stopping.set()
                server.pull_trigger()
    finally:
        server.task_dispatcher.shutdown()
        wasyncore.close_all(open_sockets)


def _listening(host: str, port: int) -> socket.socket:
    """One socket: a name may stand for several addresses, which would each get a port."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address, family=family)
    except (OSError, OverflowError, UnicodeError) as error:
        raise InvalidArgument(
            f"{host}:{port} cannot be used ({error}). Choose another --host or --port; port 0 is a free one."
        ) from None


def is_local(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.casefold() == "localhost"
