"""What the commands promise: fields, exit codes, what goes to stdout and what to stderr."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import stat
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from indexer import Catalog, CatalogError
from indexer.cli import common
from indexer.embed.embedder import NO_VECTOR
from indexer.render import jsonl
from indexer.verbs.export import defused

from ..conftest import save_picture
from ..fakes import CLASSES, FakeEmbedder
from .conftest import Run

BUILD = {
    *("catalog", "model", "dim", "device", "precision", "images", "contents", "added", "changed", "moved"),
    *("removed", "unchanged", "skipped", "ignored", "embedded", "seconds", "images_per_second"),
}
MATCH = {"rank", "score", "path", "width", "height", "bytes", "labels"}
INFO = {
    *(
        "catalog",
        "format",
        "model",
        "dim",
        "roots",
        "images",
        "contents",
        "vectors",
        "skipped",
        "neighbours",
        "bytes",
        "exclude",
    ),
}


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_build_as_json(run: Run, pictures: Path) -> None:
    done = run("build", pictures, "--json")
    assert (done.code, done.err) == (0, "")
    (report,) = lines(done.out)
    assert set(report) >= BUILD
    assert (report["images"], report["added"], report["embedded"], report["dim"]) == (6, 6, 6, 48)
    assert Path(".indexer/catalog.sqlite").is_file()


def test_build_in_words(run: Run, pictures: Path) -> None:
    done = run("build", pictures)
    assert "6 pictures in .indexer" in done.out
    assert "added 6" in done.out
    assert "Would read 0 new files" in run("build", pictures, "--dry-run").out


def test_new_skips_are_exit_code_three_once(run: Run, pictures: Path) -> None:
    (pictures / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    first = run("build", pictures)
    assert first.code == 3
    assert "broken.png: damaged" in first.out
    assert run("build", pictures).code == 0
    (skip,) = lines(run("skips", "--json").out)
    assert set(skip) == {"path", "reason"}
    assert skip["path"] == str(pictures / "broken.png")
    assert "broken.png: damaged" in run("skips").out


def test_query_as_json_and_as_text(run: Run, pictures: Path) -> None:
    run("build", pictures)
    done = run("query", pictures / "a.png", pictures / "b.png", "-k", "3", "--json")
    first, second = lines(done.out)
    assert set(first) == {"query", "seconds", "matches"}
    assert [set(match) for match in first["matches"]] == [MATCH] * 3
    assert [match["rank"] for match in second["matches"]] == [1, 2, 3]
    text = run("query", pictures / "a.png", "-k", "3").out.splitlines()
    assert [line.split("\t")[1] for line in text] == [match["path"] for match in first["matches"]]


def test_query_options_reach_the_search(run: Run, pictures: Path) -> None:
    run("build", pictures)
    best = lines(run("query", pictures / "a.png", "--include-self", "--json").out)[0]["matches"]
    assert best[0]["path"] == str(pictures / "a.png")
    assert len(best) == 6
    only = lines(run("query", pictures / "a.png", "--where", "path LIKE '%/sub/%'", "--json").out)[0]["matches"]
    assert len(only) == 2
    assert lines(run("query", pictures / "a.png", "--min-score", "0.999", "--json").out)[0]["matches"] == []
    nothing = run("query", pictures / "a.png", "--min-score", "0.999")
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "Nothing matches pictures/a.png.\n")


def test_paths_from_stdin(run: Run, pictures: Path) -> None:
    run("build", pictures)
    odd = save_picture(pictures / "two\nlines.png", 9)
    names = b"\0".join(os.fsencode(path) for path in (pictures / "a.png", odd))
    found = lines(run("query", "-", "-0", "--json", stdin=names).out)
    assert [item["query"] for item in found] == [str(pictures / "a.png"), str(odd)]
    plain = lines(run("query", "-", "--json", stdin=f"{pictures / 'b.png'}\n".encode()).out)
    assert [item["query"] for item in plain] == [str(pictures / "b.png")]


def test_some_unusable_pictures_are_three_and_none_usable_is_one(run: Run, pictures: Path) -> None:
    run("build", pictures)
    some = run("query", pictures / "a.png", "none.png")
    assert some.code == 3
    assert "none.png: there is no such file" in some.err
    assert run("query", "none.png").code == 1


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["query", "x.png"], 1, "There is no catalog"),
        (["info"], 1, "There is no catalog"),
        (["info", "--catalog", "nowhere"], 1, "no catalog in nowhere"),
        (["build"], 1, "Name a folder"),
        (["build", "typo"], 1, "no file or folder typo"),
        (["query"], 2, "Missing argument"),
        (["query", "x.png", "-k", "0"], 2, "Invalid value"),
        (["frobnicate"], 2, "No such command"),
        (["build", "--precision", "fp7"], 2, "fp7"),
    ],
)
def test_errors_are_one_line_with_an_exit_code(run: Run, words: list[str], code: int, says: str) -> None:
    done = run(*words)
    assert done.code == code
    assert says in done.err
    assert done.out == ""
    if code == 1:
        assert done.err.startswith("Error: ")
        assert done.err.count("\n") == 1
    assert not Path(".indexer").exists()


def test_without_a_command_there_is_help(run: Run) -> None:
    help, done = run("--help"), run()
    assert (help.code, done.code, done.out) == (0, 2, "")
    assert done.err == help.out
    assert len(done.err.splitlines()) > 20


EMPTY = "An empty path names nothing."


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["dedup", "--html", ""], EMPTY),
        (["dedup", "--plan", ""], EMPTY),
        (["query", "x.png", "--html", ""], EMPTY),
        (["query", "x.png", "--html", "."], "File '.' is a directory"),
        (["query", "x.png", "--html", "/"], "File '/' is a directory"),
        (["calibrate", "--html", ""], EMPTY),
        (["embed", "x.png", "-o", ""], EMPTY),
        (["export", ""], EMPTY),
        (["export", "folder.npy"], "File 'folder.npy' is a directory"),
        (["apply", "plan.json", "--action", "move", "--to", ""], EMPTY),
        (["apply", "plan.json", "--log", ""], EMPTY),
        (["build", "pictures", "--catalog", ""], EMPTY),
    ],
)
def test_a_result_needs_a_place(run: Run, pictures: Path, words: list[str], says: str) -> None:
    Path("folder.npy").mkdir()
    done = run(*words)
    assert (done.code, done.out) == (2, "")
    assert says in done.err
    assert sorted(os.listdir()) == ["folder.npy", "pictures"]


@pytest.mark.parametrize(
    "words",
    [
        ["build", "--memory", "inf"], ["build", "--memory", "nan"], ["build", "--recall", "nan"],
        ["bench", "--seconds", "inf"], ["bench", "--seconds", "nan"], ["query", "x.png", "--min-score", "nan"],
    ],
)  # fmt: skip
def test_what_is_no_number(run: Run, words: list[str]) -> None:
    done = run(*words)
    assert done.code == 2
    assert "is no number" in done.err or "is not in the range" in done.err


def test_an_empty_list_on_stdin_is_not_every_folder(run: Run, pictures: Path) -> None:
    run("build", pictures)
    (pictures / "a.png").unlink()
    done = run("build", "--prune", "-", stdin=b"\n")
    assert done.code == 1
    assert "stdin" in done.err
    assert json.loads(run("info", "--json").out)["images"] == 6


@pytest.mark.parametrize(
    "words", [["embed", "-", "-o", "v.npy"], ["classify", "-"], ["query", "-"], ["query", "-", "-0"]]
)
def test_an_empty_list_on_stdin_is_not_done(run: Run, pictures: Path, words: list[str]) -> None:
    run("build", pictures)
    done = run(*words, stdin=b"")
    assert (done.code, done.out, done.err) == (1, "", "Error: No path came on stdin, so nothing was done.\n")


@pytest.mark.parametrize(
    "words", [["query", "--html"], ["dedup", "--html"], ["dedup", "--plan"], ["calibrate", "--html"], ["embed", "-o"]]
)
def test_a_picture_is_no_place_for_a_result(run: Run, pictures: Path, words: list[str]) -> None:
    """A forgotten name, and the shell's *.png: what comes next is the first picture."""
    run("build", pictures)
    before = (pictures / "a.png").read_bytes()
    for other in (pictures / "a.png", Path(".indexer/catalog.sqlite")):
        done = run(*words, other, *([pictures / "b.png"] if words[0] in ("query", "embed") else []))
        assert (done.code, done.out) == (2, "")
        assert "would be lost" in done.err
    assert (pictures / "a.png").read_bytes() == before
    os.mkfifo("pipe")
    done = run(*words, "pipe", *([pictures / "b.png"] if words[0] in ("query", "embed") else []))
    assert done.code == 2
    assert "no ordinary file" in done.err
    assert stat.S_ISFIFO(os.lstat("pipe").st_mode)


