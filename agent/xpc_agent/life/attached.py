"""The agent of a process that was started without it: how it starts, once `bootstrap/attached.py` has made it importable."""

from __future__ import annotations

import os
import sys
from typing import Any, Dict, Mapping

from xpc_instrument.core.config.packed import unpack
from xpc_instrument.core.discovery.entry import belong_to, own_root
from xpc_instrument.core.discovery.folder import RuntimeDirError, runtime_folder, stay_in
from xpc_instrument.core.model.errors import XpcError
from xpc_instrument.core.version import __version__

from .. import late
from ..bootstrap.needed import take_finder
from ..guard import guarded
from .control import at_stop, begin, current, leave, stop

__all__ = ["enter", "leave", "stop"]

# A hook of one copy is unknown to the other: the application's functions would give what no hook has given.
_TWICE = (
    "some of the agent's modules are there twice, as where sys.modules is put back to what it was while they are imported, by "
    "mock.patch.dict; try again when no such patch is in force, and if that does not help after starting it anew"
)


@guarded
def enter(job: Mapping[str, Any], finder: Any, report: Dict[str, Any]) -> bool:
    """Start the agent by the `config` of the job, announced in its `runtime_dir` if it names one, and tell `report` what there is.

    Until the agent stops, `finder` stays among the finders of modules. Returns whether the agent was started, which it is not where one
    runs. Raises `XpcError` or `OSError` if it cannot be.
    """
    began = current() is None and not _stands_by()
    if began:
        late.keep()
        if not late.is_whole():
            raise XpcError(_TWICE)
        _announce_in(job["runtime_dir"])
        belong_to(job["root"])
        try:
            begin(unpack(job["config"]), at_once=True, waits=False)
        except BaseException:
            belong_to("")
            raise
        at_stop(lambda: _leave(finder))
    agent = current()
    if agent is not None:
        report["app"] = agent.config.app
        report["address"] = agent.address
    report["already"] = not began
    report["root"] = own_root()
    report["folder"] = runtime_folder(create=False)
    report["python"] = "{}.{}.{}".format(*sys.version_info)
    report["version"] = __version__
    report["modules"] = len(sys.modules)
    return began


def _announce_in(folder: str) -> None:
    """Choose the folder in which the process is announced; "" for its own one."""
    stay_in(folder or None)
    try:
        runtime_folder()
    except RuntimeDirError:
        # Its environment names another user's, as after `sudo -E`.
        stay_in(f"/tmp/xpc-instrument-{os.geteuid()}")  # noqa: S108 - made private by `runtime_folder`


def _stands_by() -> bool:
    """Whether the process was started with the agent, which has not been needed yet."""
    return bool(getattr(sys.modules.get("_xpc_instrument_stub"), "is_waiting", False))


def _leave(finder: Any) -> None:
    belong_to("")
    take_finder(finder)
