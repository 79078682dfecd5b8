"""The tree of one invocation while it grows, as plain data: `enter`, `leave`, `pause` and `resume` are told of what its code does.

Rules:
- What repeats is one node: the same function, called from the same place of the same parent. A tree has at most `MOST_NODES`, and
  `DEEPEST_TREE` levels; what comes beyond is in the own time of what is above it, and the tree is marked as cut.
- The stack has the functions in the tree that run now. While the invocation waits (`async def`), or its iteration does (generators), the
  stack is empty, and what its thread does meanwhile is not in the tree.
- A coroutine takes as long as it takes, waiting included; a generator as long as it runs, and one of `async def` as long as it runs or
  waits: not while it is with whoever iterates it.
- An event that does not fit the stack is either of code that was entered unseen, and ignored, or shows that functions above were left
  unseen, which ends them.
- Nothing here calls code of the application, or asks it for more than a frame's place.
"""

from __future__ import annotations

from types import CodeType, FrameType
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from xpc_instrument.core.model.local import DEEPEST_TREE
from xpc_instrument.core.unpatched import perf_counter
from xpc_instrument.core.values.names import type_name

from ..targets.flags import CO_ASYNC_GENERATOR, CO_GENERATOR

MOST_NODES = 10_000
MOST_CALLS = 1_000_000
"""Then nothing more is looked at: half a second of the processor's by then."""

# Frames of libraries that may lie between a function and the one in the tree that has called it.
_BETWEEN = 200

_ITERATES = CO_GENERATOR | CO_ASYNC_GENERATOR


# What an asynchronous generator gives comes out of it in an object of this type; what it awaits gives comes as it is.
_GIVEN = "builtins.async_generator_wrapped_value"


def waits(value: Any) -> bool:
    """Whether an asynchronous generator that has passed on this value waits, and has given nothing."""
    return type_name(value) != _GIVEN


def error_name(error: Optional[BaseException]) -> str:
    """The type of what was raised, for a node: nothing for the end of an iteration that is just left."""
    if error is None or type(error) is GeneratorExit:
        return ""
    name = type_name(error)
    return name[len("builtins.") :] if name.startswith("builtins.") else name


class Node:
    """Calls of one function from one place. `site` is where in the parent's code: the offset of the instruction; times are in seconds."""

    __slots__ = ("children", "code", "count", "error", "errors", "least", "most", "site", "total")

    def __init__(self, code: CodeType, site: int) -> None:
        self.code = code
        self.site = site
        self.children: Dict[Tuple[int, int], Node] = {}
        self.count = 0
        self.total = 0.0
        self.least = 0.0
        self.most = 0.0
        self.errors = 0
        self.error = ""

    def add(self, spent: float, error: str) -> None:
        """One call has ended."""
        if self.count == 0 or spent < self.least:
            self.least = spent
        self.most = max(self.most, spent)
        self.count += 1
        self.total += spent
        if error:
            self.errors += 1
            self.error = error


# A call that is not over: its node, when it was begun or, of a generator, gone on with, and what it had run until then. A list, which is
# made faster than an object. A generator that has given something was gone on with at `_NOT_YET`.
_Running = List[Any]
_NODE, _STARTED, _SPENT = 0, 1, 2
_NOT_YET = -1.0


