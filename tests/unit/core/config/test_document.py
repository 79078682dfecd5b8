"""A document becomes one valid Config or one ConfigError that tells every mistake, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xpc_instrument.core.config import file as module
from xpc_instrument.core.config.file import from_probes, parse
from xpc_instrument.core.config.packed import pack, unpack
from xpc_instrument.core.config.rules import TABLES
from xpc_instrument.core.config.schema import Config, Limits, ManagerConfig, ProbeConfig
from xpc_instrument.core.discovery.name import app_name
from xpc_instrument.core.model.errors import ConfigError
from xpc_instrument.core.model.target import Mode


def mistakes(text: str, **options: Any) -> List[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, **options)
    return str(caught.value).split("\n")


# what a right file means --------------------------------------------------------------------------------------------------


def test_an_empty_file_is_a_config_with_every_default(tmp_path: Path) -> None:
    config = parse("", tmp_path / "xpc-instrument.toml")
    assert config == Config(app=app_name(tmp_path.name), path=str(tmp_path / "xpc-instrument.toml"))
    assert (config.manager.address, config.manager.endpoint, config.manager.read_authkey()) == ("unix", None, None)
    assert config.probes == ()


def test_a_probe_has_the_defaults_that_it_does_not_set_itself(tmp_path: Path) -> None:
    config = parse(
        """
        app = "shop"
        [manager]
        address = "tcp:[::1]:5000"
        authkey-file = "keys/../shop.key"
        [limits]
        max-payload = "2 MiB"
        handshake-timeout = 3
        heartbeat = 2
        silence = 12
        max-backlog = "1 MiB"
        hot-lanes = false
        hot-spin = 0.0001
        [defaults]
        suspend-for = 4
        allow = ["before", "after"]
        timeout = 2
        max-timeout = 10
        exclude = ["*._*"]
        [[probe]]
        target = "shop.*:Gateway.*"
        [[probe]]
        target = "shop:charge"
        timeout = 0.5
        max-timeout = 20
        suspend-after = 0
        suspend-at-most = 9.5
        on-failure = "raise"
        patcher = "wrapt"
        expressions = "trusted"
        exclude = []
        allow = ["instead"]
        """,
        tmp_path / "xpc-instrument.toml",
    )
    assert config.manager == ManagerConfig("tcp:[::1]:5000", str(tmp_path / "shop.key"))
    assert config.manager.endpoint == ("::1", 5000)
    assert config.limits == Limits(
        max_payload=2 << 20,
        handshake_timeout=3.0,
        heartbeat=2.0,
        silence=12.0,
        max_backlog=1 << 20,
        hot_lanes=False,
        hot_spin=0.0001,
    )
    assert config.probes == (
        ProbeConfig(
            target="shop.*:Gateway.*",
            exclude=("*._*",),
            allow=frozenset({Mode.BEFORE, Mode.AFTER}),
            timeout=2.0,
            max_timeout=10.0,
            suspend_for=4.0,
        ),
        ProbeConfig((), frozenset({Mode.INSTEAD}), 0.5, 20.0, "raise", "wrapt", 0, 4.0, 9.5, "trusted", "shop:charge"),
    )
    assert config.defaults.timeout == 2.0


@pytest.mark.parametrize(
    ("address", "stored", "endpoint"),
    [
        ("unix", "unix", None),
        ("unix:/run/shop.sock", "unix:/run/shop.sock", "/run/shop.sock"),
        ("unix:a/../shop.sock", "unix:/srv/shop.sock", "/srv/shop.sock"),
        ("tcp:localhost:80", "tcp:localhost:80", ("localhost", 80)),
    ],
)
def test_where_the_manager_listens(address: str, stored: str, endpoint: Any) -> None:
    config = parse(f'manager = {{address = "{address}", authkey-file = "k"}}', Path("/srv/xpc-instrument.toml"))
    assert (config.manager.address, config.manager.endpoint) == (stored, endpoint)
    assert config.manager.authkey_file == "/srv/k"


@pytest.mark.parametrize(("size", "expected"), [("1", 1), ('"1 B"', 1), ('"3kB"', 3000), ('"64 MiB"', 64 << 20), ('"1 GiB"', 1 << 30)])
def test_a_size_is_a_number_or_has_a_unit(size: str, expected: int) -> None:
    assert parse(f"[limits]\nmax-payload = {size}").limits.max_payload == expected


# what a wrong file is answered with ---------------------------------------------------------------------------------------

EVERY_KEY: List[Tuple[str, str]] = [(table, key) for table, rules in TABLES.items() for key in rules]
HEADERS = {"the top of the file": "", "[manager]": "[manager]", "[limits]": "[limits]", "[redact]": "[redact]", "[defaults]": "[defaults]"}


def document(table: str, line: str) -> Tuple[str, int, str]:
    """(a document with one more `line` in `table`, the number of that line, the key of the table with a dot)."""
    if table == "[[probe]]":
        return f'app = "shop"\n[[probe]]\ntarget = "shop:other"\n{line}\n', 4, "probe."
    header = HEADERS[table]
    return f"# a comment\n{header}\n{line}\n", 3, header.strip("[]") + "." if header else ""


WRONG_TYPES = {
    "1979-05-27 07:32:00": "a date or time",
    "true": "the boolean true",
    "nan": "nan, which is no finite number",
    "-7": "the integer -7",
    "0x" + "f" * 5000: "an integer of 20000 bits",
}


@pytest.mark.parametrize(("table", "key"), [place for place in EVERY_KEY if place != ("[[probe]]", "target")])
@pytest.mark.parametrize("value", WRONG_TYPES, ids=lambda value: value[:10])
def test_a_wrong_type_is_told_with_file_line_key_and_what_was_expected(table: str, key: str, value: str) -> None:
    if key in ("plaintext-beyond-loopback", "hot-lanes") and value == "true":
        return  # the keys that take a boolean
    text, line, prefix = document(table, f"{key} = {value}")
    found = mistakes(text, path=Path("/srv/x.toml"))
    assert len(found) == 1
    assert re.fullmatch(rf".*/?srv/x\.toml:{line}: {re.escape(prefix + key)}: {re.escape(WRONG_TYPES[value])}; expected .+", found[0])


@pytest.mark.parametrize(("table", "key"), EVERY_KEY)
def test_a_misspelled_key_is_told_with_the_nearest_of_its_table(table: str, key: str) -> None:
    for wrong in (key[:-1] + "x" if len(key) > 3 else key + "x", key.upper(), key.replace("-", "_")):
        if wrong == key:
            continue
        text, line, prefix = document(table, f"{wrong} = 1")
        found = mistakes(text)
        assert len(found) == 1
        assert found[0].startswith(f"<config>:{line}: {prefix}{wrong}: unknown key; expected one of ")
        assert found[0].endswith(f"did you mean {key}?")


@pytest.mark.parametrize(
    ("table", "key", "home"), [(table, key, home) for table, key in EVERY_KEY for home, rules in TABLES.items() if key not in rules]
)
def test_a_key_in_the_wrong_table_is_told_its_home(table: str, key: str, home: str) -> None:
    text, line, prefix = document(home, f"{key} = 1")
    (found,) = mistakes(text)
    assert found.startswith(f"<config>:{line}: {prefix}{key}: unknown key; expected in ")
    assert table in found
    assert found.endswith(", not here")


WRONG_VALUES = [
    ("the top of the file", 'app = "my shop"', "app", 'is no app name.*did you mean "my-shop"'),
    ("the top of the file", 'app = "4711"', "app", 'would be taken for a pid; did you mean "app-4711"'),
    ("the top of the file", 'app = ""', "app", "an empty string: is no app name"),
    ("the top of the file", "manager = 1", "manager", "the integer 1; expected a table"),
    ("the top of the file", 'probe = "shop:charge"', "probe", r"expected \[\[probe\]\] tables, in double brackets"),
    ("the top of the file", "[probe]", "probe", r"a table; expected \[\[probe\]\] tables"),
    ("the top of the file", "[[probe]]", "probe", "there is no target in this probe"),
    ("[manager]", 'address = "unx"', "manager.address", 'did you mean "unix"'),
    ("[manager]", 'address = "unix:"', "manager.address", "expected"),
    ("[manager]", 'address = "/run/shop.sock"', "manager.address", 'did you mean "unix:/run/shop.sock"'),
    ("[manager]", f'address = "unix:/{"x" * 200}"', "manager.address", "has 201 bytes; expected at most 10[37], the limit of unix sockets"),
    ("[manager]", 'address = "localhost:80"', "manager.address", 'did you mean "tcp:localhost:80"'),
    ("[manager]", 'address = "tcp:localhost:80"', "manager.address", "a tcp address without a key; expected authkey-file"),
    ("[manager]", 'plaintext-beyond-loopback = "True"', "manager.plaintext-beyond-loopback", "expected true or false; did you mean true"),
    ("[manager]", 'authkey-file = ""', "manager.authkey-file", "an empty string; expected the path of a file"),
    ("[manager]", 'authkey-file = "a\\u0000b"', "manager.authkey-file", "expected the path of a file"),
    ("[limits]", 'max-payload = "64 MIB"', "limits.max-payload", 'did you mean "64 MiB"'),
    ("[limits]", 'max-payload = "64"', "limits.max-payload", 'did you mean "64 B"'),
    ("[limits]", 'max-payload = "2 GiB"', "limits.max-payload", "expected a number of bytes up to 1073741824"),
    ("[limits]", 'max-payload = "0 B"', "limits.max-payload", "expected a number of bytes up to"),
    ("[limits]", "max-lanes = 0", "limits.max-lanes", "expected a whole number from 1 to 1000"),
    ("[limits]", "heartbeat = 0", "limits.heartbeat", "expected a number of seconds, more than 0"),
    ("[defaults]", "suspend-for = 61", "defaults.suspend-for", "suspend-for is 61 and suspend-at-most 60; expected a first pause"),
    ("[defaults]", "suspend-at-most = 0.5", "defaults.suspend-at-most", "suspend-for is 1 and suspend-at-most 0.5"),
    ("[limits]", "heartbeat = 30", "limits.heartbeat", "heartbeat is 30 and silence 30; expected a heartbeat below silence"),
    ("[limits]", "heartbeat = 9\nsilence = 8", "limits.heartbeat", "heartbeat is 9 and silence 8"),
    (
        "[limits]",
        "silence = 5",
        "limits.silence",
        "the integer 5; expected a number of seconds, more than 5 and at most 86400; a probe script says that often",
    ),
    ("[limits]", 'max-backlog = "4 MIB"', "limits.max-backlog", 'did you mean "4 MiB"'),
    ("[limits]", "hot-lanes = 1", "limits.hot-lanes", "the integer 1; expected true or false"),
    ("[limits]", "hot-lane = false", "limits.hot-lane", "did you mean hot-lanes"),
    (
        "[limits]",
        "hot-spin = 0",
        "limits.hot-spin",
        "expected a number of seconds, more than 0 and at most 0.001; hot-lanes = false is for",
    ),
    ("[limits]", "hot-spin = 0.01", "limits.hot-spin", "more than 0 and at most 0.001"),
    ("[limits]", "hot-spin = true", "limits.hot-spin", "the boolean true; expected a number of seconds"),
    ("[limits]", "hot-spin = nan", "limits.hot-spin", "expected a number of seconds, more than 0 and at most 0.001"),
    ("[defaults]", "suspend-after = -1", "defaults.suspend-after", "expected a whole number from 0 to 1000000"),
    ("[defaults]", "suspend-after = true", "defaults.suspend-after", "the boolean true; expected a whole number"),
    ("[defaults]", "suspend-for = 0", "defaults.suspend-for", "expected a number of seconds, more than 0"),
    ("[defaults]", 'suspend-at-most = "1 min"', "defaults.suspend-at-most", "expected a number of seconds"),
    ("[limits]", "suspend-after = 3", "limits.suspend-after", "unknown key; expected in "),
    ("[limits]", "max-nesting = 201", "limits.max-nesting", "expected a whole number from 1 to 200"),
    ("[limits]", "handshake-timeout = 0.0", "limits.handshake-timeout", "the number 0.0; expected a number of seconds, more than 0"),
    ("[defaults]", "timeout = inf", "defaults.timeout", "inf, which is no finite number"),
    ("[defaults]", "timeout = 86401", "defaults.timeout", "at most 86400"),
    ("[defaults]", 'on-failure = "Raise"', "defaults.on-failure", 'did you mean "raise"'),
    ("[defaults]", 'allow = "before"', "defaults.allow", r'expected an array of .*did you mean \["before"\]'),
    ("[defaults]", 'allow = ["befor"]', "defaults.allow", 'did you mean "before"'),
    ("[defaults]", 'allow = ["before", 1]', "defaults.allow", "the integer 1; expected only the modes"),
    ("[defaults]", "allow = []", "defaults.allow", "an empty array allows no hook"),
    ("[[probe]]", 'patcher = "cod"', "probe.patcher", 'did you mean "code"'),
    ("[[probe]]", 'exclude = ["a b"]', "probe.exclude", "expected a glob without white space"),
    ("[[probe]]", 'exclude = [""]', "probe.exclude", "expected a glob without white space"),
]


@pytest.mark.parametrize(("table", "line", "key", "problem"), WRONG_VALUES)
def test_a_wrong_value_is_told_with_the_nearest_right_one(table: str, line: str, key: str, problem: str) -> None:
    text, number, _ = document(table, line)
    (found,) = mistakes(text)
    assert re.match(rf"<config>:{number}: {re.escape(key)}: ", found)
    assert re.search(problem, found)


THREE = 'tls-certificate = "c.pem"\ntls-key = "k.pem"\ntls-ca = "ca.pem"'


def test_tls_is_three_files_beside_the_config() -> None:
    manager = parse(f'[manager]\naddress = "tcp:0.0.0.0:80"\nauthkey-file = "k"\n{THREE}', Path("/srv/xpc-instrument.toml")).manager
    assert (manager.tls_certificate, manager.tls_key, manager.tls_ca) == ("/srv/c.pem", "/srv/k.pem", "/srv/ca.pem")
    assert not manager.plaintext_beyond_loopback


@pytest.mark.parametrize("missing", ["tls-certificate", "tls-key", "tls-ca"])
def test_two_of_the_three_files_of_tls_are_refused(missing: str) -> None:
    two = "\n".join(line for line in THREE.splitlines() if not line.startswith(missing))
    (found,) = mistakes(f'[manager]\naddress = "tcp:localhost:80"\nauthkey-file = "k"\n{two}')
    assert f"{missing} is missing; expected all three of tls-certificate, tls-key, tls-ca, or none of them" in found


def test_tls_on_a_unix_socket_is_refused() -> None:
    found = mistakes(f"[manager]\n{THREE}")
    assert found == [
        '<config>:2: manager.tls-certificate: TLS for the address "unix"; expected it with a tcp address only: '
        "a unix socket is private by its mode"
    ]


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "[::]", "[2001:db8::1]", "[::ffff:192.0.2.7]", "128.0.0.1"])
def test_tcp_beyond_loopback_needs_tls_or_the_word_that_it_does_not(host: str) -> None:
    document = f'[manager]\naddress = "tcp:{host}:80"\nauthkey-file = "k"\n'
    (found,) = mistakes(document)
    assert f'manager.address: "tcp:{host}:80" is beyond loopback' in found
    assert found.endswith("or plaintext-beyond-loopback = true")
    assert mistakes(document + "plaintext-beyond-loopback = false") != []
    assert parse(document + "plaintext-beyond-loopback = true").manager.plaintext_beyond_loopback
    assert parse(document + THREE).manager.tls_ca is not None


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.255.0.3", "[::1]", "[::ffff:127.0.0.1]", "a.name.to.resolve.later"])
def test_tcp_on_loopback_needs_none_and_a_name_is_resolved_when_it_is_used(host: str) -> None:
    assert parse(f'[manager]\naddress = "tcp:{host}:80"\nauthkey-file = "k"\n').manager.tls_ca is None


@pytest.mark.parametrize(
    ("address", "hint"),
    [
        ("tcp:::1:80", "tcp:[::1]:80"),
        ("tcp://localhost:80", "tcp:localhost:80"),
        ("tcp:localhost", None),
        ("tcp:localhost:0", None),
        ("tcp:localhost:65536", None),
        ("tcp:a b:80", None),
        ("tcp::80", None),
    ],
)
def test_a_wrong_tcp_address_is_told_the_nearest_right_one(address: str, hint: Any) -> None:
    (found,) = mistakes(f'[manager]\naddress = "{address}"\nauthkey-file = "k"')
    assert "a port is 1 to 65535, an IPv6 host is in brackets" in found
    assert found.endswith(f'did you mean "{hint}"?') if hint else "did you mean" not in found


@pytest.mark.parametrize(
    ("target", "problem", "hint"),
    [
        ("shop.checkout.charge", "there is no ':'", "shop.checkout:charge"),
        ("shop.gateway.Gateway.post", "there is no ':'", "shop.gateway:Gateway.post"),
        ("shop/checkout.py:charge", "'\"shop/checkout\" is no identifier'", "shop.checkout:charge"),
        ("before:shop:charge", "a mode stands in front", "shop:charge"),
        ("shop :charge", "there is white space", "shop:charge"),
        ("shop:a:b", "there are several ':'", None),
        ("shop:", "the name is missing", None),
        (":charge", "the module is missing", None),
        ("*:charge", "a glob in the first part of the module is too wide", None),
        ("shop..a:b", "there is an empty part next to a '.'", None),
        ("shop:f.<locals>.g", "functions inside of functions", None),
        ("shop:1a", '"1a" is no identifier', None),
        ("", "there is no ':'", None),
    ],
)
def test_a_wrong_target_is_told_the_nearest_right_one(target: str, problem: str, hint: Any) -> None:
    (found,) = mistakes(f"[[probe]]\ntarget = '{target}'")
    assert found.startswith("<config>:2: probe.target: ")
    assert problem.strip("'") in found
    assert found.endswith(f'did you mean "{hint}"?') if hint else "did you mean" not in found
    with pytest.raises(ConfigError, match=r'^--probe "'):
        from_probes("shop", [target])


def test_a_target_twice_is_told_where_the_other_one_is() -> None:
    text = '[[probe]]\ntimeout = 1\ntarget = "shop:charge"\n\n[[probe]]\ntarget = "shop:charge"\n'
    (found,) = mistakes(text)
    expected = 'the string "shop:charge" is the target of the probe in line 3 already; expected each target once'
    assert found == f"<config>:6: probe.target: {expected}"


def test_all_mistakes_are_told_at_once_in_the_order_of_their_lines() -> None:
    found = mistakes('[[probe]]\ntarget = 1\n[defaults]\ntimeout = 0\nallow = [\n  "before",\n  "now",\n]\n[manager]\nadress = 1\n')
    assert [line.split(": ")[:2] for line in found] == [
        ["<config>:2", "probe.target"],
        ["<config>:4", "defaults.timeout"],
        ["<config>:7", "defaults.allow"],
        ["<config>:10", "manager.adress"],
    ]


def test_a_mistake_is_told_on_one_line_whatever_is_in_the_text() -> None:
    (found,) = mistakes('"a\\nb\\u001b" = 1')
    assert '"a\\nb\\u001b": unknown key' in found
    (found,) = mistakes(f'app = "{"-" * 1000}"')
    assert len(found) < 600


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a = 1\nb = = 2\n", "<config>:2: column 5: "),
        ("a = [\n1,\n", "<config>:3: "),
        ("a = 1\na = 2", "<config>:2: "),
        ("a =", "<config>:1: "),
    ],
)
def test_text_that_is_no_toml_is_told_with_its_line(text: str, place: str) -> None:
    (found,) = mistakes(text)
    assert found.startswith(place)
    assert found.endswith("; expected valid TOML")


@pytest.mark.parametrize("text", ["a = " + "[" * 50_000, f"a = {'9' * 5000}"])
def test_toml_that_the_parser_gives_up_on_is_a_config_error(text: str) -> None:
    (found,) = mistakes(text)
    assert found.startswith("<config>")


def test_a_path_that_the_file_system_cannot_spell_is_a_mistake() -> None:
    for line in ('address = "unix:/\ud800"', 'authkey-file = "\ud800"', 'authkey-file = "~\ud800/key"'):
        (found,) = mistakes(f"[manager]\n{line}")
        assert "expected a path in the file system's encoding, utf-8" in found
    with pytest.raises(ConfigError, match="cannot be read"):
        ManagerConfig(authkey_file=Path("/\ud800")).read_authkey()


def test_a_pyproject_needs_our_table() -> None:
    pyproject: Dict[str, Any] = {"path": Path("/srv/pyproject.toml"), "prefix": module.PYPROJECT_TABLE}
    assert mistakes("[project]\nname = 'x'", **pyproject)[0].endswith("there is no table [tool]; expected [tool.xpc-instrument]")
    assert "there is no table [tool.xpc-instrument]" in mistakes("tool = 3", **pyproject)[0]
    (found,) = mistakes("[tool.xpc-instrument]\nadress = 1\n", **pyproject)
    assert ":2: tool.xpc-instrument.adress: unknown key" in found
    (found,) = mistakes("[tool]\nxpc-instrument = 1\n", **pyproject)
    assert ":2: tool.xpc-instrument: the integer 1; expected a table" in found
    assert parse('[tool.other]\nx = 1\n[tool.xpc-instrument]\napp = "shop"', **pyproject).app == "shop"


def test_the_longest_pause_of_a_probe_is_held_against_the_first_one_that_it_inherits() -> None:
    text = '[defaults]\nsuspend-for = 7\n[[probe]]\ntarget = "shop:charge"\nsuspend-at-most = 6\n'
    with pytest.raises(ConfigError, match=r":5: probe.suspend-at-most: suspend-for is 7 and suspend-at-most 6; expected a first pause"):
        parse(text, Path("xpc-instrument.toml"))


# any text -----------------------------------------------------------------------------------------------------------------

PIECES = [
    "[",
    "]",
    "[[probe]]",
    "\n",
    "=",
    '"',
    "'",
    '"""',
    ".",
    ",",
    "{",
    "}",
    "#",
    " ",
    "app",
    "target",
    "1",
    "\r\n",
    "\\",
    "é",
    "\ud800",
    "0x",
]


