"""The four ways to register a hook, each a decorator and a function, with their terms as typed keywords."""

from __future__ import annotations

import sys
from typing import Any, Callable, List, Literal, Optional, Tuple, Type, TypeVar, Union, overload

from ..core.model.errors import ExpressionError, XpcError
from ..core.model.record import replace
from ..core.model.target import Mode
from ..core.model.terms import AS_PASSED, Terms
from .handle import Handle

F = TypeVar("F", bound=Callable[..., Any])
Values = Literal["reference", "copy"]
Form = Literal["canonical", "as passed"]
Raises = Union[Type[Exception], Tuple[Type[Exception], ...]]


Targets = Union[str, List[str], Tuple[str, ...]]


class Registrar:
    """What a session is for those who register hooks; `_add` registers one."""

    def _add(self, mode: Mode, target: str, callback: Callable[..., Any], terms: Terms, raises: Tuple[Type[Exception], ...]) -> Handle:
        raise NotImplementedError

    @overload
    def before(
        self,
        target: Targets,
        *,
        when: Optional[str] = None,
        limit: Optional[int] = None,
        expires: Optional[float] = None,
        sample: Optional[float] = None,
        rate: Optional[float] = None,
        timeout: Optional[float] = None,
        values: Optional[Values] = None,
        wait: bool = True,
        form: Optional[Form] = None,
    ) -> Callable[[F], F]: ...
    @overload
    def before(
        self,
        target: Targets,
        hook: Callable[..., Any],
        *,
        when: Optional[str] = None,
        limit: Optional[int] = None,
        expires: Optional[float] = None,
        sample: Optional[float] = None,
        rate: Optional[float] = None,
        timeout: Optional[float] = None,
        values: Optional[Values] = None,
        wait: bool = True,
        form: Optional[Form] = None,
    ) -> Handle: ...
    def before(
        self,
        target: Targets,
        hook: Optional[Callable[..., Any]] = None,
        *,
        when: Optional[str] = None,
        limit: Optional[int] = None,
        expires: Optional[float] = None,
        sample: Optional[float] = None,
        rate: Optional[float] = None,
        timeout: Optional[float] = None,
        values: Optional[Values] = None,
        wait: bool = True,
        form: Optional[Form] = None,
    ) -> Any:
        """Have ``hook(call)`` called before each invocation of the target, ``package.module:Qualified.name``.

        The target may be a pattern, in which ``*`` stands for one name or a part of one and ``**`` for any number of names with the dots
        between them (``"shop.checkout:*"``, ``"shop.**:*charge*"``, ``"shop.**"``), or a list of targets and patterns: then the hook is
        put on all of them, those included whose modules are imported later, and ``Handle.targets`` lists them. ``call.target`` says which
        one is called. Special methods are left out unless the last part of the pattern begins with ``__``. What follows counts for all of
        them together.

        With a ``hook`` it returns a handle; without, it is a decorator, which returns the function that it is put on. When it returns, the
        hook is armed in every process of the application. The same goes for ``after``, ``around`` and ``instead``, and so do the options:

        - ``when``: an expression (docs/expressions.md), ``"amount > 100 and customer.vip"``: only the invocations that meet it call the
          hook. It is asked in the application, of the parameters, runs no code of the application, and costs it some 100 ns. A condition
          that fails counts as not met.
        - ``limit``: the hook ends after so many calls, in all processes together.
        - ``expires``: it ends after so many seconds.
        - ``sample``: the fraction of the invocations that call it, above 0 and up to 1; which of them is left to chance.
        - ``rate``: at most so many calls a second, in each process; the invocations beyond that go on without it.
        - ``timeout``: for how many seconds at most the application waits for one call of the hook, up to the config's ``max-timeout``, 30;
          without it, the config's ``timeout`` of the probe point.
        - ``values``: with ``"reference"``, the default but for ``instead``, all values but plain ones cross as a ``Reference``, so that no
          code of the application runs for the hook; with ``"copy"``, the default of ``instead``, they are pickled where that can be done.
        - ``wait=False``, of ``before`` and ``after``: no thread of the application waits for the hook. It is shown the values as they were,
          and may lose some of the calls (``Handle.dropped``) where they come faster than it runs.
        - ``form``, but of ``instead``: how ``call.args`` and ``call.kwargs`` show the arguments. ``"canonical"``: the values of positional
          parameters in ``args``, of keyword-only ones in ``kwargs``, defaults filled in. ``"as passed"``: as the caller wrote them, which
          is what a ``Mock`` is shown if nothing else is said; the target is called through a frame of the agent then.

        What the hook raises, and that it missed its deadline, is logged (logger ``xpc_instrument``), ``Handle.last_failure`` has it, and
        ``Handle.on_failure`` tells of it; the application goes on as if there were no hook.

        Raises ``TargetError`` if no process has the target or may hook it so, or for that long; ``ExpressionError`` for a condition that
        is not allowed there, or names what the target does not have; ``ValueError`` for an option that is out of range;
        ``DeadlineError`` (a ``TimeoutError``) if a process that lives does not answer within ``Limits.connect_timeout``, 10 seconds: then
        no process keeps the hook.
        """
        return self._register(
            Mode.BEFORE,
            target,
            hook,
            (),
            when=when,
            limit=limit,
            expires=expires,
            sample=sample,
            rate=rate,
            timeout=timeout,
            values=values,
            wait=wait,
            form=form,
        )

    @overload
    def after(
        self,
        target: Targets,
        *,
        when: Optional[str] = None,
        limit: Optional[int] = None,
        expires: Optional[float] = None,
        sample: Optional[float] = None,
        rate: Optional[float] = None,
        timeout: Optional[float] = None,
        values: Optional[Values] = None,
        wait: bool = True,
        form: Optional[Form] = None,
    ) -> Callable[[F], F]: ...
    @overload
    def after(
        self,
        target: Targets,
        hook: Callable[..., Any],
        *,
        when: Optional[str] = None,
        limit: Optional[int] = None,
        expires: Optional[float] = None,
        sample: Optional[float] = None,
        rate: Optional[float] = None,
        timeout: Optional[float] = None,
        values: Optional[Values] = None,
        wait: bool = True,
        form: Optional[Form] = None,
    ) -> Handle: ...
    def after(
        self,
        target: Targets,
        hook: Optional[Callable[..., Any]] = None,
        *,
        when: Optional[str] = None,
        limit: Optional[int] = None,
        expires: Optional[float] = None,
        sample: Optional[float] = None,
        rate: Optional[float] = None,
        timeout: Optional[float] = None,
        values: Optional[Values] = None,
        wait: bool = True,
        form: Optional[Form] = None,
    ) -> Any:
        """Have ``hook(call)`` called after each invocation, with ``call.result`` or ``call.exception``, and ``call.duration``.

        Decorator, options and errors as with ``before``, and so is what it raises.
        """
        return self._register(
            Mode.AFTER,
            target,
            hook,
            (),
            when=when,
            limit=limit,
            expires=expires,
            sample=sample,
            rate=rate,
            timeout=timeout,
            values=values,
            wait=wait,
            form=form,
        )

    @overload
    def around(
        self,
        target: Targets,
        *,
        when: Optional[str] = None,
        limit: Optional[int] = None,
        expires: Optional[float] = None,
        sample: Optional[float] = None,
        rate: Optional[float] = None,
        timeout: Optional[float] = None,
        values: Optional[Values] = None,
        raises: Raises = (),
        wait: Literal[True] = True,
        form: Optional[Form] = None,
    ) -> Callable[[F], F]: ...
    @overload
    def around(
        self,
        target: Targets,
        hook: Callable[..., Any],
        *,
        when: Optional[str] = None,
        limit: Optional[int] = None,
        expires: Optional[float] = None,
        sample: Optional[float] = None,
        rate: Optional[float] = None,
        timeout: Optional[float] = None,
        values: Optional[Values] = None,
        raises: Raises = (),
        wait: Literal[True] = True,
        form: Optional[Form] = None,
    ) -> Handle: ...
    def around(
        self,
        target: Targets,
        hook: Optional[Callable[..., Any]] = None,
        *,
        when: Optional[str] = None,
        limit: Optional[int] = None,
        expires: Optional[float] = None,
        sample: Optional[float] = None,
        rate: Optional[float] = None,
        timeout: Optional[float] = None,
        values: Optional[Values] = None,
        raises: Raises = (),
        wait: Literal[True] = True,
        form: Optional[Form] = None,
    ) -> Any:
        """Have ``hook(call)`` called in the place of the original: what it returns is what the application gets.

        ``call.proceed()`` runs the original in the application. What that raised is raised on. An exception of the hook's own reaches the
        application only if ``raises`` names its type, as in ``raises=TimeoutError`` or ``raises=(OSError, ValueError)``. Any other is a bug
        of the hook: it is logged with its traceback, ``Handle.last_failure`` has it, the application gets what ``proceed`` gave, or runs
        the original, and a hook that goes on like this is suspended.

        Decorator, options and errors as with ``before``; the application always waits.
        """
        return self._register(
            Mode.AROUND,
            target,
            hook,
            _raises(target, raises),
            when=when,
            limit=limit,
            expires=expires,
            sample=sample,
            rate=rate,
            timeout=timeout,
            values=values,
            wait=wait,
            form=form,
        )

    @overload
    def instead(
        self,
        target: Targets,
        *,
        when: Optional[str] = None,
        limit: Optional[int] = None,
        expires: Optional[float] = None,
        sample: Optional[float] = None,
        rate: Optional[float] = None,
        timeout: Optional[float] = None,
        values: Optional[Values] = None,
        wait: Literal[True] = True,
    ) -> Callable[[F], F]: ...
    @overload
    def instead(
        self,
        target: Targets,
        hook: Callable[..., Any],
        *,
        when: Optional[str] = None,
        limit: Optional[int] = None,
        expires: Optional[float] = None,
        sample: Optional[float] = None,
        rate: Optional[float] = None,
        timeout: Optional[float] = None,
        values: Optional[Values] = None,
        wait: Literal[True] = True,
    ) -> Handle: ...
    def instead(
        self,
        target: Targets,
        hook: Optional[Callable[..., Any]] = None,
        *,
        when: Optional[str] = None,
        limit: Optional[int] = None,
        expires: Optional[float] = None,
        sample: Optional[float] = None,
        rate: Optional[float] = None,
        timeout: Optional[float] = None,
        values: Optional[Values] = None,
        wait: Literal[True] = True,
    ) -> Any:
        """Have ``hook``, a stand-in such as a ``Mock``, called as the original would be, and not the original.

        What it returns or raises is what the application gets; what a function raises is also logged, once per type. On a method, a
        function gets the instance first, as a reference; what is no descriptor, such as a ``Mock``, does not. Decorator, options and
        errors as with ``before``; the application always waits.
        """
        return self._register(
            Mode.INSTEAD,
            target,
            hook,
            (),
            when=when,
            limit=limit,
            expires=expires,
            sample=sample,
            rate=rate,
            timeout=timeout,
            values=values,
            wait=wait,
        )

    def _register(self, mode: Mode, targets: Targets, hook: Any, raises: Tuple[Type[Exception], ...], **options: Any) -> Any:
        target = joined(mode, targets)
        form = options.pop("form", None)
        try:
            terms = Terms(**options) if form is None else Terms(form=form, **options)
        except ExpressionError:
            raise
        except ValueError as error:
            raise ValueError(f"{target}: {error}") from None
        if not terms.wait and mode not in (Mode.BEFORE, Mode.AFTER):
            raise ValueError(f"{target}: wait=False: what {mode.value}() gives the application has to be waited for; use before or after")
        if hook is None:

            def decorate(function: F) -> F:
                self._add(mode, target, function, _shown(terms, form, function), raises)
                return function

            return decorate
        return self._add(mode, target, hook, _shown(terms, form, hook), raises)


