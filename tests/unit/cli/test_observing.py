"""What the verbs write, and when."""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import Any, List

import pytest

from xpc_instrument.cli.observing import Output


class _Pieces(io.StringIO):
    """Keeps what was written apart."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: List[str] = []

    def write(self, text: str) -> int:
        self.pieces.append(text)
        return len(text)


def output(json_lines: bool = False, file: Any = None) -> Output:
    return Output(argparse.Namespace(json=json_lines, output=file))


def test_events_are_written_at_once_unless_they_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    written = _Pieces()
    monkeypatch.setattr("sys.stdout", written)
    one = output()
    one.event({"type": "call"}, ["first", "of two"])
    assert written.pieces == ["first\nof two\n"]
    with one.held():
        one.event({"type": "call"}, ["second"])
        one.event({"type": "call"}, ["third"])
        assert len(written.pieces) == 1
        one.flush()
        assert written.pieces[1:] == ["second\nthird\n"]
        one.event({"type": "call"}, ["fourth"])
    assert written.pieces[2:] == ["fourth\n"]


def test_many_events_that_are_held_are_written_in_whole_lines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written = _Pieces()
    monkeypatch.setattr("sys.stdout", written)
    one = output(True, str(tmp_path / "events"))
    with one.held():
        for number in range(1000):
            one.event({"type": "call", "number": number})
        early = (tmp_path / "events").read_text()
        assert 2 < len(written.pieces) < 20
        assert early.endswith("}\n")
    one.close()
    assert [json.loads(line)["number"] for line in "".join(written.pieces).splitlines()] == list(range(1000))
    assert (tmp_path / "events").read_text() == "".join(written.pieces)


def test_what_is_not_printed_is_not_made(capsys: pytest.CaptureFixture[str]) -> None:
    def never() -> Any:
        raise AssertionError

    output().event(never, lambda: ["a line"])
    output(True).event(lambda: {"type": "call"}, never)
    assert capsys.readouterr().out == 'a line\n{"type": "call"}\n'
