"""Hooks with a condition, in every mode and on every kind of function."""

from __future__ import annotations

from typing import Any, Callable, List

import pytest

import xpc_instrument
from tests.integration.app_fixture import App
from xpc_instrument import ExpressionError, TargetError


@pytest.fixture
def app(begin_app: Callable[..., App]) -> App:
    return begin_app(
        '[[probe]]\ntarget = "shop:*"\n[[probe]]\ntarget = "shop:Order.*"\n[[probe]]\ntarget = "shop:root"\n'
        '[[probe]]\ntarget = "shop:nested"\nexpressions = "trusted"\n[[probe]]\ntarget = "shop:fail"\nexpressions = "off"\n'
    )


@pytest.mark.version
def test_a_condition_is_asked_in_every_mode_and_on_every_kind_of_function(app: App) -> None:
    seen: List[Any] = []
    with xpc_instrument.connect("shop") as session:
        note = seen.append
        with session.before("shop:charge", lambda call: note(("before", call.arguments["amount"])), when="amount > 100"):
            app.evaluate("[shop.charge(n) for n in (1, 200, 50, 300)] and None")
            assert seen == [("before", 200), ("before", 300)]
        seen.clear()
        with session.after("shop:charge", lambda call: note(call.result), when="amount > 1 and result.startswith('3') and duration < 10"):
            app.evaluate("[shop.charge(n) for n in (1, 200, 300)] and None")
            assert seen == ["300 EUR"]
        with session.around("shop:charge", lambda call: "no", when="amount == 200 and 'EUR' in args"):
            assert app.evaluate("[shop.charge(n) for n in (1, 200, 300)]") == "['1 EUR', 'no', '300 EUR']"
        with session.instead("shop:charge", lambda *args, **kwargs: "no", when="currency != 'EUR' and not kwargs"):
            assert app.evaluate("[shop.charge(1), shop.charge(1, 'CHF'), shop.charge(amount=1, currency='USD')]") == "['1 EUR', 'no', 'no']"
        seen.clear()
        with session.after("shop:charge", lambda call: note(call.args), when="amount > 100 and target == 'shop:charge'", wait=False):
            app.evaluate("[shop.charge(n) for n in (1, 200, 300)] and None")
        assert [args[0] for args in seen] == [200, 300]
        seen.clear()
        with session.before("shop:count", lambda call: note("generator"), when="number == 3 and pid > 0"):
            app.evaluate("list(shop.count(2)) + list(shop.count(3))")
        with session.around("shop:wait_a_little", lambda call: note("async") or call.proceed(), when="number == 2 and task != None"):
            app.evaluate("[__import__('asyncio').run(shop.wait_a_little(n)) for n in (1, 2)]")
        with session.before("shop:Order.total", lambda call: note("method"), when="self.number == 7 and thread"):
            app.evaluate("[shop.Order(n).total() for n in (1, 7)]")
        with session.before("shop:root", lambda call: note("C"), when="args[0] == 9 and not kwargs"):
            app.evaluate("[shop.root(n) for n in (4, 9)]")
        assert seen == ["generator", "async", "method", "C"]
        # Several on one function: each asks its own.
        seen.clear()
        with (
            session.before("shop:charge", lambda call: note("a"), when="amount < 5"),
            session.around("shop:charge", lambda call: note("b") or call.proceed(), when="amount > 2"),
        ):
            assert app.evaluate("[shop.charge(n) for n in (1, 3, 9)]") == "['1 EUR', '3 EUR', '9 EUR']"
        assert seen == ["a", "a", "b", "b"]


def test_what_is_rejected_and_what_fails_is_counted(app: App) -> None:
    with xpc_instrument.connect("shop") as session:
        with session.before("shop:charge", lambda call: None, when="amount > 100", limit=2):
            app.evaluate("[shop.charge(n) for n in (1, 200, 50)] and None")
            (stats,) = [one for one in session.stats() if one.target == "shop:charge"]
            assert (stats.calls, stats.skipped) == (1, {"when": 2})
            app.evaluate("shop.charge(300)")
            app.evaluate("shop.charge(300)")
        with session.before("shop:charge", lambda call: None, when="amount[0] > currency.x"):
            app.evaluate("[shop.charge(n) for n in range(150)] and None")
            (stats,) = [one for one in session.stats() if one.target == "shop:charge"]
            assert stats.skipped["when"] == 152
            assert stats.failures == {"would-run-code": 100}
            assert stats.suspensions == 1


def test_what_a_condition_may_say_is_decided_in_the_application(app: App) -> None:
    with xpc_instrument.connect("shop") as session:
        for target, when, seen in [
            ("shop:charge", "amonut > 1", "did you mean 'amount'"),
            ("shop:charge", "amount >", "Python expression"),
            ("shop:charge", "amount.bit_length()", "bit_length"),
            ("shop:charge", "result == 1", "known once the call has ended"),
            ("shop:fail", "True", "does not allow expressions"),
            ("shop:root", "x > 1", "args"),
        ]:
            with pytest.raises(ExpressionError, match="(?s)" + seen):
                session.before(target, print, when=when)
        with pytest.raises(TargetError):
            session.before("shop:nothing", print, when="x")
        (stats,) = [one for one in session.stats() if one.target == "shop:charge"]
        assert not stats.hooks
        seen_names: List[Any] = []
        with session.before(
            "shop:nested", lambda call: seen_names.append(call.args[0]), when="str(depth).isdigit() and sorted([depth]) == [0]"
        ):
            app.evaluate("shop.nested(2)")
        assert seen_names == [0]


def test_nothing_of_the_application_runs_for_a_condition(app: App) -> None:
    condition = "amount.price > 1 or amount == 1 or amount or len(amount)"
    with xpc_instrument.connect("shop") as session:  # noqa: SIM117
        with session.before("shop:charge", lambda call: None, when=condition):
            app.evaluate(
                "exec('class Evil:\\n"
                " def __getattribute__(self, name): shop.ran = name\\n"
                " def __eq__(self, other): shop.ran = 1\\n"
                " def __bool__(self): shop.ran = 2\\n"
                " def __len__(self): shop.ran = 3\\n"
                ' def __format__(self, spec): return "evil"\\n'
                "shop.evil = Evil()', {'shop': shop})"
            )
            assert app.evaluate("shop.charge(shop.evil)") == "'evil EUR'"
            assert app.evaluate("getattr(shop, 'ran', None)") == "None"
