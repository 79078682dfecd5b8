"""A long run of all faults at random: `python -m tests.soak --minutes 5 --seed 1`.

Applications call their targets the whole time and check every result; scripts register hooks of every kind; and a seeded random sequence
of faults happens to all of them. A line tells of each step. What must hold, at every step and in the end:

- the original ran once for each call, or not at all where a hook answered; the result is one that is allowed;
- no call takes longer than the time-outs of its hooks, by more than a thread that only sleeps is late in the same process, and 50 ms;
- where lanes can be hot, frames have gone through memory: threads of the applications call back to back for part of the time;
- without scripts an application has the descriptors, threads, memories of lanes and hooks that it had in the beginning, and has grown by no
  more than `SLACK`;
- a process that is told to leave is gone.

Exit status 1, with the seed and the step, if something does not. The same seed gives the same sequence of faults; what the processes do in
between is theirs.
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
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

from tests.soak.programs import Application, Script, Violation
from xpc_instrument.core.wire.memory import why_plain

# The time-out of each hook, in seconds.
TIMEOUT = 0.3
# What a call may take beyond the time-outs of its hooks, and beyond what the machine costs.
LATE = 0.05
# How much more memory an application may have after a while than in the beginning, in bytes: buffers of large values, and fragments.
SLACK = 40_000_000
# Steps between two looks at what is left when all scripts are gone.
BETWEEN_LOOKS = 40
APPLICATIONS = 2
SCRIPTS = 3

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

    def __init__(self, seed: int, folder: Path, log: Callable[[str], None]) -> None:
        self.choose = random.Random(seed)
        self.folder = folder
        self.log = log
        self.step = 0
        self.applications: List[Application] = []
        self.scripts: List[Script] = []
        self.totals: Dict[str, int] = {"calls": 0, "replaced": 0, "injected": 0}
        self.failures: Dict[str, int] = {}
        # Those seen to have gone through memory: lanes that have ended since the report before are not counted.
        self.frames = 0
        self.worst = self.overslept = 0.0
        self.first: Dict[str, Any] = {}
        self.last: Dict[str, Any] = {}
        self._numbers = 0

    # processes -------------------------------------------------------------------------------------------------------

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    def start_application(self) -> Application:
        application = Application(self.folder, self._number())
        self.applications.append(application)
        if not self.first:
            self.first = application.settled()
            application.ask("start")
        # That of the first, when there was no script yet: those that are here connect to a new one at once, and would count as its own.
        application.baseline = self.first
        return application

    def start_script(self) -> Optional[Script]:
        if len(self.scripts) >= SCRIPTS:
            return None
        script = Script(self.folder, self.choose.randrange(10**6), TIMEOUT)
        self.scripts.append(script)
        return script

    def take_in(self, report: Dict[str, Any], application: Application) -> None:
        """Add what an application has reported, and judge it."""
        late = max(report["worst"], default=0.0)
        if late > LATE + 2 * report["overslept"]:
            raise Violation(
                f"a call ended {late * 1000:.0f} ms after its deadlines; a thread that slept was {report['overslept'] * 1000:.0f} ms late"
            )
        self.worst, self.overslept = max(self.worst, late), max(self.overslept, report["overslept"])
        for name in self.totals:
            self.totals[name] += report[name] - application.counted.get(name, 0)
            application.counted[name] = report[name]
        frames = report.get("frames", 0)
        self.frames += max(0, frames - application.frames)
        application.frames = frames
        for cause, number in report.get("failures", {}).items():
            self.failures[cause] = self.failures.get(cause, 0) + number - application.failed.get(cause, 0)
            application.failed[cause] = number

    # steps -----------------------------------------------------------------------------------------------------------

    def one(self) -> str:
        """The next step; returns what it was."""
        self.step += 1
        if self.step % BETWEEN_LOOKS == 0:
            return self.look()
        steps: List[Callable[[], str]] = [self.visit] * 6 + [self.register] * 4 + [self.remove] * 3 + [self.depart] * 2
        steps += [self.kill, self.kill, self.stop, self.stop, self.fork, self.fork, self.descriptors, self.script_storm]
        steps += [self.restart] * 8 * (self.step % 7 == 0) + [self.delete_sockets] * 8 * (self.step % 11 == 0)
        what = self.choose.choice(steps)()
        for application in self.applications:
            self.take_in(application.ask("report"), application)
        self.scripts = [script for script in self.scripts if script.alive]
        return what

    def visit(self) -> str:
        """A script comes."""
        script = self.start_script()
        return "no more scripts" if script is None else f"script {script.pid} comes"

    def _script(self) -> Optional[Script]:
        return self.choose.choice(self.scripts) if self.scripts else None

    def register(self) -> str:
        """A script registers another hook."""
        script = self._script()
        return "nobody registers" if script is None else f"script {script.pid} registers: {script.ask('register')}"

    def remove(self) -> str:
        """A script removes a hook, in the middle of its calls."""
        script = self._script()
        return "nobody removes" if script is None else f"script {script.pid} removes: {script.ask('remove')}"

    def depart(self) -> str:
        """A script closes its session."""
        script = self._script()
        if script is None:
            return "nobody departs"
        script.close()
        return f"script {script.pid} departs"

    def kill(self) -> str:
        """A script dies."""
        script = self._script()
        if script is None:
            return "nobody dies"
        script.signal(signal.SIGKILL)
        script.wait()
        return f"script {script.pid} is killed"

    def stop(self) -> str:
        """A script is stopped for a while, longer than a deadline or shorter."""
        script = self._script()
        if script is None:
            return "nobody stops"
        script.signal(signal.SIGSTOP)
        pause = self.choose.uniform(0.2, 2) * TIMEOUT
        time.sleep(pause)
        script.signal(signal.SIGCONT)
        return f"script {script.pid} is stopped for {pause:.2f} s"

    def fork(self) -> str:
        """An application forks while its threads are in calls; the child calls and leaves."""
        application = self.choose.choice(self.applications)
        application.ask("fork")
        return f"application {application.pid} forks"

    def descriptors(self) -> str:
        """An application has no descriptors for a while; meanwhile a script registers."""
        application = self.choose.choice(self.applications)
        application.ask("take")
        said = ""
        script = self._script()
        if script is not None and self.choose.random() < 0.5:
            said = f"; script {script.pid} registers: {script.ask('register')}"
        time.sleep(0.2)
        application.ask("give")
        return f"application {application.pid} has no descriptors for a while{said}"

    def script_storm(self) -> str:
        """Several scripts come at once, and some are killed as they do."""
        newcomers = [Script(self.folder, self.choose.randrange(10**6), TIMEOUT, wait=False) for _ in range(4)]
        time.sleep(self.choose.uniform(0.05, 0.4))
        for newcomer in newcomers:
            newcomer.signal(signal.SIGKILL)
            newcomer.wait()
        return "four scripts are killed while they come"

    def restart(self) -> str:
        """An application leaves in the middle of everything, and another one comes."""
        application = self.choose.choice(self.applications)
        way = self.choose.choice(["exit", "leave", "kill"])
        self._end(application, way)
        return f"application {application.pid} ends ({way}), {self.start_application().pid} comes"

    def _end(self, application: Application, way: str) -> None:
        self.applications.remove(application)
        # In its way out it finishes the calls that it is in: each of its hooks may take its time.
        took = application.end(way)
        allowed = 1.0 + (2 * SCRIPTS * TIMEOUT + 2 * self.overslept if way == "exit" else 0.0)
        if took > allowed:
            raise Violation(f"application {application.pid} took {took:.1f} s to end ({way})")

    def delete_sockets(self) -> str:
        """Sockets in use are deleted; the application that nobody finds any more is replaced after some more calls."""
        application = self.choose.choice(self.applications)
        for path in Path(os.environ["XPC_INSTRUMENT_RUNTIME_DIR"]).iterdir():
            if str(application.pid) in path.name:
                path.unlink()
        script = self._script()
        said = "" if script is None else f"; script {script.pid} registers: {script.ask('register')}"
        time.sleep(0.3)
        self._end(application, "exit")
        return f"the sockets of application {application.pid} are deleted{said}; {self.start_application().pid} comes"

    def look(self) -> str:
        """All scripts leave; every application is then as it was."""
        for script in self.scripts:
            script.close()
        self.scripts = []
        said = []
        for application in self.applications:
            found = application.settled()
            self.take_in(found, application)
            self.last = found
            growth = found["rss"] - application.baseline["rss"]
            said.append(f"{application.pid}: {found['fds']} fds, {found['threads']} threads, {growth / 1e6:+.1f} MB")
            if found["hooks"] or any(found[name] > application.baseline[name] for name in ("fds", "threads", "memories")):
                raise Violation(f"application {application.pid} has {found}; in the beginning it had {application.baseline}")
            if growth > SLACK:
                raise Violation(f"application {application.pid} has grown by {growth} bytes")
            application.ask("start")
        return f"all scripts leave; {'; '.join(said)}"

    def close(self) -> None:
        """End everything by force."""
        for program in [*self.scripts, *self.applications]:
            program.force()


def main(arguments: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="how long to go on (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the sequence of faults (default: %(default)s)")
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="soak"))
    os.environ["XPC_INSTRUMENT_RUNTIME_DIR"] = str(folder / "run")
    os.environ.update(SOAK_FOLDER=str(folder), SOAK_TIMEOUT=str(TIMEOUT), PYTHONDONTWRITEBYTECODE="1")
    (folder / "run").mkdir(mode=0o700)
    (folder / "xpc-instrument.toml").write_text(CONFIG.format(timeout=TIMEOUT))
    for name in ("application", "script"):
        shutil.copy(Path(__file__).with_name(f"{name}.py"), folder)

    def log(text: str) -> None:
        print(text, flush=True)

    begun = time.monotonic()
    soak = Soak(options.seed, folder, log)
    problem = ""
    try:
        for _ in range(APPLICATIONS):
            soak.start_application()
        while time.monotonic() - begun < options.minutes * 60:
            what = soak.one()
            log(f"{time.monotonic() - begun:7.1f} s  seed {options.seed} step {soak.step}: {what}")
        soak.step += 1
        log(f"{time.monotonic() - begun:7.1f} s  seed {options.seed} step {soak.step}: {soak.look()}")
        for application in list(soak.applications):
            soak._end(application, "exit")
        # Where other programs keep the processors busy, lanes rightly stay plain.
        if not soak.frames and not why_plain() and os.getloadavg()[0] < (os.cpu_count() or 1):
            raise Violation("no frame went through memory, although lanes can be hot here")
    except Violation as violation:
        problem = str(violation)
    finally:
        soak.close()
        shutil.rmtree(folder, ignore_errors=True)
    opened = ", ".join(f"{cause} {number}" for cause, number in sorted(soak.failures.items())) or "none"
    log(f"{soak.totals['calls']} calls, {soak.totals['replaced']} replaced, {soak.totals['injected']} injected; failed open: {opened}")
    log(f"frames through memory: at least {soak.frames}{' (' + why_plain() + ')' if why_plain() else ''}")
    log(f"worst wait past the deadline {soak.worst * 1000:.1f} ms; a thread that only slept was {soak.overslept * 1000:.1f} ms late")
    for when, found in (("beginning", soak.first), ("end", soak.last)):
        if found:
            log(f"in the {when}: {found['fds']} fds, {found['threads']} threads, {found['rss'] / 1e6:.1f} MB")
    if problem:
        log(f"FAILED at seed {options.seed} step {soak.step}: {problem}")
        return 1
    log(f"passed: seed {options.seed}, {soak.step} steps")
    return 0


if __name__ == "__main__":
    sys.exit(main())
