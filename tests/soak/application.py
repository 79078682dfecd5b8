"""The application of the soak: threads, processes and an event loop that call their targets the whole time and check every result.

Each call says what it is allowed to give; anything else is a violation and ends the soak. It is run by `xpc-instrument run -- python -W
error` in a folder that the soak makes, is told what to do by lines on its standard input, and reports by lines of JSON.

What it does to itself the whole time:
- The main thread and another one end calls by time limits: by a handler of SIGALRM that raises, and by `PyThreadState_SetAsyncExc`. What is
  raised has to arrive. The event loop ends some of its calls by `asyncio.wait_for`.
- It blocks SIGTERM and SIGUSR1 and waits for them with `sigwait`; a thread of anybody else that took one would end the process.
- Now and then the main thread blocks SIGUSR2 for a section of calls, sends it to the process, and has its handler run afterwards only.
"""

from __future__ import annotations

import asyncio
import collections
import ctypes
import errno
import gc
import json
import os
import random
import resource
import select
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Deque, Dict, List, NamedTuple, Optional, Set, Tuple

from books import CUT_SHORT, ORIGINAL, Book, ending_of, number_in, with_number

# Calls in a row of which one thread of three makes no pause, and as many times that as it takes until its turn comes round.
_IN_A_ROW, _PACES = 200, 4
# Where a call is looked at that was late: a thread that only sleeps was late too, if the machine was, so many seconds around it.
_AROUND = 5.0
# What the latest calls since the last report are, that is how many are told.
_TOLD = 5
# Seconds of a time limit, from and to: while a call is sent, and while its hook takes its time.
_SHORT, _LONG = (0.00005, 0.002), (0.01, 0.3)

# What has the processes' attention is blocked in all threads, and what is put off has to be blocked in all but one.
WAITED_FOR = {signal.SIGTERM, signal.SIGUSR1}
PUT_OFF = signal.SIGUSR2

book: Book


def say(**what: Any) -> None:
    """One line to the soak, in one write."""
    os.write(1, b"@" + json.dumps(what).encode() + b"\n")


class Oops(Exception):
    """What the original raises, and what hooks inject."""


class Limit(Exception):
    """A time limit that is an ordinary exception, as of a task queue."""


class HardLimit(BaseException):
    """One that `except Exception` does not catch."""


class LateLimit(TimeoutError):
    """One that is an `OSError`, as errors of sockets are."""


LIMITS = (Limit, HardLimit, LateLimit)

# Where Python itself contains what a handler raises: `asyncio` any `OSError` as it wakes a loop, `copyreg` everything.
CONTAINED = (("selector_events.py", "_write_to_self"), ("copyreg.py", "_slotnames"))
# Threads in which a limit came while a set of weak references, such as those of all threads and all tasks, forgot an entry.
forgetting: Set[int] = set()


def note_unraisable(found: Any) -> None:
    """In place of what prints what can be raised nowhere."""
    if issubclass(found.exc_type, LIMITS) and getattr(found.object, "__module__", "") in ("_weakrefset", "weakref"):
        forgetting.add(threading.get_ident())
    else:
        sys.__unraisablehook__(found)


# targets -----------------------------------------------------------------------------------------------------------------


def pay(n: int) -> str:
    book.ran(n)
    return f"paid {n}"


def fail(n: int) -> str:
    book.ran(n)
    raise Oops(f"original {n}")


def large(data: bytes) -> bytes:
    book.ran(number_in(data) or 0)
    return data


class Till:
    def __init__(self, name: str) -> None:
        self.name = name

    def pay(self, n: int) -> str:
        book.ran(n)
        return f"paid {n}"


async def pay_async(n: int) -> str:
    book.ran(n)
    await asyncio.sleep(0)
    return f"paid {n}"


def count(n: int) -> Any:
    book.ran(n)
    yield from range(n, n + 3)


# checking ----------------------------------------------------------------------------------------------------------------


