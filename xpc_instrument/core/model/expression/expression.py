"""One expression: what its text was found to say, and the functions that evaluate it for the parameters of a target."""

from __future__ import annotations

import ast
import builtins
from functools import lru_cache
from types import CodeType
from typing import AbstractSet, Any, Callable, Dict, FrozenSet, Iterable, List, Optional, Sequence, Set, Tuple

from ..words import nearest
from .attributes import Attribute
from .compiler import compiled
from .grammar import OBSERVE, TRUSTED, parse_text, refuse, walk
from .refusals import Hidden

# What an expression can name beside the parameters, in this order.
WORDS = ("self", "args", "kwargs", "result", "exception", "duration", "thread", "task", "pid", "target")
# Of these, what is known when the original has ended.
AT_END = frozenset(("result", "exception", "duration"))


Hides = Callable[[str], bool]


class Expression:
    """What `parse` gives. `names` are those that it uses, `level` is that at which it was checked."""

    __slots__ = ("_attributes", "_tree", "level", "names", "reads", "text")

    def __init__(self, text: str, level: str, tree: ast.expr, names: FrozenSet[str]) -> None:
        self.text = text
        self.level = level
        self.names = names
        self._tree = tree
        # All that it names: parameters, attributes, and constants by which it looks something up.
        self.reads = _read(tree)
        self._attributes: List[Attribute] = []

    def __repr__(self) -> str:
        return f"<expression {self.text!r}>"

    def check_names(self, known: Iterable[str]) -> None:
        """Raise `ExpressionError` for the first name that is none of `known`."""
        known = tuple(dict.fromkeys(known))
        for node in walk(self._tree):
            if isinstance(node, ast.Name) and node.id in self.names and node.id not in known:
                allowed = ", ".join(known) if len(known) <= 30 else ""
                refuse(self.text, node.col_offset, f"the name {node.id!r} is not known here", allowed, nearest(node.id, known))

    def check_begin(self, parameters: Iterable[str]) -> None:
        """Raise `ExpressionError` for what there is only once a call has ended, and which no parameter is called: it is asked before."""
        known = set(parameters)
        for node in walk(self._tree):
            if isinstance(node, ast.Name) and node.id in self.names & AT_END and node.id not in known:
                seen = f"{node.id!r} is known once the call has ended, and this is asked when it begins"
                refuse(
                    self.text,
                    node.col_offset,
                    seen,
                    "the parameters; or where it is asked at the end: after(), or watch without -b (entry=)",
                )

    def function(self, parameters: Sequence[str], hides: Optional[Hides] = None) -> Callable[..., Any]:
        """What takes one value for each parameter, by position, and gives the value of the expression.

        It raises `WouldRunCode`, `TooMuch`, or what Python raises for such values. A name that is no parameter: `ExpressionError`. With
        `hides`, which says whether what lies under a name is hidden, it raises `Hidden` if the value is made of such.
        """
        if hides is None:
            return self._made(parameters, False)
        self.check_names(parameters)
        return _hiding if any(map(hides, self.reads)) else self._made(parameters, False, hides)

    def condition(self, parameters: Sequence[str]) -> Callable[..., Any]:
        """The same, of which only the truth of what it gives says something."""
        return self._made(parameters, True)

    def test(self, parameters: Sequence[str]) -> Tuple[str, Dict[str, Any]]:
        """The source of the same, to stand in a function of which `v0`, `v1` and so on are the values, and that function's globals."""
        made = compiled(self.text, self._tree, {name: place for place, name in enumerate(parameters)})
        self._attributes += made.attributes
        return made.truth, made.namespace

    def forget_verdicts(self) -> None:
        """Judge the types anew whose attributes its functions read by themselves: a class may have got a property since."""
        for attribute in self._attributes:
            attribute.forget()

    def split(self, late: AbstractSet[str]) -> Tuple[Optional[Expression], Optional[Expression]]:
        """The part that can be asked before there is what these names stand for, and the part that is asked then, if the first is true.

        The first has the operands of `and` up to the first that uses one of the names. Either may be None.
        """
        if self.names.isdisjoint(late):
            return self, None
        tree = self._tree
        if self.level == TRUSTED or not (isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And)):
            return None, self
        count = next(place for place, one in enumerate(tree.values) if not self._names_in(one).isdisjoint(late))
        return self._part(tree, tree.values[:count]), self._part(tree, tree.values[count:])

    def _names_in(self, tree: ast.expr) -> FrozenSet[str]:
        return frozenset(node.id for node in walk(tree) if isinstance(node, ast.Name) and node.id in self.names)

    def _part(self, whole: ast.BoolOp, operands: List[ast.expr]) -> Optional[Expression]:
        if not operands:
            return None
        tree = operands[0] if len(operands) == 1 else ast.copy_location(ast.BoolOp(whole.op, operands), operands[0])
        part = Expression(self.text, self.level, tree, self._names_in(tree))
        # What is forgotten of the whole is of the part.
        part._attributes = self._attributes
        return part

    def _made(self, parameters: Sequence[str], truth: bool, hides: Optional[Hides] = None) -> Callable[..., Any]:
        self.check_names(parameters)
        if self.level == TRUSTED:
            return self._trusted(parameters, truth)
        made = compiled(self.text, self._tree, {name: place for place, name in enumerate(parameters)})
        source = f"lambda {', '.join(f'v{place}' for place in range(len(parameters)))}: {made.truth if truth else made.value}"
        if hides is not None:
            made.hide(hides)
        function = self._evaluated(source, made.namespace)
        self._attributes += made.attributes
        return function

    def _trusted(self, parameters: Sequence[str], truth: bool) -> Callable[..., Any]:
        places = {name: place for place, name in enumerate(parameters)}
        used = sorted(self.names)
        inner = self._evaluated(f"lambda {', '.join(used)}: ({self.text.strip()})", {"__builtins__": builtins})
        wanted = [places[name] for name in used]
        if truth:
            return lambda *values: bool(inner(*[values[place] for place in wanted]))
        return lambda *values: inner(*[values[place] for place in wanted])

    def _evaluated(self, source: str, namespace: Dict[str, Any]) -> Callable[..., Any]:
        try:
            # Of checked nodes and names of ours alone, or trusted.
            function: Callable[..., Any] = eval(_code_of(source), namespace)  # noqa: S307
        except (SyntaxError, MemoryError, RecursionError, ValueError) as error:
            refuse(self.text, 0, f"Python cannot compile it: {error or type(error).__name__}", "a flatter expression")
        return function


