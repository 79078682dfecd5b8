"""A long run of all faults at random: `python -m tests.soak --minutes 5 --seed 1`.

Applications call their targets the whole time and check every result; scripts register hooks of every kind; and a seeded random sequence
of faults happens to all of them. A line tells of each step. What must hold, at every step and in the end:

- by the books (`books.py`), each call had its original or its replacement exactly once, no hook was called twice for a call, and the result
  is the original's, or what a hook gave for that very call. What a time limit of the application's cuts short, or the end of its process,
  had one of them at most; of a process that ended in order no call is without an end;
- each time limit of the application arrives there, whether a handler of a signal raised it or `PyThreadState_SetAsyncExc`, but for what
  handlers raise where Python itself contains it; and each signal that it waits for or puts off comes where and when it is wanted;
- no call takes longer than the time-outs of its hooks, by more than twice what a thread that only sleeps is late in the same process at that
  time, once for each of the two processes that take turns, and 50 ms;
- nothing is printed that must not be: no traceback and no warning, which are errors in all processes. That nobody reads the log of a process
  makes no difference;
- where lanes can be hot, frames have gone through memory: threads of the applications call back to back for part of the time;
- without scripts an application has the descriptors, threads, memories of lanes and hooks that it had in the beginning, and has grown by no
  more than `SLACK`, whatever the number of calls; one of the applications stays from the first step to the last;
- a process that is told to leave is gone, and has left nothing in the runtime directory.

Exit status 1, with the seed and the step, if something does not. The same seed gives the same fault in each step; whom it happens to depends
on who is there, and what the processes do in between is theirs: a seed that failed is run several times. `--without` leaves faults off, to
find out which ones a failure takes; the others come as before.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Set

import xpc_instrument
from tests.attaching.proof import why_not
from tests.soak.books import SEATS, Sums
from tests.soak.programs import Application, Script, Violation
from xpc_instrument.attaching.attach import attach_process
from xpc_instrument.core.wire.memory import why_plain

# The time-out of each hook, in seconds.
TIMEOUT = 0.3
# What a call may take beyond the time-outs of its hooks, and beyond what the machine costs.
LATE = 0.05
# How much more memory an application may have after a while than in the beginning, in bytes. What malloc keeps once each lane has had a large
# value and its answer, and each thread an arena; 6 to 13 MB are reached within some minutes on Python 3.9, 17 on 3.15, and no more after 14
# million calls. What leaks two bytes with each call goes beyond it in that time.
SLACK = 24_000_000
# Steps between two looks at what is left when all scripts are gone.
BETWEEN_LOOKS = 40
APPLICATIONS = 2
SCRIPTS = 3
# Of the seats, those of scripts that are killed as they come.
STORM = range(SCRIPTS, SEATS)
# Calls that may be under way in an application that is killed: of four threads, of five tasks, and of two forked children.
UNDER_WAY = 11

# What can be left off.
FAULTS = ("limits", "async", "signals", "ends", "deaf", "stop", "fork", "descriptors", "storm", "sockets", "kill", "attach")

CONFIG = """app = "soak"
[defaults]
timeout = {timeout}
[limits]
max-lanes = 8
hot-spin = 0.001
[[probe]]
target = "application:pay"
[[probe]]
target = "application:fail"
[[probe]]
target = "application:large"
[[probe]]
target = "application:Till.pay"
[[probe]]
target = "application:pay_async"
[[probe]]
target = "application:count"
"""


class Soak:
    """One run."""

    def __init__(self, seed: int, folder: Path, left_off: Set[str]) -> None:
        self.seed = seed
        self.choose = random.Random(seed)
        self.folder = folder
        self.left_off = left_off
        self.step = 0
        self.applications: List[Application] = []
        self.scripts: List[Script] = []
        self.books = Sums()
        # As the applications count them: the books are read when they are gone.
        self.calls = 0
        self.events: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()
        # Those seen to have gone through memory: lanes that have ended since the report before are not counted.
        self.frames = 0
        # (the worst wait past the deadlines, how late a thread was that only slept meanwhile), and the latter at its worst.
        self.worst = (0.0, 0.0)
        self.overslept = 0.0
        self.first: Dict[str, Any] = {}
        self.looks: List[Dict[str, Any]] = []
        self._numbers = 0
        self.unattachable = why_not()
        self.attached = 0

    # processes -------------------------------------------------------------------------------------------------------

    def start_application(self) -> Application:
        self._numbers += 1
        # The first one's log is read, since it stays.
        deaf = self._numbers > 1 and self.choose.random() < 0.5 and "deaf" not in self.left_off
        application = Application(self.folder, self._numbers, deaf)
        self.applications.append(application)
        if not self.first:
            # With what it keeps once it has had hooks of all kinds: a pipe to wake who sends events, a thread that writes its log.
            Script(self.folder, 0, TIMEOUT, 0, False, True, "first").depart("close")
            self.first = application.settled()
            application.ask("start")
        # That of the first, when there was no script: those that are here connect to a new one at once, and would count as its own.
        # Where nobody reads the log, the thread that writes it waits until somebody does.
        application.baseline = {**self.first, "threads": self.first["threads"] + deaf}
        return application

    def start_script(self) -> Optional[Script]:
        free = [seat for seat in range(SCRIPTS) if seat not in {script.seat for script in self.scripts}]
        seed, deaf = self.choose.randrange(10**6), self.choose.random() < 0.2
        if not free:
            return None
        script = Script(self.folder, seed, TIMEOUT, free[0], deaf and "deaf" not in self.left_off)
        self.scripts.append(script)
        return script

    def take_in(self, report: Dict[str, Any], application: Application) -> None:
        """Add what an application has reported, and judge it."""
        for late, overslept in report["late"]:
            if late > LATE + 2 * overslept:
                raise Violation(
                    f"a call of {application} ended {late * 1000:.0f} ms after its deadlines; "
                    f"a thread that only slept was {overslept * 1000:.0f} ms late"
                )
            self.worst = max(self.worst, (late, overslept))
        self.overslept = max(self.overslept, report["overslept"])
        self.calls += report["calls"] - application.counted.get("calls", 0)
        application.counted = {"calls": report["calls"]}
        frames = report.get("frames", 0)
        self.frames += max(0, frames - application.frames)
        application.frames = frames
        for sums, mine, name in ((self.failures, application.failed, "failures"), (self.events, application.events, "events")):
            for cause, number in report.get(name, {}).items():
                sums[cause] += number - mine.get(cause, 0)
                mine[cause] = number

    # steps -----------------------------------------------------------------------------------------------------------

    def one(self) -> str:
        """The next step; returns what it was."""
        self.step += 1
        # Of this step alone: what came of those before, which is not the same each time, does not change what this one is.
        self.choose.seed(f"{self.seed} {self.step}")
        if self.step % BETWEEN_LOOKS == 0:
            return self.look()
        steps: List[Callable[[], str]] = [self.visit] * 6 + [self.register] * 4 + [self.remove] * 3 + [self.depart] * 4 + [self.signals] * 2
        steps += [self.kill, self.kill, self.stop, self.stop, self.fork, self.fork, self.descriptors, self.storm, self.attach, self.attach]
        steps += [self.restart] * 8 * (self.step % 7 == 0) + [self.sockets] * 8 * (self.step % 11 == 0)
        fault = self.choose.choice(steps)
        what = f"no {fault.__name__}" if fault.__name__ in self.left_off else fault()
        for application in self.applications:
            self.take_in(application.ask("report"), application)
        for script in self.scripts:
            script.check()
            if not script.alive:
                script.ended()
                self.ends["killed"] += 1
        self.scripts = [script for script in self.scripts if script.alive]
        return what

    def visit(self) -> str:
        """A script comes."""
        script = self.start_script()
        return "no more scripts" if script is None else f"{script} comes"

    def _script(self, obeys: bool = True) -> Optional[Script]:
        """One of them. Where nobody reads its log a script may do nothing any more but wait to write it; that is its own affair."""
        found = [script for script in self.scripts if not (obeys and script.deaf)]
        return self.choose.choice(found) if found else None

    def register(self) -> str:
        """A script registers another hook."""
        script = self._script()
        return "nobody registers" if script is None else f"{script} registers: {script.ask('register')}"

    def remove(self) -> str:
        """A script removes a hook, in the middle of its calls."""
        script = self._script()
        return "nobody removes" if script is None else f"{script} removes: {script.ask('remove')}"

    def depart(self) -> str:
        """A script ends in one of all ways, in the middle of its calls."""
        script = self._script()
        if script is None:
            return "nobody departs"
        way = "close" if "ends" in self.left_off else self.choose.choice(["close", "end", "exit", "leave", "run"])
        self.scripts.remove(script)
        script.depart(way)
        self.ends[way] += 1
        return f"{script} departs ({way})"

    def kill(self) -> str:
        """A script dies."""
        script = self._script(obeys=False)
        if script is None:
            return "nobody dies"
        self._kill(script)
        return f"{script} is killed"

    def _kill(self, script: Script) -> None:
        if script in self.scripts:
            self.scripts.remove(script)
        script.signal(signal.SIGKILL)
        script.ended()
        self.ends["killed"] += 1

    def stop(self) -> str:
        """A script is stopped for a while, longer than a deadline or shorter."""
        script = self._script(obeys=False)
        if script is None:
            return "nobody stops"
        script.signal(signal.SIGSTOP)
        pause = self.choose.uniform(0.2, 2) * TIMEOUT
        time.sleep(pause)
        script.signal(signal.SIGCONT)
        return f"{script} is stopped for {pause:.2f} s"

    def signals(self) -> str:
        """Signals that each process has blocked to wait for them; whoever else takes one dies of it."""
        for application in self.applications:
            for _ in range(3):
                self.take_in(application.signalled(), application)
        said = [f"{script} {script.signalled()}" for script in self.scripts if not script.deaf]
        return "; ".join(["signals for all", *said])

    def fork(self) -> str:
        """An application forks while its threads are in calls; the child calls and leaves."""
        application = self.choose.choice(self.applications)
        application.ask("fork")
        return f"{application} forks"

    def descriptors(self) -> str:
        """An application has no descriptors for a while; meanwhile a script registers."""
        application = self.choose.choice(self.applications)
        application.ask("take")
        said = ""
        script = self._script()
        if script is not None and self.choose.random() < 0.5:
            said = f"; {script} registers: {script.ask('register')}"
        time.sleep(0.2)
        application.ask("give")
        return f"{application} has no descriptors for a while{said}"

    def storm(self) -> str:
        """Several scripts come at once, and are killed as they do."""
        newcomers = [Script(self.folder, self.choose.randrange(10**6), TIMEOUT, seat, wait=False) for seat in STORM]
        time.sleep(self.choose.uniform(0.05, 0.4))
        for newcomer in newcomers:
            self._kill(newcomer)
        return f"{len(newcomers)} scripts are killed while they come"

    def attach(self) -> str:
        """The agent leaves an application in the middle of its calls, and is brought into it again."""
        if self.unattachable:
            return f"nothing is attached to: {self.unattachable}"
        application = self.choose.choice(self.applications)
        with xpc_instrument.connect(application.pid) as app:
            if app.detach() != [application.pid]:
                raise Violation(f"the agent does not leave {application}")
        if self._files(application):
            raise Violation(f"{application} has left {self._files(application)}")
        pause = self.choose.uniform(0, 0.2)
        time.sleep(pause)
        attach_process(application.pid, config=self.folder / "xpc-instrument.toml")
        # The agent counts from its beginning.
        application.failed, application.frames = {}, 0
        self.attached += 1
        return f"the agent leaves {application}, which is attached to {pause:.2f} s later"

    def _replaceable(self) -> Application:
        """All but the one that stays."""
        return self.choose.choice(self.applications[1:])

    def restart(self) -> str:
        """An application leaves in the middle of everything, and another one comes."""
        application = self._replaceable()
        way = self.choose.choice(["exit", "term", "leave", "kill"])
        self._end(application, way)
        return f"{application} ends ({way}), {self.start_application()} comes"

    def _end(self, application: Application, way: str) -> None:
        self.applications.remove(application)
        in_order = way in ("exit", "term")
        # In its way out it finishes the calls that it is in: each of its hooks may take its time.
        took = application.end(way)
        allowed = 1.0 + (2 * SCRIPTS * TIMEOUT + 2 * self.overslept if in_order else 0.0)
        if took > allowed:
            raise Violation(f"{application} took {took:.1f} s to end ({way})")
        if in_order and self._files(application):
            raise Violation(f"{application} has left {self._files(application)}")
        # Nobody calls any more, so that only the calls without an end can still change.
        cut_off = self.books.add(self.folder, application.number)
        if cut_off > (0 if in_order else UNDER_WAY):
            raise Violation(f"{application} ended ({way}) with {cut_off} calls that have no end")
        if self.books.problems:
            raise Violation(f"{application}: {self.books.problems[0]}")

    def _files(self, application: Application) -> List[Path]:
        folder = Path(os.environ["XPC_INSTRUMENT_RUNTIME_DIR"])
        return [path for path in folder.iterdir() if str(application.pid) in path.name]

    def sockets(self) -> str:
        """Sockets in use are deleted; the application that nobody finds any more is replaced after some more calls."""
        application = self._replaceable()
        for path in self._files(application):
            path.unlink()
        script = self._script()
        said = "" if script is None else f"; {script} registers: {script.ask('register')}"
        time.sleep(0.3)
        self._end(application, "exit")
        return f"the sockets of {application} are deleted{said}; {self.start_application()} comes"

    def look(self) -> str:
        """All scripts leave; every application is then as it was."""
        for script in list(self.scripts):
            if script.deaf:
                self._kill(script)
            else:
                script.depart("close")
                self.ends["close"] += 1
        self.scripts = []
        said = []
        for application in self.applications:
            found = application.settled()
            self.take_in(found, application)
            if application is self.applications[0]:
                self.looks.append(found)
            growth = found["rss"] - application.baseline["rss"]
            said.append(f"{application}: {found['fds']} fds, {found['threads']} threads, {growth / 1e6:+.1f} MB")
            if found["hooks"] or any(found[name] > application.baseline[name] for name in ("fds", "threads", "memories")):
                raise Violation(f"{application} has {found}; in the beginning it had {application.baseline}")
            if growth > SLACK:
                raise Violation(f"{application} has grown by {growth} bytes")
            application.ask("start")
        return f"all scripts leave; {'; '.join(said)}"

    def end(self) -> None:
        """A last look, and the books of those that are still there."""
        self.step += 1
        self.look()
        for application in list(self.applications):
            self._end(application, "exit")
        if self.events["limits lost"]:
            raise Violation(f"{self.events['limits lost']} time limits of the application's did not arrive there")
        # Where other programs keep the processors busy, lanes rightly stay plain.
        if not self.frames and not why_plain() and os.getloadavg()[0] < (os.cpu_count() or 1):
            raise Violation("no frame went through memory, although lanes can be hot here")

    def close(self) -> None:
        """End everything by force."""
        for program in [*self.scripts, *self.applications]:
            program.force()

    def table(self) -> str:
        """What has been, for a person."""
        ends, events = self.books.endings, self.events
        limits = {kind: events[f"limits {kind}"] for kind in ("by a signal handler", "by SetAsyncExc", "by wait_for")}
        rows = [
            ("calls in the books", self.books.calls, f"of {self._numbers} applications and {events['forked children']} forked children"),
            ("  had their original", ends["original"], ""),
            ("  had a hook's answer instead", ends["replaced"], ""),
            ("  had a hook's answer after their original", ends["replaced afterwards"], ""),
            ("  were cut short by a time limit of the application's", ends["cut short"], "at most one of the two ran"),
            ("  were cut off by the end of their process", ends["cut off"], "at most one of the two ran"),
            ("  do not add up", len(self.books.problems), "neither, both, or one of them twice"),
            ("calls that reached a hook", self.books.hooked, f"{self.books.hooks} calls of hooks, none twice for one call"),
            ("time limits that were raised", sum(limits.values()), ", ".join(f"{number} {kind}" for kind, number in limits.items())),
            (
                "  did not arrive",
                events["limits lost"],
                f"{events['limits lost by Python']} more in functions of Python that contain everything",
            ),
            (
                "signals taken by who waits for them",
                events["signals by sigwait"],
                f"{events['signals put off']} put off until the end of a section",
            ),
            ("hooks that failed open", sum(self.failures.values()), _counts(self.failures)),
            ("ends of scripts", sum(self.ends.values()), _counts(self.ends)),
            ("detached from, and attached to again", self.attached, self.unattachable),
            ("frames through memory, at least", self.frames, why_plain() or ""),
            (
                "worst wait past the deadlines, ms",
                round(self.worst[0] * 1000),
                f"a thread that only slept was {self.worst[1] * 1000:.0f} ms late then",
            ),
        ]
        if self.looks:
            rows += [
                (f"{name} of the one that stays", self.looks[-1][key], f"{self.first[key]} in the beginning; {len(self.looks)} looks")
                for name, key in (("descriptors", "fds"), ("threads", "threads"))
            ]
            sizes = [found["rss"] / 1e6 for found in (self.first, *self.looks)]
            early = ", ".join(f"{size:.1f}" for size in sizes[:3])
            rows += [("its memory in the end, MB", round(sizes[-1], 1), f"{early} at first; {max(sizes):.1f} at most")]
        return "\n".join(f"{name:<54}{number:>10}  {more}".rstrip() for name, number, more in rows)


def _counts(found: Counter[str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(found.items()))


def main(arguments: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="how long to go on (default: %(default)s)")
    parser.add_argument("--calls", type=int, help="end after so many calls, if that is earlier")
    parser.add_argument("--seed", type=int, default=1, help="of the sequence of faults (default: %(default)s)")
    parser.add_argument("--without", nargs="*", choices=FAULTS, default=[], metavar="FAULT", help=f"leave off: {', '.join(FAULTS)}")
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="soak"))
    os.environ["XPC_INSTRUMENT_RUNTIME_DIR"] = str(folder / "run")
    os.environ.update(SOAK_FOLDER=str(folder), SOAK_LEFT_OFF=",".join(options.without), PYTHONDONTWRITEBYTECODE="1")
    (folder / "run").mkdir(mode=0o700)
    (folder / "xpc-instrument.toml").write_text(CONFIG.format(timeout=TIMEOUT))
    for name in ("application", "books", "script"):
        shutil.copy(Path(__file__).with_name(f"{name}.py"), folder)

    begun = time.monotonic()
    soak = Soak(options.seed, folder, set(options.without))
    problem = ""

    def say(what: str) -> None:
        print(f"{time.monotonic() - begun:7.1f} s  seed {options.seed} step {soak.step}: {what}", flush=True)

    try:
        for _ in range(APPLICATIONS):
            soak.start_application()
        while time.monotonic() - begun < options.minutes * 60 and (options.calls is None or soak.calls < options.calls):
            say(soak.one())
        soak.end()
    except Violation as violation:
        problem = str(violation)
    finally:
        soak.close()
        shutil.rmtree(folder, ignore_errors=True)
    version = "{}.{}.{}".format(*sys.version_info)
    print(f"\nseed {options.seed}, {soak.step} steps in {time.monotonic() - begun:.0f} s on Python {version}\n{soak.table()}", flush=True)
    if problem:
        print(f"FAILED at seed {options.seed} step {soak.step}: {problem}", flush=True)
        return 1
    print(f"passed: seed {options.seed}, {soak.step} steps", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
