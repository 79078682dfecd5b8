"""A config in an environment variable: what a parent packs is what its child unpacks, and nothing else is taken."""

from __future__ import annotations

import base64
import re
import zlib
from typing import Any, Dict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xpc_instrument.core.config.file import from_probes
from xpc_instrument.core.config.packed import pack, unpack
from xpc_instrument.core.config.schema import Config, DefaultsConfig, Limits, ManagerConfig, ProbeConfig
from xpc_instrument.core.model.errors import ConfigError
from xpc_instrument.core.model.target import Mode

seconds = st.floats(min_value=1e-9, max_value=86_400.0)
globs = st.lists(st.text("abz_*.:é", min_size=1, max_size=8), max_size=3).map(tuple)
probe_settings: Dict[str, Any] = {
    "exclude": globs,
    "allow": st.frozensets(st.sampled_from(list(Mode)), min_size=1),
    "timeout": seconds,
    "max_timeout": seconds,
    "on_failure": st.sampled_from(["original", "raise"]),
    "patcher": st.sampled_from(["auto", "code", "wrapt"]),
    "suspend_after": st.integers(0, 1000),
    "suspend_for": st.floats(min_value=1e-9, max_value=60.0),
    "suspend_at_most": st.floats(min_value=60.0, max_value=86_400.0),
}
targets = st.from_regex(r"[a-zé_][a-z0-9_]{0,3}(\.[a-z*]{1,3})?:[A-Z_*][a-z0-9_]{0,4}(\.[a-z_*]{1,3})?", fullmatch=True)
paths = st.text("ab é\udc80-", min_size=1, max_size=6).map(lambda name: f"/srv/{name}")
managers = st.one_of(
    st.builds(ManagerConfig, st.just("unix") | paths.map(lambda path: f"unix:{path}"), st.none() | paths),
    st.builds(ManagerConfig, st.sampled_from(["tcp:localhost:1", "tcp:[::1]:65535"]), paths),
)
configs = st.builds(
    Config,
    st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,20}", fullmatch=True),
    managers,
    st.builds(Limits, st.integers(1, 1 << 30), st.integers(1, 1000), handshake_timeout=seconds, max_nesting=st.integers(1, 200)),
    st.lists(st.builds(ProbeConfig, target=targets, **probe_settings), max_size=4, unique_by=lambda probe: probe.target).map(tuple),
    st.none() | paths,
    st.builds(DefaultsConfig, **probe_settings),
    st.lists(st.sampled_from(["**", "shop.**", "shop.a*:*.é"]), max_size=2).map(tuple),
)


@given(configs)
def test_a_config_survives_the_way_to_a_child_process(config: Config) -> None:
    text = pack(config)
    assert text.isascii()
    assert "\n" not in text
    assert unpack(text) == config


def test_a_config_of_ten_thousand_probes_fits_into_an_environment_variable() -> None:
    config = from_probes("shop", [f"shop.module_{number % 100}:Service.method_{number}" for number in range(10_000)])
    text = pack(config)
    assert len(text) < 128 << 10
    assert text.isascii()
    assert unpack(text) == config


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "expected what pack gives"),
        ("[]", "expected what pack gives"),
        ('{"path": 1, "config": {}}', "not the shape that pack gives"),
        ('{"path": null, "config": {}, "more": 1}', "not the shape"),
        ("[" * 100_000, "cannot be read"),
        ('{"path": null, "config": {"app": "a b"}}', "the config handed over by the parent process: app: "),
        ('{"path": null, "config": {"app": null}}', "app: nothing; expected a name"),
        ('{"path": null, "config": {"defaults": {"timeout": NaN}}}', "defaults.timeout: nan, which is no finite number"),
        ('{"path": null, "config": {"manager": {"address": "unix:/\\ud800"}}}', "file system's encoding"),
        ("zlib:?", "cannot be read"),
        ("zlib:" + base64.b64encode(b"no such stream").decode(), "cannot be read"),
        ("zlib:" + base64.b64encode(zlib.compress(b"[" * 100)[:-5]).decode(), "it is cut off"),
        ("zlib:" + base64.b64encode(zlib.compress(b" " * (17 << 20))).decode(), "it is cut off, or over"),
    ],
)
def test_what_no_parent_has_handed_over_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(problem)):
        unpack(text)
