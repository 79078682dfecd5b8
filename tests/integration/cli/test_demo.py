"""The demonstration tells the truth: what it prints is what its commands did."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Callable, List

from tests.programs import Program

DEMO = Path(__file__).resolve().parents[3] / "examples" / "http_server" / "demo.py"


def chapter(lines: List[str], words: str) -> List[str]:
    """The lines below the heading with these words, up to the next heading."""
    start = next(number for number, line in enumerate(lines) if line.startswith("---") and words in line) + 1
    end = next((number for number in range(start, len(lines)) if lines[number].startswith("---")), len(lines))
    return [line for line in lines[start:end] if line and not line.startswith("$")]


def test_the_demonstration_hooks_the_server_twice_and_leaves_it_as_it_was(run_program: Callable[..., Program], tmp_path: Path) -> None:
    program = run_program(command=[sys.executable, str(DEMO)], cwd=tmp_path)
    assert program.wait() == 0, program.text
    lines = program.output
    hello = "GET /hello.txt -> 200 hello from the folder"
    missing = "GET /hidden -> 404 File not found"
    assert chapter(lines, "the application") == [hello]
    application = chapter(lines, "attach to it")
    assert application[-2:] == [hello, missing]
    if application[0].startswith("attached to"):
        # Not so where no process may be traced: then it was started with the agent in it.
        left = chapter(lines, "detach from it")
        assert left[0].startswith("detached from files: 1 process (") and left[1].startswith("no instrumented application is running")
        assert left[-1] == hello
    else:
        assert "cannot be attached to" in application[0] and "started anew" in application[1]
    pid, target, state = application[-3].split()[:3]
    assert (target, state) == ("http.server:SimpleHTTPRequestHandler.do_GET", "ready")
    assert chapter(lines, "a probe script") == [hello, "GET /hidden -> 200 written by the probe script, from another process"]
    # The hooks print in threads of their own, and a line and its end are two writes.
    printed = [part for line in chapter(lines, "Ctrl-C on the probe script") for part in re.split("(?<=.)(?=probe: )", line)]
    told = [re.sub(r"\d+\.\d+ ms", "some ms", line) for line in printed]
    # The client has its answer before the hook after it has run, so the two requests may overlap.
    assert sorted(told[:-1]) == [
        f"probe: GET /hello.txt is about to be handled by pid {pid}",
        f"probe: GET /hidden is about to be handled by pid {pid}",
        *["probe: it took some ms"] * 2,
    ]
    assert told[-1] == missing
    seed = chapter(lines, "a plain Manager")
    assert seed[0] == "GET /hidden -> 410 Gone"
    assert seed[-1] == hello
    assert "seed probe: GET /hidden is about to be handled" in seed
    assert chapter(lines, "the end") == ["the server ended with status 0"]
