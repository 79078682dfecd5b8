"""The project's own commands, with Python and nothing else.

    python3 dev.py demo               play the demonstration
    python3 dev.py test [ARGS]        run the tests; ARGS go to pytest, such as: tests/unit -k codec
    python3 dev.py lint               ruff: rules and format
    python3 dev.py types              mypy, strict
    python3 dev.py bench [ARGS]       measure what it costs; ARGS such as: --fast --only roundtrip
    python3 dev.py docs               the pages of the API, from the docstrings, into .venv/docs/html; a warning is an error
    python3 dev.py fuzz [ARGS]        look for bytes that the channel must not take; ARGS such as: --minutes 10, handshake
    python3 dev.py matrix [ARGS]      run the tests on every CPython 3.9 to 3.15 here, those marked long on the oldest and newest
    python3 dev.py pyodide [ARGS]     run the tests marked no_process on Pyodide (CPython 3.14 and 3.15) under node
    python3 dev.py soak [ARGS]        all faults at random for minutes; ARGS such as: --minutes 5 --seed 1
    python3 dev.py explore [NAMES]    run the suites of other projects with every function armed; --small: those that `all` runs
    python3 dev.py all                all but the demonstration, the benchmarks, the soak and the fuzzing; tests that fail get another go

Each makes what it needs under `.venv`, once for each state of pyproject.toml. Delete that folder to start afresh.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"

VERSIONS = ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14", "3.15")
OLDEST = (3, 9)

# How many versions run at a time: tests wait for processes about as long as they compute, and those with deadlines need room.
AT_A_TIME = max(2, os.cpu_count() or 1)

# The tests of a version run in so many parts, each as soon as there is room: no processor is left with a whole version at the end.
PARTS = 2

# What `all` does beside the tests, one after the other and with a low priority: this computes, and they must not be late for it.
BESIDE = {"lint": ["lint"], "types": ["types"], "docs": ["docs"], "explore": ["explore", "--small"], "pyodide": ["pyodide"]}

# So many runs of tests may fail once in `all` and pass when run again with nothing beside them; CONTRIBUTING.md says why.
MOST_UNSTABLE = 6

# Releases of Pyodide are numbered after the Python that they contain; the newest of each, alphas included.
PYODIDES = {"3.14": "pyodide@>=314.0.0-alpha.1 <315.0.0-0", "3.15": "pyodide@>=315.0.0-alpha.1 <316.0.0-0"}

# What the tests need on Pyodide, as wheels without compiled code.
PURE_WHEELS = ("wrapt", "cloudpickle", "pytest", "pytest-timeout", "hypothesis")

# Between the oldest and the newest version the matrix leaves these out; arguments of the user's own come later and win.
NOT_LONG = ("-m", "not long")

PASSED = "passed"

# pytest's own exit status for a run without a test.
NO_TESTS = 5

# The parts of a version share its environment: whoever comes first makes it.
_making = {version: threading.Lock() for version in VERSIONS}


# environments ------------------------------------------------------------------------------------------------------------


def environment(folder: Path, interpreter: str, extras: str) -> Path:
    """A virtual environment with the project in it, editable; made anew when pyproject.toml changes. Returns its interpreter."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if python.exists() and _is_fresh(folder, extras):
        return python
    print(f"dev.py: setting up {folder.relative_to(ROOT)} with {interpreter}", flush=True)
    if subprocess.run([interpreter, "-m", "venv", "--clear", str(folder)], check=False).returncode:
        version = (version_of(interpreter) or ("3", ""))[0]
        sys.exit(f"dev.py: {interpreter} cannot make a virtual environment; on Debian: apt-get install python{version}-venv")
    # An older release as a wheel rather than a newer one to compile, which for gevent on the oldest Python takes minutes.
    if subprocess.run([*_pip(python), "install", "--quiet", "--prefer-binary", "-e", f"{ROOT}[{extras}]"], check=False).returncode:
        sys.exit(f"dev.py: installing the project with its extra {extras!r} into {folder} failed; what pip says is above")
    _stamp(folder, extras)
    return python


