"""An app for the tests of deploys: each response takes 20 ms and contains the version."""

from __future__ import annotations

import os
import time
from pathlib import Path

from flask import Flask, jsonify
from flask.typing import ResponseReturnValue

VERSION = (Path(__file__).parent / "version.txt").read_text().strip()
app = Flask(__name__)


@app.route("/", methods=["GET", "POST"])
def index() -> ResponseReturnValue:
    time.sleep(0.02)
    secret = len(os.environ.get("SECRET_KEY", ""))
    return jsonify(version=VERSION, greeting=os.environ.get("GREETING"), secret=secret, pid=os.getpid())


@app.get("/healthz")
def healthz() -> ResponseReturnValue:
    return "ok\n"
