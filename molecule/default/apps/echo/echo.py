"""A second app for the tests: it returns what it gets from a request and from its environment."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from flask import Flask, Response, jsonify, request
from flask.typing import ResponseReturnValue
from simple_websocket import Server  # type: ignore[import-untyped]
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
            without_proxy_fix={
                "client": request.environ["werkzeug.proxy_fix.orig"]["REMOTE_ADDR"],
                "scheme": request.environ["werkzeug.proxy_fix.orig"]["wsgi.url_scheme"],
                "host": request.environ["werkzeug.proxy_fix.orig"]["HTTP_HOST"],
            },
            headers=dict(request.headers),
            pid=os.getpid(),
            greeting=os.environ.get("GREETING"),
            secret_digest=hashlib.sha256(os.environ["SECRET_KEY"].encode()).hexdigest(),
        )

    @app.get("/slow")
    def slow() -> ResponseReturnValue:
        time.sleep(float(request.args["seconds"]))
        return "done\n"

    @app.get("/drip")
    def drip() -> ResponseReturnValue:
        def drops() -> Iterator[str]:
            for number in range(3):
                yield f"{number}\n"
                time.sleep(1)

        return Response(drops(), mimetype="text/plain")

    @app.route("/chat", websocket=True)
    def chat() -> ResponseReturnValue:
        socket = Server.accept(request.environ)
        socket.send(f"you said {socket.receive()}")
        socket.close()
        return Response()

    @app.get("/inline")
    def inline() -> ResponseReturnValue:
        return "<p>before</p><script>document.body.append('aft' + 'er')</script>"

    @app.get("/own-headers")
    def own_headers() -> ResponseReturnValue:
        return "own\n", {"Content-Security-Policy": "default-src 'none'", "X-Request-Id": "forged"}

    @app.get("/download")
    def download() -> ResponseReturnValue:
        return "", {"X-Accel-Redirect": "/private/b.txt", "Content-Type": "text/plain"}

    @app.post("/write")
    def write() -> ResponseReturnValue:
        try:
            Path(request.args["path"]).write_text("written by the app\n")
        except OSError as error:
            return jsonify(error=type(error).__name__), 403
        return "written\n"

    @app.post("/eat")
    def eat() -> ResponseReturnValue:
        return f"{len(b'x' * (int(request.args['mebibytes']) << 20))}\n"

    return app
