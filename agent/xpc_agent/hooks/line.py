"""Hooks on a line: what is shown when a statement of it begins, with values of the variables that there are then.

Rules:
- They go the way of `watch.py`: the condition first, then the terms, then what is shown, captured and redacted.
- `call` makes what is called at the line, of one text: it asks the condition and goes on, or says that it is met. Up to Python 3.11 it is
  given the values of the variables, or their cells; later the frame.
- Up to 3.12 to read `f_locals` of a frame writes into the dict that `locals()` has given the application. Up to 3.11 it is read only for
  variables that may have no value at the line, and never where the code names what gives that dict. On 3.12 there is no other way. Nothing
  of what was read stays in the frame: see `variables.py`.
- What it costs is measured and bounded, as with all that look on. At rest nothing is asked any more.
- A condition runs no code of the application, so it is asked where the thread does work of ours too; what is met is not told there.
- A variable without a value: a condition that asks for it is not met, and what is shown says so.
"""

from __future__ import annotations

import functools
import marshal
import sys
from types import CodeType, FrameType
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from xpc_instrument.core.model.errors import ExpressionError
from xpc_instrument.core.model.expression import TRUSTED, Expression
from xpc_instrument.core.model.interrupts import raise_interrupt
from xpc_instrument.core.model.target import split_line
from xpc_instrument.core.unpatched import wall_clock

from ..generated import compiled
from ..guard import guard, guarded
from .budget import SAMPLED, used_here
from .current import task_name, thread_name
from .gate import ALWAYS
from .invocation import next_number
from .local import callers
from .shown import MOST_BYTES
from .variables import OURS_ALONE, gives_locals, holders, is_emptied, read
from .watch import WatchHook

_WORDS = ("thread", "task", "pid", "target")
# Those of them that differ from one time to the next.
_NOW = {"thread": thread_name, "task": task_name}
_CO_OPTIMIZED = 0x1
_BY_FRAME = sys.version_info >= (3, 12)
_MARSHAL = 4
# What Python takes to tell of a line, in seconds; see docs/lines.md.
_EVENT = 0.5e-6 if _BY_FRAME else 0.0

_HIT = """
def hit({parameters}):
    try:{seen}
        if not ask({asked}):
            if not rejected() % SAMPLED:
                cost({asked}){forget_rejected}
            return
    except Exception as fault:{forget}
        fell(fault)
        return{forget_met}
    tell({frame}, {given}, {cells})
"""


