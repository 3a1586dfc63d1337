"""A second app for the tests: it tells what it sees of a request and of its surroundings."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

from flask import Flask, jsonify, request
from flask.typing import ResponseReturnValue
from werkzeug.middleware.proxy_fix import ProxyFix


def create_app() -> Flask:
    app = Flask(__name__)
    app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1, x_host=1)  # type: ignore[method-assign]

    @app.route("/", methods=["GET", "POST"])
    def seen() -> ResponseReturnValue:
        return jsonify(
            client=request.remote_addr,
            scheme=request.scheme,
            host=request.host,
            url=request.url,
            headers=dict(request.headers),
            pid=os.getpid(),
            greeting=os.environ.get("GREETING"),
            secret_digest=hashlib.sha256(os.environ["SECRET_KEY"].encode()).hexdigest(),
        )

    @app.get("/slow")
    def slow() -> ResponseReturnValue:
        time.sleep(float(request.args["seconds"]))
        return "done\n"

    @app.post("/write")
    def write() -> ResponseReturnValue:
        try:
            Path(request.args["path"]).write_text("written by the app\n")
        except OSError as error:
            return jsonify(error=type(error).__name__), 403
        return "written\n"

    return app
