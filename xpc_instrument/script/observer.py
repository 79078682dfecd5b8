"""What a session offers to those who look: calls as they come, tables of numbers, stacks, and what targets there are.

The hooks of these never have the application wait: they are queued there (`watch`), or stay there as data (`stat`, `monitor`, `callers`).
"""

from __future__ import annotations

import inspect
import logging
import uuid
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Union

from ..core.discovery.doorbell import bell_name
from ..core.model.errors import ChannelError, ExpressionError, TargetError
from ..core.model.expression import TRUSTED, parse, parse_template
from ..core.model.fault import parse_terms
from ..core.model.local import DURATION, INJECT, LINE, RECORD, STACK, STAT, TREE, WATCH
from ..core.model.record import replace
from ..core.model.target import Mode, is_line, line_mistake
from ..core.model.terms import Terms
from ..core.replay.running import Replayed
from ..core.values.redaction import Redaction
from ..core.wire.tokens import Tokens
from .counted import Injected, Monitor, Stacks, Stat
from .handle import Handle
from .recording import Recorder, Recording, check_times, texts_of
from .registrar import Registrar, Targets, joined
from .replays import replayed_in
from .stacks import Stack, read_stacks
from .targets import Described, described
from .trees import Trace
from .watching import Log, Watch

log = logging.getLogger("xpc_instrument")

OBSERVED_RATE = 50.0
"""Calls a second that ``watch`` shows of each process, unless it is told otherwise."""
TRACED_RATE = 5.0
"""Likewise the trees that ``trace`` lets grow."""


