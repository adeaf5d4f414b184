"""Duplicates on a page: looked for, chosen from, and taken away as a plan."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from flask.testing import FlaskClient
from PIL import Image

from indexer import Catalog
from indexer.records import Progress
from indexer.render import html, pages
from indexer.web.app import create_app
from indexer.web.desk import Desk
from indexer.web.review import Review, Round

NASTY = "<img src=x onerror=alert(1)>.png"
Radios = dict[str, dict[str, bool]]


@pytest.fixture
def desk(catalog: Catalog, pictures: Path, reopen: Callable[[], Catalog]) -> Iterator[Desk]:
    """Of a.png three files of the same bytes, of b.png one more of the same pixels."""
    shutil.copy(pictures / "a.png", pictures / "sub" / NASTY)
    shutil.copy(pictures / "a.png", pictures / "sub" / "again.png")
    Image.open(pictures / "b.png").save(pictures / "sub" / "b.bmp")
    catalog.build([pictures])
    with Desk(reopen) as opened:
        yield opened


def looked(client: FlaskClient, **options: str) -> str:
    """The page once all is found."""
    begun = client.post("/duplicates/look", data={"tier": "copy", **options})
    assert (begun.status_code, begun.headers["Location"]) == (303, "/duplicates")
    for _ in range(300):
        answer = client.get("/duplicates")
        if "Stop</button>" not in answer.text:
            return answer.text
        assert '<meta http-equiv="refresh" content="1">' in answer.text
        time.sleep(0.05)
    raise AssertionError("nothing is found")


def radios(page: str) -> Radios:
    """Of each field the actions, and which is checked."""
    found: Radios = {}
    for name, action, checked in re.findall(r'type="radio" name="([\d-]+)" value="(\w+)"( checked)?', page):
        found.setdefault(name, {})[action] = bool(checked)
    return found


def proposed(page: str) -> dict[str, str]:
    """Of each field what is checked, if anything."""
    return {name: action for name, actions in radios(page).items() for action, checked in actions.items() if checked}


def posted(client: FlaskClient, page: str, chosen: dict[str, str], go: str | None = "plan", status: int = 200) -> Any:
    """What comes of the form when some of it is changed. go: the button that is pressed, if it is called so."""
    hidden = dict(re.findall(r'type="hidden" name="([\w-]+)" value="(\w*)"', page))
    pressed = {} if go is None else {"go": go}
    answer = client.post("/duplicates", data={**hidden, **proposed(page), **chosen, **pressed})
    assert answer.status_code == status, answer.text
    return answer


def test_before_anything_is_looked_for(client: FlaskClient) -> None:
    page = client.get("/duplicates").text
    assert "Look for duplicates" in page
    assert 'action="/duplicates/look" method="post"' in page
    assert "refresh" not in page
    assert not radios(page)
    assert 'href="/duplicates"' in client.get("/").text


def test_groups_are_shown_as_they_are_proposed(client: FlaskClient, catalog: Catalog) -> None:
    page = looked(client)
    report = catalog.duplicates()
    assert [len(group.images) for group in report] == [3, 2]
    assert unescape(page).count("2 groups of duplicates among 9 pictures") == 1
    assert list(proposed(page).values()) == [image.action for group in report for image in group.images]
    assert list(proposed(page)) == ["0", "1", "2", "3", "4"]
    assert all(list(actions) == ["keep", "remove", "leave"] for actions in radios(page).values())
    shown = [image.image for group in report for image in group.images]
    assert re.findall(r'src="/thumbnail/(\w+)"', page) == [image.sha256 for image in shown]
    assert f"So far {len(report.removable)} to be removed" in page
    assert "<img src=x" not in page
    assert "page 1 of 1" in page


def test_the_plan_is_that_of_dedup_until_something_is_chosen(
    client: FlaskClient, catalog: Catalog, tmp_path: Path
) -> None:
    page = looked(client)
    answer = posted(client, page, {})
    catalog.plan(catalog.duplicates(), tmp_path / "plan.json")
    assert answer.data == (tmp_path / "plan.json").read_bytes()
    assert answer.headers["Content-Disposition"] == "attachment; filename=plan.json"
    assert answer.headers["Cache-Control"] == "no-store"
    chosen = json.loads(posted(client, page, {"2": "leave", "4": "keep"}).data)
    expected = json.loads((tmp_path / "plan.json").read_bytes())
    expected["groups"][0]["images"][2]["action"] = "leave"
    expected["groups"][1]["images"][1]["action"] = "keep"
    assert chosen == expected
    again = client.get("/duplicates").text
    assert proposed(again) == {**proposed(page), "2": "leave", "4": "keep"}
    assert "So far 1 to be removed" in again


def test_what_is_chosen_is_carried_out(
    client: FlaskClient, catalog: Catalog, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    page = looked(client)
    answer = posted(client, page, {"0": "remove", "2": "keep", "3": "keep", "4": "keep"})
    (tmp_path / "plan.json").write_bytes(answer.data)
    first, second, third = (image.path for image in catalog.duplicates().groups[0].images)
    done = [step.path for step in catalog.apply(tmp_path / "plan.json", yes=True) if step.done]
    assert sorted(done) == sorted([first, second])
    assert Path(third).exists()
    assert not Path(first).exists()
    catalog.build([pictures], prune=True)
    assert len(catalog.duplicates()) == 0  # and of the other group it is known that it is none
    assert "There are no duplicates of this tier." in looked(client)


def test_choices_are_kept_from_page_to_page(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "GROUPS", 1)
    page = looked(client)
    assert ("Next" in page, "Back" in page, list(proposed(page))) == (True, False, ["0", "1", "2"])
    where = posted(client, page, {"1": "leave"}, "2", 303).headers["Location"]
    assert where == "/duplicates?page=2"
    last = client.get(where).text
    assert ("Next" in last, "Back" in last, list(proposed(last))) == (False, True, ["3", "4"])
    assert "page 2 of 2" in last
    plan = json.loads(posted(client, last, {}).data)
    assert [image["action"] for image in plan["groups"][0]["images"]] == ["keep", "leave", "remove"]
    assert posted(client, last, {}, "nowhere", 303).headers["Location"] == "/duplicates?page=1"
    assert "Give a whole number from 1 to 2." in client.get("/duplicates?page=3").text


def test_a_large_group_is_not_shown_whole(
    client: FlaskClient, catalog: Catalog, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (html, pages):
        monkeypatch.setattr(module, "MOST_OF_A_GROUP", 2)
    for seed in (1, 2):
        shutil.copy(pictures / "a.png", pictures / f"more{seed}.png")
    catalog.build([pictures])
    page = looked(client)
    assert proposed(page) == {"0": "keep", "1": "remove", "2-4": "remove", "5": "keep", "6": "remove"}
    assert "and 3 more: all of them" in page
    plan = json.loads(posted(client, page, {}).data)
    assert [image["action"] for image in plan["groups"][0]["images"]] == ["keep", *["remove"] * 4]
    plan = json.loads(posted(client, page, {"1": "keep", "2-4": "keep"}).data)
    assert [image["action"] for image in plan["groups"][0]["images"]] == ["keep"] * 5
    assert proposed(client.get("/duplicates").text)["2-4"] == "keep"
    monkeypatch.undo()
    posted(client, client.get("/duplicates").text, {"3": "leave"})
    for module in (html, pages):
        monkeypatch.setattr(module, "MOST_OF_A_GROUP", 2)
    mixed = client.get("/duplicates").text
    assert not any(radios(mixed)["2-4"].values())  # of which nothing is chosen as long as they differ
    plan = json.loads(posted(client, mixed, {}).data)
    assert [image["action"] for image in plan["groups"][0]["images"]] == ["keep", "keep", "keep", "leave", "keep"]


def test_a_group_can_be_kept_at_once(client: FlaskClient) -> None:
    page = looked(client)
    assert re.findall(r'<button name="keep" value="([\d-]+)">', page) == ["0-2", "3-4"]
    assert re.findall(r'<section id="([\d-]+)">', page) == ["0-2", "3-4"]
    answer = posted(client, page, {"2": "leave", "4": "leave", "keep": "0-2"}, go=None, status=303)
    assert answer.headers["Location"] == "/duplicates?page=1#0-2"
    kept = client.get("/duplicates").text
    assert list(proposed(kept).values()) == ["keep", "keep", "keep", "keep", "leave"]
    posted(client, page, {"1": "keep"}, go=None, status=303)
    posted(client, kept, {"1": "remove"}, go=None, status=303)
    plan = json.loads(posted(client, page, {"1": "keep", "keep": "0-2"}).data)  # it lay open, but this is asked for now
    assert [image["action"] for image in plan["groups"][0]["images"]] == ["keep"] * 3
    assert posted(client, page, {"keep": "0-9x"}, go=None, status=303)


def test_enter_goes_nowhere(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "GROUPS", 1)
    looked(client)
    page = client.get("/duplicates?page=2").text
    form = page[page.index('<form class="review"') :]
    assert re.findall(r"<button[^>]*>", form)[0] == "<button hidden>"  # a browser takes the first for it
    assert posted(client, page, {"4": "keep"}, go=None, status=303).headers["Location"] == "/duplicates?page=2"


@pytest.mark.parametrize("wrong", [{"0": "delete"}, {"5": "keep"}, {"999999999": "keep"}, {"4-3": "keep"}])
def test_what_cannot_be_chosen_is_refused(client: FlaskClient, wrong: dict[str, str]) -> None:
    page = looked(client)
    assert "is no choice" in posted(client, page, {"1": "leave", **wrong}, status=400).text
    assert proposed(client.get("/duplicates").text) == proposed(page)  # none of it
    assert posted(client, page, {"9" * 5000: "keep", "x": "keep"}).status_code == 200


def test_a_page_that_lay_open_undoes_nothing(client: FlaskClient) -> None:
    first = looked(client)
    second = client.get("/duplicates").text
    posted(client, second, {"1": "keep"})
    plan = json.loads(posted(client, first, {"2": "leave"}).data)
    assert [image["action"] for image in plan["groups"][0]["images"]] == ["keep", "keep", "leave"]
    plan = json.loads(posted(client, second, {"1": "remove"}).data)  # on which it was chosen
    assert [image["action"] for image in plan["groups"][0]["images"]] == ["keep", "remove", "leave"]
    posted(client, second, {"1": "remove", "2": "keep"})
    plan = json.loads(posted(client, first, {"2": "leave"}).data)  # once more, as it said before
    assert [image["action"] for image in plan["groups"][0]["images"]] == ["keep", "remove", "keep"]
    assert client.get("/duplicates").headers["Cache-Control"] == "no-store"


def test_more_than_a_form_holds_is_refused(client: FlaskClient) -> None:
    for where in ("/duplicates", "/duplicates/look"):
        answer = client.post(where, data={"keep": "x" * (2 << 20)})
        assert answer.status_code == 413
        assert "That is more than" in answer.text
    assert "Look for duplicates" in client.get("/duplicates").text


def test_a_group_of_which_nothing_is_kept_is_refused(client: FlaskClient) -> None:
    page = looked(client)
    answer = posted(client, page, {"3": "remove", "4": "remove"}, status=400)
    assert "keeps nothing" in answer.text
    assert "attachment" not in str(answer.headers)
    assert posted(client, client.get("/duplicates").text, {"4": "keep"}).status_code == 200


def test_choices_for_what_was_found_before_are_refused(client: FlaskClient) -> None:
    assert client.post("/duplicates", data={"round": "", "go": "plan"}).status_code == 400
    page = looked(client)
    again = looked(client, tier="exact")
    assert list(proposed(again)) == ["0", "1", "2"]
    assert "<option selected>exact</option>" in again
    assert "once more meanwhile" in posted(client, page, {"1": "leave"}, status=400).text
    assert proposed(client.get("/duplicates").text) == proposed(again)


@pytest.mark.parametrize(("options", "problem"), [({"tier": "none"}, "no tier"), ({"keep": "nicest"}, "nicest")])
def test_wrong_options_are_told_and_can_be_mended(client: FlaskClient, options: dict[str, str], problem: str) -> None:
    page = looked(client, **options)
    assert client.get("/duplicates").status_code == 400
    assert problem in page
    assert "Look for duplicates" in page
    assert proposed(looked(client, tier="", keep="bytes", mirrors="yes"))
    mended = client.get("/duplicates").text
    assert 'value="bytes"' in mended
    assert 'name="mirrors" value="yes" checked' in mended
    assert 'name="thorough" value="yes">' in mended
    assert "<option selected>" not in mended


def test_pictures_can_be_read_where_it_is_not_sure(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    search = Catalog.duplicates

    def noting(catalog: Catalog, **options: Any) -> Any:
        asked.append(options)
        return search(catalog, **options)

    monkeypatch.setattr(Catalog, "duplicates", noting)
    assert 'name="thorough" value="yes" checked' in looked(client, tier="", thorough="yes")
    assert 'value="yes" checked' not in looked(client, tier="")
    assert [(options["thorough"], options["tier"]) for options in asked] == [(True, None), (False, None)]


def test_another_site_may_not_begin_a_search(client: FlaskClient) -> None:
    answer = client.post("/duplicates/look", data={"tier": "copy"}, headers={"Origin": "http://elsewhere.org"})
    assert answer.status_code == 403
    assert "Look for duplicates" in client.get("/duplicates").text


class Endless:
    """In the place of a search: it goes on until it is told to stop."""

    def __init__(self) -> None:
        self.begun, self.ended = Event(), Event()

    def __call__(self, progress: Callable[[Progress], None], **_: object) -> None:
        try:
            for done in range(1200):
                progress(Progress("compare", done, 1200))
                self.begun.set()
                time.sleep(0.05)
        finally:
            self.ended.set()


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> Endless:
    search = Endless()
    monkeypatch.setattr(Catalog, "duplicates", lambda self, **options: search(**options))
    return search


@pytest.mark.parametrize("error", [MemoryError(), OSError(28, "No space left on device"), RuntimeError("odd")])
def test_whatever_goes_wrong_one_can_look_again(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def fail(self: Catalog, **_: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(Catalog, "duplicates", fail)
        page = looked(client)
    assert client.get("/duplicates").status_code == 500
    assert (str(error) or "MemoryError") in page
    assert "Looking for duplicates failed" in caplog.text
    assert proposed(looked(client))


def test_a_search_can_be_stopped(client: FlaskClient, endless: Endless) -> None:
    client.post("/duplicates/look", data={"tier": "copy"})
    assert endless.begun.wait(20)
    answer = client.post("/duplicates/stop")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/duplicates")
    assert "Look for duplicates" in client.get("/duplicates").text
    assert endless.ended.wait(20)


def test_meanwhile_the_page_tells_how_far_it_is(client: FlaskClient, endless: Endless) -> None:
    client.post("/duplicates/look", data={"tier": "copy"})
    assert endless.begun.wait(20)
    page = client.get("/duplicates").text
    assert re.search(r"Looking for duplicates: comparing pictures, \d+ of 1,200\.", page)
    assert "Stop</button>" in page
    assert 'name="keep"' not in page  # nobody can type while it comes back every second
    assert client.get("/").status_code == 200  # and nobody waits for it


def test_a_search_gives_way_to_the_next(client: FlaskClient, endless: Endless, monkeypatch: pytest.MonkeyPatch) -> None:
    client.post("/duplicates/look", data={"tier": "copy"})
    assert endless.begun.wait(20)
    monkeypatch.undo()
    assert proposed(looked(client))
    assert endless.ended.is_set()


def test_what_was_ended_has_no_result(reopen: Callable[[], Catalog], catalog: Catalog) -> None:
    ended = Round({})
    ended.end()
    ended.search(reopen)
    assert ended.report.done()
    assert not ended.is_over  # whoever still looks at it comes back for the one in its place


def test_a_search_ends_with_the_server(reopen: Callable[[], Catalog], catalog: Catalog, endless: Endless) -> None:
    with Review(reopen) as review:
        review.look({})
        assert endless.begun.wait(20)
    assert endless.ended.is_set()


def test_other_pages_work_beside_it(desk: Desk) -> None:
    client = create_app(desk, {"localhost"}).test_client()
    page = looked(client)
    for digest in dict.fromkeys(re.findall(r'href="/picture/(\w+)"', page)):
        assert client.get(f"/thumbnail/{digest}").mimetype == "image/jpeg"
        assert client.get(f"/picture/{digest}").status_code == 200
