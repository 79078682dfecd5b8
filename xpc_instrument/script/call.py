"""What a hook sees of an invocation."""

from __future__ import annotations

import inspect
from operator import is_ as _is
from typing import Any, Dict, Optional, Tuple

from ..core.calls.callee import UNCHANGING
from ..core.calls.outcome import Meta
from ..core.model.errors import PayloadError
from ..core.model.target import Mode
from ..core.values.exceptions import load_exception
from ..core.values.references import Reference

# By names of their own: up to Python 3.11 looking a member of an enum up takes as long as four calls of a function.
_AFTER, _AROUND = Mode.AFTER, Mode.AROUND


class Call:
    """One invocation of a target, as a ``before``, ``after`` or ``around`` hook sees it.

    Plain values are copies of the application's; all else, and what is too large, is a ``Reference`` (``values="copy"`` on the registration
    has all copied that can be). An ``around`` hook may assign ``args`` and ``kwargs``, or change what is in them, before it calls
    ``proceed``; what it leaves as it came, the original gets as the very object.
    """

    # With their documentation, which a member without a value can have nowhere else.
    __slots__ = {
        "_fields": "",
        "_incoming": "",
        "_passed": "",
        "_signature": "",
        "args": "The positional arguments as the caller passed them, without the instance.",
        "exception": "What the original raised, of its own type, or None. Always None in ``before`` and ``around`` hooks.",
        "kwargs": "The keyword arguments as the caller passed them.",
        "mode": "The mode of the hook, a ``Mode``.",
        "result": "What the original returned. None if it raised, and always in ``before`` and ``around`` hooks.",
        "target": "The target, ``package.module:Qualified.name``.",
    }

    args: Tuple[Any, ...]
    exception: Optional[BaseException]
    kwargs: Dict[str, Any]
    mode: Mode
    result: Any
    target: str

    def __init__(self, incoming: Any, record: Tuple[Any, ...], target: str, mode: Mode, signature: Any) -> None:
        args, kwargs, fields, outcome = record
        self.target = target
        self.mode = mode
        self.args = args
        self.kwargs = kwargs
        self.result = None
        self.exception = None
        if mode is _AFTER:
            if Meta(*fields).raised:
                self.exception = load_exception(outcome, asker=incoming)
            else:
                self.result = outcome
        elif mode is _AROUND:
            # Kept to tell whether the hook has changed something.
            self._passed = (args, dict(kwargs))
        self._fields = fields
        self._incoming = incoming
        self._signature = signature

    @property
    def instance(self) -> Optional[Reference]:
        """A reference to the instance of a method, to the class of a class method; None for a function and a static method."""
        return Meta(*self._fields).instance(self._incoming)

    @property
    def pid(self) -> int:
        """The process of the application that calls."""
        return Meta(*self._fields).pid

    @property
    def thread(self) -> int:
        """The thread there that calls, as ``threading.get_ident`` names it."""
        return Meta(*self._fields).thread

    @property
    def id(self) -> str:
        """A text that no other invocation of the application has; the same in all hooks that see this one."""
        return f"{self.pid}-{Meta(*self._fields).number}"

    @property
    def duration(self) -> float:
        """How long the original took, in seconds; of a generator, until its iteration ended. In ``after`` hooks; else 0."""
        return Meta(*self._fields).duration

    def __repr__(self) -> str:
        return f"<Call {self.id} {self.mode} {self.target}>"

    @property
    def arguments(self) -> Dict[str, Any]:
        """The arguments by the names of the target's parameters; defaults that the caller left out are not in it.

        Raises ``TypeError`` if the caller's arguments do not fit the target, ``PayloadError`` if the target does not tell its parameters.
        """
        if self._signature is None:
            raise PayloadError(f"{self.target} does not tell the names of its parameters: use call.args and call.kwargs")
        return dict(self._signature.bind(*self.args, **self.kwargs).arguments)

    def proceed(self) -> Any:
        """Run the original in the application, in the thread that called; returns or raises what it did. In ``around`` hooks only.

        It runs with ``args`` and ``kwargs`` as they are now. It may be called again, which runs the original again. Raises ``PayloadError``
        in a hook of another mode, or if an argument cannot be sent; ``ReferenceExpiredError`` once the hook has returned.
        """
        if self.mode is not _AROUND:
            raise PayloadError(f"a hook in the mode {self.mode.value!r} cannot proceed: register it with around()")
        return self._incoming.proceed(self._changed())

    def _changed(self) -> Any:
        """What is to be proceeded with, if it is not what came."""
        args, kwargs = self._passed
        now = self.kwargs
        if self.args is args and (not (now or kwargs) or (list(now) == list(kwargs) and all(map(_is, now.values(), kwargs.values())))):
            for value in (*args, *kwargs.values()):
                if type(value) not in UNCHANGING:
                    break
            else:
                return None
        return self._incoming.changed(self._passed, (tuple(self.args), dict(now)))

    async def proceed_async(self) -> Any:
        """``proceed`` for an ``async def`` hook: other hooks go on meanwhile."""
        from asyncio import get_running_loop

        return await get_running_loop().run_in_executor(None, self.proceed)


class _Default:
    """Stands for a default, whose value stays in the application."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "..."


_DEFAULT = _Default()


def signature_from_spec(spec: Any) -> Optional[inspect.Signature]:
    """The signature that the application described: a list of (name, kind, whether it has a default). A default is shown as ``...``."""
    if not isinstance(spec, list):
        return None
    parameters = [
        inspect.Parameter(
            name,
            inspect._ParameterKind(kind),
            default=_DEFAULT if has_default else inspect.Parameter.empty,
        )
        for name, kind, has_default in spec
    ]
    return inspect.Signature(parameters)
