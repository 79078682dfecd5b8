"""What is made of seccomp filters, which are programs for a small machine of the kernel's."""

from __future__ import annotations

from typing import List

import pytest

from xpc_instrument.attaching.filters import Instruction, deadly_calls

ALLOW, ERROR, KILL, TRAP = 0x7FFF0000, 0x00050001, 0x80000000, 0x00030000
SOCKET, CLONE3 = 41, 435
LOAD_NUMBER, LOAD_PROCESSOR, LOAD_ARGUMENT = (0x20, 0, 0, 0), (0x20, 0, 0, 4), (0x20, 0, 0, 16)


def answer(action: int) -> Instruction:
    return 0x06, 0, 0, action


def equal(operand: int, if_true: int = 0, if_false: int = 1) -> Instruction:
    return 0x15, if_true, if_false, operand


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ([answer(ALLOW)], []),
        ([LOAD_NUMBER, equal(SOCKET), answer(ERROR), answer(ALLOW)], []),
        ([LOAD_NUMBER, equal(SOCKET), answer(KILL), answer(ALLOW)], ["socket"]),
        ([LOAD_NUMBER, equal(SOCKET), answer(TRAP), equal(CLONE3), answer(0), answer(ALLOW)], ["socket", "clone3"]),
        # By the family of the socket, which is not known.
        ([LOAD_NUMBER, equal(SOCKET, 1, 0), answer(ALLOW), LOAD_ARGUMENT, equal(1), answer(ALLOW), answer(KILL)], ["socket"]),
        # For another processor than this one.
        ([LOAD_PROCESSOR, equal(0xC000003E), answer(ALLOW), answer(KILL)], []),
        # By a part of the number: those whose first six bits are 101000, of 40 to 47, and the last but one is 0.
        ([LOAD_NUMBER, (0x54, 0, 0, 0xFFE), equal(0x28), answer(KILL), answer(ALLOW)], ["socket"]),
        # By the index register: the number, less the number of clone3.
        ([LOAD_NUMBER, (0x07, 0, 0, 0), (0x00, 0, 0, CLONE3), (0x1C, 0, 0, 0), equal(0), answer(KILL), answer(ALLOW)], ["clone3"]),
        ([LOAD_NUMBER, (0x07, 0, 0, 0), (0x00, 0, 0, CLONE3), (0x1D, 0, 1, 0), answer(KILL), answer(ALLOW)], ["clone3"]),
        # By what it has kept, which is not followed: it may be anything.
        ([LOAD_NUMBER, (0x02, 0, 0, 0), (0x60, 0, 0, 0), equal(SOCKET), answer(KILL), (0x05, 0, 0, 1), answer(KILL), answer(ALLOW)], None),
        ([LOAD_NUMBER, (0x05, 0, 0, 1), answer(KILL), answer(ALLOW)], []),
    ],
)
def test_a_filter_is_run_for_each_call_and_goes_both_ways_where_it_looks_at_arguments(
    program: List[Instruction], expected: List[str]
) -> None:
    found = deadly_calls([[answer(ALLOW)], program])
    assert found == expected if expected is not None else {"socket", "read"} <= set(found)


def test_a_list_of_what_is_allowed_is_deadly_for_all_else() -> None:
    program = [LOAD_NUMBER, equal(0), answer(ALLOW), equal(1), answer(ALLOW), answer(KILL)]
    found = deadly_calls([program])
    assert "socket" in found and "clone3" in found and "read" not in found and "write" not in found
