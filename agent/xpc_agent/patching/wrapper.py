"""Patching with wrapt, for what is no Python function: C functions, callables, cached functions.

Rules:
- The wrapper is in place from the start, so that names imported afterwards lead to it. While disarmed it asks `enabled`, the bound
  `__len__` of a list, and calls straight through: no Python frame of ours runs.
- Undo puts the raw descriptor back, or deletes what hid an inherited one, and only if our wrapper is still there.
- A wrapper pickles by its name where what it wraps does so, and else as what it wraps.
"""

from __future__ import annotations

import operator
from typing import Any, Callable, Dict, List, Tuple

import wrapt

from ..targets.raw import delete_raw, set_raw
from ..targets.resolve import Binding, Kind, Resolved
from .interface import InvocationHandler, Patch, PatchError


class _Bound(wrapt.BoundFunctionWrapper):  # type: ignore[misc]
    def __reduce_ex__(self, protocol: Any) -> Any:
        parent = self._self_parent
        instance = self._self_instance
        if instance is None:
            # Reached through a class: a class method has its own there, which may be a subclass.
            instance = getattr(self.__wrapped__, "__self__", parent._self_xpc_owner)
        return getattr, (instance, parent._self_xpc_name)

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: Any) -> Any:
        return self


class _Wrapper(wrapt.FunctionWrapper):  # type: ignore[misc]
    __bound_function_wrapper__ = _Bound

    def __reduce_ex__(self, protocol: Any) -> Any:
        if isinstance(self._self_xpc_owner, type):
            return getattr, (self._self_xpc_owner, self._self_xpc_name)
        wrapped = self.__wrapped__
        name = getattr(wrapped, "__qualname__", None)
        if name is not None and vars(self._self_xpc_owner).get(name) is self and self._self_xpc_owner.__name__ == wrapped.__module__:
            return name
        return operator.itemgetter(0), ((wrapped,),)

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: Any) -> Any:
        return self


def _without_instance(bound: Callable[..., Any]) -> Callable[..., Any]:
    """What wrapt has bound already, to be called with the instance all the same."""

    def original(_: Any, /, *args: Any, **kwargs: Any) -> Any:
        return bound(*args, **kwargs)

    return original


class WraptPatch(Patch):
    """A wrapt `FunctionWrapper` in the target's place."""

    patcher = "wrapt"

    def __init__(self, resolved: Resolved, handler: InvocationHandler) -> None:
        super().__init__(resolved, handler)
        self._switch: List[bool] = []
        self._installed: Any = None

    def _wrap(self, function: Any) -> Any:
        enter = {
            Kind.SYNC: self.handler.call,
            Kind.COROUTINE: self.handler.call_async,
            Kind.GENERATOR: self.handler.call_generator,
            Kind.ASYNC_GENERATOR: self.handler.call_async_generator,
        }[self.resolved.kind]
        unbound = self.resolved.binding is Binding.NONE
        # `__new__` is a static method that gets its class as an argument.
        makes = self.resolved.attribute == "__new__"

        def wrapper(wrapped: Callable[..., Any], instance: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
            if unbound or makes or instance is None:
                return enter(wrapped, args, kwargs, makes)
            return enter(_without_instance(wrapped), (instance, *args), kwargs, True)

        made = _Wrapper(function, wrapper, enabled=self._switch.__len__)
        made._self_xpc_owner, made._self_xpc_name = self.resolved.owner, self.resolved.attribute
        return made

    def install(self) -> None:
        if self._installed is not None:
            return
        resolved = self.resolved
        raw = resolved.raw
        if isinstance(raw, property):
            parts = {name: getattr(raw, name) for name in ("fget", "fset", "fdel")}
            accessor = parts[resolved.accessor]

            parts[resolved.accessor] = self._accessor(accessor)
            made: Any = type(raw)(doc=raw.__doc__, **parts)
        else:
            made = self._wrap(raw)
        try:
            set_raw(resolved.owner, resolved.attribute, made)
        except (AttributeError, TypeError) as error:
            raise PatchError(f"{resolved.target}: its attribute cannot be set: {error}") from error
        self._installed = made

    def _accessor(self, accessor: Any) -> Any:
        """A property calls its accessors with the instance as an argument; hooks see it as the instance."""
        enter = self.handler.call
        switch = self._switch

        def wrapper(wrapped: Callable[..., Any], _: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
            return enter(wrapped, args, kwargs, True)

        made = _Wrapper(accessor, wrapper, enabled=switch.__len__)
        made._self_xpc_owner, made._self_xpc_name = self.resolved.owner, self.resolved.attribute
        return made

    def is_on(self, now: Resolved) -> bool:
        return now.raw is self._installed

    def arm(self) -> None:
        if not self._switch:
            self._switch.append(True)

    def disarm(self) -> None:
        self._switch.clear()

    def uninstall(self) -> None:
        self.disarm()
        made, self._installed = self._installed, None
        if made is None:
            return
        resolved = self.resolved
        if vars(resolved.owner).get(resolved.attribute) is not made:
            raise PatchError(f"{resolved.target}: somebody else replaced it since; that stays, with our wrapper inside it")
        if resolved.inherited:
            delete_raw(resolved.owner, resolved.attribute)
        else:
            set_raw(resolved.owner, resolved.attribute, resolved.raw)