@pytest.mark.parametrize(
    "words", [["query", "x.png", "--html"], ["dedup", "--plan"], ["embed", "x.png", "-o"], ["export"]]
)
def test_a_name_that_no_disk_takes_is_no_place_for_a_result(run: Run, pictures: Path, words: list[str]) -> None:
    run("build", pictures)
    name = "a" * 250 + ".parquet"
    done = run(*words, name)
    assert (done.code, done.out) == (2, "")
    assert f"{name} cannot be written (File name too long). Give a shorter name." in done.err
    with Catalog.open(".indexer") as catalog, pytest.raises(CatalogError, match="cannot be written"):
        catalog.export(name)
    assert sorted(os.listdir()) == [".indexer", "pictures"]


def test_a_current_folder_that_was_deleted_holds_no_catalog(run: Run, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    done = run("info")
    assert done.code == 1
    assert done.err.startswith("Error: There is no catalog here or in a folder above.")


def test_a_result_may_be_where_a_link_leads(run: Run, pictures: Path) -> None:
    run("build", pictures)
    Path("kept").mkdir()
    Path("page.html").symlink_to("kept/page.html")
    for _ in range(2):
        assert run("query", pictures / "a.png", "--html", "page.html").code == 0
        assert Path("page.html").is_symlink()
        assert Path("kept/page.html").read_text().startswith("<!doctype html>")


def test_an_output_may_be_there_and_unreadable(run: Run, pictures: Path) -> None:
    run("build", pictures)
    Path("out.jsonl").touch(mode=0o200)
    assert run("export", "out.jsonl").code == 0
    assert len(lines(Path("out.jsonl").read_text())) == 6


def test_a_name_does_nothing_in_an_error(run: Run, pictures: Path) -> None:
    name = "a\x1b[31mred\nline.png"
    shown = "a\\x1b[31mred\\nline.png"
    for words in (["info", "--catalog", name], ["build", name], ["embed", name, "-o", "v.npy"], ["info", name]):
        done = run(*words)
        assert shown in done.err
        assert "\x1b" not in done.err
        assert name not in done.err


def test_a_label_does_nothing_on_a_terminal(run: Run, pictures: Path, fake: FakeEmbedder) -> None:
    fake.classes = tuple((name, f"\x1b[31m{label}") for name, label in CLASSES)  # type: ignore[assignment]
    done = run("classify", pictures / "a.png")
    assert len(done.out.splitlines()) == 3
    assert "\\x1b[31mgrey" in done.out
    assert "\x1b" not in done.out
    assert lines(run("classify", pictures / "a.png", "--json").out)[0]["labels"][0]["label"].startswith("\x1b[31m")


def test_debug_shows_the_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Exception, match="There is no catalog"):
        run("info", "--debug")


