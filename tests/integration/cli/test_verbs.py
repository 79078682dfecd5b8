"""The verbs that look on, as they are typed: what they print, how they end, and what they leave behind."""

from __future__ import annotations

import json
import shlex
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Callable, List

import pytest

import xpc_instrument
from tests.integration.app_fixture import TARGETS, App, command

WORDS = (sys.executable, "-m", "xpc_instrument.cli")


@pytest.fixture
def app(begin_app: Callable[..., App]) -> App:
    return begin_app()


def during(app: App, expression: str, *words: str) -> subprocess.CompletedProcess[str]:
    """What a command says, while the application evaluates an expression as soon as a hook is armed."""

    # Loaded here: pytest reads the sources itself, and the parser of Python 3.11 fails where two threads do that at once.
    connect = xpc_instrument.connect

    def call() -> None:
        with connect("shop") as session:
            while not any(probe.hooks for probe in session.stats()):
                pass
        app.evaluate(expression)

    thread = threading.Thread(target=call)
    thread.start()
    done = command(*words)
    thread.join()
    return done


def events(text: str) -> List[Any]:
    """The events, each of which says what it is, when it was told, and of which application and machine."""
    found = [json.loads(line) for line in text.splitlines()]
    for one in found:
        assert list(one)[:4] == ["type", "time", "app", "host"]
        assert (len(one["time"]), one["time"][-1], one["app"], one["host"]) == (24, "Z", "shop", socket.gethostname())
    return found


def test_watch_shows_each_call_in_a_line(app: App) -> None:
    done = during(app, "[shop.charge(5), shop.nested(0)] and shop.fail('no')", "watch", "shop", "shop:charge", "shop:fail", "-n", "2")
    assert done.returncode == 0, done.stderr
    one, two = done.stdout.splitlines()
    assert " charge(amount=5, currency='EUR') -> '5 EUR'  " in one
    assert " fail(text='no') !! ValueError('no')  " in two
    first, last = done.stderr.splitlines()
    assert first.startswith("armed 2 targets of shop:charge,shop:fail in 1 process of shop in ")
    assert first.endswith("; ends after 2 calls (-n) or after 30m (--for), or Ctrl-C")
    assert last == "2 calls shown of 2: 0 over --rate, 0 dropped; disarmed in 1 process"


def test_watch_shows_what_does_not_meet_the_condition_if_it_is_asked_for(app: App) -> None:
    calls = "[shop.charge(n) for n in (1, 5, 2, 6)]"
    done = during(app, calls, "watch", "shop", "shop:charge", "-n", "2", "--when", "amount > 4", "-v")
    assert done.returncode == 0, done.stderr
    told = [(line.split()[2], "does not meet --when" in line) for line in done.stdout.splitlines()]
    assert told == [(f"charge(amount={n},", n < 4) for n in (1, 5, 2, 6)]
    assert done.stderr.splitlines()[-1].startswith("2 calls shown of 4: 2 did not meet --when, 0 over --rate, 0 dropped")


def test_an_expression_that_fails_is_counted_and_told_once(app: App, tmp_path: Path) -> None:
    file = tmp_path / "calls.jsonl"
    calls = "[shop.charge(n) for n in (1, 2)] and shop.charge(chr(0xd800))"
    done = during(app, calls, "watch", "shop", "shop:charge", "-n", "1", "--when", "amount.lower() != ''", "-o", str(file))
    assert done.returncode == 0, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("1 call shown of 3: 2 did not meet --when, 0 over --rate, 0 dropped; disarmed in 1 process; ")
    assert "; an expression failed in 2 calls: WouldRunCode: " in last
    _, call, summary = events(file.read_text())
    # A text that no encoding has is shown all the same.
    assert call["arguments"]["amount"] == "\ud800"
    assert (summary["rejected"], summary["errors"]) == (2, 2)
    done = during(app, calls, "stat", "shop", "shop:charge", "-n", "1", "--when", "amount.lower() != ''", "--json")
    assert events(done.stdout)[-1].items() >= {"calls": 3, "rejected": 2, "errors": 2}.items()
    last = done.stderr.splitlines()[-1]
    assert last.startswith(
        "1 call counted of 3: 2 did not meet --when, 0 not counted; disarmed in 1 process; an expression failed in 2 calls: "
    )
    done = during(app, calls, "inject", "shop", "shop:charge", "return(0)", "-n", "1", "--when", "amount.lower() != ''")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("faults happened to 1 of 3 calls: 1 return(0); 2 did not meet --when; disarmed in 1 process")