class Observer(Registrar):
    """The part of a session that looks on."""

    _id: str
    app: str

    @property
    def pids(self) -> List[int]:
        raise NotImplementedError

    def _ask(self, question: str, pid: Optional[int] = None) -> List[Mapping[str, Any]]:
        raise NotImplementedError

    def _reports(self, what: str = "probes") -> List[Mapping[str, Any]]:
        raise NotImplementedError

    def _search(self, pattern: str) -> List[Mapping[str, Any]]:
        """What each process knows of the functions that a pattern stands for; a process that has gone is left out. Raises `TargetError`."""
        return [one for data in self._ask(f"targets {pattern}") for one in data["targets"]]

    def _redaction(self) -> Redaction:
        """What the application never shows, by its config and by default."""
        told = self._ask("redaction")
        return Redaction(*(sorted({name for one in told for name in one[kind]}) for kind in ("names", "types")))

    def _counts(self, handle: Handle) -> Dict[int, List[Mapping[str, Any]]]:
        """What each process has counted for a hook that lives there, by pid. Raises as `stats`."""
        answers = self._ask(f"totals {handle.number}")
        found: Dict[int, List[Mapping[str, Any]]] = {data["pid"]: data["totals"] for data in answers}
        if any(data["members"] for data in answers):
            name = bell_name(self._id)
            for report in self._reports():
                hooks = [hook for probe in report["probes"] for hook in probe["hooks"] if "totals" in hook]
                mine = [hook["totals"] for hook in hooks if (hook["session"], hook["number"]) == (name, handle.number)]
                found.setdefault(report["pid"], mine)
        return found

    def watch(
        self,
        target: Targets,
        *,
        limit: Optional[int] = None,
        expires: Optional[float] = None,
        sample: Optional[float] = None,
        rate: Optional[float] = OBSERVED_RATE,
        when: str = "",
        show: Union[str, Sequence[str]] = (),
        depth: int = 2,
        stack: int = 0,
        entry: bool = False,
        errors: bool = False,
        rejected: bool = False,
        locals: bool = False,
    ) -> Watch:
        """The calls of a target, or of several, as they end: iterated, also with ``async for``, it gives a ``CallEvent`` for each.

        - ``when``: an expression; only the calls are shown for which it is true when they have ended.
        - ``show``: one or several expressions, whose values are shown instead of the arguments and the result.
        - ``depth``: how many levels of values are captured, from 0 to 5; ``stack``: how many frames of the caller are told.
        - ``entry``: calls are shown when they begin, and nothing is known of how they end. ``errors``: only calls that raise.
        - ``locals``: of calls that raise, ``CallEvent.frames`` has the traceback with the local variables of the application's own frames.
        - ``rejected``: the calls for which ``when`` is not true are shown as well, with ``CallEvent.rejected``, beside the terms below.
        - ``limit``, ``expires`` (seconds), ``sample`` and ``rate`` (calls a second in each process) are as with ``before``, of the calls
          for which ``when`` is true; ``rate=None`` shows all, and ``Watch.dropped`` counts what is lost where they are not taken in time.

        The application never waits, and none of its code runs for it. In a process in which that takes more than 2 % of the processor's
        time it ends: ``Handle.over_budget``. Raises ``ExpressionError``, and as ``before``.
        """
        texts = [show] if isinstance(show, str) else list(dict.fromkeys(show))
        for text in [*texts, *([when] if when else [])]:
            parse(text, TRUSTED)
        local: Dict[str, Any] = {"kind": WATCH, "when": when or "", "show": texts, "depth": depth, "stack": stack, "locals": locals}
        local.update(errors=errors, rejected=rejected)
        stream = Watch()
        terms = Terms(wait=False, limit=limit, expires=expires, sample=sample, rate=rate, local=local)
        mode = Mode.BEFORE if entry else Mode.AFTER
        stream.handle = self._add(mode, joined(mode, target), stream, terms, ())
        return stream

    def log(
        self,
        target: Targets,
        template: str = "",
        *,
        limit: Optional[int] = None,
        expires: Optional[float] = None,
        sample: Optional[float] = None,
        rate: Optional[float] = OBSERVED_RATE,
        when: str = "",
        locals: bool = False,
        depth: int = 2,
        stack: int = 0,
    ) -> Log:
        """A text each time that a statement of a line begins, or that a call of a target ends: iterated, it gives ``LineEvent``.

        The target is a line, as tracebacks have it, ``"shop/checkout.py:24"``, of which any end of the path will do that no other file
        has; or a function, or several, as with ``before``. The line is one of a function, on which a statement or a clause begins
        (docs/lines.md). ``template`` is text with expressions, ``"{len(items)} items for {customer.name!r}"``, formatted as an f-string
        is; at a line they may name its variables, else what they may name in ``watch``.

        - ``when``: an expression; only the times are told at which it is true.
        - ``locals``: at a line, all local variables that have a value.
        - ``depth``, ``stack``, ``limit``, ``expires``, ``sample`` and ``rate`` are as with ``watch``.

        The application never waits, and none of its code runs for it. Raises ``ExpressionError``, also for a template without expressions
        where the target is no line; ``TargetError`` for a line that is not there, with the nearest; and as ``before``.
        """
        if when:
            parse(when, TRUSTED)
        parsed = parse_template(template, TRUSTED)
        shown = list(dict.fromkeys(one.text for one in parsed.expressions))
        lines = [one for one in ([target] if isinstance(target, str) else target) if is_line(one)]
        mistake = line_mistake([target] if isinstance(target, str) else target)
        if mistake:
            raise TargetError(mistake)
        if lines and not isinstance(target, str):
            raise ValueError(f"{lines[0]}: a line is named alone, and not in a list")
        if not lines and not shown:
            raise ExpressionError(
                f"{template!r:.200}: expected a template with expressions in it, such as {{result}}, as the target is no line"
            )
        if not lines and locals:
            raise ValueError(f"{target!r:.200}: locals are shown at a line, such as shop/checkout.py:24, and the target is none")
        log = Log(parsed, bool(lines))
        local: Dict[str, Any] = {
            "kind": LINE if lines else WATCH,
            "when": when or "",
            "show": shown,
            "depth": depth,
            "stack": stack,
            "locals": locals,
        }
        local.update({} if lines else {"errors": False, "rejected": False})
        terms = Terms(wait=False, limit=limit, expires=expires, sample=sample, rate=rate, local=local)
        mode = Mode.BEFORE if lines else Mode.AFTER
        log.handle = self._add(mode, joined(mode, target), log, terms, ())
        return log

    def trace(
        self,
        target: Targets,
        *,
        limit: Optional[int] = None,
        depth: int = 0,
        min: float = 0.0,
        include: Union[str, Sequence[str]] = (),
        when: str = "",
        expires: Optional[float] = None,
        sample: Optional[float] = None,
        rate: Optional[float] = TRACED_RATE,
    ) -> Trace:
        """Where the time of an invocation goes: iterated, also with ``async for``, it gives a ``Tree`` of each, of all that it called.

        - ``depth``: so many levels below the target, 0 for all. ``min``: what took less seconds in all is left out.
        - ``include``: one or several patterns, ``"shop.**"`` or ``"**"`` for all; the functions that are in trees, instead of those of the
          application's own code, which is all but installed packages and the standard library.
        - ``when``: an expression; of the parameters alone it is asked before, else when the call has ended.
        - ``limit``, ``expires`` (seconds), ``sample`` and ``rate`` (calls a second in each process) are as with ``before``.

        One invocation of a process at a time has a tree, and while trees have cost more than 2 % of the time, none has: what goes without
        is counted. See docs/trace.md. Raises ``ExpressionError``, and as ``before``.
        """
        if when:
            parse(when, TRUSTED)
        patterns = [include] if isinstance(include, str) else list(include)
        local = {"kind": TREE, "when": when or "", "depth": depth, "least": float(min), "include": patterns}
        stream = Trace()
        terms = Terms(wait=False, limit=limit, expires=expires, sample=sample, rate=rate, local=local)
        stream.handle = self._add(Mode.AFTER, joined(Mode.AFTER, target), stream, terms, ())
        return stream

    def record(
        self,
        target: Targets,
        *,
        inside: Targets = (),
        limit: Optional[int] = None,
        expires: Optional[float] = None,
        sample: Optional[float] = None,
        rate: Optional[float] = OBSERVED_RATE,
        when: str = "",
    ) -> Recorder:
        """Record the calls of a target, or of several, so that they can be run again: with all that their arguments hold.

        - ``inside``: targets whose calls are recorded too where they happen inside of such a call, and stand in for the real ones later.
        - ``when``: an expression for the calls that are recorded; one that names neither ``result`` nor ``exception`` nor ``duration`` is
          asked before anything is read.
        - ``limit``: so many calls, of all processes together. ``expires``, ``sample`` and ``rate`` are as with ``watch``.

        Of one call at most 256 KiB are recorded, and what is secret is redacted in the application. Nothing there waits, and none of its
        code runs. Raises ``ExpressionError``, and as ``before``; generator functions are a ``TargetError``.
        """
        if when:
            parse(when, TRUSTED)
        local = {"kind": RECORD, "when": when or "", "recording": uuid.uuid4().hex, "inside": False}
        terms = Terms(wait=False, expires=expires, sample=sample, rate=rate, local=local)
        around = Terms(wait=False, expires=expires, local={**local, "when": "", "inside": True})
        if limit is not None and (type(limit) is not int or limit < 1):
            raise ValueError(f"limit={limit!r:.80}: expected a number of calls from 1 on, or None for all")
        recorder = Recorder(self.app, limit, self._redaction())
        try:
            # Those inside first, so that nothing of the first call is missed.
            if inside:
                recorder.handles.append(self._add(Mode.AFTER, joined(Mode.AFTER, inside), _stays_there, around, ()))
                recorder.inside = _known(recorder.handles[0])
            recorder.handle = self._add(Mode.AFTER, joined(Mode.AFTER, target), recorder, terms, ())
        except BaseException:
            recorder.remove()
            raise
        recorder.handles.append(recorder.handle)
        recorder.targets = _known(recorder.handle)
        return recorder

    def replay(
        self,
        recording: Recording,
        *,
        ids: Union[str, Iterable[str]] = (),
        ignore: Union[str, Iterable[str]] = (),
        times: int = 1,
        allow: Union[str, Iterable[str]] = (),
    ) -> Iterator[Replayed]:
        """Have the application make recorded calls again, one after the other: CHANGES WHAT THE APPLICATION DOES.

        Each is made in a thread of the agent, in the first process that has the target, and what was recorded inside of it stands in for
        that call alone: others that call the same functions have the originals. Nothing is imported for it. The next call is made when the
        next item is asked for, and one that has begun goes to its end, whatever becomes of the script.

        Options are as with ``Recording.replayed``. A call that is refused is skipped by name, as where the config does not allow the mode
        ``instead`` on the target, or on what stands in. Raises ``ChannelError`` where the process ends, ``RecordingError`` and
        ``ValueError``.
        """
        check_times(times)
        return replayed_in(self, recording.chosen(ids), recording.stood_in_for(), texts_of(ignore), times, texts_of(allow))

    def stat(
        self,
        target: Targets,
        *,
        by: Union[str, Sequence[str]] = (),
        of: str = DURATION,
        when: str = "",
        limit: Optional[int] = None,
        expires: Optional[float] = None,
        sample: Optional[float] = None,
        rate: Optional[float] = None,
        every: float = 1.0,
    ) -> Stat:
        """Count the calls of a target, or of several, in the application, with the sum, the extremes and the quantiles of a number.

        ``of`` is an expression for the number, ``"duration"`` in seconds unless it is given; ``by`` one or several, by whose values the
        calls are counted apart, 1,000 of them in each process; ``when`` one for the calls that are counted.
        ``Stat.rows`` gives the table; iterated, ``Stat`` gives it every so many seconds. The hook ends with the context manager, or with
        ``Stat.remove``. ``limit`` and the others are as with ``before``; processes that are not on this machine, or in other containers,
        have a ``limit`` of their own each.

        Raises ``ExpressionError``, and as ``before``.
        """
        keys = [by] if isinstance(by, str) else list(by)
        for text in [*keys, of, *([when] if when else [])]:
            parse(text, TRUSTED)
        local = {"kind": STAT, "by": keys, "of": of, "when": when or ""}
        handle = self._add_local(target, local, Terms(limit=limit, expires=expires, sample=sample, rate=rate, local=local))
        return Stat(self, handle, every, limit)

    def monitor(
        self,
        target: Targets,
        *,
        when: str = "",
        limit: Optional[int] = None,
        expires: Optional[float] = None,
        sample: Optional[float] = None,
        rate: Optional[float] = None,
        every: float = 5.0,
    ) -> Monitor:
        """The calls, errors and times of targets, each a ``MonitorRow``, in every interval of so many seconds.

        Options and errors as with ``stat``.
        """
        if when:
            parse(when, TRUSTED)
        local = {"kind": STAT, "by": [], "of": DURATION, "when": when or ""}
        handle = self._add_local(target, local, Terms(limit=limit, expires=expires, sample=sample, rate=rate, local=local))
        return Monitor(self, handle, every, limit)

    def callers(
        self,
        target: Targets,
        *,
        depth: int = 8,
        when: str = "",
        limit: Optional[int] = None,
        expires: Optional[float] = None,
        sample: Optional[float] = None,
        rate: Optional[float] = None,
        every: float = 1.0,
    ) -> Stacks:
        """Who calls a target: the ``depth`` innermost frames of its callers, at most 50, and how often each such stack was seen.

        Options and errors as with ``stat``.
        """
        if when:
            parse(when, TRUSTED)
        local = {"kind": STACK, "depth": depth, "when": when or ""}
        handle = self._add_local(target, local, Terms(limit=limit, expires=expires, sample=sample, rate=rate, local=local))
        return Stacks(self, handle, every, limit)

    def inject(
        self,
        target: Targets,
        terms: str,
        *,
        when: Optional[str] = None,
        limit: Optional[int] = None,
        expires: Optional[float] = 300.0,
        sample: Optional[float] = None,
        rate: Optional[float] = None,
        every: float = 1.0,
    ) -> Injected:
        """Have faults happen to the calls of a target, or of several: CHANGES WHAT THE APPLICATION DOES.

        ``terms`` are such as ``"10%raise(TimeoutError, 'slow bank') -> sleep(100ms..300ms)"``: the first that applies is done, in the
        application, without asking anybody. ``[P%] [N*] ACTION`` is an action with a probability and at most so many times in each
        process; actions are ``raise(TYPE, ...)``, ``return(LITERAL)``, ``sleep(TIME)``, ``sleep(TIME..TIME)``, ``sleep(normal, MEAN,
        DEVIATION)``, ``hang`` and ``off``. After a sleep the original runs. It ends after ``expires`` seconds, 300 unless it is given,
        with the context manager, or with the session. ``when`` is an expression for the calls that are meant; ``limit`` is of the faults
        that happen, in all processes together, and the other options are as with ``stat``.

        Raises ``FaultError`` for terms that cannot be read, and as ``instead``; a class that is no exception, or whose module the
        application has not imported, is a ``TargetError``.
        """
        parsed = parse_terms(terms)
        local = {"kind": INJECT, "terms": terms}
        made = Terms(when=when, limit=limit, expires=expires, sample=sample, rate=rate, local=local)
        return Injected(self, self._add_local(target, local, made, Mode.INSTEAD), every, limit, parsed)

    def _add_local(self, target: Targets, local: Mapping[str, Any], terms: Terms, mode: Mode = Mode.AFTER) -> Handle:
        tokens: Optional[Tokens] = None
        if terms.limit is not None:
            try:
                tokens = Tokens(terms.limit)
                terms = replace(terms, tokens=tokens.name)
            except ChannelError as error:
                log.debug("%s: each process counts the limit for itself: %s", target, error)
        try:
            handle = self._add(mode, joined(mode, target), _stays_there, terms, ())
        except BaseException:
            if tokens is not None:
                tokens.close()
            raise
        if tokens is None:
            handle._apart.add(0)
        handle._tokens = tokens
        return handle

    def stacks(self) -> List[Stack]:
        """What all threads and waiting tasks of asyncio of each process do now, those behind one fixed address included.

        Raises ``DeadlineError`` as ``stats`` does.
        """
        return read_stacks(self._reports("stacks"))

    def signature(self, target: str) -> Optional[inspect.Signature]:
        """The parameters of a target, as a process of the application tells them; None of what was not written in Python, or is not there.

        Raises ``TargetError`` for a text that is no target.
        """
        found = described(self, target)
        return None if found is None else found.signature

    def targets(self, pattern: str = "**") -> List[Described]:
        """The functions of imported modules that a pattern stands for, 1,000 of each process at most, in order.

        Raises ``TargetError`` for a text that is no pattern.
        """
        text = pattern if ":" in pattern else f"{pattern}:**"
        found = {one["target"]: one for one in self._search(text) if one["kind"]}
        return [Described.read(found[target]) for target in sorted(found)]


def _known(handle: Handle) -> List[str]:
    return list(handle.targets) or handle.target.split(",")


def _stays_there(_: Any) -> None:
    """What a script has in the place of a hook that lives in the application; nobody calls it."""
