"""Pages and API over a catalog: what they show, and what they refuse."""

from __future__ import annotations

import hashlib
import io
import os
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from pathlib import Path
from threading import Event
from urllib.parse import quote, urlencode

import pytest
from flask.testing import FlaskClient
from PIL import Image

from indexer import Catalog, InvalidArgument
from indexer.render import jsonl
from indexer.web import app
from indexer.web import desk as desk_module
from indexer.web.app import create_app
from indexer.web.desk import Clerk, Desk

from ..conftest import PHOTOS, save_picture
from ..fakes import FakeEmbedder

NASTY = "<img src=x onerror=alert(1)>.png"
NAMES = ["a.png", "b.png", "c.jpg", "d.bmp", "sub/e.png", "sub/f.png"]
CAT = PHOTOS / "cat.jpg"
# 6 ** 20 rows
FOR_EVER = f"(select count(*) from {', '.join(f'pictures p{number}' for number in range(20))}) > 0"


def about(page: str, path: Path, **more: str) -> str:
    """The address of a page about a picture."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return f"{page}/{digest}?{urlencode(more)}" if more else f"{page}/{digest}"


def by_path(path: Path | str, **more: str) -> str:
    """The same of the API."""
    return f"/api/query?path={quote(os.fsencode(path))}&{urlencode(more)}"


def links(page: str, kind: str) -> list[str]:
    """Addresses in a page that begin in some way."""
    return [unescape(link) for link in re.findall(rf'(?:href|src)="({kind}[^"]*)"', page)]


def got(client: FlaskClient, where: str, status: int = 200) -> str:
    answer = client.get(where)
    assert answer.status_code == status, answer.text
    return answer.text


def sent(client: FlaskClient, data: bytes, name: str = "x.png", status: int = 200) -> str:
    """The page that comes of a picture."""
    answer = client.post("/like", data={"picture": (io.BytesIO(data), name)})
    assert answer.status_code == status, answer.text
    return answer.text


# -- pages -------------------------------------------------------------------------------------------------------------


def test_the_start_page_shows_every_picture(client: FlaskClient, pictures: Path) -> None:
    page = got(client, "/")
    assert "<title>6 pictures · indexer</title>" in page
    assert str(pictures) in page
    assert links(page, "/like/") == [about("/like", pictures / name) for name in NAMES]
    assert "More" not in page


def test_pages_follow_one_another(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "PAGE", 4)
    first = got(client, "/?where=width%20%3E%2010")
    (more,) = links(first, "/[?]")
    second = got(client, more)
    assert (first.count("<li>"), second.count("<li>")) == (4, 2)
    assert "f.png" in second
    assert "a.png" not in second
    assert "where=width%20%3E%2010" in more
    assert not links(second, "/[?]")


def test_filters_hold_and_stay_in_their_fields(client: FlaskClient) -> None:
    page = got(client, "/?where=format%20%3D%20%27jpeg%27&label=%20bright%20")
    assert page.count("<li>") == 1
    assert "c.jpg" in page
    assert 'value="format = &#39;jpeg&#39;"' in page
    assert 'value="bright"' in page
    assert "No picture is like that." in got(client, "/?where=width%20%3E%205000")
    for where in ("/?label=unicorn", "/api/images?label=unicorn"):
        assert "The model knows no label" in got(client, where, 400)


def test_what_is_like_a_picture(client: FlaskClient, catalog: Catalog, pictures: Path) -> None:
    page = got(client, about("/like", pictures / "a.png"))
    expected = [Path(match.path) for match in catalog.query(pictures / "a.png")]
    assert len(expected) == 5
    assert list(dict.fromkeys(links(page, "/picture/"))) == [
        about("/picture", path) for path in [pictures / "a.png", *expected]
    ]
    assert f'action="{about("/like", pictures / "a.png")}"' in page  # where a filter is asked for
    assert got(client, about("/like", pictures / "a.png", where="format = 'bmp'")).count("<li>") == 1
    assert "Nothing matches." in got(client, about("/like", pictures / "a.png", where="width = 1"))


def test_what_is_like_a_picture_that_is_sent(client: FlaskClient, fake: FakeEmbedder) -> None:
    before = len(fake.batches)
    page = sent(client, CAT.read_bytes(), NASTY)
    assert "<title>Pictures like &lt;img src=x onerror=alert(1)&gt;.png" in page
    assert page.count("<li>") == 6
    assert page.count('src="data:image/jpeg;base64,') == 1
    assert fake.batches[before:] == [1]


def test_a_picture_that_is_sent_and_known_needs_no_model(
    client: FlaskClient, pictures: Path, fake: FakeEmbedder
) -> None:
    before = len(fake.batches)
    page = sent(client, (pictures / "a.png").read_bytes())
    first = page.partition("<li>")[2].partition("</li>")[0]
    assert "1.000<span>#1" in first
    assert "a.png" in first
    assert not fake.batches[before:]


def test_nothing_that_is_sent_stays(client: FlaskClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    for data, status in ((b"no picture", 422), (CAT.read_bytes(), 200)):
        assert client.post("/api/query", data=data).status_code == status
        sent(client, data, status=status)
    assert not list((tmp_path / "temporary").iterdir())


def test_a_form_without_a_picture(client: FlaskClient) -> None:
    answers = [client.post("/like", data={}).text, sent(client, b"", "", 400)]
    assert all("No picture was sent. Choose a file first." in answer for answer in answers)


def test_thumbnails_and_files(client: FlaskClient, pictures: Path) -> None:
    page = got(client, "/")
    for link in links(page, "/thumbnail"):
        answer = client.get(link)
        assert (answer.status_code, answer.mimetype) == (200, "image/jpeg")
        with Image.open(io.BytesIO(answer.data)) as small:
            assert small.size == (320, 240)
        assert answer.headers["Cache-Control"] == "private, max-age=86400, immutable"
    files = [client.get(link) for link in links(page, "/picture")]
    assert [file.data for file in files] == [(pictures / name).read_bytes() for name in NAMES]
    assert [str(file.mimetype) for file in files] == [
        f"image/{kind}" for kind in ("png", "png", "jpeg", "bmp", "png", "png")
    ]
    assert "inline; filename=a.png" in files[0].headers["Content-Disposition"]


def test_a_thumbnail_is_made_once(client: FlaskClient, pictures: Path) -> None:
    link = about("/thumbnail", pictures / "a.png")
    thumbnail = client.get(link).data
    (pictures / "a.png").unlink()
    assert client.get(link).data == thumbnail


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_no_file_is_shown_that_is_not_in_the_catalog(client: FlaskClient, pictures: Path, tmp_path: Path) -> None:
    secret = save_picture(tmp_path / "secret.png", 50)
    for page in ("/picture", "/thumbnail", "/like"):
        assert "No image of the catalog is that." in got(client, about(page, secret), 404)
        for wrong in ("x", "0" * 63, "0" * 65, "A" * 64, "..", "%2e%2e%2fsecret.png"):
            assert client.get(f"{page}/{wrong}").status_code in (400, 404)
    for path in (secret, "/etc/passwd", f"{pictures}/sub/../../secret.png", "a\0b", pictures):
        assert got(client, by_path(path), 404) == '{"error": "No such image is in the catalog."}\n'
    assert "No path was given." in got(client, "/api/query", 400)


@pytest.mark.parametrize("page", ["/picture", "/thumbnail"])
def test_a_file_that_is_another_by_now_is_not_shown(
    client: FlaskClient, pictures: Path, tmp_path: Path, page: str
) -> None:
    link = about(page, pictures / "a.png")
    secret = save_picture(tmp_path / "secret.png", 50)
    (pictures / "a.png").unlink()
    (pictures / "a.png").symlink_to(secret)
    assert "not what was indexed any more" in got(client, link, 422)
    (pictures / "a.png").unlink()
    assert "there is no such file" in got(client, link, 422)


@pytest.mark.parametrize("page", ["/picture", "/thumbnail"])
def test_any_copy_will_do(client: FlaskClient, catalog: Catalog, pictures: Path, page: str) -> None:
    """Also where another picture has taken the place of one."""
    link = about(page, pictures / "a.png")
    (pictures / "z.png").write_bytes((pictures / "a.png").read_bytes())
    catalog.build()
    (pictures / "a.png").unlink()
    assert client.get(link).status_code == 200


def test_what_is_like_a_picture_whose_file_is_gone_or_another(
    client: FlaskClient, pictures: Path, fake: FakeEmbedder
) -> None:
    link, by = about("/like", pictures / "a.png"), by_path(pictures / "a.png")
    page, before = links(got(client, link), "/picture/"), len(fake.batches)
    (pictures / "a.png").unlink()
    assert links(got(client, link), "/picture/") == page
    save_picture(pictures / "a.png", 90)
    assert links(got(client, link), "/picture/") == page
    found = client.get(by).json
    assert found is not None
    assert len(found["matches"]) == 5
    assert client.head(by).status_code == 200
    assert not fake.batches[before:]


def test_no_room_for_what_is_sent(client: FlaskClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "not there"))
    answer = client.post("/api/query", data=CAT.read_bytes())
    assert answer.status_code == 507
    assert "Something cannot be kept for a while (No such file or directory). Make room" in answer.text


def test_an_empty_catalog(tmp_path: Path) -> None:
    with Catalog.create(tmp_path / "new"):
        pass
    with Desk(lambda: Catalog.open(tmp_path / "new", readonly=True)) as desk:
        client = create_app(desk, {"localhost"}).test_client()
        assert "<code>indexer build FOLDER</code> adds some" in got(client, "/")
        assert client.post("/api/query", data=CAT.read_bytes()).status_code == 503


@pytest.mark.parametrize(
    "name", [NASTY, "\udcff\udcfe.png", "100% #1?&=+.png", "two\nlines.png", " .png", "caf\u00e9 \u96ea.png"]
)
def test_names_of_any_kind(catalog: Catalog, reopen: Callable[[], Catalog], tmp_path: Path, name: str) -> None:
    path = save_picture(tmp_path / "named" / name, 60)
    last = save_picture(tmp_path / "named" / "\udcff\udcff.png", 61)
    catalog.build([tmp_path / "named"])
    with Desk(reopen) as desk:
        client = create_app(desk, {"localhost"}).test_client()
        page = got(client, "/")
        assert "<img src=x" not in page
        for kind in ("/like", "/thumbnail", "/picture"):
            assert client.get(about(kind, path)).status_code == 200
        assert client.get(about("/picture", path)).data == path.read_bytes()
        found = client.get(by_path(path)).json
        assert found is not None
        assert found["query"] == str(path)
        following = client.get(f"/api/images?count=1&after={quote(os.fsencode(path))}").json
        assert following == {"images": [jsonl.image(catalog[last])], "after": str(last)}


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("k=0", "k=0 is not possible. Give a whole number from 1 to 500."),
        ("k=501", "from 1 to 500"),
        ("k=ten", "k=ten is not possible"),
        ("k=%D9%A3", "is not possible"),
        (f"k={'9' * 5000}", "is not possible"),
        ("min_score=high", "min_score=high is no number. Give -1 to 1"),
        ("min_score=nan", "no cosine similarity"),
        ("where=nowhere", "no such column: nowhere"),
        ("where=1)%20or%20(1", "its brackets or quotes do not match"),
        ("label=unicorn", "The model knows no label 'unicorn'"),
    ],
)
def test_what_cannot_be_meant(client: FlaskClient, pictures: Path, query: str, message: str) -> None:
    for where in (f"{about('/like', pictures / 'a.png')}?{query}", f"{by_path(pictures / 'a.png')}&{query}"):
        answer = client.get(where)
        assert answer.status_code == 400
        assert message in unescape(answer.text)
        assert (answer.mimetype == "application/json") == where.startswith("/api/")


def test_a_condition_that_takes_for_ever(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "PATIENCE", 0.2)
    assert "it takes too long" in got(client, f"/?where={quote(FOR_EVER)}", 400)
    got(client, "/")


def test_what_there_is_not(client: FlaskClient) -> None:
    assert "<title>That did not work" in got(client, "/nowhere", 404)
    answer = client.get("/api/nowhere")
    assert (answer.status_code, list(answer.json or {})) == (404, ["error"])
    assert "That cannot be asked in this way." in client.post("/").text
    assert "There is no such page." in got(client, "/nowhere", 404)
    assert client.get("/like").headers["Location"] == "/"  # where a browser asks again after a picture was sent


def test_too_much(client: FlaskClient) -> None:
    client.application.config["MAX_CONTENT_LENGTH"] = 1000
    assert "Send a smaller picture." in sent(client, bytes(2000), status=413)
    answer = client.post("/api/query", data=bytes(2000))
    assert answer.status_code == 413
    assert "Send a smaller picture." in answer.text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost"}, 200),
        ({"Host": "LOCALHOST:80"}, 200),
        ({"Host": "127.0.0.1:1234"}, 200),
        ({"Host": "[::1]:1234"}, 200),
        ({"Host": "[::1]"}, 200),
        ({"Host": "192.168.1.5"}, 200),
        ({"Host": "evil.example"}, 421),
        ({"Host": "localhost.evil.example:80"}, 421),
        ({"Host": "127.0.0.1.evil.example"}, 421),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "iframe"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Dest": "empty"}, 403),
        ({"Host": "192.168.1.5:8080", "Origin": "http://192.168.1.5:8080"}, 200),
        ({"Host": "192.168.1.5:8080", "Origin": "http://evil.example"}, 403),
        ({"Host": "192.168.1.5:8080", "Origin": "http://192.168.1.5:81"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}, 403),
    ],
)
def test_other_sites_have_nothing_to_ask(client: FlaskClient, headers: Mapping[str, str], status: int) -> None:
    for page in ("/", "/api/info"):
        assert client.get(page, headers=headers).status_code == status


def test_other_sites_send_nothing(client: FlaskClient, fake: FakeEmbedder) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}
    before = len(fake.batches)
    data = {"picture": (io.BytesIO(CAT.read_bytes()), "x.jpg")}
    assert client.post("/like", data=data, headers=headers).status_code == 403
    assert not fake.batches[before:]


@pytest.mark.parametrize("where", ["/", "/api/info", "/nowhere", "/api/nowhere"])
def test_every_answer_is_held_to_its_own_page(client: FlaskClient, where: str) -> None:
    answer = client.get(where)
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "script" not in policy + answer.text
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert answer.headers["Referrer-Policy"] == "same-origin"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in answer.headers


# -- the API -----------------------------------------------------------------------------------------------------------


def test_the_api_tells_what_is_in_the_catalog(client: FlaskClient, catalog: Catalog) -> None:
    answer = client.get("/api/info").json
    assert answer is not None
    assert (answer["images"], answer["roots"]) == (6, list(catalog.info().roots))


def test_the_api_goes_through_all_images(client: FlaskClient, catalog: Catalog) -> None:
    after, found = "", []
    while after is not None:
        answer = client.get(f"/api/images?count=4&after={quote(after)}").json
        assert answer is not None
        found += [image["path"] for image in answer["images"]]
        after = answer["after"]
        assert (after is None) == (len(answer["images"]) == 2)
    assert found == [image.path for image in catalog]


def test_the_api_answers_as_the_command_does(client: FlaskClient, catalog: Catalog, pictures: Path) -> None:
    expected = catalog.query(pictures / "a.png", k=3)
    answer = client.get(by_path(pictures / "a.png", k="3")).json
    posted = client.post("/api/query?k=4", data=(pictures / "a.png").read_bytes()).json
    assert answer is not None
    assert posted is not None
    assert [(one["path"], one["rank"]) for one in answer["matches"]] == [(one.path, one.rank) for one in expected]
    assert [one["score"] for one in answer["matches"]] == pytest.approx([one.score for one in expected], abs=1e-6)
    assert list(answer) == ["query", "seconds", "matches"]
    assert (posted["query"], posted["matches"][0]["path"]) == (None, str(pictures / "a.png"))
    assert [one["path"] for one in posted["matches"][1:]] == [one["path"] for one in answer["matches"]]


# -- beside a build ----------------------------------------------------------------------------------------------------


def test_what_a_build_adds_is_shown(client: FlaskClient, catalog: Catalog, pictures: Path) -> None:
    got(client, "/")
    save_picture(pictures / "new.png", 70)
    catalog.build()
    assert "7 pictures" in got(client, "/")
    assert got(client, about("/like", pictures / "new.png")).count("<li>") == 6


def test_a_build_with_another_model(catalog: Catalog, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a server has loaded is let go, and the catalog's own is loaded."""
    weights = "0" * 64

    def load(_: str) -> FakeEmbedder:
        return FakeEmbedder(weights)

    catalog.build([pictures])
    with Desk(lambda: Catalog.open(catalog.folder, loader=load, readonly=True)) as desk:
        client = create_app(desk, {"localhost"}).test_client()
        assert client.post("/api/query", data=CAT.read_bytes()).status_code == 200
        monkeypatch.setattr(catalog, "_loader", lambda _: FakeEmbedder("1" * 64))
        monkeypatch.setattr(catalog, "_embedder", None)
        catalog.build(switch_model=True)
        assert client.post("/api/query", data=CAT.read_bytes()).status_code == 503  # it loads no other yet
        weights = "1" * 64
        assert client.post("/api/query", data=CAT.read_bytes()).status_code == 200


