"""What the agent costs at the start of programs, in time and in memory, over the same programs without it."""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterator, List, Mapping, Sequence, Tuple

from xpc_instrument import connect
from xpc_instrument.cli.run import make_environment
from xpc_instrument.cli.stub import stub_text
from xpc_instrument.core.config import file as config
from xpc_instrument.core.config.packed import pack
from xpc_instrument.core.discovery.folder import VARIABLE

from ..measure.timing import Comparison, Group, Line, Measured, Plot, TimeFunction
from ..processes import catalogue
from ..processes.pair import runtime_dir
from ..processes.peers import ROOT, Peer, PeerError

_COUNTS = (1, 100, 10_000)
# The ones that are started by the command line too, which takes as long with any number.
_RUN_COUNT = 100
_PIP_TARGET = "pip._internal.cli.main:main"
_PASS = "`python -c pass`"
_PROGRAMS: Dict[str, Sequence[str]] = {
    _PASS: ("-c", "pass"),
    "Flask": ("-m", "benchmarks.processes.small_flask"),
    "`pip --version`": ("-m", "pip", "--version"),
}
_MODULES = {"Flask": "flask", "`pip --version`": "pip", "an application with Flask": "flask"}
# What somebody connects to, and the words that it is started with.
_CONNECTED: Dict[str, Sequence[str]] = {"a bare program": (), "an application with Flask": ("flask",)}
# For how many seconds its main thread computes, as long as the agent needs to be loaded beside it.
_SPINNING = 1.0
# Says what became of the probe points, in a program that has the functions.
_LOOK = f"import {catalogue.NAME}, xpc_agent; print(sum(point.state == 'ready' for point in xpc_agent.stats()))"

Start = Tuple[List[str], Dict[str, str]]


def missing(program: str) -> str:
    """What a program needs that is not here; empty if nothing is."""
    module = _MODULES.get(program)
    return "" if module is None or importlib.util.find_spec(module) is not None else module


def _config(folder: Path, count: int, pip: bool) -> Path:
    """Write a config file with so many probe points."""
    own = f'[[probe]]\ntarget = "{_PIP_TARGET}"\n' if pip else ""
    others = catalogue.all_probes() if count == _COUNTS[-1] else catalogue.probes(1 if pip else 0, count)
    path = folder / f"{'pip' if pip else 'shop'}-{count}.toml"
    path.write_text(f'app = "startup"\n{own}{others}')
    return path


def _elsewhere(folder: Path) -> Path:
    """Write a config file with the largest number of probe points, listed, in a module that nobody imports."""
    path = folder / "elsewhere.toml"
    path.write_text('app = "startup"\n' + catalogue.probes(0, _COUNTS[-1]).replace(f'"{catalogue.NAME}:', '"elsewhere:'))
    return path


def _plain(folder: Path) -> Dict[str, str]:
    """The environment of the programs without the agent."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("XPC_INSTRUMENT_")}
    # An interpreter's own variables would be another start than the usual one.
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return {**kept, "PYTHONPATH": str(folder), "PIP_DISABLE_PIP_VERSION_CHECK": "1", "XPC_INSTRUMENT_RUNTIME_DIR": str(folder)}


def _under_agent(folder: Path, file: Path) -> Dict[str, str]:
    """The environment in which `xpc-instrument run` starts a program; the launcher puts the program's pid in."""
    read = config.load(file)
    return make_environment(_plain(folder), pack(read), 0, stub_text(read))


def _check(folder: Path, file: Path, count: int) -> None:
    """Raises `PeerError` unless so many functions are hookable in a program that imports them: a start that failed would look cheap."""
    command = [sys.executable, "-c", _LOOK]
    done = subprocess.run(command, env=_under_agent(folder, file), capture_output=True, text=True, timeout=60, check=False)
    if done.stdout.strip() != str(count):
        raise PeerError(f"{file.name}: {done.stdout.strip() or done.stderr.strip()!r} probe points were ready; expected {count}")


def _start(launcher: Peer, start: Start, loops: int) -> Measured:
    answer = launcher.ask(repr(start)).split()
    if answer[0] != "0":
        raise PeerError(f"{' '.join(start[0])} ended with the wait status {answer[0]}; expected 0")
    return {"time": float(answer[1]), "memory": float(answer[2]), "processor": float(answer[3])}


