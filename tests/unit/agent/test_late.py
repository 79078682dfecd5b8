"""Modules of ours are there once, whatever becomes of `sys.modules`."""

from __future__ import annotations

import importlib
import pickle
import sys
import threading
from typing import Any, Iterator, List, Optional

import pytest

from xpc_agent import late
from xpc_agent.guard import guard_thread
from xpc_agent.targets.imports import ImportWatcher
from xpc_instrument.core.model import target, terms
from xpc_instrument.core.model.target import Mode

NAME = target.__name__
PARENT = "xpc_instrument.core.model"


@pytest.fixture
def watcher(monkeypatch: pytest.MonkeyPatch) -> Iterator[ImportWatcher]:
    for name in list(sys.modules):
        if late.is_ours(name):
            monkeypatch.setitem(sys.modules, name, sys.modules[name])  # as it was, in the end
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(late, "_kept", {})
    late.keep()
    made = ImportWatcher(lambda name: False, lambda module: None)
    made.install()
    yield made
    made.uninstall()


def take_out() -> None:
    for name in list(sys.modules):
        if late.is_ours(name):
            del sys.modules[name]


@pytest.mark.version
def test_what_has_been_taken_out_is_found_again_as_it_was(watcher: Any) -> None:
    parent: Any = sys.modules[PARENT]
    spec, loader = target.__spec__, target.__loader__
    take_out()
    del parent.target
    assert importlib.import_module(NAME) is target
    assert sys.modules[PARENT] is parent
    assert parent.target is target
    assert (target.__spec__, target.__loader__) == (spec, loader)
    assert not getattr(spec, "_initializing", False)


@pytest.mark.version
def test_what_is_loaded_again_stays_as_it_was_and_finds_what_is_loaded_later(watcher: Any) -> None:
    parent: Any = sys.modules[PARENT]
    for module in (target, parent):
        # But for `__builtins__`, which names all there is.
        before = {name: value for name, value in vars(module).items() if name != "__builtins__"}
        assert importlib.reload(module) is module
        assert {name: value for name, value in vars(module).items() if name != "__builtins__"} == before
    name = f"{PARENT}.loopback"
    sys.modules.pop(name, None)
    late._kept.pop(name, None)
    assert importlib.import_module(name).__package__ == PARENT


@pytest.mark.version
def test_a_thread_of_ours_imports_no_second_threading(watcher: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found: List[Any] = []

    def ours() -> None:
        guard_thread()
        found.append(importlib.import_module("threading"))

    monkeypatch.delitem(sys.modules, "threading")
    thread = threading.Thread(target=ours)
    thread.start()
    thread.join()
    monkeypatch.delitem(sys.modules, "threading")
    late.put_back()
    assert found == [threading] == [sys.modules["threading"]]


@pytest.mark.version
def test_a_pickle_finds_the_class_that_is_there(watcher: Any) -> None:
    text = pickle.dumps(Mode.BEFORE)
    take_out()
    assert pickle.loads(text) is Mode.BEFORE


def test_what_is_loaded_later_is_kept_too(watcher: Any) -> None:
    name = "xpc_instrument.core.model.loopback"
    sys.modules.pop(name, None)
    late._kept.pop(name, None)
    first = importlib.import_module(name)
    take_out()
    assert importlib.import_module(name) is first


def test_nothing_is_loaded_of_another_installation(watcher: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "xpc_instrument.core.model.loopback"
    sys.modules.pop(name, None)
    late._kept.pop(name, None)
    monkeypatch.setattr(late, "_looked_at", 0.0)
    monkeypatch.setattr(late, "_installed", (1, 1))
    with pytest.raises(ImportError, match="is gone, or another one by now"):
        importlib.import_module(name)
    take_out()
    assert importlib.import_module(NAME) is target


def test_a_module_that_has_not_run_to_its_end_is_not_kept(monkeypatch: pytest.MonkeyPatch, watcher: Any) -> None:
    monkeypatch.setattr(late, "_kept", {})
    monkeypatch.setattr(target.__spec__, "_initializing", True, raising=False)
    late.keep()
    assert late.kept(NAME) is None
    assert late.kept(PARENT) is sys.modules[PARENT]


def test_what_is_of_others_is_new_when_it_is_imported_again(watcher: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = importlib.import_module("colorsys")
    monkeypatch.delitem(sys.modules, "colorsys")
    assert importlib.import_module("colorsys") is not first


def test_what_stands_in_its_place_and_what_no_finder_finds_is_put_back(watcher: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    parent: Any = sys.modules[PARENT]
    take_out()
    sys.modules[NAME] = parent.target = type(sys)(NAME)
    monkeypatch.setattr(sys, "meta_path", [])
    late.put_back()
    assert sys.modules[NAME] is parent.target is target
    assert importlib.import_module(PARENT) is parent


@pytest.mark.parametrize(("meanwhile", "afterwards"), [(None, 0.005), (0.001, 0.001)])
def test_threads_that_compute_take_short_turns_for_a_while(meanwhile: Optional[float], afterwards: float) -> None:
    usual = sys.getswitchinterval()
    sys.setswitchinterval(0.005)
    try:
        late.hurry()
        assert sys.getswitchinterval() == pytest.approx(0.0002)
        if meanwhile is not None:
            sys.setswitchinterval(meanwhile)
        late.calm()
        assert sys.getswitchinterval() == pytest.approx(afterwards)
    finally:
        sys.setswitchinterval(usual)


def test_one_whose_package_is_not_whole_yet_is_put_back(watcher: Any) -> None:
    del late._kept[PARENT]
    take_out()
    late.put_back()
    assert sys.modules[NAME] is target and PARENT not in sys.modules


def test_a_second_copy_of_a_module_is_noticed(watcher: Any) -> None:
    assert terms.Mode is target.Mode and late.is_whole()
    first = late._kept.pop(NAME)
    assert not late.is_whole()
    del sys.modules[NAME]
    late._kept[NAME] = importlib.import_module(NAME)
    assert late._kept[NAME] is not first and not late.is_whole()
    late._kept[NAME] = first
    assert late.is_whole()