def test_watch_writes_json_lines_to_a_file_that_is_the_users(app: App, tmp_path: Path) -> None:
    file = tmp_path / "calls.jsonl"
    file.touch(0o644)
    call = "[shop.charge(5, currency=[1, (2, {'a': None})])]"
    done = during(app, call, "watch", "--json", "shop", "-o", str(file), "-n", "1", "-x", "3", "shop:charge")
    assert done.returncode == 0, done.stderr
    assert file.read_text() == done.stdout
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    armed, call_event, summary = events(done.stdout)
    assert (armed["type"], armed["targets"]) == ("armed", ["shop:charge"])
    assert call_event["arguments"] == {"amount": 5, "currency": [1, [2, {"a": None}]]}
    assert (call_event["type"], call_event["result"], call_event["exception"]) == ("call", "5 [1, (2, {'a': None})]", None)
    counts = {"events": 1, "calls": 1, "rejected": 0, "rate": 0, "dropped": 0, "errors": 0}
    assert {name: summary[name] for name in list(summary)[4:]} == counts
    assert call_event["file"].endswith("shop.py")
    assert TARGETS.splitlines()[call_event["line"] - 1].startswith("def charge")


def test_what_is_in_the_file_stays_until_there_is_something_to_write(app: App, tmp_path: Path) -> None:
    file = tmp_path / "incident.jsonl"
    file.write_text("kept\n" * 1000)
    for words in (["nobody", "shop:charge"], ["shop", "shop:chrge"], ["shop", "shop:charge", "--when", "amonut > 1"]):
        assert command("watch", *words, "-o", str(file)).returncode != 0
        assert file.read_text() == "kept\n" * 1000
    assert during(app, "shop.charge(5)", "watch", "shop", "shop:charge", "-n", "1", "-o", str(file)).returncode == 0
    assert [event["type"] for event in events(file.read_text())] == ["armed", "call", "summary"]


