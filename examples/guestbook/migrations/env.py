"""Settings of Alembic: alembic upgrade head"""

from __future__ import annotations

from alembic import context
from guestbook import database_url
from models import db
from sqlalchemy import create_engine, text

# While a migration waits for the lock of a table, all requests that use the table wait behind it. It fails instead.
LOCK_TIMEOUT = "SET lock_timeout = '5s'"

with create_engine(database_url()).connect() as connection:
    context.configure(connection=connection, target_metadata=db.metadata)
    with context.begin_transaction():
        if connection.dialect.name == "postgresql":
            connection.execute(text(LOCK_TIMEOUT))
        context.run_migrations()
