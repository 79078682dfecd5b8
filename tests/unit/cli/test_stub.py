"""What the agent's stand-in is told, and where the agent has to be there at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from xpc_agent.bootstrap.needed import NEEDED, is_needed
from xpc_instrument.cli.stub import stub_text
from xpc_instrument.core.config.file import from_probes, parse, with_on_demand

# Everything that the agent can import, with what that imports in turn.
CLOSURE = """
import importlib, pkgutil, sys
import wrapt, cloudpickle, xpc_agent, xpc_instrument.core
for package in (xpc_agent, xpc_instrument.core):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if "bootstrap" not in module.name:
            importlib.import_module(module.name)
print(*{name.partition(".")[0] for name in sys.modules})
"""
# Of the environment of the tests, or of this test itself.
OTHERS = {"xpc_agent", "xpc_instrument", "__main__", "site", "sitecustomize", "usercustomize", "distutils", "setuptools"}


@pytest.mark.version
def test_every_package_that_the_agent_imports_is_known_to_be_one() -> None:
    done = subprocess.run([sys.executable, "-c", CLOSURE], capture_output=True, text=True, timeout=60, check=True)
    missing = {name for name in set(done.stdout.split()) - OTHERS if not is_needed(name)}
    assert not {name for name in missing if not name.startswith("__editable__")}
    assert "json" in NEEDED


def test_modules_are_handed_over_by_name_or_by_the_letters_in_front_of_a_glob(runtime_dir: Path) -> None:
    config = with_on_demand(from_probes("shop", ["shop.api:charge", "shop.v*.x:f", "tea:*"]), ["shop.**", "a.b.c*:*", "x"])
    facts = dict(line.split(" ", 1) for line in stub_text(config).split("\n"))
    assert facts["modules"] == "shop.api,shop.v*,tea"
    assert facts["on-demand"] == " a.b, shop, x"
    assert facts["folder"] == str(runtime_dir)
    assert stub_text(with_on_demand(config, ["**"])).endswith("on-demand  , a.b, shop, x")


@pytest.mark.parametrize(
    "text",
    [
        'app = "shop"\n[manager]\naddress = "unix:/run/shop.sock"\n',
        'app = "shop"\n[[probe]]\ntarget = "json:dumps"\n',
        'app = "shop"\n[[probe]]\ntarget = "_thread:start_new_thread"\n',
    ],
)
def test_the_agent_is_there_at_once_at_a_fixed_address_and_for_targets_that_it_needs_itself(text: str) -> None:
    assert stub_text(parse(text)) == ""


def test_thousands_of_modules_are_handed_over_as_their_packages(runtime_dir: Path) -> None:
    config = from_probes("shop", [f"shop.module_{number}:f" for number in range(10_000)] + ["tea.v*:f"])
    assert "modules shop*,tea*\n" in stub_text(config)
