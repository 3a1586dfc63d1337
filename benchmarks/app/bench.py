"""The app that ships with the project, with two more routes for measurements."""

from __future__ import annotations

import time
from pathlib import Path

from flask.typing import ResponseReturnValue
from main import app

VERSION = (Path(__file__).parent / "version.txt").read_text().strip()


@app.get("/version")
def version() -> ResponseReturnValue:
    """Which deploy this is."""
    return f"{VERSION}\n", 200, {"Content-Type": "text/plain; charset=utf-8"}


@app.get("/slow")
def slow() -> ResponseReturnValue:
    """Wait for 50 ms, like a handler that asks a database."""
    time.sleep(0.05)
    return "done\n", 200, {"Content-Type": "text/plain; charset=utf-8"}
