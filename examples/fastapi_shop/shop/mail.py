"""Letters to customers."""


def thank(address, receipt):
    """Thank a customer, once the request has been answered."""
    if not address:
        raise ValueError(f"receipt {receipt}: nobody to thank")
