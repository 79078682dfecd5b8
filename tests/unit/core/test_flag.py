"""What waits for a flag may be interrupted at any moment, and whoever tells that it has happened waits for nobody."""

from __future__ import annotations

import threading

from tests.interruption import Interruption, interrupted, within
from xpc_instrument.core.flag import Flag


def test_a_flag_can_be_set_wherever_whoever_waited_was_interrupted() -> None:
    flag = Flag()
    moments = 0
    for error in interrupted(lambda: flag.wait(0.001)):
        assert isinstance(error, Interruption)
        moments += 1
    assert moments > 2 and not flag.is_set()
    assert within(flag.set) and flag.wait(10)


def test_a_flag_that_is_set_stays_so_wherever_whoever_looks_is_interrupted() -> None:
    flag = Flag()
    flag.set()
    for _ in interrupted(lambda: flag.wait(10)):
        assert within(flag.set) and flag.is_set()
    assert flag.wait(0)


def test_one_that_waits_goes_on_when_it_is_set() -> None:
    flag = Flag()
    threads = [threading.Thread(target=flag.wait, args=(60.0,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    flag.set()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads) and flag.wait(0)
