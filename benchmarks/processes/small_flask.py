"""A Flask application that is built and left again: `python -m benchmarks.processes.small_flask`. It imports the functions of
`catalogue`."""

from __future__ import annotations

import importlib
from typing import Any

from flask import Flask

from .catalogue import NAME, function

catalogue = importlib.import_module(NAME)


def build() -> Any:
    app = Flask(__name__)

    @app.get("/price")
    def price() -> Any:
        return {"price": getattr(catalogue, function(0))(12)}

    return app


if __name__ == "__main__":
    build()
