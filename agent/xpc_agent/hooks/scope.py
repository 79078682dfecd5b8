"""What a hook reads of an invocation by expressions: the values of the parameters by name, and what is known when it has ended."""

from __future__ import annotations

from types import CodeType, FunctionType
from typing import Any, Callable, Dict, FrozenSet, List, Optional, Tuple

from xpc_instrument.core.model.expression import AT_END, TRUSTED, Expression, Hidden
from xpc_instrument.core.model.expression.expression import Hides
from xpc_instrument.core.model.interrupts import raise_interrupt

from ..generated import compiled
from ..guard import guarded
from ..targets.parameters import binder, count_of, splitter
from ..targets.resolve import Binding, Resolved
from .current import task_name, thread_name
from .gate import Args, Kwargs


class Scope:
    """What there is to read of the invocations of one target, once it is known: `place` says so.

    Without `ends` it is of when they begin. `names` are those of the parameters, in the order of their values; empty where the function
    has none that Python knows.
    """

    __slots__ = ("_code", "_ends", "_pid", "_resolved", "_target", "_values_of", "bound", "names")

    def __init__(self, target: str, pid: int, ends: bool = True) -> None:
        self._target = target
        self._ends = ends
        # In a cell, which all that is made of expressions reads: a forked child has another.
        self._pid = [pid]
        self._resolved: Optional[Resolved] = None
        self._code: Optional[CodeType] = None
        self._values_of: Optional[Callable[[Args, Kwargs], Args]] = None
        self.bound = False
        self.names: Tuple[str, ...] = ()

    def place(self, resolved: Resolved, code: Optional[CodeType]) -> bool:
        """Whether that is new. `code` is what the function has when it is not armed."""
        if resolved is self._resolved and code is self._code:
            return False
        self._resolved, self._code, self._values_of, self.names = resolved, code, None, ()
        self.bound = resolved.binding is not Binding.NONE
        function = resolved.function
        if code is not None and type(function) is FunctionType:
            self._values_of = binder(function, code)
            if self._values_of is not None:
                self.names = code.co_varnames[: count_of(code)]
        return True

    def reset_after_fork(self, pid: int) -> None:
        """In a forked child."""
        self._pid[0] = pid

    @property
    def place_of_code(self) -> Tuple[str, int]:
        """File and line where the function begins; ("", 0) of one that has no code of Python's."""
        return ("", 0) if self._code is None else (self._code.co_filename, self._code.co_firstlineno)

    @property
    def has_names(self) -> bool:
        """Whether the names of the parameters are known, be it that there are none."""
        return self._values_of is not None

    @property
    def is_placed(self) -> bool:
        """Whether its target is there."""
        return self._resolved is not None

    def values(self, args: Args, kwargs: Kwargs) -> Optional[Args]:
        """The values of all parameters, the instance included; None for a call that the function does not take."""
        if self._values_of is None:
            return args
        try:
            return self._values_of(args, kwargs)
        except TypeError as error:
            raise_interrupt(error, of_values=True)
            return None

    def evaluation(self, expression: Expression, hides: Optional[Hides] = None, truth: bool = False) -> Callable[..., Any]:
        """`f(values, result, error, duration)`, which gives the value, or its truth. Raises `ExpressionError` for a name that is not known.

        `hides` is for what is shown, as in `Expression.function`; to ask for the truth of a value may run code of the application.
        """
        if not self.is_placed:
            return _nothing_yet
        text, namespace = self.inlined(expression, "evaluate", hides, truth)
        text = f"def value(values, result, error, duration):\n    return {text}\n"
        value: Callable[..., Any] = compiled(f"{__name__} {expression.text!r}", namespace, text, kept=False)["value"]
        return value

    @property
    def late_names(self) -> FrozenSet[str]:
        """What an expression can only name of an invocation that has ended."""
        return AT_END - frozenset(self.names)

    def asked(self, expression: Expression) -> Tuple[List[str], str, Dict[str, Any]]:
        """What asks for its truth where an invocation begins and `v0`, `v1` and so on are the values of the parameters: the statements
        that stand before, the text of the test, and what else both name. Raises `ExpressionError` for a name that is not known."""
        names, words = self.names, {"thread": "thread()", "task": "task()", "pid": "pid[0]", "target": "target"}
        if self._code is not None and names:
            values = f"split(({''.join(f'v{place}, ' for place in range(len(names)))}))"
            words.update(args=f"{values}[0][{int(self.bound)}:]", kwargs=f"{values}[1]")
            if self.bound:
                words["self"] = "v0"
        expression.check_names([*names, *words])
        used = [word for word in words if word in expression.names and word not in names]
        lines = [f"v{place} = {words[word]}" for place, word in enumerate(used, len(names))]
        if expression.level == TRUSTED:
            namespace: Dict[str, Any] = {"when": guarded(expression.condition([*names, *used]))}
            test = f"when({', '.join(f'v{place}' for place in range(len(names) + len(used)))})"
        else:
            test, namespace = expression.test([*names, *used])
        # The same one: verdicts on types are noted in it.
        namespace.update(self._namespace())
        return lines, test, namespace

    def _namespace(self) -> Dict[str, Any]:
        return {
            "pid": self._pid,
            "target": self._target,
            "task": task_name,
            "thread": thread_name,
            "split": None if self._code is None else splitter(self._code),
        }

    def hidden(self, expression: Expression, hides: Hides) -> bool:
        """Whether its value is made of what is hidden, as far as that can be told before there is one."""
        return any(map(hides, expression.reads)) or ("args" in expression.reads and any(map(hides, self.names)))

    def inlined(self, expression: Expression, name: str, hides: Optional[Hides] = None, truth: bool = False) -> Tuple[str, Dict[str, Any]]:
        """The text of the value, or of its truth, where `values`, `result`, `error` and `duration` are to be had, and what else it names:
        the expression's function as `name`, and others by the same names for all. Raises `ExpressionError` as `evaluation`. Its target
        is there."""
        places = {name: f"values[{index}]" for index, name in enumerate(self.names)}
        words: Dict[str, str] = {"result": "result", "exception": "error", "duration": "duration"}
        words.update(thread="thread()", task="task()", pid="pid[0]", target="target")
        if self._code is not None and self.names:
            words.update(args=f"split(values)[0][{int(self.bound)}:]", kwargs="split(values)[1]")
            if self.bound:
                words["self"] = "values[0]"
        known = {**words, **places}
        if not self._ends:
            expression.check_begin(places)
        expression.check_names(known)
        used = sorted(expression.names)
        evaluate = expression.condition(used) if truth else expression.function(used, hides)
        if hides is not None and self.hidden(expression, hides):
            evaluate = _hiding
        elif used == [expression.text] and not truth:
            # Nothing to evaluate, nor to guard.
            name = ""
        namespace = {name: guarded(evaluate) if expression.level == TRUSTED else evaluate, **self._namespace()}
        return f"{name}({', '.join(known[one] for one in used)})", namespace


def _hiding(*_: Any) -> Any:
    raise Hidden


def _nothing_yet(*_: Any) -> Any:
    raise LookupError("the target is not there yet")
