"""Run the suites of other projects with every function armed, and compare the outcomes with those of a plain run, test by test.

    python3 dev.py explore              all suites
    python3 dev.py explore --small      those that every change is tried on
    python3 dev.py explore attrs click  these
    python3 dev.py explore --standard [test_json ...]   CPython's own tests, with the standard library armed, on each Python found
    python3 dev.py explore --trampoline glom   without hooks inside of functions

Prints a table, and each difference; exits with 1 if there is one. Each project is unpacked and installed, in an environment of its own,
under `.venv/explore`; what a run printed is there too.
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
from typing import Any, Dict, List, Sequence

from tests.exploration.suites import STANDARD, STANDARD_LIMITS, SUITES, Suite, differences
from tests.pythons import interpreters

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PLACE = ROOT / ".venv" / "explore"
MODES = ("plain", "around", "observe")
# Seconds for one run of one suite; the longest takes two minutes here.
PATIENCE = 1200


class SetupError(Exception):
    """A suite cannot be run at all; the message says why."""


def prepare(name: str, suite: Suite) -> Path:
    """The folder of the unpacked project, beside an environment with all that it needs."""
    folder = PLACE / f"{name}-{suite.version}-{sys.version_info[0]}.{sys.version_info[1]}"
    done = folder / "done"
    if done.exists() and done.read_text() == repr(suite):
        return next(path for path in (folder / "source").iterdir() if path.is_dir())
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _must([sys.executable, "-m", "venv", str(folder / "env")])
    pip = [str(folder / "env/bin/python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    _must([*pip, "download", "--no-binary", name, "--no-deps", "--dest", str(folder), f"{name}=={suite.version}"])
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        if hasattr(tarfile, "data_filter"):
            archive.extractall(folder / "source", filter="data")
        else:
            archive.extractall(folder / "source")
    source = next(path for path in (folder / "source").iterdir() if path.is_dir())
    _must([*pip, "install", "-e", str(ROOT), "pytest>=7.4", str(source), *suite.needs])
    done.write_text(repr(suite))
    return source


def _must(command: List[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise SetupError(f"{' '.join(command)} failed:\n{done.stdout}")


def play(source: Path, suite: Suite, mode: str) -> Dict[str, Any]:
    """One run of a suite: what the plugin reports, and the seconds that it took as "duration"."""
    folder = source.parents[1]
    report = folder / f"{mode}.json"
    report.unlink(missing_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(HERE),
        "XPC_EXPLORE_PACKAGES": " ".join(suite.packages),
        "XPC_EXPLORE_MODE": mode,
        "XPC_EXPLORE_REPORT": str(report),
    }
    command = [str(folder / "env/bin/python"), "-m", "pytest", "-q", "-p", "forwarding", "-p", "no:cacheprovider", *suite.arguments]
    with open(folder / f"{mode}.txt", "w", encoding="utf-8") as output:
        try:
            subprocess.run(command, cwd=source, env=environment, stdout=output, stderr=subprocess.STDOUT, timeout=PATIENCE, check=False)
        except subprocess.TimeoutExpired:
            raise SetupError(f"it did not end within {PATIENCE} s; see {output.name}") from None
    if not report.exists():
        raise SetupError(f"pytest made no report; see {output.name}")
    found: Dict[str, Any] = json.loads(report.read_text())
    return found


def explore(name: str) -> bool:
    """Run one suite in all modes and print its row; whether nothing differs that is not explained."""
    suite = SUITES[name]
    try:
        source = prepare(name, suite)
        runs = {mode: play(source, suite, mode) for mode in MODES}
    except SetupError as error:
        print(f"| {name} {suite.version} | FAILED: {error} |", flush=True)
        return False
    plain = runs["plain"]["outcomes"]
    found: List[str] = []
    cells = []
    for mode in MODES[1:]:
        different, explained = differences(plain, runs[mode]["outcomes"], suite.limits)
        found += [f"{mode}: {line}" for line in different]
        cells += [f"{runs[mode]['calls']:,}", f"{len(different)}", f"{len(explained)}"]
    passed = sum(outcome == "passed" for outcome in plain.values())
    row = [
        f"{name} {suite.version}",
        f"{len(plain):,}",
        f"{passed:,}",
        f"{runs['around']['armed']:,}",
        f"{runs['around']['inside']:,}",
        *cells,
    ]
    print(f"| {' | '.join(row)} |", flush=True)
    for line in found:
        print(f"    {line}", flush=True)
    # Hooks that nobody calls are not noticed either.
    return not found and passed > 0 and all(runs[mode]["calls"] > 0 for mode in MODES[1:])


def explore_standard(version: str, python: str, names: Sequence[str]) -> bool:
    """Run modules of CPython's own tests on one interpreter in all modes, and print a row for each; whether nothing differs."""
    folder = PLACE / f"standard-{version}"
    own = str(folder / "env/bin/python")
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        _must([python, "-m", "venv", str(folder / "env")])
        _must([own, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "-e", str(ROOT), "pytest>=7.4"])
        (folder / "done").touch()
    good = True
    for name in names:
        runs: Dict[str, Dict[str, Any]] = {}
        for mode in MODES:
            report = folder / f"{name}.{mode}.json"
            report.unlink(missing_ok=True)
            environment = {
                **os.environ,
                "PYTHONPATH": str(HERE),
                "XPC_EXPLORE_PACKAGES": "",
                "XPC_EXPLORE_MODE": mode,
                "XPC_EXPLORE_REPORT": str(report),
            }
            with open(folder / f"{name}.{mode}.txt", "w", encoding="utf-8") as output:
                try:
                    command = [own, str(HERE / "standard.py"), name]
                    subprocess.run(command, env=environment, stdout=output, stderr=subprocess.STDOUT, timeout=PATIENCE, check=False)
                except subprocess.TimeoutExpired:
                    print(f"| {version} {name} | FAILED: no end of `{mode}` within {PATIENCE} s; see {output.name} |", flush=True)
            runs[mode] = json.loads(report.read_text()) if report.exists() else {"outcomes": {}, "calls": 0, "armed": 0, "inside": 0}
        plain = runs["plain"]["outcomes"]
        cells, found = [], []
        for mode in MODES[1:]:
            different, explained = differences(plain, runs[mode]["outcomes"], STANDARD_LIMITS)
            found += [f"{mode}: {line}" for line in different]
            cells += [f"{runs[mode]['calls']:,}", f"{len(different)}", f"{len(explained)}"]
            good = good and not different and runs[mode]["calls"] > 0
        passed = sum(outcome == "passed" for outcome in plain.values())
        row = [
            f"{version} {name}",
            f"{len(plain):,}",
            f"{passed:,}",
            f"{runs['around']['armed']:,}",
            f"{runs['around']['inside']:,}",
            *cells,
        ]
        print(f"| {' | '.join(row)} |", flush=True)
        for line in found:
            print(f"    {line}", flush=True)
        good = good and passed > 0
    return good


