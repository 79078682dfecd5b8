"""What a report shows of the calls that hooks have seen."""

from __future__ import annotations

import threading

from xpc_instrument.pytest_plugin.seen import SHOWN, Seen, SeenCall, report, short_name


def seen_of(kind: str, target: str) -> Seen:
    return Seen(kind, target, threading.Condition())


def called(seen: Seen, number: int, pid: int = 7) -> None:
    seen.add(SeenCall(number / 1000, pid, 1, (number,), {"name": "x" * 500}, "returned None"))


def test_a_few_calls_are_shown_with_their_processes_and_shortened_values() -> None:
    seen = seen_of("patch", "shop:charge")
    called(seen, 1)
    called(seen, 2, pid=9)
    first, second, third = report([seen]).splitlines()
    assert first == "patch shop:charge   2 calls (process 7, 9)"
    assert second.startswith("  +0.001s charge(1, name='xxx") and len(second) < 150
    assert third.startswith("  +0.002s charge(2, name='xxx")


def test_of_many_calls_the_first_and_the_last_are_shown() -> None:
    seen = seen_of("spy", "shop:charge")
    for number in range(SHOWN + 7):
        called(seen, number)
    lines = report([seen]).splitlines()
    assert len(lines) == SHOWN + 2
    assert lines[1 + SHOWN // 2] == "  ... and 7 more ..."
    assert f"charge({SHOWN + 6}," in lines[-1]


def test_one_that_was_never_called_names_the_nearest_that_were() -> None:
    names = ["shop.checkout:total", "shop.checkout:total_with_tax", "mail:send"]
    all_seen = [seen_of("spy", name) for name in names]
    called(all_seen[2], 1)
    called(all_seen[1], 1)
    called(all_seen[1], 2)
    first = report(all_seen).splitlines()[0]
    assert first.split(None, 2)[2] == "no call has ended; others that were: shop.checkout:total_with_tax (2), mail:send (1)"


def test_who_waits_is_told_of_each_call_and_what_comes_after_the_end_is_late() -> None:
    seen = seen_of("spy", "shop:charge")
    thread = threading.Thread(target=called, args=(seen, 1))
    with seen.changed:
        thread.start()
        assert seen.changed.wait_for(lambda: len(seen.calls) == 1, 20.0)
    thread.join()
    assert seen.late == 0
    seen.over = True
    called(seen, 2)
    assert seen.late == 1


def test_the_name_of_a_target_where_there_is_little_room_is_its_last() -> None:
    assert [short_name(target) for target in ("shop:charge", "shop.gateway:Gateway.post", "shop")] == ["charge", "post", "shop"]
