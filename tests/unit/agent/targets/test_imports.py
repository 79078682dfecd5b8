"""Post-import hooks: told once a module has run, while the import and the module are what they would be without us."""

from __future__ import annotations

import ast
import copy
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import logging
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Set, Tuple

import pytest

from xpc_agent.bootstrap.needed import is_pythons_own
from xpc_agent.targets import imports
from xpc_agent.targets.imports import ImportWatcher
from xpc_agent.targets.module import find_module, is_initializing
from xpc_agent.targets.raw import namespace_of


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Write a module that can be imported: `write("watched_shop/gateway.py", source)`. All `watched_*` are forgotten in the end."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(path: str, source: str = "def charge(): return 1\n") -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(source)
        importlib.invalidate_caches()

    yield write
    for name in [name for name in sys.modules if name.startswith("watched_")]:
        del sys.modules[name]


class Told:
    """Notes which modules it is told of, and what was in them."""

    def __init__(self) -> None:
        self.modules: List[Tuple[str, bool]] = []

    def __call__(self, module: Any) -> None:
        namespace = namespace_of(module)
        self.modules.append((namespace["__name__"], "charge" in namespace))


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def watcher(told: Told, monkeypatch: pytest.MonkeyPatch) -> Iterator[ImportWatcher]:
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    made = ImportWatcher(lambda name: name.startswith("watched_"), told)
    made.install()
    yield made
    made.uninstall()


def test_a_module_is_told_of_after_it_has_run_and_keeps_its_own_loader(write: Any, watcher: Any, told: Told) -> None:
    write("watched_shop.py", "seen = [__loader__, __spec__.loader]\ndef charge(): return 1\n")
    module: Any = importlib.import_module("watched_shop")
    assert told.modules == [("watched_shop", True)]
    assert type(module.__loader__) is SourceFileLoader
    assert module.__spec__.loader is module.__loader__
    assert module.seen == [module.__loader__, module.__loader__]


def test_only_what_is_waited_for_goes_through_the_watcher(write: Any, told: Told) -> None:
    write("watched_shop.py")
    watcher = ImportWatcher(lambda name: False, told)
    assert watcher.find_spec("watched_shop") is None
    assert told.modules == []


def test_packages_and_namespace_packages_are_imported_as_ever(write: Any, watcher: Any, told: Told) -> None:
    write("watched_package/__init__.py")
    write("watched_package/inner/gateway.py")
    importlib.import_module("watched_package.inner.gateway")
    assert told.modules == [("watched_package", True), ("watched_package.inner.gateway", True)]
    inner = sys.modules["watched_package.inner"]
    assert type(inner.__spec__.loader) is not imports._Loader  # type: ignore[union-attr]
    assert list(inner.__path__)


def test_a_module_that_does_not_exist_is_a_module_not_found(watcher: Any, told: Told) -> None:
    with pytest.raises(ModuleNotFoundError, match="No module named 'watched_absent'"):
        importlib.import_module("watched_absent")
    assert told.modules == []


def test_a_module_that_fails_raises_its_own_error_and_is_not_told_of(write: Any, watcher: Any, told: Told) -> None:
    write("watched_broken.py", "seen = __spec__\nraise LookupError('its own')\n")
    with pytest.raises(LookupError, match="its own") as caught:
        importlib.import_module("watched_broken")
    assert "watched_broken" not in sys.modules
    assert told.modules == []
    frames = [entry.frame for entry in caught.traceback]
    seen = next(
        frame.f_globals["seen"] for frame in frames if "seen" in frame.f_globals and frame.f_globals["__name__"] == "watched_broken"
    )
    assert type(seen.loader) is SourceFileLoader


def test_a_module_that_failed_can_be_imported_again(write: Any, watcher: Any, told: Told) -> None:
    write("watched_shop.py", "raise LookupError\n")
    with pytest.raises(LookupError):
        importlib.import_module("watched_shop")
    write("watched_shop.py", "def charge():\n    return 'a longer file, or the cache may serve the old one'\n")
    importlib.import_module("watched_shop")
    assert told.modules == [("watched_shop", True)]


