"""What an expression may say, and how the rest is refused."""

from __future__ import annotations

import threading
import time
import warnings
from typing import List

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xpc_instrument.core.model.errors import ExpressionError, XpcError
from xpc_instrument.core.model.expression import OFF, TRUSTED, TooMuch, WouldRunCode, parse, parse_template

REFUSED = [
    ("x.__class__", "__class__"),
    ("().__class__", "__class__"),
    ("(lambda: 1)()", "no name"),
    ("lambda: x", "lambda"),
    ("[i for i in x]", "comprehension"),
    ("x ** 9", "**"),
    ("x << 3", "<<"),
    ("~x", "~"),
    ("__import__('os')", "__import__()"),
    ("f'{x}'", "f-string"),
    ("x.foo()", ".foo()"),
    ("(y := x)", ":="),
    ("await x", "await"),
    ("x @ y", "@"),
    ("len(*x)", "*"),
    ("len(x, y)", "2 arguments"),
    ("len(x=y)", "keyword"),
    ("{1: 2}", "dict"),
    ("{1}", "set"),
    ("...", "Ellipsis"),
    ("1if x else y", "runs into"),
    ("0x1for x", "runs into"),
    ("x is 5", "'is'"),
    ("x is 'a'", "'is'"),
    ("isinstance(x, y)", "by its name"),
    ("matches(x, y)", "no literal"),
    ("matches(x, '(a+)+$')", "several ways"),
    ("matches(x, '(a|ab)*$')", "several ways"),
    ("matches(x, '(a?){30}a{30}')", "several ways"),
    ("matches(x, '.*a.*b.*c.*d.*e')", "too many ways"),
    ("matches(x, r'(a)\\1')", "groupref"),
    ("matches(x, '(?=a)b')", "assert"),
    ("matches(x, '(')", "cannot be read"),
    ("matches(x, 'a{4294967295}')", "cannot be read"),
    ("matches(x, '(?i)[\\u0100-\\uffff]')", "wide range"),
    ("matches(x, '(a{1000}){1000}')", "no text under"),
    ("9" * 40, "64 bits"),
    ("1," * 250, "200 parts"),
    ("x" + ".a" * 60, "nest"),
    ("(" * 300 + "1" + ")" * 300, "brackets"),
    ("-" * 900 + "1", "operators in front"),
    ("not " * 200 + "1", "operators in front"),
    ("x" * 1001, "1001 characters"),
    ("", "not empty"),
    ("  ", "not empty"),
    ("a b", "no Python expression"),
    ("x; y", "no Python expression"),
    ("x = 1", "no Python expression"),
    ("x\n> 1", "'\\n'"),
    ("x\0", "'\\x00'"),
    ("x == '\ud800'", "\\ud800"),
    ("x # y", "comment"),
    ("'\\400'", "octal"),
    ("'abc", "no Python expression"),
]


