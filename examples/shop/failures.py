"""Tests that fail, one for each way in which the plugin fails a test: `pytest failures.py` shows what a report looks like.

They are not collected by `pytest` alone. README.md says what each of them tells.
"""

from test_checkout import POST, buy  # noqa: F401 - a fixture


def test_other_arguments_than_expected(xpc, buy):  # noqa: F811
    bank = xpc.patch(POST, return_value={"ok": True, "receipt": "r-1"})
    buy()
    bank.assert_called_once_with("/charges", {"amount": 2100, "currency": "CHF", "card": "4242"})


def test_an_assert_in_a_stand_in(xpc, buy):  # noqa: F811
    def post(path, payload):
        assert payload["amount"] < 1000, "too dear for this test"

    xpc.patch(POST, side_effect=post)
    buy()


def test_outcomes_that_are_used_up(xpc, buy):  # noqa: F811
    xpc.patch(POST, side_effect=[{"ok": True, "receipt": "r-1"}])
    buy()
    buy()


def test_a_target_that_is_not_there(xpc):
    xpc.patch("shop.gateway:Gateway.pst")


def test_a_call_that_does_not_come(xpc, buy):  # noqa: F811
    bank = xpc.patch(POST, return_value={"ok": True, "receipt": "r-1"})
    total = xpc.spy("shop.checkout:total")
    buy({"items": {"tea": 1}, "card": "4242"})
    xpc.wait(bank, calls=2, timeout=0.1)
    total.assert_called_once()


def test_a_hook_that_is_left_armed(xpc_app):
    xpc_app.session.before("shop.checkout:total", print)


def test_the_application_fails(xpc, buy):  # noqa: F811
    xpc.patch(POST, side_effect=RuntimeError("nobody catches this"))
    assert buy()[0] == 502
