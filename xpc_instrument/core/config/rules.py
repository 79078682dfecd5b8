"""The rules of the config file: each reads one value and reports what is wrong with it, with the nearest valid one.

Rules:
- A `Reader` collects the mistakes of one document; a rule never raises, and what it returns for a mistake is thrown away with the rest.
- A mistake says what was seen and what was expected, at `FILE:LINE: KEY`.
- difflib is imported when it is needed, so that an application's start-up does not pay for it.
"""

from __future__ import annotations

import math
import os
import re
import sys
from typing import Any, Callable, Dict, FrozenSet, List, Mapping, Optional, Tuple, Union

from ..discovery.name import app_mistake, app_name
from ..model.limits import LARGEST_SIZE, LONGEST_WAIT, SOCKET_PATH_LIMIT, Bound, bounds
from ..model.pattern import PATTERN_FORM, pattern_mistake
from ..model.target import MODES, TARGET_FORM, Mode, target_mistake
from ..model.words import did_you_mean, nearest, quoted

# Of keys and, for items of arrays and arrays of tables, indexes: `("probe", 1, "allow", 0)`.
KeyPath = Tuple[Union[str, int], ...]


class Reader:
    """Collects the mistakes of one document; each rule below reads one value and reports to it what is wrong there."""

    def __init__(self, source: str, lines: Mapping[KeyPath, int], prefix: KeyPath, folder: str) -> None:
        self.source = source
        self.lines = lines
        self.prefix = prefix
        self.folder = folder
        self.mistakes: List[Tuple[int, str]] = []

    def line(self, where: KeyPath) -> Optional[int]:
        """The line of the key, or of the nearest table around it that has one."""
        return next((self.lines[where[:n]] for n in range(len(where), 0, -1) if where[:n] in self.lines), None)

    def report(self, where: KeyPath, problem: str) -> None:
        line = self.line(where)
        place = self.source if line is None else f"{self.source}:{line}"
        key = ".".join(quoted(part, bare=True) for part in where if isinstance(part, str)) or "the document"
        self.mistakes.append((line or 0, f"{place}: {key}: {problem}"))

    def wrong(self, where: KeyPath, value: object, expected: str, hint: Optional[str] = None) -> None:
        self.report(where, f"{_seen(value)}; expected {expected}{did_you_mean(hint)}")

    def table(self, where: KeyPath, value: object, rules: Mapping[str, _Rule]) -> Dict[str, Any]:
        """The values of a table by field name, each read by its rule; a key without a rule is a mistake."""
        found: Dict[str, Any] = {}
        if not isinstance(value, dict):
            self.wrong(where, value, "a table")
            return found
        for key, item in value.items():
            rule = rules.get(key)
            if rule is not None:
                found[key.replace("-", "_")] = rule(self, (*where, key), item)
                continue
            homes = [name for name, table in TABLES.items() if key in table and table is not rules]
            hint = None if homes else nearest(key.lower(), rules)
            expected = f"in {' or '.join(homes)}, not here" if homes else f"one of {', '.join(sorted(rules))}"
            self.report((*where, key), f"unknown key; expected {expected}{did_you_mean(hint)}")
        return found

    def strings(self, where: KeyPath, value: object, expected: str) -> List[Tuple[KeyPath, str]]:
        """The items of an array of strings, each with its place; others are mistakes."""
        if not isinstance(value, list):
            hint = f"[{quoted(value)}]" if isinstance(value, str) else None
            self.wrong(where, value, f"an array of {expected}", hint)
            return []
        for index, item in enumerate(value):
            if not isinstance(item, str):
                self.wrong((*where, index), item, f"only {expected} in the array")
        return [((*where, index), item) for index, item in enumerate(value) if isinstance(item, str)]


_Rule = Callable[[Reader, KeyPath, Any], Any]


def _app(reader: Reader, where: KeyPath, value: object) -> object:
    if not isinstance(value, str):
        reader.wrong(where, value, "a name")
    elif app_mistake(value):
        reader.report(where, f"{_seen(value)}: {app_mistake(value)}{did_you_mean(quoted(app_name(value)))}")
    return value


def _path(reader: Reader, where: KeyPath, value: object) -> Optional[str]:
    if not isinstance(value, str) or not value or "\0" in value:
        reader.wrong(where, value, "the path of a file")
        return None
    return _absolute(reader, where, value)


def _absolute(reader: Reader, where: KeyPath, path: str) -> Optional[str]:
    try:
        absolute = os.path.abspath(os.path.join(reader.folder, os.path.expanduser(path)))
        os.fsencode(absolute)
    except UnicodeEncodeError:
        encoding = sys.getfilesystemencoding()
        reader.wrong(where, path, f"a path in the file system's encoding, {encoding}")
        return None
    return absolute


