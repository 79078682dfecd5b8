"""Tests the shop as it really runs, uvicorn with two workers, with mocks in the place of its bank.

README.md beside this file says what to install. The fixtures `xpc_app` and `xpc` come with xpc-instrument; pytest.ini says how the shop
is started.
"""

import asyncio
import json
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

ORDER = {"items": {"tea": 2, "cup": 1}, "card": "4242", "mail": "ada@example.com"}
CHARGE = "shop.bank:Bank.charge"


@pytest.fixture
def ask(xpc_app):
    """Sends a request, with a body as JSON if there is one; returns the status and the JSON of the answer."""

    def send(path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{xpc_app.url}{path}", data, {"Content-Type": "application/json"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxy is set, not for this machine
        try:
            with opener.open(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    return send


def test_a_customer_pays_and_gets_a_receipt(xpc, ask):
    charge = xpc.patch(CHARGE, return_value="r-1")
    assert ask("/checkout", ORDER) == (200, {"receipt": "r-1", "paid": 2100})
    charge.assert_awaited_once_with(2100, card="4242")


def test_a_bank_that_is_down_is_no_crash_of_the_shop(xpc, ask):
    from shop.bank import BankError  # pytest puts this folder on sys.path

    xpc.patch(CHARGE, side_effect=BankError("closed on Sundays"))
    assert ask("/checkout", ORDER) == (502, {"error": "closed on Sundays"})


def test_a_bank_that_is_slow_is_given_up(xpc, ask):
    async def slow(amount, **kwargs):
        await asyncio.sleep(1.5)
        return "too late"

    xpc.patch(CHARGE, side_effect=slow)
    assert ask("/checkout", ORDER) == (504, {"error": "the bank is too slow"})


def test_a_slow_answer_delays_no_other(xpc, ask):
    async def slow(amount, **kwargs):
        await asyncio.sleep(0.1)
        return f"r-{amount}"

    xpc.patch(CHARGE, side_effect=slow)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda count: ask("/checkout", {"items": {"cup": count}, "card": "1"}), range(1, 9)))
    assert [answer[1]["receipt"] for answer in answers] == [f"r-{1200 * count}" for count in range(1, 9)]


def test_a_customer_is_thanked_once_the_request_is_answered(xpc, ask):
    xpc.patch(CHARGE, return_value="r-2")
    thank = xpc.spy("shop.mail:thank")
    ask("/checkout", ORDER)
    xpc.wait(thank)  # it runs in the background
    thank.assert_called_once_with("ada@example.com", "r-2")


def test_a_customer_without_an_address_is_not_thanked(xpc, ask):
    xpc.patch(CHARGE, return_value="r-3")
    thank = xpc.spy("shop.mail:thank")
    assert ask("/checkout", {**ORDER, "mail": ""})[0] == 200
    xpc.wait(thank)
    assert isinstance(thank.spy_exception, ValueError)


def test_what_things_cost_is_asked_once_for_an_order(xpc, ask):
    xpc.patch(CHARGE, return_value="r-4")
    total = xpc.spy("shop.web:total")
    ask("/checkout", ORDER)
    total.assert_called_once_with({"tea": 2, "cup": 1})
    assert total.spy_return == 2100


def test_receipts_come_one_after_the_other(xpc, ask):
    receipts = xpc.spy("shop.bank:Bank.receipts")
    assert ask("/receipts/monday") == (200, ["monday-0", "monday-1", "monday-2"])
    receipts.assert_called_once_with("monday")


def test_each_order_is_charged_once_in_whatever_worker(xpc, xpc_app, ask):
    charge = xpc.patch(CHARGE, side_effect=["r-5", "r-6"])
    assert [ask("/checkout", ORDER)[1]["receipt"] for _ in range(2)] == ["r-5", "r-6"]
    assert {call.pid for call in xpc.calls(charge)} <= set(xpc_app.session.pids)


def test_without_a_mock_the_shop_asks_the_real_bank(ask):
    assert ask("/checkout", ORDER) == (502, {"error": "the bank at 127.0.0.1:1 cannot be reached"})
