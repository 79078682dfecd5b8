"""One target in this process: what became of it, and the hooks on it.

It is `pending` until its module is imported, or, in the main program, until that has defined it; then `ready`, `missing` or `unpatchable`,
which its `reason` explains.
"""

from __future__ import annotations

import logging
import types
from typing import Any, List, Optional

from xpc_instrument.core.config.schema import ProbeConfig
from xpc_instrument.core.model.errors import TargetError
from xpc_instrument.core.model.interrupts import raise_interrupt
from xpc_instrument.core.model.target import split_target

from ..hooks.counters import Counters
from ..hooks.dispatch import Dispatcher, HookChain
from ..hooks.remote import RemoteHook
from ..late import NotLoadedError
from ..patching import Patch, make_patch
from ..patching.code_swap import plain_code
from ..targets.resolve import Resolved, UnpatchableError, resolve
from ..targets.running import is_to_come
from ..targets.signature import signature_spec

log = logging.getLogger("xpc_agent")


class ProbePoint:
    """One target in this process."""

    is_line = False

    def __init__(self, target: str, config: ProbeConfig) -> None:
        self.target = target
        self.config = config
        # Whether a script has asked for it, and the config does not list it.
        self.on_demand = False
        self.state = "pending"
        self.reason = "its module is not imported yet"
        self.dispatcher = Dispatcher()
        self.counters = Counters()
        self.hooks: List[RemoteHook] = []
        self.resolved: Optional[Resolved] = None
        self.patch: Optional[Patch] = None
        self._signature: Any = None

    @property
    def module(self) -> str:
        """The name of the module that has it."""
        return split_target(self.target)[0]

    def make_hookable(self) -> None:
        """Resolve and patch; what cannot be has a state and a reason afterwards. Raises `NotLoadedError`, and has done nothing."""
        try:
            self.resolved = resolve(self.target)
            self.patch = make_patch(self.resolved, self.dispatcher, self.config.patcher, may_load=False)
            self.patch.install()
            # Now, since the code of an armed function is the trampoline's.
            self._signature = signature_spec(self.resolved)
            self.state, self.reason = "ready", ""
            self.refresh()
        except NotLoadedError:
            raise
        except UnpatchableError as error:
            self.state, self.reason, self.patch = "unpatchable", str(error), None
        except TargetError as error:
            self.state, self.reason = "missing", str(error)
            if is_to_come(*split_target(self.target)):
                self.state, self.reason = "pending", "the main program has not come to it yet"
        except Exception as error:
            raise_interrupt(error, of_values=True)
            log.exception("making %s hookable failed", self.target)
            self.state, self.reason, self.patch = "unpatchable", f"{type(error).__name__}: {error}", None

    def refresh(self) -> None:
        """Have the target's state follow its list of hooks."""
        if self.patch is not None:
            assert self.resolved is not None
            function = self.resolved.function
            code = plain_code(function) if type(function) is types.FunctionType else None
            for hook in self.hooks:
                hook.shown_in(self.patch.form)
                hook.placed(self.resolved, code)
                condition = getattr(hook, "condition", None)
                if condition is not None:
                    condition.placed(self.resolved, code)
        self.dispatcher.chain = HookChain([getattr(hook, "condition", None) or hook for hook in self.hooks]) if self.hooks else None
        if self.patch is None:
            return
        if self.hooks:
            self.patch.arm()
        else:
            self.patch.disarm()

    def tell_hooks(self) -> None:
        """Have the scripts told that have hooks on what has come, and may not be as they need it."""
        for hook in self.hooks:
            mistake = getattr(hook, "mistake", "")
            if self.patch is None:
                hook.not_placed(self.reason)
            elif mistake:
                hook.not_placed(f"{self.target}: {mistake}")
            else:
                hook.has_come()

    def reset_after_fork(self) -> None:
        """In a forked child: it counts from zero on."""
        self.counters = Counters()

    def restore(self) -> None:
        """Undo the patch."""
        self.hooks = []
        self.dispatcher.chain = None
        patch, self.patch = self.patch, None
        if patch is not None:
            try:
                patch.uninstall()
            except TargetError as error:
                log.warning("%s", error)

    def signature(self) -> Any:
        """The parameters of the target, for binding arguments by name."""
        return self._signature
