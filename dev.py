"""The project's own commands, with Python and nothing else.

    python3 dev.py demo               play the demonstration
    python3 dev.py test               run all the tests on this Python, in parts beside each other; tests that fail get another go
    python3 dev.py test ARGS          run pytest with these arguments, such as: tests/unit -k codec
    python3 dev.py lint               ruff: rules and format
    python3 dev.py types              mypy, strict
    python3 dev.py bench [ARGS]       measure what it costs; ARGS such as: --fast --only roundtrip
    python3 dev.py docs               the pages of the API, from the docstrings, into .venv/docs/html; a warning is an error
    python3 dev.py fuzz [ARGS]        look for bytes that the channel must not take; ARGS such as: --minutes 10, handshake
    python3 dev.py matrix [ARGS]      run the tests on every CPython 3.9 to 3.15: all on the oldest and the newest; on those between,
                                      unit tests that depend on it and what is marked `version`; tests/heavy once. ARGS go to
                                      pytest; where they name tests, those run on every version
    python3 dev.py soak [ARGS]        all faults at random for minutes; ARGS such as: --minutes 5 --seed 1
    python3 dev.py attach [ARGS]      attach to programs of all kinds, hundreds of times, and detach; ARGS such as: --times 20 --kills 50
    python3 dev.py explore [NAMES]    run the suites of other projects with every function armed; --small: those that `all` runs
    python3 dev.py all                all but the demonstration, the benchmarks, the soak and the fuzzing; tests that fail get another go

Each makes what it needs under `.venv`, once for each state of pyproject.toml; the matrix and `all` also Debian's 3.14 and 3.15 where the
machine has none (tests/pythons.py). Delete that folder to start afresh.
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
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from tests.pythons import VERSIONS, interpreters, unpack, version_of

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"

OLDEST = (3, 9)

# The version of this interpreter, which runs what is run once.
OWN = "{}.{}".format(*sys.version_info)

# How many runs of pytest go on at a time: tests wait for processes and deadlines for a third of their time, in which another one computes.
AT_A_TIME = max(2, (os.cpu_count() or 1) + 1)

# What `all` does beside the tests, one after the other and with a low priority: this computes, and they must not be late for it.
BESIDE = {"lint": ["lint"], "types": ["types"], "docs": ["docs"], "explore": ["explore", "--small"]}

# So many runs of tests may fail once in `all` and pass when run again with nothing beside them; CONTRIBUTING.md says why.
MOST_UNSTABLE = 6

UNIT, INTEGRATION, HEAVY = "tests/unit", "tests/integration", "tests/heavy"

# What the versions between the oldest and the newest run of `UNIT`: what reads code objects, frames, classes and pickles, and all that is
# marked `version`. By path: to collect the rest for its marks takes longer than these do.
DEPENDING = (
    "tests/unit/agent",
    "tests/unit/cli/test_stub.py",
    "tests/unit/core/node/test_threads.py",
    "tests/unit/core/values",
    "tests/unit/core/wire/test_memory.py",
    "tests/unit/script/test_exits.py",
)

# What the versions between the oldest and the newest run of `INTEGRATION`.
MARKED = ("-m", "version")

PASSED = "passed"

# pytest's own exit status for a run without a test.
NO_TESTS = 5

# Ours for one that says 1 and names no test, so that those that failed elsewhere and pass alone do not settle it.
UNNAMED = 101

# pytest's last line: how many of each, and in how many seconds.
COUNTS = re.compile(r"((?:\d+ [a-z]+(?:, )?)+) in ([\d.]+)s(?: \([\d:]+\))?")

# The jobs of a version share its environment: whoever comes first makes it.
_making = {of: threading.Lock() for of in (*VERSIONS, HEAVY)}


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
    """Run the tests on this interpreter: those that the arguments name, or all, as `all` runs them on the oldest and the newest."""
    python = own_environment()
    if arguments:
        return run(python, "-m", "pytest", *arguments)
    print(f"dev.py: all tests on Python {OWN}, {AT_A_TIME} parts at a time, some minutes; each says how it ended", flush=True)
    runs, _ = _run_versions(({OWN: sys.executable}, {}), ())
    results, unstable = settle(runs, _run_alone)
    return _summary("the tests", {f"Python {OWN}": results[OWN], f"{HEAVY}, on {OWN}": results[HEAVY]}, unstable)


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
    python = environment(VENV / "bench", sys.executable, "benchmarks")
    for name in ("hunter.pth", "manhole.pth"):
        # They run at each start of a Python there, and hunter's takes 30 ms of it, which would be the application's.
        for path in python.parent.parent.glob(f"lib/python*/site-packages/{name}"):
            path.unlink()
    return run(python, "-m", "benchmarks", *arguments)


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
    """Run the tests on every supported CPython that can be had."""
    runs, skipped = _run_versions(_interpreters(), arguments)
    return _summary("the matrix", _in_order({name: outcome(ran) for name, ran in runs.items()}, skipped))


class Ran(NamedTuple):
    """What came of running the tests on one version: pytest's exit status, what it printed, and the ids of the tests that failed.

    `counts` is the line that says how many passed, where what is printed has it more than once.
    """

    status: int
    text: str
    failed: Tuple[str, ...] = ()
    counts: str = ""

    @property
    def last(self) -> str:
        """The line that says how many passed; the interpreter may say something as it ends. The last one, if none does."""
        lines = self.text.strip().splitlines() or ["it printed nothing"]
        return self.counts or next((line for line in reversed(lines) if COUNTS.fullmatch(line)), lines[-1])


def outcome(ran: Ran) -> str:
    """The words for the summary."""
    status = "no test failed, but a run did, as it says above" if ran.status == UNNAMED else f"exit status {ran.status}"
    return f"FAILED ({status}): {ran.last}" if ran.status else f"{PASSED}: {ran.last}"


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
        told_of += [f"failed once, passed alone: {test} ({_on(version)}); what it said is above" for test in good]
        # Another status than 1 says that there is more to it than tests that failed.
        settled = ran.status == 1 and len(good) == len(ran.failed) > 0
        results[version] = f"{PASSED}, {len(good)} of them alone: {ran.last}" if settled else outcome(ran)
    return results, told_of


def _is_passed(ran: Ran) -> bool:
    """Whether it really ran: a test may skip itself on a machine that is too busy for it."""
    return ran.status == 0 and PASSED in ran.last and "skipped" not in ran.last


class Job(NamedTuple):
    """One run of pytest: whose result it belongs to, a version or `HEAVY`, what it is called, and its arguments."""

    of: str
    name: str
    arguments: Tuple[str, ...]


def jobs(versions: Sequence[str], arguments: Sequence[str]) -> List[Job]:
    """What is to be run on `versions`, the oldest first; the longest job first, so that no processor is left with one at the end."""
    if any((ROOT / argument.partition("::")[0]).exists() for argument in arguments if argument):
        return [Job(version, "what was named", tuple(arguments)) for version in versions]
    whole = [version for version in versions if version in (versions[0], versions[-1])]
    found = [Job(HEAVY, HEAVY, (HEAVY, *arguments))]
    found += [Job(version, part, (part, *arguments)) for part in _parts() for version in whole]
    between = [version for version in versions if version not in whole]
    found += [Job(version, f"{INTEGRATION}, marked", (INTEGRATION, *MARKED, *arguments)) for version in between]
    found += [Job(version, UNIT, (UNIT, *arguments)) for version in whole]
    return found + [Job(version, f"{UNIT}, depending", (*DEPENDING, *arguments)) for version in between]


def _parts() -> List[str]:
    """The folders of `INTEGRATION`, those with the most text first."""
    sizes: Dict[str, int] = {}
    for file in (ROOT / INTEGRATION).rglob("test_*.py"):
        name = f"{INTEGRATION}/{file.relative_to(ROOT / INTEGRATION).parts[0]}"
        sizes[name] = sizes.get(name, 0) + file.stat().st_size
    return sorted(sizes, key=lambda name: (-sizes[name], name))


def _interpreters() -> Tuple[Dict[str, str], Dict[str, str]]:
    """The interpreter of each version, and why others cannot be had. Debian's are unpacked where the machine has none."""
    found, unusable = interpreters(VENV / "pythons")
    missing = [version for version in VERSIONS if version not in found]
    problems = unpack(VENV / "pythons", missing) if missing else {}
    if missing:
        found, unusable = interpreters(VENV / "pythons")
    none = "no such interpreter on this machine"
    return found, {version: unusable.get(version) or problems.get(version, none) for version in VERSIONS if version not in found}