def test_an_output_that_is_closed_is_no_traceback() -> None:
    words = ["sh", "-c", f"exec {shlex.quote(sys.executable)} -m xpc_instrument.cli watch nobody x:y >&-"]
    done = subprocess.run(words, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 4
    assert "Traceback" not in done.stderr and "nobody" in done.stderr


def test_what_is_over_the_rate_is_counted(app: App) -> None:
    done = during(
        app, "[shop.charge(i) for i in range(500)] and None", "watch", "shop", "shop:charge", "--rate", "20", "--for", "400ms", "-b"
    )
    shown = len(done.stdout.splitlines())
    assert done.returncode == 0
    assert 1 <= shown < 100
    assert f"{shown} calls shown of 500: {500 - shown} over --rate, 0 dropped" in done.stderr
    assert "->" not in done.stdout


def test_nothing_seen_until_the_time_is_over_is_bad_news(app: App) -> None:
    for verb in ("watch", "stat", "stack"):
        done = command(verb, "shop", "shop:charge", "--for", "50ms")
        assert (done.returncode, done.stdout) == (1, ""), verb
        assert "0 calls" in done.stderr


def test_stat_prints_a_table_by_key(app: App) -> None:
    calls = "[shop.charge(i) for i in range(1, 101)] and [shop.charge(7, 'CHF') for _ in range(3)] and None"
    words = ["stat", "shop", "shop:charge", "--by", "currency", "--of", "amount", "-n", "103", "--hist", "--when", "amount"]
    done = during(app, calls, *words)
    assert done.returncode == 0, done.stderr
    head, first, second, *hist = done.stdout.splitlines()
    assert head.split() == ["currency", "count", "sum", "avg", "p50", "p95", "max"]
    assert first.split()[:4] == ["EUR", "100", "5050", "50.5"]
    assert second.split() == ["CHF", "3", "21", "7", "7", "7", "7"]
    assert any(line.split()[:3] == ["[64,", "128)", "37"] for line in hist)
    table = events(during(app, calls, *words, "--json").stdout)[-2]
    assert table["time"].endswith("Z")
    assert table["rows"][1] == {"currency": "CHF", "count": 3, "sum": 21, "avg": 7.0, "min": 7, "max": 7, "p50": 7.0, "p95": 7.0}


def test_stack_shows_each_way_once_and_how_often(app: App) -> None:
    app.evaluate("exec('def one(): return shop.charge(1)', globals())")
    done = during(app, "[one() for _ in range(5)] and None", "stack", "shop", "shop:charge", "-n", "5")
    assert done.returncode == 0, done.stderr
    first, frame, *_, last = done.stdout.splitlines()
    assert first.endswith(" stack 1 of shop:charge")
    assert frame == "    <string>:1 one"
    assert last == "       5  stack 1"
    now = command("stack", "shop", "--json")
    assert any(one["frames"][-1]["function"] == "<module>" for one in events(now.stdout))


def test_watch_shows_tracebacks_with_locals(app: App, tmp_path: Path) -> None:
    done = during(app, "shop.fail('no')", "watch", "shop", "shop:fail", "-n", "1", "--locals", "-o", str(tmp_path / "calls.jsonl"))
    head, *lines = done.stdout.splitlines()
    assert " fail(text='no') !! ValueError('no')  " in head
    assert lines[0].endswith("shop.py:44 fail"), lines
    assert lines[1] == "        text = 'no'"
    call = next(one for one in events((tmp_path / "calls.jsonl").read_text()) if one["type"] == "call")
    assert call["exception"]["stack"][0]["locals"] == {"text": "no"}


def test_trace_draws_the_tree_of_a_call(app: App, tmp_path: Path) -> None:
    file = tmp_path / "trees.jsonl"
    done = during(app, "shop.nested(2)", "trace", "shop", "shop:nested", "-n", "1", "-o", str(file))
    assert done.returncode == 0, done.stderr
    head, first, second, *own = done.stdout.splitlines()
    assert head.split()[1:3] == ["MainThread", "shop:nested"]
    assert first.startswith("  shop:nested  ")
    assert first.split()[-1].endswith("shop.py:57"), first
    assert second.startswith("    shop:nested  ")
    assert [line.split()[:2] for line in own] == [["own", "time"], ["own", "time"]]
    last = done.stderr.splitlines()[-1]
    # Its own two calls of itself are counted unless the hook has been taken off by then, as its limit is reached.
    counts = ("1: 0 over --rate, 0 dropped", "3: 0 over --rate, 0 dropped, 2 while another was traced")
    assert last.startswith(tuple(f"1 call shown of {one}; disarmed in 1 process; tracing took " for one in counts)), last
    armed, tree, summary = events(file.read_text())
    assert (armed["type"], tree["type"], summary["type"]) == ("armed", "tree", "summary")
    assert tree["tree"]["children"][0]["children"][0]["target"] == "shop:nested"
    assert {"count", "duration", "own", "min", "max", "errors", "file", "line"} <= tree["tree"].keys()
    assert command("trace", "shop", "shop:nested", "--for", "50ms").returncode == 1
    assert command("trace", "shop", "shop:nested", "--depth", "-1").returncode == 2


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["watch"], 2, "expected an application"),
        (["watch", "shop"], 2, "expected a target"),
        (["watch", "shop", "shop:charge", "--nothing"], 2, "--nothing"),
        (["watch", "shop", "shop:charge", "--for", "soon"], 2, "such as 200ms"),
        (["watch", "shop", "shop:charge", "--sample", "2"], 2, "a fraction of the calls"),
        (["watch", "shop", "shop:charge", "--rate", "nan"], 2, "a number of calls a second"),
        (["watch", "shop", "shop:charge", "-x", "9"], 2, "levels from 0 to 5"),
        (["stack", "shop", "shop:charge", "--depth", "0"], 2, "frames from 1 to 50"),
        (["watch", "shop:charge", "--"], 2, "expected a command"),
        (["stat", "shop", "shop:charge", "--by", "amount.__class__"], 2, "__class__"),
        (["stat", "shop", "shop:charge", "--by", "amuont"], 1, "did you mean 'amount'"),
        (
            ["watch", "shop", "shop:charge", "-b", "--when", "result > 3"],
            1,
            "'result' is known once the call has ended, and this is asked when",
        ),
        (["watch", "shop", "shop:charge", "-b", "--show", "duration"], 1, "watch without -b"),
        (["inject", "shop", "shop:charge", "off", "--when", "exception"], 2, "'exception' is known once the call has ended"),
        (["monitor", "shop", "shop:chrage"], 1, "shop:charge"),
        (["monitor", "nothing", "shop:charge"], 4, "nothing"),
    ],
)
def test_what_is_wrong_has_a_status_and_a_reason(app: App, words: List[str], status: int, said: str) -> None:
    done = command(*words)
    assert done.returncode == status
    assert said in done.stderr
    assert done.stdout == ""


