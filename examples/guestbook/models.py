"""The tables. Alembic creates and changes them: migrations/."""

from __future__ import annotations

from datetime import datetime

from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import DateTime, String, Text, func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Base of the tables."""


db = SQLAlchemy(model_class=Base)


class Entry(db.Model):  # type: ignore[name-defined, misc]
    """An entry of the guestbook."""

    NAME_LENGTH = 80
    MESSAGE_LENGTH = 2000

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(NAME_LENGTH))
    message: Mapped[str] = mapped_column(Text)
    # The file in /media/ that the worker has made of the uploaded picture; empty until then, and without a picture.
    thumbnail: Mapped[str] = mapped_column(String(80), default="", server_default="")
    written: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
