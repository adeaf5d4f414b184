"""What is asked over HTTP, and how it is answered. A door to Flask.

Every answer is made for the one page that asks: no other site may embed it, and names of hosts that are not this
server's are refused, since any name can be made to lead to 127.0.0.1.
"""

from __future__ import annotations

import os
import re
import tempfile
from base64 import b64encode
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import IO, Any, cast, get_args
from urllib.parse import parse_qs

from flask import Flask, Response, abort, redirect, request
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as WerkzeugResponse

from ..catalog import Catalog
from ..errors import CatalogError, IndexerError, InvalidArgument, PictureError
from ..records import Action, ImageRecord, QueryResult
from ..render import jsonl, pages
from ..render.text import printable
from .desk import Desk, first_of

# images of a page; neighbours of a picture where nothing is said, as of `indexer query`; of either, where it is
PAGE, NEIGHBOURS, MOST = 60, 10, 500
# what may be sent; a file that is indexed may be larger
MOST_BYTES = 256 << 20
# of a form: some 100 KB for a page of large groups
_FORM_BYTES = 1 << 20
_NUMBER, _IMAGES = re.compile("[0-9]{1,9}"), re.compile("[0-9]{1,9}(-[0-9]{1,9})?")
_STATUS = {InvalidArgument: 400, PictureError: 422, CatalogError: 503}
_TYPES = {
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "AVIF": "image/avif",
    "TIFF": "image/tiff",
    "HEIF": "image/heif",
}
_WORDS = {
    404: "There is no such page.",
    405: "That cannot be asked in this way.",
    413: f"That is more than the {MOST_BYTES >> 20} MB that are taken. Send a smaller picture.",
}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",  # addresses hold paths; with none at all, browsers say no origin for our forms
    "X-Content-Type-Options": "nosniff",
}


def create_app(desk: Desk, hosts: Collection[str]) -> Flask:
    """The pages and the API over a desk. hosts: names by which the server may be asked, besides its addresses."""
    app = Flask(__name__, static_folder=None)
    app.config.update(MAX_CONTENT_LENGTH=MOST_BYTES)
    app.before_request(partial(_require_own, hosts))
    app.after_request(_with_headers)
    app.register_error_handler(IndexerError, _refused)
    app.register_error_handler(HTTPException, _refused_by_http)
    app.register_error_handler(OSError, _no_room)
    for rule, methods, answer in (
        ("/", ["GET"], _start),
        ("/like", ["GET", "POST"], _like_sent),
        ("/like/<sha256>", ["GET"], _like),
        ("/duplicates", ["GET"], _duplicates),
        ("/duplicates", ["POST"], _chosen),
        ("/duplicates/look", ["POST"], _look),
        ("/duplicates/stop", ["POST"], _stop),
        ("/thumbnail/<sha256>", ["GET"], _thumbnail),
        ("/picture/<sha256>", ["GET"], _picture),
        ("/api/info", ["GET"], _api_info),
        ("/api/images", ["GET"], _api_images),
        ("/api/query", ["GET", "POST"], _api_query),
    ):
        app.add_url_rule(rule, answer.__name__, partial(answer, desk), methods=methods)
    return app


# -- pages -------------------------------------------------------------------------------------------------------------


def _start(desk: Desk) -> str:
    asked = _Asked()
    info = desk.ask(lambda catalog: catalog.info())
    images = desk.ask(lambda catalog: _images(catalog, asked, PAGE + 1))
    return pages.start_page(info, images[:PAGE], asked.filters, has_more=len(images) > PAGE)


def _like(desk: Desk, sha256: str) -> str:
    asked = _Asked()
    image = _copies(desk, sha256)[0]
    result = desk.ask(partial(_nearest, image, asked, PAGE))
    return pages.like_page(result, asked.filters, image)


def _like_sent(desk: Desk) -> str | WerkzeugResponse:
    if request.method != "POST":  # the address of the answer, once more
        return redirect("/")
    asked = _Asked()
    sent = request.files.get("picture")
    if sent is None or not sent.filename:
        raise InvalidArgument("No picture was sent. Choose a file first.")
    with _kept(sent.stream) as path:
        result = desk.ask_for_new(partial(_nearest, path, asked, PAGE))
        thumbnail = f"data:image/jpeg;base64,{b64encode(desk.thumbnail_of(path)).decode()}"
    return pages.like_page(QueryResult(sent.filename, result.matches, result.seconds), asked.filters, thumbnail)


