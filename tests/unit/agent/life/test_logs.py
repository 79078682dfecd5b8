"""Lines of the log: who writes them, how many there may be, and what becomes of those that cannot be written."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from typing import Any, Callable, Iterator, List

import pytest

from tests.programs import PATIENCE
from xpc_agent.guard import guard
from xpc_agent.life import logs
from xpc_agent.life.logs import LineQueue

log = logging.getLogger("xpc_agent")


class Seen(logging.Handler):
    """Keeps the records, and in which thread they came; waits before each as long as it is told to, and raises if it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.records: List[logging.LogRecord] = []
        self.threads: List[int] = []
        self.guarded: List[bool] = []
        self.entered = threading.Event()
        self.go = threading.Event()
        self.go.set()
        self.fails = False

    def emit(self, record: logging.LogRecord) -> None:
        self.entered.set()
        assert self.go.wait(PATIENCE)
        if self.fails:
            raise ValueError("a bug of the handler's")
        self.threads.append(threading.get_ident())
        self.guarded.append(guard.on)
        self.records.append(record)

    def texts(self) -> List[str]:
        return [record.getMessage() for record in self.records]


@pytest.fixture
def seen() -> Iterator[Seen]:
    handler = Seen()
    log.addHandler(handler)
    log.propagate = False
    yield handler
    log.propagate = True
    log.removeHandler(handler)


@pytest.fixture
def lines(seen: Seen) -> Iterator[LineQueue]:
    queue = LineQueue()
    queue.open()
    yield queue
    seen.go.set()
    queue.close()


def wait_until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    patience = threading.Event()
    while not true() and time.monotonic() < deadline:
        patience.wait(0.005)
    assert true()


def test_a_line_is_written_by_another_thread_as_it_was_logged_here(lines: LineQueue, seen: Seen) -> None:
    before = threading.enumerate()
    seen.go.clear()
    began = time.time()
    log.warning("%s of %d", "one", 2)
    ended = time.time()
    assert seen.entered.wait(PATIENCE)
    # Written late, and yet of then.
    seen.go.set()
    lines.finish()
    (record,) = seen.records
    assert record.getMessage() == "one of 2"
    assert began <= record.created <= ended
    assert record.thread == threading.get_ident() != seen.threads[0]
    assert record.threadName == threading.current_thread().name
    assert record.funcName == "test_a_line_is_written_by_another_thread_as_it_was_logged_here"
    assert record.filename == "test_logs.py"
    assert seen.guarded == [True]
    assert threading.enumerate() == before


def test_lines_keep_their_order_and_the_thread_ends_after_the_last(lines: LineQueue, seen: Seen) -> None:
    threads = len(os.listdir("/proc/self/task"))
    for number in range(300):
        log.warning(f"line {number}")
    wait_until(lambda: len(seen.records) == 300)
    assert seen.texts() == [f"line {number}" for number in range(300)]
    wait_until(lambda: len(os.listdir("/proc/self/task")) == threads)
    log.warning("one more")
    wait_until(lambda: seen.texts()[-1] == "one more")


def test_what_finds_no_room_is_dropped_and_counted(lines: LineQueue, seen: Seen) -> None:
    seen.go.clear()
    log.warning("first")
    assert seen.entered.wait(PATIENCE)
    began = time.monotonic()
    for number in range(logs._LINES + 70):
        log.warning(f"line {number}")
    assert time.monotonic() - began < PATIENCE / 3
    seen.go.set()
    wait_until(lambda: seen.texts() and "missing" in seen.texts()[-1])
    assert len(seen.records) == 1 + logs._LINES + 1
    assert seen.texts()[-2] == f"line {logs._LINES - 1}"
    assert seen.texts()[-1].startswith("70 lines of the agent's are missing here")


def test_of_one_kind_there_are_a_few_and_a_count(lines: LineQueue, seen: Seen) -> None:
    for number in range(100):
        log.warning("the hook of %d failed", number)
    lines.finish()
    assert len(seen.records) == logs._RATE + 1
    assert seen.texts()[-1] == f"{100 - logs._RATE} more like that (the hook of %d failed) within 1 s"


def test_what_a_handler_raises_costs_one_line(lines: LineQueue, seen: Seen) -> None:
    seen.fails = True
    log.warning("lost in the handler")
    wait_until(lambda: lines._dropped.value)
    seen.fails = False

    def refuse(record: Any) -> bool:
        raise SystemExit("a bug of the filter's")

    log.addFilter(refuse)
    log.warning("lost in the filter")
    wait_until(lambda: lines._dropped.value > 1)
    log.removeFilter(refuse)
    log.warning("written")
    wait_until(lambda: "written" in seen.texts())


def test_no_line_is_two_lines_not_even_of_an_exception(lines: LineQueue, seen: Seen) -> None:
    try:
        raise ValueError("x\nCRITICAL:root:forged\x1b[2J\x85CRITICAL:root:forged too")
    except ValueError as error:
        log.exception("%s", error)
    lines.finish()
    (record,) = seen.records
    assert record.getMessage() == "x\\nCRITICAL:root:forged\\x1b[2J\\x85CRITICAL:root:forged too"
    text = logging.Formatter("%(levelname)s:%(message)s").format(record)
    assert "in test_no_line_is_two_lines_not_even_of_an_exception" in text
    assert "ValueError: x" in text
    assert [line for line in text.split("\n") if not line.startswith("    ")] == [f"ERROR:{record.getMessage()}"]
    assert all(line.isprintable() for line in text.split("\n"))