class Tally:
    """What the callers of one process have seen."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.calls = 0
        # Time limits that were raised, and signals that came, by their kind.
        self.events: collections.Counter[str] = collections.Counter()
        # (seconds after the deadlines of its hooks, begun, ended) of the latest calls since the last report.
        self.late: List[Tuple[float, float, float]] = []
        # (when, how late) a thread was woken that only slept: what the machine, and the GIL, cost at that time.
        self.overslept: Deque[Tuple[float, float]] = collections.deque(maxlen=5000)

    def note(self, **events: int) -> None:
        with self.lock:
            self.events.update(events)

    def take(self, call: Call, deadlines: float, begun: float, ended: float, outcome: Any) -> None:
        """Judge a call that has ended, and write its end into the book."""
        late = ended - begun - deadlines
        with self.lock:
            self.calls += 1
            if late > 0 and (len(self.late) < _TOLD or late > self.late[0][0]):
                self.late = sorted([*self.late, (late, begun, ended)])[-_TOLD:]
        ending = ending_with(call, outcome)
        book.end(call.number, ending or CUT_SHORT)
        if not ending:
            say(violation=f"{call.target}: expected {call.expected!r:.80} or what a hook gives for this very call, got {outcome!r:.200}")
        elif ending == ORIGINAL and book.ran_so_often(call.number) != 1:
            say(violation=f"{call.target}: the original ran {book.ran_so_often(call.number)} times")

    def cut_short(self, call: Call) -> None:
        """A time limit of the application has ended this call."""
        with self.lock:
            self.calls += 1
        book.end(call.number, CUT_SHORT)

    def report(self) -> Dict[str, Any]:
        with self.lock:
            late, self.late = self.late, []
            told = [(seconds, self._overslept(begun, ended)) for seconds, begun, ended in late]
            return {"calls": self.calls, "events": self.events, "late": told, "overslept": self._overslept(time.monotonic(), 0)}

    def _overslept(self, begun: float, ended: float) -> float:
        ended = max(begun, ended)
        return max((late for at, late in list(self.overslept) if begun - _AROUND < at < ended + _AROUND), default=0.0)


tally = Tally()
stopping = threading.Event()


class Call(NamedTuple):
    """A call that is to be made."""

    number: int
    target: str
    expected: Any
    function: Callable[[Any], Any]
    argument: Any


def ending_with(call: Call, outcome: Any) -> int:
    """How it has ended, for the book; 0 if it may not end so."""
    return ORIGINAL if outcome == call.expected else ending_of(call.number, outcome)


def deadlines_of(target: str) -> float:
    """What the hooks on a target may take together, in seconds."""
    agent = sys.modules["xpc_agent.life.control"].current()
    point = None if agent is None else agent.table.points.get(f"application:{target}")
    return 0.0 if point is None else sum(hook._timeout for hook in list(point.hooks) if hook.terms.wait)


def control() -> None:
    """A thread that only sleeps, and notes how much too long."""
    nap = threading.Event()
    while not stopping.is_set():
        begun = time.monotonic()
        nap.wait(0.01)
        ended = time.monotonic()
        tally.overslept.append((ended, ended - begun - 0.01))


def outcome_of(call: Call) -> Any:
    try:
        return call.function(call.argument)
    except Oops as error:
        return f"raised {error}"


def a_call(choose: random.Random, till: Till, data: bytes) -> Call:
    """A new one, by chance."""
    n = book.new()
    which = choose.randrange(10)
    if which == 9 and choose.randrange(20) == 0:
        large_one = with_number(n, data)
        return Call(n, "large", large_one, large, large_one)
    if which in (4, 5):
        return Call(n, "Till.pay", f"paid {n}", till.pay, n)
    if which == 6:
        return Call(n, "fail", f"raised original {n}", fail, n)
    if which == 7:
        return Call(n, "count", [n, n + 1, n + 2], lambda n: list(count(n)), n)
    return Call(n, "pay", f"paid {n}", pay, n)


def make(call: Call) -> None:
    """Make a call that nothing interrupts."""
    deadlines = deadlines_of(call.target)
    book.begin(call.number)
    begun = time.monotonic()
    outcome = outcome_of(call)
    ended = time.monotonic()
    tally.take(call, max(deadlines, deadlines_of(call.target)), begun, ended, outcome)


class Caller:
    """What a thread calls with."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.choose = random.Random(seed)
        self.till = Till(f"till {seed}")
        self.data = os.urandom(300_000)

    def call(self) -> Call:
        return a_call(self.choose, self.till, self.data)


def work(seed: int) -> None:
    """The life of a thread."""
    caller = Caller(seed)
    n = 0
    try:
        while not stopping.is_set():
            n += 1
            make(caller.call())
            # Without a pause the threads would wait for the GIL most of the time, and for nothing else. Now and then one of them makes none,
            # so that its lane is hot when something happens to it.
            if seed % 100 != n // _IN_A_ROW % _PACES:
                time.sleep(0.001)
    except BaseException as error:
        say(violation=f"a thread ended with {type(error).__name__}: {error}")


# time limits -------------------------------------------------------------------------------------------------------------


