"""Hooks on patterns and lists of targets, on demand and where the config lists them, in one process and in several."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, List

import pytest

import xpc_instrument
from tests.integration.cli.test_on_demand import ask
from tests.programs import PATIENCE, Program
from xpc_instrument import TargetError

RUN = [sys.executable, "-m", "xpc_instrument.cli", "run"]
SHOP = """
class Cart:
    def __init__(self):
        self.items = []

    def add(self, item):
        self.items.append(item)
        return len(self.items)

def charge(amount):
    return amount + 1

def refund(amount, reason="none"):
    return -amount
"""
LATER = "def pay(n):\n    return n * 10\n\nclass Gate:\n    def open(self):\n        return 'open'\n"
PROGRAM = """
import os, sys
import shop.checkout
from shop.checkout import Cart, charge, refund

def in_child(what):
    import signal
    r, w = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(w, repr(what()).encode())
        finally:
            os._exit(0)
    os.close(w)
    told = os.read(r, 1000).decode()
    os.close(r)
    os.waitpid(pid, 0)
    return told

def late():
    import shop.later
    return shop.later.pay(1), shop.later.Gate().open()

print("ready", flush=True)
for line in sys.stdin:
    print(repr(eval(line)), flush=True)
"""


@pytest.fixture
def shop(tmp_path: Path, run_program: Callable[..., Program]) -> Any:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").write_text("")
    (tmp_path / "shop" / "checkout.py").write_text(SHOP)
    (tmp_path / "shop" / "later.py").write_text(LATER)
    (tmp_path / "main.py").write_text(PROGRAM)

    def start(*words: str) -> Program:
        program = run_program(command=[*RUN, "--app", "shop", *words, "--", sys.executable, "main.py"], cwd=tmp_path)
        program.read_until("ready")
        return program

    return start


def test_one_handle_is_for_all_that_a_pattern_or_a_list_stands_for_in_every_mode(shop: Any) -> None:
    program = shop()
    with xpc_instrument.connect("shop") as session:
        seen: List[Any] = []
        before = session.before("shop.checkout:*", lambda call: seen.append((call.target, call.arguments)))
        assert before.targets == ["shop.checkout:charge", "shop.checkout:refund"]
        assert ask(program, "charge(1), refund(amount=2), Cart().add(1)") == "(2, -2, 1)"
        assert seen == [("shop.checkout:charge", {"amount": 1}), ("shop.checkout:refund", {"amount": 2, "reason": "none"})]
        before.remove()

        @session.around(["shop.checkout:charge", "shop.checkout:Cart.*"])
        def doubled(call: Any) -> Any:
            seen.append((call.target, call.instance is not None))
            return call.proceed() * 2

        assert ask(program, "charge(1), refund(2), Cart().add(1)") == "(4, -2, 2)"
        # Special methods are named, or left out.
        assert seen[2:] == [("shop.checkout:charge", False), ("shop.checkout:Cart.add", True)]
        with session.instead("shop.**:re*", lambda *args, **kwargs: (args, kwargs)) as handle:
            assert ask(program, "refund(1, reason='x')") == "((1,), {'reason': 'x'})"
            assert handle.targets == ["shop.checkout:refund"]
        with session.after("shop.**:**.__init__", lambda call: seen.append(call.target)) as handle:
            assert handle.targets == ["shop.checkout:Cart.__init__"]
            ask(program, "Cart().items")
            assert seen[-1] == "shop.checkout:Cart.__init__"
        assert not [one for one in session.stats() if one.target.endswith("__init__") and one.hooks]
    assert ask(program, "charge(1), refund(2), Cart().add(1)") == "(2, -2, 1)"


def test_modules_that_are_imported_later_are_hooked_as_they_appear_also_in_a_forked_child(shop: Any) -> None:
    program = shop()
    with xpc_instrument.connect("shop") as session:
        seen: List[Any] = []
        later = session.after("shop.later:**", lambda call: seen.append((call.pid, call.target, call.result)))
        all_of_it = session.before("shop.**", lambda call: None)
        assert later.targets == []
        waiting = next(one for one in session.stats() if one.target == "shop.later:**")
        assert (waiting.state, [hook.number for hook in waiting.hooks]) == ("pending", [later.number])
        assert ask(program, "in_child(lambda: late() + (charge(1),))") == repr("(10, 'open', 2)")
        assert [one[1:] for one in seen] == [("shop.later:pay", 10), ("shop.later:Gate.open", "open")]
        assert ask(program, "late()") == "(10, 'open')"
        assert len({pid for pid, *_ in seen}) == 2
        assert later.targets == ["shop.later:Gate.open", "shop.later:pay"]
        assert not [one for one in session.stats() if one.target == "shop.later:**"]
        assert all_of_it.targets == sorted(["shop.checkout:Cart.add", "shop.checkout:charge", "shop.checkout:refund", *later.targets])
        # A child that is forked with the hooks on, which it inherits.
        assert ask(program, "in_child(late)") == repr("(10, 'open')")
        assert len(seen) == 6 and len({pid for pid, *_ in seen}) == 3
        later.remove()
        assert ask(program, "late()") == "(10, 'open')"
        assert len(seen) == 6


def test_the_terms_and_the_counts_are_of_all_targets_together(shop: Any) -> None:
    program = shop()
    with xpc_instrument.connect("shop") as session:
        seen: List[str] = []
        handle = session.before("shop.checkout:*", lambda call: seen.append(call.target), limit=3)
        ask(program, "[(charge(1), refund(1)) for _ in range(5)]")
        assert seen == ["shop.checkout:charge", "shop.checkout:refund", "shop.checkout:charge"] and handle.over == "limit"
        assert not [one for one in session.stats() if one.hooks]
        events: List[Any] = []
        handle = session.after("shop.checkout:*", lambda call: events.append((call.target, call.arguments, call.result)), wait=False)
        ask(program, "[(charge(n), refund(n)) for n in range(50)]")
        handle.remove()
        assert handle.delivered + handle.dropped == 100 and len(events) == handle.delivered
        assert events[:2] == [("shop.checkout:charge", {"amount": 0}, 1), ("shop.checkout:refund", {"amount": 0, "reason": "none"}, 0)]

        called: List[str] = []
        told = threading.Semaphore(0)

        def fails(call: Any) -> None:
            called.append(call.target)
            raise ValueError("a bug")

        handle = session.around("shop.checkout:*", fails)
        handle.on_failure(lambda error: told.release())
        program.send_line("[(charge(n), refund(n)) for n in range(5)]")
        assert all(told.acquire(timeout=10) for _ in range(3))
        # What the agent says of it in the log may come before it.
        program.read_until(repr([(n + 1, -n) for n in range(5)]))
        # Three in a row suspend it, whichever target they are of.
        assert called == ["shop.checkout:charge", "shop.checkout:refund", "shop.checkout:charge"]
        assert handle.failures == 3


def test_what_is_wrong_is_refused_with_the_nearest_and_leaves_nothing(shop: Any, tmp_path: Path) -> None:
    (tmp_path / "xpc-instrument.toml").write_text("[limits]\nmax-targets = 2\n")
    program = shop("--on-demand", "shop.**")
    with xpc_instrument.connect("shop") as session:
        for target, words in {
            ("shop.checkout:charge", "shop.checkout:refnd"): "shop.checkout:refund",
            "shop.checkout:chrage*": "no function of shop.checkout matches; the nearest are charge",
            "shop.chekout:*": "there is no module shop.chekout.*nearest modules are shop.checkout",
            "shpo.**:*": "there is no module shpo.*",
            "shop.**": r"stands for 3 functions; at most 2 are hooked at once \(max-targets\)",
            "json:*": "json:\\* is no probe point|stands for .* functions here, none of them a probe point of shop",
            "xpc_agent.life.agent:*": "code of the agent",
            "shop.checkout:.*": "expected|empty part",
        }.items():
            with pytest.raises(TargetError, match=words):
                session.before(list(target) if isinstance(target, tuple) else target, print)
        with pytest.raises(TypeError, match="or a list"):
            session.before([], print)
        assert not [one for one in session.stats() if one.hooks]
        assert session.before("shop.late*:nothing*", print).targets == []
    assert ask(program, "charge(1)") == "2"


def test_patterns_stand_for_what_the_config_lists_and_no_more_in_each_process_of_a_fixed_address(shop: Any, tmp_path: Path) -> None:
    (tmp_path / "xpc-instrument.toml").write_text(
        '[manager]\naddress = "tcp:127.0.0.1:0"\n[[probe]]\ntarget = "shop.checkout:re*"\n[[probe]]\ntarget = "shop.later:pay"\n'
        '[[probe]]\ntarget = "shop.checkout:charge"\nallow = ["before"]\n'.replace("tcp:127.0.0.1:0", f"unix:{tmp_path}/s")
    )
    program = shop()
    with xpc_instrument.connect("shop") as session:
        seen: List[str] = []
        handle = session.after("shop.**", lambda call: seen.append(call.target))
        # Where it is not allowed in that mode it is passed over.
        assert handle.targets == ["shop.checkout:refund"]
        assert ask(program, "in_child(lambda: (late(), refund(1), charge(1)))") == repr("((10, 'open'), -1, 2)")
        assert seen == ["shop.later:pay", "shop.checkout:refund"]
        assert handle.targets == ["shop.checkout:refund", "shop.later:pay"]
        with pytest.raises(TargetError, match=r"nothing of it can be hooked.*does not allow the mode"):
            session.instead("shop.checkout:ch*", print)


def test_a_module_that_was_being_imported_when_it_was_asked_for_is_hooked_once_it_has_run(tmp_path: Path, shop: Any) -> None:
    (tmp_path / "slow.py").write_text("import sys\nprint('importing', flush=True)\nsys.stdin.readline()\ndef f():\n    return 1\n")
    (tmp_path / "main.py").write_text(PROGRAM.replace('print("ready"', 'print("ready", flush=True)\nimport slow\nprint("ready"'))
    program = shop()
    program.read_until("importing")
    with xpc_instrument.connect("shop") as session:
        named = session.around("slow:f", lambda call: call.proceed() + 10)
        pattern = session.around("slow:*", lambda call: call.proceed() + 100)
        program.send_line("go on")
        program.read_until("ready")
        until = time.monotonic() + 10
        while ask(program, "slow.f()") != "111":
            assert time.monotonic() < until
        assert named.targets == pattern.targets == ["slow:f"]


GUNICORN = """
import os, sys, signal

