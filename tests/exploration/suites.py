"""The suites of other projects that the exploration runs: packages from the registry whose source distributions carry their tests.

The versions are fixed so that a difference is ours, not theirs. `small` marks the suites that every change is tried on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, Sequence, Tuple


@dataclass(frozen=True)
class Suite:
    """One project. `packages` become probe points; `needs` is installed beside it; `arguments` go to pytest.

    `limits` are the tests that may differ, each with the reason: a beginning of a test's id -> the reason, as the documentation gives it.
    """

    version: str
    packages: Tuple[str, ...]
    needs: Tuple[str, ...] = ()
    arguments: Tuple[str, ...] = ("tests",)
    small: bool = False
    limits: Dict[str, str] = field(default_factory=dict)


SUITES: Dict[str, Suite] = {
    "attrs": Suite("26.1.0", ("attr", "attrs"), ("hypothesis", "cloudpickle", "pytest-xdist"), small=True),
    "click": Suite("8.5.1", ("click",), small=True),
    "jinja2": Suite("3.1.6", ("jinja2",), ("trio",), small=True),
    "flask": Suite("3.1.3", ("flask",), ("asgiref", "python-dotenv", "pytest<9"), small=True),
    "werkzeug": Suite("3.1.9", ("werkzeug",), ("cryptography", "ephemeral-port-reserve", "pytest-timeout", "pytest-xprocess", "watchdog")),
    "itsdangerous": Suite("2.2.0", ("itsdangerous",), ("freezegun",), small=True),
    "sqlalchemy": Suite(
        "2.1.9", ("sqlalchemy",), ("pytest-xdist",), ("test/base", "test/sql/test_compiler.py", "test/orm/test_unitofwork.py", "test/ext")
    ),
    "pluggy": Suite("1.7.0", ("pluggy",), ("pytest-benchmark",), ("testing",), small=True),
    "anyio": Suite(
        "4.16.0",
        ("anyio",),
        ("trio", "exceptiongroup", "hypothesis", "psutil", "pytest-mock", "trustme", "truststore", "uvloop", "blockbuster"),
    ),
    "more-itertools": Suite("11.2.1", ("more_itertools",), ("pytest-timeout",), small=True),
    "wrapt": Suite("2.5.2", ("wrapt",)),
}


def differences(plain: Dict[str, str], armed: Dict[str, str], limits: Dict[str, str]) -> Tuple[Sequence[str], Sequence[str]]:
    """(differences, explained ones) between the outcomes of two runs, a line for each test that ended in another way, or not at all."""
    found, explained = [], []
    for test in sorted({*plain, *armed}):
        before, now = plain.get(test, "not run"), armed.get(test, "not run")
        if before != now:
            line = f"{test}: {before} without hooks, {now} with them"
            reason = next((reason for beginning, reason in limits.items() if test.startswith(beginning)), None)
            if reason is None:
                found.append(line)
            else:
                explained.append(f"{line} ({reason})")
    return found, explained
