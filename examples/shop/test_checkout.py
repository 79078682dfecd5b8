"""Tests the shop as it really runs, gunicorn with three workers, with a mock in the place of its payment gateway.

README.md beside this file says what to install. The fixtures `xpc_app` and `xpc` come with xpc-instrument; pytest.ini says how the shop
is started. A mock lives here, in the process of pytest: the three workers call it as if it had been assigned to `Gateway.post` in each.
"""

import json
import urllib.error
import urllib.request

import pytest

ORDER = {"items": {"tea": 2, "cup": 1}, "card": "4242"}
POST = "shop.gateway:Gateway.post"


@pytest.fixture
def buy(xpc_app):
    """Sends an order; returns what the shop answers: the status and the JSON."""

    def send(order=ORDER):
        request = urllib.request.Request(f"{xpc_app.url}/checkout", json.dumps(order).encode(), {"Content-Type": "application/json"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxy is set, not for this machine
        try:
            with opener.open(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    return send


def test_a_customer_pays_and_gets_a_receipt(xpc, buy):
    bank = xpc.patch(POST, return_value={"ok": True, "receipt": "r-1"})
    assert buy() == (200, {"receipt": "r-1", "paid": 2100})
    bank.assert_called_once_with("/charges", {"amount": 2100, "currency": "EUR", "card": "4242"})


def test_a_declined_card_is_told_to_the_customer(xpc, buy):
    xpc.patch(POST, return_value={"ok": False, "reason": "no money"})
    assert buy() == (402, {"error": "declined: no money"})


def test_a_bank_that_is_down_is_no_crash_of_the_shop(xpc, buy):
    from shop.gateway import GatewayError  # pytest puts this folder on sys.path

    xpc.patch(POST, side_effect=GatewayError("the bank is down"))
    assert buy() == (502, {"error": "the bank is down"})


def test_a_bank_that_is_down_now_and_then(xpc, buy):
    from shop.gateway import GatewayError

    bank = xpc.patch(POST, side_effect=[GatewayError("try again"), {"ok": True, "receipt": "r-2"}])
    assert buy() == (502, {"error": "try again"})
    assert buy() == (200, {"receipt": "r-2", "paid": 2100})
    assert bank.call_count == 2


def test_what_things_cost_is_asked_once_for_an_order(xpc, buy):
    xpc.patch(POST, return_value={"ok": True, "receipt": "r-3"})
    total = xpc.spy("shop.checkout:total")
    assert buy() == (200, {"receipt": "r-3", "paid": 2100})
    total.assert_called_once_with({"tea": 2, "cup": 1})
    assert total.spy_return == 2100


def test_a_price_that_another_function_gives(xpc, buy):
    xpc.patch(POST, return_value={"ok": True, "receipt": "r-4"})
    xpc.patch("shop.checkout:total", new=lambda items: 7)
    assert buy() == (200, {"receipt": "r-4", "paid": 7})


def test_a_card_is_charged_for_what_is_in_the_order_and_nothing_else(xpc, buy):
    bank = xpc.patch(POST, return_value={"ok": True, "receipt": "r-5"})
    buy({"items": {"cup": 2}, "card": "1881"})
    assert [call.args[1] for call in xpc.calls(bank)] == [{"amount": 2400, "currency": "EUR", "card": "1881"}]


def test_a_bank_that_never_comes_to_an_answer(xpc, buy):
    post = xpc.spy(POST)
    assert buy()[0] == 502
    assert "cannot be reached" in str(post.spy_exception)
    assert post.spy_duration < 5


def test_any_worker_may_answer(xpc, xpc_app, buy):
    bank = xpc.patch(POST, return_value={"ok": True, "receipt": "r-6"})
    for _ in range(5):
        buy()
    workers = {call.pid for call in xpc.calls(bank)}
    assert workers and workers <= set(xpc_app.session.pids) - {xpc_app.pid}


def test_without_a_mock_the_shop_asks_the_real_gateway(buy):
    assert buy() == (502, {"error": "the payment gateway at 127.0.0.1:1 cannot be reached"})
