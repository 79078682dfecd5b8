"""Having the agent leave the processes that a session has joined."""

from __future__ import annotations

import time
from typing import List, Sequence

from ..core.discovery import entry as discovery
from ..core.model.errors import ChannelError, DeadlineError
from ..core.unpatched import monotonic
from .process import Process

# How often it is looked whether a process has been left, in seconds.
_LOOK_AGAIN = 0.001


def have_left(processes: Sequence[Process], deadline: float) -> List[int]:
    """The pids of the processes, once the agent has left them, as the end of a connection says; with those that share their addresses, as
    the runtime directory says. DeadlineError if it does not in time."""
    pids = sorted(pid for process in processes for pid in process.pids())
    asked = [(process, process.joiner.begin_query("detach", deadline)) for process in processes]
    late = []
    for process, request in asked:
        try:
            request.answer(deadline)
        except ChannelError:
            pass  # it may have left before its answer was sent, or ended
        while (process.joiner.alive or len(process.pids()) > 1) and monotonic() < deadline:
            time.sleep(_LOOK_AGAIN)
        if process.joiner.alive:
            late.append(process.name)
        late += [f"process {pid}" for pid in process.pids()[1:]]
    if late:
        raise DeadlineError(f"the agent did not leave {', '.join(late)} in time: try again, or end the process")
    for process in processes:
        discovery.forget(str(process.joiner.address))
    return pids
