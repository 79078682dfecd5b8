"""Starting and stopping the agent of this process, and what may be asked of it: the functions of `xpc_agent`, at exit, at a fork.

Rules:
- A process has one agent, or none.
- Starting never harms the application: what fails is logged, and the application runs uninstrumented. (`start()` called by the application
  itself raises, since it asked.)
- What is done in the application's threads at these moments is work of ours: probe points that it hits pass through.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
from functools import partial
from typing import Any, Callable, Iterable, List, Optional, Sequence, Tuple, Union

from xpc_instrument.core.config.schema import Config
from xpc_instrument.core.model.errors import ConfigError, XpcError
from xpc_instrument.core.model.interrupts import raise_interrupt
from xpc_instrument.core.model.stats import LaneStats, ProbeStats, read_lanes, read_probe
from xpc_instrument.core.node.threads import Run, gone, start_unseen
from xpc_instrument.core.unpatched import Local, allocate_lock, monotonic, sleep

from .. import collecting
from ..guard import guard, guard_thread, guarded
from ..late import forget_unfinished, keep
from ..targets.module import find_module, is_initializing
from .agent import Agent
from .fork_return import catch_up, when_returned
from .interpreter import is_main

log = logging.getLogger("xpc_agent")

# How long a module may take that another thread imports while the agent is loaded, and how often it is looked at, in seconds.
_SETTLING = 60.0
_LOOK_AGAIN = 0.002


class _Forking(Local):
    """Of the fork that the thread makes: what was paused for it, and whether the thread was guarded."""

    agent: Optional[Agent] = None
    was_on = has_begun = False


_forking = _Forking()
_agent: Optional[Agent] = None
_hooked_forks = False
# What else is undone when the agent stops, such as what `attach` has brought.
_at_stop: List[Callable[[], None]] = []
# Held while the agent leaves: scripts may ask twice, and a child that is forked in between would be half as it was. The thread that does
# it is waited for by forks until it is gone: from Python 3.12 on a fork warns of a second one.
_leaving = allocate_lock()
_leaver: Optional[Run] = None
# How long a fork waits for that, in seconds. It takes milliseconds, unless lines of the log cannot be written.
_LEAVING_PATIENCE = 5.0


@guarded
def start(
    config: Union[Config, str, os.PathLike[str], None] = None,
    *,
    app: Optional[str] = None,
    probes: Iterable[str] = (),
    on_demand: Iterable[str] = (),
    at_once: bool = True,
) -> None:
    """Make this process hookable, by the config file at the path `config`, or the nearest one from the current folder upwards.

    `app` overrides its app name, `probes` adds targets, `on_demand` patterns such as `"shop.**"` of what a script may hook without its
    being listed; with either of them no config file is needed. With `at_once=False` the process listens, and can be found, only when the
    first module with a target in it has been imported. A second start without a stop in between does nothing,
    nor does any where the environment has `XPC_INSTRUMENT_DISABLE=1`. Raises `ConfigError` for a
    wrong config, another `XpcError` or an `OSError` if the process cannot listen, and `XpcError` in a subinterpreter.
    """
    if _loaded() is not None:
        return
    if os.environ.get("XPC_INSTRUMENT_DISABLE", "") not in ("", "0"):
        log.info("XPC_INSTRUMENT_DISABLE is set: this process is not instrumented")
        return
    if not is_main():
        raise XpcError("this is a subinterpreter; only the main interpreter of a process can be instrumented: call start() there")
    begin(_config(config, app, tuple(probes), tuple(on_demand)), at_once)


@guarded
def begin(config: Config, at_once: bool, listener: int = -1, *, waits: bool = True) -> None:
    """Start the agent of a process that has none; `listener` is what listens at its own address already, or -1; `waits` as `Agent.open`."""
    global _agent
    keep()
    agent = Agent(config, listener, leave)
    _hook_forks()
    try:
        agent.start(at_once=at_once, waits=waits)
    except BaseException:
        agent.stop()
        raise
    _agent = agent
    atexit.register(_at_exit, agent)


@guarded
def stop() -> None:
    """Undo everything: all functions, modules and the import system are as they were, and nothing listens any more."""
    global _agent
    stub = _stub()
    if stub is not None:
        stub.end()
    agent, _agent = _agent, None
    if agent is not None:
        atexit.unregister(_at_exit)
        agent.stop(_undo_rest)


def _undo_rest() -> None:
    while _at_stop:
        _at_stop.pop()()


@guarded
def begin_program() -> None:
    """Called in the main thread before the program begins, which has waited for a script (`bootstrap/sitecustomize.py`)."""
    if _agent is not None:
        # Late: only what a verb has started is waited for so.
        from ..points.following import follow_program

        follow_program(_agent.table)


def at_stop(undo: Callable[[], None]) -> None:
    """Have `undo` called when the agent is stopped."""
    _at_stop.append(undo)


def leave() -> None:
    """Stop, in a thread of its own: it is called by one that ends with the agent, and returns before it is done."""
    global _leaver
    if _leaving.acquire(False):
        _leaver = run = Run()
        try:
            start_unseen(_leave, run)
        except BaseException:
            _leaver = None
            _leaving.release()
            raise


def _leave(run: Run) -> None:
    run.begin()
    guard_thread()
    try:
        stop()
    except Exception:
        log.exception("leaving this process failed; what is left does nothing")
    finally:
        _leaving.release()
        run.end()


@guarded
def stats() -> List[ProbeStats]:
    """What was counted of each probe point of this process; nothing if no agent runs in it."""
    agent = _loaded()
    if agent is None:
        return []
    return [read_probe(os.getpid(), report) for report in agent.reports.probes()]


@guarded
def lanes() -> List[LaneStats]:
    """The lanes that each script has to this process now, and which of them can be hot; nothing if no agent runs in it."""
    agent = _loaded()
    return [] if agent is None else read_lanes(os.getpid(), agent.reports.process())


def current() -> Optional[Agent]:
    """The agent of this process, if it runs."""
    return _agent


def _stub() -> Any:
    """What stands in for the agent in this process (`bootstrap/sitecustomize.py`), while it does; or None."""
    stub = sys.modules.get("_xpc_instrument_stub")
    return stub if getattr(stub, "is_waiting", False) else None


def _loaded() -> Optional[Agent]:
    """The agent of this process; where something stands in for it, it is loaded now."""
    stub = _stub()
    if stub is not None:
        stub.load()
    return _agent


def settle(modules: Sequence[str]) -> None:
    """Look at modules that other threads were importing while the agent was loaded, once they have run."""
    start_unseen(_settle, tuple(modules))


def _settle(modules: Sequence[str]) -> None:
    guard_thread()
    deadline = monotonic() + _SETTLING
    while monotonic() < deadline and not all(map(_has_run, modules)):
        sleep(_LOOK_AGAIN)
    if _agent is not None:
        _agent.table.look_at_imported()


def _has_run(name: str) -> bool:
    module = find_module(name)
    return module is not None and not is_initializing(module)


def _config(
    config: Union[Config, str, os.PathLike[str], None], app: Optional[str], probes: Tuple[str, ...], on_demand: Tuple[str, ...]
) -> Config:
    # Late: what is started from the environment has its config from there.
    from pathlib import Path

    from xpc_instrument.core.config import file as config_module

    if config is None:
        found = config_module.find(Path.cwd())
        if found is not None:
            config = config_module.load(found)
        elif probes or on_demand:
            config = config_module.from_probes(app or config_module.default_app(Path.cwd()), probes)
        else:
            raise ConfigError(
                f"no {config_module.FILE_NAME} in {Path.cwd()} or above: write one, or name targets with probes=[...] or on_demand=[...]"
            )
    elif not isinstance(config, Config):
        config = config_module.load(config)
    if app is not None:
        config = config_module.with_app(config, app)
    return config_module.with_on_demand(config_module.with_probes(config, probes), on_demand)


@guarded
def _at_exit(agent: Agent) -> None:
    agent.close()


def _hook_forks() -> None:
    """Once per process: at-fork hooks cannot be taken back, so they ask for the agent of the moment."""
    global _hooked_forks
    if _hooked_forks or not hasattr(os, "register_at_fork"):
        return
    _hooked_forks = True
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)


def _before() -> None:
    global _leaver
    catch_up()
    leaver = _leaver
    if leaver is not None and leaver.join(_LEAVING_PATIENCE) and _leaver is leaver:
        _leaver = None
    _begin_fork()


def _begin_fork() -> None:
    """Once or twice for each fork: what was registered last is called first, which may be that it is late."""
    if not _forking.has_begun:
        _forking.was_on = guard.on
        _forking.has_begun = True
    # To the end of `_in_parent` and `_in_child`: what others do at a fork, in the child above all, must not use the parent's lanes.
    guard.on = True
    if _forking.agent is None and _agent is not None:
        _forking.agent = _agent
        _agent.before_fork()


def before_late_fork() -> None:
    """For a fork that has waited for the agent to be loaded: `_before` was not there when it began, or the agent was not."""
    if _agent is not None:
        _begin_fork()


def _in_parent() -> None:
    # One that another thread has started meanwhile has not paused for this fork.
    agent, _forking.agent = _forking.agent, None
    try:
        if agent is not None:
            when_returned(sys._getframe().f_back, partial(_go_on, agent))
    finally:
        _forking.has_begun = False
        guard.on = _forking.was_on


@guarded
def _go_on(agent: Agent) -> None:
    try:
        agent.after_fork_in_parent()
    except Exception as error:
        raise_interrupt(error)
        log.exception("after a fork, this process cannot be hooked any more")


def _in_child() -> None:
    global _leaving, _leaver
    _leaving, _leaver = allocate_lock(), None
    collecting.reset_after_fork()
    try:
        forget_unfinished(gone())
        if _agent is not None:
            _agent.after_fork_in_child()
    except Exception as error:
        log.error("this forked process cannot be hooked: %s", error, exc_info=not isinstance(error, (XpcError, OSError)))
    finally:
        _forking.agent, _forking.has_begun = None, False
        # Whatever the thread did when it forked, in the child it does the application's work.
        guard.on = False
