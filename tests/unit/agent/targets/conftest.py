"""A module with every kind of attribute, and how a test makes one."""

from __future__ import annotations

import sys
import types

import pytest

SOURCE = """
import collections, functools
from json import dumps
import json as reexported

def charge(order, /, amount=1, *rest, currency, note="", **more): pass
async def coroutine(x): pass
def generator(): yield
async def async_generator(): yield

def decorate(f):
    @functools.wraps(f)
    def wrapper(*args, **kwargs):
        return f(*args, **kwargs)
    return wrapper

@decorate
def decorated(a, b=2): pass

cached = functools.lru_cache(maxsize=1)(charge)
LIMIT = 3

class Meta(type):
    def register(cls): pass

class Base(metaclass=Meta):
    "A gateway."
    def __init__(self, url): pass
    def post(self, data): pass
    def __sign(self): pass
    @staticmethod
    def static(a): pass
    @classmethod
    def make(cls, a): pass
    @property
    def url(self): return 1
    @url.setter
    def url(self, value): pass
    class Inner:
        def deep(self): pass
    class __Hidden:
        def deep(self): pass

class Sub(Base):
    pass

class Slotted:
    __slots__ = ("size",)
    def grow(self): pass

class __:
    def __private(self): pass

class Mapping(dict):
    pass

class Plain:
    "Without a constructor."

class Made:
    def __new__(cls, a): return object.__new__(cls)

bound = Plain().__repr__
"""


def load(monkeypatch: pytest.MonkeyPatch, name: str, source: str) -> types.ModuleType:
    module = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(source, vars(module))
    return module


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    return load(monkeypatch, "shop_of_targets", SOURCE)
