"""What the processes of an application tell of themselves: the one that is asked, and those that share its address.

Rules:
- The process that hosts a fixed address answers for itself, and says who shares it. Those are asked through it one after the other, since
  a report can be large, and what waits for a peer is bounded (`Limits.max_backlog`). Each tells the asker in a notice, which has the number
  of the question.
- One that does not tell, such as one that is stopped, takes at most half of the time that is left; the others are asked all the same.
"""

from __future__ import annotations

import threading
from typing import Any, Dict, List, Mapping, Optional, Tuple

from ..core.node.joiner import Joiner
from ..core.node.request import PendingRequest
from ..core.protocol.messages import Notice
from ..core.unpatched import monotonic

Report = Mapping[str, Any]


class Reporter:
    """Asks the processes behind one joiner, whose notices go to `noticed`."""

    def __init__(self) -> None:
        # It is entered in one step of C: Ctrl-C at the end of a `Condition.__enter__` would leave it held.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        # The processes that are waited for, by the number of the question, and what has come of them: None of one that has left.
        self._awaited: Dict[int, int] = {}
        self._reports: Dict[int, Optional[Report]] = {}

    def noticed(self, notice: Notice) -> bool:
        """Take a notice, if it is one of these."""
        data = notice.data
        if notice.kind not in ("report", "member-left"):
            return False
        with self._lock:
            if notice.kind == "member-left":
                self._reports.update(dict.fromkeys(number for number, pid in self._awaited.items() if pid == data.get("pid")))
            elif data.get("request") in self._awaited:
                self._reports[data["request"]] = data
            self._changed.notify_all()
        return True

    def begin(self, joiner: Joiner, deadline: float, what: str = "probes") -> PendingRequest:
        """Ask a process; `collect` waits for the answer."""
        return joiner.begin_query(what, deadline)

    def collect(self, joiner: Joiner, request: PendingRequest, deadline: float, what: str = "probes") -> Tuple[List[Report], List[int]]:
        """What it tells, and those who share its address, less those that have left; and the pids of those that did not tell in time.

        Raises what `PendingRequest.answer` raises if the process itself does not.
        """
        own = request.answer(deadline).data
        found, late = [own], []
        for pid in own.get("members", ()):
            now = monotonic()
            has_told, report = self._ask_member(joiner, f"{pid} {what}", now + max(0.0, deadline - now) / 2)
            if not has_told:
                late.append(pid)
            elif report is not None:
                found.append(report)
        return found, late

    def _ask_member(self, joiner: Joiner, question: str, deadline: float) -> Tuple[bool, Optional[Report]]:
        # Not without the lock: the report may come before it is known which question it answers.
        with self._lock:
            request = joiner.begin_query(f"member {question}", deadline)
            self._awaited[request.number] = int(question.partition(" ")[0])
        try:
            if not request.answer(deadline).data.get("asked"):
                return True, None
            with self._lock:
                self._changed.wait_for(lambda: request.number in self._reports or not joiner.alive, max(0.0, deadline - monotonic()))
                return request.number in self._reports or not joiner.alive, self._reports.get(request.number)
        finally:
            with self._lock:
                del self._awaited[request.number]
                self._reports.pop(request.number, None)
