"""An app for the tests of balancers: it shows which host answers and which client it sees, and records each POST."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

from flask import Flask, jsonify, request
from flask.typing import ResponseReturnValue

VERSION = (Path(__file__).parent / "version.txt").read_text().strip()
app = Flask(__name__)


@app.route("/", methods=["GET", "POST"])
def index() -> ResponseReturnValue:
    if request.method == "POST":
        with (Path(os.environ["DATA_DIR"]) / "posts").open("a") as file:
            file.write(f"{request.headers['X-Number']}\n")
    time.sleep(0.02)
    return jsonify(
        version=VERSION,
        answered_by=socket.gethostname(),
        client=request.remote_addr,
        forwarded=request.headers.get("X-Forwarded-For"),
        scheme=request.scheme,
    )


@app.get("/healthz")
def healthz() -> ResponseReturnValue:
    return "ok\n"
