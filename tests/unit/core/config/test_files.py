"""The files of the config: which one is found, what is refused before it is parsed, and the file of the key."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path
from typing import Any, Callable, List

import pytest

from xpc_instrument.core.config import file as module
from xpc_instrument.core.config.file import ManagerConfig, find, load, parse
from xpc_instrument.core.config.rules import secret_mistake
from xpc_instrument.core.model.errors import ConfigError

no_process = pytest.mark.no_process


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def problem(path: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path)
    return str(caught.value)


@no_process
def test_a_file_is_read_with_the_paths_in_it_relative_to_its_folder(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub/x.toml").write_bytes(b'\xef\xbb\xbfapp = "shop"\r\n[manager]\r\nauthkey-file = "shop.key"\r\n')
    config = load("sub/x.toml")
    assert (config.app, config.path) == ("shop", folder / "sub/x.toml")
    assert config.manager.authkey_file == folder / "sub/shop.key"


@no_process
def test_a_file_after_a_byte_order_mark_has_its_mistakes_in_the_right_lines(folder: Path) -> None:
    (folder / "x.toml").write_bytes(b"\xef\xbb\xbf# first\r\nadress = 1\r\n")
    assert problem("x.toml").startswith("x.toml:2: adress: unknown key")


@no_process
def test_of_a_pyproject_only_our_table_is_read(folder: Path) -> None:
    (folder / "pyproject.toml").write_text('[project]\nname = "other"\n[tool.xpc-instrument]\napp = "shop"\n')
    assert load("pyproject.toml").app == "shop"
    (folder / "pyproject.toml").write_text('[project]\nname = "other"\n')
    assert problem("pyproject.toml") == "pyproject.toml: there is no table [tool]; expected [tool.xpc-instrument]"


@no_process
def test_what_cannot_be_read_as_a_file_is_told_with_its_path(folder: Path) -> None:
    (folder / "file").write_text("")
    assert problem("absent.toml") == "absent.toml: no such file; expected an existing xpc-instrument.toml or pyproject.toml"
    assert problem(folder) == f"{folder}: is a directory; expected a file such as {folder}/xpc-instrument.toml"
    assert problem("file/x.toml").startswith("file/x.toml: cannot be read (")
    assert problem("a\0b").startswith("a\0b: cannot be read (")


@no_process
def test_text_that_is_no_utf8_is_told_with_its_line(folder: Path) -> None:
    (folder / "x.toml").write_bytes(b'app = "shop"\n# caf\xe9\n')
    assert problem("x.toml") == "x.toml:2: byte 0xe9 is no UTF-8; expected TOML, which is always UTF-8"


@no_process
def test_a_huge_file_is_refused(folder: Path) -> None:
    with open("x.toml", "wb") as file:
        file.truncate(module._FILE_LIMIT + 1)
    assert problem("x.toml") == "x.toml: is larger than 16 MiB; expected a config file"


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="this system has no /dev/zero")
def test_a_file_without_an_end_is_refused() -> None:
    assert problem("/dev/zero") == "/dev/zero: is larger than 16 MiB; expected a config file"


def test_a_pipe_that_nobody_writes_to_is_refused_at_once(folder: Path) -> None:
    os.mkfifo("x.toml")
    assert problem("x.toml") == "x.toml: is a pipe that nobody writes to; expected a config file"


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="this system has no /dev/fd")
def test_a_pipe_of_the_shell_is_read_to_its_end() -> None:
    reader, writer = os.pipe()
    texts = [b"# more than a pipe holds at a time\n" * 20_000, b'app = "shop"\n']

    def write() -> None:
        with open(writer, "wb", buffering=0) as file:
            for text in texts:
                file.write(text)

    thread = threading.Thread(target=write)
    try:
        thread.start()
        assert load(f"/dev/fd/{reader}").app == "shop"
    finally:
        thread.join()
        os.close(reader)


def test_a_folder_that_is_gone_is_a_config_error_where_it_is_needed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = folder / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ConfigError, match="<config>: the current folder is gone"):
        parse("")
    with pytest.raises(ConfigError, match=r"^x\.toml: "):
        load("x.toml")
    (folder / "x.toml").write_text("adress = 1")
    assert problem(folder / "x.toml").startswith(f"{folder}/x.toml:1: adress")


# finding ------------------------------------------------------------------------------------------------------------------


@no_process
def test_the_nearest_file_is_found_from_a_folder_or_a_file_in_it(folder: Path) -> None:
    (folder / "a/b/c").mkdir(parents=True)
    (folder / "a/b/c/main.py").write_text("")
    assert find(Path("a/b/c")) is None
    (folder / "pyproject.toml").write_text("[tool.xpc-instrument]\n")
    assert find(Path("a/b/c/main.py")) == folder / "pyproject.toml"
    (folder / "a/pyproject.toml").write_text("[tool.other]\n# not about xpc-instrument\n")
    assert find(Path("a/b/c")) == folder / "pyproject.toml"
    (folder / "a/xpc-instrument.toml").mkdir()
    assert find(Path("a/b/c")) == folder / "pyproject.toml"
    (folder / "a/b/xpc-instrument.toml").write_text("")
    (folder / "a/b/pyproject.toml").write_text("[tool.xpc-instrument]\n")
    assert find(Path("a/b/c")) == folder / "a/b/xpc-instrument.toml"


@no_process
@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("[tool.xpc-instrument]\n", True),
        ("\ufefftool = {xpc-instrument = {}}\n", True),
        ("[tool.xpc-instrument.manager]\naddress = 1\n", True),
        ("[ tool . 'xpc-instrument' ]\nbroken = \n", True),
        ("dependencies = ['xpc-instrument']\n", False),
        ("dependencies = ['xpc-instrument'\n", False),
        ("[tool]\n# xpc-instrument\n", False),
        ("tool = 'xpc-instrument'\n", False),
        ("", False),
    ],
)
def test_a_pyproject_counts_if_it_seems_to_have_our_table(folder: Path, text: str, counts: bool) -> None:
    (folder / "pyproject.toml").write_bytes(text.encode())
    assert find(folder) == (folder / "pyproject.toml" if counts else None)


# the key ------------------------------------------------------------------------------------------------------------------


def private(folder: Path, data: bytes) -> ManagerConfig:
    path = folder / "shop.key"
    path.write_bytes(data)
    path.chmod(0o600)
    return ManagerConfig(authkey_file=path)


@no_process
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


@no_process
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_key_that_others_can_reach_is_refused(folder: Path, mode: int) -> None:
    manager = private(folder, b"k")
    (folder / "shop.key").chmod(mode)
    with pytest.raises(ConfigError, match=f"other users have access \\(mode 0{mode:o}\\); make it private: chmod 600 .*shop.key"):
        manager.read_authkey()


def owned(uid: int, mode: int) -> os.stat_result:
    return os.stat_result((stat.S_IFREG | mode, 0, 0, 1, uid, 50, 1, 0, 0, 0))


@no_process
@pytest.mark.parametrize(
    ("uid", "owner", "mode"), [(1000, 1000, 0o600), (1000, 1000, 0o400), (1000, 0, 0o440), (1000, 0, 0o640), (0, 0, 0o600)]
)
def test_a_key_of_the_user_or_one_that_root_gives_to_a_group_is_taken(uid: int, owner: int, mode: int) -> None:
    assert secret_mistake(Path("k"), owned(owner, mode), uid) is None


@no_process
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


@no_process
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_key_file_of_another_user_is_not_read(folder: Path) -> None:
    manager = private(folder, b"k")
    os.chown(folder / "shop.key", 12345, -1)
    with pytest.raises(ConfigError, match=r"shop\.key: manager\.authkey-file: belongs to uid 12345.*; expected a file of this user's"):
        manager.read_authkey()
