"""The CPythons that the tests run on: those of this machine, and the newest ones as Debian has built them, unpacked into a folder.

Rules:
- Nothing is installed. The packages come from the mirror that apt is configured for, out of a release that this machine need not have, and
  so with a loader and libraries of their own.
- A folder is there as a whole or not at all: it is made under another name, and renamed when all is in it.
- What cannot be had is a version that is skipped, with the reason; no error.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

VERSIONS = ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14", "3.15")

# Few machines have these yet.
FROM_DEBIAN = ("3.14", "3.15")
RELEASE = "sid"

TOOLS = ("apt-get", "dpkg-deb", "patchelf")
KEY = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

# Where Debian's `venv` looks for pip, as written in the interpreter's own settings.
WHEELS = "/usr/share/python-wheels"


class CannotBeHad(Exception):
    """A version is not to be had here; the message says why."""


def interpreters(unpacked: Path) -> Tuple[Dict[str, str], Dict[str, str]]:
    """The newest usable interpreter of each version, and why others are of no use: of uv and pyenv, on PATH, in /usr/bin, in `unpacked`."""
    home = Path.home()
    data = Path(os.environ.get("XDG_DATA_HOME", home / ".local/share"))
    # The later wins.
    candidates = [_python_in(unpacked / version, version) for version in FROM_DEBIAN]
    candidates += [Path("/usr/bin", f"python{version}") for version in VERSIONS]
    candidates += [Path(found) for version in VERSIONS for found in [shutil.which(f"python{version}")] if found]
    for folder in (
        Path(os.environ.get("UV_PYTHON_INSTALL_DIR", data / "uv/python")),
        Path(os.environ.get("PYENV_ROOT", home / ".pyenv"), "versions"),
    ):
        candidates += sorted(folder.glob("*/bin/python3"), key=lambda path: [int(n) for n in re.findall(r"\d+", path.parts[-3])])
    usable: Dict[str, str] = {}
    unusable: Dict[str, str] = {}
    for candidate in [*candidates, Path(sys.executable)]:
        version, problem = version_of(str(candidate)) or ("", "")
        if version in VERSIONS:
            (unusable if problem else usable)[version] = problem or str(candidate)
    return usable, unusable


def version_of(interpreter: str) -> Optional[Tuple[str, str]]:
    """The version of a CPython, such as "3.11", and what it lacks, if anything; None for what does not run or is no CPython.

    "3.14t" is a free-threaded build, which stands for no version of `VERSIONS`.
    """
    code = (
        "import sys, sysconfig, importlib.util as u\n"
        "free = 't' if sysconfig.get_config_var('Py_GIL_DISABLED') else ''\n"
        "print(sys.implementation.name, '%d.%d' % sys.version_info[:2] + free, all(u.find_spec(name) for name in ('venv', 'ensurepip')))"
    )
    try:
        done = subprocess.run([interpreter, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    words = done.stdout.split()
    if done.returncode or len(words) != 3 or words[0] != "cpython":
        return None
    lack = f"{interpreter} has no venv or no ensurepip; on Debian: apt-get install python{words[1]}-venv"
    return words[1], "" if words[2] == "True" else lack


def unpack(folder: Path, versions: Sequence[str]) -> Dict[str, str]:
    """Unpack versions of `FROM_DEBIAN` into `folder`, each into one of its name; returns why some cannot be had, by version."""
    wanted = [version for version in versions if version in FROM_DEBIAN]
    if not wanted:
        return {}
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return dict.fromkeys(wanted, f"no such interpreter on this machine, and no {' and no '.join(missing)} to unpack one of Debian's")
    folder.mkdir(parents=True, exist_ok=True)
    problems = {}
    with tempfile.TemporaryDirectory(prefix=".apt", dir=folder) as state:
        try:
            apt = _apt(Path(state), _mirror())
            _run(*apt, "update")
        except CannotBeHad as error:
            return dict.fromkeys(wanted, str(error))
        for version in wanted:
            try:
                _unpack(apt, Path(state), folder / version, version)
            except CannotBeHad as error:
                problems[version] = str(error)
    return problems


def _unpack(apt: Sequence[str], state: Path, folder: Path, version: str) -> None:
    _run(*apt, "clean")
    # Into an empty system: all that they need comes along, the C library included.
    _run(*apt, "install", "--yes", "--download-only", f"python{version}", f"python{version}-venv", "libgcc-s1")
    made = Path(tempfile.mkdtemp(prefix=f".{version}-", dir=folder.parent))
    try:
        for package in sorted((state / "archives").glob("*.deb")):
            _run("dpkg-deb", "--extract", str(package), str(made))
        _settle(made, folder, version)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    python = str(_python_in(folder, version))
    try:
        if version_of(python) != (version, ""):
            raise CannotBeHad(f"Debian's Python {version} does not run on this machine")
        # With pip, which it takes from the folder too.
        _run(python, "-m", "venv", str(state / version))
    except CannotBeHad:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def add_tests(unpacked: Path, version: str) -> None:
    """Unpack CPython's own tests into what `unpack` has made of a version, if they are not there; Debian has them apart.

    Raises `CannotBeHad`.
    """
    folder = unpacked / version
    if (folder / f"usr/lib/python{version}/test/test_json").exists():
        return
    with tempfile.TemporaryDirectory(prefix=".apt", dir=unpacked) as state:
        apt = _apt(Path(state), _mirror())
        _run(*apt, "update")
        _run(*apt, "download", f"libpython{version}-testsuite", cwd=state)
        for package in Path(state).glob("*.deb"):
            _run("dpkg-deb", "--extract", str(package), str(folder))


def _settle(made: Path, folder: Path, version: str) -> None:
    """Write into what has been unpacked in `made` that it will be in `folder`."""
    libraries = next(made.glob("usr/lib/*/libc.so.6"), None)
    loader = next(made.glob("usr/lib/*/ld-linux*.so.*"), None)
    if libraries is None or loader is None:
        raise CannotBeHad(f"Debian's Python {version} came without a C library that this knows")
    there = folder / libraries.parent.relative_to(made)
    _run(
        *("patchelf", "--set-interpreter", str(there / loader.name), "--force-rpath", "--set-rpath", str(there)),
        str(_python_in(made, version)),
    )
    for settings in (made / f"usr/lib/python{version}").glob("_sysconfig*"):
        # Some are links to others.
        if not settings.is_symlink():
            settings.write_text(settings.read_text().replace(WHEELS, f"{folder}{WHEELS}"))


def _python_in(folder: Path, version: str) -> Path:
    return folder / "usr/bin" / f"python{version}"


def _mirror() -> str:
    """The address of the mirror of Debian that apt has an index of."""
    found = _run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Label: Debian", "Component: main")
    if not found.split():
        raise CannotBeHad("apt has no mirror of Debian, or no index of it yet: apt-get update")
    if not KEY.exists():
        raise CannotBeHad(f"there is no {KEY} to check Debian's packages with")
    return found.split()[0]


def _apt(state: Path, mirror: str) -> List[str]:
    """The words of an apt-get that keeps all its state in a folder and thinks that nothing is installed."""
    for name in ("lists/partial", "archives/partial"):
        (state / name).mkdir(parents=True)
    (state / "status").touch()
    sources = state / "sources.list"
    sources.write_text(f"deb [signed-by={KEY}] {mirror} {RELEASE} main\n")
    options = {
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": state / "lists",
        "Dir::State::status": state / "status",
        "Dir::Cache": state,
        "Dir::Cache::archives": state / "archives",
        "Acquire::Languages": "none",
        "Acquire::Retries": "2",
        "Acquire::http::Timeout": "30",
        "APT::Update::Error-Mode": "any",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "Debug::NoLocking": "1",
    }
    return ["apt-get", "--quiet", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]


def _run(*words: str, cwd: Optional[str] = None) -> str:
    """What a command prints. Raises `CannotBeHad` with its last words if it fails."""
    done = subprocess.run(words, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
    if done.returncode:
        last = (done.stdout.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise CannotBeHad(f"{words[0]} {words[-1]} failed: {last}")
    return done.stdout