def test_another_catalog_in_its_place(client: FlaskClient, catalog: Catalog, pictures: Path, tmp_path: Path) -> None:
    """As a repair makes one, or somebody who begins anew."""
    assert "6 pictures" in got(client, "/")
    catalog.folder.rename(tmp_path / "away")
    assert "There is no catalog in" in got(client, "/", 503)
    (pictures / "a.png").unlink()
    with Catalog.create(catalog.folder, loader=lambda _: FakeEmbedder()) as other:
        other.build([pictures])
    assert "5 pictures" in got(client, "/")


def test_while_a_model_is_loaded_pages_are_shown(catalog: Catalog, pictures: Path) -> None:
    loading, loaded = Event(), Event()

    def load(_: str) -> FakeEmbedder:
        loading.set()
        assert loaded.wait(60)
        return FakeEmbedder()

    catalog.build([pictures])
    with (
        Desk(lambda: Catalog.open(catalog.folder, loader=load, readonly=True)) as desk,
        ThreadPoolExecutor(1) as thread,
    ):
        client = create_app(desk, {"localhost"}).test_client()
        posted = thread.submit(lambda: client.post("/api/query", data=CAT.read_bytes()).status_code)
        assert loading.wait(60)
        got(client, "/")
        got(client, about("/like", pictures / "a.png"))
        assert not posted.done()
        loaded.set()
        assert posted.result() == 200


def test_a_clerk_who_goes_gives_up_a_condition(
    reopen: Callable[[], Catalog], catalog: Catalog, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk_module, "PATIENCE", 3600.0)  # which would not end by itself
    catalog.build([pictures])
    running = Event()

    def ask(catalog: Catalog) -> object:
        running.set()
        return catalog.images(where=FOR_EVER)

    with ThreadPoolExecutor(1) as thread:
        with Clerk(reopen) as clerk:
            asked = thread.submit(clerk.ask, ask)
            assert running.wait(60)
            time.sleep(0.2)  # now SQLite is at it
        with pytest.raises(InvalidArgument, match="it takes too long"):
            asked.result(timeout=20)


def test_many_ask_at_once(desk: Desk, pictures: Path) -> None:
    # one for all, as in a server: routes are trees of syntax, which Python 3.11 cannot make in several threads at once
    served = create_app(desk, {"localhost"})

    def ask(name: str) -> None:
        client = served.test_client()
        for _ in range(5):
            page = got(client, about("/like", pictures / name))
            assert page.count("<li>") == 5
            assert client.get(links(page, "/picture")[0]).data == (pictures / name).read_bytes()

    with ThreadPoolExecutor(len(NAMES)) as threads:
        list(threads.map(ask, NAMES))
