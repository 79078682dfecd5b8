"""What the group `observing` looks at: a function that takes an order, of which each way has a copy of its own."""

from __future__ import annotations

from typing import Any


class Customer:
    def __init__(self) -> None:
        self.id, self.vip, self.name, self.email = 7, False, "Ann", "ann@example.org"


class Item:
    def __init__(self, number: int) -> None:
        self.sku, self.name, self.price, self.count = f"a{number}", "thing", 10.0 * number, number


class Order:
    """With a customer and three items."""

    def __init__(self) -> None:
        self.id, self.total, self.currency = 4711, 2100, "EUR"
        self.customer = Customer()
        self.items = [Item(1), Item(2), Item(3)]


def charge(amount: int, customer: Customer, order: Order, currency: str = "EUR") -> Any:
    return amount
