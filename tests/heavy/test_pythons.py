"""Which interpreters the matrix finds, and what becomes of Debian's where something is missing or fails."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Dict

import pytest

from tests import pythons

SHELL, MKDIR = shutil.which("sh"), shutil.which("mkdir")

pytestmark = pytest.mark.skipif(SHELL is None or MKDIR is None, reason="needs a shell")


def tool(folder: Path, name: str, script: str) -> Path:
    """An executable of the machine that this test makes."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!{SHELL}\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH, of a user without uv and pyenv."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_DATA_HOME", "UV_PYTHON_INSTALL_DIR", "PYENV_ROOT"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "bin"


@pytest.fixture
def debian(machine: Path) -> Dict[str, str]:
    """Tools that do nothing, successfully, by name; a test replaces some."""
    scripts = {"apt-get": "case $* in *indextargets*) echo file:/nowhere;; esac", "dpkg-deb": "", "patchelf": ""}
    for name, script in scripts.items():
        tool(machine, name, script)
    return scripts


def test_without_the_tools_a_version_is_skipped_and_they_are_named(machine: Path, tmp_path: Path) -> None:
    tool(machine, "dpkg-deb", "")
    problems = pythons.unpack(tmp_path / "pythons", ["3.9", "3.14", "3.15"])
    reason = "no such interpreter on this machine, and no apt-get and no patchelf to unpack one of Debian's"
    assert problems == {"3.14": reason, "3.15": reason}
    assert not (tmp_path / "pythons").exists()


def test_nothing_is_asked_for_where_nothing_is_missing(machine: Path, tmp_path: Path) -> None:
    assert pythons.unpack(tmp_path / "pythons", []) == {}


def test_without_a_mirror_the_reason_says_what_to_do(debian: Dict[str, str], machine: Path, tmp_path: Path) -> None:
    tool(machine, "apt-get", "")
    problems = pythons.unpack(tmp_path / "pythons", ["3.15"])
    assert problems == {"3.15": "apt has no mirror of Debian, or no index of it yet: apt-get update"}


@pytest.mark.skipif(not pythons.KEY.exists(), reason="needs Debian's keys")
@pytest.mark.parametrize(
    ("name", "script", "reason"),
    [
        (
            "apt-get",
            "case $* in *indextargets*) echo file:/nowhere;; *update*) echo E: no route; exit 100;; esac",
            "update failed: E: no route",
        ),
        (
            "apt-get",
            "case $* in *indextargets*) echo file:/nowhere;; *install*) echo E: not there; exit 100;; esac",
            "failed: E: not there",
        ),
        ("dpkg-deb", "mkdir -p $3/usr/bin; echo broken; exit 2", "failed: broken"),
        ("dpkg-deb", "mkdir -p $3/usr/bin", "came without a C library"),
        ("patchelf", "exit 3", "failed: exit status 3"),
        ("patchelf", "", "does not run on this machine"),
    ],
)
def test_what_fails_is_the_reason_and_nothing_half_made_is_left(
    debian: Dict[str, str], machine: Path, tmp_path: Path, name: str, script: str, reason: str
) -> None:
    path = f'PATH="{Path(MKDIR or "").parent}"; '
    # As apt leaves it: one package, in the folder that it was told.
    fetch = 'for word; do case $word in Dir::Cache::archives=*) : > "${word#*=}/one.deb";; esac; done'
    tool(machine, "apt-get", f"case $* in *indextargets*) echo file:/nowhere;; *--download-only*) {fetch};; esac")
    library = "mkdir -p $3/usr/lib/some; : > $3/usr/lib/some/libc.so.6; : > $3/usr/lib/some/ld-linux.so.2"
    tool(machine, "dpkg-deb", path + library)
    tool(machine, name, path + script)
    folder = tmp_path / "pythons"
    problems = pythons.unpack(folder, ["3.15"])
    assert reason in problems["3.15"]
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(not pythons.KEY.exists(), reason="needs Debian's keys")
@pytest.mark.parametrize("pip", [True, False])
def test_one_that_makes_environments_is_put_in_its_folder_and_knows_that(
    debian: Dict[str, str], machine: Path, tmp_path: Path, pip: bool
) -> None:
    fetch = 'for word; do case $word in Dir::Cache::archives=*) : > "${word#*=}/one.deb";; esac; done'
    tool(machine, "apt-get", f"case $* in *indextargets*) echo file:/nowhere;; *--download-only*) {fetch};; esac")
    inside = tmp_path / "package"
    tool(inside / "usr/bin", "python3.15", f"case $1 in -c) echo cpython 3.15 True;; *) exit {int(not pip)};; esac")
    for file in ("usr/lib/some/libc.so.6", "usr/lib/some/ld-linux.so.2", "usr/lib/python3.15/_sysconfigdata_one.py"):
        (inside / file).parent.mkdir(parents=True, exist_ok=True)
        (inside / file).write_text("WHEELS = '/usr/share/python-wheels/'\n")
    (inside / "usr/lib/python3.15/_sysconfigdata_two.py").symlink_to("_sysconfigdata_one.py")
    tool(machine, "dpkg-deb", f'PATH="{Path(MKDIR or "").parent}"; cp -a "{inside}/usr" "$3"')
    folder = tmp_path / "pythons"
    problems = pythons.unpack(folder, ["3.15"])
    if pip:
        assert (problems, [path.name for path in folder.iterdir()]) == ({}, ["3.15"])
        settings = (folder / "3.15/usr/lib/python3.15/_sysconfigdata_two.py").read_text()
        assert settings == f"WHEELS = '{folder}/3.15/usr/share/python-wheels/'\n"
        assert pythons.version_of(str(folder / "3.15/usr/bin/python3.15")) == ("3.15", "")
    else:
        assert "failed: exit status 1" in problems["3.15"]
        assert list(folder.iterdir()) == []


def python(folder: Path, name: str, version: str) -> Path:
    return tool(folder, name, f"echo cpython {version} True")


def test_one_that_was_unpacked_is_found_and_one_of_the_machine_goes_before_it(machine: Path, tmp_path: Path) -> None:
    unpacked = tmp_path / "pythons"
    other = python(unpacked / "3.15/usr/bin", "python3.15", "3.15")
    found, _ = pythons.interpreters(unpacked)
    # One in /usr/bin would go before it, too.
    assert found["3.15"] == str(other) or found["3.15"].startswith("/usr/bin")
    own = python(machine, "python3.15", "3.15")
    assert pythons.interpreters(unpacked)[0]["3.15"] == str(own)


def test_a_free_threaded_build_is_not_taken_for_the_other_one(machine: Path, tmp_path: Path) -> None:
    build = python(tmp_path / ".pyenv/versions/3.15.0t/bin", "python3", "3.15t")
    assert pythons.version_of(str(build)) == ("3.15t", "")
    found, unusable = pythons.interpreters(tmp_path / "pythons")
    assert str(build) not in found.values()
    assert set(found) | set(unusable) <= set(pythons.VERSIONS)


def test_this_interpreter_is_found_with_its_version(machine: Path, tmp_path: Path) -> None:
    own = "{}.{}".format(*sys.version_info)
    assert (pythons.version_of(sys.executable) or ("",))[0].rstrip("t") == own


def test_what_is_no_interpreter_is_none(machine: Path, tmp_path: Path) -> None:
    assert pythons.version_of(str(tmp_path / "nothing")) is None
    assert pythons.version_of(str(tool(machine, "python3.15", "exit 1"))) is None
    assert pythons.version_of(str(tool(machine, "python3.14", "echo pypy 3.14 True"))) is None