def _run_versions(pythons: Tuple[Dict[str, str], Dict[str, str]], arguments: Sequence[str]) -> Tuple[Dict[str, Ran], Dict[str, str]]:
    """(what came of each version and of `HEAVY`, why other versions were skipped)."""
    found, problems = pythons
    (VENV / "matrix").mkdir(parents=True, exist_ok=True)
    ordered = [version for version in VERSIONS if version in found]
    todo = jobs(ordered, arguments)
    with ThreadPoolExecutor(AT_A_TIME) as pool, ThreadPoolExecutor(1) as ahead:
        running: Dict[str, List[Future[Ran]]] = {}
        for version in dict.fromkeys(job.of for job in todo if job.of in found):
            # While others run. Where that fails, the jobs of the version say so.
            ahead.submit(_python_for, version, found[version])
        for job in todo:
            running.setdefault(job.of, []).append(pool.submit(_run_job, job, found.get(job.of, sys.executable)))
        runs = {name: joined([future.result() for future in futures]) for name, futures in running.items()}
    return runs, {version: f"skipped: {problem}" for version, problem in problems.items()}


def _in_order(results: Dict[str, str], skipped: Dict[str, str]) -> Dict[str, str]:
    """The lines of the summary: every version of the list, and what is run once."""
    told = {**results, **skipped}
    lines = {f"Python {version}": told[version] for version in VERSIONS}
    return {**lines, f"{HEAVY}, on {OWN}": told[HEAVY]} if HEAVY in told else lines