def joined(mode: Mode, targets: object) -> str:
    """The targets as one text. Raises `TypeError`: above all `@app.before` without any would register nothing, and say nothing."""
    several = [targets] if isinstance(targets, str) else targets
    if not isinstance(several, (list, tuple)) or not several or not all(isinstance(one, str) for one in several):
        raise TypeError(f"{mode.value}(): expected a target such as 'package.module:function' first, or a list, got {targets!r:.80}")
    # Without a name a pattern stands for all that its modules define.
    return ",".join(f"{one}:**" if "*" in one and ":" not in one else one for one in several)


def _shown(terms: Terms, form: Optional[Form], hook: object) -> Terms:
    """The terms with the form that suits the hook: a `Mock` is asked later how it was called."""
    # Its class is what it says it is; a function that `create_autospec` made has the `Mock` in an attribute.
    mock = sys.modules.get("unittest.mock")
    if (
        form is None
        and mock is not None
        and (issubclass(type(hook), mock.NonCallableMock) or isinstance(getattr(hook, "mock", None), mock.Mock))
    ):
        return replace(terms, form=AS_PASSED)
    return terms


def _raises(target: object, raises: Any) -> Tuple[Type[Exception], ...]:
    """The types that `raises=` names. Raises `ValueError`."""
    types = raises if isinstance(raises, tuple) else (raises,)
    for one in types:
        if not (isinstance(one, type) and issubclass(one, Exception)):
            raise ValueError(f"{target}: raises={raises!r:.200}: expected a class derived from Exception, or a tuple of such classes")
        if issubclass(one, XpcError):
            raise ValueError(f"{target}: raises={one.__name__}: no error of xpc-instrument itself ever reaches the application")
    return types
