"""Post-import hooks, where several threads import at once."""

from __future__ import annotations

import importlib
import sys
import threading
from pathlib import Path
from typing import Any, List

import pytest

from xpc_agent.targets.imports import ImportWatcher

THREADS = 8


def test_threads_that_import_at_once_get_one_module_and_tell_of_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"together_{number}" for number in range(20)]
    for name in names:
        (tmp_path / f"{name}.py").write_text("import itertools\ndef charge(): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    told: List[str] = []
    got: List[Any] = []
    start = threading.Barrier(THREADS)

    def run(number: int) -> None:
        start.wait(30)
        for name in names[number:] + names[:number]:
            got.append(importlib.import_module(name))

    watcher = ImportWatcher(lambda name: name.startswith("together_"), lambda module: told.append(module.__name__))
    watcher.install()
    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    finally:
        watcher.uninstall()
        modules = [sys.modules.pop(name, None) for name in names]
    assert sorted(told) == sorted(names)
    assert len(got) == THREADS * len(names)
    assert {id(module) for module in got} == {id(module) for module in modules}


def test_a_thread_that_looks_for_a_module_does_not_hide_it_from_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "together_seen.py").write_text("def charge(): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    told: List[str] = []
    watcher = ImportWatcher(lambda name: name == "together_seen", lambda module: told.append(module.__name__))
    watcher.install()

    class Waiting:
        """In the first thread, waits in the middle of the search until the second has imported the module."""

        looked = False

        def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
            if name == "together_seen" and not self.looked:
                self.looked = True
                other = threading.Thread(target=lambda: importlib.import_module("together_seen"))
                other.start()
                other.join(30)

    sys.meta_path.insert(1, Waiting())
    assert watcher.find_spec("together_seen") is not None
    del sys.modules["together_seen"]
    assert told == ["together_seen"]