def joined(rans: Sequence[Ran]) -> Ran:
    """What came of a version, of what came of its jobs: the worst status, all that was printed and all that failed."""
    # Options such as -k may leave a job without a test.
    told = [ran for ran in rans if ran.status != NO_TESTS] or rans[:1]
    # A failed test is status 1: anything else is worse, and is not to be taken for that.
    statuses = [UNNAMED if ran.status == 1 and not ran.failed else ran.status for ran in told]
    status = max(statuses, key=lambda status: (status not in (0, 1), status != UNNAMED, status))
    text = "\n".join(ran.text.strip() for ran in told)
    return Ran(status, text, tuple(test for ran in told for test in ran.failed), _added([ran.last for ran in told]))


def _added(lines: Sequence[str]) -> str:
    """pytest's last lines as one: how many passed of all, and in how many seconds; as they are if one of them is something else."""
    counts: Dict[str, int] = {}
    seconds = 0.0
    for line in lines:
        found = COUNTS.fullmatch(line)
        if found is None:
            return "; ".join(lines)
        for number, word in re.findall(r"(\d+) ([a-z]+)", found[1]):
            counts[word] = counts.get(word, 0) + int(number)
        seconds += float(found[2])
    return f"{', '.join(f'{number} {word}' for word, number in counts.items())} in {seconds:.0f}s"


def _run_job(job: Job, interpreter: str) -> Ran:
    try:
        python = _python_for(job.of, interpreter)
    except SystemExit as error:
        return Ran(1, str(error))
    ran = _pytest(python, VENV / "results" / job.of / job.name, job.arguments)
    # In one piece, since another job prints meanwhile.
    title = job.name if job.of == HEAVY else f"Python {job.of}, {job.name}"
    print(f"\ndev.py: {title}\n{ran.text.strip() if ran.status else ran.last}", flush=True)
    return ran


def _on(of: str) -> str:
    return f"Python {OWN if of == HEAVY else of}"


def _python_for(of: str, interpreter: str) -> Path:
    """The interpreter of a version with what the tests need; what is run once runs on this one."""
    own = of in (HEAVY, OWN)
    with _making[HEAVY if own else of]:
        return own_environment() if own else environment(VENV / "matrix" / of, interpreter, "test")


