"""The FastAPI application that is under load."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from . import web_shop
from .reached import counter

app = FastAPI()
reached = counter()


@app.get("/")
async def show() -> Any:
    reached.add()
    return await web_shop.price_async(12, currency="USD")
