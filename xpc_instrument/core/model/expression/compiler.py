"""A function made of an expression: Python code in which each step that could run code of the application is guarded at its place.

Rules:
- A guard is a test of the type, `v0.vip if type(v0) is t1 else a1(v0)`; where it fails, a function of `guards.py` does the step or refuses.
  That is as fast as the bare step from Python 3.11 on; to call a function for each node costs ten times as much.
- All names in what is generated are ours (`v0` for the first parameter, `k1` for a constant): nothing clashes, and nothing is injected.
- An operand that a guard looks at is evaluated once: it is a name, a constant, or is given a name at its first use.
- A node is compiled to its value, or, where only that is asked, to whether it is true.
"""

from __future__ import annotations

import ast
from typing import Any, Callable, Dict, FrozenSet, List, Mapping, NamedTuple, NoReturn, Optional, Tuple, Union

from ..errors import ExpressionError
from ..words import nearest
from . import guards
from .attributes import Attribute
from .grammar import refuse
from .regex import prepared

# What a value is known to be when this is compiled.
_ANY, _NAME, _CONST, _BOOL, _NUMBER, _TUPLE = "any", "name", "const", "bool", "number", "tuple of constants"

_SIGNS = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}
_COMPUTED = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%"}
_FUNCTIONS = ("abs", "isinstance", "len", "matches", "max", "min", "type")
_METHODS = ("startswith", "endswith", "lower")
_CALLS = f"{', '.join(one + '()' for one in _FUNCTIONS)}, {', '.join(f'.{one}()' for one in _METHODS)}"
_PARTS = "names, literals, .name, [...], comparisons, in, is, and, or, not, x if c else y, + - * / // %, and a few functions"
# A constant that a test looks for in a text: a short one, which is found in a short text at once.
_SHORT, _SHORT_TEXT = 50, 10_000

_SHOWN = {
    ast.Lambda: "a lambda",
    ast.ListComp: "a comprehension",
    ast.SetComp: "a comprehension",
    ast.DictComp: "a comprehension",
    ast.GeneratorExp: "a comprehension",
    ast.NamedExpr: "an assignment (:=)",
    ast.Await: "await",
    ast.JoinedStr: "an f-string",
    ast.Starred: "a * before an argument",
    ast.Dict: "a dict display",
    ast.Set: "a set display",
    ast.Yield: "yield",
    ast.YieldFrom: "yield",
}


class Code(NamedTuple):
    """Source text that gives a value, and what is known of it; `truth` says only whether it is true, where that is shorter."""

    source: str
    kind: str = _ANY
    value: Any = None
    truth: str = ""


class Compiled(NamedTuple):
    """Source text of a value and of its truth, what stands for the names in them, and what the expression uses."""

    value: str
    truth: str
    namespace: Dict[str, Any]
    names: FrozenSet[str]
    attributes: Tuple[Attribute, ...]

    def hide(self, hides: Callable[[str], bool]) -> None:
        """Have it raise `Hidden` where it comes to look up a name that `hides` says yes to."""
        for name, value in self.namespace.items():
            if value is guards.item:
                self.namespace[name] = guards.hiding(hides)


def compiled(text: str, tree: ast.expr, places: Optional[Mapping[str, int]] = None) -> Compiled:
    """Compile; `places` are those of the parameters by name, None while any name may be one. Raises `ExpressionError`."""
    compiler = _Compiler(text, places)
    code = compiler.go(tree)
    return Compiled(code.source, compiler.test(code), compiler.namespace, frozenset(compiler.names), tuple(compiler.attributes))


