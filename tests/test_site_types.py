"""The content types of static files and of responses of the app, in a real nginx."""

from __future__ import annotations

import pytest
from nginx_site import ANSWERS, Site, needs_nginx

pytestmark = needs_nginx


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("a.html", "text/html; charset=utf-8"),
        ("a.js", "application/javascript; charset=utf-8"),
        ("a.mjs", "text/javascript; charset=utf-8"),
        ("a.png", "image/png"),
        ("a.ttf", "font/ttf"),
        ("a.txt", "text/plain; charset=utf-8"),
        ("a.webmanifest", "application/manifest+json"),
    ],
)
def test_a_static_file_has_the_type_that_flask_gives_it(site: Site, name: str, content_type: str) -> None:
    path = site.live / "public/static" / name
    path.parent.mkdir()
    path.write_text("é")
    site.start({})
    assert site.ask(f"/static/{name}").headers["content-type"] == content_type


def test_the_type_of_a_response_of_the_app_is_not_changed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, content_type in {"/a": "text/plain", "/static/a": "text/plain; charset=latin-1"}.items():
        monkeypatch.setitem(ANSWERS, path, {"Content-Type": content_type})
    site.start({})
    assert site.ask("/a").headers["content-type"] == "text/plain"
    assert site.ask("/static/a").headers["content-type"] == "text/plain; charset=latin-1"
