"""What interrupts the application's thread while our code runs, and so is the application's and no failure of ours: what a signal handler
raises, what `PyThreadState_SetAsyncExc` sets, what a library throws into a greenlet. A time limit, say, is often an ordinary exception,
even an OSError; without us it would have been raised in the middle of the original.

Whoever contains what is raised while our code runs (`except Exception`) says what it contains by asking `raise_interrupt` first.

Rules:
- A signal handler is known by its argument, the frame that it has interrupted, which is also its caller; or by being a handler now.
- What nothing in our code raises is known by three signs. It was not raised by a `raise` statement. It was made without arguments, as the
  interpreter makes it of a class; C gives arguments to nearly all that it raises. Or its class is neither of the standard library nor of a
  library that we call, and yet it was raised in code of these.
- Where code of the application's values runs (they are pickled, a reference is used) that code may raise whatever it likes: there the class
  says nothing (`of_values`). The same goes, and is quickly answered, where an error of C that was called right there is expected.
- A failure of ours that was made of it (`raise ... from`) counts too; what the application was handling before (`__context__`) does not.
- Frames of ours are not looked into: before Python 3.13 a frame keeps what `f_locals` gave, the error included, and would live, with all
  that it holds, until the garbage collector finds the cycle.
"""

from __future__ import annotations

import importlib
import sys
from opcode import opmap
from types import CodeType, FrameType, TracebackType
from typing import Any, Optional, Set

from .errors import PayloadError

# Below `signal`, which makes enums.
_signal: Any = importlib.import_module("_signal")

_OURS = frozenset(("xpc_agent", "xpc_instrument"))
# What our code calls beside the standard library; up to Python 3.9 that does not say what is of it, and this is what we call of it.
_CALLED = frozenset(("cloudpickle", "wrapt", "greenlet", "gevent", "eventlet", "trio", "outcome", "sniffio", "uvloop", "anyio"))
_STANDARD = frozenset(
    getattr(sys, "stdlib_module_names", None)
    or (
        *("_asyncio", "_collections", "_pickle", "_queue", "_socket", "_thread", "_weakref", "abc", "ast", "asyncio", "builtins"),
        *("codecs", "collections", "concurrent", "contextlib", "copyreg", "functools", "importlib", "inspect", "io", "itertools", "json"),
        *("linecache", "logging", "mmap", "os", "pickle", "pickletools", "posix", "queue", "random", "re", "select", "selectors"),
        *("signal", "socket", "ssl", "struct", "sys", "threading", "time", "tokenize", "traceback", "types", "typing", "weakref"),
    )
)
_KNOWN = _OURS | _CALLED | _STANDARD
# Raised by C without arguments; and `queue.Empty`, by its module.
_BARE = frozenset(map(id, (StopIteration, StopAsyncIteration, MemoryError)))
_BARE_OF = "_queue"

# CO_VARARGS: `inspect` costs an application's start-up some milliseconds.
_VARARGS = 4

_module_of = type.__dict__["__module__"].__get__
# Its own, whatever its class makes of these names, or of assignments.
_own = BaseException.__dict__
_args_of, _cause_of, _trace_of = _own["args"].__get__, _own["__cause__"].__get__, _own["__traceback__"].__get__
_context_of, _set_context = _own["__context__"].__get__, _own["__context__"].__set__


def raise_interrupt(error: BaseException, *, of_values: bool = False) -> None:
    """Raise on what has interrupted the thread, as it was, if `error` is that or was made of it; return if it is a failure of ours.

    To be called first in the `except` that contains it.
    """
    found = interrupt_in(error, of_values=of_values)
    if found is None:
        return
    # As it was: not as something that came of a failure of ours.
    context = _context_of(found)
    try:
        raise found
    finally:
        _set_context(found, context)
        # Its traceback holds this frame.
        del found, error, context


def interrupt_in(error: BaseException, *, of_values: bool = False) -> Optional[BaseException]:
    """What has interrupted the thread, if `error` is that or was made of it."""
    seen: Optional[BaseException] = error
    for _ in range(10):
        if seen is None or _is_interrupt(seen, of_values):
            return seen
        # What it was made of has been looked at where it was made.
        seen = None if isinstance(seen, PayloadError) else _cause_of(seen)
    return None


def _is_interrupt(error: BaseException, of_values: bool) -> bool:
    trace = _trace_of(error)
    if trace is None:
        return False
    if trace.tb_next is None and of_values and _args_of(error):
        # Raised by C that was called right there: the usual case, such as a value that cannot be pickled.
        return False
    last = trace
    codes: Optional[Set[CodeType]] = None
    while True:
        frame = last.tb_frame
        if _top_of(frame.f_globals.get("__name__")) not in _OURS:
            if codes is None:
                codes = _handlers()
            if frame.f_code in codes or _has_interrupted(frame):
                return True
        if last.tb_next is None:
            break
        last = last.tb_next
    if _is_raised(last):
        return False
    cls = type(error)
    module = _module_of(cls)
    if not _args_of(error) and id(cls) not in _BARE and module != _BARE_OF:
        return True
    if _top_of(module) in _KNOWN:
        return False
    top = _top_of(last.tb_frame.f_globals.get("__name__"))
    return (top in _OURS and last is not trace) if of_values else top in _KNOWN


def _top_of(module: Any) -> str:
    return module.partition(".")[0] if type(module) is str else ""


def _is_raised(trace: TracebackType) -> bool:
    """Whether a `raise` statement did it."""
    code = trace.tb_frame.f_code.co_code
    at = trace.tb_lasti
    # A frame of compiled code (gevent's) has no instructions.
    return 0 <= at < len(code) and code[at] == opmap["RAISE_VARARGS"]


def _handlers() -> Set[CodeType]:
    """The code of what handles signals now."""
    found = set()
    for number in range(1, _signal.NSIG):
        try:
            handler: Any = _signal.getsignal(number)
        except ValueError:
            continue
        code = getattr(getattr(handler, "__func__", handler), "__code__", None)
        if type(code) is CodeType:
            found.add(code)
    return found


def _has_interrupted(frame: FrameType) -> bool:
    """Whether it is a signal handler's: one of its arguments, the last of which may be a tuple of all the rest, is its caller's frame."""
    interrupted = frame.f_back
    code = frame.f_code
    names = code.co_varnames[: code.co_argcount + bool(code.co_flags & _VARARGS)]
    if interrupted is None or not names:
        return False
    values = frame.f_locals
    for name in names:
        value = values.get(name)
        if value is interrupted or (type(value) is tuple and any(one is interrupted for one in value)):
            return True
    return False