PROGRAM = """
import time
def work(number):
    time.sleep(0.002)
    return number
if __name__ == "__main__":
    for i in range(int(__import__("sys").argv[1])):
        work(i)
"""


def test_a_command_is_started_and_seen_from_its_first_call_and_the_verb_ends_with_it(tmp_path: Path, runtime_dir: Path) -> None:
    (tmp_path / "work.py").write_text("def work(number):\n    return number\n")
    source = "def early(number):\n    return number\nearly(7)\nfrom work import work\nfor i in range(50):\n    work(i)\n"
    (tmp_path / "job.py").write_text(source)
    words = [*WORDS, "stat", "__main__:early", "work:work", "work:wrk", "--of", "result", "--", sys.executable, "job.py"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [["count", "sum"], ["51", "1232"]]
    first, missing, last = done.stderr.splitlines()
    assert (
        first.startswith("waiting for __main__:early,work:work,work:wrk in 1 process of ")
        and "python job.py: it has yet to be imported; " in first
    )
    assert missing == "work:wrk: the module work has no 'wrk'; the nearest names are work:work"
    assert last.endswith("; the application has ended")


def test_what_a_command_never_had_is_told_and_how_it_ended(tmp_path: Path, runtime_dir: Path) -> None:
    (tmp_path / "other.py").write_text("def never(): pass\n")
    (tmp_path / "job.py").write_text("def work(): pass\nwork()\nraise SystemExit(3)\n")
    command = ["--json", "--", sys.executable, "job.py"]
    words = [*WORDS, "watch", "other:never", "__main__:nothing_*", *command]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 1
    _first, *never, last = done.stderr.splitlines()
    assert never == ["nothing of __main__:nothing_* was ever defined", "other was never imported"]
    assert last == "0 calls shown: 0 over --rate, 0 dropped; the application has ended with 3"
    assert json.loads(done.stdout.splitlines()[-1])["status"] == 3


CHILDREN = """
import multiprocessing, os
from work import work
if __name__ == "__main__":
    child = os.fork()
    if not child:
        work(0)
        os._exit(0)
    os.waitpid(child, 0)
    for number in range(1, 4):
        child = multiprocessing.get_context("fork").Process(target=work, args=(number,))
        child.start()
        child.join()
"""


def test_children_that_end_at_once_are_seen_or_told_of(tmp_path: Path, runtime_dir: Path) -> None:
    (tmp_path / "work.py").write_text("def work(number):\n    return number\n")
    (tmp_path / "job.py").write_text(CHILDREN)
    words = [*WORDS, "stat", "work:work", "--json", "--", sys.executable, "job.py"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    # One leaves by `os._exit`, which nothing of ours can see; the others tell what they have counted, if the verb comes within a moment.
    *_rest, summary = map(json.loads, done.stdout.splitlines())
    assert summary["unreached"] >= 1
    assert summary["calls"] + summary["unreached"] >= 4
    assert f"{summary['unreached']} process" in done.stderr.splitlines()[-1].partition("the application has ended; ")[2]


def test_a_table_at_the_end_has_what_was_counted_since_the_last_one(app: App, tmp_path: Path) -> None:
    calls = "[shop.charge(n) for n in range(4)]"
    file = tmp_path / "tables.jsonl"
    done = during(app, calls, "monitor", "shop", "shop:charge", "-n", "4", "--every", "1m", "-o", str(file))
    _head, row, length = done.stdout.splitlines()
    assert row.split()[:2] == ["shop:charge", "4"]
    assert length.startswith("          in the last ")
    table = events(file.read_text())[1]
    assert (table["type"], table["rows"][0]["calls"]) == ("table", 4)
    assert 0 < table["seconds"] < 60
    done = during(app, calls, "stat", "shop", "shop:charge", "--every", "100ms", "-n", "4")
    assert [line.split()[0] for line in done.stdout.splitlines()][-2:] == ["count", "4"]
    assert sum(line.split()[0] == "4" for line in done.stdout.splitlines()) == 1


def test_ctrl_c_is_the_normal_end_and_ends_the_command_too(tmp_path: Path, runtime_dir: Path) -> None:
    (tmp_path / "job.py").write_text(PROGRAM)
    words = [*WORDS, "monitor", "__main__:work", "--every", "100ms", "--", sys.executable, "job.py", "1000000"]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().split()[1:] == ["target", "calls", "/s", "errors", "avg", "p50", "p95", "p99", "max"]
        assert process.stdout.readline().split()[0] == "__main__:work"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 0, said
    assert said.splitlines()[-1].endswith("disarmed in 1 process")


def test_inject_says_what_it_changes_and_what_it_has_done(app: App) -> None:
    calls = "[shop.charge(n) for n in range(4)]"
    done = during(app, calls, "inject", "shop", "shop:charge", "1*off -> 1*return('free') -> sleep(1ms)", "-n", "3")
    assert done.returncode == 0, done.stderr
    first, last = done.stderr.splitlines()
    assert first.startswith("CHANGES BEHAVIOUR: armed shop:charge in 1 process of shop in ")
    assert first.endswith("; ends after 3 faults (-n) or after 5m (--for), or Ctrl-C")
    assert last.startswith("faults happened to 3 of 4 calls: 1 1*off; 1 1*return('free'); 2 sleep(1ms) (mean ")
    assert last.endswith("); disarmed in 1 process")
    assert app.evaluate("shop.charge(1)") == "'1 EUR'"


def test_inject_ends_by_itself_and_tells_it_as_json(app: App, tmp_path: Path) -> None:
    file = tmp_path / "faults.jsonl"
    done = during(app, "shop.charge(1)", "inject", "shop", "shop:charge", "return(0)", "--for", "1s", "--json", "-o", str(file))
    assert done.returncode == 0, done.stderr
    armed, fault, summary = events(file.read_text())
    assert armed["targets"] == ["shop:charge"]
    assert (fault["type"], fault["rows"]) == ("fault", [{"term": "return(0)", "count": 1, "mean": 0.0}])
    assert (summary["type"], summary["events"], summary["calls"]) == ("summary", 1, 1)
    assert command("inject", "shop", "shop:charge", "return(0)", "--for", "300ms").returncode == 1
    done = during(app, "[shop.charge(1), shop.charge(2)]", "inject", "shop", "shop:charge", "return(0)", "-n", "1", "--when", "amount > 1")
    assert done.stderr.splitlines()[-1].startswith("faults happened to 1 of 2 calls: 1 return(0); 1 did not meet --when; ")


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["shop", "shop:charge"], 2, "expected a target and the terms of the fault"),
        (["shop", "shop:charge", "explode"], 2, "expected raise, return, sleep, hang or off"),
        (["shop", "shop:charge", "raise(Nope)"], 1, "there is none of that name"),
        (["shop", "shop:chrge", "off"], 1, "the nearest"),
        (["nobody", "shop:charge", "off"], 4, "no instrumented application is called 'nobody'"),
    ],
)
def test_inject_refuses_what_it_cannot_do(app: App, words: List[str], status: int, message: str) -> None:
    done = command("inject", *words)
    assert (done.returncode, message in done.stderr) == (status, True), done.stderr