# One expression is made a function for each of hundreds of targets, of the same text where they have it in the same place.
@lru_cache(maxsize=64)
def _code_of(source: str) -> CodeType:
    return compile(source, "<xpc-instrument expression>", "eval", dont_inherit=True)


def _hiding(*_: Any) -> Any:
    raise Hidden


def _read(tree: ast.expr) -> FrozenSet[str]:
    found: Set[str] = set()
    for node in walk(tree):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Subscript):
            key: Any = node.slice
            if isinstance(key, ast.Constant) and isinstance(key.value, (str, bytes)):
                found.add(key.value if isinstance(key.value, str) else key.value.decode("latin-1"))
    return frozenset(found)


def parse(text: str, level: str = OBSERVE) -> Expression:
    """Read and check an expression, but for what its names are. Raises `ExpressionError`."""
    tree = parse_text(text, level)
    if level == TRUSTED:
        return Expression(text, level, tree, _free_names(tree))
    return Expression(text, level, tree, compiled(text, tree).names)


def _free_names(tree: ast.expr) -> FrozenSet[str]:
    """The names that any Python expression uses and neither binds nor has of the builtins."""
    used: Set[str] = set()
    bound = set(vars(builtins))
    for node in walk(tree):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
    return frozenset(used - bound)


def names_of(expressions: Iterable[Expression]) -> Tuple[str, ...]:
    """All names that several expressions use, sorted."""
    return tuple(sorted(frozenset().union(*(one.names for one in expressions))))
