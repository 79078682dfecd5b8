"""The parameters of a Python function: from the values that it gets to a form in which it is called, and back.

The canonical form has the values of positional parameters in `args`, followed by those of `*args`, and those of keyword-only ones in
`kwargs`, followed by those of `**kwargs`; defaults are filled in.
"""

from __future__ import annotations

import functools
import keyword
import sys
from types import CodeType, FunctionType
from typing import Any, Callable, Dict, Optional, Tuple

from xpc_instrument.core.model.interrupts import raise_interrupt

from ..guard import guarded
from .flags import CO_VARARGS, CO_VARKEYWORDS

Args = Tuple[Any, ...]
Kwargs = Dict[str, Any]

_PARAMETERS = CO_VARARGS | CO_VARKEYWORDS


def count_of(code: CodeType) -> int:
    """How many parameters there are, `*args` and `**kwargs` being one each."""
    return code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & CO_VARARGS) + bool(code.co_flags & CO_VARKEYWORDS)


def splitter(code: CodeType) -> Callable[[Args], Tuple[Args, Kwargs]]:
    """What makes the canonical form of the values of all parameters, which come in the order of the code's variables."""
    count, only = code.co_argcount, code.co_kwonlyargcount
    star = count + only if code.co_flags & CO_VARARGS else None
    double = count_of(code) - 1 if code.co_flags & CO_VARKEYWORDS else None
    if not only and star is None and double is None:

        def plain(values: Args) -> Tuple[Args, Kwargs]:
            return values, {}

        return plain
    names = code.co_varnames[count : count + only]

    def split(values: Args) -> Tuple[Args, Kwargs]:
        args = values[:count] if star is None else values[:count] + values[star]
        kwargs = dict(zip(names, values[count:]))
        if double is not None:
            kwargs.update(values[double])
        return args, kwargs

    return split


@functools.lru_cache(maxsize=512)
def _template(names: Tuple[str, ...], positional_only: int, count: int, only: int, flags: int) -> Optional[CodeType]:
    """The code of a function with such parameters that returns their values; None where they have names that nobody can type."""
    if not all(name.isidentifier() and not keyword.iskeyword(name) for name in names):
        return None
    rest = list(names[count + only :])
    parts = [*names[:positional_only], *(["/"] if positional_only else []), *names[positional_only:count]]
    if flags & CO_VARARGS:
        parts.append("*" + rest.pop(0))
    elif only:
        parts.append("*")
    parts += names[count : count + only]
    if flags & CO_VARKEYWORDS:
        parts.append("**" + rest.pop(0))
    text = f"lambda {', '.join(parts)}: ({''.join(name + ', ' for name in names)})"
    module = compile(text, "<xpc-instrument>", "eval", dont_inherit=True)
    return next(const for const in module.co_consts if isinstance(const, CodeType))


def form_of(function: Any, code: Optional[CodeType] = None) -> Optional[Callable[[Args, Kwargs], Tuple[Args, Kwargs]]]:
    """What makes the canonical form of any in which a function is called; None where each form is canonical, or nothing is known of it.

    A call that the function does not take keeps its form: the function itself says what is wrong with it. `code` is what it has when it is
    not armed.
    """
    if type(function) is not FunctionType:
        return None
    code = code or function.__code__
    if not code.co_argcount and not code.co_kwonlyargcount:
        return None
    values_of, split = binder(function, code), splitter(code)
    if values_of is None:
        return None

    def form(args: Args, kwargs: Kwargs) -> Tuple[Args, Kwargs]:
        try:
            values = values_of(args, kwargs)
        except TypeError as error:
            raise_interrupt(error, of_values=True)
            return args, kwargs
        return split(values)

    return form


def binder(function: FunctionType, code: CodeType) -> Optional[Callable[[Args, Kwargs], Args]]:
    """What gives the values of all parameters of a function with that code when it is called so, by the defaults that it has now.

    It raises the `TypeError` of a call that the function does not take. None where the parameters have names that nobody can type.
    """
    names = code.co_varnames[: count_of(code)]
    template = _template(names, code.co_posonlyargcount, code.co_argcount, code.co_kwonlyargcount, code.co_flags & _PARAMETERS)
    if template is None:
        return None
    changes: Dict[str, Any] = {"co_name": code.co_name}
    if sys.version_info >= (3, 11):
        changes["co_qualname"] = code.co_qualname
    bind = FunctionType(template.replace(**changes), {}, code.co_name)
    bind.__qualname__ = function.__qualname__
    positional, keyword_only = code.co_argcount > 0, code.co_kwonlyargcount > 0

    @guarded
    def update() -> None:
        # To read them raises an audit event, and the function may be an audit hook.
        if positional and bind.__defaults__ is not function.__defaults__:
            bind.__defaults__ = function.__defaults__
        if keyword_only and bind.__kwdefaults__ is not function.__kwdefaults__:
            bind.__kwdefaults__ = function.__kwdefaults__

    def values_of(args: Args, kwargs: Kwargs) -> Args:
        if positional or keyword_only:
            update()
        values: Args = bind(*args, **kwargs)
        return values

    return values_of