@pytest.mark.parametrize(("text", "seen"), REFUSED, ids=[text[:20].encode("ascii", "replace").decode() for text, _ in REFUSED])
def test_what_is_not_allowed_is_refused_with_what_was_seen(text: str, seen: str) -> None:
    took = []
    # The machine may have others to serve: once is enough.
    for _ in range(3):
        start = time.perf_counter()
        with pytest.raises(ExpressionError) as caught:
            parse(text)
        took.append(time.perf_counter() - start)
    assert seen in caught.value.seen
    assert min(took) < 0.1
    assert isinstance(caught.value, XpcError) and isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("text", "under"),
    [
        ("amount > 100 and foo(customer)", "foo(customer)"),
        (r"matches(x, '\d+\w') and y.go()", "y.go()"),
        ("'äöü' == x and y ** 2", "y ** 2"),
        ("  x and y.__dict__", "y.__dict__"),
    ],
)
def test_the_place_is_shown(text: str, under: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse(text)
    _, line, caret = str(caught.value).split("\n")
    assert line[len(caret) - 1 :] == under
    assert text[caught.value.offset :] == under


def test_a_name_that_is_not_known_is_refused_with_the_nearest() -> None:
    expression = parse("1 < amonut and customer.vip")
    assert expression.names == {"amonut", "customer"}
    with pytest.raises(ExpressionError, match="did you mean 'amount'") as caught:
        expression.check_names(["customer", "amount"])
    assert caught.value.nearest == "amount" and caught.value.offset == 4
    with pytest.raises(ExpressionError):
        expression.function(["customer", "amount"])


def test_python_warns_of_nothing(recwarn: pytest.WarningsRecorder) -> None:
    warnings.simplefilter("always")
    texts = [
        r"matches(x, '\d+\.')",
        r"x == b'\d'",
        r"x == '\N{DIGIT ONE}\u0031\x31\1\''",
        r"x == r'\d'",
        "x is None",
        "(1, 2)[x]",
        "'a'[0]",
        "1 and x",
    ]
    for text in texts:
        parse(text).function(["x"])
        parse(text).condition(["x"])
    assert not recwarn.list
    assert parse(r"x == '\N{DIGIT ONE}1\x31\61\''").function(["x"])("1111'") is True
    assert parse(r"'\d'").function([])() == "\\d"


def test_off_allows_none_and_trusted_any() -> None:
    with pytest.raises(ExpressionError, match="off"):
        parse("x", OFF)
    trusted = parse("sorted(y.upper() for y in x)[0] + str(len(x))", TRUSTED)
    assert trusted.names == {"x"}
    assert trusted.function(["a", "x"])(1, ["b", "a"]) == "A2"
    assert trusted.condition(["x"])("ab") is True
    with pytest.raises(ExpressionError):
        parse("import os", TRUSTED)


def test_the_names_of_parameters_are_never_code() -> None:
    # As those that a comprehension or a tool gives: nobody can type them.
    assert parse("t1 + v0").function(["v1", "t1", ".0", "v0", "type", "k0"])(1, 2, 3, 4, 5, 6) == 6
    assert parse("type(x) == 'int'").function(["type", "x"])(0, 1) is True


@given(st.text(alphabet="xyz0123456789.,()[]{}'\"\\+-*/%<>=! \tandornotinisifelsematchlenb#:@~^&|_", max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_is_read_or_refused(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            function = parse(text).function(["x", "y", "z"])
            parse(text).condition(["x", "y", "z"])
        except ExpressionError:
            return
    try:
        function(1, "a", [{"x": 1}])
    except (WouldRunCode, TooMuch, TypeError, LookupError, AttributeError, ArithmeticError, ValueError):
        pass


def test_a_small_stack_is_enough_for_any_text() -> None:
    texts = [
        "(" * 49 + "x" + ")" * 49,
        "x" + " if x else x" * 60,
        "x" + "**x" * 330,
        "lambda:" * 140 + "x",
        "-" * 49 + "x",
        "x" + ".a" * 28,
    ]
    seen: List[str] = []

    def read() -> None:
        for text in texts:
            try:
                parse(text).condition(["x"])
            except ExpressionError:
                pass
            seen.append(text)

    before = threading.stack_size(256 * 1024)
    try:
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    assert seen == texts


# templates -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("amount={amount} {{ok}}", [2100], "amount=2100 {ok}"),
        ("{amount:>8.2f}|{name!r:.4}|{name:.2}", [2.5, "Ada", "Ada"], "    2.50|'Ada|Ad"),
        ("{answer['a:b']} {x[1:2]}", ["1", [3]], "1 [3]"),
        ("{a != b}", [True], "True"),
        ("{a:d}", ["text"], "text"),
        ("{a!s} {a!a}", ["ä", "ä"], "ä '\\xe4'"),
        ("nothing", [], "nothing"),
    ],
)
def test_a_template_is_formatted_as_an_f_string(text: str, values: List[object], expected: str) -> None:
    template = parse_template(text)
    assert len(template.expressions) == len(values)
    assert template.format(values) == expected


@pytest.mark.parametrize("text", ["{", "}", "{}", "{a", "{a!x}", "{a:9999}", "{a:.99999999999}", "{a:{b}}", "{a.b()}", "{a!r", "x" * 1001])
def test_a_template_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        parse_template(text)