def own_environment() -> Path:
    """The environment for everything but the demonstration and the matrix."""
    return environment(VENV / "dev", sys.executable, "dev")


def _pip(python: Path) -> List[str]:
    return [str(python), "-m", "pip", "--disable-pip-version-check"]


def _state(*words: str) -> str:
    return hashlib.sha256(b"\0".join([(ROOT / "pyproject.toml").read_bytes(), *(word.encode() for word in words)])).hexdigest()


def _is_fresh(folder: Path, *words: str) -> bool:
    stamp = folder / "stamp"
    return stamp.exists() and stamp.read_text() == _state(*words)


def _stamp(folder: Path, *words: str) -> None:
    (folder / "stamp").write_text(_state(*words))


def run(*words: object) -> int:
    """Run a command in the root of the project; returns its exit status."""
    return subprocess.run([str(word) for word in words], cwd=ROOT, check=False).returncode


# commands ----------------------------------------------------------------------------------------------------------------


def demo(arguments: Sequence[str]) -> int:
    """Play the demonstration."""
    return run(environment(VENV / "demo", sys.executable, "cli"), ROOT / "examples" / "http_server" / "demo.py", *arguments)


def test(arguments: Sequence[str]) -> int:
    """Run the tests on this interpreter."""
    return run(own_environment(), "-m", "pytest", *arguments)


def lint(arguments: Sequence[str]) -> int:
    """Run ruff, for its rules and for its format."""
    python = own_environment()
    rules = run(python, "-m", "ruff", "check", ".", *arguments)
    layout = run(python, "-m", "ruff", "format", "--check", ".")
    return rules or layout


def types(arguments: Sequence[str]) -> int:
    """Run mypy."""
    return run(own_environment(), "-m", "mypy", *arguments)


def bench(arguments: Sequence[str]) -> int:
    """Run the benchmarks."""
    return run(environment(VENV / "bench", sys.executable, "benchmarks"), "-m", "benchmarks", *arguments)


def docs(arguments: Sequence[str]) -> int:
    """Make the pages of the API out of the docstrings; a warning is an error."""
    python = environment(VENV / "docs", sys.executable, "docs")
    # Anew, or what is unchanged would not warn again.
    status = run(python, "-m", "sphinx", "-q", "-E", "-W", "--keep-going", *arguments, ROOT / "docs/api", VENV / "docs/html")
    print(f"dev.py: {VENV / 'docs/html/index.html'}" if status == 0 else "dev.py: the pages of the API are wrong; see above", flush=True)
    return status


def fuzz(arguments: Sequence[str]) -> int:
    """Fuzz the channel, by coverage where atheris can be had."""
    python = own_environment()
    if subprocess.run([str(python), "-c", "import atheris"], stderr=subprocess.DEVNULL, check=False).returncode:
        # Only as a wheel: building it needs a compiler of its own.
        subprocess.run([*_pip(python), "install", "--quiet", "--only-binary=:all:", "atheris"], check=False)
    return run(python, "-m", "tests.fuzz", *arguments)


def matrix(arguments: Sequence[str]) -> int:
    """Run the tests on every supported CPython of this machine."""
    runs, skipped, left_out = _run_versions(arguments)
    status = _summary("the matrix", _of_versions({version: outcome(ran) for version, ran in runs.items()}, skipped))
    print(*left_out, sep="", end="", flush=True)
    return status


class Ran(NamedTuple):
    """What came of running the tests on one version: pytest's exit status, what it printed, and the ids of the tests that failed."""

    status: int
    text: str
    failed: Tuple[str, ...] = ()

    @property
    def last(self) -> str:
        """The line that says how many passed."""
        return (self.text.strip().splitlines() or ["it printed nothing"])[-1]


def outcome(ran: Ran) -> str:
    """The words for the summary."""
    return f"FAILED (exit status {ran.status}): {ran.last}" if ran.status else f"{PASSED}: {ran.last}"


