"""The files of the config: which one is found, what is refused before it is parsed, and what the command line adds."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from xpc_instrument.core.config.document import FILE_LIMIT
from xpc_instrument.core.config.file import default_app, find, load, parse, with_app, with_probes
from xpc_instrument.core.config.schema import Config, DefaultsConfig, ProbeConfig
from xpc_instrument.core.discovery.name import app_mistake, app_name
from xpc_instrument.core.model.errors import ConfigError


def problem(path: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path)
    return str(caught.value)


def test_a_file_is_read_with_the_paths_in_it_relative_to_its_folder(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub/x.toml").write_bytes(b'\xef\xbb\xbfapp = "shop"\r\n[manager]\r\nauthkey-file = "shop.key"\r\n')
    config = load("sub/x.toml")
    assert (config.app, config.path) == ("shop", str(folder / "sub/x.toml"))
    assert config.manager.authkey_file == str(folder / "sub/shop.key")


def test_a_file_after_a_byte_order_mark_has_its_mistakes_in_the_right_lines(folder: Path) -> None:
    (folder / "x.toml").write_bytes(b"\xef\xbb\xbf# first\r\nadress = 1\r\n")
    assert problem("x.toml").startswith("x.toml:2: adress: unknown key")


def test_of_a_pyproject_only_our_table_is_read(folder: Path) -> None:
    (folder / "pyproject.toml").write_text('[project]\nname = "other"\n[tool.xpc-instrument]\napp = "shop"\n')
    assert load("pyproject.toml").app == "shop"
    (folder / "pyproject.toml").write_text('[project]\nname = "other"\n')
    assert problem("pyproject.toml") == "pyproject.toml: there is no table [tool]; expected [tool.xpc-instrument]"


def test_what_cannot_be_read_as_a_file_is_told_with_its_path(folder: Path) -> None:
    (folder / "file").write_text("")
    assert problem("absent.toml") == "absent.toml: no such file; expected an existing xpc-instrument.toml or pyproject.toml"
    assert problem(folder) == f"{folder}: is a directory; expected a file such as {folder}/xpc-instrument.toml"
    assert problem("file/x.toml").startswith("file/x.toml: cannot be read (")
    assert problem("a\0b").startswith("a\0b: cannot be read (")


def test_text_that_is_no_utf8_is_told_with_its_line(folder: Path) -> None:
    (folder / "x.toml").write_bytes(b'app = "shop"\n# caf\xe9\n')
    assert problem("x.toml") == "x.toml:2: byte 0xe9 is no UTF-8; expected TOML, which is always UTF-8"


def test_a_huge_file_is_refused(folder: Path) -> None:
    with open("x.toml", "wb") as file:
        file.truncate(FILE_LIMIT + 1)
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


@given(st.text(max_size=80))
@example("")
@example("9" * 70)
@example("\n")
def test_every_folder_gives_an_app_name(name: str) -> None:
    assert app_mistake(app_name(name)) is None


def test_a_folders_name_becomes_the_app_name() -> None:
    assert default_app(Path("/srv/My shop!")) == "My-shop"
    assert default_app(Path("/")) == "app"
    assert default_app(Path("/srv/2024")) == "app-2024"
    assert default_app(Path("/srv/..hidden.")) == "hidden"


def test_the_app_option_is_checked_like_the_files_key() -> None:
    assert with_app(Config("shop"), "other").app == "other"
    with pytest.raises(ConfigError, match=r'--app "a b": is no app name'):
        with_app(Config("shop"), "a b")


def test_probes_of_the_command_line_have_the_defaults_and_leave_those_of_the_file_alone() -> None:
    config = Config("shop", probes=(ProbeConfig(target="shop:charge", timeout=9.0),), defaults=DefaultsConfig(timeout=5.0))
    added = with_probes(config, (target for target in ["shop:refund", "shop:charge", "shop:refund"]))
    assert added.probes == (ProbeConfig(target="shop:charge", timeout=9.0), ProbeConfig(target="shop:refund", timeout=5.0))
    with pytest.raises(ConfigError) as caught:
        with_probes(config, iter(["nonsense", "shop:ok", "a b:c"]))
    assert [line.split(":")[0] for line in str(caught.value).split("\n")] == ['--probe "nonsense"', '--probe "a b']
