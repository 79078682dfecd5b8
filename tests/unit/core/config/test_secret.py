"""Files that hold a secret: whose they may be, who may read them, and the key in them."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, Callable, List

import pytest

from xpc_instrument.core.config.schema import ManagerConfig
from xpc_instrument.core.config.secret import secret_mistake
from xpc_instrument.core.model.errors import ConfigError


def private(folder: Path, data: bytes) -> ManagerConfig:
    path = folder / "shop.key"
    path.write_bytes(data)
    path.chmod(0o600)
    return ManagerConfig(authkey_file=path)


@pytest.mark.parametrize(
    ("data", "key"),
    [(b"k", b"k"), (b"k\n", b"k"), (b"k\r\n", b"k"), (b"k\n\n", b"k\n"), (b" \0k ", b" \0k "), (b"k" * 65536, b"k" * 65536)],
)
def test_the_key_is_what_the_file_holds_less_one_newline(folder: Path, data: bytes, key: bytes) -> None:
    assert private(folder, data).read_authkey() == key


def absent(folder: Path) -> None:
    (folder / "shop.key").unlink()


def unwritten(folder: Path) -> None:
    absent(folder)
    os.mkfifo(folder / "shop.key", 0o600)


def a_folder(folder: Path) -> None:
    absent(folder)
    (folder / "shop.key").mkdir(mode=0o700)


def written(data: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / "shop.key").write_bytes(data)


KEY_FILES: List[Any] = [
    (absent, "no such file; create it"),
    (unwritten, "is no regular file; expected a file that holds the key"),
    (a_folder, "cannot be read (Is a directory)"),
    (written(b""), "is empty; expected a key in it"),
    (written(b"\r\n"), "is empty; expected a key in it"),
    (written(b"k" * 65537), "is larger than 65536 bytes; expected a file with nothing but the key"),
]


@pytest.mark.parametrize(("change", "seen"), KEY_FILES)
def test_a_file_that_holds_no_key_is_told_with_the_remedy(folder: Path, change: Any, seen: str) -> None:
    manager = private(folder, b"k")
    change(folder)
    before = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else None
    with pytest.raises(ConfigError) as caught:
        manager.read_authkey()
    assert str(caught.value).startswith(f"{folder}/shop.key: manager.authkey-file: {seen}")
    assert before is None or os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_key_that_others_can_reach_is_refused(folder: Path, mode: int) -> None:
    manager = private(folder, b"k")
    (folder / "shop.key").chmod(mode)
    with pytest.raises(ConfigError, match=f"other users have access \\(mode 0{mode:o}\\); make it private: chmod 600 .*shop.key"):
        manager.read_authkey()


def owned(uid: int, mode: int) -> os.stat_result:
    return os.stat_result((stat.S_IFREG | mode, 0, 0, 1, uid, 50, 1, 0, 0, 0))


@pytest.mark.parametrize(
    ("uid", "owner", "mode"), [(1000, 1000, 0o600), (1000, 1000, 0o400), (1000, 0, 0o440), (1000, 0, 0o640), (0, 0, 0o600)]
)
def test_a_key_of_the_user_or_one_that_root_gives_to_a_group_is_taken(uid: int, owner: int, mode: int) -> None:
    assert secret_mistake(Path("k"), owned(owner, mode), uid) is None


@pytest.mark.parametrize(
    ("uid", "owner", "mode", "seen", "remedy"),
    [
        (1000, 1001, 0o600, "belongs to uid 1001, who could put another key there", "(uid 1000) or root's: make a copy, or chown 1000 k"),
        (0, 1000, 0o600, "belongs to uid 1000, who could put another key there", "(uid 0) or root's: make a copy, or chown 0 k"),
        (1000, 0, 0o444, "other users have access (mode 0444)", "mount it with mode 0440 and a group of this process, or with uid 1000"),
        (1000, 0, 0o660, "other users have access (mode 0660)", "mount it with mode 0440"),
        (1000, 1000, 0o440, "other users have access (mode 0440)", "make it private: chmod 600 k"),
        (0, 0, 0o440, "other users have access (mode 0440)", "make it private: chmod 600 k"),
    ],
)
def test_a_key_of_another_user_or_one_that_all_can_read_is_refused(uid: int, owner: int, mode: int, seen: str, remedy: str) -> None:
    mistake = secret_mistake(Path("k"), owned(owner, mode), uid)
    assert mistake is not None
    assert mistake[0] == seen
    assert remedy in mistake[1]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_key_file_of_another_user_is_not_read(folder: Path) -> None:
    manager = private(folder, b"k")
    os.chown(folder / "shop.key", 12345, -1)
    with pytest.raises(ConfigError, match=r"shop\.key: manager\.authkey-file: belongs to uid 12345.*; expected a file of this user's"):
        manager.read_authkey()