def settle(runs: Dict[str, Ran], alone: Callable[[str, str], Ran]) -> Tuple[Dict[str, str], List[str]]:
    """The outcome of each version, and a line for each test that failed once and passes alone, which fails no version if they are few.

    `alone` runs one test on one version. If too many failed then none is run again: `all` fails whatever came of that.
    """
    number = sum(len(ran.failed) for ran in runs.values())
    if number > MOST_UNSTABLE:
        told = f"{number} runs of tests failed; none was run again alone, since more than {MOST_UNSTABLE} are no accident"
        return {version: outcome(ran) for version, ran in runs.items()}, [told]
    results, told_of = {}, []
    for version, ran in runs.items():
        good = [test for test in ran.failed if _is_passed(alone(version, test))]
        told_of += [f"failed once, passed alone: {test} (Python {version}); what it said is above" for test in good]
        # Another status than 1 says that there is more to it than tests that failed.
        settled = ran.status == 1 and len(good) == len(ran.failed) > 0
        results[version] = f"{PASSED}, {len(good)} of them alone: {ran.last}" if settled else outcome(ran)
    return results, told_of


def _is_passed(ran: Ran) -> bool:
    """Whether it really ran: a test may skip itself on a machine that is too busy for it."""
    return ran.status == 0 and PASSED in ran.last and "skipped" not in ran.last


def _run_versions(arguments: Sequence[str]) -> Tuple[Dict[str, Ran], Dict[str, str], List[str]]:
    """(what came of each version, why others were skipped, a line on what was left out where)."""
    found, unusable = interpreters()
    ordered = [version for version in VERSIONS if version in found]
    whole = set(ordered[:1] + ordered[-1:])
    # The longest first, so that no processor is left with one of them at the end.
    ordered.sort(key=lambda version: version not in whole)
    (VENV / "matrix").mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        running = {
            version: [
                pool.submit(_run_part, version, found[version], name, [*(() if version in whole else NOT_LONG), *arguments, *files])
                for name, files in parts(arguments).items()
            ]
            for version in ordered
        }
        runs = {version: joined([part.result() for part in running[version]]) for version in VERSIONS if version in running}
    skipped = {
        version: f"skipped: {unusable.get(version, 'no such interpreter on this machine')}" for version in VERSIONS if version not in runs
    }
    short = [version for version in runs if version not in whole]
    names = ", ".join(short), " and ".join(version for version in VERSIONS if version in whole)
    return runs, skipped, ["  left out on {}, and run on {}: the tests marked long\n".format(*names)] if short else []


def _of_versions(results: Dict[str, str], skipped: Dict[str, str]) -> Dict[str, str]:
    return {f"Python {version}": {**results, **skipped}[version] for version in VERSIONS}


def parts(arguments: Sequence[str]) -> Dict[str, List[str]]:
    """The files of tests that each part runs, by its name; one part with none, that is all, if the arguments name some themselves."""
    if any((ROOT / argument.partition("::")[0]).exists() for argument in arguments if argument):
        return {"all": []}
    files = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py"))
    # Every other one: files of one kind, which take about as long, are neighbours.
    return {f"part {k + 1} of {PARTS}": files[k::PARTS] for k in range(PARTS)}


def joined(rans: Sequence[Ran]) -> Ran:
    """What came of a version, of what came of its parts: the worst status, all that was printed and all that failed."""
    # Options such as -k may leave a part without a test.
    told = [ran for ran in rans if ran.status != NO_TESTS] or rans[:1]
    # A failed test is status 1: anything else is worse, and is not to be taken for that.
    status = max((ran.status for ran in told), key=lambda status: (status not in (0, 1), status))
    text = "\n".join([*(ran.text.strip() for ran in told), "; ".join(ran.last for ran in told)])
    return Ran(status, text, tuple(test for ran in told for test in ran.failed))


def _run_part(version: str, interpreter: str, name: str, arguments: Sequence[str]) -> Ran:
    try:
        with _making[version]:
            python = _python_for(version, interpreter)
    except SystemExit as error:
        return Ran(1, str(error))
    ran = _pytest(python, VENV / "results" / version / name, arguments)
    # In one piece, since another version prints meanwhile.
    print(f"\ndev.py: Python {version}, {name}\n{ran.text.strip() if ran.status else ran.last}", flush=True)
    return ran