class TimeLimit:
    """Ends what the thread does: `fired` counts how often, each once after it was `begin` with so many seconds."""

    kind = ""

    def __init__(self) -> None:
        self.fired = 0
        self.limit = random.Random(0)
        # Where the thread was, where that can be told.
        self.place: List[str] = []

    @property
    def is_contained(self) -> bool:
        """Whether it came where Python itself contains it: in one of the functions of `CONTAINED`, or in what that calls; to be asked by its
        thread."""
        return threading.get_ident() in forgetting or any(
            f"{file}:" in place and place.endswith(f" {name}") for place in self.place for file, name in CONTAINED
        )

    def begin(self, seconds: float) -> None:
        raise NotImplementedError

    def settle(self) -> None:
        """Wait for the end of what raised it."""


class Alarm(TimeLimit):
    """By a handler of a signal that raises, in the main thread."""

    kind = "by a signal handler"

    def __init__(self) -> None:
        super().__init__()
        signal.signal(signal.SIGALRM, self._raise)

    def _raise(self, number: int, frame: Any) -> None:
        self.fired += 1
        self.place = []
        while frame is not None and len(self.place) < 6:
            self.place.append(f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}")
            frame = frame.f_back
        raise self.limit.choice(LIMITS)("time limit")

    def begin(self, seconds: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, seconds)


class FromOutside(TimeLimit):
    """By `PyThreadState_SetAsyncExc` of another thread, for the thread that makes this."""

    kind = "by SetAsyncExc"

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()
        # Released where a limit begins, and where it has been raised. Locks of C, which are taken or not, whatever is raised meanwhile.
        self._begun, self._done = threading.Lock(), threading.Lock()
        self._begun.acquire()
        self._done.acquire()
        self._seconds = 0.0
        self._limiter = threading.Thread(target=self._fire_all)
        self._limiter.start()

    def begin(self, seconds: float) -> None:
        self._seconds = seconds
        self._begun.release()

    def settle(self) -> None:
        self._done.acquire()

    def end(self) -> None:
        self.begin(-1.0)
        self._limiter.join()

    def _fire_all(self) -> None:
        while True:
            self._begun.acquire()
            if self._seconds < 0:
                return
            time.sleep(self._seconds)
            # No `OSError`: `asyncio` contains it where it wakes a loop, and nobody could tell that it came there.
            limit = self.limit.choice((Limit, HardLimit))
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), ctypes.py_object(limit))
            self.fired += 1
            self._done.release()


def under_a_limit(caller: Caller, limit: TimeLimit) -> None:
    """Make calls until a time limit ends one of them, or comes between two. It may come at any place, so that they are judged afterwards."""
    long = caller.choose.randrange(10) == 0
    seconds = caller.choose.uniform(*(_LONG if long else _SHORT))
    made: List[Tuple[Call, float, float, float, Any]] = []
    call: Optional[Call] = None
    before = limit.fired
    forgetting.discard(threading.get_ident())
    try:
        limit.begin(seconds)
        while limit.fired == before:
            call = None
            call = caller.call()
            deadlines = deadlines_of(call.target)
            book.begin(call.number)
            begun = time.monotonic()
            outcome = outcome_of(call)
            made.append((call, deadlines, begun, time.monotonic(), outcome))
            # For the case that the process does not live until then.
            book.end(call.number, ending_with(call, outcome) or CUT_SHORT)
            if long:
                time.sleep(0.001)
        for _ in range(1000):
            pass  # it is raised at the next place where the interpreter looks
        arrived = False
    except LIMITS:
        arrived = True
    limit.settle()
    for one, deadlines, begun, ended, outcome in made:
        tally.take(one, max(deadlines, deadlines_of(one.target)), begun, ended, outcome)
    if call is not None and not (made and made[-1][0] is call) and book.has_begun(call.number):
        tally.cut_short(call)
    by_python = not arrived and limit.is_contained
    tally.note(**{f"limits {limit.kind}": 1, "limits lost": not arrived and not by_python, "limits lost by Python": by_python})
    if sys.modules["xpc_agent.guard"].guard.on:
        say(violation=f"a time limit {limit.kind} left the guard closed: the thread would call no hook any more")
    if not arrived and not by_python:
        say(violation=f"a time limit {limit.kind} did not arrive; the thread was in {limit.place}")