def _address(reader: Reader, where: KeyPath, value: object) -> object:
    expected = '"unix", "unix:PATH" or "tcp:HOST:PORT"'
    if not isinstance(value, str) or "\0" in value:
        reader.wrong(where, value, expected)
    elif value.startswith("unix:") and value != "unix:":
        path = _absolute(reader, where, value[len("unix:") :])
        if path is None:
            return value
        length = len(os.fsencode(path))
        if length > SOCKET_PATH_LIMIT:
            limit = f"at most {SOCKET_PATH_LIMIT}, the limit of unix sockets: choose a path such as one in /run or /tmp"
            reader.report(where, f"{quoted(str(path))} has {length} bytes; expected {limit}")
        return f"unix:{path}"
    elif value != "unix" and not _is_tcp(value):
        candidates = [f"tcp:{value}", value.replace("://", ":")] if ":" in value else []
        host, _, port = value[len("tcp:") :].rpartition(":")
        candidates += [f"tcp:[{host}]:{port}"] if value.startswith("tcp:") else []
        hint = next((c for c in candidates if _is_tcp(c)), None)
        if hint is None:
            hint = f"unix:{value}" if value.startswith(("/", "./", "~/")) else nearest(value, ["unix"])
        expected += " (a port is 1 to 65535, an IPv6 host is in brackets)"
        reader.wrong(where, value, expected, hint and quoted(hint))
    return value


def _is_tcp(address: str) -> bool:
    match = re.fullmatch(r"tcp:(\[[0-9A-Za-z:.%_-]*:[0-9A-Za-z:.%_-]*\]|[^\[\]:/\s]+):([0-9]{1,5})", address)
    return match is not None and address.isprintable() and 1 <= int(match[2]) <= 65535


def _flag(reader: Reader, where: KeyPath, value: object) -> object:
    if not isinstance(value, bool):
        hint = value.lower() if isinstance(value, str) and value.lower() in {"true", "false"} else None
        reader.wrong(where, value, "true or false", hint)
    return value


def _seconds_within(above: float, most: float, why: str = "") -> _Rule:
    expected = f"a number of seconds, more than {above:g} and at most {most:g}{why and '; ' + why}"

    def rule(reader: Reader, where: KeyPath, value: object) -> object:
        # An int is compared as an int: converting a long one to float overflows.
        if isinstance(value, (int, float)) and not isinstance(value, bool) and above < value <= most:
            return float(value)
        reader.wrong(where, value, expected)
        return value

    return rule


_seconds = _seconds_within(0.0, LONGEST_WAIT)


def _count(largest: int, smallest: int = 1) -> _Rule:
    def rule(reader: Reader, where: KeyPath, value: object) -> object:
        if not isinstance(value, int) or isinstance(value, bool) or not smallest <= value <= largest:
            reader.wrong(where, value, f"a whole number from {smallest} to {largest}")
        return value

    return rule


_UNITS = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def _size(reader: Reader, where: KeyPath, value: object) -> object:
    size: object = value
    hint = None
    if isinstance(value, str):
        match = re.fullmatch(r"([0-9]{1,12}) ?([A-Za-z]*)", value)
        size = None
        if match is not None and match[2] in _UNITS:
            size = int(match[1]) * _UNITS[match[2]]
        elif match is not None:
            unit = next((u for u in _UNITS if u.lower() == match[2].lower()), None) or nearest(match[2], _UNITS) or "B"
            hint = f'"{match[1]} {unit}"'
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= LARGEST_SIZE:
        reader.wrong(where, value, f'a number of bytes up to {LARGEST_SIZE}, or a size such as "64 MiB"', hint)
    return size


def _choice(*choices: str) -> _Rule:
    def rule(reader: Reader, where: KeyPath, value: object) -> object:
        if not isinstance(value, str) or value not in choices:
            hint = nearest(value.lower(), choices) if isinstance(value, str) else None
            reader.wrong(where, value, " or ".join(f'"{choice}"' for choice in choices), hint and quoted(hint))
        return value

    return rule


def _allow(reader: Reader, where: KeyPath, value: object) -> FrozenSet[Mode]:
    expected = f"the modes {', '.join(MODES)}"
    items = reader.strings(where, value, expected)
    for place, item in items:
        if item not in MODES:
            hint = nearest(item.lower(), MODES)
            reader.wrong(place, item, f"one of {expected}", hint and quoted(hint))
    if value == []:
        reader.report(where, f"an empty array allows no hook; expected at least one of {expected}, or no such probe")
    return frozenset(MODES[item] for _, item in items if item in MODES)


