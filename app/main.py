"""The app that ships with the project: one page, one JSON endpoint and a health check."""

from __future__ import annotations

import json
import os

from flask import Flask, Response, render_template, request
from flask.typing import ResponseReturnValue
from werkzeug.middleware.proxy_fix import ProxyFix

# The pages load only files of the site itself, and nothing inline.
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
)


def create_app(trusted_proxies: int = 0) -> Flask:
    """Create the application.

    Args:
        trusted_proxies: number of reverse proxies in front of the app. Each adds one entry to the X-Forwarded-*
            headers. The app uses only that many entries, counted from the right. With 0, as in development, it
            ignores the headers, so that a client can't forge its address, the scheme or the host.
    """
    app = Flask(__name__)
    if trusted_proxies:
        n = trusted_proxies
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=n, x_proto=n, x_host=n)  # type: ignore[method-assign]

    release = os.environ.get("RELEASE")

    @app.url_defaults
    def tell_version(endpoint: str, values: dict[str, object]) -> None:
        """Add the release to the URLs of static files, so that browsers can cache them for a year."""
        if endpoint == "static" and release:
            values.setdefault("v", release)

    @app.after_request
    def restrict(response: Response) -> Response:
        """Add headers that suit the pages of this app. nginx adds those that suit every app."""
        response.headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        response.headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
        if request.is_secure:  # browsers ignore it on plain HTTP, and some log an error
            response.headers.setdefault("Cross-Origin-Opener-Policy", "same-origin")
        return response

    @app.get("/")
    def index() -> ResponseReturnValue:
        return render_template("index.html")

    @app.route("/api2", methods=["GET", "POST"])
    def api2() -> ResponseReturnValue:
        answer = {"server_status": 201, "description": "Hello from python"}
        return json.dumps(answer, indent=2) + "\n", 201, {"Content-Type": "application/json"}

    @app.get("/healthz")
    def healthz() -> ResponseReturnValue:
        return "ok\n", 200, {"Content-Type": "text/plain; charset=utf-8"}

    return app


# gunicorn imports `app`. The role app sets TRUSTED_PROXIES, because nginx is in front of gunicorn.
app = create_app(int(os.environ.get("TRUSTED_PROXIES", "0")))

if __name__ == "__main__":
    # The development server listens only on this computer. Its debugger runs any code that a client sends: never turn
    # it on where others can connect. FLASK_RUN_HOST and FLASK_DEBUG=1 are for developers who understand this risk.
    app.run(
        host=os.environ.get("FLASK_RUN_HOST", "127.0.0.1"),
        port=int(os.environ.get("FLASK_RUN_PORT", "5000")),
        debug=os.environ.get("FLASK_DEBUG") == "1",
    )
