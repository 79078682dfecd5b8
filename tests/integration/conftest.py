"""Fixtures for the tests with an application."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Iterator

import pytest

import xpc_instrument
from tests.integration.app_fixture import App, Reused
from xpc_instrument import Session
from xpc_instrument.core.discovery import entry as discovery


@pytest.fixture(scope="module")
def reused(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reused]:
    """The process in which `begin_app` starts the applications of a module's tests."""
    process = Reused(tmp_path_factory.mktemp("reused"))
    yield process
    process.close()


@pytest.fixture
def begin_app(reused: Reused, tmp_path: Path, runtime_dir: Path) -> Iterator[Callable[..., App]]:
    """Start an application with a config, as `start_app` does, in a process that other tests have had before: `begin_app(config)`.

    For tests of what is called in it. Those of how it starts and ends, of its other threads and of its children have one of their own.
    """

    def begin(config: str = "") -> App:
        return reused.begin(tmp_path, runtime_dir, config)

    yield begin
    reused.end()
    discovery.processes()  # a child that it forked has left without a look back, and whoever looks next cleans up


@pytest.fixture
def app(begin_app: Callable[..., App]) -> App:
    """The application with the usual config, where a module has none of its own."""
    return begin_app()


@pytest.fixture
def session(app: App) -> Iterator[Session]:
    """A session with it, until the end of the test."""
    with xpc_instrument.connect("shop") as session:
        yield session
