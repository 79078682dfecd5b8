"""The shop on the web: `POST /checkout` with the items and the card, as JSON."""

from flask import Flask, request

from . import checkout
from .gateway import GatewayError

app = Flask("shop")


@app.post("/checkout")
def pay():
    order = request.get_json()
    amount = checkout.total(order["items"])
    return {"receipt": checkout.charge(amount, card=order["card"]), "paid": amount}


@app.errorhandler(checkout.Declined)
def declined(error):
    return {"error": f"declined: {error}"}, 402


@app.errorhandler(GatewayError)
def unreachable(error):
    return {"error": str(error)}, 502
