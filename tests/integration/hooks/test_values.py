"""Which values a hook in another process gets, and which objects the application goes on with."""

from __future__ import annotations

import threading
from typing import Any, Callable, List
from unittest.mock import Mock

import pytest

import xpc_instrument
from tests.integration.app_fixture import App
from tests.programs import PATIENCE
from xpc_instrument import Session
from xpc_instrument.core.discovery import entry as discovery
from xpc_instrument.core.values.references import Reference

# Runs none of its code without an error, and tells whether the objects that were passed are those that arrived.
UNTOUCHABLE = """
def refuse(*args):
    raise AssertionError("it ran")
Untouchable = type("Untouchable", (), dict.fromkeys(
    ["__reduce__", "__reduce_ex__", "__getstate__", "__repr__", "__eq__", "__hash__", "__len__", "__iter__", "__bool__", "__del__"], refuse))
def passed(value, **more):
    shop.charge(value, **more)
    return shop.calls.pop() is value
"""
ENTRY = """
seen = []
class Registering(type):
    made = []
    def __new__(mcs, name, bases, space):
        Registering.made.append(name)
        return super().__new__(mcs, name, bases, space)
class Entry(metaclass=Registering):
    count = 0
    def __init__(self, number):
        self.number = number
    def double(self):
        seen.append(self.number)
        return self.number * 2
def state():
    return Entry.double.__globals__ is globals(), Entry.count, Registering.made, type(shop.calls[-1]) is Entry, shop.calls[-1].double(), seen
"""


def run(app: App, text: str) -> None:
    assert app.evaluate(f"exec({text!r}, vars(__import__('__main__')))") == "None"


@pytest.mark.version
@pytest.mark.parametrize("made", ["Untouchable()", "[Untouchable()]", "{'a': Untouchable()}", "shop.threading.Lock()", "(i for i in [1])"])
def test_hooks_that_look_get_a_reference_and_run_nothing(app: App, session: Session, made: str) -> None:
    run(app, UNTOUCHABLE)
    seen: List[Any] = []
    session.before("shop:charge", lambda call: seen.append(type(call.args[0])))
    session.after("shop:unique", lambda call: seen.append(type(call.result)))
    session.around("shop:charge", lambda call: call.proceed())
    session.around("shop:unique", lambda call: call.proceed())
    session.before("shop:charge", lambda call: None, wait=False)
    # The original formats its argument, which these refuse.
    run(app, f"kept = {made}")
    run(
        app,
        "def unformatted():\n    try:\n        shop.charge(kept)\n    except AssertionError:\n        pass\n    return shop.calls[-1] is kept\n",
    )
    assert app.evaluate("unformatted()") == "True"
    assert app.evaluate("shop.unique() is shop.calls") == "True"
    assert seen == [Reference, Reference]


@pytest.mark.parametrize("values", ["reference", "copy"])
def test_what_a_hook_leaves_as_it_came_is_the_very_object(app: App, session: Session, values: Any) -> None:
    run(app, UNTOUCHABLE)

    @session.around("shop:charge", values=values)
    def change(call: Any) -> Any:
        call.args = (call.args[0], "changed")
        return call.proceed()

    for made in ("[1, [2]]", "{'a': [1]}", "'x' * 5000", "shop.Order(3)", "1 << 70", "bytearray(10)"):
        assert app.evaluate(f"passed({made}, currency='EUR')") == "True"
    assert app.evaluate("shop.charge(1, currency='EUR')") == "'1 changed'"
    # Equal, though not the object that came.
    change_back = session.around(
        "shop:charge", lambda call: (setattr(call, "args", (list(call.args[0]), *call.args[1:])), call.proceed())[1], values=values
    )
    assert app.evaluate("passed([1, 2], currency='EUR')") == "True"
    change_back.remove()
    session.around("shop:charge", lambda call: (call.args[0].append(3), call.proceed())[1], values=values)
    assert app.evaluate("passed([1, 2], currency='EUR')") == "False"


def test_arguments_that_change_places_are_the_very_objects(app: App, session: Session) -> None:
    def swap(call: Any) -> Any:
        call.args, call.kwargs = (call.args[1],), {"currency": call.args[0]}
        return call.proceed()

    session.around("shop:charge", swap)
    assert app.evaluate("(lambda a, b: (shop.charge(a, currency=b), shop.calls.pop() is b)[1])([1], {2: [3]})") == "True"


def test_a_result_that_is_handed_back_equal_is_the_very_object(app: App, session: Session) -> None:
    app.evaluate("shop.calls.extend([1, 2])")
    handle = session.around("shop:unique", lambda call: list(call.proceed()))
    assert app.evaluate("shop.unique() is shop.calls") == "True"
    handle.remove()
    session.around("shop:unique", lambda call: [*call.proceed(), True])
    assert app.evaluate("shop.unique()") == "[1, 2, True]"


@pytest.mark.version
def test_a_reference_gives_its_items_each_on_its_own_and_a_copy_of_itself(app: App, session: Session) -> None:
    seen: List[Any] = []

    @session.before("shop:charge")
    def look(call: Any) -> None:
        seen.append([type(one) for one in call.args[0]])
        first, number = call.args[0]
        seen.append((first.number, number, call.args[1].copy()))
        with pytest.raises(xpc_instrument.PayloadError):
            first.copy()

    app.evaluate("shop.charge([shop.Order(5), 6], currency=range(3))")
    assert seen == [[Reference, int], (5, 6, range(3))]


