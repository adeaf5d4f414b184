"""Running the command line in this process, with the fake embedder."""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from indexer.cli import common, main
from indexer.pictures import scan

from ..fakes import FakeEmbedder


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


class Run(Protocol):
    def __call__(self, *words: str | Path, stdin: bytes = b"") -> Outcome: ...


@pytest.fixture
def run(fake: FakeEmbedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `indexer WORDS...` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(common.VARIABLE, raising=False)
    monkeypatch.setattr(common, "loader", lambda *_: lambda _: fake)
    monkeypatch.setattr(scan, "SETTLED_NS", 0)

    def runner(*words: str | Path, stdin: bytes = b"") -> Outcome:
        monkeypatch.setattr(sys, "argv", ["indexer", *map(str, words)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as exit:
            main()
        captured = capsys.readouterr()
        return Outcome(int(exit.value.code or 0), captured.out, captured.err)

    return runner
