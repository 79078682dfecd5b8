# ruff: noqa
# fmt: off
"""What the tests of lines look at: a comment names the line."""

import functools
import os


def total(items, rate=2):
    result = 0  # begin
    for item in items:  # for
        if item < 0 or item > 1000:  # if
            raise ValueError(item)  # raise
        result += item * rate  # add
    while result > 100:  # while
        result -= 100  # less
    with open(os.devnull) as nowhere:  # with
        assert nowhere  # in with
    try:
        1 / rate  # try
    except ZeroDivisionError as error:  # except
        result = str(error)  # handler
    finally:
        rate = None  # finally
    doubled = [  # comprehension
        one * 2 for one in items
    ]
    return (  # return
        result,
        len(doubled),
    )


def maybe(flag):
    if flag:
        value = 1
    flag = not flag  # maybe
    return flag


def make(factor):
    def inner(number):
        return number * factor  # inner

    return inner, lambda number: number + factor  # lambda


def body(name):
    class Made:
        size = len(name)  # class
        twice = size * 2  # class again

    return Made


def count(number):
    while number:
        yield number  # yield
        number -= 1  # resumed


async def acount(number):
    async for one in again(number):  # async for
        number += one  # async add
    return number  # async return


async def again(number):
    for one in range(number):
        yield one


def traced(function):
    @functools.wraps(function)
    def wrapper(*args):
        result = function(*args)  # wrapper
        return result

    return wrapper


@traced
def decorated(number):
    more = number + 1  # decorated
    return more


class Till:
    def __init__(self, card):
        self.card = card

    def take(self, amount, password="secret"):
        left = amount - 1  # take
        return left

    @property
    def label(self): return self.card + "!"  # one line


ready, plus = make(10)
registry = {"handler": lambda text: text.upper()}  # only in a dict


def forgets(flag, big):
    import weakref
    seen = weakref.ref(big[0])
    mine = big.pop()
    if flag:
        late = 1
    flag = mine is None  # holds
    del mine
    return seen() is None


def releases(items):
    for item in items:
        try:
            with open(os.devnull):
                return str(  # returns
                    item)
        finally:
            items = len(items)  # release
            if items:  # asks
                items -= 1  # nested
            try:
                return [item,  # returns instead
                        items]
            finally:
                item = None  # releases again