def test_references_of_a_target_that_may_only_be_observed_are_read_and_not_called(begin_app: Callable[..., App]) -> None:
    app = begin_app('[[probe]]\ntarget = "shop:charge"\nallow = ["before", "after"]\n')
    seen: List[Any] = []
    with xpc_instrument.connect("shop") as session:

        @session.before("shop:charge")
        def look(call: Any) -> None:
            seen.append(call.args[0].number)
            for use in (lambda: call.args[0].total(), lambda: call.args[0][0]):
                with pytest.raises(xpc_instrument.PayloadError, match="can be read, and no more"):
                    use()

        app.evaluate("shop.charge(shop.Order(5))")
    assert seen == [5]


@pytest.mark.version
def test_a_generator_gives_a_hook_no_more_items_than_it_takes(app: App, session: Session) -> None:
    taken: List[Any] = []
    handle = session.before("shop:charge", lambda call: taken.extend([next(call.args[0]), next(iter(call.args[0]))]))
    run(app, "numbers = iter(range(5))\nmade = (number for number in numbers)\nshop.charge(made)")
    assert app.evaluate("list(numbers)") == "[2, 3, 4]"
    assert taken == [0, 1]
    handle.remove()
    session.before("shop:charge", lambda call: taken.append(sum(call.args[0])))
    app.evaluate("shop.charge(set(range(3000)))")
    assert taken[2:] == [sum(range(3000))]


def test_a_reference_is_compared_assigned_and_told_by_its_class(app: App, session: Session) -> None:
    seen: List[Any] = []

    @session.before("shop:charge")
    def look(call: Any) -> None:
        order = call.args[0]
        with pytest.raises(xpc_instrument.PayloadError, match=r"register it with around\(\)"):
            order.number = 6
        seen.append((order == call.args[0], order == 5, isinstance(order, dict)))

    @session.around("shop:charge")
    def change(call: Any) -> Any:
        call.args[0].number += 1
        seen.append((call.args[1], str(call.args[0]).startswith("<shop.Order object at"), call.args[0] == call.args[0]))
        assert isinstance(call.args[0], xpc_instrument.Reference)
        return call.proceed()

    run(app, "kept = shop.Order(5)\nshop.charge(kept, currency='EUR')")
    assert app.evaluate("kept.number, shop.calls[-1] is kept") == "(6, True)"
    assert seen == [(True, False, False), ("EUR", True, True)]


def test_an_async_hook_uses_references_as_any_other(app: App, session: Session) -> None:
    seen: List[Any] = []

    async def change(call: Any) -> Any:
        order = call.args[0]
        seen.extend([order.number, order.total(2), order == order, isinstance(order, dict), next(call.args[1])])
        order.number = 7
        return await call.proceed_async()

    session.around("shop:charge", change)
    run(app, "kept, rest = shop.Order(5), iter([object(), 1, 2])\nshop.charge(kept, currency=rest)")
    assert seen[:4] == [5, 10, True, False]
    assert type(seen[4]) is Reference
    assert app.evaluate("kept.number, shop.calls[-1] is kept, list(rest)") == "(7, True, [1, 2])"


@pytest.mark.version
def test_an_exception_that_refers_to_an_object_is_told_of_without_its_code(app: App, session: Session, caplog: Any) -> None:
    run(app, UNTOUCHABLE + "ran = []\nUntouchable.__str__ = lambda self: ran.append('str') or 'a text'\n")
    told: List[Any] = []

    def raise_it_again(call: Any) -> None:
        assert type(call.args[0]) is type(call.exception.args[0]) is Reference
        raise call.exception

    handle = session.after("shop:fail", raise_it_again)
    is_told = threading.Event()
    handle.on_failure(lambda error: (told.append(error), is_told.set()))
    run(app, "kept = Untouchable()\ntry:\n    shop.fail(kept)\nexcept ValueError as error:\n    same = error.args[0] is kept")
    assert app.evaluate("same") == "True"
    # After the answer.
    assert is_told.wait(PATIENCE)
    assert [type(one) for one in told] == [ValueError]
    assert app.evaluate("ran") == "[]"
    assert "Untouchable at 0x" in caplog.text


@pytest.mark.parametrize("mode", ["instead", pytest.param("around", marks=pytest.mark.version), "manager"])
def test_a_class_of_the_applications_own_program_is_never_replaced(app: App, session: Session, mode: str) -> None:
    run(app, ENTRY)
    if mode == "instead":
        # Sent back by a stand-in, as it came.
        session.instead("shop:unique", Mock(side_effect=lambda: kept[0]))
        kept: List[Any] = []
        session.instead("shop:charge", lambda entry, currency: kept.append(entry))
        run(app, "Entry.count = 1\nshop.charge(Entry(4), None)\nEntry.count = 2\nshop.calls.append(shop.unique())")
    elif mode == "around":

        @session.around("shop:charge", values="copy")
        def change(call: Any) -> Any:
            call.args[0].number += 1
            return call.proceed()

        run(app, "Entry.count = 2\nshop.charge(Entry(3))")
    else:
        manager = xpc_instrument.Manager(address=address())
        manager.connect(timeout=10)
        with manager:
            manager.register("echo", lambda entry: entry)
            run(app, "Entry.count = 2\nimport xpc_instrument\n")
            run(app, f"joined = xpc_instrument.Manager(address={address()!r})\njoined.connect(timeout=10)")
            run(app, "shop.calls.append(joined.call('echo', Entry(4))[0])\njoined.shutdown()")
    assert app.evaluate("state()") == "(True, 2, ['Entry'], True, 8, [4])"


def address() -> Any:
    return discovery.processes("shop")[0].address