def _python_for(version: str, interpreter: str) -> Path:
    """This version's interpreter has what the tests need already."""
    own = "{}.{}".format(*sys.version_info)
    return own_environment() if version == own else environment(VENV / "matrix" / version, interpreter, "test")


def _pytest(python: Path, folder: Path, arguments: Sequence[str]) -> Ran:
    """Run tests; pytest notes in `folder` which ones failed."""
    shutil.rmtree(folder, ignore_errors=True)
    # Whatever the user has set: pytest is to keep the tests and plugins that it has rewritten, for the other parts and the next run.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    status, text = _captured(python, "-m", "pytest", "-q", "-o", f"cache_dir={folder}", *arguments, env=environment)
    noted = folder / "v/cache/lastfailed"
    return Ran(status, text, tuple(json.loads(noted.read_text())) if status and noted.exists() else ())


def _run_alone(version: str, test: str) -> Ran:
    """Run one test again, on a version whose environment is there."""
    ran = _pytest(_python_for(version, sys.executable), VENV / "results" / f"{version}-alone", [test])
    print(f"\ndev.py: {test} again, alone, with Python {version}\n{ran.text.strip() if ran.status else ran.last}", flush=True)
    return ran


def _captured(*words: object, env: Optional[Dict[str, str]] = None) -> Tuple[int, str]:
    """Run a command in the root of the project: its exit status and all that it printed."""
    command = [str(word) for word in words]
    done = subprocess.run(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False
    )
    return done.returncode, done.stdout


def pyodide(arguments: Sequence[str]) -> int:
    """Run the tests that need no process on Pyodide: the Pythons that few machines have yet."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        reason = f"skipped: no {'node' if node is None else 'npm'} on this machine"
        return _summary("Pyodide", {f"Python {version}": reason for version in PYODIDES})
    results = {}
    for version, specification in PYODIDES.items():
        folder = VENV / "pyodide" / version
        if not _is_fresh(folder, specification, *PURE_WHEELS):
            problem = _install_pyodide(folder, version, npm, specification)
            if problem:
                results[version] = f"FAILED: {problem}"
                continue
            _stamp(folder, specification, *PURE_WHEELS)
        print(f"\ndev.py: Pyodide with Python {version}", flush=True)
        status = run(node, ROOT / "tests/pyodide/run.mjs", folder / "node_modules/pyodide", folder / "site", ROOT, "-q", *arguments)
        results[version] = PASSED if status == 0 else f"FAILED (exit status {status})"
    return _summary("Pyodide", {f"Python {version}": result for version, result in results.items()})


def _install_pyodide(folder: Path, version: str, npm: str, specification: str) -> str:
    """Put Pyodide into `folder/node_modules` and the wheels, unpacked, into `folder/site`; returns what went wrong, if anything."""
    print(f"dev.py: setting up {folder.relative_to(ROOT)}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    quiet = ["--no-package-lock", "--no-save", "--no-audit", "--no-fund", "--loglevel=error"]
    if run(npm, "install", "--prefix", folder, *quiet, specification):
        return f"npm could not install {specification}; what it says is above"
    pure = ["--only-binary=:all:", "--implementation", "py", "--abi", "none", "--platform", "any", "--python-version", version]
    if run(*_pip(own_environment()), "install", "--quiet", "--no-compile", "--target", folder / "site", *pure, *PURE_WHEELS):
        return f"pip found no pure wheels of {', '.join(PURE_WHEELS)}; what it says is above"
    return ""


def explore(arguments: Sequence[str]) -> int:
    """Run the suites of other projects with every function armed, and compare."""
    return run(own_environment(), "-m", "tests.exploration.run", *arguments)


def soak(arguments: Sequence[str]) -> int:
    """Kill, stop, fork and starve applications and scripts at random, for minutes, and check what every call gets."""
    return run(own_environment(), "-m", "tests.soak", *arguments)


def all_of_it(arguments: Sequence[str]) -> int:
    """Everything that must hold before a change lands; goes on after a failure, to show all there are."""
    # Made before those that share it begin.
    own_environment()
    with ThreadPoolExecutor(1) as pool:
        beside = {name: pool.submit(_run_beside, words) for name, words in BESIDE.items()}
        runs, skipped, left_out = _run_versions(arguments)
        others = {name: future.result() for name, future in beside.items()}
    # Nothing else runs any more.
    results, unstable = settle(runs, _run_alone)
    status = _summary("all of it", {**_of_versions(results, skipped), **others})
    print(*left_out, *(f"  {line}\n" for line in unstable), sep="", end="", flush=True)
    return status


def _run_beside(words: Sequence[str]) -> str:
    """Run one of the project's own commands with a low priority, and print what it says in one piece."""
    low = ["nice", "-n", "19"] if shutil.which("nice") else []
    status, text = _captured(*low, sys.executable, ROOT / "dev.py", *words)
    print(f"\ndev.py: {' '.join(words)}\n{text.strip()}", flush=True)
    return f"FAILED (exit status {status})" if status else PASSED