class LineHook(WatchHook):
    """One registration on one line."""

    def __init__(self, *args: Any, **options: Any) -> None:
        # The globals of what is called at the line, of which `ask` is one.
        self._asking: List[Dict[str, Any]] = []
        self._words: Dict[str, Any] = {}
        super().__init__(*args, **options)

    def at(self, codes: Sequence[CodeType]) -> None:
        """Where the line is; a name that is no variable there is a `mistake`."""
        self._line = split_line(self.target)[1]
        self._empties = all(map(is_emptied, codes))
        names = {name: None for code in codes for name in variables(code)}
        self._show = []
        self._condition: Optional[Expression] = None
        try:
            for one in self._expressions:
                one.check_names([*names, *_WORDS])
        except ExpressionError as error:
            self.mistake = str(error)
            self.rest()
            return
        shown = list(self._expressions)
        if self.local["when"]:
            self._condition = shown.pop(0)
        self._show = [(one.text, self._reader(one)) for one in shown]
        used = {name for one in self._expressions for name in one.names}
        self.wanted: Tuple[str, ...] = tuple(name for name in names if self.local["locals"] or name in used)
        self._words.update(pid=self.pid, target=self.target)

    def reset_after_fork(self, pid: int) -> None:
        super().reset_after_fork(pid)
        self._words["pid"] = pid
        for namespace in self._asking:
            namespace.update(namespace["begun"], rejected=self.counters.skipped["when"].up)

    def call(self, given: Optional[Mapping[str, bool]]) -> Callable[..., None]:
        """What is called at the line: with the frame, or with the values of these variables, where True says that it is the cell."""
        condition = self._condition
        names = sorted(condition.names) if condition is not None else []
        places = {name: f"v{place}" for place, name in enumerate(given or ())}
        cells = {name for name, is_cell in (given or {}).items() if is_cell}

        def value(name: str) -> str:
            if name in places:
                return f"{places[name]}.cell_contents" if name in cells else places[name]
            if name in _WORDS and name not in self.wanted:
                return f"now[{name!r}]()" if name in _NOW else f"words[{name!r}]"
            return f"seen[{name!r}]" if given is None else f"look(getframe(1), {name!r})"

        ask: Callable[..., Any] = ALWAYS if condition is None else condition.condition(names)
        if condition is not None and condition.level == TRUSTED:
            ask = guarded(ask)
        reads = given is None and condition is not None
        forget = "\n{0}if holders(seen) <= OURS_ALONE:\n{0}    seen.clear()\n{0}seen = None" if reads and self._empties else ""
        text = _HIT.format(
            seen="\n        seen = frame.f_locals" if reads else "",
            forget_rejected=forget.format(" " * 12),
            forget=forget.format(" " * 8),
            forget_met=forget.format(" " * 4),
            parameters="frame" if given is None else ", ".join(places.values()),
            asked=", ".join(map(value, names)),
            frame="frame" if given is None else "getframe(1)",
            given="{" + ", ".join(f"{name!r}: {place}" for name, place in places.items() if name not in cells) + "}",
            cells="{" + ", ".join(f"{name!r}: {places[name]}" for name in places if name in cells) + "}",
        )
        namespace = {
            "ask": ask,
            "words": self._words,
            "now": _NOW,
            "getframe": sys._getframe,
            "look": _look,
            "holders": holders,
            "OURS_ALONE": OURS_ALONE,
            "cost": functools.partial(self._cost, ask),
            "SAMPLED": SAMPLED,
            "rejected": self.counters.skipped["when"].up,
            "fell": self._fell,
            "tell": self._tell,
        }
        # As it is until it rests, and in a forked child again.
        namespace["begun"] = {"ask": ask, "cost": namespace["cost"]}
        self._asking.append(namespace)
        hit: Callable[..., None] = compiled(f"{__name__} {self.target}", namespace, text, kept=False)["hit"]
        return hit

    @guarded
    def _cost(self, ask: Callable[..., Any], *values: Any) -> None:
        """Add up what it costs to ask: once more, with a clock."""
        began = used_here()
        if self._condition is not None and self._condition.level != TRUSTED:
            ask(*values)
        self._budget.spent(used_here() - began + _EVENT)

    def rest(self) -> None:
        super().rest()
        for namespace in self._asking:
            namespace.update(ask=_never, cost=_nothing)

    def _fell(self, fault: Exception) -> None:
        """The condition has failed."""
        raise_interrupt(fault)
        if isinstance(fault, KeyError) and fault.args[0] in self.wanted:
            fault = NameError(f"{fault.args[0]} has no value here")
        self._tell_fault(fault)
        self.counters.skipped["when"].up()

    def _tell(self, frame: FrameType, given: Mapping[str, Any], cells: Mapping[str, Any]) -> None:
        """A statement begins that meets the condition."""
        try:
            began = -1.0 if self._budget.tick() % SAMPLED else used_here()
            # A frame of code that had been there may go on to call.
            if guard.on or self._rests or self.removed or not self.way.take():
                if began >= 0.0 and not guard.on:
                    self._left_out(began)
                return
            blob = self._line_seen(frame, given, cells)
        except Exception as fault:
            self.drop_for(fault)
            return
        except BaseException:
            self._drop()
            raise
        self._queue(next_number(), blob)

    @guarded
    def _left_out(self, began: float) -> None:
        """Add up what it costs to come here and be told nothing of, as over `rate`; the way here takes as long again."""
        self._budget.spent(2.0 * (used_here() - began) + _EVENT)

    @guarded
    def _line_seen(self, frame: FrameType, given: Mapping[str, Any], cells: Mapping[str, Any]) -> bytes:
        began = self._budget.begin()
        try:
            return self._line_captured(frame, given, cells)
        finally:
            self._budget.end(began)

    def _line_captured(self, frame: FrameType, given: Mapping[str, Any], cells: Mapping[str, Any]) -> bytes:
        code, now = frame.f_code, wall_clock()
        values = self._values(frame, given, cells)
        stack = callers(self.local["stack"], code.co_name) if self.local["stack"] else ()
        head = now, code.co_filename, self._line, getattr(code, "co_qualname", code.co_name)
        for depth in (None, 0):
            shown = self._shown(values, None, None, 0.0, depth)  # type: ignore[arg-type]
            blob = marshal.dumps((*head, stack, shown, self._locals(code, values, depth)), _MARSHAL)
            if len(blob) <= MOST_BYTES:
                return blob
        left_out = ("!", "items", "", None)
        return marshal.dumps((*head, (), [(text, left_out) for text, _ in self._show], []), _MARSHAL)

    def _values(self, frame: FrameType, given: Mapping[str, Any], cells: Mapping[str, Any]) -> Mapping[str, Any]:
        if _BY_FRAME:
            return read(frame)
        values = dict(given)
        for name, cell in cells.items():
            try:
                values[name] = cell.cell_contents
            except ValueError:
                continue  # it has no value yet
        missing = [name for name in self.wanted if name not in given and name not in cells]
        if missing and _may_read(frame.f_code):
            seen = read(frame)
            values.update({name: seen[name] for name in missing if name in seen})
        return values

    def _reader(self, expression: Expression) -> Callable[..., Any]:
        names = sorted(expression.names)
        evaluate = expression.function(names, self.redaction.hides)

        def read(values: Mapping[str, Any], *_: Any) -> Any:
            return evaluate(*[self._value(values, name) for name in names])

        return read

    def _value(self, values: Mapping[str, Any], name: str) -> Any:
        try:
            return values[name]
        except KeyError:
            if name in self.wanted or name not in _WORDS:
                raise NameError(f"{name} has no value here") from None
            return _NOW[name]() if name in _NOW else self._words[name]

    def _locals(self, code: CodeType, values: Mapping[str, Any], depth: Optional[int]) -> List[Any]:
        if not self.local["locals"]:
            return []
        named, capture, hides = self._capturer.named, self._capturer.capture, self.redaction.hides
        return [
            (name, named(name, values[name]) if depth is None or hides(name) else capture(values[name], depth))
            for name in variables(code)
            if name in values
        ]


def variables(code: CodeType) -> List[str]:
    """The names that are variables of its own in a code object, those that it shares with others included."""
    names = [*code.co_varnames, *code.co_cellvars, *code.co_freevars]
    if not code.co_flags & _CO_OPTIMIZED:
        names += code.co_names  # of a class, and what it uses
    return [name for name in dict.fromkeys(names) if name.isidentifier()]


def _may_read(code: CodeType) -> bool:
    """Whether nobody but us has the dict that `f_locals` brings up to date."""
    return not code.co_flags & _CO_OPTIMIZED or not gives_locals(code)


def _look(frame: FrameType, name: str) -> Any:
    """The value of a variable that may have none, up to 3.11."""
    if _may_read(frame.f_code):
        seen = read(frame)
        if name in seen:
            return seen[name]
    raise NameError(f"{name} has no value here")


def _never(*_: Any) -> bool:
    return False


def _nothing(*_: Any) -> None:
    """It is known that it costs too much."""