class Growth:
    """What is known of the invocation so far. `depth` is how many levels below it are looked at, 0 for all."""

    def __init__(self, code: CodeType, depth: int = 0, clock: Callable[[], float] = perf_counter) -> None:
        self.root = Node(code, -1)
        self.nodes = 1
        self.calls = 0
        self.cut = ""
        """Why some of it is missing: `nodes`, `depth` or `calls`."""
        self._clock = clock
        self._depth = min(depth or DEEPEST_TREE, DEEPEST_TREE)
        self._whole: _Running = [self.root, 0.0, 0.0]
        self.stack: List[_Running] = [self._whole]
        self._called: Optional[CodeType] = None
        # When it has returned or raised, if that was seen.
        self._ended = 0.0
        # By the address of the frame, which lasts as long as the frame: to hold it would keep alive what is in it.
        self._suspended: Dict[int, _Running] = {}

    def begin(self, is_called: bool) -> None:
        """The invocation runs from now on; or, if it `is_called`, with the next event of its code."""
        self._whole[_STARTED] = self._clock()
        if is_called:
            self.stack.clear()
            self._called = self.root.code
            if self.root.code.co_flags & _ITERATES:
                self._whole[_STARTED] = _NOT_YET

    # what the code does ------------------------------------------------------------------------------------------------

    def enter(self, code: CodeType, caller: Optional[FrameType]) -> None:
        """A function is called, by that frame or one that it was called by."""
        stack = self.stack
        parent: Node = stack[-1][0]
        above, left = parent.code, _BETWEEN
        while caller is not None and caller.f_code is not above:
            left -= 1
            caller = caller.f_back if left else None
        key = id(code), -1 if caller is None else caller.f_lasti
        try:
            node = parent.children[key]
        except KeyError:
            node = self._add(parent, code, key, len(stack))
        self.calls += 1
        running: _Running = [node, 0.0, 0.0]
        stack.append(running)
        # Last, so that what all this takes is not in its time.
        running[1] = self._clock()

    def _add(self, parent: Node, code: CodeType, key: Tuple[int, int], depth: int) -> Node:
        node = Node(code, key[1])
        if self.nodes >= MOST_NODES:
            self.cut = "nodes"
        elif depth <= self._depth:
            parent.children[key] = node
            self.nodes += 1
        elif self._depth == DEEPEST_TREE:
            self.cut = "depth"
        return node

    def leave(self, code: CodeType, error: str = "") -> None:
        """A function has returned, or raised."""
        now = self._clock()
        stack = self.stack
        running: Optional[_Running] = stack[-1] if stack else None
        if running is None or running[_NODE].code is not code:
            running = self._top(code, now)
            if running is None:
                return
        stack.pop()
        if running is self._whole:
            self._ended = now
            running[_SPENT] += now - running[_STARTED]
            running[_STARTED] = _NOT_YET
            return
        # As `Node.add`, one call less.
        node, spent = running[_NODE], running[_SPENT] + now - running[_STARTED]
        if node.count == 0 or spent < node.least:
            node.least = spent
        if spent > node.most:  # noqa: PLR1730 - a call more
            node.most = spent
        node.count += 1
        node.total += spent
        if error:
            node.errors += 1
            node.error = error

    def pause(self, code: CodeType, frame: int, is_waiting: bool = False) -> None:
        """A generator has given something, or a coroutine waits; of an asynchronous generator, which of both."""
        now = self._clock()
        running = self._top(code, now)
        if running is not None:
            self.stack.pop()
            if code.co_flags & _ITERATES and not is_waiting:
                running[_SPENT] += now - running[_STARTED]
                running[_STARTED] = _NOT_YET
            self._suspended[frame] = running

    def resume(self, code: CodeType, frame: int, caller: Optional[FrameType]) -> None:
        """It goes on."""
        running = self._suspended.pop(frame, None)
        if not self.stack and running is None:
            if self._called is not code:
                return
            self._called = None
            running = self._whole
        elif running is None or running[_NODE].code is not code:
            if running is not None:
                # Its frame is gone, and another has its address.
                self._end(running, self._clock())
            if self.stack:
                self.enter(code, caller)
            return
        # What is thrown into a coroutine that waits comes to the innermost first, while those that wait for it still do.
        if running[_STARTED] == _NOT_YET:
            running[_STARTED] = self._clock()
        self.stack.append(running)

    def _top(self, code: CodeType, now: float) -> Optional[_Running]:
        stack = self.stack
        if not stack:
            return None
        if stack[-1][_NODE].code is code:
            return stack[-1]
        if not any(one[_NODE].code is code for one in stack):
            return None
        while stack[-1][_NODE].code is not code:
            self._end(stack.pop(), now)
        return stack[-1]

    @staticmethod
    def _end(running: _Running, now: float) -> None:
        running[_NODE].add(_spent(running, now), "")

    def close(self) -> None:
        """The invocation ends now, whatever is done before `finish`."""
        self._ended = self._ended or self._clock()

    # the end -----------------------------------------------------------------------------------------------------------

    def finish(self, error: str) -> None:
        """The invocation has ended; so has all that it has begun."""
        now = self._ended or self._clock()
        for one in (*self.stack, *self._suspended.values()):
            if one is not self._whole:
                self._end(one, now)
        self.root.add(_spent(self._whole, now), error)
        self.stack.clear()
        self._suspended.clear()


