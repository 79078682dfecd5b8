"""The snippets of README.md and docs/config.md run as they are typed: their files are written, their commands run, in real processes.

A snippet in Python or TOML opens with the name of its file; one for the shell, with its terminal. Ports are the only thing replaced.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple

import pytest

import dev
from tests.programs import PATIENCE, Program
from xpc_instrument import find_free_port

ROOT = Path(__file__).resolve().parents[3]
README = ROOT / "README.md"
CONFIG = ROOT / "docs" / "config.md"
SHOP = ROOT / "examples" / "shop"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks" / "README.md", SHOP / "README.md"])


class Snippet(NamedTuple):
    """A fenced block: its language, its text, and what the comment in its first line says, if it is one."""

    language: str
    text: str
    name: str


def snippets(page: Path) -> List[Snippet]:
    """All of a page, in order."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [Snippet(language, text, text.partition("\n")[0][2:] if text.startswith("# ") else "") for language, text in found]


def files(page: Path) -> Dict[str, str]:
    """The files that the page has one write, by their names."""
    return {one.name: one.text for one in snippets(page) if one.language in ("python", "toml") and one.name}


def typed(words: str) -> str:
    """The one line for the shell in the README that begins with these words, without its comment."""
    lines = [line for one in snippets(README) if one.language == "sh" for line in one.text.splitlines() if line.startswith(words)]
    assert len(lines) == 1, f"{words}: {lines}"
    return re.sub(r"\s+#.*", "", lines[0])


