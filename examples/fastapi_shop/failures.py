"""Tests that fail, one for each way in which the plugin fails a test: `pytest failures.py` shows what a report looks like.

`pytest` alone does not collect them. README.md says where this shop is started.
"""

import asyncio

from test_checkout import CHARGE, ORDER, ask  # noqa: F401 - a fixture


def test_other_arguments_than_expected(xpc, ask):  # noqa: F811
    bank = xpc.patch(CHARGE, return_value="r-1")
    ask("/checkout", ORDER)
    bank.assert_awaited_once_with(2100, card="1881")


def test_an_assert_in_a_stand_in(xpc, ask):  # noqa: F811
    async def charge(amount, *, card, currency="EUR"):
        await asyncio.sleep(0)
        assert amount < 1000, "too dear for this test"

    xpc.patch(CHARGE, side_effect=charge)
    ask("/checkout", ORDER)


def test_outcomes_that_are_used_up(xpc, ask):  # noqa: F811
    xpc.patch(CHARGE, side_effect=["r-1"])
    ask("/checkout", ORDER)
    ask("/checkout", ORDER)


def test_a_target_that_is_not_there(xpc):
    xpc.patch("shop.bank:Bank.chrge")


def test_work_in_the_background_that_does_not_come(xpc):
    thank = xpc.spy("shop.mail:thank")
    xpc.wait(thank, timeout=0.1)


def test_a_hook_that_is_left_armed(xpc_app):
    xpc_app.session.before("shop.web:total", print)
