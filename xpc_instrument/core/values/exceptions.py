"""Exceptions to bytes and back: with their own type where the other side has it, and always with their text and traceback."""

from __future__ import annotations

import pickle
import traceback
from typing import Any, Optional

from ..model.errors import PayloadError, RemoteError, RemoteTraceback
from ..model.interrupts import raise_interrupt
from ..protocol.codec import Bytes
from .names import FAULTS, describe
from .pickling import Payload, load
from .plain import PROTOCOL
from .references import Asker, Table, dump_with_asker, load_with_asker, load_with_table
from .traits import PeerProfile


def dump_exception(error: BaseException, profile: PeerProfile, asker: Optional[Asker] = None, *, whole: bool = False) -> Payload:
    """An exception with its text and traceback; the object itself too, if it can be pickled. At most half the limit, and RECORD_SLACK.

    If only the `whole` will do, raises `PayloadError` for what can cross as a text only; also if it cannot be loaded here again.
    """
    text = describe(error)
    try:
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    except FAULTS as problem:
        raise_interrupt(problem, of_values=True)
        trace = f"{text}\n(its traceback cannot be formatted: {describe(problem)})"
    inner: Optional[bytes] = None
    try:
        body, buffers = dump_with_asker(asker, error, profile)
        if not buffers and len(body) < profile.limit // 2:
            inner = bytes(body)
            if whole and type(error).__module__ != "builtins":
                _load(inner, asker)
        elif whole:
            raise PayloadError(f"{text} is larger than half of the limit, {profile.limit} bytes")
    except PayloadError:
        if whole:
            raise
        # The text goes; the other side raises a RemoteError with it.
    if len(trace) > 100_000:
        # Its beginning says where, its end says what.
        trace = f"{trace[:50_000]}\n[...]\n{trace[-50_000:]}"
    record = pickle.dumps((text, trace, inner), PROTOCOL)
    return record, ()


def load_exception(body: Bytes, table: Optional[Table] = None, asker: Optional[Asker] = None) -> BaseException:
    """The exception that `dump_exception` packed, with the remote traceback as its cause; a `RemoteError` where it cannot be built."""
    record = load(body, ())
    if not (isinstance(record, tuple) and len(record) == 3):
        raise PayloadError("an exception came in an unknown form")
    text, trace, inner = record
    error: Any = None
    if inner is not None:
        try:
            error = _load(inner, asker) if table is None else load_with_table(table, inner, ())
        except PayloadError as problem:
            text = f"{text} (it arrives as a RemoteError, because {problem})"
    found = error if isinstance(error, BaseException) else RemoteError(str(text))
    # Not by assignment, which an exception that is a frozen dataclass refuses.
    _set_cause(found, RemoteTraceback(str(trace)))
    return found


def _load(inner: bytes, asker: Optional[Asker]) -> Any:
    return load(inner, ()) if asker is None else load_with_asker(asker, inner, ())


_set_cause = BaseException.__dict__["__cause__"].__set__
