"""What removes a hook when it is left."""

from __future__ import annotations

import asyncio
import threading
from contextlib import closing
from typing import List

import pytest

from xpc_instrument.script.removable import Removable


class Removed(Removable):
    def __init__(self) -> None:
        self.by: List[int] = []

    def remove(self) -> None:
        self.by.append(threading.get_ident())


def test_it_is_removed_by_whatever_leaves_or_closes_it() -> None:
    one = Removed()
    with one as same:
        assert same is one
    with pytest.raises(KeyError), one:
        raise KeyError
    with closing(one):
        pass
    assert one.by == [threading.get_ident()] * 3


def test_a_loop_goes_on_while_it_is_removed() -> None:
    one = Removed()

    async def leave() -> None:
        async with one as same:
            assert same is one
        await one.aclose()

    asyncio.run(leave())
    assert len(one.by) == 2 and threading.get_ident() not in one.by
