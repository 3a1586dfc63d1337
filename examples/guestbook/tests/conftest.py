from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flask:
    """The application as in development: SQLite, and no worker. Its tables are those of the migrations."""
    from alembic import command
    from alembic.config import Config
    from guestbook import create_app

    for name in ("DATABASE_URL", "REDIS_URL", "TRUSTED_PROXIES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SECRET_KEY", "for tests")
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setattr("guestbook.database_url", lambda: f"sqlite:///{tmp_path / 'test.db'}")
    app = create_app()
    folder = Path(__file__).resolve().parent.parent
    config = Config(folder / "alembic.ini")
    config.set_main_option("script_location", str(folder / "migrations"))
    command.upgrade(config, "head")
    return app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def picture() -> bytes:
    """A PNG file, larger than a thumbnail."""
    file = io.BytesIO()
    Image.new("RGB", (960, 640), "teal").save(file, "PNG")
    return file.getvalue()
