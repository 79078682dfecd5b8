"""The way to a probe script for a process that shares another one's fixed address: every invocation goes through the host.

The host relays what it gets as the bytes that they are (`core/calls/registry.py`). A hook of this process is called by the name that
`relay_name` gives; a process that shares an address is told from a script by the name of its session.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, List, Optional

from xpc_instrument.core.wire.hubs import trio
from xpc_instrument.core.wire.wire import Wire

if TYPE_CHECKING:
    from xpc_instrument.core.node.joiner import Joiner

# What the session of such a process, a member of the address, begins with.
PREFIX = "member-"


def is_member(session: str) -> bool:
    """Whether a session is a member's, and not a script's."""
    return session.startswith(PREFIX)


def relay_name(session: str, hook: int) -> bytes:
    """Under which name a member calls a hook through the host. No callback of a user is called so: names have no zero byte."""
    return f"\0{session}\0{hook}".encode()


class RelayLanes:
    """The lanes to a script that lead through the host; the same use as `LanePool`."""

    def __init__(self, joiner: Joiner) -> None:
        self._joiner = joiner

    def take(self, deadline: float) -> Wire:
        """A lane to the host; dialled in the calling thread if none is idle."""
        return self._joiner.calling.take(deadline)

    def take_in_turn(self) -> Optional[Wire]:
        """As of a `LanePool`: to look for one may be to dial."""
        return None

    async def take_later(self, deadline: float) -> Wire:
        """Like `take`, without blocking the running loop."""
        library = trio()
        if library is not None:
            taken: Wire = await library.to_thread.run_sync(self._joiner.calling.take, deadline)
            return taken
        from asyncio import get_running_loop

        return await get_running_loop().run_in_executor(None, self._joiner.calling.take, deadline)

    def wires(self) -> List[Wire]:
        """All lanes to the host, whichever script they lead to."""
        return self._joiner.calling.wires()

    def give(self, wire: Wire) -> None:
        """Put a lane back."""
        self._joiner.calling.give(wire)

    def drop(self, wire: Wire) -> None:
        """Close a lane."""
        self._joiner.calling.drop(wire)


class RelayedPeer:
    """A probe script as a member sees it: behind the host."""

    def __init__(self, joiner: Joiner, session: str, who: str, pid: int, python: str) -> None:
        self.session = session
        self.who = who
        self.claimed = who != f"pid {pid}"
        self.pid = pid
        self.python = python
        self.lanes = RelayLanes(joiner)
        self._joiner = joiner

    def notify(self, kind: str, **data: Any) -> None:
        """Tell the script something, through the host. Raises `ChannelError`."""
        self._joiner.notify("to-script", session=self.session, notice=kind, data=data)
