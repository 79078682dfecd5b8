"""Assertions of mocks, with pytest's own account of how the arguments differ. pytest rewrites the `assert`s of this module."""

from __future__ import annotations

from typing import Any, Callable


def compare_calls(mock: Any, assertion: str) -> Callable[..., None]:
    """The assertion of the mock with that name; where it fails on the arguments of the last call, pytest says how these differ."""
    original = getattr(mock, assertion)

    def compared(*args: Any, **kwargs: Any) -> None:
        __tracebackhide__ = True
        try:
            original(*args, **kwargs)
        except AssertionError as error:
            message = str(error)
            last = mock.call_args
            # One assertion may be made of another, which has told it.
            if last is not None and not any(f"\n\n{what}:\n" in message for what in ("args", "kwargs")):
                seen_args, seen_kwargs = tuple(last[0]), dict(last[1])
                message += _difference(seen_args, args, "args") + _difference(seen_kwargs, kwargs, "kwargs")
            raise AssertionError(message) from None

    return compared


def _difference(seen: Any, expected: Any, what: str) -> str:
    try:
        assert seen == expected
    except AssertionError as error:
        text = str(error)
        return f"\n\n{what}:\n{text}" if text else ""
    return ""