def _duplicates(desk: Desk) -> str | Response:
    asked, begun = _Asked(), desk.review.round
    if begun is None:
        return pages.look_page()
    if not begun.is_over:
        return pages.looking_page(begun.progress)
    if error := begun.report.exception():
        problem = str(error) or type(error).__name__
        return Response(pages.look_page(begun.options, problem), _status(error))
    report = begun.report.result()
    page = asked.number("page", 1, 1, pages.pages_of(report))
    text = pages.review_page(report, begun.options, begun.actions, begun.id, page)
    return Response(text, headers={"Cache-Control": "no-store"})  # going back shows what was chosen since


def _look(desk: Desk) -> WerkzeugResponse:
    form = _form()
    keep = form.get("keep", "").strip() or None
    marked = {name: name in form for name in ("mirrors", "thorough")}
    desk.review.look({"tier": form.get("tier") or None, "keep": keep, **marked})
    return redirect("/duplicates", 303)


def _stop(desk: Desk) -> WerkzeugResponse:
    desk.review.stop()
    return redirect("/duplicates", 303)


def _chosen(desk: Desk) -> WerkzeugResponse:
    """Remember what was chosen on a page, and go on to another, or to the plan; or keep a group, and stay.

    A field is called as the images for which it speaks: 7, or 50-62. So is a group, which is kept after all.
    """
    form, begun = _form(), desk.review.round
    if begun is None or form.get("round") != begun.id:
        raise InvalidArgument("Duplicates were looked for once more meanwhile, so nothing was chosen. Go back to them.")
    images = [image.path for group in begun.report.result() for image in group.images]
    said: list[tuple[str, str, str | None]] = [(name, text, form.get(f"was-{name}", "")) for name, text in form.items()]
    kept = form.get("keep", "")
    said.append((kept, "keep", None))
    chosen: list[tuple[list[str], Action, str | None]] = []
    for name, action, was in said:
        if not _IMAGES.fullmatch(name):
            continue
        first, _, last = name.partition("-")
        some = images[int(first) : int(last or first) + 1]
        if action not in get_args(Action) or not some:
            raise InvalidArgument(f"{name}={action} is no choice. Choose keep, remove or leave for an image.")
        chosen.append((some, cast(Action, action), was))
    for some, action, was in chosen:
        begun.choose(form.get("page", ""), some, action, was)
    where = form.get("go", form.get("here", ""))
    if where != "plan":
        place = f"#{kept}" if _IMAGES.fullmatch(kept) else ""
        return redirect(f"/duplicates?page={where if _NUMBER.fullmatch(where) else 1}{place}", 303)
    headers = {"Content-Disposition": "attachment; filename=plan.json", "Cache-Control": "no-store"}
    return Response(begun.plan(), mimetype="application/json", headers=headers)


def _form() -> MultiDict[str, str]:
    """The fields of a form that sends no file."""
    request.max_content_length = _FORM_BYTES
    return request.form


def _thumbnail(desk: Desk, sha256: str) -> Response:
    return _unchanging(desk.thumbnail(tuple(_copies(desk, sha256))), "image/jpeg")


def _picture(desk: Desk, sha256: str) -> Response:
    copies = _copies(desk, sha256)
    answer = _unchanging(first_of(copies, Catalog.read), _TYPES.get(copies[0].format, "application/octet-stream"))
    answer.headers.set("Content-Disposition", "inline", filename=printable(os.path.basename(copies[0].path)))
    return answer


def _unchanging(data: bytes, kind: str) -> Response:
    """What a browser need not ask for again: its address names the content."""
    headers = {"Cache-Control": "private, max-age=86400, immutable"}
    return Response(data, mimetype=kind, headers=headers)


# -- the API -----------------------------------------------------------------------------------------------------------


def _json(value: dict[str, Any], status: int = 200) -> Response:
    return Response(jsonl.dumps(value) + "\n", status, mimetype="application/json")


def _api_info(desk: Desk) -> Response:
    return _json(jsonl.info(desk.ask(lambda catalog: catalog.info())))


def _api_images(desk: Desk) -> Response:
    asked = _Asked()
    count = asked.number("count", PAGE, 1, MOST)
    images = desk.ask(lambda catalog: _images(catalog, asked, count))
    after = images[-1].path if len(images) == count else None
    return _json({"images": [jsonl.image(image) for image in images], "after": after})


def _api_query(desk: Desk) -> Response:
    asked = _Asked()
    if request.method != "POST":
        image = _image(desk, asked)
        return _json(jsonl.query(desk.ask(partial(_nearest, image, asked, NEIGHBOURS))))
    with _kept(request.stream) as path:
        found = desk.ask_for_new(partial(_nearest, path, asked, NEIGHBOURS))
    return _json({**jsonl.query(found), "query": None})


