"""What the code of a function leads to that has hooks inside: one gate, entered before the body and left after it.

Rules:
- The code calls `enter(gate, <all parameters>)` when the body begins. The answer is None (the body runs, and nothing is done after it), or
  `(values, token)`: the body runs, with other values for all parameters if there are any, and `leave` or `failed` is called with the token
  when it ends; or `((value,), None)`: that is returned at once. What `enter`, `leave` or `failed` raises, the function raises.
- `leave(token, value)` gives what is returned. `failed(token, error)` gives None if the same exception goes on, or `(value,)`.
- What one of the three was made to raise, at any place, goes to `abandon` of the token, if there is one; `enter` itself sees to what it has
  begun. `patching/inside/insertion.py` says more.
- All three are functions of modules, and the gate pickles as one without hooks: who pickles an armed function by value means the original.
- A gate stays in frames and copies of the function when it is disarmed; its way is then one that lets nothing through.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any, Callable, Dict, Optional, Tuple, Union

from xpc_instrument.core.calls.outcome import Arguments, Outcome
from xpc_instrument.core.values.fields import get_context, set_context

from ..generated import compiled
from ..guard import guard  # noqa: F401 - used in `_ENTER`
from ..targets.flags import CO_VARKEYWORDS

# An exception may be a frozen dataclass, or have attributes of its own by these names.
_own_traceback = vars(BaseException)["__traceback__"]
get_traceback, set_traceback = _own_traceback.__get__, _own_traceback.__set__

Args = Tuple[Any, ...]
Kwargs = Dict[str, Any]
Form = Callable[[Args, Kwargs], Tuple[Args, Kwargs]]
Entered = Optional[Tuple[Optional[Args], Any]]

# What admission is where nothing asks: functions of C that give something true, or false, in the least time.
ALWAYS: Callable[[], Any] = (1).conjugate
NEVER: Callable[[], Any] = (0).conjugate


class _Pass:
    """Its one instance says that the rest of the chain runs as if the hook were not there."""


PASS = _Pass()


class Proceeding:
    """Where a hook stands that has proceeded to what is inside of it."""

    __slots__ = ("changed",)

    changed: Optional[Arguments]
    """The arguments that it proceeds with, the instance included; None for those that it was called with."""

    def tell(self, outcome: Outcome) -> Union[Outcome, Proceeding]:
        """Say what came of it; returns what the hook makes of that, or where it proceeds once more. Raises only what interrupts."""
        raise NotImplementedError

    def abandon(self) -> None:
        """The thread leaves without telling."""
        raise NotImplementedError


class Way:
    """Where a gate leads: `begin(gate, values)`, which answers as `enter`, if `take()` is true. Both are exchanged, each for itself.

    `back()` undoes a `take` that was true, where the thread does work of ours and goes no further. `entrance` makes an `enter` of its own
    for code that leads here (`entrance.py`); `record` is what a hook does that records what has ended (`timed.py`). `early` is its
    condition, if it has one that is asked when an invocation begins (`early.py`), and `admit` what is asked of what meets it.
    """

    __slots__ = ("admit", "back", "begin", "early", "entrance", "record", "take")

    def __init__(self, take: Callable[[], Any] = NEVER, begin: Optional[Callable[[Gate, Args], Entered]] = None) -> None:
        self.take = take
        self.back: Callable[[], Any] = ALWAYS
        self.begin = begin
        self.entrance: Any = None
        self.record: Any = None
        self.early: Any = None
        self.admit: Callable[[], Any] = ALWAYS


CLOSED = Way()


class Gate:
    """Of one armed function: its way in, and what the hooks need to know of it.

    `shadow` is a second function with the original code: what runs when a hook proceeds more than once. `split` gives the canonical form
    of the values of all parameters, `values_of` the values of any form. `ends` are the exceptions that end the body with an outcome.
    `has_dict`: the last parameter is a `**` dict, which is the body's own: who keeps the values copies it.
    """

    __slots__ = ("bound", "ends", "function", "has_dict", "shadow", "split", "values_of", "way")

    def __init__(
        self,
        function: FunctionType,
        shadow: FunctionType,
        split: Callable[[Args], Tuple[Args, Kwargs]],
        values_of: Callable[[Args, Kwargs], Args],
        bound: bool,
        is_generator: bool,
    ) -> None:
        self.function = function
        self.has_dict = bool(shadow.__code__.co_flags & CO_VARKEYWORDS)
        self.shadow = shadow
        self.split = split
        self.values_of = values_of
        self.bound = bound
        self.ends: Tuple[type, ...] = (Exception, GeneratorExit) if is_generator else (Exception,)
        self.way: Way = CLOSED

    def __reduce__(self) -> Any:
        return _closed, ()

    def run_again(self, args: Args, kwargs: Kwargs) -> Outcome:
        """The original once more, in a frame of its own, with the defaults that the function has now."""
        shadow, function = self.shadow, self.function
        shadow.__defaults__, shadow.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
        try:
            return Outcome(shadow(*args, **kwargs))
        except Exception as error:
            trace = get_traceback(error)
            set_traceback(error, trace and trace.tb_next)
            return Outcome(error=error)


def without_frame(error: BaseException) -> BaseException:
    """The exception without the frames in which it was raised here."""
    set_traceback(error, None)
    return error


def _closed() -> Gate:
    """Elsewhere an armed function has no hooks."""
    gate = Gate.__new__(Gate)
    gate.way = CLOSED
    return gate


# A function for each number of parameters: with `*values` a call takes half as long again.
_ENTER = """
def enter_{count}(gate{parameters}):{first}
    way = gate.way
    if not way.take():
        return None
    if guard.on:
        way.back()
        return None
    return way.begin(gate, ({values}))
"""


def __getattr__(name: str) -> Any:
    """`enter_5`, and so on: made when it is asked for, by name too, since the code of armed functions is pickled with it."""
    count = name[len("enter_") :]
    if not name.startswith("enter_") or not count.isdecimal():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault(name, compiled(f"{__name__} {name}", globals(), enter_text(int(count)))[name])


def enter_text(count: int, first: str = "") -> str:
    """The text of `enter` for so many parameters; `first` stands before all else."""
    names = [f"v{index}" for index in range(count)]
    return _ENTER.format(
        count=count,
        parameters="".join(f", {one}" for one in names),
        values="".join(f"{one}, " for one in names),
        first=first,
    )


def enter_of(count: int) -> Callable[..., Entered]:
    """`enter` for a function with so many parameters, `*args` and `**kwargs` being one each."""
    name = f"enter_{count}"
    enter: Callable[..., Entered] = globals().get(name) or __getattr__(name)
    return enter


def leave(token: Any, value: Any) -> Any:
    """The body has returned; gives what the application gets."""
    return token.leave(value)


def failed(token: Any, error: BaseException) -> Optional[Tuple[Any]]:
    """The body has raised."""
    trace = get_traceback(error)
    outcome: Optional[Outcome] = token.failed(error)
    if outcome is None:
        return None
    if outcome.error is error:
        set_traceback(error, trace)
        return None
    if outcome.error is None:
        return (outcome.value,)
    context = get_context(outcome.error)
    try:
        outcome.get()
    except BaseException as other:
        # It is no consequence of what the body raised, which is being handled here.
        set_context(other, context)
        raise
    return None
