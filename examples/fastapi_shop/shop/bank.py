"""The way to the bank that takes the money."""

import asyncio
import os


class BankError(Exception):
    """The bank did not answer as it should."""


class Bank:
    """The bank at an address like `bank.example:443`."""

    def __init__(self, address):
        self.address = address

    async def charge(self, amount, *, card, currency="EUR"):
        """Take `amount` cents from the card; returns the number of the receipt."""
        host, _, port = self.address.partition(":")
        try:
            _reader, writer = await asyncio.wait_for(asyncio.open_connection(host, int(port)), 5)
        except (OSError, asyncio.TimeoutError) as error:
            raise BankError(f"the bank at {self.address} cannot be reached") from error
        writer.close()
        raise BankError("this bank is an example: it takes no money")

    async def receipts(self, day):
        """The receipts of a day, one after the other."""
        for number in range(3):
            await asyncio.sleep(0)
            yield f"{day}-{number}"


# Port 1 has no bank: without a real address, nobody is charged by mistake.
bank = Bank(os.environ.get("SHOP_BANK", "127.0.0.1:1"))
