"""The terms of a registration: how many calls a hook gets, which of them and until when, who waits for it, and how values cross."""

from __future__ import annotations

from typing import Any, Dict, Literal, Mapping, Optional

from .limits import LONGEST_WAIT
from .local import check_local
from .record import Record, as_dict, defaults, fields
from .target import Mode

# What `expires` may be at most, in seconds: some hundred years, far from what a clock cannot hold.
_LONGEST = 4e9
# What `rate` may be at most, in calls a second: no function is called more often.
_FASTEST = 1e9


COPY, REFERENCE = "copy", "reference"
CANONICAL: Literal["canonical"] = "canonical"
AS_PASSED: Literal["as passed"] = "as passed"


class Terms(Record):
    """Checked when it is made: `ValueError` says what was seen and what was expected."""

    limit: Optional[int] = None
    """The registration ends after so many calls of the hook, in all processes together."""

    expires: Optional[float] = None
    """It ends after so many seconds."""

    sample: Optional[float] = None
    """The fraction of the invocations that call the hook, above 0 and up to 1; which of them is left to chance."""

    rate: Optional[float] = None
    """Calls of the hook per second, in each process; invocations beyond that go on without it."""

    when: Optional[str] = None
    """The condition that an invocation has to meet: an expression (`core/model/expression`), asked in the application."""

    wait: bool = True
    """Whether the application waits for the hook; only observers can do without."""

    timeout: Optional[float] = None
    """For how many seconds the application waits for one call of the hook; None for what the config says of the probe point."""

    values: Optional[str] = None
    """How values cross that are not plain: `COPY` or `REFERENCE`; None for what the mode has, see `refers`."""

    form: Literal["canonical", "as passed"] = CANONICAL
    """How the hook is shown the arguments: "canonical" (positional parameters in `args`, keyword-only ones in `kwargs`, defaults filled in)
    or "as passed" (as the caller wrote them, which only a trampoline around the function can see)."""

    stands_in: bool = False
    """Whether the original is never to run in its place, as with a mock: where the hook fails, the application gets ``HookFailedError``; it
    is not suspended; and without `timeout` it is waited for as long as the config lets anybody ask for."""

    local: Optional[Mapping[str, Any]] = None
    """What the hook does that lives in the application, as plain data; None if a script is called. See `local.py`."""

    tokens: Optional[str] = None
    """Where processes take what `limit` counts, so that all together have so many (`core/wire/tokens.py`); None: each counts for itself."""

    def __post_init__(self) -> None:
        if self.local is not None:
            check_local(self.local)
        if self.limit is not None and (not isinstance(self.limit, int) or isinstance(self.limit, bool) or self.limit < 1):
            raise ValueError(f"limit={self.limit!r}: expected a number of calls from 1 upwards")
        _check_number("expires", self.expires, _LONGEST, "seconds")
        _check_number("sample", self.sample, 1.0, "a fraction of the calls")
        _check_number("rate", self.rate, _FASTEST, "calls per second")
        _check_number("timeout", self.timeout, LONGEST_WAIT, "seconds")
        if self.when is not None:
            _check_when(self.when)
        if not isinstance(self.wait, bool):
            raise ValueError(f"wait={self.wait!r}: expected True or False")
        if not isinstance(self.stands_in, bool):
            raise ValueError(f"stands_in={self.stands_in!r:.80}: expected True or False")
        if self.values not in (None, COPY, REFERENCE):
            raise ValueError(f"values={self.values!r:.80}: expected {COPY!r} or {REFERENCE!r}")
        if self.form not in (CANONICAL, AS_PASSED):
            raise ValueError(f"form={self.form!r:.80}: expected {CANONICAL!r} or {AS_PASSED!r}")
        if not isinstance(self.tokens, (str, type(None))):
            raise ValueError(f"tokens={self.tokens!r:.80}: expected a text")
        if self.timeout is not None and not self.wait:
            raise ValueError(f"timeout={self.timeout:g} and wait=False: nobody waits for the hook, so it has no deadline; leave one out")

    def refers(self, mode: Mode) -> bool:
        """Whether a hook in that mode gets references to what is not plain. A stand-in is called as the original would be: with copies."""
        return mode is not Mode.INSTEAD if self.values is None else self.values == REFERENCE

    def to_json(self) -> Dict[str, Any]:
        """What differs from the defaults."""
        usual = defaults(Terms)
        return {name: value for name, value in as_dict(self).items() if value != usual[name]}

    @classmethod
    def from_json(cls, terms: Mapping[str, Any]) -> Terms:
        """The inverse of `to_json`. Raises `ValueError` for what it cannot have given."""
        unknown = terms.keys() - set(fields(cls))
        if unknown:
            raise ValueError(f"unknown term {min(unknown)!r:.80} of a registration; both sides need the same version of xpc-instrument")
        return cls(**terms)


def _check_when(when: Any) -> None:
    """What is no expression at any level; the application says what of it is allowed there."""
    # Late: it reads the syntax of Python, which a process without conditions does not need.
    from .expression import TRUSTED, parse

    parse(when, TRUSTED)


def _check_number(name: str, value: Any, most: float, what: str) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= most:
        raise ValueError(f"{name}={value!r}: expected {what} above 0, at most {most:.0f}")