def test_a_line_with_its_traceback_fits_what_a_pipe_takes_at_once(lines: LineQueue, seen: Seen) -> None:
    def deep(depth: int) -> None:
        if not depth:
            raise ValueError("z" * 100_000)
        deep(depth - 1)

    try:
        deep(200)
    except ValueError:
        log.exception("%s", "y" * 100_000)
    lines.finish()
    assert len(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s").format(seen.records[0])) < 4096


def test_a_record_that_the_application_hands_on_is_its_own_affair(lines: LineQueue, seen: Seen) -> None:
    log.handle(logging.makeLogRecord({"msg": "of a child process", "name": "xpc_agent", "levelno": logging.WARNING}))
    assert seen.texts() == ["of a child process"]
    assert seen.threads == [threading.get_ident()]


def test_the_loggers_are_afterwards_as_they_were() -> None:
    before = [dict(vars(logging.getLogger(name))) for name in logs.LOGGERS]
    queue = LineQueue()
    queue.open()
    assert [dict(vars(logging.getLogger(name))) for name in logs.LOGGERS] != before
    queue.close()
    assert [dict(vars(logging.getLogger(name))) for name in logs.LOGGERS] == before


# files without room, and handlers that never end ------------------------------------------------------------------------------


@pytest.fixture
def full(lines: LineQueue) -> Iterator[int]:
    """The reading end of a full pipe, to which the log goes too."""
    out, into = os.pipe()
    os.set_blocking(into, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(into, b"x" * 4096)
    os.set_blocking(into, True)
    os.set_blocking(out, False)
    with open(into, "w") as stream:
        handler = logging.StreamHandler(stream)
        log.addHandler(handler)
        yield out
        lines.pause()
        log.removeHandler(handler)
        read(out)
    os.close(out)


def read(end: int) -> str:
    text = b""
    try:
        while True:
            text += os.read(end, 65536)
    except BlockingIOError:
        return text.decode()


def test_a_file_without_room_is_waited_for_and_holds_up_no_fork(lines: LineQueue, seen: Seen, full: int) -> None:
    threads = len(os.listdir("/proc/self/task"))
    log.warning("one")
    wait_until(lambda: len(os.listdir("/proc/self/task")) == threads + 1)
    for _ in range(3):
        lines.pause()
        # It has ended, for the kernel too.
        assert len(os.listdir("/proc/self/task")) == threads
        lines.resume()
    assert not seen.records
    log.warning("two")
    read(full)
    wait_until(lambda: len(seen.records) == 2)
    assert seen.texts() == ["one", "two"]


def test_the_end_of_the_process_waits_for_a_moment_only_and_holds_no_lock(lines: LineQueue, seen: Seen, full: int) -> None:
    log.warning("one")
    began = time.monotonic()
    lines.finish()
    assert time.monotonic() - began < logs.FLUSH_TIMEOUT + PATIENCE / 10
    # As `logging` does at exit.
    for handler in log.handlers:
        assert handler.lock is not None
        assert handler.lock.acquire(timeout=PATIENCE)
        handler.release()


def test_a_handler_that_never_ends_delays_the_first_fork_for_a_moment_and_the_end_for_another(lines: LineQueue, seen: Seen) -> None:
    seen.go.clear()
    log.warning("one")
    assert seen.entered.wait(PATIENCE)
    threads = len(os.listdir("/proc/self/task"))
    lines.pause()
    lines.resume()
    began = time.monotonic()
    for _ in range(50):
        lines.pause()
        lines.resume()
        log.warning("two")
    assert time.monotonic() - began < 50 * logs._PAUSE_TIMEOUT / 2
    assert len(os.listdir("/proc/self/task")) == threads
    lines.finish()
    assert seen.lock is not None
    assert seen.lock.acquire(timeout=PATIENCE)
    seen.release()


def test_a_handler_that_ends_after_a_fork_goes_on_with_what_has_come_meanwhile(lines: LineQueue, seen: Seen) -> None:
    seen.go.clear()
    log.warning("one")
    assert seen.entered.wait(PATIENCE)
    lines.pause()
    lines.resume()
    log.warning("two")
    seen.go.set()
    wait_until(lambda: seen.texts() == ["one", "two"])
    log.warning("three")
    wait_until(lambda: seen.texts() == ["one", "two", "three"])


def test_a_forked_child_leaves_the_parents_lines_to_the_parent_and_writes_its_own(lines: LineQueue, seen: Seen, full: int) -> None:
    log.warning("the parent's")
    lines.pause()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            log.removeHandler(log.handlers[1])
            lines.reset_after_fork()
            log.warning("the child's")
            lines.finish()
            status = 0 if seen.texts() == ["the child's"] else 2
        finally:
            os._exit(status)
    lines.resume()
    assert os.waitpid(pid, 0)[1] == 0
    read(full)
    wait_until(lambda: seen.texts() == ["the parent's"])
