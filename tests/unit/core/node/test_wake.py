"""A pipe that wakes, and does nothing to what has its numbers when the application has closed it."""

from __future__ import annotations

import os
import select
from pathlib import Path

from xpc_instrument.core.node.wake import WakePipe


def is_readable(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 0)[0])


def test_who_polls_sees_that_it_was_woken_until_it_has_read() -> None:
    pipe = WakePipe()
    pipe.wake()
    pipe.open()
    pipe.open()
    try:
        assert not is_readable(pipe.read_end)
        # More than it holds: nobody waits.
        for _ in range(100_000):
            pipe.wake()
        assert is_readable(pipe.read_end)
        pipe.drain()
        assert not is_readable(pipe.read_end)
    finally:
        pipe.close()
    assert pipe.read_end == -1
    pipe.wake()
    pipe.close()


def test_files_that_have_its_numbers_are_neither_written_to_nor_closed(tmp_path: Path) -> None:
    pipe = WakePipe()
    pipe.open()
    ends = (pipe.read_end, pipe._write_end)
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        for end in ends:
            os.dup2(file, end)
        pipe.wake()
        pipe.close()
        assert os.fstat(file).st_size == 0
        assert [os.fstat(end).st_ino for end in ends] == [os.fstat(file).st_ino] * 2
    finally:
        for end in (*ends, file):
            os.close(end)
