"""What a probe of the config stands for in a module that has run, and how that is patched."""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING, Any, ClassVar, List, Set, Tuple, Type

from xpc_instrument.core.config.schema import ProbeConfig
from xpc_instrument.core.model.errors import TargetError
from xpc_instrument.core.model.target import is_glob, split_target
from xpc_instrument.core.model.words import load_matching

from .. import collecting
from ..guard import guard
from ..targets.glob import expand, matching
from ..targets.raw import namespace_of
from ..targets.resolve import resolve

if TYPE_CHECKING:
    from .point import ProbePoint


# With it all that was loaded has been taken out, as by what unloads modules.
_FIRST = "xpc_agent.points.point"


class Loaded:
    """What `load` has loaded: whoever holds a lock finds it here, and has no import statement."""

    point: Type[ProbePoint]
    done: ClassVar[Set[Tuple[bool, bool]]] = set()


def load(module: str = "", wrapt: bool = False) -> None:
    """Late, since nothing of it is needed until there is a point; and while no lock is held, which what is imported might wait for."""
    is_there = (wrapt, module == "builtins") in Loaded.done and _FIRST in sys.modules
    if is_there or not guard.ours:
        _load(module, wrapt)
        return
    collecting.held(lambda: _load(module, wrapt))
    Loaded.done.add((wrapt, module == "builtins"))


def _load(module: str, wrapt: bool) -> None:
    from .point import ProbePoint

    Loaded.point = ProbePoint
    load_matching()
    if wrapt:
        from ..patching import load_wrapt

        load_wrapt()
        if module == "builtins":
            # They bind what they use of it where no guard is up: the originals, as long as nothing stands in the place of one.
            from xpc_instrument.core.model.expression import compiler  # noqa: F401
            from xpc_instrument.core.values import captures  # noqa: F401

            from ..hooks import conditional, fault, line, local, record, trace, unwaited, watch  # noqa: F401


def without_match(probe: ProbeConfig) -> ProbePoint:
    """For a glob that stands for nothing yet."""
    load()
    point = Loaded.point(probe.target, probe)
    point.reason = "no function matches yet"
    return point


def needs_wrapt(target: str, patcher: str) -> bool:
    """Whether a target is patched with wrapt."""
    if patcher == "wrapt":
        return True
    try:
        return not isinstance(resolve(target, hint=False).function, types.FunctionType)
    except TargetError:
        return False


def of_wrapt(probe: ProbeConfig, module: Any, name: str) -> List[str]:
    """The targets of a probe in a module that are patched with wrapt; a glob stands for Python functions, unless it names wrapt."""
    if probe.patcher == "wrapt":
        return expand(probe.target, probe.exclude, module, name)
    path = split_target(probe.target)[1]
    if probe.patcher == "code" or is_glob(path) or type(namespace_of(module).get(path)) is types.FunctionType:
        return []
    target = f"{name}:{path}"
    return expand(probe.target, probe.exclude, module, name) if needs_wrapt(target, probe.patcher) else []


def is_there(probe: ProbeConfig, module: Any, name: str) -> bool:
    """Whether something that a probe stands for is in a module."""
    for target in matching(probe.target, probe.exclude, module, name):
        try:
            resolve(target)
        except TargetError:
            continue
        return True
    return False
