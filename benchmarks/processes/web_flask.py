"""The Flask application that is under load."""

from __future__ import annotations

from typing import Any

from flask import Flask

from . import web_shop
from .reached import counter

app = Flask(__name__)
reached = counter()


@app.get("/")
def show() -> Any:
    reached.add()
    return web_shop.price(12, currency="USD")
