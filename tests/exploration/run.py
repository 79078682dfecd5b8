"""Run the suites of other projects with every function armed, and compare the outcomes with those of a plain run, test by test.

    python3 dev.py explore              all suites
    python3 dev.py explore --small      those that every change is tried on
    python3 dev.py explore attrs click  these
    python3 dev.py explore --standard [test_json ...]   CPython's own tests, with the standard library armed, on each Python found
    python3 dev.py explore --standard --on 3.12   on this one
    python3 dev.py explore --trampoline glom   without hooks inside of functions
    python3 dev.py explore --own glom          each function under one name alone
    python3 dev.py explore --lines [--small, --standard, NAMES]   with a probe on every line

Prints a table, and each difference; exits with 1 if there is one that shows again when the files of those tests are run once more, plainly
and armed. Each project is unpacked and installed under `.venv/explore`; what a run printed is there too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

from tests.exploration.suites import STANDARD, STANDARD_LIMITS, SUITES, differences
from tests.pythons import FROM_DEBIAN, CannotBeHad, add_tests, interpreters

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PLACE = ROOT / ".venv" / "explore"
PYTHONS = ROOT / ".venv" / "pythons"
OWN = "{}.{}".format(*sys.version_info)
# "both" takes half the time, and all the hooks of a function go one way: what differs in either of the others differs in it.
MODES = ("around", "observe")
AT_ONCE = ("both",)
CALLED = {"around": "`around`", "observe": "`before` and `after`", "both": "all three", "lines": "every line"}
# Seconds for one run of one suite; the longest takes two minutes here.
PATIENCE = 1200

Report = Dict[str, Any]
# Plays a suite in a mode, or those files of it that hold some tests.
Play = Callable[[str, Sequence[str]], Report]


class CannotRunError(Exception):
    """A suite cannot be run at all; the message says why."""


def source_of(name: str) -> Path:
    """The folder of the unpacked project."""
    suite = SUITES[name]
    folder = PLACE / f"{name}-{suite.version}"
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _must([*_pip(sys.executable), "download", "--no-binary", name, "--no-deps", "--dest", str(folder), f"{name}=={suite.version}"])
        with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
            if hasattr(tarfile, "data_filter"):
                archive.extractall(folder / "source", filter="data")
            else:
                archive.extractall(folder / "source")
        (folder / "done").touch()
    return next(path for path in (folder / "source").iterdir() if path.is_dir())


def python_for(name: str) -> Path:
    """The interpreter of an environment with all that the suite needs. The small suites share one, since making it takes as long as they do."""
    small = [one for one, suite in SUITES.items() if suite.small]
    names = small if name in small else [name]
    folder = PLACE / f"{'small' if name in small else name}-env-{OWN}"
    python, done = folder / "bin/python", folder / "done"
    wanted = repr([(one, SUITES[one]) for one in names])
    if done.exists() and done.read_text() == wanted:
        return python
    # The small ones as wheels, which hold the same and need not be built.
    projects = [f"{one}=={SUITES[one].version}" if name in small else str(source_of(one)) for one in names]
    needs = [need for one in names for need in SUITES[one].needs]
    _must([sys.executable, "-m", "venv", "--clear", str(folder)])
    _must([*_pip(python), "install", "--no-compile", "-e", str(ROOT), "pytest>=7.4", *projects, *needs])
    done.write_text(wanted)
    return python


def _pip(python: object) -> List[str]:
    return [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet"]


def _must(command: List[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise CannotRunError(f"{' '.join(command)} failed:\n{done.stdout}")


# Some come without, and no version has all of them.
_HAVE = "import sys, importlib.util as u; print(*(one for one in sys.argv[1:] if u.find_spec('test') and u.find_spec('test.' + one)))"


def _output(command: List[str]) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def _played(command: Sequence[str], folder: Path, name: str, mode: str, packages: Sequence[str], cwd: Optional[Path] = None) -> Report:
    """Run a command with the plugin; what that reports."""
    report = folder / f"{name}.json"
    report.unlink(missing_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(HERE),
        "XPC_EXPLORE_PACKAGES": " ".join(packages),
        "XPC_EXPLORE_MODE": mode,
        "XPC_EXPLORE_REPORT": str(report),
    }
    with open(folder / f"{name}.txt", "w", encoding="utf-8") as output:
        try:
            subprocess.run(
                command,
                cwd=cwd,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=PATIENCE,
                check=False,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            raise CannotRunError(f"it did not end within {PATIENCE} s; see {output.name}") from None
    if not report.exists():
        raise CannotRunError(f"there is no report of it; see {output.name}")
    found: Report = json.loads(report.read_text())
    return found


def explore(name: str, modes: Sequence[str]) -> bool:
    """Run one suite and print its row; whether nothing differs that is not explained."""
    suite = SUITES[name]

    def play(mode: str, tests: Sequence[str]) -> Report:
        source = source_of(name)
        # A suite without settings would find those of this project, which make errors of warnings.
        (PLACE / "pytest.ini").write_text("[pytest]\n")
        command = [str(python_for(name)), "-m", "pytest", "-q", "-p", "forwarding", "-p", "no:cacheprovider", "--rootdir", str(source)]
        # Their whole files: what a test comes to may depend on those before it.
        files = sorted({test.partition("::")[0] for test in tests})
        if files and all((source / file).is_file() for file in files):
            command += [*files, *(argument for argument in suite.arguments if argument.startswith("-"))]
        else:
            command += suite.arguments
        return _played(command, source.parents[1], f"{mode}-again" if tests else mode, mode, suite.packages, source)

    return compare(f"{name} {suite.version}", play, modes, suite.limits)


def explore_standard(version: str, python: str, names: Sequence[str], modes: Sequence[str]) -> bool:
    """Run modules of CPython's own tests on one interpreter, and print a row for each; whether nothing differs that is not explained."""
    folder = PLACE / f"standard-{version}"
    own = str(folder / "env/bin/python")
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        _must([python, "-m", "venv", str(folder / "env")])
        _must([*_pip(own), "install", "-e", str(ROOT), "pytest>=7.4"])
        (folder / "done").touch()
    problem = "it has no tests of its own"
    if version in FROM_DEBIAN and python.startswith(str(PYTHONS)):
        try:
            add_tests(PYTHONS, version)
        except CannotBeHad as error:
            problem = str(error)
    have = _output([own, "-c", _HAVE, *names]).split()
    if not have:
        print(f"| {version} | skipped: {problem} |", flush=True)
    good = True
    for name in have:

        def play(mode: str, tests: Sequence[str], name: str = name) -> Report:
            return _played([own, str(HERE / "standard.py"), name], folder, f"{name}.{mode}{'-again' if tests else ''}", mode, ())

        good = compare(f"{version} {name}", play, modes, STANDARD_LIMITS) and good
    return good


