"""Which system calls an invocation makes on either side, as strace counts them; nothing is timed.

Both processes run under strace from their start. Between two marks (files that do not exist, looked for) the application makes its calls;
what other threads of a process do meanwhile is counted too, so that one that works in the background is seen.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Dict, List, Sequence

from ..measure.timing import Progress, Unavailable
from ..processes.pair import Hooked, hooked, runtime_dir
from ..report.rows import markdown

_SIDES = ("application", "script")
_MODES = ("instead", "before")
# What happens less often than that in a call is nothing that each call does: the heartbeat of a connection, say.
_SELDOM = 0.02
_CALL = re.compile(r"^(?:\d+ +)?(\w+)\(")


class Tally:
    """A group that counts. `table` gives its own table in Markdown. Raises `Unavailable`."""

    name = "syscalls"
    title = "System calls of an invocation"
    about = """\
Not timed: which system calls an invocation makes in each of the two processes, counted under strace between two marks. What other threads
of a process do meanwhile is counted too, so that one that works in the background would be seen. The bare ping-pong makes one `send` and
one `recv` on each side."""
    why = """\
A hot lane needs none, but gives way with `sched_yield` while it looks into its memory; under strace, which slows every system call, lanes
sleep more than they otherwise do. `poll` is there where an answer took long enough that the thread went from a short wait into a longer
one."""

    def table(self, progress: Progress, loops: int = 1000) -> str:
        """Have the application make so many calls in each mode."""
        progress(f"{self.name}: under strace")
        counts = _counted(loops)
        names = sorted({name for counter in counts.values() for name in counter if counter[name] >= _SELDOM * loops})
        head = ["system calls per invocation", *counts]
        lines = [[name, *(f"{counter[name] / loops:.2f}" for counter in counts.values())] for name in names]
        total = ["all", *(f"{sum(counter.values()) / loops:.2f}" for counter in counts.values())]
        return markdown([head, *lines, total])


def _counted(loops: int) -> Dict[str, Counter[str]]:
    strace = shutil.which("strace")
    if strace is None:
        raise Unavailable("strace is not installed")
    with runtime_dir() as folder:
        logs = [folder / f"{side}.log" for side in _SIDES]
        tracers = [[strace, "-f", "-qq", "-o", str(log)] for log in logs]
        with hooked(folder, _MODES, tracers=tracers) as pair:
            for mode in _MODES:
                # The first calls open lanes and import modules.
                pair.ask(mode, f"block {mode} 10")
                _mark(pair, folder / f"{mode}-begins")
                pair.ask(mode, f"block {mode} {loops}")
                _mark(pair, folder / f"{mode}-ends")
        # Both have ended, and so their logs are whole.
        return {
            f"`{mode}`, {side}": count(log.read_text(errors="replace").splitlines(), f"{mode}-begins", f"{mode}-ends")
            for mode in _MODES
            for side, log in zip(_SIDES, logs)
        }


def _mark(pair: Hooked, path: Path) -> None:
    pair.application.ask(f"mark {path}")
    pair.script.ask(f"mark {path}")


def count(lines: Sequence[str], begins: str, ends: str) -> Counter[str]:
    """The system calls in the lines of strace between two that name the marks. Raises `ValueError` if a mark is missing."""
    marks: List[int] = []
    for word in (begins, ends):
        found = [number for number, line in enumerate(lines) if f"/{word}" in line and "resumed" not in line]
        if not found:
            raise ValueError(f"strace has seen nothing of {word}")
        marks.append(found[0])
    calls = (_CALL.match(line) for line in lines[marks[0] + 1 : marks[1]])
    return Counter(match[1] for match in calls if match)


SYSCALLS = Tally()
