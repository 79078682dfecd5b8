"""Hooks that live in the application and count there: exact over threads, forks and removal, and nothing of the application runs for them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Callable, List

import pytest

import xpc_instrument
from tests.integration.app_fixture import App, start_app
from tests.integration.hooks.test_unwaited import EIGHT_THREADS
from tests.programs import Program
from xpc_instrument.core.model.errors import ExpressionError, TargetError


@pytest.fixture
def app(begin_app: Callable[..., App]) -> App:
    return begin_app('on-demand = ["shop:*"]\n[[probe]]\ntarget = "shop:root"\n[[probe]]\ntarget = "shop:*"\nallow = ["before", "after"]\n')


def test_calls_are_counted_by_key_with_a_number(app: App) -> None:
    with xpc_instrument.connect("shop") as session, session.stat("shop:charge", by="currency", of="amount") as table:
        app.evaluate("[shop.charge(i) for i in range(1, 101)] and [shop.charge(7, currency='CHF') for _ in range(3)] and None")
        app.evaluate("shop.charge(True)")
        euros, francs = table.rows()
        assert (euros.key, euros.count, euros.sum, euros.min, euros.max) == (("EUR",), 100, 5050, 1, 100)
        assert euros.p50 == pytest.approx(50, rel=0.016)
        assert euros.p95 == pytest.approx(95, rel=0.016)
        assert (francs.key, francs.count, francs.avg) == (("CHF",), 3, 7.0)
        assert table.unusable == 1
        assert app.evaluate("shop.charge(1)") == "'1 EUR'"


@pytest.mark.version
def test_the_thread_and_the_task_are_known_by_their_names(app: App) -> None:
    with xpc_instrument.connect("shop") as session:
        with session.stat(["shop:charge", "shop:wait_a_little"], by=["thread", "task"]) as table:
            with session.watch("shop:wait_a_little", when="task == 'Task-1'", show="thread") as calls:
                app.evaluate("shop.charge(1) and __import__('asyncio').run(shop.wait_a_little(1))")
                event = calls.take(5)
            assert {row.key for row in table.rows()} == {("MainThread", None), ("MainThread", "Task-1")}
        assert event is not None
        assert event.shown == {"thread": "MainThread"}


@pytest.mark.version
def test_every_kind_of_function_is_counted_until_it_ends(app: App) -> None:
    with xpc_instrument.connect("shop") as session:
        with session.monitor(
            ["shop:charge", "shop:fail", "shop:wait_a_little", "shop:count", "shop:acount", "shop:Order.*", "shop:root"]
        ) as now:
            app.evaluate(
                "[shop.charge(1), shop.Order.made(3), shop.Order.twice(2), shop.Order(1).total(), list(shop.count(3)), shop.root(4)]"
            )
            app.evaluate("shop.fail('no')")
            app.evaluate("__import__('asyncio').run(shop.wait_a_little(1))")
            app.evaluate("__import__('asyncio').run((lambda: (one async for one in shop.acount(2)).__anext__())())")
            rows = {row.target: row for row in now.rows()}
        assert {target for target, row in rows.items() if row.calls == 1} >= {
            "shop:charge",
            "shop:fail",
            "shop:wait_a_little",
            "shop:count",
            "shop:Order.made",
            "shop:Order.twice",
            "shop:Order.total",
            "shop:root",
        }
        assert rows["shop:fail"].errors == 1
        assert rows["shop:charge"].errors == 0
        assert all(0 <= row.p50 <= row.p99 <= row.max * 1.02 for row in rows.values())


def test_no_count_is_lost_between_threads_or_when_the_hook_is_removed(app: App) -> None:
    with xpc_instrument.connect("shop") as session:
        table = session.stat("shop:charge", by="amount", of="1")
        app.evaluate(EIGHT_THREADS.format(500))
        table.remove()
        rows = table.rows()
        assert len(rows) == 500
        assert {row.count for row in rows} == {8}
        assert table.calls == 4000


def test_keys_beyond_a_thousand_are_counted_together(app: App) -> None:
    with xpc_instrument.connect("shop") as session, session.stat("shop:charge", by="amount") as table:
        app.evaluate("[shop.charge(i) for i in range(1500)] and None")
        rows = table.rows()
        assert (len(rows), rows[0].key, rows[0].count) == (1001, ("(other)",), 500)


def test_a_condition_may_name_the_outcome(app: App) -> None:
    when = "result.startswith('1') and duration < 5 and exception is None"
    with xpc_instrument.connect("shop") as session, session.stat("shop:charge", when=when) as table:
        app.evaluate("[shop.charge(i) for i in range(20)] and None")
        assert [row.count for row in table.rows()] == [11]
        assert table.rejected == 9


def test_what_was_counted_stays_when_the_terms_are_over(app: App) -> None:
    with xpc_instrument.connect("shop") as session:
        for target in ("shop:charge", ["shop:charge", "shop:fail"]):
            with session.stat(target, limit=4, every=0.01) as table:
                app.evaluate("[shop.charge(i) for i in range(9)] and None")
                assert [row.count for row in table.rows()] == [4]
                assert table.over == "limit"
                assert list(table)[-1] == table.rows()
            with session.stat(target, expires=0.3) as table:
                # Before it is over, and after that.
                app.evaluate("[shop.charge(1), __import__('time').sleep(0.3), shop.charge(2)] and None")
                session.stats()
                assert [row.count for row in table.rows()] == [1]
                assert table.over == "expires"


def test_equal_keys_of_different_kinds_stay_apart(app: App) -> None:
    with (
        xpc_instrument.connect("shop") as session,
        session.stat("shop:charge", by="amount") as table,
    ):
        app.evaluate("[shop.charge(i) for i in (1, True, 1.0, None, '1', shop.Order, 10 ** 30)] and None")
        assert {repr(row.key[0]) for row in table.rows()} == {
            "1",
            "True",
            "1.0",
            "None",
            "'1'",
            "'<builtins.type>'",
            "'int beyond 64 bits'",
        }


def test_what_cannot_be_evaluated_is_refused_at_once(app: App) -> None:
    with xpc_instrument.connect("shop") as session:
        with pytest.raises(ExpressionError):
            session.stat("shop:charge", by="amount.__class__")
        with pytest.raises(TargetError, match="currency"):
            session.stat("shop:charge", by="curency")
        with pytest.raises(ValueError, match="depth"):
            session.callers("shop:charge", depth=0)
        assert [one for one in session.stats() if one.hooks] == []


def test_callers_are_told_by_their_frames(app: App) -> None:
    app.evaluate("exec('def one(): return shop.charge(1)\\ndef two(): return one()', globals())")
    with xpc_instrument.connect("shop") as session, session.callers("shop:charge", depth=2) as table:
        app.evaluate("[two(), two(), one()] and None")
        first, second = table.rows()
        assert (first.count, [frame[2] for frame in first.frames]) == (2, ["one", "two"])
        assert (second.count, [frame[2] for frame in second.frames]) == (1, ["one", "<module>"])
        assert first.frames[0][1] == 1


def test_it_counts_beside_hooks_that_are_called(app: App) -> None:
    with xpc_instrument.connect("shop") as session:
        seen = []
        session.before("shop:charge", lambda call: seen.append(call.args))
        with session.stat("shop:charge", by="currency") as table:
            app.evaluate("[shop.charge(1), shop.charge(2, 'CHF')]")
            assert [(row.key, row.count) for row in table.rows()] == [(("CHF",), 1), (("EUR",), 1)]
        app.evaluate("shop.charge(3)")
        assert [args[0] for args in seen] == [1, 2, 3]


def test_a_hook_that_costs_too_much_comes_to_rest_and_says_so(app: App) -> None:
    with xpc_instrument.connect("shop") as session, session.stat("shop:unique", by="1") as table:
        app.evaluate("[shop.unique() for _ in range(3_000_000)] and None")
        counted = table.rows()[0].count
        assert list(table.over_budget) == session.pids
        assert 0 < counted < 3_000_000
        assert "observing shop:unique took" in app.log()


def test_no_expression_that_is_shown_gives_a_secret_away(app: App) -> None:
    app.evaluate("exec('def pay(card, payload, key): return payload', shop.__dict__)")
    call = "shop.pay('4242', {'card': '4242', 'amount': 5}, 'card')"
    secret = [
        "card",
        "[card]",
        "card+''",
        "card[0:2]",
        "(card, 1)",
        "payload['card']",
        "payload[key]",
        "args",
        "args[0]",
        "kwargs",
        "payload",
    ]
    with xpc_instrument.connect("shop") as session:
        with session.watch("shop:pay", show=[*secret, "payload['amount']"], when="card.startswith('42')") as calls:
            with session.stat("shop:pay", by=["card", "payload['card']", "payload['amount']"]) as table:
                app.evaluate(call)
                assert [row.key for row in table.rows()] == [("<redacted>", "<redacted>", 5)]
            shown = next(calls).shown
        assert "4242" not in repr(shown)
        assert shown["payload['amount']"] == 5
        assert shown["payload[key]"].cut == shown["card"].cut == "redacted"
        assert shown["payload"]["card"].cut == "redacted"
        with pytest.raises(TargetError, match="redacted"):
            session.stat("shop:pay", of="card")


def test_what_is_watched_ends_where_it_costs_too_much(app: App) -> None:
    with xpc_instrument.connect("shop") as session, session.watch("shop:unique", rate=None, when="duration >= 0", depth=5) as calls:
        app.evaluate("shop.calls.extend([i, str(i)] for i in range(100))")
        while not calls.handle.over_budget:
            app.evaluate("[shop.unique() for _ in range(100_000)] and None")
        assert list(calls.handle.over_budget) == session.pids
        assert "observing shop:unique took" in app.log()


def test_what_is_made_for_a_hook_goes_with_it(app: App) -> None:
    made = "__import__('gc').collect() and 0 or sum('xpc_agent' in name for name in __import__('linecache').cache)"

    def some(session: xpc_instrument.Session, least: int) -> None:
        with session.watch("shop:charge", when=f"amount > {least}", show=["amount"]) as calls, session.stat("shop:charge", by=["amount"]):
            asked = session.before("shop:charge", print, when=f"amount > {least + 10}")
            app.evaluate("shop.charge(5)")
            assert next(calls).shown == {"amount": 5}
            asked.remove()

    with xpc_instrument.connect("shop") as session:
        some(session, 0)
        before = app.evaluate(made)
        for least in (1, 2, 3):
            some(session, least)
        assert app.evaluate(made) == before


def test_a_forked_child_counts_from_nothing_and_both_are_in_the_table(run_program: Callable[..., Program], tmp_path: Path) -> None:
    app = start_app(run_program, tmp_path)
    with xpc_instrument.connect("shop") as session, session.stat("shop:charge") as table:
        app.evaluate("[shop.charge(i) for i in range(2)] and None")
        calls = session.watch("shop:charge", limit=4, rate=None)
        elsewhere = f"pid != {app.program.pid} and amount == 0"
        asked: List[int] = []
        by_pid, shown = session.stat("shop:charge", by=["pid"]), session.watch("shop:charge", when=elsewhere, show=["pid"])
        session.before("shop:charge", lambda call: asked.append(call.pid), when=elsewhere)
        child = "__import__('os').fork() or ([shop.charge(i) for i in range(3)], __import__('time').sleep(60))"
        pid = int(app.evaluate(child))
        while len(session.pids) < 2 or table.rows()[0].count < 5 or calls.handle.delivered < 3:
            pass
        app.evaluate("[shop.charge(i) for i in range(3)] and None")
        # An expression has the pid of the process that it is evaluated in.
        assert {row.key: row.count for row in by_pid.rows()} == {(app.program.pid,): 3, (pid,): 3}
        assert asked == [pid]
        assert next(shown).shown == {"pid": pid}
        app.evaluate(f"(__import__('os').kill({pid}, 9), __import__('os').waitpid({pid}, 0)) and None")
        assert [row.count for row in table.rows()] == [8]
        # What the parent has told beyond the limit of both is not lost.
        calls.remove()
        assert (calls.handle.delivered, calls.dropped) == (4, 0)


def test_calls_are_watched_as_they_come_also_by_asyncio(app: App) -> None:
    with xpc_instrument.connect("shop") as session:
        with session.watch("shop:*", limit=3, rate=None) as calls:
            app.evaluate("[shop.charge(5), 2]")
            app.evaluate("shop.fail('no')")
            app.evaluate("[shop.charge(6, 'CHF'), shop.charge(7)]")
            one, two, three = list(calls)
        assert (one.target, dict(one.arguments), one.result) == ("shop:charge", {"amount": 5, "currency": "EUR"}, "5 EUR")
        assert (two.target, repr(two.exception), two.result) == ("shop:fail", "ValueError('no')", None)
        assert three.arguments["currency"] == "CHF"
        assert one.duration > 0

        async def watch() -> Any:
            return [event.arguments["amount"] async for event in session.watch("shop:charge", limit=2, entry=True)]

        async def both() -> Any:
            watching = asyncio.ensure_future(watch())
            while not session.handles:
                await asyncio.sleep(0)
            await asyncio.get_running_loop().run_in_executor(None, app.evaluate, "[shop.charge(8), shop.charge(9)]")
            return await watching

        assert asyncio.run(both()) == [8, 9]


def test_a_condition_and_what_is_shown_are_evaluated_in_the_application(app: App) -> None:
    with xpc_instrument.connect("shop") as session:
        with session.watch(
            "shop:*", when="amount > 2 and result != '5 EUR'", show=["amount", "currency.lower()"], stack=2, rate=None
        ) as calls:
            app.evaluate("[shop.charge(i) for i in range(7)] and shop.charge(9, [1])")
            events = [calls.take(5) for _ in range(4)]
        assert [event.shown["amount"] for event in events if event] == [3, 4, 6, 9]
        assert events[0].shown["currency.lower()"] == "eur"
        assert "WouldRunCode" in str(events[3].shown["currency.lower()"])
        assert events[0].stack[-1][2] == "<module>"
        assert not events[0].arguments


def test_values_are_captured_bounded_redacted_and_without_the_applications_code(app: App) -> None:
    with xpc_instrument.connect("shop") as session:
        with session.watch("shop:charge", depth=1) as calls:
            app.evaluate("shop.charge(shop.Order(3), list(range(50_000))) and None")
            event = calls.take(5)
        assert event is not None
        amount, currency = event.arguments["amount"], event.arguments["currency"]
        assert (amount.type, amount.number) == ("shop:Order", 3)
        assert (len(currency), currency[5], currency.cut) == (50_000, 5, "items")
        assert event.result.cut == "length"
        with session.watch("shop:fail", errors=True) as calls:
            app.evaluate("shop.fail({'password': 'secret', 'x': 'y' * 300})")
            event = calls.take(5)
        assert event is not None
        assert "secret" not in repr(event)
        assert event.exception.type == "ValueError"


def test_the_config_says_which_expressions_there_are_and_what_is_hidden(begin_app: Callable[..., App]) -> None:
    app = begin_app(
        '[redact]\nnames = ["amount"]\n[[probe]]\ntarget = "shop:charge"\n'
        '[[probe]]\ntarget = "shop:unique"\nexpressions = "off"\n[[probe]]\ntarget = "shop:fail"\nexpressions = "trusted"\n'
    )
    with xpc_instrument.connect("shop") as session:
        with session.watch("shop:charge") as calls:
            app.evaluate("shop.charge(1)")
            event = calls.take(5)
        assert event is not None
        assert event.arguments["amount"].cut == "redacted"
        with pytest.raises(TargetError, match="shop:unique"):
            session.stat("shop:unique", by="thread")
        session.stat("shop:unique").remove()
        with pytest.raises(ExpressionError, match="sum"):
            session.stat("shop:charge", by="sum([1])")
        with session.stat("shop:fail", by="text.upper()") as table, session.watch("shop:fail", show="sorted(text)") as shown:
            app.evaluate("shop.fail('no')")
            assert [row.key for row in table.rows()] == [("NO",)]
            assert next(shown).shown["sorted(text)"] == ["n", "o"]


def test_what_nobody_takes_is_dropped_and_counted(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xpc_instrument.script.watching.ROOM", 2)
    with xpc_instrument.connect("shop") as session:
        calls = session.watch("shop:charge", rate=None)
        app.evaluate("[shop.charge(i) for i in range(5)] and None")
        calls.remove()
        assert [event.arguments["amount"] for event in calls] == [0, 1]
        assert calls.dropped == 3


def test_stacks_targets_and_signatures_are_told(app: App) -> None:
    with xpc_instrument.connect("shop") as session:
        assert any(frame[2] == "<module>" for stack in session.stacks() for frame in stack.frames)
        assert not any("xpc_agent" in stack.frames[-1][0] for stack in session.stacks())
        assert str(session.signature("shop:charge")) == "(amount, currency=...)"
        assert session.signature("shop:nothing") is None
        assert "shop:Order.total" in [one.target for one in session.targets("shop")]


RAISING = """
import json