@settings(max_examples=300)
@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PIECES), max_size=25).map("".join)))
def test_no_text_does_anything_but_give_a_config_or_a_config_error(text: str) -> None:
    problem = "<config>: "
    try:
        assert isinstance(parse(text), Config)
    except ConfigError as error:
        problem = str(error)
    assert problem.startswith("<config>:")


values: Any = st.recursive(
    st.one_of(st.text(max_size=5), st.integers(), st.booleans(), st.floats()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
every_key = st.sampled_from(sorted({key for _, key in EVERY_KEY}))
tables = st.dictionaries(every_key, values, max_size=4)


@given(st.dictionaries(every_key, values | tables | st.lists(tables, max_size=3), max_size=5))
def test_no_values_do_anything_but_give_a_config_or_a_config_error(document: Dict[str, Any]) -> None:
    try:
        config = unpack(json.dumps({"path": None, "config": document}))
    except ConfigError as error:
        problem = str(error)
    else:
        assert unpack(pack(config)) == config
        return
    assert all(line.startswith("the config handed over by the parent process: ") for line in problem.split("\n"))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('on-demand = "shop.**"', 'on-demand: the string "shop.**"; expected an array of patterns'),
        ('on-demand = ["shop.**", 3]', "on-demand: the integer 3; expected only patterns"),
        ('on-demand = ["shop/api.py"]', 'on-demand: the string "shop/api.py": "shop/api" is no identifier'),
    ],
)
def test_a_wrong_pattern_is_a_mistake_with_its_line(line: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f'app = "shop"\n{line}\n')
    assert f"<config>:2: {problem}" in str(caught.value)
