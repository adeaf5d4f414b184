"""indexer serve."""

from __future__ import annotations

from pathlib import Path

import click

from . import common


@click.command(short_help="A web page and an HTTP API over the catalog.")
@common.catalog_option
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to serve at; 0.0.0.0 for all.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, show_default=True, help="0 takes a free one.")
@common.model_options
@common.debug_option
def serve(catalog: Path | None, host: str, port: int, device: str, precision: str, batch_size: int | None) -> None:
    """Show the catalog in a browser: look at pictures, find those that are like one of them or like one of yours, and
    choose what becomes of duplicates.

    Prints the address of the page, and serves it until Ctrl-C. Nothing is changed from there: what was chosen is
    downloaded, as a plan for indexer apply. Everybody who can reach the address can see the pictures of the catalog: by
    itself that is whoever uses this machine.
    """
    from ..web.server import is_local
    from ..web.server import serve as serve_catalog

    folder = common.find_catalog(catalog)
    loading = common.loader(device, precision, batch_size)

    def started(address: str) -> None:
        click.echo(address)
        if not is_local(host):
            common.say(f"Everybody who can reach {host} can see the pictures of this catalog.")
        common.say("Ctrl-C stops it.")

    serve_catalog(lambda: common.open_catalog(folder, loading), host, port, started)