def test_our_own_failure_never_fails_the_import_and_is_logged(write: Any, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("ours")

    write("watched_one.py")
    write(
        "watched_two.py",
        "import sys, types\ndel sys.modules[__name__].__name__\nsys.modules['watched_two'] = types.ModuleType('watched_two')\n",
    )
    watchers = [ImportWatcher(lambda name: name == "watched_one", fail), ImportWatcher(lambda name: name == "watched_two", fail)]
    watchers.append(ImportWatcher(fail, fail))
    for one in watchers:
        one.install()
    try:
        with caplog.at_level(logging.ERROR, "xpc_agent"):
            importlib.import_module("watched_one")
            importlib.import_module("watched_two")
    finally:
        for one in watchers:
            one.uninstall()
    texts = [record.getMessage() for record in caplog.records]
    assert "making watched_one hookable failed; it runs as if the agent were not there" in texts
    assert "making watched_two hookable failed; it runs as if the agent were not there" in texts
    assert "watching the import of watched_one failed; its probe points stay as they are" in texts
    assert all(record.exc_info for record in caplog.records)


def test_a_reloaded_module_is_told_of_again_and_keeps_its_own_loader(write: Any, watcher: Any, told: Told) -> None:
    write("watched_shop.py")
    module = importlib.import_module("watched_shop")
    assert importlib.reload(module) is module
    assert told.modules == [("watched_shop", True)] * 2
    assert type(module.__loader__) is type(module.__spec__.loader) is SourceFileLoader  # type: ignore[union-attr]


def test_who_only_asks_for_a_spec_gets_a_loader_of_the_usual_kind(write: Any, watcher: Any, told: Told, tmp_path: Path) -> None:
    write("watched_shop.py")
    spec = importlib.util.find_spec("watched_shop")
    assert spec is not None
    loader: Any = spec.loader
    assert isinstance(loader, SourceFileLoader)
    assert isinstance(loader, importlib.abc.InspectLoader)
    assert loader.get_filename("watched_shop") == str(tmp_path / "watched_shop.py")
    assert "charge" in loader.get_source("watched_shop")
    assert isinstance(copy.copy(loader), SourceFileLoader)
    assert told.modules == []
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    assert told.modules == [("watched_shop", True)]
    assert type(spec.loader) is SourceFileLoader


def test_a_lazy_module_is_told_of_when_it_runs_and_not_run_by_us(write: Any, watcher: Any, told: Told) -> None:
    write("watched_lazy.py")
    spec = importlib.util.find_spec("watched_lazy")
    assert spec is not None
    assert spec.loader is not None
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules["watched_lazy"] = module
    spec.loader.exec_module(module)
    assert told.modules == []
    assert find_module("watched_lazy") is None
    assert not is_initializing(module)
    assert told.modules == []
    assert module.charge() == 1
    assert told.modules == [("watched_lazy", True)]
    assert find_module("watched_lazy") is module


class LazyFinder:
    """Makes every watched module lazy."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Optional[ModuleSpec]:
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and name.startswith("watched_"):
            assert spec.loader is not None
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec


def test_a_finder_of_lazy_modules_stays_lazy(write: Any, watcher: Any, told: Told) -> None:
    write("watched_lazy.py")
    sys.meta_path.insert(1, LazyFinder())
    module = importlib.import_module("watched_lazy")
    assert told.modules == []
    assert find_module("watched_lazy") is None
    assert not is_initializing(module)
    assert told.modules == []
    assert module.charge() == 1
    assert told.modules == [("watched_lazy", True)]
    assert type(module.__spec__.loader) is SourceFileLoader  # type: ignore[union-attr]


class Loader:
    """A loader as small as one can be; notes which loader the spec has while the module is made."""

    def create_module(self, spec: ModuleSpec) -> Optional[types.ModuleType]:
        self.made_with = spec.loader
        return None

    def exec_module(self, module: types.ModuleType) -> None:
        module.charge = lambda: 1  # type: ignore[attr-defined]


class Finder:
    """Gives one spec for one module, the same each time."""

    def __init__(self, spec: Any) -> None:
        self.spec = spec

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return self.spec if name == self.spec.name else None


def test_a_loader_finds_itself_in_the_spec_while_it_makes_the_module(watcher: Any, told: Told) -> None:
    loader = Loader()
    finder = Finder(ModuleSpec("watched_made", loader))  # type: ignore[arg-type]
    sys.meta_path.insert(1, finder)
    importlib.util.find_spec("watched_made")
    module = importlib.import_module("watched_made")
    assert loader.made_with is loader
    assert module.__loader__ is finder.spec.loader is loader
    assert told.modules == [("watched_made", True)]


class FrozenSpec(ModuleSpec):
    def __setattr__(self, name: str, value: Any) -> None:
        if name == "loader" and hasattr(self, "loader"):
            raise TypeError("this spec is frozen")
        super().__setattr__(name, value)


def test_a_spec_that_takes_no_loader_is_imported_without_us(watcher: Any, told: Told, caplog: pytest.LogCaptureFixture) -> None:
    sys.meta_path.insert(1, Finder(FrozenSpec("watched_frozen", Loader())))  # type: ignore[arg-type]
    assert importlib.import_module("watched_frozen").charge() == 1
    assert told.modules == []
    assert "watching the import of watched_frozen failed" in caplog.text


@pytest.mark.parametrize("missing", ["create_module", "exec_module"])
def test_a_loader_without_a_half_of_the_protocol_gets_the_import_systems_answer(watcher: Any, missing: str) -> None:
    methods = {name: getattr(Loader, name) for name in ("create_module", "exec_module") if name != missing}
    loader = type("Half", (), methods)()
    spec = ModuleSpec("watched_half", loader)
    sys.meta_path.insert(1, Finder(spec))
    assert watcher.find_spec("watched_half") is spec
    assert spec.loader is loader


def test_a_finder_that_asks_all_finders_for_the_same_module_ends(write: Any, watcher: Any, told: Told) -> None:
    write("watched_shop.py")
    write("watched_other.py")

    class Asking:
        asked = False

        def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
            if name != "watched_shop" or self.asked:
                return None
            self.asked = True
            importlib.import_module("watched_other")
            return importlib.util.find_spec(name)

    sys.meta_path.insert(1, Asking())
    importlib.import_module("watched_shop")
    assert told.modules == [("watched_other", True), ("watched_shop", True)]


def test_a_finders_own_error_reaches_the_import(watcher: Any) -> None:
    class Failing:
        def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
            if name.startswith("watched_"):
                raise ImportError("the finder's own")

    sys.meta_path.insert(1, Failing())
    for _ in range(2):
        with pytest.raises(ImportError, match="the finder's own"):
            importlib.import_module("watched_shop")


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="Python 3.12 has dropped finders without find_spec")
def test_a_finder_of_the_old_protocol_keeps_its_turn(watcher: Any) -> None:
    class Old:
        def find_module(self, name: str, path: Any = None) -> Any:
            raise AssertionError("not asked by find_spec")

    later = Finder(ModuleSpec("watched_old", Loader()))  # type: ignore[arg-type]
    sys.meta_path.insert(1, Old())
    sys.meta_path.append(later)
    assert watcher.find_spec("watched_old") is None
    assert isinstance(later.spec.loader, Loader)


class Equal:
    """A finder that says it equals everything, or fails when asked."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __eq__(self, other: object) -> bool:
        if self.answer is None:
            raise SystemError("the application's own")
        return bool(self.answer)

    __hash__ = None  # type: ignore[assignment]

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        return None


@pytest.mark.parametrize("answer", [True, None])
def test_installing_twice_and_uninstalling_leaves_the_finders_as_they_were(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    finders = [Equal(answer), *sys.meta_path]
    monkeypatch.setattr(sys, "meta_path", list(finders))
    watcher = ImportWatcher(lambda name: False, lambda module: None)
    watcher.install()
    watcher.install()
    assert len(sys.meta_path) == len(finders) + 1
    assert sys.meta_path[0] is watcher
    for _ in range(2):
        watcher.uninstall()
        assert len(sys.meta_path) == len(finders)
        assert all(now is before for now, before in zip(sys.meta_path, finders))


def test_a_watcher_that_comes_while_somebody_imports_does_not_come_first(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Equal(False)
    monkeypatch.setattr(sys, "meta_path", [one for one in sys.meta_path if is_pythons_own(one)])
    begun, may_end = threading.Event(), threading.Event()
    monkeypatch.setattr("builtins.watched", (begun, may_end), raising=False)
    write("watched_slow.py", "import builtins\nbuiltins.watched[0].set()\nbuiltins.watched[1].wait(10)\n")
    watcher = ImportWatcher(lambda name: False, lambda module: None)

    def import_it() -> None:
        sys.meta_path.insert(0, own)
        importlib.import_module("watched_slow")
        assert sys.meta_path.pop(0) is own

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(import_it)
        assert begun.wait(10)
        watcher.install()
        may_end.set()
        done.result(10)
    assert sys.meta_path[0] is watcher


def test_an_import_that_is_under_way_when_the_watcher_leaves_is_not_told_of(write: Any, watcher: Any, told: Told) -> None:
    write("watched_shop.py", "import builtins\nbuiltins.watched_leave()\ndef charge(): pass\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.watched_leave", watcher.uninstall, raising=False)
        importlib.import_module("watched_shop")
    assert told.modules == []


def test_the_stand_in_passes_for_a_loader_and_finds_specs_just_as_this_does() -> None:
    """It cannot import this module, which would load half of the agent: what both say is the same text but for types and docstrings."""
    stand_in = Path(imports.__file__).parents[1] / "bootstrap" / "sitecustomize.py"
    for names in ({"__class__", "__getattr__", "create_module"}, {"_find"}):
        ours, theirs = (_functions(path, names) for path in (Path(imports.__file__), stand_in))
        assert set(ours) == names
        assert ours == theirs


def _functions(path: Path, names: Set[str]) -> Dict[str, str]:
    found = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name in names:
            node.returns = None
            if ast.get_docstring(node) is not None:
                del node.body[0]
            found[node.name] = ast.dump(node)
    return found