def test_log_and_watch_show_a_line_with_its_variables(app: App, tmp_path: Path) -> None:
    # In `charge`, behind the line of its `def`.
    line = next(number for number, text in enumerate(TARGETS.splitlines(), 1) if text.startswith("def charge")) + 2
    done = during(app, "[shop.charge(5), shop.charge(6)] and None", "log", "shop", f"shop.py:{line}", "{amount} of {currency!r}", "-n", "2")
    assert done.returncode == 0, done.stderr
    assert [text.partition(" shop.py:")[2] for text in done.stdout.splitlines()] == [f"{line}  5 of 'EUR'", f"{line}  6 of 'EUR'"]
    first, last = done.stderr.splitlines()
    assert first.startswith(f"armed shop.py:{line} in 1 process of shop in ")
    assert last == "2 events shown of 2: 0 over --rate, 0 dropped; disarmed in 1 process"
    done = during(app, "[shop.charge(5), shop.charge(6)] and None", "watch", "shop", f"shop.py:{line}", "--when", "amount > 5", "-n", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == ["    amount = 6", "    currency = 'EUR'"]
    file = tmp_path / "lines.jsonl"
    words = ("log", "shop", f"shop.py:{line}", "--locals", "--stack", "1", "-n", "1", "-o", str(file))
    assert during(app, "shop.charge(5)", *words).returncode == 0
    _, event, _ = events(file.read_text())
    assert (event["type"], event["line"], event["text"], event["locals"]) == ("line", line, "", {"amount": 5, "currency": "EUR"})
    assert event["file"].endswith("shop.py")
    assert event["stack"][0]["function"] == "<module>"
    done = during(app, "shop.charge(5)", "log", "shop", "shop:charge", "{amount} -> {result}", "-n", "1")
    assert done.stdout.endswith(" charge  5 -> 5 EUR\n")


def test_log_says_what_it_cannot_be_put_on(app: App) -> None:
    done = command("log", "shop", "shop.py:1", "{amount}")
    assert (done.returncode, "the nearest with one:" in done.stderr) == (1, True)
    assert command("log", "shop", "shop.py:5", "{amount", "x").returncode == 2
    assert command("log", "shop", "shop:charge").returncode == 2
    for words, message in {
        ("shop.py:abc", "x"): 'expected a line behind the file, such as shop.py:24, and "abc" is no number of one',
        ("shop.py:-1", "x"): '"-1" is no number of one',
        ("shop.py:20abc",): '"20abc" is no number of one',
        ("shop.py:", "{amount}"): '"" is no number of one',
        ("shop.py", "{amount}"): "'shop.py': expected a line behind the file",
        ("shop:charge", "shop.py:5", "{amount}"): "shop.py:5: a line is named alone",
        ("shop:charge", "a text"): "'a text': expected a template with expressions in it",
        ("shop:charge", "{amount}", "--locals"): "--locals shows the variables at a line",
    }.items():
        done = command("log", "shop", *words)
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr
        assert len(done.stderr.splitlines()) == 1
    done = command("watch", "shop", "shop.py:5", "shop:charge")
    assert (done.returncode, "is named alone" in done.stderr) == (2, True)
