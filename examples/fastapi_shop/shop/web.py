"""The shop on the web: `POST /checkout`, `GET /receipts/DAY`."""

import asyncio

from fastapi import BackgroundTasks, FastAPI
from fastapi.responses import JSONResponse

from .bank import BankError, bank
from .mail import thank

PRICES = {"tea": 450, "cup": 1200}  # in cents

app = FastAPI()


def total(items):
    """What the items cost together, in cents."""
    return sum(PRICES[item] * count for item, count in items.items())


@app.post("/checkout")
async def checkout(order: dict, background: BackgroundTasks):
    amount = total(order["items"])
    try:
        receipt = await asyncio.wait_for(bank.charge(amount, card=order["card"]), 1)
    except BankError as error:
        return JSONResponse({"error": str(error)}, 502)
    except asyncio.TimeoutError:
        return JSONResponse({"error": "the bank is too slow"}, 504)
    background.add_task(thank, order.get("mail", ""), receipt)
    return {"receipt": receipt, "paid": amount}


@app.get("/receipts/{day}")
async def receipts(day: str):
    return [receipt async for receipt in bank.receipts(day)]
