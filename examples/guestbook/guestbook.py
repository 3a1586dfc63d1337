"""A guestbook: entries in PostgreSQL, pictures in the data folder, thumbnails made by a worker on a queue in Redis."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from flask import Flask, Response, flash, redirect, render_template, request, send_from_directory, url_for
from flask.sessions import SecureCookieSessionInterface
from flask.typing import ResponseReturnValue
from flask_wtf import CSRFProtect
from jobs import queue_thumbnail
from models import Entry, db
from pictures import InvalidPicture, read_picture
from redis.exceptions import RedisError
from sqlalchemy import make_url, select, text
from werkzeug.middleware.proxy_fix import ProxyFix

# The pages load only files of the site itself, and nothing inline.
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
)
SHOWN = 50  # entries on the page


def database_url() -> str:
    """The URL of the database, for SQLAlchemy's driver psycopg; without DATABASE_URL, as in development, SQLite."""
    given = os.environ.get("DATABASE_URL")
    if not given:
        return f"sqlite:///{Path(__file__).with_name('guestbook.db')}"
    return make_url(given).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


class Sessions(SecureCookieSessionInterface):
    """Sessions whose cookie is for HTTPS alone, except for clients that use plain HTTP."""

    def get_cookie_secure(self, app: Flask) -> bool:  # noqa: ARG002
        return request.is_secure


def create_app() -> Flask:
    """Create the application."""
    app = Flask(__name__)
    app.session_interface = Sessions()
    app.config["SECRET_KEY"] = os.environ["SECRET_KEY"]
    app.config["SQLALCHEMY_DATABASE_URI"] = database_url()
    # A connection that the database server has closed, as after a restart, is replaced before it is used.
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"pool_pre_ping": True}
    app.config["DATA"] = Path(os.environ.get("DATA_DIR", app.instance_path))
    app.config["SESSION_COOKIE_SAMESITE"] = "Lax"
    if n := int(os.environ.get("TRUSTED_PROXIES", "0")):
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=n, x_proto=n, x_host=n)  # type: ignore[method-assign]
    for folder in ("pictures", "media"):
        (app.config["DATA"] / folder).mkdir(parents=True, exist_ok=True)
    app.logger.setLevel(logging.INFO)
    db.init_app(app)
    CSRFProtect(app)

    @app.after_request
    def restrict(response: Response) -> Response:
        """Add headers that suit the pages of this app. nginx adds those that suit every app."""
        response.headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        return response

    @app.get("/")
    def index() -> ResponseReturnValue:
        entries = db.session.scalars(select(Entry).order_by(Entry.id.desc()).limit(SHOWN)).all()
        return render_template("index.html", entries=entries)

    @app.post("/entries")
    def sign() -> ResponseReturnValue:
        try:
            entry = Entry(
                name=request.form.get("name", "").strip()[: Entry.NAME_LENGTH] or "Somebody",
                message=request.form.get("message", "").strip()[: Entry.MESSAGE_LENGTH],
            )
            picture = read_picture(request.files.get("picture"))
        except InvalidPicture as error:
            flash(str(error))
            return redirect(url_for("index"))
        if not entry.message:
            flash("Write a message.")
            return redirect(url_for("index"))
        db.session.add(entry)
        db.session.commit()
        if picture:
            save(entry, picture)
        app.logger.info("Entry %s was added", entry.id)
        return redirect(url_for("index"))

    def save(entry: Entry, picture: bytes) -> None:
        """Keep an uploaded picture, and let the worker make its thumbnail. The original is not served."""
        (app.config["DATA"] / "pictures" / str(entry.id)).write_bytes(picture)
        try:
            queue_thumbnail(entry.id)
        except RedisError as error:  # the entry stays, without a picture
            app.logger.error("The thumbnail of entry %s can't be queued: %s", entry.id, error)

    @app.get("/healthz")
    def healthz() -> ResponseReturnValue:
        """The health check of a deploy: the app works only with its database."""
        db.session.execute(text("SELECT 1"))
        return "ok\n", 200, {"Content-Type": "text/plain; charset=utf-8"}

    if not n:  # nginx serves these files, where it is in front of gunicorn

        @app.get("/media/<path:name>")
        def media(name: str) -> ResponseReturnValue:
            return send_from_directory(app.config["DATA"] / "media", name)

    return app