def _exclude(reader: Reader, where: KeyPath, value: object) -> Tuple[str, ...]:
    items = reader.strings(where, value, 'globs of targets such as "*._*"')
    for place, item in items:
        if not item or not item.isprintable() or " " in item:
            reader.wrong(place, item, "a glob without white space")
    return tuple(item for _, item in items)


def _names(reader: Reader, where: KeyPath, value: object) -> Tuple[str, ...]:
    items = reader.strings(where, value, 'names such as "account-number"')
    for place, item in items:
        if not item or not item.isprintable() or " " in item:
            reader.wrong(place, item, "a name without white space")
    return tuple(item for _, item in items)


def _on_demand(reader: Reader, where: KeyPath, value: object) -> Tuple[str, ...]:
    items = reader.strings(where, value, f"patterns such as {PATTERN_FORM}")
    for place, item in items:
        wrong = pattern_mistake(item)
        if wrong:
            reader.report(place, f"{_seen(item)}: {wrong}")
    return tuple(item for _, item in items)


def _target(reader: Reader, where: KeyPath, value: object) -> object:
    if not isinstance(value, str):
        reader.wrong(where, value, f"a target {TARGET_FORM}")
    else:
        wrong = target_mistake(value)
        if wrong:
            reader.report(where, f"{_seen(value)}: {wrong}")
    return value


def _probes(reader: Reader, where: KeyPath, value: object) -> List[Dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        reader.wrong(where, value, "[[probe]] tables, in double brackets")
        return []
    found = []
    places: Dict[str, KeyPath] = {}
    for index, item in enumerate(value):
        place = (*where, index)
        found.append(reader.table(place, item, _PROBE))
        target = item.get("target")
        if "target" not in item:
            reader.report(place, f"there is no target in this probe; expected target = {TARGET_FORM}")
        elif isinstance(target, str) and places.setdefault(target, place) != place:
            line = reader.line((*places[target], "target"))
            first = "another probe" if line is None else f"the probe in line {line}"
            problem = f"{_seen(target)} is the target of {first} already; expected each target once"
            reader.report((*place, "target"), problem)
    return found


def _subtable(name: str) -> _Rule:
    return lambda reader, where, value: reader.table(where, value, TABLES[name])


def _limit(bound: Bound) -> _Rule:
    """The rule of a limit, by its kind."""
    if bound.kind == "seconds":
        return _seconds_within(bound.above, bound.most, bound.why)
    return {"size": _size, "flag": _flag, "count": _count(int(bound.most))}[bound.kind]


_SETTINGS: Dict[str, _Rule] = {
    "exclude": _exclude,
    "allow": _allow,
    "timeout": _seconds,
    "max-timeout": _seconds,
    "on-failure": _choice("original", "raise"),
    "patcher": _choice("auto", "inside", "code", "wrapt"),
    "suspend-after": _count(1_000_000, smallest=0),
    "suspend-for": _seconds,
    "suspend-at-most": _seconds,
    "expressions": _choice("off", "observe", "trusted"),
}
_PROBE: Dict[str, _Rule] = {"target": _target, **_SETTINGS}
TABLES: Dict[str, Dict[str, _Rule]] = {
    "the top of the file": {
        "app": _app,
        "manager": _subtable("[manager]"),
        "limits": _subtable("[limits]"),
        "redact": _subtable("[redact]"),
        "defaults": _subtable("[defaults]"),
        "probe": _probes,
        "on-demand": _on_demand,
    },
    "[manager]": {
        "address": _address,
        "authkey-file": _path,
        "tls-certificate": _path,
        "tls-key": _path,
        "tls-ca": _path,
        "plaintext-beyond-loopback": _flag,
    },
    "[limits]": {key: _limit(bound) for key, bound in bounds().items()},
    "[redact]": {"names": _names, "types": _names},
    "[defaults]": _SETTINGS,
    "[[probe]]": _PROBE,
}


def _seen(value: object) -> str:
    """A value of a TOML file in a message: its type and, shortened, what was written."""
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, int):
        # Python refuses to print integers of more than 4300 digits, which a file can hold in hexadecimal.
        return f"the integer {value}" if value.bit_length() <= 128 else f"an integer of {value.bit_length()} bits"
    if isinstance(value, float):
        return f"the number {value}" if math.isfinite(value) else f"{value}, which is no finite number"
    if isinstance(value, str):
        return f"the string {quoted(value)}" if value else "an empty string"
    if isinstance(value, list):
        return f"an array of {len(value)}" if value else "an empty array"
    return "a table" if isinstance(value, dict) else "nothing" if value is None else "a date or time"
