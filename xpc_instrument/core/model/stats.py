"""What is counted of hooks, as plain records: `Session.stats()`, `xpc_agent.stats()` and `xpc-instrument ls --stats` give these.

All numbers count from the start of the process, or from the fork that made it.
"""

from __future__ import annotations

from typing import Any, Dict, Iterable, List, Mapping, Optional, Tuple

from .record import Record, as_dict, fields, fresh


class Figures(Record):
    """What was counted. Bytes and waits are exact once the lanes are at rest; all else is exact at any time."""

    calls: int = 0
    """Invocations that called the hook."""

    skipped: Mapping[str, int] = fresh(dict)
    """Invocations that went on without the hook, by what kept them from it: `when` (the condition), `sample`, `rate`, `suspended`."""

    failures: Mapping[str, int] = fresh(dict)
    """Calls that failed, by cause, such as `timeout` or `channel`; `raised` is what an observer itself raised."""

    suspensions: int = 0
    """How often a hook was suspended."""

    dropped: int = 0
    """Events of hooks registered with `wait=False` that were dropped."""

    bytes_sent: int = 0
    """Bytes from the application to the script, headers included."""

    bytes_received: int = 0
    """Bytes from the script to the application."""

    waited_us: int = 0
    """Microseconds that threads or tasks of the application waited for answers and for free lanes, all together."""

    longest_wait_us: int = 0
    """The longest single wait, in microseconds."""

    @property
    def timeouts(self) -> int:
        """How many of the failures were time-outs."""
        return self.failures.get("timeout", 0)

    @property
    def wait_per_call_us(self) -> float:
        """Microseconds waited per call of the hook."""
        return self.waited_us / self.calls if self.calls else 0.0

    def plus(self, other: Figures) -> Figures:
        """Both together."""
        return Figures(
            calls=self.calls + other.calls,
            skipped=_sum(self.skipped, other.skipped),
            failures=_sum(self.failures, other.failures),
            suspensions=self.suspensions + other.suspensions,
            dropped=self.dropped + other.dropped,
            bytes_sent=self.bytes_sent + other.bytes_sent,
            bytes_received=self.bytes_received + other.bytes_received,
            waited_us=self.waited_us + other.waited_us,
            longest_wait_us=max(self.longest_wait_us, other.longest_wait_us),
        )

    def to_json(self) -> Dict[str, Any]:
        """All fields but those that are zero or empty."""
        return {
            name.replace("_", "-"): dict(value) if isinstance(value, Mapping) else value
            for name, value in as_dict(self).items()
            if value and name in _COUNTED
        }


_COUNTED = fields(Figures)


class HookStats(Figures):
    """The figures of one hook in one process."""

    mode: str = ""
    script: int = 0
    """The pid of the probe script."""

    suspended: Optional[str] = None
    """Why the hook is suspended now, and when it is tried again; None if it is not."""

    number: int = 0
    """The `number` of its handle, the same in all processes; each session of a script counts from 1."""

    session: str = ""
    """The first digits of the identifier of its session."""

    claimed: bool = False
    """Whether the script alone says that this is its pid: the kernel tells it of sockets between processes of one pid namespace only."""

    def name(self, among: Iterable[HookStats]) -> str:
        """`MODE:PID`, with `?` behind a pid that is only claimed, and as much as tells it from the others: `#NUMBER`, and `@SESSION`."""
        name = f"{self.mode}:{self.script}{'?' if self.claimed else ''}"
        alike = [one for one in among if (one.mode, one.script) == (self.mode, self.script)]
        if len(alike) > 1:
            name += f"#{self.number}"
        if len([one for one in alike if one.number == self.number]) > 1:
            name += f"@{self.session}"
        return name


class ProbeStats(Figures):
    """The figures of one probe point in one process, over all hooks that it has or had."""

    pid: int = 0
    """The process of the application."""

    target: str = ""
    state: str = ""
    """As `xpc-instrument ls` shows it: `ready`, `armed`, `suspended`, ..."""

    hooks: Tuple[HookStats, ...] = ()
    """The hooks that it has now."""


class LaneStats(Record):
    """The lanes that one session has to one process at this moment."""

    pid: int
    """The process of the application."""

    script: int
    """The pid of the probe script."""

    lanes: int
    hot: int
    """How many of them can be hot: small frames go through memory while calls follow each other closely."""

    frames: int
    """How many frames have gone through the memory of these lanes, in both directions."""

    plain: Mapping[str, int] = fresh(dict)
    """Why the others are plain, and how many for that reason."""

    claimed: bool = False
    """Whether the script alone says that this is its pid, as in `HookStats`."""


def read_lanes(pid: int, process: Mapping[str, Any]) -> List[LaneStats]:
    """The records in what a process reports of itself."""
    return [
        LaneStats(pid, one["script"], one["lanes"], one["hot"], one["frames"], one["plain"], bool(one.get("claimed")))
        for one in process.get("by-session", ())
    ]


def read_probe(pid: int, report: Mapping[str, Any]) -> ProbeStats:
    """The record in what a process reports of a probe point."""
    hooks = tuple(
        HookStats(
            **_figures(hook.get("stats", {})),
            mode=hook["mode"],
            script=hook["pid"],
            suspended=hook.get("suspended"),
            number=hook.get("number", 0),
            session=hook.get("session", ""),
            claimed=bool(hook.get("claimed")),
        )
        for hook in report["hooks"]
    )
    return ProbeStats(**_figures(report.get("stats", {})), pid=pid, target=report["target"], state=report["state"], hooks=hooks)


def _figures(counted: Mapping[str, Any]) -> Dict[str, Any]:
    known = {name.replace("_", "-"): name for name in _COUNTED}
    return {known[key]: value for key, value in counted.items() if key in known}


def _sum(one: Mapping[str, int], other: Mapping[str, int]) -> Dict[str, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in {**one, **other}}