def work_hurried(seed: int) -> None:
    """The life of a thread whose calls are ended from outside."""
    caller = Caller(seed)
    limit = FromOutside()
    try:
        while not stopping.is_set():
            under_a_limit(caller, limit)
            time.sleep(0.001)
    except BaseException as error:
        say(violation=f"a hurried thread ended with {type(error).__name__}: {error}")
    finally:
        limit.end()


async def one_task(choose: random.Random) -> None:
    n = book.new()
    call = Call(n, "pay_async", f"paid {n}", pay_async, n)
    deadlines = deadlines_of("pay_async")
    book.begin(n)
    begun = time.monotonic()
    try:
        if choose.randrange(8) == 0:
            outcome: Any = await asyncio.wait_for(pay_async(n), choose.uniform(*_SHORT))
        else:
            outcome = await pay_async(n)
    except Oops as error:
        outcome = f"raised {error}"
    except asyncio.TimeoutError:
        tally.cut_short(call)
        tally.note(**{"limits by wait_for": 1})
        return
    tally.take(call, max(deadlines, deadlines_of("pay_async")), begun, time.monotonic(), outcome)


async def work_async(seed: int) -> None:
    """The life of the event loop: some tasks at a time."""
    choose = random.Random(seed)
    while not stopping.is_set():
        await asyncio.gather(*[asyncio.ensure_future(one_task(choose)) for _ in range(5)])
        await asyncio.sleep(0.001)


def run_loop(seed: int) -> None:
    try:
        asyncio.run(work_async(seed))
    except BaseException as error:
        say(violation=f"the event loop ended with {type(error).__name__}: {error}")


# signals -----------------------------------------------------------------------------------------------------------------

terminated = threading.Event()


def wait_for_signals() -> None:
    """The thread that takes what all others have blocked."""
    while True:
        number = signal.sigwait(WAITED_FOR)
        if number == signal.SIGTERM:
            terminated.set()
            return
        tally.note(**{"signals by sigwait": 1})
        say(did="sigwait", **tally.report(), **resources())


class Section:
    """Sections of the main thread in which a signal is put off."""

    def __init__(self) -> None:
        self._inside = False
        self._handled = 0
        signal.signal(PUT_OFF, self._handle)

    def _handle(self, *_: Any) -> None:
        self._handled += 1
        if self._inside:
            say(violation="a handler ran inside the section of which the signal was blocked: another thread took it")

    def run(self, caller: Caller) -> None:
        before = self._handled
        signal.pthread_sigmask(signal.SIG_BLOCK, {PUT_OFF})
        self._inside = True
        os.kill(os.getpid(), PUT_OFF)
        for _ in range(2):
            make(caller.call())
        self._inside = False
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {PUT_OFF})
        if self._handled != before + 1:
            say(violation=f"a signal that was put off was handled {self._handled - before} times")
        tally.note(**{"signals put off": 1})


# faults of the application itself ------------------------------------------------------------------------------------------

taken: List[int] = []


def take_descriptors() -> None:
    """Open all but a few descriptors that are left."""
    try:
        while len(taken) < 1000:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        for _ in range(3):
            os.close(taken.pop())


def give_descriptors() -> None:
    while taken:
        os.close(taken.pop())


def fork_one(choose: random.Random) -> None:
    """A child that calls a few times and leaves, while the threads of its parent are in the middle of their calls."""
    global tally
    # With numbers of its own: from now on both have the same counter.
    calls = [a_call(choose, Till("child"), b"x" * 1000) for _ in range(choose.randrange(1, 6))]
    pid = os.fork()
    if pid:
        kids.append(pid)
        tally.note(**{"forked children": 1})
        return
    status = 0
    try:
        tally = Tally()
        for call in calls:
            make(call)
    except BaseException as error:
        say(violation=f"a child ended with {type(error).__name__}: {error}")
        status = 1
    finally:
        os._exit(status)


kids: List[int] = []


def reap(wait: bool) -> None:
    for pid in list(kids):
        found, status = os.waitpid(pid, 0 if wait else os.WNOHANG)
        if found:
            kids.remove(pid)
            if status:
                say(violation=f"a child of the application ended with status {status}")


