"""Run one module of CPython's own tests, with the functions of the standard library armed: `python standard.py test_json`.

In the environment as for `forwarding`, but for the packages, which are those below. What is armed is what is imported when the tests have
been loaded. Tests that are no functions of a `TestCase` are left out.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import sys
import tempfile
import unittest
from typing import Any, Dict, Iterator

import forwarding

PACKAGES = (
    "argparse",
    "ast",
    "asyncio",
    "calendar",
    "collections",
    "configparser",
    "contextlib",
    "copy",
    "csv",
    "dataclasses",
    "difflib",
    "email",
    "enum",
    "fractions",
    "functools",
    "heapq",
    "inspect",
    "json",
    "shlex",
    "statistics",
    "string",
    "textwrap",
    "tokenize",
    "typing",
    "_pydecimal",
)
_NOT_HERE = ("asyncio.windows_events", "asyncio.windows_utils")


class Outcomes(unittest.TestResult):
    """The outcome of each test, by its name; that of a test with subtests is the worst of theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.outcomes: Dict[str, str] = {}
        self.texts: Dict[str, str] = {}

    def _note(self, test: Any, outcome: str, error: Any = None) -> None:
        name = getattr(test, "test_case", test).id()
        known = self.outcomes.get(name, "passed")
        self.outcomes[name] = outcome if known == "passed" else known
        if error is not None:
            self.texts[name] = self._exc_info_to_string(error, test)  # type: ignore[attr-defined]

    def addSuccess(self, test: Any) -> None:
        self._note(test, "passed")

    def addFailure(self, test: Any, err: Any) -> None:
        self._note(test, "failed", err)

    def addError(self, test: Any, err: Any) -> None:
        self._note(test, "error", err)

    def addSkip(self, test: Any, reason: str) -> None:
        self._note(test, "skipped")

    def addExpectedFailure(self, test: Any, err: Any) -> None:
        self._note(test, "xfailed")

    def addUnexpectedSuccess(self, test: Any) -> None:
        self._note(test, "xpassed")

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        if err is not None:
            self._note(test, "failed", err)


def submodules(name: str) -> Iterator[str]:
    """The names of a package and of its modules, but those that run when they are imported."""
    yield name
    for info in pkgutil.iter_modules(getattr(importlib.import_module(name), "__path__", ()), f"{name}."):
        if not info.name.endswith("__main__") and info.name not in _NOT_HERE:
            yield info.name


def main(name: str) -> None:
    """Load the tests, arm, run them, and write the report."""
    from test import support

    support.use_resources = []
    for package in PACKAGES:
        for module in submodules(package):
            importlib.import_module(module)
    suite = unittest.defaultTestLoader.loadTestsFromName(f"test.{name}")
    exploration = forwarding.Exploration(list(PACKAGES), os.environ["XPC_EXPLORE_MODE"])
    place = os.environ["XPC_EXPLORE_REPORT"]
    result = Outcomes()
    exploration.start()
    os.chdir(tempfile.mkdtemp())
    try:
        suite.run(result)
    finally:
        exploration.outcomes = result.outcomes
        report = exploration.report()
        # What is written must not go through armed functions.
        exploration.disarm()
        with open(place, "w", encoding="utf-8") as file:
            json.dump({**report, "texts": result.texts}, file)


if __name__ == "__main__":
    main(sys.argv[1])
