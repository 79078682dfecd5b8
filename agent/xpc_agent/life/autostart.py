"""Starting from the environment, as `xpc-instrument run` prepares it. Never raises into the application's start-up."""

from __future__ import annotations

import logging
import os

from xpc_instrument.core.config.packed import unpack
from xpc_instrument.core.model.errors import XpcError

from .control import start

CONFIG_VARIABLE = "XPC_INSTRUMENT_CONFIG_PACKED"
MAIN_VARIABLE = "XPC_INSTRUMENT_MAIN_PID"

log = logging.getLogger("xpc_agent")


def autostart() -> None:
    """Start the agent; what goes wrong is logged, and the process runs uninstrumented."""
    try:
        config = unpack(os.environ[CONFIG_VARIABLE])
        start(config, at_once=os.environ.get(MAIN_VARIABLE) == str(os.getpid()))
    except (XpcError, OSError) as error:
        log.error("this process is not instrumented: %s", error)
    except Exception:
        log.exception("this process is not instrumented")
