"""What `dev.py all` makes of tests that fail: those that pass alone are few and named, or the whole fails."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import List, Tuple

import pytest

import dev
from dev import Ran, outcome, settle

GOOD = Ran(0, "...\n3 passed in 1s")
SKIPPED = Ran(0, "s\n1 skipped in 1s")
BAD = Ran(1, "F\n1 failed in 1s", ("t::a",))


class Alone:
    """Runs a test again: passes all but those named."""

    def __init__(self, **others: Ran) -> None:
        self.others = others
        self.asked: List[Tuple[str, str]] = []

    def __call__(self, version: str, test: str) -> Ran:
        self.asked.append((version, test))
        return self.others.get(test, GOOD)


def failed(*tests: str, status: int = 1) -> Ran:
    return Ran(status, f"F\n{len(tests)} failed, 7 passed in 9s", tests)


def test_what_passes_is_not_run_again() -> None:
    alone = Alone()
    assert settle({"3.9": GOOD}, alone) == ({"3.9": "passed: 3 passed in 1s"}, [])
    assert alone.asked == []


def test_few_that_fail_once_and_pass_alone_are_named_and_fail_nothing() -> None:
    alone = Alone()
    results, told = settle({"3.9": failed("a"), dev.HEAVY: failed("a"), "3.11": GOOD}, alone)
    assert alone.asked == [("3.9", "a"), (dev.HEAVY, "a")]
    assert results["3.9"] == "passed, 1 of them alone: 1 failed, 7 passed in 9s"
    assert not any(result.startswith("FAILED") for result in results.values())
    assert [line.split(";")[0] for line in told] == [
        "failed once, passed alone: a (Python 3.9)",
        f"failed once, passed alone: a (Python {dev.OWN})",
    ]


@pytest.mark.parametrize("again", [BAD, SKIPPED, Ran(5, "no tests ran")])
def test_what_does_not_pass_alone_either_fails_its_version(again: Ran) -> None:
    results, told = settle({"3.9": failed("a", "b")}, Alone(b=again))
    assert results["3.9"] == "FAILED (exit status 1): 2 failed, 7 passed in 9s"
    assert len(told) == 1
    results, told = settle({"3.9": failed("b"), "3.13": failed("a")}, Alone(b=again))
    assert results["3.9"].startswith("FAILED")
    assert results["3.13"].startswith("passed, 1 of them alone")
    assert len(told) == 1


def test_more_than_a_few_fail_and_are_not_run_again() -> None:
    alone = Alone()
    results, (told,) = settle({"3.9": failed("a", "b", "c", "d"), "3.13": failed("a", "b", "c")}, alone)
    assert all(result.startswith("FAILED") for result in results.values())
    assert "7 runs of tests failed" in told
    assert alone.asked == []


@pytest.mark.parametrize("ran", [Ran(1, "no interpreter"), failed("a", status=2), failed("a", status=-11), Ran(3, "")])
def test_what_is_no_failed_test_stays_a_failure(ran: Ran) -> None:
    results, _ = settle({"3.9": ran}, Alone())
    assert results == {"3.9": outcome(ran)}
    assert outcome(ran).startswith(f"FAILED (exit status {ran.status})")


def test_the_oldest_and_the_newest_version_run_every_test_and_the_others_what_depends_on_the_version() -> None:
    every = [path.relative_to(dev.ROOT).as_posix() for path in (dev.ROOT / "tests").rglob("test_*.py")]
    found = dev.jobs(["3.9", "3.11", "3.15"], ["-x"])
    assert all(job.arguments[-1] == "-x" for job in found)
    for version in ("3.9", "3.15"):
        parts = [job.arguments[0] for job in found if job.of in (version, dev.HEAVY)]
        # Each in one part and no more.
        assert [sum(file == part or file.startswith(f"{part}/") for part in parts) for file in every] == [1] * len(every)
        assert all(len(job.arguments) == 2 for job in found if job.of == version)
    assert sorted(job.arguments for job in found if job.of == "3.11") == [
        ("tests/integration", "-m", "version", "-x"),
        (*dev.DEPENDING, "-x"),
    ]
    assert [job.of for job in found].count(dev.HEAVY) == 1


def test_a_unit_test_that_is_marked_runs_on_every_version() -> None:
    marked = [file for file in (dev.ROOT / "tests/unit").rglob("test_*.py") if "pytest.mark.version" in file.read_text(encoding="utf-8")]
    assert len(marked) > 10
    named = [dev.ROOT / path for path in dev.DEPENDING]
    assert [file for file in marked if not any(path in (file, *file.parents) for path in named)] == []


def test_one_version_alone_runs_every_test() -> None:
    assert {job.of for job in dev.jobs(["3.11"], [])} == {"3.11", dev.HEAVY}
    assert not any("-m" in job.arguments for job in dev.jobs(["3.11"], []))


def test_what_the_user_has_named_runs_on_every_version_and_nothing_else() -> None:
    named = ["tests/heavy/test_dev.py::test_it", "-x"]
    assert [(job.of, list(job.arguments)) for job in dev.jobs(["3.9", "3.11", "3.15"], named)] == [
        ("3.9", named),
        ("3.11", named),
        ("3.15", named),
    ]


def test_what_came_of_the_jobs_is_joined() -> None:
    none = Ran(dev.NO_TESTS, "no tests ran in 1s")
    assert dev.joined([GOOD, GOOD]).last == "6 passed in 2s"
    assert dev.joined([Ran(0, "3 passed, 2 skipped in 61.20s (0:01:01)"), GOOD, SKIPPED]).last == "6 passed, 3 skipped in 63s"
    assert (dev.joined([GOOD, none]).status, dev.joined([none, none]).status) == (0, dev.NO_TESTS)
    both = dev.joined([failed("a"), GOOD, failed("b")])
    assert (both.status, both.failed) == (1, ("a", "b"))
    # Nor does what the interpreter says at its end stand for how many passed, or a run that names no test hide behind one that does.
    warned = Ran(1, "7 passed in 9s\nResourceWarning: unclosed <socket.socket fd=12>")
    both = dev.joined([failed("a"), warned])
    assert (both.last, both.failed, both.status) == ("1 failed, 14 passed in 18s", ("a",), dev.UNNAMED)
    assert settle({"3.15": both}, Alone())[0]["3.15"].startswith("FAILED (no test failed, but a run did")
    # A job that crashed makes its version one that no test run again can settle, and its last words are kept.
    assert [dev.joined([failed("a"), Ran(status, "")]).status for status in (2, -11)] == [2, -11]
    assert dev.joined([GOOD, Ran(-11, "Segmentation fault")]).last == "3 passed in 1s; Segmentation fault"


def test_a_real_run_says_which_tests_failed_and_one_of_them_can_be_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # None is needed, and where no bytecode is written each run would compile them all.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    file = tmp_path / "test_it.py"
    file.write_text(
        "import pathlib, pytest\n"
        "mark = pathlib.Path(__file__).with_name('mark')\n"
        "class TestOne:\n"
        "    @pytest.mark.parametrize('word', ['a - b', 'c::d'])\n"
        "    def test_once(self, word):\n"
        "        with mark.open('a') as seen: seen.write(word)\n"
        "        assert mark.read_text().count(word) == 2\n"
        "def test_good(): pass\n"
    )
    folder = tmp_path / "results"
    python = Path(sys.executable)

    def alone(version: str, test: str) -> Ran:
        return dev._pytest(python, folder, [str(tmp_path / test)])

    first = dev._pytest(python, folder, [str(file)])
    assert (first.status, first.last.split(" in ")[0]) == (1, "2 failed, 1 passed")
    assert first.failed == ("test_it.py::TestOne::test_once[a - b]", "test_it.py::TestOne::test_once[c::d]")
    results, told = settle({"3.9": first}, alone)
    assert results["3.9"].startswith("passed, 2 of them alone") and len(told) == 2
    # What an earlier run noted is not taken for this one's.
    assert dev._pytest(python, folder, [f"{file}::test_good"]).failed == ()


def test_an_unstable_test_leaves_the_exit_status_and_a_failed_one_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    told = ["failed once, passed alone: t::a (Python 3.9); what it said is above"]
    assert dev._summary("all of it", {"Python 3.9": "passed, 1 of them alone: x", "lint": "passed"}, told) == 0
    assert capsys.readouterr().out.endswith(f"\n  {told[0]}\n")
    assert dev._summary("all of it", {"Python 3.9": outcome(BAD)}) == 1
    assert "Python 3.9: FAILED (exit status 1): 1 failed in 1s" in capsys.readouterr().out


def test_the_summary_names_every_version_and_why_one_was_skipped() -> None:
    results = {**dict.fromkeys(dev.VERSIONS[:-1], "passed"), dev.HEAVY: "passed"}
    lines = dev._in_order(results, {"3.15": "skipped: no such interpreter on this machine"})
    assert list(lines) == [*(f"Python {version}" for version in dev.VERSIONS), f"tests/heavy, on {dev.OWN}"]
    assert lines["Python 3.15"] == "skipped: no such interpreter on this machine"
