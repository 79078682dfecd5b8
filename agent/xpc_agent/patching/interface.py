"""What the two patchers have in common."""

from __future__ import annotations

from types import CodeType
from typing import Any, AsyncGenerator, Callable, Coroutine, Dict, Generator, Optional, Protocol, Tuple

from ..targets.parameters import form_of
from ..targets.resolve import Resolved, UnpatchableError


class PatchError(UnpatchableError):
    """The target cannot be made hookable; the message says why."""


class InvocationHandler(Protocol):
    """Where an armed function leads.

    `original(*args, **kwargs)` runs what was there before; args and kwargs are in the form in which the caller passed them, and with
    `bound` the first of `args` is the instance (or the class). `sole` is a short cut: called like `call`, by who has looked at the guard.
    """

    @property
    def sole(self) -> Optional[Callable[..., Any]]: ...

    def call(self, original: Callable[..., Any], args: Tuple[Any, ...], kwargs: Dict[str, Any], bound: bool) -> Any: ...

    def call_async(
        self, original: Callable[..., Any], args: Tuple[Any, ...], kwargs: Dict[str, Any], bound: bool
    ) -> Coroutine[Any, Any, Any]: ...

    def call_generator(
        self, original: Callable[..., Any], args: Tuple[Any, ...], kwargs: Dict[str, Any], bound: bool
    ) -> Generator[Any, Any, Any]: ...

    def call_async_generator(
        self, original: Callable[..., Any], args: Tuple[Any, ...], kwargs: Dict[str, Any], bound: bool
    ) -> AsyncGenerator[Any, Any]: ...


class Patch:
    """One target made hookable. `arm` and `disarm` may be called at any time and again; `uninstall` leaves every object as it was."""

    patcher = ""
    why_not_inside = ""
    """Why the hooks are not inside of the function's own code, where that has a reason of its own; for `ls`."""

    def __init__(self, resolved: Resolved, handler: InvocationHandler) -> None:
        self.resolved = resolved
        self.handler = handler
        # From any form of a call to the canonical one, if that may be another.
        self.form = form_of(resolved.function)

    def install(self) -> None:
        """Make hookable, disarmed."""

    def is_on(self, now: Resolved) -> bool:
        """Whether what the target names now is what this was made for; a reload of its module makes something else."""
        return now.function is self.resolved.function

    def arm(self) -> None:
        """From now on invocations reach the handler, with the hooks that it has now. Asked for again whenever these have changed."""
        raise NotImplementedError

    def disarm(self) -> None:
        """From now on invocations run the original."""
        raise NotImplementedError

    def rebase(self, old: CodeType, new: CodeType) -> None:
        """The function's own code has become another, which has the same parameters: in one step, armed or not."""

    def derived(self) -> Optional[Tuple[CodeType, CodeType]]:
        """The function's own code, and the one with the hooks inside that was made of it, whether it is armed now or not."""
        return None

    def uninstall(self) -> None:
        """Undo it all. If somebody else has patched the target since, theirs stays, and a `PatchError` says so."""
        raise NotImplementedError
