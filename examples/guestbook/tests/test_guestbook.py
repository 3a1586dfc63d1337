from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from PIL import Image
from werkzeug.test import TestResponse


def sign(client: FlaskClient, picture: bytes = b"", **fields: str) -> TestResponse:
    """Open the page, fill in its form and send it, as a browser does."""
    token = re.search(r'name="csrf_token" value="([^"]+)"', client.get("/").text)
    assert token
    data = {
        "csrf_token": token[1],
        "name": "Ada",
        **fields,
        "picture": (io.BytesIO(picture), "a.png" if picture else ""),
    }
    return client.post("/entries", data=data, content_type="multipart/form-data")


def test_a_new_guestbook_is_empty(client: FlaskClient) -> None:
    assert "Nobody has signed yet." in client.get("/").text


def test_an_entry_is_on_the_page_after_it_was_signed(client: FlaskClient) -> None:
    assert sign(client, message="Eight arms, one book").status_code == 302
    page = client.get("/").text
    assert "Eight arms, one book" in page
    assert "Ada" in page


def test_text_of_guests_is_escaped(client: FlaskClient) -> None:
    sign(client, message="<script>alert(1)</script>")
    assert "&lt;script&gt;" in client.get("/").text


def test_an_entry_without_a_message_is_refused(client: FlaskClient) -> None:
    sign(client, message="  ")
    page = client.get("/").text
    assert "Write a message." in page
    assert "<article" not in page


def test_a_form_of_another_site_is_refused(client: FlaskClient) -> None:
    assert client.post("/entries", data={"name": "Eve", "message": "hello"}).status_code == 400


def test_a_picture_gets_a_thumbnail_that_is_smaller_and_has_no_metadata(
    client: FlaskClient, picture: bytes, tmp_path: Path
) -> None:
    sign(client, message="a picture", picture=picture)
    link = re.search(r'src="(/media/[^"]+)"', client.get("/").text)
    assert link
    answer = client.get(link[1])
    thumbnail = Image.open(io.BytesIO(answer.data))
    assert (thumbnail.format, thumbnail.size) == ("WEBP", (480, 320))
    assert not thumbnail.getexif()
    assert (tmp_path / "pictures/1").read_bytes() == picture


@pytest.mark.parametrize("content", [b"<svg/>", b"GIF89a", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_accepted_picture_is_refused(client: FlaskClient, content: bytes) -> None:
    sign(client, message="not a picture", picture=content)
    page = client.get("/").text
    assert "must be a JPEG, PNG or WebP file" in page
    assert "not a picture" not in page


def test_a_picture_with_damaged_pixels_has_no_thumbnail(client: FlaskClient, picture: bytes) -> None:
    assert sign(client, message="damaged", picture=picture[: len(picture) // 2]).status_code == 302
    page = client.get("/").text
    assert "damaged" in page
    assert "/media/" not in page


def test_an_entry_stays_when_the_queue_can_not_be_reached(
    client: FlaskClient, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "unix:///nonexistent/redis.sock")
    assert sign(client, message="no queue", picture=picture).status_code == 302
    assert "no queue" in client.get("/").text


def test_health_check_fails_without_the_database(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    from models import db

    assert client.get("/healthz").status_code == 200
    monkeypatch.setattr(db.session, "execute", lambda *_: (_ for _ in ()).throw(ConnectionError))
    assert client.get("/healthz").status_code == 500


def test_every_response_restricts_what_browsers_do_with_it(client: FlaskClient) -> None:
    assert "default-src 'self';" in client.get("/").headers["Content-Security-Policy"]


@pytest.mark.parametrize(("scheme", "secure"), [("http", False), ("https", True)])
def test_the_cookie_is_for_https_alone_if_the_client_uses_it(client: FlaskClient, scheme: str, secure: bool) -> None:
    assert ("; Secure" in client.get("/", base_url=f"{scheme}://localhost").headers["Set-Cookie"]) is secure


def test_the_driver_of_the_database_is_psycopg(monkeypatch: pytest.MonkeyPatch) -> None:
    import guestbook

    monkeypatch.setenv("DATABASE_URL", "postgresql://shop@/shop?host=/run/postgresql")
    assert guestbook.database_url() == "postgresql+psycopg://shop@/shop?host=%2Frun%2Fpostgresql"