class _Compiler:
    def __init__(self, text: str, places: Optional[Mapping[str, int]]) -> None:
        self.text = text
        self.places = places
        self.namespace: Dict[str, Any] = {"__builtins__": {}, "type": type, "len": len}
        self.names: Dict[str, None] = {}
        self.attributes: List[Attribute] = []
        self._known: Dict[int, str] = {}
        self._temps = 0

    # what is generated ---------------------------------------------------------------------------------------------------

    def const(self, value: Any) -> str:
        """The name that stands for an object; the same for the same object."""
        name = self._known.get(id(value))
        if name is None:
            name = self._known[id(value)] = f"k{len(self._known)}"
            # Kept in there, so that no other gets its `id`.
            self.namespace[name] = value
        return name

    def once(self, code: Code) -> Tuple[str, str]:
        """What evaluates the source and names it, for its first use, and the name."""
        if code.kind in (_NAME, _CONST, _BOOL):
            return code.source, code.source
        self._temps += 1
        name = f"t{self._temps}"
        return f"({name} := {code.source})", name

    def refuse(self, node: ast.AST, seen: str, allowed: str = "", near: Optional[str] = None) -> NoReturn:
        refuse(self.text, getattr(node, "col_offset", 0), seen, allowed, near)

    def test(self, code: Code) -> str:
        """Source of whether it is true, in a place where only that is asked."""
        if code.kind in (_BOOL, _CONST, _NUMBER):
            return code.source
        return code.truth or self._is_true(*self.once(code))

    def _is_true(self, first: str, again: str) -> str:
        truth = self.const(guards.truth)
        return f"({first} is True or ({again} is not False and {again} is not None and {truth}({again})))"

    # nodes ---------------------------------------------------------------------------------------------------------------

    def go(self, node: ast.AST) -> Code:
        """The value of a node."""
        kind = type(node)
        visit: Optional[Callable[[Any], Code]] = getattr(self, f"visit_{kind.__name__.lower()}", None)
        if visit is None:
            self.refuse(node, f"{_SHOWN.get(kind, kind.__name__)} is not allowed here", _PARTS)
        return visit(node)

    def visit_constant(self, node: ast.Constant) -> Code:
        value = node.value
        if id(type(value)) not in guards.SCALARS:
            self.refuse(node, f"the constant {value!r:.40}", "numbers, texts, bytes, True, False, None")
        if type(value) is int and not -guards.BIG < value < guards.BIG:
            self.refuse(node, "a number of more than 64 bits", "a smaller one")
        return Code(self.const(value) if isinstance(value, (str, bytes, complex)) else _literal(value), _CONST, value)

    def visit_name(self, node: ast.Name) -> Code:
        self.names[node.id] = None
        if self.places is None:
            return Code("v0", _NAME)
        if node.id not in self.places:
            known = sorted(self.places)
            near = nearest(node.id, [*known, *_FUNCTIONS])
            self.refuse(node, f"the name {node.id!r} is not known here", ", ".join(known) if len(known) <= 30 else "", near)
        return Code(f"v{self.places[node.id]}", _NAME)

    def visit_tuple(self, node: Union[ast.Tuple, ast.List]) -> Code:
        parts = [self.go(one) for one in node.elts]
        if all(part.kind in (_CONST, _BOOL) for part in parts):
            return Code(self.const(tuple(part.value for part in parts)), _TUPLE, tuple(part.value for part in parts))
        if isinstance(node, ast.List):
            return Code(f"[{', '.join(part.source for part in parts)}]")
        return Code(f"({''.join(part.source + ', ' for part in parts)})")

    def visit_list(self, node: ast.List) -> Code:
        code = self.visit_tuple(node)
        if code.kind == _TUPLE:
            return Code(f"[*{code.source}]", _TUPLE, code.value)
        return code

    def visit_attribute(self, node: ast.Attribute) -> Code:
        name = node.attr
        if name.startswith("__") and name.endswith("__"):
            self.refuse(node, f"the attribute {name!r}", "attributes that hold data, none with two underscores at both ends")
        value = self.go(node.value)
        key = f"a{len(self.attributes)}"
        attribute = Attribute(name, self.namespace, key)
        self.attributes.append(attribute)
        first, again = self.once(value)
        return Code(f"({again}.{name} if type({first}) is {key} else {self.const(attribute.read)}({again}))")

    def visit_subscript(self, node: ast.Subscript) -> Code:
        value = self.go(node.value)
        item = self.const(guards.item)
        part: Any = node.slice
        if isinstance(part, ast.Slice):
            ends = [Code("None") if one is None else self.go(one) for one in (part.lower, part.upper, part.step)]
            return Code(f"{item}({value.source}, {self.const(slice)}({', '.join(one.source for one in ends)}))")
        key = self.go(part)
        if key.kind != _CONST or type(key.value) not in (int, str) or value.kind in (_CONST, _BOOL):
            return Code(f"{item}({value.source}, {key.source})")
        first, again = self.once(value)
        kind = "k_list" if type(key.value) is int else "k_dict"
        self.namespace.update(k_list=list, k_dict=dict)
        return Code(f"({again}[{key.source}] if type({first}) is {kind} else {item}({again}, {key.source}))")

    def visit_compare(self, node: ast.Compare) -> Code:
        left = self.go(node.left)
        parts = []
        for place, (operator, right_node) in enumerate(zip(node.ops, node.comparators)):
            right = self.go(right_node)
            last = place == len(node.ops) - 1
            if last or right.kind in (_NAME, _CONST, _BOOL, _TUPLE):
                parts.append(self._compare(node, operator, left, right))
                left = right
            else:
                # The same object is the left side of the next one.
                first, again = self.once(right)
                parts.append(self._compare(node, operator, left, Code(first, right.kind), again))
                left = Code(again, _NAME if right.kind == _ANY else right.kind)
        return Code(parts[0] if len(parts) == 1 else f"({' and '.join(parts)})", _BOOL)

    def _compare(self, node: ast.Compare, operator: ast.cmpop, left: Code, right: Code, name: str = "") -> str:
        if isinstance(operator, (ast.Is, ast.IsNot)):
            for side in (left, right):
                if (side.kind == _CONST and side.value is not None) or side.kind == _TUPLE:
                    self.refuse(node, "'is' with a literal", "== for values; 'is' for None and for names")
            return f"({left.source} {'is' if isinstance(operator, ast.Is) else 'is not'} {right.source})"
        if isinstance(operator, (ast.In, ast.NotIn)):
            return self._contains(isinstance(operator, ast.NotIn), left, right)
        sign = _SIGNS[type(operator)]
        compare = self.const(guards.COMPARE[sign])
        if left.kind in (_NUMBER, _CONST, _BOOL) and right.kind in (_NUMBER, _CONST, _BOOL):
            return f"({left.source} {sign} {right.source})"
        if right.kind == _CONST and not name:
            first, again = self.once(left)
            test = self._type_test(first, right.value)
            if test:
                return f"({again} {sign} {right.source} if {test} else {compare}({again}, {right.source}))"
        elif left.kind == _CONST and not name:
            first, again = self.once(right)
            test = self._type_test(first, left.value)
            if test:
                return f"({left.source} {sign} {again} if {test} else {compare}({left.source}, {again}))"
        return f"{compare}({left.source}, {right.source})"

    def _type_test(self, first: str, constant: Any) -> str:
        """A test for the usual types that compare with a constant by C code; "" where there is no short one."""
        kind = type(constant)
        if kind is str:
            self.namespace["k_str"] = str
            return f"type({first}) is k_str"
        if kind is int or kind is float:
            self._temps += 1
            self.namespace.update(k_int=int, k_float=float)
            return f"(t{self._temps} := type({first})) is k_int or t{self._temps} is k_float"
        return ""

    def _contains(self, negated: bool, left: Code, right: Code) -> str:
        contains = self.const(guards.contains)
        word, sign = ("not ", "not in") if negated else ("", "in")
        if right.kind == _TUPLE:
            first, again = self.once(left)
            self.namespace.update(k_str=str, k_int=int)
            self._temps += 1
            test = f"(t{self._temps} := type({first})) is k_str or t{self._temps} is k_int"
            values = self.const(right.value)
            return f"({again} {sign} {values} if {test} else {word}{contains}({again}, {values}))"
        if left.kind == _CONST and type(left.value) is str and len(left.value) <= _SHORT and right.kind in (_NAME, _ANY):
            first, again = self.once(right)
            self.namespace["k_str"] = str
            test = f"type({first}) is k_str and len({again}) < {_SHORT_TEXT}"
            return f"({left.source} {sign} {again} if {test} else {word}{contains}({left.source}, {again}))"
        return f"({word}{contains}({left.source}, {right.source}))"

    def visit_boolop(self, node: ast.BoolOp) -> Code:
        values = [self.go(one) for one in node.values]
        word = " and " if isinstance(node.op, ast.And) else " or "
        if all(value.kind == _BOOL for value in values):
            return Code(f"({word.join(value.source for value in values)})", _BOOL)
        truth = f"({word.join(self.test(value) for value in values)})"
        # The value of the operand that decides, as in Python.
        source = values[-1].source
        for value in reversed(values[:-1]):
            first, again = self.once(value)
            test = first if value.kind in (_CONST, _BOOL, _NUMBER) else self._is_true(first, again)
            rest, own = (source, again) if isinstance(node.op, ast.And) else (again, source)
            source = f"({rest} if {test} else {own})"
        return Code(source, truth=truth)

    def visit_unaryop(self, node: ast.UnaryOp) -> Code:
        value = self.go(node.operand)
        if isinstance(node.op, ast.Not):
            return Code(f"(not {self.test(value)})", _BOOL)
        if not isinstance(node.op, ast.USub):
            self.refuse(node, f"the operator {'~' if isinstance(node.op, ast.Invert) else '+'}", "- and not")
        if value.kind == _CONST and type(value.value) in (int, float):
            return Code(_literal(-value.value), _CONST, -value.value)
        return Code(f"{self.const(guards.minus)}({value.source})", _NUMBER)

    def visit_binop(self, node: ast.BinOp) -> Code:
        sign = _COMPUTED.get(type(node.op))
        if sign is None:
            self.refuse(node, f"the operator {_operator(node.op)}", "+ - * / // %")
        left, right = self.go(node.left), self.go(node.right)
        return Code(f"{self.const(guards.COMPUTE[sign])}({left.source}, {right.source})")

    def visit_ifexp(self, node: ast.IfExp) -> Code:
        test, body, other = self.go(node.test), self.go(node.body), self.go(node.orelse)
        return Code(f"({body.source} if {self.test(test)} else {other.source})", _BOOL if body.kind == other.kind == _BOOL else _ANY)

    # calls -----------------------------------------------------------------------------------------------------------------

    def visit_call(self, node: ast.Call) -> Code:
        function = node.func
        if node.keywords:
            self.refuse(node.keywords[0].value, "a keyword argument", "positional arguments")
        if isinstance(function, ast.Name):
            if function.id not in _FUNCTIONS:
                self.refuse(node, f"the call of {function.id}()", _CALLS, nearest(function.id, _FUNCTIONS))
            call: Callable[[ast.Call], Code] = getattr(self, f"call_{function.id}")
            return call(node)
        if not isinstance(function, ast.Attribute):
            self.refuse(node, "a call of what is no name", _CALLS)
        if function.attr not in _METHODS:
            self.refuse(node, f"the call of .{function.attr}()", _CALLS, nearest(function.attr, _METHODS))
        return self._method(node, function)

    def _arguments(self, node: ast.Call, least: int, most: int, form: str) -> List[Code]:
        if not least <= len(node.args) <= most:
            self.refuse(node, f"{len(node.args)} arguments", form)
        return [self.go(one) for one in node.args]

    def _method(self, node: ast.Call, function: ast.Attribute) -> Code:
        value = self.go(function.value)
        name = function.attr
        if name == "lower":
            self._arguments(node, 0, 0, "text.lower()")
            return Code(f"{self.const(guards.lower)}({value.source})")
        part = self._arguments(node, 1, 1, f"text.{name}(part)")[0]
        call = guards.starts if name == "startswith" else guards.ends
        return Code(f"{self.const(call)}({value.source}, {part.source})", _BOOL)

    def call_len(self, node: ast.Call) -> Code:
        """`len(x)`."""
        value = self._arguments(node, 1, 1, "len(x)")[0]
        return Code(f"{self.const(guards.length)}({value.source})", _NUMBER)

    def call_type(self, node: ast.Call) -> Code:
        """`type(x)`: its name."""
        value = self._arguments(node, 1, 1, "type(x)")[0]
        return Code(f"{self.const(guards.kind_of)}({value.source})")

    def call_isinstance(self, node: ast.Call) -> Code:
        """`isinstance(x, 'Name')`."""
        form = "isinstance(x, 'Name') or isinstance(x, ('Name', 'module:Other'))"
        value, names = self._arguments(node, 2, 2, form)
        wanted = (names.value,) if type(names.value) is str else names.value
        if names.kind not in (_CONST, _TUPLE) or type(wanted) is not tuple or any(type(one) is not str for one in wanted):
            self.refuse(node.args[1], "the type is not given by its name", form)
        return Code(f"{self.const(guards.is_a)}({value.source}, {self.const(wanted)})", _BOOL)

    def call_abs(self, node: ast.Call) -> Code:
        """`abs(x)`."""
        value = self._arguments(node, 1, 1, "abs(x)")[0]
        return Code(f"{self.const(guards.absolute)}({value.source})", _NUMBER)

    def call_min(self, node: ast.Call) -> Code:
        """`min(x, y)`, `min(items)`."""
        return self._extreme(node, guards.smallest)

    def call_max(self, node: ast.Call) -> Code:
        """`max(x, y)`, `max(items)`."""
        return self._extreme(node, guards.largest)

    def _extreme(self, node: ast.Call, choose: Callable[..., Any]) -> Code:
        values = self._arguments(node, 1, 20, "min(x, y), max(items)")
        return Code(f"{self.const(choose)}({', '.join(one.source for one in values)})")

    def call_matches(self, node: ast.Call) -> Code:
        """`matches(text, regex)`."""
        form = "matches(text, 'regular expression')"
        value, pattern = self._arguments(node, 2, 2, form)
        if pattern.kind != _CONST or type(pattern.value) is not str:
            self.refuse(node.args[1], "the regular expression is no literal", form)
        try:
            search, most = prepared(pattern.value)
        except ExpressionError as error:
            self.refuse(node.args[1], str(error), error.allowed)
        return Code(f"{self.const(guards.matching(search, most))}({value.source})", _BOOL)


def _literal(value: Any) -> str:
    """The source of a number, True, False or None."""
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return "1e999" if value > 0 else "(-1e999)"
    return f"({value!r})" if type(value) in (int, float) and value < 0 else repr(value)


def _operator(operator: ast.operator) -> str:
    signs = {ast.Pow: "**", ast.LShift: "<<", ast.RShift: ">>", ast.BitOr: "|", ast.BitAnd: "&", ast.BitXor: "^", ast.MatMult: "@"}
    return signs.get(type(operator), type(operator).__name__)
