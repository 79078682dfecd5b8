"""Flags of code objects, as `inspect` has them: importing that costs an application's start-up some milliseconds."""

from __future__ import annotations

CO_OPTIMIZED = 0x1
CO_VARARGS = 0x4
CO_VARKEYWORDS = 0x8
CO_NESTED = 0x10
CO_GENERATOR = 0x20
CO_COROUTINE = 0x80
CO_ASYNC_GENERATOR = 0x200