def _summary(title: str, results: Dict[str, str]) -> int:
    """Print what came of each part; returns 1 if one failed."""
    print(f"\ndev.py: {title}")
    for name, result in results.items():
        print(f"  {name}: {result}")
    sys.stdout.flush()
    return int(any(result.startswith("FAILED") for result in results.values()))


# interpreters ------------------------------------------------------------------------------------------------------------


def interpreters() -> Tuple[Dict[str, str], Dict[str, str]]:
    """The newest usable interpreter of each version, and why others are of no use: on PATH, in /usr/bin, of pyenv and of uv."""
    home = Path.home()
    data = Path(os.environ.get("XDG_DATA_HOME", home / ".local/share"))
    candidates = [Path("/usr/bin", f"python{version}") for version in VERSIONS]
    candidates += [Path(found) for version in VERSIONS for found in [shutil.which(f"python{version}")] if found]
    for folder in (
        Path(os.environ.get("UV_PYTHON_INSTALL_DIR", data / "uv/python")),
        Path(os.environ.get("PYENV_ROOT", home / ".pyenv"), "versions"),
    ):
        candidates += sorted(folder.glob("*/bin/python3"), key=lambda path: [int(n) for n in re.findall(r"\d+", path.parts[-3])])
    usable: Dict[str, str] = {}
    unusable: Dict[str, str] = {}
    for candidate in [*candidates, Path(sys.executable)]:
        version, problem = version_of(str(candidate)) or ("", "")
        if version in VERSIONS:
            (unusable if problem else usable)[version] = problem or str(candidate)
    return usable, unusable


def version_of(interpreter: str) -> Optional[Tuple[str, str]]:
    """The version of a CPython, such as "3.11", and what it lacks, if anything; None for what does not run or is no CPython."""
    code = (
        "import sys, importlib.util as u\n"
        "print(sys.implementation.name, '%d.%d' % sys.version_info[:2], all(u.find_spec(name) for name in ('venv', 'ensurepip')))"
    )
    try:
        done = subprocess.run([interpreter, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    words = done.stdout.split()
    if done.returncode or len(words) != 3 or words[0] != "cpython":
        return None
    lack = f"{interpreter} has no venv or no ensurepip; on Debian: apt-get install python{words[1]}-venv"
    return words[1], "" if words[2] == "True" else lack


COMMANDS = {
    "demo": demo,
    "test": test,
    "lint": lint,
    "types": types,
    "bench": bench,
    "docs": docs,
    "fuzz": fuzz,
    "matrix": matrix,
    "pyodide": pyodide,
    "explore": explore,
    "soak": soak,
    "all": all_of_it,
}


def main(arguments: Sequence[str]) -> int:
    """Run one command."""
    if sys.version_info < OLDEST:
        print("dev.py: this is Python {}.{}; expected 3.9 or newer".format(*sys.version_info), file=sys.stderr)
        return 2
    if not arguments or arguments[0] not in COMMANDS:
        print(__doc__, file=sys.stderr)
        return 2
    return COMMANDS[arguments[0]](arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