def _starts(folder: Path, program: str, words: Sequence[str]) -> Iterator[Tuple[str, Start]]:
    """The ways of one program, and how each is started."""
    command = [sys.executable, *words]
    pip = program == "`pip --version`"
    yield f"{program}, plain", (command, _plain(folder))
    for count in _COUNTS:
        file = _config(folder, count, pip)
        if count == _COUNTS[-1] and program != _PASS:
            yield f"{program}, elsewhere", (command, _under_agent(folder, _elsewhere(folder)))
        if not pip:
            _check(folder, file, count)
        yield f"{program}, {count}", (command, _under_agent(folder, file))
        if count == _RUN_COUNT:
            run = [sys.executable, "-m", "xpc_instrument.cli", "run", "--config", str(file), "--", *command]
            yield f"{program}, run", (run, _plain(folder))


def _say(program: subprocess.Popen[str], seconds: float) -> None:
    assert program.stdin is not None and program.stdout is not None
    program.stdin.write(f"{seconds}\n")
    program.stdin.flush()
    program.stdout.readline()


def _said(program: subprocess.Popen[str]) -> Tuple[float, float]:
    assert program.stdout is not None
    stop, processor = program.stdout.readline().split()
    return float(stop), float(processor)


def _connect(folder: Path, file: Path, words: Sequence[str], which: str, loops: int) -> Measured:
    """Start a program, and connect: to one that waits, the first or the second time, or while it spins, or not at all."""
    run = [sys.executable, "-m", "xpc_instrument.cli", "run", "--config", str(file), "--", sys.executable]
    command = [*run, "-m", "benchmarks.processes.connected", *words]
    with subprocess.Popen(command, env=_plain(folder), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as program:
        try:
            assert program.stdin is not None and program.stdout is not None
            if program.stdout.readline() != "ready\n":
                raise PeerError(f"{' '.join(command)} did not begin")
            if which in ("first", "second"):
                if which == "second":
                    connect("startup").close()
                _say(program, 0)
                before = _said(program)[1]
                started = time.perf_counter()
                with connect("startup"):
                    took = time.perf_counter() - started
                    _say(program, 0)
                    return {"time": took, "processor": _said(program)[1] - before}
            _say(program, _SPINNING)
            if which == "spinning":
                with connect("startup"):
                    return {"stop": _said(program)[0]}
            return {"stop": _said(program)[0]}
        finally:
            program.stdin.close()  # type: ignore[union-attr]


def _connections(folder: Path) -> Iterator[Tuple[str, TimeFunction]]:
    file = _config(folder, 1, False)
    for program, words in _CONNECTED.items():
        if not missing(program):
            for which in ("first", "second", "spinning", "alone"):
                yield f"{program}, {which}", functools.partial(_connect, folder, file, words, which)


@contextmanager
def _startup() -> Iterator[Mapping[str, TimeFunction]]:
    with runtime_dir() as folder, _as_runtime_dir(folder):
        catalogue.write(folder, _COUNTS[-1])
        options = ("-I", "-S", str(ROOT / "benchmarks/processes/launcher.py"))
        with Peer("benchmarks.processes.launcher", runtime_dir=folder, options=options) as launcher:
            ways: Dict[str, TimeFunction] = {
                way: functools.partial(_start, launcher, start)
                for program, words in _PROGRAMS.items()
                if not missing(program)
                for way, start in _starts(folder, program, words)
            }
            ways.update(_connections(folder))
            yield ways


@contextmanager
def _as_runtime_dir(folder: Path) -> Iterator[None]:
    """What the command would hand over to the stand-in for the agent says where that folder is."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def _points(count: int) -> str:
    return f"{count:,} probe point{'s' if count > 1 else ''}"


def _rows() -> Iterator[Comparison]:
    for program in _PROGRAMS:
        needs = missing(program)
        plain = f"{program}, plain"
        for count in _COUNTS:
            yield Comparison(f"{program}, {_points(count)}: time", f"{program}, {count}, time", f"{plain}, time", needs=needs)
        name = f"{program}, {_points(_RUN_COUNT)}, with `xpc-instrument run`: time"
        yield Comparison(name, f"{program}, run, time", f"{plain}, time", needs=needs)
        for count in _COUNTS:
            name = f"{program}, {_points(count)}: processor time"
            yield Comparison(name, f"{program}, {count}, processor", f"{plain}, processor", needs=needs)
        if program != _PASS:
            name = f"{program}, {_points(_COUNTS[-1])} in a module that it does not import: processor time"
            yield Comparison(name, f"{program}, elsewhere, processor", f"{plain}, processor", needs=needs, more=0.005)
        name = f"{program}, {_points(_RUN_COUNT)}, with `xpc-instrument run`: processor time"
        yield Comparison(name, f"{program}, run, processor", f"{plain}, processor", needs=needs)
        for count in _COUNTS:
            name = f"{program}, {_points(count)}: memory"
            yield Comparison(name, f"{program}, {count}, memory", f"{plain}, memory", needs=needs, unit="byte")
    for program in _CONNECTED:
        needs = missing(program)
        for figure, word, more in (("time", "time", None), ("processor", "processor time", 0.06)):
            name = f"first connection, {program}: {word}"
            yield Comparison(name, f"{program}, first, {figure}", f"{program}, second, {figure}", needs=needs, more=more)
        name = f"longest stop of a thread that computes during the first connection, {program}"
        yield Comparison(name, f"{program}, spinning, stop", f"{program}, alone, stop", needs=needs)


def _lines(figure: str) -> Iterator[Line]:
    for program in _PROGRAMS:
        label = program.strip("`")
        yield Line(f"{label}, plain", tuple((count, f"{program}, plain, {figure}") for count in _COUNTS))
        yield Line(f"{label}, with the agent", tuple((count, f"{program}, {count}, {figure}") for count in _COUNTS), ours=True)


STARTUP = Group(
    "startup",
    _startup,
    tuple(_rows()),
    loops=1,
    part=0.1,
    title="Start-up: time and memory",
    about="""\
Three programs from their start to their end, without the agent and with it: `python -c pass`, a Flask application that is imported,
built and left again, and `pip --version`. Time is that of the wall, processor time that of the process in user and system mode; memory is
the peak of the resident set that the kernel reports for the process.

The programs are started as `xpc-instrument run` starts one, and as each Python process that it starts in turn is: by the variables of
the environment. The rows "with `xpc-instrument run`" have that command in front, which is a Python program of its own that
becomes the other one.

The Flask application has a module of 10,000 functions, with the agent and without: 1 or 100 of them are named in the config one by one,
and 10,000 by one glob, `catalogue:*`, since so many names do not fit into the environment. It imports the module, so the agent is loaded
there. In `python -c pass` the same probe points wait for a module that is never imported, and in `pip --version` all but one, the function
`main` of pip itself. In the rows that say so, all 10,000 are listed one by one and lie in a module that no program imports.

The last rows are of a program that nobody has connected to yet, bare or with Flask imported: the first connection, which loads the
agent, beside a second one; the processor time of the program meanwhile; and the longest time between two looks at the clock of a main
thread that does nothing else for a second, while somebody connects for the first time and while nobody does.""",
    why="""\
A program that imports no module with a target pays for the stand-in of the agent: a finder, a listening socket, a file that announces
the process, and a thread. One that does pays for importing the agent's modules as well, as it would when somebody connects; that is the
same for each program, so it shows most where the program does little. A probe point costs nothing before somebody asks for it, whether its
module is imported or not, but its line of the config. `xpc-instrument run` starts one more interpreter, which reads and checks the
config file before it becomes the program; that is paid once for an application, not by the processes that it starts.""",
    plots=(
        Plot(
            "startup-time",
            "Start to end of a program, with the agent and without",
            tuple(_lines("time")),
            x="probe points",
            y="time from start to end",
            log_x=True,
        ),
        Plot(
            "startup-memory",
            "Peak memory of a program, with the agent and without",
            tuple(_lines("memory")),
            x="probe points",
            y="peak of the resident set",
            log_x=True,
            unit="byte",
        ),
    ),
)