def print_heads() -> None:
    """The first two lines of the table."""
    print("| project | tests | passed plainly | functions armed | inside | calls of `around` | different | explained |", end="")
    print(" calls of `before` and `after` | different | explained |")
    print("|---|---|---|---|---|---|---|---|---|---|---|", flush=True)


def main() -> int:
    """Run what the arguments say."""
    parser = argparse.ArgumentParser(prog="dev.py explore", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", metavar="NAME", nargs="*", help=f"one of {', '.join(SUITES)}")
    parser.add_argument("--small", action="store_true", help="the suites that every change is tried on")
    parser.add_argument("--standard", action="store_true", help="CPython's own tests, on each Python; NAME is a module of `test` then")
    parser.add_argument("--trampoline", action="store_true", help="no hooks inside the code of functions")
    options = parser.parse_args()
    if options.trampoline:
        os.environ["XPC_EXPLORE_PATCHER"] = "code"
    if options.standard:
        print_heads()
        found, _ = interpreters(ROOT / ".venv" / "pythons")
        done = [explore_standard(version, python, options.names or STANDARD) for version, python in found.items()]
        return 0 if done and all(done) else 1
    unknown = sorted(set(options.names) - set(SUITES))
    if unknown:
        parser.error(f"there is no suite {unknown[0]!r}; there are {', '.join(SUITES)}")
    if options.small:
        # The suites are Hypothesis's, what is looked for is ours: a function that behaves in another way does so in the first examples.
        os.environ["XPC_EXPLORE_EXAMPLES"] = "20"
    names = options.names or [name for name, suite in SUITES.items() if suite.small or not options.small]
    print_heads()
    # Each is run, whatever came of those before.
    failed = [name for name in names if not explore(name)]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