class Card:
    def __repr__(self):
        raise AssertionError("no code of the application runs")

def pay(amount, token, thing):
    fee = amount * 2
    return settle(fee)

def settle(fee):
    rest = [fee, fee]
    return json.loads("no json")

def shows(amount):
    seen = locals()
    try:
        return settle(amount)
    finally:
        assert seen == {"amount": amount}, seen
"""


@pytest.mark.version
def test_the_locals_of_its_own_frames_are_told_of_what_is_raised(begin_app: Callable[..., App], tmp_path: Path) -> None:
    (tmp_path / "raising.py").write_text(RAISING)
    app = begin_app('on-demand = ["raising:**"]\n[[probe]]\ntarget = "shop:*"\n')
    app.evaluate("__import__('raising') and None")
    with xpc_instrument.connect("shop") as session, session.watch(["raising:pay", "raising:shows"], locals=True) as watch:
        app.evaluate("__import__('raising').pay(3, token='secret', thing=__import__('raising').Card())")
        event = watch.take(20)
        assert event is not None
        pay, settle, *library = event.frames
        assert [(Path(file).name, name) for file, _, name, _ in (pay, settle)] == [("raising.py", "pay"), ("raising.py", "settle")]
        assert pay[3] is not None
        assert (pay[3]["amount"], pay[3]["fee"]) == (3, 6)
        assert "redacted" in repr(pay[3]["token"])
        assert "Card" in repr(pay[3]["thing"])
        assert settle[3] == {"fee": 6, "rest": [6, 6]}
        assert library
        assert all(variables is None for *_, variables in library)
        assert "JSONDecodeError" in app.evaluate("__import__('raising').shows(1)")
        event = watch.take(20)
        assert event is not None
        assert event.frames[1][3] == {"fee": 1, "rest": [1, 1]}