# -- what both do ------------------------------------------------------------------------------------------------------


class _Asked:
    """The parameters of a request, which are in its address. Bytes that are no Unicode stay what they are."""

    def __init__(self) -> None:
        text = request.query_string.decode("latin-1")
        self._values = parse_qs(text, encoding="utf-8", errors="surrogateescape")
        self.label, self.where = self.text("label") or None, self.text("where") or None

    @property
    def filters(self) -> dict[str, str]:
        """What images are held to."""
        return {name: value for name, value in (("label", self.label), ("where", self.where)) if value}

    def text(self, name: str) -> str:
        """The last value of a name, or nothing."""
        return self._values.get(name, [""])[-1].strip()

    def path(self, name: str) -> str:
        """The same, with the spaces that belong to it."""
        return self._values.get(name, [""])[-1]

    def number(self, name: str, default: int, least: int, most: int) -> int:
        """Raises InvalidArgument."""
        text = self.text(name) or str(default)
        if not _NUMBER.fullmatch(text) or not least <= int(text) <= most:
            raise InvalidArgument(f"{name}={text} is not possible. Give a whole number from {least} to {most}.")
        return int(text)

    def score(self) -> float:
        """The lowest score that is asked for. Raises InvalidArgument."""
        text = self.text("min_score") or "-1"
        try:
            return float(text)
        except ValueError:
            raise InvalidArgument(f"min_score={text} is no number. Give -1 to 1; 1 is the same.") from None


def _images(catalog: Catalog, asked: _Asked, count: int) -> list[ImageRecord]:
    return catalog.images(after=asked.path("after"), count=count, label=asked.label, where=asked.where)


def _nearest(picture: ImageRecord | str, asked: _Asked, usual: int, catalog: Catalog) -> QueryResult:
    k = asked.number("k", usual, 1, MOST)
    results, skipped = catalog.query_many([picture], k=k, min_score=asked.score(), label=asked.label, where=asked.where)
    if skipped:
        raise PictureError(skipped[0].reason)
    return results[0]


def _copies(desk: Desk, sha256: str) -> list[ImageRecord]:
    """The images that have these bytes, one at least."""
    return desk.ask(lambda catalog: catalog.holding(sha256)) or abort(404, "No image of the catalog is that.")


def _image(desk: Desk, asked: _Asked) -> ImageRecord:
    """The image of the catalog that is asked about by its path, and no other file."""
    path = asked.path("path")
    if not path:
        raise InvalidArgument("No path was given. Name an image of the catalog: path=/the/path/of/it.")
    try:
        return desk.ask(lambda catalog: catalog[path])
    except KeyError:
        abort(404, "No such image is in the catalog.")


@contextmanager
def _kept(stream: IO[bytes]) -> Iterator[str]:
    """What was sent, as a file for the time of the block."""
    with tempfile.TemporaryDirectory(prefix="indexer-") as folder:
        path = Path(folder) / "picture"
        with path.open("wb") as file:
            while part := stream.read(1 << 20):
                file.write(part)
        yield os.fspath(path)


def _require_own(hosts: Collection[str]) -> None:
    """Refuse what another site has a browser ask, but for following a link to a page."""
    if not _is_own(request.host, hosts):
        abort(421, f"This server is not called {request.host}. Ask it by its address, or give that name as --host.")
    origin = request.headers.get("Origin")  # which is all that browsers say where there is no TLS
    foreign = origin is not None and origin.partition("://")[2] != request.host
    if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
        foreign = foreign or request.method != "GET" or request.headers.get("Sec-Fetch-Dest") != "document"
    if foreign:
        abort(403, "Another site may not ask this.")


def _is_own(host: str, hosts: Collection[str]) -> bool:
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    if name.casefold() in hosts:
        return True
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _with_headers(response: Response) -> Response:
    response.headers.update(_HEADERS)
    return response


def _refused(error: IndexerError) -> Response:
    return _said(str(error), _status(error))


def _status(error: BaseException) -> int:
    return next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500)


def _refused_by_http(error: HTTPException) -> Response:
    ours = error.description if error.description != type(error).description else None
    return _said(ours or _WORDS.get(error.code or 500, error.name), error.code or 500)


def _no_room(error: OSError) -> Response:
    return _said(f"Something cannot be kept for a while ({error.strerror}). Make room where temporary files go.", 507)


def _said(message: str, status: int) -> Response:
    if request.path.startswith("/api/"):
        return _json({"error": message}, status)
    return Response(pages.error_page(message), status)
