"""Starting from the environment, as `xpc-instrument run` prepares it. Never raises into the application's start-up."""

from __future__ import annotations

import logging
import os
from typing import Any, Callable, List, Optional, Protocol

from xpc_instrument.core.config.packed import unpack
from xpc_instrument.core.discovery.entry import MAIN_VARIABLE
from xpc_instrument.core.model.errors import XpcError

from .control import begin, current, settle

CONFIG_VARIABLE = "XPC_INSTRUMENT_CONFIG_PACKED"

log = logging.getLogger("xpc_agent")


Run = Callable[[Any, Any, str], None]


class Stub(Protocol):
    """What has stood in for the agent (`bootstrap/sitecustomize.py`)."""

    listener: int
    missed: List[str]

    @property
    def is_in_own_thread(self) -> bool: ...

    def withdraw(self) -> Any: ...


def autostart(stub: Optional[Stub]) -> Optional[Run]:
    """Start the agent, which takes over from `stub`, if there was one; what goes wrong is logged, and the process runs uninstrumented.

    Returns what runs a module and has the agent told: `run(loader, module, name)`.
    """
    try:
        config = unpack(os.environ[CONFIG_VARIABLE])
        listener = -1 if stub is None else stub.listener
        at_once = listener >= 0 or os.environ.get(MAIN_VARIABLE) == str(os.getpid())
        # In a thread of its own it holds up nothing but forks.
        begin(config, at_once, listener, waits=stub is None or not stub.is_in_own_thread)
        if stub is not None and stub.missed:
            settle(stub.missed)
        agent = current()
        return None if agent is None else agent.watcher.run
    except (XpcError, OSError) as error:
        log.error("this process is not instrumented: %s", error)
    except Exception:
        log.exception("this process is not instrumented")
    if stub is not None:
        stub.withdraw()
    return None
