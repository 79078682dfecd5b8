"""What grows with the number of probe points, of connected scripts and of processes, each over the smallest number of the same round."""

from __future__ import annotations

import functools
import json
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Dict, Iterator, Mapping, Tuple

from ..measure.timing import Comparison, Group, Line, Plot, TimeFunction
from ..processes import catalogue, targets
from ..processes.pair import Hooked, hooked, runtime_dir
from ..processes.peers import Peer, PeerError

_POINTS = (1, 100, 1_000, 10_000)
_SCRIPTS = (1, 10, 50, 200)
_PROCESSES = (1, 2, 4, 8, 16)
# Sessions in one process of the crowd; each has threads of its own.
_IN_ONE = 50
# Each of these is called in a process that has so many of something: the name of the way begins with it.
_CALLS = ("unarmed", "armed")
# Registrations in one block, whose mean is its value.
_ARMINGS = 3


def _application(stack: ExitStack, folder: Path, settings: str = "") -> Hooked:
    """A script that hooks an application in which one more target is hookable and not armed."""
    folder.mkdir(mode=0o700)
    return stack.enter_context(hooked(folder, ["before"], settings=f'{settings}[[probe]]\ntarget = "{targets.__name__}:idle"\n'))


def _calls(pair: Hooked, numbered: str) -> Iterator[Tuple[str, TimeFunction]]:
    yield f"unarmed, {numbered}", functools.partial(_blocks, pair, "disarmed idle", "idle")
    yield f"armed, {numbered}", functools.partial(_blocks, pair, "block before", "before")


def _blocks(pair: Hooked, command: str, name: str, loops: int) -> float:
    measured = pair.ask(name, f"{command} {loops}")
    assert isinstance(measured, float)
    return measured


@contextmanager
def _points() -> Iterator[Mapping[str, TimeFunction]]:
    with runtime_dir() as folder, ExitStack() as stack:
        ways: Dict[str, TimeFunction] = {}
        for count in _POINTS:
            own = folder / str(count)
            # The two that are called count too, but where one is all there should be.
            others = max(0, count - 2)
            pair = _application(stack, own, catalogue.all_probes() if others else "")
            if others:
                catalogue.write(own, others)
                found = json.loads(pair.application.ask(f"load {own}"))["result"]
                if found != count:
                    raise PeerError(f"{found} probe points are hookable; expected {count}")
            ways.update(_calls(pair, _number(count, "probe point")))
        yield ways


@contextmanager
def _scripts() -> Iterator[Mapping[str, TimeFunction]]:
    with runtime_dir() as folder, ExitStack() as stack:
        ways: Dict[str, TimeFunction] = {}
        for count in _SCRIPTS:
            own = folder / str(count)
            limits = f"[limits]\nmax-sessions = {count + 1}\nmax-hooks = {count + 1}\n"
            pair = _application(stack, own, f'{limits}[[probe]]\ntarget = "{targets.__name__}:crowded"\n')
            for first in range(1, count, _IN_ONE):
                size = str(min(_IN_ONE, count - first))
                stack.enter_context(Peer("benchmarks.processes.crowd", pair.app, size, runtime_dir=pair.folder))
            ways.update(_calls(pair, _number(count, "script")))
        yield ways


@contextmanager
def _processes() -> Iterator[Mapping[str, TimeFunction]]:
    with runtime_dir() as folder, ExitStack() as stack:
        ways: Dict[str, TimeFunction] = {}
        for count in _PROCESSES:
            own = folder / str(count)
            own.mkdir(mode=0o700)
            file = own / "family.toml"
            file.write_text(f'app = "family"\n[defaults]\ntimeout = 10\n[[probe]]\ntarget = "{targets.__name__}:before"\n')
            family = stack.enter_context(Peer("benchmarks.processes.family", str(file), str(count), runtime_dir=own))
            script = stack.enter_context(Peer("benchmarks.processes.arming_script", "family", runtime_dir=own))
            ways[_arming(count)] = functools.partial(_arm, family, script, count)
        yield ways


