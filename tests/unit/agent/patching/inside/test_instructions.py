"""Bytecode to instructions and back: nothing is lost, and it is read as the standard library reads it."""

from __future__ import annotations

import dis
import importlib
import sys
import types
from typing import Any, Iterator, List, Set

import pytest

from .samples import function_of, namespace

pytestmark = [
    pytest.mark.version,
    pytest.mark.skipif(sys.version_info < (3, 11), reason="CPython 3.11 is the oldest whose code is gone into"),
]

if sys.version_info >= (3, 11):
    from xpc_agent.patching.inside import instructions, tables
    from xpc_agent.patching.inside.check import differs
    from xpc_agent.patching.inside.instructions import UndecodableError, decoded, encoded

MODULES = ("argparse", "ast", "asyncio.tasks", "contextlib", "dataclasses", "inspect", "json.decoder", "tokenize", "types", "typing")


def codes_of(code: types.CodeType) -> Iterator[types.CodeType]:
    """A code object and all that are made in it."""
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from codes_of(const)


def codes_in(name: str) -> List[types.CodeType]:
    loader = importlib.import_module(name).__spec__.loader  # type: ignore[union-attr]
    code = loader.get_code(name)  # type: ignore[union-attr]
    return list(codes_of(code))


@pytest.mark.parametrize("module", MODULES)
def test_the_standard_library_comes_out_as_it_went_in(module: str) -> None:
    for code in codes_in(module):
        again = encoded(decoded(code), code)
        assert again.co_code == code.co_code
        assert again.co_exceptiontable == code.co_exceptiontable
        assert list(again.co_positions()) == list(code.co_positions())
        assert again.co_linetable == code.co_linetable
        assert not differs(again, code, decoded(code))


@pytest.mark.parametrize("module", MODULES)
def test_it_is_read_as_the_standard_library_reads_it(module: str) -> None:
    for code in codes_in(module):
        found = decoded(code)
        expected = [one for one in dis.get_instructions(code) if one.opname not in ("CACHE", "EXTENDED_ARG")]
        assert [one.name for one in found] == [one.opname for one in expected]
        for one, other in zip(found, expected):
            if one.target is not None:
                assert one.target.offset == (other.argval if other.opname != "END_ASYNC_FOR" else one.target.offset)
            else:
                assert one.arg == (other.arg or 0)
            positions: Any = other.positions
            assert one.location == (None,) * 4 if positions is None else one.location == tuple(positions)
        assert labels(found) == set(dis.findlabels(code.co_code)) | {
            one.target.offset for one in found if one.name == "END_ASYNC_FOR" and one.target
        }


def labels(found: List[Any]) -> Set[int]:
    return {one.target.offset for one in found if one.target is not None}


def test_handlers_are_those_of_the_exception_table() -> None:
    for name in ("handlers", "returns_in_loops", "coroutine", "generator"):
        code = function_of(namespace(), name).__code__
        for one in decoded(code):
            region = [entry for entry in tables.regions(code.co_exceptiontable) if entry.start <= one.offset < entry.end]
            assert [(entry.target, entry.depth, entry.lasti) for entry in region] == (
                [] if one.handler is None else [(one.handler.target.offset, one.handler.depth, one.handler.lasti)]
            )


@pytest.mark.parametrize(
    "location",
    [
        (None, None, None, None),
        (5, 5, None, None),
        (1, 1, 0, 0),
        (1, 1, 79, 94),
        (1, 1, 79, 95),
        (1, 1, 80, 81),
        (2, 2, 127, 127),
        (3, 3, 5, 128),
        (3, 3, 5, 100),
        (4, 4, 5, 6),
        (0, 0, 5, 6),
        (1, 9, 5, 6),
        (100000, 200000, 70, 70000),
        (-5 + 6, 2, 3, 1),
    ],
)
@pytest.mark.parametrize("size", [2, 16, 18, 200])
def test_every_form_of_location_is_read_as_it_was_written(location: Any, size: int) -> None:
    code = (lambda: None).__code__
    table = tables.locations([(2, (1, 1, 3, 4)), (size, location), (2, (1, 1, 3, 4))], 1)
    made = code.replace(co_code=bytes((dis.opmap["NOP"], 0)) * (size // 2 + 2), co_firstlineno=1, co_linetable=table)
    assert list(made.co_positions()) == [(1, 1, 3, 4), *[location] * (size // 2), (1, 1, 3, 4)]


@pytest.mark.parametrize("number", [0, 1, 63, 64, 4095, 4096, 2**18, 2**29])
def test_regions_are_read_as_they_were_written(number: int) -> None:
    region = tables.Region(number * 2, number * 2 + 2, number * 6, number % 1000, bool(number & 1))
    assert list(tables.regions(tables.exceptions([region, region]))) == [region, region]


@pytest.mark.parametrize("distance", [10, 255, 256, 257, 65535, 65536, 65537])
def test_a_jump_grows_with_its_distance(distance: int) -> None:
    code = (lambda: None).__code__
    forward = instructions.made("JUMP_FORWARD")
    end = instructions.made("LOAD_CONST")
    forward.target = end
    between = [instructions.made("NOP") for _ in range(distance)]
    made = encoded([instructions.made("RESUME"), forward, *between, end, instructions.made("RETURN_VALUE")], code)
    found = decoded(made)
    assert found[1].arg == distance
    assert found[1].target is found[-2]
    assert found[1].units == (1 if distance < 256 else 2 if distance < 65536 else 3)


def test_a_table_or_code_that_ends_too_early_is_no_code() -> None:
    code = function_of(namespace(), "handlers").__code__
    with pytest.raises(UndecodableError):
        decoded(code.replace(co_exceptiontable=code.co_exceptiontable[:-1]))
    with pytest.raises(UndecodableError):
        decoded(code.replace(co_exceptiontable=code.co_exceptiontable * 2))


def changed(code: types.CodeType, **changes: Any) -> types.CodeType:
    return code.replace(**changes)


def test_each_difference_is_found() -> None:
    code = function_of(namespace(), "handlers").__code__
    meant = decoded(code)
    for made, what in (
        (code.replace(co_code=code.co_code[:-2]), "instructions instead of"),
        (code.replace(co_stacksize=code.co_stacksize - 1), "co_stacksize"),
        (code.replace(co_flags=code.co_flags | 0x10), "co_flags"),
        (code.replace(co_names=(*code.co_names, "more")), "co_names"),
        (code.replace(co_consts=("other", *code.co_consts[1:])), "co_consts"),
        (code.replace(co_exceptiontable=b""), "handler"),
        (code.replace(co_linetable=tables.locations([(len(code.co_code), (9, 9, 1, 2))], code.co_firstlineno)), "instruction"),
        (encoded(swapped(decoded(code)), code), "instruction"),
        (encoded(jumping(decoded(code)), code), "instruction"),
    ):
        assert what in differs(made, code, meant)
    assert not differs(code.replace(), code, meant)


def swapped(found: List[Any]) -> List[Any]:
    found[-1].arg += 1
    return found


def jumping(found: List[Any]) -> List[Any]:
    index = next(number for number, one in enumerate(found) if one.target is not None)
    place = next(number for number, one in enumerate(found) if one is found[index].target)
    found[index].target = found[place + 1]
    return found