def open_files() -> List[str]:
    """What the descriptors lead to."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            pass  # that of the folder itself
    return found


def resources() -> Dict[str, Any]:
    """What it has; while it has no descriptors, of those that were taken as many are given back as it takes to look."""
    while True:
        try:
            return look_around()
        except OSError as error:
            if error.errno != errno.EMFILE or not taken:
                raise
            os.close(taken.pop())


def look_around() -> Dict[str, Any]:
    gc.collect()
    with open("/proc/self/status") as file:
        # What is its own: memories of lanes are counted, and the book grows.
        memory = next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon:"))
    with open("/proc/self/maps") as file:
        mapped = file.read().count("memfd:xpc-instrument")
    files = open_files()
    found: Dict[str, Any] = {
        # Memories of lanes.
        "memories": mapped,
        "fds": len(files) - len(taken),
        "files": sorted(files),
        "threads": len(os.listdir("/proc/self/task")),
        "rss": memory,
    }
    agent = sys.modules["xpc_agent.life.control"].current()
    if agent is not None:
        # Of the lanes that there are now.
        found["frames"] = sum(one.frames for one in sys.modules["xpc_agent"].lanes())
        found["hooks"] = sum(len(point.hooks) for point in list(agent.table.points.values()))
        failures: Dict[str, int] = {}
        for probe in sys.modules["xpc_agent"].stats():
            for cause, number in probe.failures.items():
                failures[cause] = failures.get(cause, 0) + number
        found["failures"] = failures
    return found


# the main thread -----------------------------------------------------------------------------------------------------------


def begin(seed: int) -> List[threading.Thread]:
    """Start all threads but the one that waits for signals. They begin with the signals blocked that are not for them."""
    threads = [threading.Thread(target=work, args=(seed * 100 + k,)) for k in range(2)]
    threads += [threading.Thread(target=work_hurried, args=(seed * 100 + 3,))] * (not LEFT_OFF & {"limits", "async"})
    threads += [threading.Thread(target=run_loop, args=(seed,)), threading.Thread(target=control)]
    signal.pthread_sigmask(signal.SIG_BLOCK, {PUT_OFF})
    for thread in threads:
        thread.start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {PUT_OFF})
    return threads


class Words:
    """What the soak says, a word a line; read without waiting for the rest."""

    def __init__(self) -> None:
        self._rest = b""

    def next(self, patience: float) -> Optional[str]:
        """The next word, the empty one at the end, None if there is none within so many seconds."""
        if b"\n" not in self._rest:
            if not select.select([0], [], [], patience)[0]:
                return None
            data = os.read(0, 4096)
            if not data:
                return ""
            self._rest += data
        word, _, self._rest = self._rest.partition(b"\n")
        return word.decode()


def obey(word: str, choose: random.Random, threads: List[threading.Thread], seed: int) -> List[threading.Thread]:
    """Do what the soak says; returns the threads that there are."""
    reap(wait=False)
    if word == "fork":
        fork_one(choose)
    elif word == "take":
        take_descriptors()
    elif word == "give":
        give_descriptors()
    elif word == "stop":
        stopping.set()
        for thread in threads:
            thread.join(60)
        reap(wait=True)
        if any(thread.is_alive() for thread in threads):
            say(violation="a thread of the application does not end")
    elif word == "start":
        # Anew, with as many threads as before.
        stopping.clear()
        threads = begin(seed)
    elif word == "leave":
        # In the middle of everything.
        say(leaving=time.monotonic(), **tally.report(), **resources())
        os._exit(0)
    elif word == "exit":
        stopping.set()
        sys.exit(0)
    say(did=word, **tally.report(), **resources())
    return threads


def live(seed: int) -> None:
    """The life of the main thread."""
    choose, caller, words = random.Random(seed), Caller(seed * 100 + 4), Words()
    alarm, section = Alarm(), Section()
    threads = begin(seed)
    say(ready=os.getpid())
    while not terminated.is_set():
        word = words.next(0.05 if stopping.is_set() else 0.0)
        if word == "":
            break
        if word is not None:
            threads = obey(word, choose, threads, seed)
        elif not stopping.is_set():
            if choose.randrange(50) == 0 and "signals" not in LEFT_OFF:
                section.run(caller)
            elif "limits" not in LEFT_OFF:
                under_a_limit(caller, alarm)
            else:
                make(caller.call())
            time.sleep(0.001)
    stopping.set()


LEFT_OFF = set(os.environ.get("SOAK_LEFT_OFF", "").split(","))


def main() -> None:
    global book
    seed = int(sys.argv[1])
    sys.unraisablehook = note_unraisable
    book = Book(Path(os.environ["SOAK_FOLDER"]), seed)
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(400, hard), hard))
    signal.pthread_sigmask(signal.SIG_BLOCK, {*WAITED_FOR, PUT_OFF})
    threading.Thread(target=wait_for_signals, daemon=True).start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {PUT_OFF})
    live(seed)


if __name__ == "__main__":
    # The targets are those of the module `application`, and not of `__main__`.
    import application

    application.main()
