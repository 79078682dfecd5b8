"""Hooks that count: what their one function makes of an invocation."""

from __future__ import annotations

import sys
import threading
from typing import Any, Dict, List

import pytest

from tests.unit.agent.hooks.made import call, made
from xpc_agent.hooks.local import LocalHook
from xpc_instrument.core.model import aggregate
from xpc_instrument.core.model.local import DURATION, STAT
from xpc_instrument.core.model.target import Mode
from xpc_instrument.core.model.terms import Terms
from xpc_instrument.core.values.redaction import Redaction


def charge(amount: Any, currency: Any = "EUR", password: Any = "hunter2") -> Any:
    return amount


def counting(of: str = DURATION, by: Any = (), when: str = "", ended: Any = None, **terms: Any) -> LocalHook:
    local = {"kind": STAT, "by": list(by), "of": of, "when": when}
    more = {} if ended is None else {"ended": ended}
    hook: LocalHook = made(LocalHook, Mode.AFTER, f"{__name__}:charge", Terms(local=local, **terms), hides=Redaction().hides, **more)
    return hook


def counted(hook: LocalHook) -> Dict[Any, aggregate.Cell]:
    """What the script reads."""
    return aggregate.from_json(hook.totals()["table"])


KEYS: List[Any] = ["EUR", "x" * 300, 7, -(1 << 63), 1 << 70, True, None, 2.5, float("nan"), [], b"raw"]


@pytest.mark.parametrize("by", [["currency"], ["currency", "currency"]])
@pytest.mark.parametrize("value", KEYS, ids=repr)
def test_a_key_is_told_as_what_it_is(by: List[str], value: Any) -> None:
    hook = counting(by=by)
    call(hook, 1, value, "")
    part = aggregate.key_part(value)
    expected = ("text", f"<builtins.{type(value).__name__}>") if part is None else part
    assert list(counted(hook)) == [(expected,) * len(by)]


def test_numbers_are_counted_with_their_extremes_and_errors() -> None:
    hook = counting(of="amount", by=["currency"])
    for amount in (3, 1.5, 200):
        call(hook, amount, "EUR", "")
    call(hook, -1, "EUR", "", error=ValueError())
    assert {key: cell[:4] + cell[5:] for key, cell in counted(hook).items()} == {("EUR",): [4, 203.5, -1, 200, 1]}


@pytest.mark.parametrize("durations", [[0.0], [1e-9, 0.003, 0.00301, 86400.0], [number * 1.01e-5 for number in range(1000)]], ids=len)
def test_durations_are_added_up_as_the_rules_say_however_many_come(durations: List[float]) -> None:
    hook = counting(by=["currency"])
    expected = {(key,): aggregate.new_cell() for key in ("EUR", "CHF")}
    for number, duration in enumerate(durations):
        key = "EUR" if number % 3 else "CHF"
        error = ValueError() if number % 5 == 1 else None
        hook.way.record((1, key, ""), None, error, duration, 0.0)
        aggregate.count(expected[key,], duration)
        expected[key,][aggregate.ERRORS] += error is not None
        if number % 100 == 7:
            counted(hook)  # who reads changes nothing
    expected = {key: cell for key, cell in expected.items() if cell[aggregate.COUNT]}
    found = counted(hook)
    assert {key: [*cell[:1], *cell[2:]] for key, cell in found.items()} == {key: [*cell[:1], *cell[2:]] for key, cell in expected.items()}
    assert {key: cell[aggregate.SUM] for key, cell in found.items()} == pytest.approx(
        {key: cell[aggregate.SUM] for key, cell in expected.items()}
    )