# The parent imports nothing of the shop, as gunicorn's master; each line is for the child.
r, w = os.pipe()
if os.fork():
    os.close(r)
    for line in sys.stdin:
        os.write(w, line.encode())
    os.close(w)
    os.wait()
else:
    os.close(w)
    import shop.checkout
    print("ready", os.getppid(), flush=True)
    for line in os.fdopen(r):
        print(repr(eval(line)), flush=True)
"""


@pytest.mark.parametrize("address", ["", 'address = "unix:shop.sock"\n'])
def test_a_process_that_has_not_imported_the_module_accepts_no_mistake_of_those_that_have(
    tmp_path: Path, run_program: Callable[..., Program], runtime_dir: Path, address: str
) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").write_text("")
    (tmp_path / "shop" / "checkout.py").write_text(SHOP)
    (tmp_path / "shop" / "later.py").write_text(LATER)
    (tmp_path / "main.py").write_text(GUNICORN)
    at = address.replace("shop.sock", f"{runtime_dir}/shop.sock")
    (tmp_path / "xpc-instrument.toml").write_text(f'app = "shop"\non-demand = ["**"]\n[manager]\n{at}')
    program = run_program(command=[*RUN, "--", sys.executable, "main.py"], cwd=tmp_path)
    parent = int(program.read_until("ready").split()[-1])
    with xpc_instrument.connect(at[11:-2] if at else "shop") as session:
        waiting = [] if address else [parent]
        deadline = time.monotonic() + PATIENCE
        while True:
            # At a fixed address the child comes to its parent by and by.
            with session.before("shop.checkout:charge", print) as handle:
                if handle.waiting == waiting:
                    break
            assert time.monotonic() < deadline
        with session.instead("shop.checkout:charge", lambda amount: "hooked") as handle:
            assert ask(program, "shop.checkout.charge(1)") == "'hooked'"
            assert handle.waiting == waiting
        with pytest.raises(TargetError, match=r"shop.checkout:chrge.*charge"):
            session.before("shop.checkout:chrge", print)
        with pytest.raises(TargetError, match="nearest are charge"):
            session.before("shop.checkout:chrge*", print)
        with pytest.raises(TargetError, match=r"did you mean .amount."):
            session.watch("shop.checkout:charge", when="amonut > 3")
        with pytest.raises(TargetError, match=r"raise\(os:system\)"):
            session.inject("shop.checkout:charge", "raise(os:system)")
        # Nobody has it yet, and nobody says that there is none.
        with session.before("shop.later:pay", print) as handle:
            assert len(handle.waiting) == (1 if address else 2) and set(handle.waiting) <= set(session.pids)
    program.process.stdin.close()
    assert program.wait() == 0
