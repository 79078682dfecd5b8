"""The project's own commands, with Python and nothing else: `python3 dev.py demo`, `test`, `lint`, `types`, `matrix`.

Each makes the virtual environment that it needs under `.venv`. Further words go to the program that is run, such as
`python3 dev.py test tests/unit -k codec`.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Optional

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
VERSIONS = ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14", "3.15")


def python_of(folder: Path) -> Path:
    """The interpreter of a virtual environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def environment(folder: Path, interpreter: str, extras: str) -> Path:
    """A virtual environment with the project in it, editable; made anew when pyproject.toml changes. Returns its interpreter."""
    python = python_of(folder)
    stamp = folder / "stamp"
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + extras.encode()).hexdigest()
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"dev.py: setting up {folder.relative_to(ROOT)} with {interpreter}", flush=True)
    made = subprocess.run([interpreter, "-m", "venv", "--clear", str(folder)], check=False)
    if made.returncode:
        version = subprocess.run(
            [interpreter, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True, text=True, check=True
        ).stdout.strip()
        sys.exit(f"dev.py: {interpreter} cannot make a virtual environment: on Debian, apt-get install python{version}-venv")
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-e", f"{ROOT}[{extras}]"]
    if subprocess.run(install, check=False).returncode:
        sys.exit(f"dev.py: installing into {folder} failed; what pip says is above")
    stamp.write_text(wanted)
    return python


def own_environment() -> Path:
    """The environment for everything but the matrix."""
    return environment(VENV / "dev", sys.executable, "dev")


def run(*words: object) -> int:
    """Run a command in the root of the project; returns its exit status."""
    return subprocess.run([str(word) for word in words], cwd=ROOT, check=False).returncode


def test(arguments: List[str]) -> int:
    """Run the tests."""
    return run(own_environment(), "-m", "pytest", *arguments)


def demo(arguments: List[str]) -> int:
    """Play the demonstration."""
    return run(environment(VENV / "demo", sys.executable, "cli"), ROOT / "examples" / "http_server" / "demo.py", *arguments)


def lint(arguments: List[str]) -> int:
    """Run ruff."""
    return run(own_environment(), "-m", "ruff", "check", ".", *arguments)


def types(arguments: List[str]) -> int:
    """Run mypy."""
    return run(own_environment(), "-m", "mypy", *arguments)


def matrix(arguments: List[str]) -> int:
    """Run the tests on every CPython from 3.9 to 3.15 that this machine has."""
    found = interpreters()
    results: Dict[str, str] = {}
    for version in VERSIONS:
        interpreter = found.get(version)
        if interpreter is None:
            results[version] = "skipped: no such interpreter on this machine"
            continue
        print(f"\ndev.py: Python {version}", flush=True)
        python = environment(VENV / version, interpreter, "test")
        status = run(python, "-m", "pytest", "-q", *arguments)
        results[version] = "passed" if status == 0 else f"FAILED (exit status {status})"
    print("\ndev.py: the matrix")
    for version, result in results.items():
        print(f"  Python {version}: {result}")
    return int(any(result.startswith("FAILED") for result in results.values()))


def interpreters() -> Dict[str, str]:
    """The newest interpreter of each version: on PATH, under pyenv, and where uv keeps its own."""
    candidates: List[Path] = []
    for version in VERSIONS:
        on_path = shutil.which(f"python{version}")
        if on_path:
            candidates.append(Path(on_path))
    folders = [Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions", Path.home() / ".local/share/uv/python"]
    for folder in folders:
        if folder.is_dir():
            candidates += sorted(folder.glob("*/bin/python3"), key=lambda path: [int(n) for n in re.findall(r"\d+", path.parts[-3])])
    found: Dict[str, str] = {}
    for candidate in [*candidates, Path(sys.executable)]:
        version = version_of(candidate)
        if version in VERSIONS:
            found[version] = str(candidate)
    return found


def version_of(interpreter: Path) -> Optional[str]:
    """The minor version of a CPython that runs; None for anything else, such as a shim of an interpreter that isn't there."""
    code = "import sys, venv, ensurepip; print(sys.implementation.name, '%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([str(interpreter), "-c", code], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    words = done.stdout.split()
    return words[1] if done.returncode == 0 and words[:1] == ["cpython"] else None


COMMANDS = {"demo": demo, "test": test, "lint": lint, "types": types, "matrix": matrix}


def main(arguments: List[str]) -> int:
    """Run one command."""
    if not arguments or arguments[0] not in COMMANDS:
        print(__doc__, file=sys.stderr)
        return 2
    return COMMANDS[arguments[0]](arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
