"""A process of an application with one fixed address that another of its processes hosts.

Rules:
- It joins the host as a member, is told of every hook, arms it and says so; the script's registration returns when all have.
- Before it joins, it announces the name of its session in the runtime directory. So the host knows it from a script, which holds the same
  key: what only the user who runs the application can write there.
- Its invocations travel through the host, which relays them to the script as the bytes that they are.
- When the host dies, its hooks go, and it takes the address over, or joins whoever was faster; the scripts dial again.
"""

from __future__ import annotations

import json
import logging
from typing import Any, Callable, Dict, Protocol

from xpc_instrument.core.model.errors import AuthenticationError, XpcError
from xpc_instrument.core.model.limits import Limits
from xpc_instrument.core.model.record import as_dict
from xpc_instrument.core.node.address import NO_PROTECTION, Address, Protection
from xpc_instrument.core.node.joiner import Joiner
from xpc_instrument.core.protocol.codec import MAX_CONTROL
from xpc_instrument.core.protocol.messages import Notice, Register
from xpc_instrument.core.unpatched import monotonic

from ..relay import PREFIX, RelayedPeer
from . import stacks
from .selections import Added

log = logging.getLogger("xpc_agent")

# What a report may have in bytes of JSON: what the host reads, with room for what is said beside it.
_LONGEST_REPORT = MAX_CONTROL - 4096


class Hooks(Protocol):
    """Where the hooks go that the host tells of."""

    def add_hook(self, peer: RelayedPeer, message: Register) -> Added:
        """Put one on its target. Raises `TargetError`."""

    def drop_hook(self, session: str, number: int, within: float, done: Callable[[], None]) -> None:
        """Remove one; `done` is called when its events are delivered too, or not in time."""

    def drop_all(self) -> None:
        """Remove all."""


class Membership:
    """This process as a member. `report` gives what it tells of itself; `lost` is called, in a thread of ours, when the host is gone,
    and `detach` when a script asks that the agent leave; it returns at once."""

    def __init__(
        self,
        address: Address,
        key: bytes,
        limits: Limits,
        hooks: Hooks,
        report: Callable[[], Dict[str, Any]],
        lost: Callable[[], None],
        protection: Protection = NO_PROTECTION,
        *,
        detach: Callable[[], None],
    ) -> None:
        import secrets
        import threading

        self._hooks = hooks
        self._report = report
        self._lost = lost
        self._detach = detach
        self._told = threading.Event()
        self._refused = ""
        self.session = PREFIX + secrets.token_hex(16)
        self._joiner = Joiner(
            address,
            key,
            limits=limits,
            on_notice=self._noticed,
            on_lost=self._ended,
            session=self.session,
            protection=protection,
        )
        # It calls for the hooks of all sessions, as the host knows (`Peer.trust`).
        self._joiner.calling.limit = limits.max_sessions * limits.max_lanes

    def join(self, timeout: float) -> None:
        """Join, and wait until the host has told of all hooks that there are; at most `timeout` seconds. Raises `XpcError`.

        To be called when this process has announced its `session`; `AuthenticationError` if the host has not seen that.
        """
        deadline = monotonic() + timeout
        self._joiner.connect(deadline)
        if not self._told.wait(max(0.0, deadline - monotonic())):
            log.warning("the process that hosts %s was slow to tell of its hooks", self._joiner.address)
        if self._refused:
            raise AuthenticationError(f"{self._joiner.address}: {self._refused}")

    def close(self) -> None:
        """Leave."""
        self._lost = _do_nothing
        self._joiner.close()

    def abandon(self) -> None:
        """In a forked child: the membership is the parent's."""
        self._lost = _do_nothing
        self._joiner.abandon()

    def _noticed(self, notice: Notice) -> None:
        data = notice.data
        if notice.kind == "hook-added":
            self._joiner.notify("hook-answer", key=data["key"], **self._add(data))
        elif notice.kind == "hook-removed":
            key = f"removed {data['session']} {data['hook']}"
            self._hooks.drop_hook(data["session"], data["hook"], data["within"], lambda: self._say_removed(key))
        elif notice.kind == "all-hooks":
            self._told.set()
        elif notice.kind == "no-member":
            self._refused = str(data.get("message", ""))
            self._told.set()
        elif notice.kind == "report":
            self._tell(data)
        elif notice.kind == "detach":
            self._detach()

    def _say_removed(self, key: str) -> None:
        try:
            self._joiner.notify("hook-answer", key=key, error="", message="")
        except XpcError as error:
            log.debug("the process that hosts the address is gone before it heard that a hook is removed: %s", error)

    def _tell(self, data: Any) -> None:
        """Tell a script, through the host, what it has asked the host."""
        wanted = stacks.told() if data.get("what") == "stacks" else self._report()
        report = {**wanted, "request": data["request"]}
        if "probes" in report and len(json.dumps(report)) > _LONGEST_REPORT:
            # The host would take it for hostile, and end this membership and all its hooks.
            log.warning(
                "this process has more probe points (%d) than it can report through the one that hosts the address", len(report["probes"])
            )
            report["probes"] = []
        try:
            self._joiner.notify("to-script", session=data["session"], notice="report", data=report)
        except XpcError as error:
            log.debug("the process that hosts the address is gone before it was told of the probe points: %s", error)

    def _add(self, data: Any) -> Dict[str, Any]:
        peer = RelayedPeer(self._joiner, data["session"], data["who"], data["pid"], data["python"])
        message = Register(0, data["name"], data["hook"], data["style"], data["terms"], "")
        try:
            return {"error": "", **as_dict(self._hooks.add_hook(peer, message))}
        except XpcError as error:
            return {"error": type(error).__name__, "message": str(error)}

    def _ended(self, reason: str) -> None:
        log.debug("the process that hosts the address is gone: %s", reason)
        self._hooks.drop_all()
        self._lost()


def _do_nothing() -> None:
    """After leaving on purpose nothing is to be done."""
