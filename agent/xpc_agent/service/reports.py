"""What this process tells of itself and its probe points: states with their reasons, hooks, and what was counted. Plain data, for JSON."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Tuple, Type

from xpc_instrument.core.discovery.doorbell import bell_name
from xpc_instrument.core.model.stats import Figures
from xpc_instrument.core.model.target import is_glob, split_target
from xpc_instrument.core.node.host import Host
from xpc_instrument.core.wire.wire import Wire

from ..collecting import held
from ..hooks.counters import HookCounters, on_lanes
from ..points.on_demand import why_never
from ..points.table import ProbeTable

if TYPE_CHECKING:
    from xpc_instrument.core.wire.hot import HotWire

    from ..hooks.remote import RemoteHook
    from ..points.point import ProbePoint

Held = Mapping[HookCounters, Figures]


class Reports:
    """What `ls` and `stats()` show of this process. `host` gives what it listens with, if it does."""

    def __init__(self, app: str, table: ProbeTable, host: Callable[[], Optional[Host]]) -> None:
        self._app = app
        self._table = table
        self._host = host

    def whole(self) -> Dict[str, Any]:
        """All that there is to tell."""
        return {"app": self._app, "pid": os.getpid(), "process": self.process(), "probes": self.probes()}

    def process(self) -> Dict[str, Any]:
        """Of the process: its sessions and their lanes."""
        host = self._host()
        peers = [] if host is None else list(host.peers.values())
        return {
            "sessions": len(peers),
            "lanes": sum(len(peer.lanes) for peer in peers),
            "refused": 0 if host is None else host.refused,
            "by-session": [{**_report_lanes(peer.pid, peer.lanes.wires()), "claimed": peer.claimed} for peer in peers],
        }

    def probes(self) -> List[Dict[str, Any]]:
        """Of each probe point, and of each glob that nothing matches yet, of the config or of a script."""
        points = self._table.every_point()
        for point in points:
            self._table.remove_expired(point)
        host = self._host()
        pools = [] if host is None else [peer.lanes for peer in list(host.peers.values())]
        held = on_lanes([*pools, *(hook.lanes for point in points for hook in point.hooks)])
        absent: Dict[str, str] = {}
        reports = [_report(point, held, absent) for point in points]
        return [*reports, *(_report_unmatched(target, hook) for target, hook in self._table.awaiting.unmatched())]


def _report(point: ProbePoint, held: Held, absent: Dict[str, str]) -> Dict[str, Any]:
    """`absent` says of modules why they will never be imported, as far as that has been asked: it takes a look at the file system."""
    hooks = list(point.hooks)
    state, reason = _state(point, hooks)
    if point.state == "pending":
        # A misspelt module would be waited for for ever. Of one that is a pattern this is looked for as far as it names packages.
        module = ".".join(itertools.takewhile(lambda part: not is_glob(part), split_target(point.target)[0].split(".")))
        if module and module not in absent:
            absent[module] = why_never(module)
        reason = absent.get(module) or reason
    figures = point.counters.figures([hook.counters for hook in hooks], held)
    return {
        "target": point.target,
        "state": state,
        "reason": reason,
        "kind": "" if point.resolved is None else point.resolved.kind.value,
        "patcher": "" if point.patch is None else point.patch.patcher,
        "why-not-inside": "" if point.patch is None else point.patch.why_not_inside,
        "allow": sorted(mode.value for mode in point.config.allow),
        "timeout": point.config.timeout,
        "on-failure": point.config.on_failure,
        "hooks": [_report_hook(hook, held) for hook in hooks],
        "calls": figures.calls,
        "failures": dict(figures.failures),
        "stats": figures.to_json(),
    }


def _report_unmatched(target: str, hook: Mapping[str, Any]) -> Dict[str, Any]:
    return {
        "target": target,
        "state": "pending",
        "reason": "no function matches yet",
        "kind": "",
        "patcher": "",
        "why-not-inside": "",
        "allow": [hook["mode"]],
        "timeout": 0.0,
        "on-failure": "",
        "hooks": [dict(hook)],
        "calls": 0,
        "failures": {},
        "stats": {},
    }


def _report_hook(hook: RemoteHook, held: Held) -> Dict[str, Any]:
    figures = hook.counters.figures().plus(held.get(hook.counters, Figures()))
    return {
        "mode": hook.mode.value,
        "pid": hook.peer.pid,
        "claimed": hook.peer.claimed,
        "number": hook.number,
        "session": bell_name(hook.session),
        "terms": hook.terms.to_json(),
        "suspended": _why_suspended(hook),
        "stats": figures.to_json(),
        **(_counted(hook) if hasattr(hook, "totals") else {}),
    }


def _counted(hook: Any) -> Dict[str, Any]:
    """Of a hook that counts in this process."""
    return {"totals": hook.totals()}


def _state(point: ProbePoint, hooks: List[RemoteHook]) -> Tuple[str, str]:
    """The state, and why it is so where it is not as it should be."""
    if not hooks or point.patch is None:
        return point.state, point.reason
    reasons = [_why_suspended(hook) for hook in hooks]
    if None in reasons:
        return "armed", ""
    return "suspended", "; ".join(reason for reason in reasons if reason)


def _why_suspended(hook: RemoteHook) -> Optional[str]:
    status = hook.admission.status()
    if status is None:
        return None
    if status["trying"]:
        when = "being tried now"
    elif status["retry-in"] > 0:
        when = f"tried again in {status['retry-in']:.1f} s"
    else:
        when = "tried again by the next invocation"
    return f"{hook.mode.value}:{hook.peer.pid} failed {status['failures']} times in a row ({status['cause']}), {when}"


def _report_lanes(script: int, wires: List[Wire]) -> Dict[str, Any]:
    """Of the lanes that a session has now: how many can be hot, the frames that went through their memory, and why the others are plain."""
    if not wires:
        return {"script": script, "lanes": 0, "hot": 0, "frames": 0, "plain": {}}
    kind = held(_hot_wire)
    hot = [wire for wire in wires if isinstance(wire, kind)]
    declined = sum(wire.is_declined for wire in hot)
    why = Counter(wire.plain or "not a unix socket" for wire in wires if not isinstance(wire, kind))
    if declined:
        why["the script could not take the memory"] = declined
    frames = sum(wire.passed for wire in hot)
    return {"script": script, "lanes": len(wires), "hot": len(hot) - declined, "frames": frames, "plain": dict(why)}


def _hot_wire() -> Type[HotWire]:
    # Late: who only looks at an application has no lane.
    from xpc_instrument.core.wire.hot import HotWire

    return HotWire
