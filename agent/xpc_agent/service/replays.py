"""Recorded calls that are made again in this process, in threads of ours, one for each call that a script has asked for.

Rules:
- What the config allows goes by the mode `instead`: of the target, which is called, and of all that is stood in for.
- Nothing is imported, and values are made as elsewhere (`core/replay/rebuilding.py`): of the packages of the targets.
- A call that has begun goes to its end, whatever becomes of the script; nothing is begun that nobody has asked for.
- `begin` and `result` run in the service thread; the calls do not.
"""

from __future__ import annotations

import os
from typing import Any, Callable, ContextManager, Dict, List, Mapping, Optional, Tuple

from xpc_instrument.core.config.schema import Config
from xpc_instrument.core.model.errors import TargetError
from xpc_instrument.core.model.target import Mode
from xpc_instrument.core.model.terms import Terms
from xpc_instrument.core.node.peer import Peer
from xpc_instrument.core.node.threads import start_seen
from xpc_instrument.core.replay.calls import call_of
from xpc_instrument.core.replay.finding import Found
from xpc_instrument.core.replay.running import Replayed, replay_call
from xpc_instrument.core.replay.standing import Standing
from xpc_instrument.core.replay.wire import read_asked, to_wire
from xpc_instrument.core.values.redaction import Redaction
from xpc_instrument.core.values.traits import PeerProfile, python_version

from ..hooks.admission import SuspensionPolicy
from ..hooks.failures import log
from ..hooks.replay import ReplayHook, standing_in
from ..points.point import ProbePoint
from ..points.table import ProbeTable
from ..targets.module import find_module

_MOST_DIGITS = 20


class _Owner:
    """Whose the hooks of one call are, as a peer: no session's, so that none takes them away when it ends."""

    claimed = False

    def __init__(self, peer: Peer, number: int) -> None:
        self.session = f"replay-{number}-{peer.session}"
        self.who, self.pid, self.python, self.lanes = peer.who, peer.pid, peer.python, peer.lanes

    def notify(self, kind: str, **data: Any) -> None:
        """Nobody is told."""


class _Call:
    """One call, and the hooks that stand in meanwhile."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.hooks: List[Tuple[ProbePoint, ReplayHook]] = []
        self.done: Optional[Mapping[str, Any]] = None


class _Application:
    """This process, as `core.replay.running.Place`."""

    has_main = True

    def module(self, name: str) -> Any:
        module = find_module(name)
        if module is None:
            raise ImportError("it is not imported in the application, and not imported for that")
        return module

    def in_place_of(self, target: str, found: Found, standing: Standing) -> ContextManager[object]:
        return standing_in(target, found, standing)


class Replays:
    """The calls of all sessions."""

    def __init__(self, config: Config, table: ProbeTable, redaction: Redaction) -> None:
        self._config = config
        self._table = table
        self._redaction = redaction
        self._calls: Dict[Tuple[str, int], _Call] = {}
        self._number = 0

    def begin(self, peer: Peer, text: str) -> Dict[str, Any]:
        """Begin the call that a script asks for; gives its number. Raises `TargetError` for what it may not, or cannot be."""
        asked = read_asked(text)
        try:
            call = call_of(asked["call"])
            inside, ignore, allow = ([str(one) for one in asked[name]] for name in ("inside", "ignore", "allow"))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise TargetError(f"no recorded call: {type(error).__name__}: {error}") from None
        for key in [key for key, one in self._calls.items() if one.peer.gone]:
            # Nobody asks for what has become of it.
            del self._calls[key]
        self._number += 1
        made = _Call(peer)
        try:
            self._point(call.target)
            for target in dict.fromkeys([*(one.target for one in call.inner), *(one for one in inside if "*" not in one)]):
                self._stand_in(made, _Owner(peer, self._number), target)
            start_seen(
                self._run,
                made,
                lambda: replay_call(call, inside, _Application(), ignore=ignore, allow=allow, redaction=self._redaction),
                name="replay",
            )
        except BaseException:
            self._remove(made)
            raise
        self._calls[peer.session, self._number] = made
        return {"replay": self._number, "pid": os.getpid()}

    def result(self, peer: Peer, text: str) -> Dict[str, Any]:
        """What has come of the call of that number, once it has ended. Raises `TargetError`."""
        number = int(text) if text.isdigit() and len(text) < _MOST_DIGITS else 0
        made = self._calls.get((peer.session, number))
        if made is None:
            raise TargetError(f"no call {text:.80} of this session is made again here")
        if made.done is None:
            return {"done": False}
        del self._calls[peer.session, number]
        self._table.forget_unused()
        return {"done": True, **made.done}

    def _point(self, target: str) -> ProbePoint:
        point = self._table.find_point(target)
        if point.state != "ready":
            raise TargetError(f"{target}: {point.reason or point.state}; a call is made again where it is there")
        if Mode.INSTEAD not in point.config.allow:
            allowed = ", ".join(sorted(one.value for one in point.config.allow))
            raise TargetError(f"{target}: calls are made again where the config allows the mode 'instead'; here it allows {allowed}")
        return point

    def _stand_in(self, made: _Call, owner: _Owner, target: str) -> None:
        point = self._point(target)
        with self._table.changing():
            if len(point.hooks) >= self._config.limits.max_hooks:
                raise TargetError(f"{target} has {len(point.hooks)} hooks, the limit (max-hooks)")
            hook = ReplayHook(
                Mode.INSTEAD,
                target,
                owner,
                len(made.hooks),
                "plain",
                PeerProfile(owner.python, python_version(), self._config.limits.max_payload),
                timeout=point.config.timeout,
                on_failure=point.config.on_failure,
                terms=Terms(),
                suspension=SuspensionPolicy(0, 0.0, 0.0, 0.0),
                pid=os.getpid(),
                may_refer=False,
                signature=point.signature,
                ended=lambda hook: None,
            )
            made.hooks.append((point, hook))
            point.hooks = [*point.hooks, hook]
            point.refresh()

    def _remove(self, made: _Call) -> None:
        for point, hook in made.hooks:
            self._table.remove(point, hook)
        made.hooks = []

    def _run(self, made: _Call, work: Callable[[], Replayed]) -> None:
        """In a thread of its own."""
        done: Mapping[str, Any] = {"failed": "it was interrupted"}
        try:
            done = to_wire(work())
        except Exception as error:
            log.exception("making a recorded call again failed")
            done = {"failed": f"{type(error).__name__}: {error}"}
        finally:
            self._remove(made)
            made.done = done