def compare(title: str, play: Play, modes: Sequence[str], limits: Dict[str, str]) -> bool:
    """Print the row of one suite, and under it what differs; whether nothing does that is not explained.

    A test that differs counts if it does so again, plainly and armed: on a machine that is busy any test with a deadline may fail once.
    """
    found: List[str] = []
    cells: List[str] = []
    try:
        plain = play("plain", ())
        runs = {mode: play(mode, ()) for mode in modes}
        for mode, run in runs.items():
            different, explained = differences(plain["outcomes"], run["outcomes"], limits)
            if different:
                tests = list(different)
                again, _ = differences(play("plain", tests)["outcomes"], play(mode, tests)["outcomes"], limits)
                found += [f"{mode}: {line}; but not again" for test, line in different.items() if test not in again]
                different = {test: line for test, line in different.items() if test in again}
            found += [f"{mode}: {line}" for line in different.values()]
            cells += [f"{run['calls']:,}", f"{len(different)}", f"{len(explained)}"]
    except CannotRunError as error:
        print(f"| {title} | FAILED: {error} |", flush=True)
        return False
    passed = sum(outcome == "passed" for outcome in plain["outcomes"].values())
    armed = runs[modes[0]]
    row = [title, f"{len(plain['outcomes']):,}", f"{passed:,}", f"{armed['armed']:,}", f"{armed['inside']:,}", *cells]
    print(f"| {' | '.join(row)} |", flush=True)
    for line in found:
        print(f"    {line}", flush=True)
    # Hooks that nobody calls are not noticed either.
    return cells[1::3] == ["0"] * len(modes) and passed > 0 and all(run["calls"] > 0 for run in runs.values())


def print_heads(modes: Sequence[str]) -> None:
    """The first two lines of the table."""
    cells = ["project", "tests", "passed plainly", "functions armed", "inside"]
    for mode in modes:
        cells += [f"calls of {CALLED[mode]}", "different", "explained"]
    print(f"| {' | '.join(cells)} |\n|{'---|' * len(cells)}", flush=True)


def main() -> int:
    """Run what the arguments say."""
    parser = argparse.ArgumentParser(prog="dev.py explore", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", metavar="NAME", nargs="*", help=f"one of {', '.join(SUITES)}")
    parser.add_argument("--small", action="store_true", help="the suites that every change is tried on")
    parser.add_argument("--standard", action="store_true", help="CPython's own tests, on each Python; NAME is a module of `test` then")
    parser.add_argument("--on", metavar="VERSION", action="append", help="with --standard: on this Python alone; may be repeated")
    parser.add_argument("--trampoline", action="store_true", help="no hooks inside the code of functions")
    parser.add_argument("--own", action="store_true", help="no function under a second name")
    parser.add_argument("--lines", action="store_true", help="a probe on every line, and no hooks")
    options = parser.parse_args()
    if options.trampoline:
        os.environ["XPC_EXPLORE_PATCHER"] = "code"
    if options.own:
        os.environ["XPC_EXPLORE_NAMES"] = "own"
    modes = ("lines",) if options.lines else AT_ONCE if options.small or options.standard else MODES
    if options.standard:
        print_heads(modes)
        found, _ = interpreters(PYTHONS)
        chosen = options.on or list(found)
        missing = sorted(set(chosen) - set(found))
        if missing:
            parser.error(f"there is no Python {missing[0]} here; there are {', '.join(found)}")
        done = [explore_standard(version, found[version], options.names or STANDARD, modes) for version in chosen]
        return 0 if done and all(done) else 1
    unknown = sorted(set(options.names) - set(SUITES))
    if unknown:
        parser.error(f"there is no suite {unknown[0]!r}; there are {', '.join(SUITES)}")
    if options.small:
        # The suites are Hypothesis's, what is looked for is ours: a function that behaves in another way does so in the first examples.
        os.environ["XPC_EXPLORE_EXAMPLES"] = "10"
    names = options.names or [name for name, suite in SUITES.items() if suite.small or not options.small]
    print_heads(modes)
    # Each is run, whatever came of those before.
    failed = [name for name in names if not explore(name, modes)]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