def test_who_reads_while_durations_come_finds_no_fewer_and_all_in_the_end() -> None:
    hook = counting()
    record, number = hook.way.record, 20_000
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [
            threading.Thread(target=lambda: [record((1, "EUR", ""), None, None, 0.001, 0.0) for _ in range(number)]) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        seen = [0]
        while any(thread.is_alive() for thread in threads):
            for cell in counted(hook).values():
                assert cell[aggregate.COUNT] == sum(cell[aggregate.BUCKETS].values())
                seen.append(cell[aggregate.COUNT])
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert seen == sorted(seen)
    assert counted(hook)[()][aggregate.COUNT] == 3 * number


def test_many_keys_let_few_durations_wait() -> None:
    hook = counting(by=["currency"])
    for number in range(30_000):
        hook.way.record((1, f"{number % 900}", ""), None, None, 0.001, 0.0)
    waiting = sum(len(cell) - 1 for _, table in hook.aggregate._tables for cell in table.values())
    assert waiting < 20_000
    assert sum(cell[aggregate.COUNT] for cell in counted(hook).values()) == 30_000


def test_a_number_that_is_always_the_same_is_only_counted_and_told_as_all_of_them() -> None:
    hook, other = counting(of="2", by=["currency"]), counting(of="amount", by=["currency"])
    for one in (hook, other):
        for currency in ("EUR", "EUR", "CHF"):
            call(one, 2, currency, "")
        call(one, 2, "EUR", "", error=ValueError())
    assert counted(hook) == counted(other)


def test_what_is_no_number_and_what_fails_is_not_counted() -> None:
    hook = counting(of="amount")
    for amount in ("1", None, float("inf"), 10**400):
        call(hook, amount, "EUR", "")
    assert (counted(hook), hook.totals()["unusable"]) == ({}, 4)
    hook = counting(of="amount.missing")
    call(hook, 1, "EUR", "")
    assert (counted(hook), hook.totals()["unusable"]) == ({}, 1)


@pytest.mark.parametrize("by", [["currency"], ["currency", "amount"]])
def test_more_keys_than_there_may_be_are_counted_together(by: List[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xpc_agent.hooks.aggregate.MOST_KEYS", 2)
    hook = counting(by=by)
    for currency in "ABCDA":
        call(hook, 1, currency, "")
    found = {key: cell[0] for key, cell in counted(hook).items()}
    assert (sorted(found.values()), found[aggregate.OTHER]) == ([1, 2, 2], 2)


def test_a_condition_keeps_from_being_counted_and_is_counted_itself() -> None:
    hook = counting(when="amount > 2")
    for amount in (1, 2, 3):
        call(hook, amount, "", "")
    assert ([cell[0] for cell in counted(hook).values()], hook.totals()["rejected"]) == ([1], 2)


def test_the_limit_is_of_the_calls_that_meet_the_condition() -> None:
    ended: List[Any] = []
    hook = counting(limit=2, ended=ended.append, when="amount > 2")
    for amount in (1, 2, 3, 1, 4, 5):
        call(hook, amount, "", "")
    assert ([cell[0] for cell in counted(hook).values()], hook.totals()["rejected"]) == ([2], 3)
    assert ended == [hook]
    # The same around the original.
    hook = counting(limit=2, when="amount > 2")
    for amount in (1, 3, 4, 5):
        assert hook.sole(charge, (amount, "", ""), {}, False) == amount
    assert ([cell[0] for cell in counted(hook).values()], hook.totals()["rejected"]) == ([2], 1)
    hook = counting(rate=1, when="amount > 2")
    for amount in [1] * 5 + [3]:
        call(hook, amount, "", "")
    assert ([cell[0] for cell in counted(hook).values()], hook.totals()["skipped"]) == ([1], {})


def test_what_is_redacted_is_no_key() -> None:
    hook = counting(by=["password"])
    call(hook, 1, "", "secret")
    assert list(counted(hook)) == [("<redacted>",)]


def test_a_forked_child_counts_from_nothing() -> None:
    hook = counting(by=["currency"])
    call(hook, 1, "EUR", "")
    hook.reset_after_fork(8)
    assert counted(hook) == {}
    call(hook, 1, "EUR", "")
    assert counted(hook)[("EUR",)][0] == 1
