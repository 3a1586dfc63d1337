"""Notes with pictures: the app of the guide docs/your-app.md, an ordinary Flask project with a database and uploads."""

from __future__ import annotations

import os
from pathlib import Path

from flask import Flask, redirect, render_template, request, url_for
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from werkzeug.utils import secure_filename
from werkzeug.wrappers import Response


class Base(DeclarativeBase):
    """Base of the tables."""


db = SQLAlchemy(model_class=Base)


class Note(db.Model):  # type: ignore[name-defined, misc]
    """A note, with the file name of its picture; empty without one."""

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]
    picture: Mapped[str] = mapped_column(default="")


def create_app() -> Flask:
    """The app. It writes only to the folder DATA_DIR; on your own computer, to instance/."""
    app = Flask(__name__)
    data = Path(os.environ.get("DATA_DIR", app.instance_path))
    media = data / "media"
    media.mkdir(parents=True, exist_ok=True)
    app.config["SECRET_KEY"] = os.environ["SECRET_KEY"]
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{data / 'notes.db'}"
    db.init_app(app)
    Migrate(app, db)

    @app.get("/")
    def index() -> str:
        return render_template("index.html", notes=db.session.scalars(db.select(Note)).all())

    @app.post("/notes")
    def add() -> Response:
        note = Note(text=request.form["text"])
        picture = request.files.get("picture")
        if picture and picture.filename:
            note.picture = secure_filename(picture.filename)
            picture.save(media / note.picture)
        db.session.add(note)
        db.session.commit()
        app.logger.warning("A note was added")
        return redirect(url_for("index"))

    @app.get("/healthz")
    def healthz() -> str:
        db.session.execute(db.text("SELECT 1"))
        return "ok\n"

    return app
