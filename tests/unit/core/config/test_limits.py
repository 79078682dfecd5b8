"""Each limit, whichever there are: it is set in the config, refused out of range, handed to child processes, and documented."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict

import pytest

from xpc_instrument.core.config.file import parse
from xpc_instrument.core.config.packed import pack
from xpc_instrument.core.config.schema import Config
from xpc_instrument.core.model.errors import ConfigError
from xpc_instrument.core.model.limits import DEFAULT_LIMITS, Bound, Limits, bounds
from xpc_instrument.core.model.record import as_dict

ROOT = Path(__file__).resolve().parents[4]
LIMITS = bounds()


def other_than_the_default(bound: Bound) -> Any:
    """A value that the config takes."""
    if bound.kind == "flag":
        return not bound.make()
    return float(bound.most) if bound.kind == "seconds" else int(bound.most)


def written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def limit(limits: Limits, key: str) -> Any:
    return getattr(limits, key.replace("-", "_"))


def test_every_field_has_its_bounds() -> None:
    assert list(LIMITS) == [name.replace("_", "-") for name in as_dict(DEFAULT_LIMITS)]
    assert all(isinstance(bound, Bound) for bound in LIMITS.values())


@pytest.mark.parametrize("key", LIMITS)
def test_a_limit_is_what_the_config_says(key: str) -> None:
    wanted = other_than_the_default(LIMITS[key])
    others = "silence = 86400\n" if key == "heartbeat" else ""
    wanted = wanted - 1 if key == "heartbeat" else wanted
    found = parse(f"[limits]\n{others}{key} = {written(wanted)}").limits
    assert limit(found, key) == wanted != limit(DEFAULT_LIMITS, key)
    assert {name for name, value in as_dict(found).items() if value != as_dict(DEFAULT_LIMITS)[name]} - {"silence"} <= {
        key.replace("-", "_")
    }


@pytest.mark.parametrize("key", [key for key, bound in LIMITS.items() if bound.kind != "flag"])
def test_a_limit_out_of_its_range_is_refused_with_its_line_and_its_range(key: str) -> None:
    bound = LIMITS[key]
    for value in (bound.above, -1, bound.most * 2, bound.most + 1):
        with pytest.raises(ConfigError) as caught:
            parse(f"\n[limits]\n{key} = {written(value)}", Path("xpc-instrument.toml"))
        problem = str(caught.value)
        assert problem.startswith(f"xpc-instrument.toml:3: limits.{key}: ")
        assert f"{bound.most:g}" in problem or f"{bound.most}" in problem
        assert problem.endswith(f"; {bound.why}") or not bound.why


@pytest.mark.parametrize("key", LIMITS)
def test_a_misspelled_limit_is_told_with_the_nearest_one(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f"[limits]\n{key}x = 1", Path("xpc-instrument.toml"))
    assert str(caught.value).startswith(f"xpc-instrument.toml:2: limits.{key}x: unknown key; expected one of ")
    assert str(caught.value).endswith(f"; did you mean {key}?")


def test_every_limit_reaches_a_child_process() -> None:
    values: Dict[str, Any] = {key: other_than_the_default(bound) for key, bound in LIMITS.items()}
    values["heartbeat"] = values["silence"] - 1
    config = Config("shop", limits=Limits(**{key.replace("-", "_"): value for key, value in values.items()}))
    source = """
import json, os
from xpc_instrument.core.config.packed import unpack
from xpc_instrument.core.model.record import as_dict
print(json.dumps(as_dict(unpack(os.environ["PACKED"]).limits)))
"""
    done = subprocess.run(
        [sys.executable, "-c", source], env={"PACKED": pack(config)}, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == as_dict(config.limits)


def test_the_page_on_the_config_has_every_limit_with_its_default() -> None:
    page = (ROOT / "docs/config.md").read_text(encoding="utf-8")
    block = page[page.index("[limits]\n") :]
    found = parse('app = "shop"\n' + block[: block.index("```")])
    assert found.limits == DEFAULT_LIMITS
    assert [line.split(" ")[0] for line in block[: block.index("```")].splitlines()[1:] if line] == list(LIMITS)
