"""What is mapped in a process, and the symbols in it, compared with what the loader says of this very process."""

from __future__ import annotations

import ctypes
import os
import sys

import pytest

from xpc_instrument.attaching.memory import Memory, images, mappings

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="takes /proc")


@pytest.mark.parametrize("name", ["PyRun_SimpleStringFlags", "PyGILState_Ensure", "pthread_create", "__errno_location"])
def test_a_symbol_is_where_the_loader_has_put_it(name: str) -> None:
    expected = ctypes.cast(getattr(ctypes.CDLL(None), name), ctypes.c_void_p).value
    with Memory(os.getpid()) as memory:
        found = {image.symbol(name) for image in images(memory, mappings(os.getpid()))}
    # An allocator, or a library that stands before another one, may define it too.
    assert expected in found


def test_what_nobody_exports_is_not_found() -> None:
    with Memory(os.getpid()) as memory:
        assert {image.symbol("xpc_there_is_none") for image in images(memory, mappings(os.getpid()))} == {None}


def test_the_rest_of_a_page_of_code_is_behind_all_code_and_in_the_same_page() -> None:
    with Memory(os.getpid()) as memory:
        everything = images(memory, mappings(os.getpid()))
        rooms = [room for room in (image.slack() for image in everything) if room is not None]
        assert rooms
        for address, size in rooms:
            assert 0 < size < 4096 and (address + size) % 4096 == 0
            assert len(memory.read(address, size)) == size


def test_what_is_not_mapped_cannot_be_read() -> None:
    with Memory(os.getpid()) as memory, pytest.raises(OSError):
        memory.read(16, 8)


def test_text_ends_at_its_zero_and_crosses_pages() -> None:
    text = ctypes.create_string_buffer(b"x" * 5000 + b"\0behind")
    with Memory(os.getpid()) as memory:
        assert memory.text(ctypes.addressof(text), 6000) == b"x" * 5000
