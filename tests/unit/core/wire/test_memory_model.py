"""The protocol of a hot lane's memory, in every order in which two processors of x86-64 can carry out its steps.

A model of one direction, from `xpc_instrument/core/wire/hot.py`: the writer puts frames, and looks for an answer as long as it likes before it makes
sure that the reader was awake; the reader looks, sleeps and is rung. Each processor has
a store buffer: a store reaches the memory some time later, in order; a load sees the own buffer first; a barrier waits until the buffer is
empty (x86-TSO, Sewell et al. 2010). All states are visited. What is left out of the model is in the parameters: each has to make it fail.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

import pytest

FRAMES = 4
# Numbers go round at once, so that one is used again while the other side may still see its last use.
NUMBERS = 2

Buffer = Tuple[Tuple[str, int], ...]


class World(NamedTuple):
    """`w` and `r` are where the two sides stand; a store buffer each; the memory; what is under way on the socket."""

    w: str
    r: str
    sent: int
    taken: int
    w_buffer: Buffer
    r_buffer: Buffer
    memory: Tuple[Tuple[str, int], ...]
    socket: Tuple[int, ...]


WAKE = 0
START = World("next", "look", 0, 0, (), (), (("answered", 0), ("awake", 1), ("number", -1), ("slot", 0)), ())


class Wrong(Exception):
    """The reader took something else than the next frame."""


class Model:
    def __init__(
        self,
        writer_barrier: bool = True,
        reader_barrier: bool = True,
        makes_sure: bool = True,
        looks_last: bool = True,
        cleared: bool = True,
        number_last: bool = True,
    ) -> None:
        self.writer_barrier = writer_barrier
        self.makes_sure = makes_sure
        self.looks_last = looks_last
        self.reader_barrier = reader_barrier
        self.cleared = cleared
        self.number_last = number_last

    def steps(self, world: World) -> Iterator[World]:
        for side in ("w", "r"):
            buffer = getattr(world, f"{side}_buffer")
            if buffer:
                (name, value), rest = buffer[0], buffer[1:]
                memory = tuple((key, value if key == name else old) for key, old in world.memory)
                yield world._replace(**{f"{side}_buffer": rest, "memory": memory})
        yield from self.writer(world)
        yield from self.reader(world)

    def writer(self, world: World) -> Iterator[World]:
        number = world.sent % NUMBERS
        if world.w == "next":
            # The two sides take turns: the next frame goes when the last one has been answered.
            if world.sent < FRAMES and _load(world, "w", "answered") == world.sent:
                yield world._replace(w="put" if _load(world, "w", "awake") else "send", sent=world.sent + 1)
        elif world.w == "put":
            stores = [("slot", world.sent), ("number", (world.sent - 1) % NUMBERS)]
            if not self.number_last:
                stores.reverse()
            yield world._replace(w="unsure", w_buffer=(*world.w_buffer, *stores))
        elif world.w == "unsure":
            if _load(world, "w", "answered") == world.sent:
                # Who has answered has seen it.
                yield world._replace(w="next")
            if self.makes_sure and (not self.writer_barrier or not world.w_buffer):
                yield world._replace(w="next" if _load(world, "w", "awake") else "ring")
        elif world.w == "ring":
            yield world._replace(w="next", socket=(*world.socket, WAKE))
        elif world.w == "send":
            yield world._replace(w="next", socket=(*world.socket, world.sent))
        assert number < NUMBERS

    def reader(self, world: World) -> Iterator[World]:
        here = _load(world, "r", "number") == world.taken % NUMBERS
        if world.r == "look":
            if here:
                yield self.take(world)
            # It may look as long as it likes.
            yield world._replace(r="slept", r_buffer=(*world.r_buffer, ("awake", 0)))
        elif world.r == "slept":
            if not self.looks_last:
                yield world._replace(r="wait")
            elif not self.reader_barrier or not world.r_buffer:
                yield self.take(world) if here else world._replace(r="wait")
        elif world.r == "wait" and world.socket:
            first, rest = world.socket[0], world.socket[1:]
            world = world._replace(socket=rest)
            if first != WAKE:
                yield from self.received(self.clear(world), first)
            else:
                yield self.take(world) if here else world

    def take(self, world: World) -> World:
        frame = _load(world, "r", "slot")
        awake = _load(world, "r", "awake")
        return next(self.received(self.clear(world), frame, bool(awake)))

    def clear(self, world: World) -> World:
        return world._replace(r_buffer=(*world.r_buffer, ("number", -1))) if self.cleared else world

    def received(self, world: World, frame: int, awake: Optional[bool] = None) -> Iterator[World]:
        if frame != world.taken + 1:
            raise Wrong(f"frame {frame} after {world.taken}")
        for wakes in (True, False) if awake is None else (awake,):
            stores: List[Tuple[str, int]] = [("awake", 1)] if wakes and awake is None else []
            stores.append(("answered", frame))
            yield world._replace(r="look" if wakes else "wait", taken=frame, r_buffer=(*world.r_buffer, *stores))


def _load(world: World, side: str, name: str) -> int:
    for stored, value in reversed(getattr(world, f"{side}_buffer")):
        if stored == name:
            return value
    return dict(world.memory)[name]


def explore(model: Model) -> Dict[str, Any]:
    """All states that can be reached; `stuck` is one in which nothing can happen although frames are missing."""
    seen: Set[World] = {START}
    todo = [START]
    stuck: Optional[World] = None
    while todo:
        world = todo.pop()
        steps = list(model.steps(world))
        if not steps and world.taken < FRAMES:
            stuck = stuck or world
        for step in steps:
            if step not in seen:
                seen.add(step)
                todo.append(step)
    return {"states": len(seen), "stuck": stuck, "ended": any(world.taken == FRAMES for world in seen)}


def test_no_frame_is_lost_taken_twice_or_torn() -> None:
    outcome = explore(Model())
    assert outcome["stuck"] is None and outcome["ended"]
    assert outcome["states"] > 300


@pytest.mark.parametrize("left_out", ["writer_barrier", "reader_barrier", "makes_sure", "looks_last"])
def test_without_either_barrier_or_either_last_look_a_frame_is_lost(left_out: str) -> None:
    assert explore(Model(**{left_out: False}))["stuck"] is not None


def test_a_number_that_is_not_cleared_is_taken_for_the_next_round() -> None:
    with pytest.raises(Wrong):
        explore(Model(cleared=False))


def test_a_number_that_is_stored_before_its_frame_shows_the_last_frame() -> None:
    with pytest.raises(Wrong):
        explore(Model(number_last=False))
