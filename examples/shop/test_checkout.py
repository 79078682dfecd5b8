"""Tests the shop as it really runs, gunicorn with three workers, with a Mock in the place of its payment gateway.

README.md beside this file says what to install. The Mock lives here, in the process of pytest. The three workers call it as if it had been
assigned to `Gateway.post` in each of them.
"""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from unittest.mock import Mock

import pytest

import xpc_instrument

HERE = Path(__file__).resolve().parent
ORDER = {"items": {"tea": 2, "cup": 1}, "card": "4242"}


@pytest.fixture(scope="module")
def url():
    """The shop, unmodified, with the agent in it; where it listens."""
    run = [sys.executable, "-m", "xpc_instrument.cli", "run", "--"]
    gunicorn = [sys.executable, "-m", "gunicorn", "--workers", "3", "--bind", "127.0.0.1:0", "shop.web:app"]
    with subprocess.Popen([*run, *gunicorn], cwd=HERE, stderr=subprocess.PIPE, text=True) as server:
        for line in server.stderr:
            if "Listening at: " in line:
                break
        else:
            raise RuntimeError(f"gunicorn ended with status {server.wait()}")
        yield line.partition("Listening at: ")[2].split()[0]
        server.terminate()
        server.communicate(timeout=30)


@pytest.fixture
def app(url):
    """A session with the shop: all its workers, and those that gunicorn starts later. When it ends, the shop is as it was."""
    with xpc_instrument.connect("shop", timeout=10) as session:
        yield session


def buy(url):
    """What the shop answers: the status and the JSON."""
    request = urllib.request.Request(f"{url}/checkout", json.dumps(ORDER).encode(), {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxy is set, not for this machine
    try:
        with opener.open(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_a_customer_pays_and_gets_a_receipt(url, app):
    bank = Mock(return_value={"ok": True, "receipt": "r-1"})
    app.instead("shop.gateway:Gateway.post", bank)
    assert buy(url) == (200, {"receipt": "r-1", "paid": 2100})
    bank.assert_called_once_with("/charges", {"amount": 2100, "currency": "EUR", "card": "4242"})


def test_a_declined_card_is_told_to_the_customer(url, app):
    app.instead("shop.gateway:Gateway.post", Mock(return_value={"ok": False, "reason": "no money"}))
    assert buy(url) == (402, {"error": "declined: no money"})


def test_a_bank_that_is_down_is_no_crash_of_the_shop(url, app):
    from shop.gateway import GatewayError  # pytest puts this folder on sys.path

    app.instead("shop.gateway:Gateway.post", Mock(side_effect=GatewayError("the bank is down")))
    assert buy(url) == (502, {"error": "the bank is down"})


def test_without_the_mock_the_shop_asks_the_real_gateway(url):
    assert buy(url) == (502, {"error": "the payment gateway at 127.0.0.1:1 cannot be reached"})
