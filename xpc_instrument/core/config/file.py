"""The config file: `xpc-instrument.toml`, or the table `[tool.xpc-instrument]` of a pyproject.toml.

Text becomes one `Config` or one `ConfigError`, nothing else. The error has a line for every mistake:
`FILE:LINE: KEY: what was seen; what was expected; did you mean X?`
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any, Iterable, Optional, Sequence, Union

from ..discovery.name import app_mistake, app_name
from ..model.errors import ConfigError
from ..model.pattern import pattern_mistake
from ..model.record import replace
from ..model.target import target_mistake
from ..model.words import quoted
from .document import FILE_LIMIT, read_document
from .lines import key_lines, parser
from .rules import Reader
from .schema import Config
from .secret import open_at_once

FILE_NAME = "xpc-instrument.toml"
PYPROJECT_TABLE = ("tool", "xpc-instrument")


def load(path: Union[str, os.PathLike[str]]) -> Config:
    """The config in the file at `path`; of a pyproject.toml, its table `[tool.xpc-instrument]`.

    ConfigError if the file cannot be read, is no UTF-8, no TOML, or holds any mistake.
    """
    try:
        absolute = Path(os.path.abspath(path))
        with open(absolute, "rb", opener=open_at_once) as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                # A pipe of the shell's, such as `--config <(COMMAND)`: now that it is open, it ends if nobody writes.
                os.set_blocking(file.fileno(), True)
            data = file.read(FILE_LIMIT + 1)
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a directory; expected a file such as {os.path.join(path, FILE_NAME)}") from None
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; expected an existing {FILE_NAME} or pyproject.toml") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); expected a file that this user can read") from error
    if not data and stat.S_ISFIFO(mode):
        raise ConfigError(f"{path}: is a pipe that nobody writes to; expected a config file")
    if len(data) > FILE_LIMIT:
        raise ConfigError(f"{path}: is larger than {FILE_LIMIT >> 20} MiB; expected a config file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: byte 0x{data[error.start]:02x} is no UTF-8; expected TOML, which is always UTF-8") from None
    return parse(text, absolute, PYPROJECT_TABLE if absolute.name == "pyproject.toml" else ())


def find(start: Path) -> Optional[Path]:
    """The nearest config file in `start` (a folder, or a file in it) or above; None if there is none.

    That is an `xpc-instrument.toml`, or a pyproject.toml with the table `[tool.xpc-instrument]`. A broken pyproject.toml
    counts if it seems to have the table, so that `load` can say what is wrong with it.
    """
    absolute = Path(os.path.abspath(start))
    for folder in (absolute, *absolute.parents):
        if os.path.isfile(folder / FILE_NAME):
            return folder / FILE_NAME
        if os.path.isfile(folder / "pyproject.toml") and _has_table(folder / "pyproject.toml"):
            return folder / "pyproject.toml"
    return None


def _has_table(pyproject: Path) -> bool:
    try:
        text = pyproject.read_bytes().decode("utf-8", "replace")
    except OSError:  # somebody else's file on the way up; whether it concerns us cannot be known
        return False
    if "xpc-instrument" not in text:  # spares parsing the many that have nothing to do with us
        return False
    toml = parser(str(pyproject))
    try:
        tool = toml.loads(text.lstrip("\ufeff")).get(PYPROJECT_TABLE[0])
    except (ValueError, RecursionError):
        return re.search(r"""tool["']?\s*\.\s*["']?xpc-instrument""", text) is not None
    return isinstance(tool, dict) and PYPROJECT_TABLE[1] in tool


def parse(text: str, path: Optional[Path] = None, prefix: Sequence[str] = ()) -> Config:
    """The config in TOML `text`, in its table `prefix`; relative paths start at the folder of `path`, or this one.

    ConfigError, with all mistakes at once, for everything that is not a valid config.
    """
    source = "<config>" if path is None else _displayed(path)
    toml = parser(source)
    try:
        document: Any = toml.loads(text)
    except RecursionError:
        raise ConfigError(f"{source}: arrays or tables are nested too deeply; expected a config file") from None
    except ValueError as error:
        place = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", str(error), re.DOTALL)
        if place is not None:
            what = f"{source}:{place[2]}: column {place[3]}: {place[1]}"
        elif str(error).endswith("(at end of document)"):
            what = f"{source}:{text.count(chr(10)) + 1}: {error}"
        else:  # such as a number with more digits than Python converts, which carries no place
            what = f"{source}: {error}"
        raise ConfigError(f"{what}; expected valid TOML") from None
    for depth, name in enumerate(prefix):
        if not isinstance(document, dict) or name not in document:
            missing = ".".join(prefix[: depth + 1])
            raise ConfigError(f"{source}: there is no table [{missing}]; expected [{'.'.join(prefix)}]")
        document = document[name]
    try:
        absolute = None if path is None else Path(os.path.abspath(path))
        folder = Path(os.getcwd()) if absolute is None else absolute.parent
    except OSError as error:
        remedy = "expected a folder that exists, where relative paths start"
        raise ConfigError(f"{source}: the current folder is gone ({error.strerror}); {remedy}") from None
    file = None if absolute is None else str(absolute)
    return read_document(Reader(source, key_lines(text), tuple(prefix), str(folder)), document, file)


def from_probes(app: str, targets: Iterable[str]) -> Config:
    """A config without a file: the defaults, and a probe for each of `targets`; what `--probe TARGET` means."""
    return with_probes(with_app(Config(app), app), targets)


def with_probes(config: Config, targets: Iterable[str]) -> Config:
    """`config` with a probe, made of its defaults, for each of `targets` that is not yet in it."""
    targets = tuple(targets)
    mistakes = [f"--probe {quoted(t)}: {wrong}" for t, wrong in ((t, target_mistake(t)) for t in targets) if wrong]
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    probes = {probe.target: probe for probe in config.probes}
    for target in targets:
        probes.setdefault(target, config.defaults.probe(target))
    return replace(config, probes=tuple(probes.values()))


def with_on_demand(config: Config, patterns: Iterable[str]) -> Config:
    """`config` with these patterns of functions that may be hooked on demand too; what `--on-demand PATTERN` means."""
    patterns = tuple(patterns)
    mistakes = [f"--on-demand {quoted(text)}: {wrong}" for text, wrong in ((text, pattern_mistake(text)) for text in patterns) if wrong]
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return replace(config, on_demand=tuple(dict.fromkeys((*config.on_demand, *patterns))))


def with_app(config: Config, app: str) -> Config:
    """`config` under another app name; what `--app NAME` means."""
    wrong = app_mistake(app)
    if wrong:
        raise ConfigError(f"--app {quoted(app)}: {wrong}")
    return replace(config, app=app)


def default_app(folder: Path) -> str:
    """The app name that is made of a folder's name: what cannot be in an app name becomes `-`."""
    return app_name(folder.name)


def _displayed(path: Path) -> str:
    """`path` as a message shows it: relative where that is shorter, so that terminals and editors can open it."""
    try:
        relative = os.path.relpath(path)
    except (OSError, ValueError):  # the current folder is gone, or on another drive
        return str(path)
    return min(relative, str(path), key=len)
