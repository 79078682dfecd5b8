"""The runtime dir: private or refused."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from xpc_instrument.core.discovery import folder
from xpc_instrument.core.discovery.doorbell import Doorbell, ring
from xpc_instrument.core.discovery.entry import announce, own_entry, processes
from xpc_instrument.core.discovery.folder import VARIABLE, RuntimeDirError, socket_path
from xpc_instrument.core.model.limits import SOCKET_PATH_LIMIT


def test_the_runtime_dir_is_made_private_with_its_parents(runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = runtime_dir / "a/b"
    monkeypatch.setenv(VARIABLE, str(made))
    old = os.umask(0)
    try:
        assert folder.runtime_dir() == made
    finally:
        os.umask(old)
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    made.rmdir()
    made.parent.rmdir()


def test_a_runtime_dir_that_does_not_exist_holds_no_processes_and_is_not_made(runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(runtime_dir / "absent"))
    assert processes() == []
    assert ring("shop", 1) == set()
    assert not (runtime_dir / "absent").exists()


@pytest.mark.parametrize("mode", [0o750, 0o705, 0o701, 0o777])
def test_a_runtime_dir_that_others_can_enter_is_refused_and_not_repaired(runtime_dir: Path, mode: int) -> None:
    runtime_dir.chmod(mode)
    for use in (folder.runtime_dir, processes, lambda: ring("shop", 1), lambda: announce(own_entry("shop", "x"))):
        with pytest.raises(RuntimeDirError, match=f"mode 0{mode:o}.*expected 0700: chmod 700 {runtime_dir}"):
            use()
    assert stat.S_IMODE(runtime_dir.stat().st_mode) == mode
    assert os.listdir(runtime_dir) == []


def test_a_runtime_dir_of_another_user_is_refused(runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    with pytest.raises(RuntimeDirError, match=f"it belongs to uid {other - 1}; expected this user's own \\(uid {other}\\)"):
        folder.runtime_dir()


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_runtime_dir_that_is_a_link_or_a_file_is_refused(
    runtime_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slash: str
) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").write_text("")
    for name, what in (("link", "a symbolic link"), ("file", "no folder")):
        monkeypatch.setenv(VARIABLE, str(tmp_path / name) + slash)
        with pytest.raises(RuntimeDirError, match=f"it is {what}; expected a folder: remove it, or set {VARIABLE}"):
            folder.runtime_dir()


def test_a_relative_runtime_dir_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "run/xpc")
    with pytest.raises(RuntimeDirError, match=f"{VARIABLE}=run/xpc: it is a relative path"):
        folder.runtime_dir(create=False)


def test_without_the_variable_the_runtime_dir_is_in_the_users_own_or_a_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = f"xpc-instrument-{os.geteuid()}"
    (tmp_path / "xdg").mkdir(mode=0o700)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "xdg"))
    assert folder.runtime_dir() == tmp_path / "xdg/xpc-instrument"
    for useless in ("", "xdg", str(tmp_path / "absent"), str(tmp_path / "file")):
        monkeypatch.setenv("XDG_RUNTIME_DIR", useless)
        assert folder.runtime_dir() == tmp_path / own
    assert stat.S_IMODE((tmp_path / own).stat().st_mode) == 0o700
    monkeypatch.setenv("TMPDIR", "relative")
    monkeypatch.setenv("TEMP", str(tmp_path / "absent"))
    monkeypatch.setenv("TMP", "")
    assert folder.runtime_dir(create=False) == Path("/tmp", own)


def test_an_xdg_folder_of_another_user_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    assert folder.runtime_dir(create=False) == tmp_path / f"xpc-instrument-{other}"


def test_a_path_that_is_too_long_for_a_socket_is_refused_before_it_is_bound(runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert socket_path("shop") == f"{runtime_dir}/shop.{os.getpid()}.sock"
    assert socket_path("shop", 5) == f"{runtime_dir}/shop.5.sock"
    long = runtime_dir / ("é" * 40)
    monkeypatch.setenv(VARIABLE, str(long))
    with pytest.raises(RuntimeDirError, match=f"bytes; expected at most {SOCKET_PATH_LIMIT} for a unix socket: set {VARIABLE}"):
        socket_path("a" * 20)
    with pytest.raises(RuntimeDirError, match="bytes; expected at most"):
        Doorbell("a" * 20, "0123456789abcdef")
    long.rmdir()
