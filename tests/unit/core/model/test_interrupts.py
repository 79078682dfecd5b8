"""What interrupts a thread is told from what fails in code of ours, and is raised on as it was."""

from __future__ import annotations

import ctypes
import functools
import pickle
import signal
import threading
from typing import Any, Callable, Optional

import pytest

from xpc_instrument.core.model.errors import ChannelError, PayloadError
from xpc_instrument.core.model.interrupts import interrupt_in, raise_interrupt

OURS = "xpc_instrument.made_for_a_test"


class Limit(Exception):
    """A time limit of the application's."""


def ours(source: str, **names: Any) -> Callable[..., Any]:
    """The function `run` of a module of ours."""
    module = {"__name__": OURS, **names}
    exec(source, module)
    made: Callable[..., Any] = module["run"]
    return made


def caught(run: Callable[[], Any]) -> BaseException:
    with pytest.raises(Exception) as caught:
        run()
    # As `except` in code of ours has it: the frames of this test are none of ours.
    error = caught.value
    error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
    return error


def raised_by(handler: Callable[..., Any], run: Callable[[], Any]) -> BaseException:
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        return caught(run)
    finally:
        signal.signal(signal.SIGUSR1, before)


interrupted = ours("def run():\n    signal.raise_signal(signal.SIGUSR1)\n", signal=signal)


def with_frame(number: int, frame: Any) -> None:
    raise TimeoutError("too late")


def with_all(*_: Any) -> None:
    raise TimeoutError("too late")


def without_frame(number: int, frame: Any) -> None:
    del number, frame
    raise TimeoutError("too late")


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="there are no such signals")
@pytest.mark.parametrize("handler", [with_frame, with_all, without_frame, functools.partial(with_all, 1)])
@pytest.mark.parametrize("of_values", [False, True])
def test_what_a_signal_handler_raises_is_an_interrupt(handler: Callable[..., Any], of_values: bool) -> None:
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        error = caught(interrupted)
        assert interrupt_in(error, of_values=of_values) is error
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("kind", [Limit, TimeoutError, ValueError, Exception])
@pytest.mark.parametrize("of_values", [False, True])
def test_what_another_thread_sets_is_an_interrupt(kind: type, of_values: bool) -> None:
    run = ours("def run():\n    begin()\n    while True:\n        pass\n", begin=None)
    victim = threading.get_ident()

    def limit() -> None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(victim), ctypes.py_object(kind))

    run.__globals__["begin"] = lambda: threading.Thread(target=limit).start()
    error = caught(run)
    assert type(error) is kind
    assert interrupt_in(error, of_values=of_values) is error


@pytest.mark.parametrize(
    "source",
    [
        "def run():\n    return {}['key']\n",
        "def run():\n    raise ValueError\n",
        "def run():\n    raise Limit\n",
        "def run():\n    return [].pop()\n",
        "def run():\n    return next(iter(()))\n",
        "def run():\n    return json.loads('{')\n",
        "def run():\n    assert False\n",
        "def run():\n    return None.attribute\n",
    ],
)
def test_what_fails_in_code_of_ours_is_none(source: str) -> None:
    import json

    assert interrupt_in(caught(ours(source, json=json, Limit=Limit))) is None


class Unpicklable:
    def __reduce__(self) -> Any:
        raise Limit("cannot be saved")


def test_what_code_of_a_value_raises_is_none() -> None:
    run = ours("def run():\n    pickle.dumps(value)\n", pickle=pickle, value=Unpicklable())
    assert interrupt_in(caught(run), of_values=True) is None


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="there are no such signals")
def test_a_failure_that_was_made_of_it_leads_to_it_but_what_was_handled_before_does_not() -> None:
    error = raised_by(with_frame, interrupted)
    broken = ChannelError("broken")
    broken.__cause__ = error
    assert interrupt_in(broken) is error
    other = ChannelError("another")
    other.__context__ = error
    assert interrupt_in(other) is None
    # Where values are pickled that has been looked at already.
    payload = PayloadError("cannot be pickled")
    payload.__cause__ = error
    assert interrupt_in(payload) is None


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="there are no such signals")
def test_it_is_raised_on_as_it_was() -> None:
    error = raised_by(with_frame, interrupted)
    before: Optional[BaseException] = error.__context__
    try:
        raise ChannelError("broken") from error
    except ChannelError as broken:
        with pytest.raises(TimeoutError) as raised:
            raise_interrupt(broken)
    assert raised.value is error
    assert error.__context__ is before
    assert error.__cause__ is None