def _pytest(python: Path, folder: Path, arguments: Sequence[str]) -> Ran:
    """Run tests; pytest notes in `folder` which ones failed."""
    shutil.rmtree(folder, ignore_errors=True)
    # Whatever the user has set: pytest is to keep the tests and plugins that it has rewritten, for the other parts and the next run.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    status, text = _captured(python, "-m", "pytest", "-q", "-o", f"cache_dir={folder}", *arguments, env=environment)
    noted = folder / "v/cache/lastfailed"
    return Ran(status, text, tuple(json.loads(noted.read_text())) if status and noted.exists() else ())


def _run_alone(of: str, test: str) -> Ran:
    """Run one test again, in an environment that is there."""
    ran = _pytest(_python_for(of, sys.executable), VENV / "results" / f"{of}-alone", [test])
    print(
        f"\ndev.py: {test} again, alone, with {_on(of)}\n{ran.text.strip() if ran.status else ran.last}",
        flush=True,
    )
    return ran


def _captured(*words: object, env: Optional[Dict[str, str]] = None) -> Tuple[int, str]:
    """Run a command in the root of the project: its exit status and all that it printed."""
    command = [str(word) for word in words]
    done = subprocess.run(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False
    )
    return done.returncode, done.stdout


def explore(arguments: Sequence[str]) -> int:
    """Run the suites of other projects with every function armed, and compare."""
    return run(own_environment(), "-m", "tests.exploration.run", *arguments)


def soak(arguments: Sequence[str]) -> int:
    """Kill, stop, fork and starve applications and scripts at random, for minutes, and check what every call gets."""
    return run(own_environment(), "-m", "tests.soak", *arguments)


def attach(arguments: Sequence[str]) -> int:
    """Attach to programs of all kinds again and again, detach, and kill those that attach."""
    python = own_environment()
    if subprocess.run([str(python), "-c", "import numpy"], stderr=subprocess.DEVNULL, check=False).returncode:
        # For one of the kinds, which is skipped without it.
        subprocess.run([*_pip(python), "install", "--quiet", "--only-binary=:all:", "numpy"], check=False)
    return run(python, "-m", "tests.attaching", *arguments)


def all_of_it(arguments: Sequence[str]) -> int:
    """Everything that must hold before a change lands; goes on after a failure, to show all there are."""
    with ThreadPoolExecutor(1) as pool:
        pythons = pool.submit(_interpreters)
        # Made before those that share it begin.
        own_environment()
        found = pythons.result()
        beside = {name: pool.submit(_run_beside, words) for name, words in BESIDE.items()}
        runs, skipped = _run_versions(found, arguments)
        others = {name: future.result() for name, future in beside.items()}
    # Nothing else runs any more.
    results, unstable = settle(runs, _run_alone)
    for name in [name for name, result in others.items() if result != PASSED]:
        others[name] = _run_beside(BESIDE[name])
        unstable += [f"failed once, passed alone: dev.py {name}; what it said is above"] if others[name] == PASSED else []
    return _summary("all of it", {**_in_order(results, skipped), **others}, unstable)


def _run_beside(words: Sequence[str]) -> str:
    """Run one of the project's own commands with a low priority, and print what it says in one piece."""
    low = ["nice", "-n", "19"] if shutil.which("nice") else []
    status, text = _captured(*low, sys.executable, ROOT / "dev.py", *words)
    print(f"\ndev.py: {' '.join(words)}\n{text.strip()}", flush=True)
    return f"FAILED (exit status {status})" if status else PASSED


def _summary(title: str, results: Dict[str, str], unstable: Sequence[str] = ()) -> int:
    """Print what came of each part, and which tests failed once; returns 1 if a part failed."""
    print(f"\ndev.py: {title}")
    for name, result in results.items():
        print(f"  {name}: {result}")
    print(*(f"  {line}\n" for line in unstable), sep="", end="", flush=True)
    return int(any(result.startswith("FAILED") for result in results.values()))


COMMANDS = {
    "demo": demo,
    "test": test,
    "lint": lint,
    "types": types,
    "bench": bench,
    "docs": docs,
    "fuzz": fuzz,
    "matrix": matrix,
    "explore": explore,
    "soak": soak,
    "attach": attach,
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