def _spent(running: _Running, now: float) -> float:
    """What a call has taken by now, in seconds."""
    spent: float = running[_SPENT]
    return spent if running[_STARTED] == _NOT_YET else spent + now - running[_STARTED]


Row = Tuple[int, int, int, float, float, float, float, int, str, int]


def rows_of(root: Node, name_of: Callable[[CodeType], str], least: float = 0.0) -> Tuple[List[Tuple[str, str]], List[Row]]:
    """The tree for an event: names, each a target with its file, and rows, each node before those below it.

    A row is its depth, the number of its name, `count`, `duration`, `own`, `min`, `max`, `errors`, the type of the last of those, and
    the line that it was called in; of the root, in which it begins. Calls of one line are one row; those that took less than `least`
    seconds in all are left out.
    """
    names: List[Tuple[str, str]] = []
    numbers: Dict[int, int] = {}
    rows: List[Row] = []
    lines: Dict[int, Dict[int, int]] = {}
    waiting: List[Tuple[int, int, List[Node]]] = [(0, root.code.co_firstlineno, [root])]
    while waiting:
        depth, line, nodes = waiting.pop()
        code = nodes[0].code
        number = numbers.get(id(code))
        if number is None:
            number = numbers[id(code)] = len(names)
            names.append((name_of(code), code.co_filename))
        below: Dict[Tuple[int, int], List[Node]] = {}
        if any(node.children for node in nodes):
            places = lines.get(id(code))
            if places is None:
                places = lines[id(code)] = dict(_lines_of(code))
            for node in nodes:
                for child in node.children.values():
                    below.setdefault((id(child.code), places.get(child.site, 0)), []).append(child)
        total = sum(node.total for node in nodes)
        inner = {key: sum(child.total for child in group) for key, group in below.items()}
        rows.append(
            (
                depth,
                number,
                sum(node.count for node in nodes),
                total,
                max(0.0, total - sum(inner.values())),
                min(node.least for node in nodes),
                max(node.most for node in nodes),
                sum(node.errors for node in nodes),
                next((node.error for node in reversed(nodes) if node.error), ""),
                line,
            )
        )
        waiting += [(depth + 1, key[1], group) for key, group in reversed(list(below.items())) if inner[key] >= least]
    return names, rows


def _lines_of(code: CodeType) -> Iterator[Tuple[int, int]]:
    """The line of each instruction, by its offset."""
    spans: Any = getattr(code, "co_lines", None)
    if spans is not None:
        for start, end, line in spans():
            for offset in range(start, end, 2):
                yield offset, line or 0
        return
    # Up to Python 3.9: pairs of steps, in bytes and in lines.
    table = code.co_lnotab
    offset, line = 0, code.co_firstlineno
    for step, lines in zip(table[::2], table[1::2]):
        for place in range(offset, offset + step, 2):
            yield place, line
        offset += step
        line += lines - 256 if lines > 127 else lines
    for place in range(offset, len(code.co_code), 2):
        yield place, line
