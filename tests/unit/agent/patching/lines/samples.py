"""Functions with a line for each way in which code goes on, and what they come to."""
# fmt: off
# ruff: noqa

import asyncio
import contextlib
import sys


def loops(items):
    total = 0
    for index, item in enumerate(items):
        if item < 0:
            continue
        while item > 3:
            item -= 2
            if item == 7:
                break
        else:
            total += index
        total += item
    return [total, [one * 2 for one in items], {one: total for one in items}]


def tries(value):
    seen = []
    for each in (value, 0, "x", None):
        try:
            try:
                seen.append(10 // each)
            except ZeroDivisionError as error:
                seen.append(str(error))
                raise KeyError(each) from error
            finally:
                seen.append("finally")
        except (KeyError, TypeError) as error:
            seen.append((type(error).__name__, type(error.__context__).__name__))
            del error
    return seen


def withs(value):
    @contextlib.contextmanager
    def entered(name):
        try:
            yield name
        finally:
            value.append(name)

    with entered("a") as one, entered("b"):
        value.append(one)
    with contextlib.suppress(ValueError):
        with entered("c"):
            raise ValueError
    return value


def cells(number):
    count = number

    def up(by=1):
        nonlocal count
        count += by
        return count

    ups = [up(), up(2), (lambda: count + number)()]
    del number
    return ups


def generates(number):
    got = yield number
    try:
        while got:
            got = yield from inner(got)
    except GeneratorExit:
        raise
    return got


def inner(number):
    for one in range(number):
        yield one
    return number - 1


def iterate():
    running = generates(3)
    return [next(running), running.send(2), *running]


async def agenerates(number):
    for one in range(number):
        await asyncio.sleep(0)
        yield one


async def awaits(number):
    found = [one async for one in agenerates(number)]
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(found.append, "left")
        async for one in agenerates(2):
            found.append(one)
    try:
        await asyncio.wait_for(asyncio.sleep(10), 0.001)
    except asyncio.TimeoutError:
        found.append("late")
    return found


def classes(name):
    class Base:
        word = name
        words = [word for word in "ab"]

        def __init__(self):
            self.seen = [__class__.__name__]

    class Made(Base):
        def __init__(self):
            super().__init__()
            self.seen.append(type(self).word)

    return Made().seen, Base.words


def far(number):
    if number:
        number = [number, number + 1, {"a": number, "b": (number, number)}]; number = [number, [number, [number, [number]]]]
        number = [number, number, number, number]; number = [number] * 3; number = [number, number, {"a": 1}]
        number = [len(number), len(number) + 2, len(number) + 3]; number = [number, number, number]; number = [[number]]
        number = [number, number, number]; number = [[number]]; number = [number, [number], [[number]]]
        number = [number, number, number]; number = [[number]]; number = [number, [number], [[number]]]
        number = [number, number, number]; number = [[number]]; number = [number, [number], [[number]]]
    return len(repr(number))


def raises(number):
    if number > 2:
        raise ValueError(
            number,
        )
    return raises(number + 1)


def caught():
    try:
        raises(0)
    except ValueError as error:
        lines = []
        trace = error.__traceback__
        while trace is not None:
            lines.append(trace.tb_lineno - trace.tb_frame.f_code.co_firstlineno)
            trace = trace.tb_next
        return error.args, lines


CALLS = {
    "loops": lambda: loops([1, -1, 9, 4, 12]),
    "tries": lambda: tries(5),
    "withs": lambda: withs([]),
    "cells": lambda: cells(3),
    "iterate": iterate,
    "awaits": lambda: asyncio.run(awaits(3)),
    "classes": lambda: classes("name"),
    "far": lambda: far(4),
    "caught": caught,
}
