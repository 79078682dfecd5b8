"""A line as a probe point: where it is, who may look at it, and the hooks on it."""

from __future__ import annotations

import logging
import sys
from types import CodeType, FunctionType
from typing import Any, Callable, Dict, FrozenSet, Iterable, List, Optional

from xpc_instrument.core.config.schema import Config, ProbeConfig
from xpc_instrument.core.model.errors import TargetError
from xpc_instrument.core.model.record import replace
from xpc_instrument.core.model.target import Mode

from ..patching import Patch
from ..patching.code_swap import plain_code
from ..patching.lines.events import LineEvents
from ..patching.lines.injection import Call, Injection
from ..patching.lines.starts import Body, UndecodableError
from ..targets.lines import FoundLine, Root, find_line, module_to_come
from ..targets.module import main_names
from ..targets.running import names_to_come
from .point import ProbePoint

log = logging.getLogger("xpc_agent")

_OBSERVERS = frozenset({Mode.BEFORE, Mode.AFTER})
BY_EVENTS = sys.version_info >= (3, 12)

ONLY_LATER = "frames that ran before are not seen: this Python needs its code changed for that"

injection = Injection()
_events: Any = None

ConfigOf = Callable[[str, str], Optional[ProbeConfig]]


def line_point(target: str, config_of: ConfigOf, patches: Callable[[], Iterable[Patch]], config: Config) -> LinePoint:
    """The point of a line; pending if a module is to come that has the file. `config_of` says what the config says of a function in a
    module. Raises `TargetError`."""
    point = LinePoint(target, config, config_of, patches)
    if not point.module:
        point.find()
    return point


def _find(target: str, has_run: str) -> FoundLine:
    known: Dict[int, Dict[int, List[Any]]] = {}

    def starts(code: CodeType) -> Dict[int, List[Any]]:
        if id(code) not in known:
            try:
                known[id(code)] = Body(code).starts
            except UndecodableError:
                known[id(code)] = {}
        return known[id(code)]

    return find_line(target, own_code, starts, has_run)


def own_code(function: FunctionType) -> CodeType:
    """The code object that the function has without hooks and without probes on its lines."""
    return injection.original(plain_code(function))


def _allowed(target: str, roots: List[Root], config_of: ConfigOf, app: str) -> ProbeConfig:
    """What the config says of the function around the line: it has to allow to look at it."""
    found: Optional[ProbeConfig] = None
    for root in roots:
        names = (*main_names(), "__main__") if root.module == "__main__" else (root.module,)
        configs = [config for config in (config_of(name, root.name) for name in names) if config is not None]
        function = f"{names[0]}:{root.name}"
        if not configs:
            remedy = "add it to the config, as a probe or on demand, and start the application again"
            raise TargetError(f"{target} is in {function}, which is no probe point of {app}: {remedy}")
        found = configs[0]
        if not found.allow & _OBSERVERS:
            allowed = ", ".join(sorted(one.value for one in found.allow))
            raise TargetError(f"{target} is in {function}, where the config does not allow to look, only {allowed}")
    assert found is not None
    allow: FrozenSet[Mode] = found.allow | _OBSERVERS
    return replace(found, allow=allow)


class LinePoint(ProbePoint):
    """One line in this process."""

    is_line = True

    def __init__(self, target: str, config: Config, config_of: ConfigOf, patches: Callable[[], Iterable[Patch]]) -> None:
        # Until it is known whose the line is; then the function's own.
        probe = config.defaults.probe(target)
        super().__init__(target, replace(probe, allow=probe.allow | _OBSERVERS))
        self.on_demand = True
        self._app = config.app
        self._module = module_to_come(target)
        self._config_of = config_of
        self._patches = patches
        self._found: Optional[FoundLine] = None
        self._shown: List[Any] = []

    @property
    def module(self) -> str:
        """That which is to come, if the file is not there yet."""
        return self._module

    def find(self) -> None:
        """Look for it. Raises `TargetError`."""
        found = _find(self.target, self._module)
        self.config = _allowed(self.target, found.roots, self._config_of, self._app)
        self._found = found
        self.state, self.reason = "ready", "" if BY_EVENTS else ONLY_LATER

    def make_hookable(self) -> None:
        """Its module has run."""
        try:
            self.find()
            self.refresh()
        except TargetError as error:
            self.state, self.reason = "missing", str(error)
            if names_to_come(self._module):
                self.state, self.reason = "pending", "the main program has not come to it yet"
        hooks: List[Any] = list(self.hooks)
        mistakes = [f"{self.target}: {hook.mistake}" for hook in hooks if hook.mistake]
        for text in [*([self.reason] if self.state == "missing" else []), *mistakes]:
            # Nobody waits for the answer any more.
            log.warning("%s", text)

    def refresh(self) -> None:
        """Have the line's state follow its list of hooks. Raises `TargetError` if it cannot be."""
        found = self._found
        if found is None:
            return
        hooks: List[Any] = list(self.hooks)
        for hook in hooks:
            if not any(hook is one for one in self._shown):
                hook.at(found.codes)
        shown = [hook for hook in hooks if not hook.mistake]
        if len(shown) != len(self._shown) or any(one is not other for one, other in zip(shown, self._shown)):
            try:
                self._put(found, shown)
            except UndecodableError as error:
                raise TargetError(f"{self.target} cannot be looked at: {error}") from error
            self._shown = shown
        self.state = "armed" if self._shown else "ready"

    def _put(self, found: FoundLine, hooks: List[Any]) -> None:
        if BY_EVENTS:
            derived = [pair for pair in (patch.derived() for patch in self._patches()) if pair is not None]
            hits = [hook.call(None) for hook in hooks]
            line_events().put([(code, found.line, hits) for code in found.codes], derived)
            return
        calls = [Call(hook.wanted, hook.call) for hook in hooks]
        changes = [(code, found.line, calls) for code in found.codes]
        injection.put(changes, [root.code for root in found.roots], found.functions, self._rebase)

    def _rebase(self, old: CodeType, new: CodeType) -> None:
        for patch in self._patches():
            patch.rebase(old, new)

    def restore(self) -> None:
        """Undo it."""
        self.hooks = []
        self.refresh()


def line_events() -> Any:
    """The `LineEvents` of this process, which are made when the first line is looked at."""
    global _events
    if _events is None:
        _events = LineEvents()
    return _events