def _arm(family: Peer, script: Peer, count: int, loops: int) -> float:
    """Arm and disarm so often; raises `PeerError` if a process was not hooked when the registration had returned."""
    seconds = 0.0
    for _ in range(loops):
        seconds += float(script.ask("arm"))
        called = family.ask("call")
        heard = script.ask("disarm")
        if (called, heard) != (str(count), str(count)):
            raise PeerError(f"{called} of {count} processes called the target and {heard} calls were hooked; expected all")
    return seconds


def _number(count: int, one: str) -> str:
    return f"{count:,} {one}{'' if count == 1 else 'es' if one.endswith('s') else 's'}"


def _arming(count: int) -> str:
    return f"arming, {_number(count, 'process')}"


def _rows(counts: Tuple[int, ...], one: str) -> Tuple[Comparison, ...]:
    ways = [(f"{call}, {_number(count, one)}", f"{call}, {_number(counts[0], one)}") for call in _CALLS for count in counts[1:]]
    return tuple(Comparison(way.replace(",", " function,", 1), way, base) for way, base in ways)


def _lines(counts: Tuple[int, ...], one: str) -> Tuple[Line, ...]:
    return tuple(
        Line(f"{call} function", tuple((count, f"{call}, {_number(count, one)}") for count in counts), ours=True) for call in _CALLS
    )


POINTS = Group(
    "growth-points",
    _points,
    _rows(_POINTS, "probe point"),
    part=0.2,
    title="Growth: probe points",
    about="""\
A call of a function that is hookable and not armed, and of one with a `before` hook in another process, in applications with so many
probe points, all of them hookable functions; each over the same call in the application that has only the two (the row of one probe
point). Each application has a script of its own.""",
    why="""\
Nothing on the way of a call looks at the other probe points, so the rows should be those of noise: an unarmed function is the original
itself, and an armed one knows its own hooks. What 10,000 probe points do cost is memory and time at the start.""",
    plots=(
        Plot("growth-points", "One call, with many probe points", _lines(_POINTS, "probe point"), x="probe points", log_x=True, log_y=True),
    ),
)
SCRIPTS = Group(
    "growth-scripts",
    _scripts,
    _rows(_SCRIPTS, "script"),
    part=0.2,
    title="Growth: connected scripts",
    about=f"""\
The same calls in applications with so many connected scripts, over the application with one. One script, in a process of its own, has
the hook that is called. The others are sessions, {_IN_ONE} in one process, since that many processes are too many for a small machine;
for the application they are the same. Each of them has a hook on one more function, which nobody calls. All of these are connected
during the whole measurement, also while the application with one script has its turn.""",
    why="""\
A call knows the hooks of its own function, so a script that hooks another one costs it nothing. All sessions look once a second whether
the application has new processes, and so take a little of the processors, whichever row is measured.""",
    plots=(
        Plot("growth-scripts", "One call, with many scripts connected", _lines(_SCRIPTS, "script"), x="scripts", log_x=True, log_y=True),
    ),
)
ARMING = Group(
    "growth-arming",
    _processes,
    tuple(Comparison(_arming(count), _arming(count), _arming(_PROCESSES[0])) for count in _PROCESSES[1:]),
    loops=_ARMINGS,
    part=0.2,
    title="Growth: arming",
    about="""\
From the call of `before` in the script to its return, which means that the function is hooked in every process of the application:
applications of so many processes, forked by one, over the application of one process. After each registration all processes call the
function, and the script must have heard of all calls.""",
    why="""\
The script asks all processes at once, so what grows with their number is work and not waiting: each has to be woken and swaps the
function's code, and the script has to send and read a message of each. Where there are fewer processors than processes, that takes turns.
After it the script looks whether there are processes that it does not know yet.""",
    plots=(
        Plot(
            "growth-arming",
            "From registering to hooked in all processes",
            (Line("arming", tuple((count, _arming(count)) for count in _PROCESSES), ours=True),),
            x="processes of the application",
            y="time for one registration",
            log_x=True,
        ),
    ),
)
