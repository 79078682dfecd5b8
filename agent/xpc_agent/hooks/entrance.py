"""What the code of an armed function calls, made for the one hook that it has: what most invocations come to stands there, without a call.

Rules:
- It changes what an invocation costs, and nothing else. It serves one gate, if its hook says so (`is_open`), and for as long as that leads
  there; otherwise its `enter` is that of any gate, in copies and pickles of the function too.
- A token that its own `enter` gives is a tuple, as no other is, and nobody abandons it. Its `leave` and `failed` do with others as those of
  the gate.
- What is asked in each invocation is `gate is served`, two loads and a comparison; and of a token whether it can be unpacked, which it has
  to be anyway. To ask for its type, and for an attribute of the gate's way, would take as long as half of the rest.
- Its functions have names here, for who pickles the code of an armed function by value: elsewhere they are those of any gate.
"""

from __future__ import annotations

import itertools
from _weakref import ref
from typing import Any, Callable, Dict, Optional, Tuple

from ..generated import compiled
from ..guard import guard
from . import gate

_FIRST = """
    if gate is served:{first}"""
# What is not its own is handed on outside of the `except`, since it may raise.
_LEAVE = """
def leave(token, value):
    try:
        {token}= token
    except no_tuple:
        pass
    else:
{last}
        return value
    return token.leave(value)
"""
_FAILED = """
def failed(token, error):
    try:
        {token}= token
    except no_tuple:
        pass
    else:
{wrong}
        return None
    return gate_failed(token, error)
"""

Calls = Tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]

_known: Dict[str, ref[Any]] = {}
_numbers = itertools.count(1)


def __getattr__(name: str) -> Any:
    """A function of an entrance, or where there is no such, that of any gate."""
    known = _known.get(name)
    plain, _, number = name.rpartition("_")
    if not number.isdigit() or not plain.startswith(("enter_", "leave", "failed")):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return (None if known is None else known()) or getattr(gate, plain)


class Entrance:
    """`first` is the text of what its `enter` does, which returns or goes on as any: it has the values as `v0`, `v1` and so on, a tuple of
    all instead of `<values>`, to keep, and `gate`.

    `token` are the names of what is in the tuple, each with a comma, for `last`, which is what `leave` does before it returns the `value`,
    and `wrong`, what `failed` does with an `error`, which goes on; in these two `<at work>` says whether the thread does work of ours, in
    the middle of which only an iteration may end. `names` are the globals of all, and `about` says for whom it is.
    """

    __slots__ = ("_about", "_calls", "_gate", "_is_open", "_made_for", "_texts", "names")

    def __init__(self, about: str, names: Dict[str, Any], first: str, token: str = "", last: str = "", wrong: str = "") -> None:
        self._about = about
        self._texts = first, token, last, wrong
        self._calls: Optional[Calls] = None
        self._made_for = 0, False, False
        self._gate: Optional[gate.Gate] = None
        self._is_open = True
        self.names = names
        names.update(served=None, guard=guard, gate_failed=gate.failed, no_tuple=TypeError, dict_of=dict)

    @property
    def is_open(self) -> bool:
        """Whether its own `enter` answers."""
        return self._is_open

    @is_open.setter
    def is_open(self, is_open: bool) -> None:
        self._is_open = is_open
        self.names["served"] = self._gate if is_open else None

    def calls(self, served: gate.Gate, count: int) -> Optional[Calls]:
        """`enter`, `leave` and `failed` for that gate, of a function with so many parameters; None if it serves another one."""
        if self._gate is not None and self._gate is not served:
            return None
        self._gate = served
        self.is_open = self._is_open
        made_for = count, GeneratorExit in served.ends, served.has_dict
        if self._calls is None or self._made_for != made_for:
            # A module that is loaded anew may have another function there.
            self._calls, self._made_for = self._made(*made_for), made_for
        return self._calls

    def dismiss(self) -> None:
        """The gate leads elsewhere."""
        self._gate = None
        self.is_open = self._is_open

    def _made(self, count: int, iterates: bool, has_dict: bool) -> Calls:
        at_work = "guard.on" if iterates else "False"
        first, token, last, wrong = (text.replace("<at work>", at_work) for text in self._texts)
        values = [f"v{place}, " for place in range(count)]
        if has_dict:
            values[-1] = f"dict_of(v{count - 1}), "
        first = first.replace("<values>", f"({''.join(values)})")
        text = gate.enter_text(count, _FIRST.format(first=_indented(first, 8)))
        if token:
            text += _LEAVE.format(token=token, last=_indented(last, 8)) + _FAILED.format(token=token, wrong=_indented(wrong, 8))
        about = f"{self._about}, {count}{', iterates' * iterates}{', has a dict' * has_dict}"
        made = compiled(f"{__name__} {about}", self.names, text, kept=False)
        number = next(_numbers)
        for name, function in made.items():
            _name(function, f"{name}_{number}")
        return made[f"enter_{count}"], made.get("leave", gate.leave), made.get("failed", gate.failed)


def any_calls(count: int) -> Calls:
    """What the code of a function with so many parameters calls that leads to a way without an entrance."""
    return gate.enter_of(count), gate.leave, gate.failed


def _indented(text: str, by: int) -> str:
    return "".join(f"\n{' ' * by}{line}" for line in text.strip().splitlines())


def _name(function: Any, name: str) -> None:
    function.__module__, function.__name__, function.__qualname__ = __name__, name, name
    _known[name] = ref(function, lambda _: _known.pop(name, None) and None)
