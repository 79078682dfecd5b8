"""What is counted of hooks, from any thread at any time."""

from __future__ import annotations

import threading

from xpc_agent.hooks.count import Count


def test_a_count_is_read_without_being_changed() -> None:
    count = Count()
    count.up()
    count.up()
    assert (count.value, count.value) == (2, 2)
    count.reset()
    assert count.value == 0
    count.up()
    assert (count.value, count.value) == (1, 1)


def test_what_was_counted_is_taken_back() -> None:
    count = Count()
    count.up()
    count.up()
    count.back()
    assert count.value == 1
    count.reset()
    count.up()
    assert count.value == 1


def test_no_count_of_any_thread_is_lost() -> None:
    count = Count()
    threads = [threading.Thread(target=lambda: [count.up() for _ in range(10_000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count.value == 40_000
