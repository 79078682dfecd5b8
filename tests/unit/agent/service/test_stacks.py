"""What threads and tasks do: complete on every version, and told without running anything of the application's."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, AsyncIterator, Callable, Dict, List

import pytest

from xpc_agent.service.stacks import stacks

pytestmark = pytest.mark.version


async def leaf(event: asyncio.Event) -> None:
    await event.wait()


async def middle(event: asyncio.Event) -> None:
    await leaf(event)


async def waits_for(other: Any) -> None:
    await other


async def items(event: asyncio.Event) -> AsyncIterator[int]:
    await leaf(event)
    yield 1


async def iterates(event: asyncio.Event) -> None:
    async for _ in items(event):
        pass


class Untouchable:
    """Awaitable, and not to be asked anything."""

    def __init__(self, event: asyncio.Event) -> None:
        self._event = event

    def __await__(self) -> Any:
        return Stepped(self._event.wait().__await__())


class Stepped:
    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __iter__(self) -> Stepped:
        return self

    def __next__(self) -> Any:
        return next(self.inner)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"asked for {name}")


def names(stack: Dict[str, Any]) -> List[str]:
    return [frame[2].rpartition(".")[2] for frame in stack["frames"] if frame[0] == __file__]


async def look(run: Callable[[], Any]) -> Dict[str, Dict[str, Any]]:
    event = asyncio.Event()
    create = asyncio.get_running_loop().create_task
    inner = create(middle(event))
    inner.set_name("inner")
    tasks = {
        "inner": inner,
        "waits": create(waits_for(inner)),
        "gathers": create(waits_for(asyncio.gather(middle(event), inner))),
        "iterates": create(iterates(event)),
        "untouchable": create(waits_for(Untouchable(event))),
    }
    for name, task in tasks.items():
        task.set_name(name)
    for _ in range(3):
        await asyncio.sleep(0)
    found = {one["task"] or one["name"]: one for one in await run()}
    event.set()
    await asyncio.gather(*tasks.values())
    return found


def check(found: Dict[str, Dict[str, Any]]) -> None:
    assert names(found["inner"]) == ["leaf", "middle"]
    assert names(found["waits"]) == ["waits_for"]
    assert found["waits"]["awaits"] == ["inner"]
    assert "inner" in found["gathers"]["awaits"]
    assert len(found["gathers"]["awaits"]) == 2
    assert names(found["iterates"]) == ["leaf", "items", "iterates"]
    assert names(found["untouchable"]) == ["waits_for"]
    assert found["MainThread"]["task"] == ""


def in_a_thread() -> Any:
    return asyncio.get_running_loop().run_in_executor(None, stacks)


def test_tasks_are_told_with_what_they_await() -> None:
    check(asyncio.run(look(in_a_thread)))


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
def test_tasks_that_began_eagerly_are_told() -> None:
    async def main() -> Dict[str, Dict[str, Any]]:
        asyncio.get_running_loop().set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009 - of a later Python
        return await look(in_a_thread)

    check(asyncio.run(main()))


def test_tasks_of_another_kind_of_loop_are_told() -> None:
    uvloop = pytest.importorskip("uvloop")
    if hasattr(uvloop, "run"):
        check(uvloop.run(look(in_a_thread)))
    else:
        loop = uvloop.new_event_loop()
        check(loop.run_until_complete(look(in_a_thread)))
        loop.close()


def test_looking_leaves_nothing_behind() -> None:
    async def main() -> None:
        event = asyncio.Event()
        task = asyncio.get_running_loop().create_task(middle(event))
        await asyncio.sleep(0)
        before = sys.getrefcount(task)
        await in_a_thread()
        assert sys.getrefcount(task) <= before
        event.set()
        await task

    asyncio.run(main())
