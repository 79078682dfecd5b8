"""What takes a hook off when it is left."""

from __future__ import annotations

import asyncio
from typing import TypeVar

Left = TypeVar("Left", bound="Removable")


class Removable:
    """A context manager, of ``async with`` too, that removes its hook; so do ``close`` and ``aclose``, as those of generators."""

    def remove(self) -> None:
        """Remove the hook. Harmless if it was removed before."""
        raise NotImplementedError

    def close(self) -> None:
        """The same as ``remove``."""
        self.remove()

    async def aclose(self) -> None:
        """The same, without holding up the loop."""
        await asyncio.get_running_loop().run_in_executor(None, self.remove)

    def __enter__(self: Left) -> Left:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.remove()

    async def __aenter__(self: Left) -> Left:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()