class Reader:
    """Somebody who reads the README and types what it says, into files and terminals of one folder."""

    def __init__(self, folder: Path, run_program: Callable[..., Program]) -> None:
        self.folder = folder
        self._run_program = run_program
        self._ports: Dict[str, str] = {}

    def port(self, shown: str) -> str:
        """The free port in place of one of the README's."""
        return self._ports.setdefault(shown, str(find_free_port("127.0.0.1")))

    def _with_ports(self, text: str) -> str:
        return re.sub(r"\b(8000|8001|50000)\b", lambda match: self.port(match.group()), text)

    def write(self, *names: str) -> None:
        for name in names:
            (self.folder / name).write_text(self._with_ports(files(README)[name]))

    def types(self, line: str) -> Program:
        """Run a line in a terminal with the project's environment active. A server that is not at home is not asked for by a proxy."""
        env = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        env["HOME"] = str(self.folder)
        words = ["env", "-i", *(f"{name}={value}" for name, value in env.items()), "PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1"]
        return self._run_program(command=[*words, "sh", "-c", f"exec {self._with_ports(line)}"], cwd=self.folder)

    def fetches(self, url: str) -> bytes:
        """What somebody gets with curl, which not every machine has."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(self._with_ports(url), timeout=PATIENCE) as answer:
            return bytes(answer.read())


@pytest.fixture
def reader(tmp_path: Path, run_program: Callable[..., Program]) -> Reader:
    folder = tmp_path / "typed"
    folder.mkdir()
    return Reader(folder, run_program)


def ends(program: Program) -> str:
    """Press Ctrl-C, and take all that it has printed."""
    program.signal(signal.SIGINT)
    assert program.wait() == 0, program.text
    return program.text


def prints(program: Program) -> str:
    assert program.wait() == 0, program.text
    return program.text


@pytest.fixture
def server(reader: Reader) -> Program:
    reader.write("xpc-instrument.toml")
    program = reader.types(typed("xpc-instrument run -- python -m http.server"))
    program.read_until("Serving HTTP")
    return program


def test_the_tour_hooks_the_web_server_and_leaves_it_as_it_was(reader: Reader, server: Program) -> None:
    assert re.search(rf"^files +{server.pid} ", prints(reader.types(typed("xpc-instrument ps"))), re.MULTILINE)
    assert "SimpleHTTPRequestHandler.do_GET  ready" in prints(reader.types("xpc-instrument ls files"))
    reader.write("probe.py")
    probe = reader.types(typed("python probe.py"))
    probe.read_until("hooked")
    url = typed("curl").split()[1]
    assert reader.fetches(url) == b"written by another process\n"
    assert b"xpc-instrument.toml" in reader.fetches(url.replace("hidden", ""))
    probe.read_until(" s")
    probe.read_until(" s")
    told = ends(probe)
    assert "GET /hidden" in told
    assert re.search(r"^\d\.\d{4} s $", told, re.MULTILINE)
    with pytest.raises(urllib.error.HTTPError, match="File not found") as gone:
        reader.fetches(url)
    gone.value.close()


def test_observers_with_terms_are_registered_and_counted(reader: Reader, server: Program) -> None:
    reader.write("observe.py")
    observer = reader.types("python observe.py")
    observer.read_until("hooked")
    for _ in range(3):
        reader.fetches("http://localhost:8000/")
    assert "do_GET" in prints(reader.types(typed("xpc-instrument ls files --stats")))
    assert '"failures"' in prints(reader.types(typed("xpc-instrument ls files --json")))
    assert ends(observer).endswith("3 events delivered, 0 dropped")


def test_two_managers_call_each_other(reader: Reader) -> None:
    reader.write("greeter.py", "caller.py")
    greeter = reader.types("python greeter.py")
    greeter.read_until("Enter ends it")
    assert prints(reader.types("python caller.py")).splitlines() == ["('Hello, world!', True)", "(None, False)"]
    greeter.send_line()
    prints(greeter)


def test_a_mock_answers_in_place_of_the_gateway_of_the_running_shop(reader: Reader) -> None:
    for needed in ("flask", "gunicorn"):
        pytest.importorskip(needed, reason=f"{needed} is not installed")
    shutil.copytree(SHOP, reader.folder, dirs_exist_ok=True)
    reader.write("buy.py")
    shop = reader.types(typed("xpc-instrument run -- gunicorn"))
    shop.read_until("Listening at: ")
    told = prints(reader.types("python buy.py")).splitlines()
    assert [line for line in told if line.startswith(("{", "HTTP"))] == [
        "{'paid': 900, 'receipt': 'r-1'}",
        "HTTP Error 500: INTERNAL SERVER ERROR",
    ]
    shop.signal(signal.SIGTERM)
    prints(shop)


def test_every_file_of_the_readme_is_tried_here() -> None:
    tried = {"xpc-instrument.toml", "probe.py", "observe.py", "buy.py", "greeter.py", "caller.py"}
    assert set(files(README)) == tried
    unnamed = [one.text for one in snippets(README) if one.language in ("python", "toml") and one.name not in tried]
    assert not unnamed


def test_the_commands_at_the_top_are_those_of_dev_py() -> None:
    named = re.findall(r"python3 dev\.py (\w+)", README.read_text())
    assert {"demo", "test"} <= set(named) <= set(dev.COMMANDS)


@pytest.mark.parametrize("number", range(3))
def test_the_configs_of_the_documentation_are_right(reader: Reader, number: int) -> None:
    shutil.copytree(SHOP, reader.folder, dirs_exist_ok=True)
    configs = [one.text for one in snippets(CONFIG) if one.language == "toml"]
    assert len(configs) == 3
    (reader.folder / "xpc-instrument.toml").write_text(configs[number])
    (reader.folder / "shop.key").write_text("a key\n")
    (reader.folder / "shop.key").chmod(0o600)
    if "authkey-file" in configs[number] and "tls-" in configs[number]:
        pytest.importorskip("cryptography", reason="cryptography is not installed")
        prints(reader.types("xpc-instrument certificates certs shop scripts"))
    assert "mistake" not in prints(reader.types("xpc-instrument check"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_and_headings_resolve(page: Path) -> None:
    for link in re.findall(r"\]\((?!http)([^)\s]+)\)", page.read_text()):
        path, _, heading = link.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), f"{page.name}: {link}"
        if heading:
            headings = re.findall(r"^#+ (.*)$", other.read_text(), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings], f"{page.name}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_that_the_pages_name_exist(page: Path) -> None:
    named = re.findall(r"`((?:xpc_instrument|agent|core|tests|benchmarks|docs|examples)/[\w./-]*)`", page.read_text())
    assert [path for path in named if not (ROOT / path).exists() and not (ROOT / "xpc_instrument" / path).exists()] == []


def test_examples_and_snippets_import_public_names_only() -> None:
    sources = [*files(README).values(), *files(CONFIG).values(), *(path.read_text() for path in (ROOT / "examples").rglob("*.py"))]
    imported = re.findall(r"^ *(?:from|import) (xpc_\w+[\w.]*)", "\n".join(sources), re.MULTILINE)
    assert set(imported) == {"xpc_instrument"}