def test_a_dry_run_leaves_no_catalog(run: Run, pictures: Path) -> None:
    report = lines(run("build", pictures, "--dry-run", "--json").out)[0]
    assert (report["added"], report["catalog"]) == (6, ".indexer")
    assert not Path(".indexer").exists()


def test_a_dry_run_only_reads_a_catalog(run: Run, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be on a disk that cannot be written."""
    run("build", pictures)
    (pictures / "a.png").unlink()
    monkeypatch.delattr(Catalog, "create")
    done = run("build", "--dry-run")
    assert (done.code, done.out) == (
        0, "Would read 0 new files and 0 changed, and forget 1; 5 unchanged. Nothing was done.\n"
    )  # fmt: skip
    assert "they are kept" in done.err
    assert lines(run("info", "--json").out)[0]["images"] == 6


def test_the_catalog_is_found_above_and_by_variable(
    run: Run, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("build", pictures)
    monkeypatch.chdir(pictures / "sub")
    assert lines(run("info", "--json").out)[0]["images"] == 6
    monkeypatch.setenv("INDEXER_CATALOG", str(tmp_path / "elsewhere"))
    assert run("info").code == 1
    run("build", pictures)
    assert (tmp_path / "elsewhere" / "catalog.sqlite").is_file()


def test_info(run: Run, pictures: Path) -> None:
    run("build", pictures)
    (found,) = lines(run("info", "--json").out)
    assert set(found) == INFO
    assert set(found["neighbours"]) == {"kind", "covered", "recall"}
    assert found["roots"] == [str(pictures)]
    assert sum(found["bytes"].values()) > 0
    assert "6 different" in run("info").out


def test_names_of_models_can_be_copied_from_a_narrow_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    shown = run("models").out
    assert all(f"{model['name']} " in shown for model in lines(run("models", "--json").out))


def test_models(run: Run) -> None:
    found = lines(run("models", "--json").out)
    assert len(found) == 16
    assert set(found[0]) >= {"name", "dim", "input_size", "parameters", "gmacs", "top1", "top5"}
    assert "eva_large_patch14_196.in22k_ft_in22k_in1k\t1024\t196\t304.1\t61.6\t88.59\t98.66" in run("models").out


def test_embed(run: Run, pictures: Path) -> None:
    done = run("embed", pictures / "b.png", "none.png", pictures / "a.png", "-o", "v.npy", "--json")
    assert done.code == 3
    (report,) = lines(done.out)
    assert report["shape"] == [2, 48]
    assert [skip["path"] for skip in report["skipped"]] == ["none.png"]
    rows = np.load("v.npy")
    assert rows.dtype == np.float32
    assert np.linalg.norm(rows, axis=1) == pytest.approx([1, 1])
    run("embed", pictures / "a.png", "-o", "a.npy")
    assert np.array_equal(np.load("a.npy")[0], rows[1])
    run("embed", pictures / "a.png", "-o", "t.npy", "--tokens")
    assert np.load("t.npy").shape == (1, 1, 48)
    assert run("embed", pictures / "a.png", "-o", "T.NPY").code == 0
    assert np.load("T.NPY").shape == (1, 48)
    assert list(Path().glob("*.tmp")) == []


def test_what_is_beside_a_result_stays(run: Run, pictures: Path) -> None:
    run("build", pictures)
    for words in (["embed", "-o", "v.npy"], ["query", "--html", "page.html"]):
        mine = Path(f"{words[2]}.tmp")
        mine.write_text("mine")
        assert run(words[0], pictures / "a.png", *words[1:]).code == 0
        assert mine.read_text() == "mine"
        assert Path(words[2]).is_file()


def test_an_embed_that_is_cut_off_leaves_no_file(
    run: Run, pictures: Path, fake: FakeEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fake, "forward", cut_off)
    assert run("embed", pictures / "a.png", "-o", "v.npy").code == 130
    assert os.listdir() == ["pictures"]


def test_more_pictures_than_a_batch(run: Run, pictures: Path) -> None:
    names = [save_picture(pictures / f"{seed}.png", seed) for seed in range(400, 420)]
    run("embed", *names, "-o", "v.npy")
    rows = np.load("v.npy")
    assert rows.shape == (20, 48)
    run("embed", names[13], "-o", "one.npy")
    assert np.allclose(np.load("one.npy")[0], rows[13], atol=1e-6)


def test_a_picture_that_is_named_twice_has_two_rows(run: Run, pictures: Path) -> None:
    twice = [pictures / "a.png", pictures / "b.png", pictures / "a.png"]
    run("embed", *twice, "-o", "v.npy")
    rows = np.load("v.npy")
    assert rows.shape == (3, 48)
    assert np.array_equal(rows[0], rows[2])
    assert len(lines(run("classify", *twice, "--json").out)) == 3


def test_classify(run: Run, pictures: Path) -> None:
    (found,) = lines(run("classify", pictures / "a.png", "-k", "2", "--json").out)
    assert set(found) == {"path", "labels"}
    assert [set(label) for label in found["labels"]] == [{"label", "index", "probability"}] * 2
    assert len(run("classify", pictures / "a.png", "-k", "2").out.splitlines()) == 2


@pytest.fixture
def black(pictures: Path) -> Path:
    """A picture for which the fake model gives no numbers."""
    Image.new("RGB", (40, 30)).save(pictures / "black.png")
    return pictures / "black.png"


@pytest.mark.parametrize("tokens", [(), ("--tokens",)])
def test_embed_skips_what_has_no_vector(run: Run, pictures: Path, black: Path, tokens: tuple[str, ...]) -> None:
    done = run("embed", pictures / "b.png", black, pictures / "a.png", "-o", "v.npy", "--json", *tokens)
    assert done.code == 3
    (report,) = lines(done.out)
    assert report["skipped"] == [{"path": str(black), "reason": NO_VECTOR}]
    rows = np.load("v.npy")
    assert report["shape"] == list(rows.shape)
    assert len(rows) == 2
    assert np.isfinite(rows).all()
    assert run("embed", black, "-o", "none.npy", *tokens).code == 1


def test_build_leaves_out_what_it_is_told_to(run: Run, pictures: Path) -> None:
    done = run("build", pictures, "--exclude", "pictures/sub", "--exclude", "*.jpg", "--json")
    assert lines(done.out)[0]["added"] == 3
    assert json.loads(run("info", "--json").out)["exclude"] == [str(pictures / "sub"), "*.jpg"]
    assert run("info").out.count("left out") == 2
    for words in (["build"], ["build", "--dry-run"]):
        assert f"left out: {pictures / 'sub'}, *.jpg\n" in run(*words).out
    (report,) = lines(run("build", "--json").out)
    assert (report["unchanged"], report["exclude"]) == (3, [str(pictures / "sub"), "*.jpg"])
    refused = run("build", pictures / "sub")
    assert (refused.code, refused.err.count("--exclude")) == (1, 2)
    assert run("build", "--exclude", "/").code == 1
    assert lines(run("build", "--exclude", "", "--json").out)[0]["added"] == 3
    assert json.loads(run("info", "--json").out)["exclude"] == []
    assert "left out" not in run("build").out


def test_embed_without_any_vector_leaves_what_is_there(run: Run, pictures: Path, black: Path) -> None:
    run("embed", pictures / "a.png", "-o", "v.npy")
    before = Path("v.npy").read_bytes()
    for name in ("v.npy", "none.npy"):
        for options in ([], ["--tokens"]):
            done = run("embed", black, "missing.png", "-o", name, *options)
            assert done.code == 1
            assert f"{name} was not written" in done.err
            assert done.err.count("Skipped") == 2
    assert json.loads(run("embed", black, "-o", "none.npy", "--json").out)["shape"] == [0, 48]
    assert Path("v.npy").read_bytes() == before
    assert sorted(os.listdir()) == ["pictures", "v.npy"]


def test_classify_skips_what_has_no_vector(run: Run, pictures: Path, black: Path) -> None:
    done = run("classify", pictures / "b.png", black, pictures / "a.png", "--json")
    assert done.code == 3
    assert [line["path"] for line in lines(done.out)] == [str(pictures / "b.png"), str(pictures / "a.png")]
    assert f"black.png: {NO_VECTOR}" in done.err
    assert run("classify", black).code == 1


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_json_has_finite_numbers_only(number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        jsonl.dumps({"probability": number})


@pytest.fixture
def exported(run: Run, pictures: Path) -> Path:
    shutil.copy(pictures / "a.png", pictures / "copy.png")
    save_picture(pictures / "=cmd.png", 60)
    run("build", pictures)
    return pictures


def test_export_jsonl(run: Run, exported: Path) -> None:
    report = lines(run("export", "out.jsonl", "--json").out)[0]
    assert report == {"file": "out.jsonl", "rows": 8}
    rows = lines(Path("out.jsonl").read_text())
    assert [set(row) for row in rows] == [
        {"path", "sha256", "width", "height", "bytes", "labels", "vector"},
    ] * 8
    by_path = {row["path"]: row for row in rows}
    assert by_path[str(exported / "a.png")]["vector"] == by_path[str(exported / "copy.png")]["vector"]
    assert np.linalg.norm(by_path[str(exported / "a.png")]["vector"]) == pytest.approx(1, abs=1e-5)


def test_export_npy_and_csv_agree(run: Run, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("export", "out.npy")
    run("export", "all.jsonl")
    expected = lines(Path("all.jsonl").read_text())
    with open("out.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["path"] for row in table] == [row["path"] for row in expected]
    assert np.allclose(np.load("out.npy"), [row["vector"] for row in expected], atol=1e-6)


def test_export_csv(run: Run, exported: Path) -> None:
    run("export", "out.csv")
    with open("out.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 8
    assert all(len(row["vector"].split()) == 48 for row in table)


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx"])
def test_cells_that_a_spreadsheet_would_run_are_defused(cell: str) -> None:
    assert defused(cell) == "'" + cell
    assert defused("a" + cell) == "a" + cell


def test_a_written_table_runs_nothing_in_a_spreadsheet(run: Run, pictures: Path, fake: FakeEmbedder) -> None:
    fake.classes = tuple((name, f"=1+1 {label}") for name, label in CLASSES)  # type: ignore[assignment]
    run("build", pictures)
    for name in ("out.csv", "out.npy"):
        Path("out.csv").unlink(missing_ok=True)
        assert run("export", name).code == 0
        with open("out.csv", newline="") as file:
            table = list(csv.DictReader(file))
        assert [row["labels"][:5] for row in table] == ["'=1+1"] * 6


def test_export_parquet(run: Run, exported: Path) -> None:
    import pyarrow.parquet as pq

    assert run("export", "out.parquet").code == 0
    table = pq.read_table("out.parquet")
    assert table.num_rows == 8
    assert table.column_names == ["path", "sha256", "width", "height", "bytes", "labels", "vector"]
    assert np.linalg.norm(table["vector"][0].as_py()) == pytest.approx(1, abs=1e-5)


def test_the_table_beside_an_array_takes_no_other_ones_place(run: Run, exported: Path) -> None:
    Path("out.csv").write_text("mine,too\n")
    done = run("export", "out.npy")
    assert (done.code, done.out) == (1, "")
    assert "Error: out.csv, where the other columns go, is no export of indexer's." in done.err
    assert Path("out.csv").read_text() == "mine,too\n"
    assert not Path("out.npy").exists()
    Path("out.csv").unlink()
    assert [run("export", "out.npy").code, run("export", "out.npy").code] == [0, 0]


@pytest.mark.parametrize("columns", ["vector", "notes"])
def test_a_table_that_holds_more_stays_beside_an_array(run: Run, exported: Path, columns: str) -> None:
    run("export", "out.csv")
    text = Path("out.csv").read_text().replace("vector", columns, 1)
    Path("out.csv").write_text(text)
    done = run("export", "out.npy")
    assert (done.code, done.out) == (1, "")
    assert Path("out.csv").read_text() == text
    assert not Path("out.npy").exists()


def test_without_pyarrow_it_says_what_to_install(run: Run, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not by this project's name, which another one has on PyPI."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    done = run("export", "out.parquet")
    assert (done.code, done.err) == (1, "Error: Parquet needs an extra. Install it: pip install pyarrow.\n")


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.npy", "out.parquet"])
def test_an_export_touches_no_other_file(run: Run, exported: Path, name: str) -> None:
    for other in (f"{name}.tmp", f"{name}.csv"):  # which once were names of its own
        Path(other).write_text("mine")
    before = set(os.listdir())
    assert run("export", name).code == 0
    assert Path(f"{name}.tmp").read_text() == Path(f"{name}.csv").read_text() == "mine"
    assert set(os.listdir()) - before == {name, "out.csv" if name == "out.npy" else name}


@pytest.mark.parametrize("refused", ["out.npy", "out.csv"])
def test_an_export_that_cannot_be_written_leaves_nothing(run: Run, exported: Path, refused: str) -> None:
    Path(refused, "in the way").mkdir(parents=True)
    before = set(os.listdir())
    with pytest.raises(CatalogError, match=f"{refused} cannot be written"), Catalog.open(".indexer") as catalog:
        catalog.export("out.npy")
    assert set(os.listdir()) - before <= {"out.csv"}


def test_export_refuses_an_unknown_ending(run: Run, exported: Path) -> None:
    done = run("export", "out.xlsx")
    assert done.code == 2
    assert ".parquet" in done.err


def test_embed_refuses_an_unknown_ending_before_it_loads_a_model(
    run: Run, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common, "loader", None)
    done = run("embed", pictures / "a.png", "-o", "t.txt")
    assert (done.code, done.out) == (2, "")
    assert "t.txt does not end in .npy" in done.err
