"""The site of an app, in a real nginx: what clients get."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from nginx_site import ANSWERS, DOMAIN, HASH, Site, needs_nginx, own_address

pytestmark = needs_nginx


# --- headers ----------------------------------------------------------------------------------------------------------

POLICY = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
RESTRICTING = (
    "content-security-policy",
    "content-security-policy-report-only",
    "cross-origin-opener-policy",
    "cross-origin-resource-policy",
    "x-robots-tag",
)


def test_the_default_headers_suit_every_app(site: Site) -> None:
    site.start({})
    headers = site.ask("/").headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "SAMEORIGIN"
    assert headers["referrer-policy"] == "strict-origin-when-cross-origin"
    assert headers["permissions-policy"].startswith("camera=(self), ")
    assert not headers.keys() & set(RESTRICTING)


@pytest.mark.parametrize(
    ("app", "expected"),
    [
        ({"csp": "strict"}, {"content-security-policy": POLICY}),
        ({"csp": "report-only"}, {"content-security-policy-report-only": POLICY}),
        ({"csp": "default-src 'self' cdn.example"}, {"content-security-policy": "default-src 'self' cdn.example"}),
        ({"csp": "strict", "headers": {"Content-Security-Policy": "sandbox"}}, {"content-security-policy": "sandbox"}),
        ({"isolation": True}, {"cross-origin-resource-policy": "same-origin"}),  # the other one needs HTTPS
        ({"robots": False}, {"x-robots-tag": "noindex"}),
    ],
)
def test_a_key_adds_its_header_to_pages_and_to_nginxs_own_answers(
    site: Site, app: dict[str, Any], expected: dict[str, str]
) -> None:
    site.start(app)
    for path, status in (("/", 200), ("/.git/config", 404)):
        answer = site.ask(path)
        assert answer.status == status
        assert {name: answer.headers[name] for name in RESTRICTING if name in answer.headers} == expected


@pytest.mark.parametrize("media", [{}, {"url": "/media/"}])
def test_a_header_of_the_app_wins(site: Site, media: dict[str, str]) -> None:
    site.start({"csp": "strict", "isolation": True, "media": media})
    headers = site.ask("/own").headers
    assert {name: headers[name.lower()] for name in ANSWERS["/own"]} == ANSWERS["/own"]
    assert headers["cross-origin-resource-policy"] == "same-origin"


def test_a_header_arrives_unchanged(site: Site) -> None:
    value = "a 'b' \\ {c}; #d \\n \\"
    site.start({"headers": {"X-Own": value}})
    assert site.ask("/").headers["x-own"] == value


# --- static files -----------------------------------------------------------------------------------------------------


def test_every_static_folder_has_its_url(site: Site) -> None:
    for name in ("static/a.css", "assets/b.css"):
        (site.live / "public" / name).parent.mkdir()
        (site.live / "public" / name).write_text("body {}")
    site.start({"static": [{"url": "/static/", "path": "static"}, {"url": "/assets/", "path": "package:a/b"}]})
    for path in ("/static/a.css", "/assets/b.css"):
        answer = site.ask(path)
        assert (answer.text, answer.headers["content-type"]) == ("body {}", "text/css; charset=utf-8")
    assert site.ask("/static/b.css").text == "app: /static/b.css"


# --- files of the app's data ------------------------------------------------------------------------------------------


@pytest.fixture
def media(site: Site) -> Site:
    """A site with uploaded files, good and bad."""
    for name in ("photo.jpg", "film.mp4", "a.pdf", "note.txt", "page.html", "drawing.svg", "code.js", "style.css", "x"):
        site.put(f"media/{name}")
    return site


@pytest.mark.parametrize(
    ("name", "content_type", "is_download"),
    [
        ("photo.jpg", "image/jpeg", False),
        ("film.mp4", "video/mp4", False),
        ("a.pdf", "application/pdf", False),
        ("note.txt", "text/plain", True),
        ("drawing.svg", "image/svg+xml", True),
        ("page.html", "application/octet-stream", True),
        ("code.js", "application/octet-stream", True),
        ("style.css", "application/octet-stream", True),
        ("x", "application/octet-stream", True),
    ],
)
def test_only_safe_types_of_media_are_shown(media: Site, name: str, content_type: str, is_download: bool) -> None:
    media.start({"media": {"url": "/media/"}, "headers": {"X-Content-Type-Options": ""}, "csp": "strict"})
    answer = media.ask(f"/media/{name}")
    assert (answer.status, answer.text) == (200, "content")
    assert answer.headers["content-type"] == content_type
    assert answer.headers.get("content-disposition") == ("attachment" if is_download else None)
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = answer.headers.get("content-security-policy", "")
    assert policy.startswith("sandbox; default-src 'none'") != (name == "a.pdf")
    assert "x-content-type-options" not in media.ask("/").headers


def test_with_inline_all_types_of_media_are_shown_in_a_sandbox(media: Site) -> None:
    media.start({"media": {"url": "/media/", "inline": True}})
    answer = media.ask("/media/page.html")
    assert answer.headers["content-type"] == "text/html"
    assert "content-disposition" not in answer.headers
    assert answer.headers["content-security-policy"].startswith("sandbox;")


def test_a_link_in_media_is_not_followed(media: Site) -> None:
    media.put("secret.txt", "hidden words")
    (media.root / "data/media/link.jpg").symlink_to(media.root / "data/secret.txt")
    (media.root / "data/media/folder").symlink_to(media.root / "data")
    media.start({"media": {"url": "/media/"}})
    assert media.ask("/media/photo.jpg").status == 200
    for path in ("link.jpg", "folder/secret.txt", "../secret.txt", "..%2fsecret.txt"):
        assert "hidden words" not in media.ask(f"/media/{path}").text, path


def test_a_media_folder_that_is_a_link_is_not_followed(site: Site) -> None:
    site.put("other/a.jpg")
    (site.root / "data/media").symlink_to("other")
    site.start({"media": {"url": "/media/"}})
    assert site.ask("/media/a.jpg").status == 404


def test_a_missing_media_file_gets_the_error_page_of_the_site(media: Site) -> None:
    media.start({"media": {"url": "/media/"}})
    answer = media.ask("/media/none.html")
    assert answer.status == 404
    assert "Page not found" in answer.text
    assert "content-disposition" not in answer.headers
    assert "content-security-policy" not in answer.headers


def test_only_the_app_can_send_a_private_file(site: Site) -> None:
    site.put("private/a.txt")
    site.start({"private_files": {"url": "/private/"}})
    assert site.ask("/private/a.txt").status == 404
    answer = site.ask("/download/a.txt")
    assert (answer.status, answer.text) == (200, "content")
    assert answer.headers["content-type"] == "text/plain"
    assert answer.headers["x-frame-options"] == "SAMEORIGIN"
    assert "x-accel-redirect" not in answer.headers


def test_a_private_page_is_a_download_unless_the_app_decides(site: Site) -> None:
    site.put("private/page.html")
    site.start({"private_files": {"url": "/private/"}})
    headers = site.ask("/download/page.html").headers
    assert headers["content-disposition"] == "attachment"
    assert headers["content-security-policy"].startswith("sandbox;")
    shown = site.ask("/download/shown.html").headers
    assert shown["content-disposition"] == "inline"
    assert shown["content-security-policy"] == "default-src 'self'"
    assert shown["x-frame-options"] == "DENY"


def test_a_link_in_private_files_is_not_followed(site: Site) -> None:
    site.put("private/a.txt")
    site.put("secret.txt", "secret")
    (site.root / "data/private/link").symlink_to(site.root / "data/secret.txt")
    site.start({"private_files": {"url": "/private/"}})
    assert site.ask("/download/link").status == 403


# --- passwords --------------------------------------------------------------------------------------------------------

RIGHT, WRONG = "Basic c3RhZ2luZzpwYXNzd29yZA==", "Basic c3RhZ2luZzp3cm9uZw=="


@pytest.fixture
def closed(site: Site) -> Site:
    """A site that needs a password."""
    (site.live / "htpasswd").write_text(f"staging:{HASH}\n")
    (site.live / "public/static").mkdir()
    (site.live / "public/static/a.css").touch()
    site.put("media/a.jpg")
    (site.folder / "challenges/.well-known/acme-challenge").mkdir(parents=True)
    (site.folder / "challenges/.well-known/acme-challenge/token").write_text("proof")
    site.start({"basic_auth": {"staging": HASH}, "media": {"url": "/media/"}})
    return site


@pytest.mark.parametrize("path", ["/", "/static/a.css", "/static/none", "/media/a.jpg"])
def test_with_basic_auth_everything_needs_a_password(closed: Site, path: str) -> None:
    for answer in (closed.ask(path), closed.ask(path, Authorization=WRONG)):
        assert (answer.status, answer.headers["www-authenticate"]) == (401, 'Basic realm="shop"')
    assert closed.ask(path, Authorization=RIGHT).status == 200


def test_health_checks_and_challenges_need_no_password(closed: Site) -> None:
    assert closed.ask("/", source="127.0.0.1").status == 200
    assert closed.ask("/.well-known/acme-challenge/token").text == "proof"


def test_a_closed_site_tells_about_maintenance_without_a_password(closed: Site) -> None:
    (closed.root / "maintenance").touch()
    answer = closed.ask("/")
    assert answer.status == 503
    assert "Back soon" in answer.text


def test_the_end_of_maintenance_and_a_new_file_are_seen_at_once(site: Site) -> None:
    (site.live / "public/static").mkdir()
    served, new = site.live / "public/static/a.css", site.folder / "new.css"
    served.write_text("old")
    site.start({})
    # Several requests: each worker of nginx could have a cache of its own.
    assert {site.ask("/static/a.css").text for _ in range(8)} == {"old"}
    (site.root / "maintenance").touch()
    assert {site.ask("/").status for _ in range(8)} == {503}
    (site.root / "maintenance").unlink()
    new.write_text("new")
    new.replace(served)
    assert {site.ask("/static/a.css").text for _ in range(8)} == {"new"}
    assert {site.ask("/").status for _ in range(8)} == {200}


# --- redirects, robots, nginx_extra -----------------------------------------------------------------------------------


def test_redirects_keep_the_query(site: Site) -> None:
    redirects = [
        {"from": "/old", "to": "/new"},
        {"from": "/a=b(c)", "to": "https://wiki.example/?x=1", "status": 302},
    ]
    site.start({"redirects": redirects})
    answer = site.ask("/old?a=b")
    assert (answer.status, answer.headers["location"]) == (301, f"http://{DOMAIN}:{site.port}/new?a=b")
    assert site.ask("/old").headers["location"].endswith("/new")
    answer = site.ask("/a=b(c)?a=b")
    assert (answer.status, answer.headers["location"]) == (302, "https://wiki.example/?x=1")
    assert site.ask("/old/").text == "app: /old/"


def test_robots_false_excludes_search_engines(site: Site) -> None:
    site.start({"robots": False})
    assert site.ask("/robots.txt").text == "User-agent: *\nDisallow: /\n"


def test_by_default_the_app_answers_for_robots(site: Site) -> None:
    site.start({})
    assert site.ask("/robots.txt").text == "app: /robots.txt"


def test_directives_of_the_user_are_part_of_the_site(site: Site) -> None:
    site.start({"nginx_extra": 'location = /ping {\n  return 200 "pong {{ x }} $host";\n}  # done'})
    assert site.ask("/ping").text == f"pong {{{{ x }}}} {DOMAIN}"


def test_nginx_names_a_wrong_directive_of_the_user(site: Site) -> None:
    assert 'unknown directive "no_such"' in site.check({"nginx_extra": "no_such thing;"})


@pytest.mark.parametrize("limits", [{"burst": 0}, {"requests": 100000, "burst": 100000, "connections": 65535}])
def test_nginx_accepts_the_limits_of_limits(site: Site, limits: dict[str, int]) -> None:
    assert site.check({"limits": limits}) == ""


@pytest.mark.needs("h2load", "openssl")
def test_the_default_limits_serve_a_page_with_many_pictures_over_http_2(site: Site) -> None:
    site.start({"tls": "selfsigned"})
    address, port = own_address(), site.https_port
    command = ["h2load", "-n", "250", "-c", "2", "-m", "100", f"--connect-to={address}:{port}"]
    done = subprocess.run([*command, f"https://{DOMAIN}:{port}/slow/a"], capture_output=True, text=True, check=True)
    assert "Application protocol: h2" in done.stdout, done.stdout
    assert "status codes: 250 2xx" in done.stdout, done.stdout


# --- apps that share a domain -----------------------------------------------------------------------------------------

BLOG = {"name": "my-blog", "path": "/blog/"}


@pytest.mark.parametrize(
    ("path", "limited"),
    [("/", "/wi.ki/"), ("/x", "/wi.ki/"), ("/wiaki/", "/wi.ki/"), ("/wi.ki", "/wi.ki"), ("/wi.ki/a", "/wi.ki/a")],
)
def test_a_cookie_of_an_app_with_a_path_is_limited_to_that_path(
    site: Site, monkeypatch: pytest.MonkeyPatch, path: str, limited: str
) -> None:
    for url in ("/own-cookie", "/wi.ki/own-cookie"):
        monkeypatch.setitem(ANSWERS, url, {"Set-Cookie": f"session=1; HttpOnly; Path={path}"})
    site.start({}, {"name": "wiki", "path": "/wi.ki/"})
    assert site.ask("/own-cookie").headers["set-cookie"] == f"session=1; HttpOnly; Path={path}"
    assert site.ask("/wi.ki/own-cookie").headers["set-cookie"] == f"session=1; HttpOnly; Path={limited}"


def test_an_app_gets_the_requests_below_its_path(site: Site) -> None:
    site.start({}, BLOG, {"name": "wiki", "path": "/blog/wiki/"})
    for path in ("/", "/blogs", "/blog/", "/blog/a?b=c", "/blog/wiki/x"):
        assert site.ask(path).text == f"app: {path}"
    answer = site.ask("/blog")
    assert (answer.status, answer.headers["location"]) == (301, f"http://{DOMAIN}:{site.port}/blog/")


def test_each_app_of_a_domain_has_its_own_headers(site: Site) -> None:
    site.put_blog("public/blog/static/a.css")
    blog = {"headers": {"X-Own": "blog"}, "redirects": [{"from": "/old", "to": "/new"}]}
    site.start({"headers": {"X-Own": "shop"}, "csp": "strict"}, BLOG | blog)
    for path in ("/blog/", "/blog/static/a.css", "/blog/static/none", "/blog/old"):
        headers = site.ask(path).headers
        assert headers["x-own"] == "blog", path
        assert "content-security-policy" not in headers, path
    assert site.ask("/").headers["x-own"] == "shop"


def test_files_of_an_app_are_below_its_path(site: Site) -> None:
    site.put_blog("public/blog/static/a.css")
    site.put_blog("../data/media/page.html")
    site.start({"static": []}, BLOG | {"media": {"url": "/media/"}, "redirects": [{"from": "/old", "to": "/new"}]})
    assert site.ask("/blog/static/a.css").text == "content"
    page = site.ask("/blog/media/page.html")
    assert (page.text, page.headers["content-disposition"]) == ("content", "attachment")
    assert site.ask("/blog/old").headers["location"].endswith("/blog/new")
    for path in ("/static/a.css", "/media/page.html", "/old"):
        assert site.ask(path).text == f"app: {path}"


@pytest.mark.parametrize(("shop", "blog"), [(True, False), (False, True)])
def test_each_app_of_a_domain_has_its_own_passwords(site: Site, shop: bool, blog: bool) -> None:
    (site.live / "htpasswd").write_text(f"staging:{HASH}\n")
    site.put_blog("htpasswd", f"staging:{HASH}\n")
    site.put_blog("public/blog/static/a.css")
    password = {"basic_auth": {"staging": HASH}}
    site.start(password if shop else {}, BLOG | (password if blog else {}))
    for path, is_closed in {"/": shop, "/blog/": blog, "/blog/static/a.css": blog, "/blog/static/none": blog}.items():
        assert site.ask(path).status == (401 if is_closed else 200), path
        assert site.ask(path, Authorization=RIGHT).status == 200
    # from another site: the response is not compressed, but needs the password all the same
    answer = site.ask("/blog/", Sec_Fetch_Site="cross-site")
    assert answer.status == (401 if blog else 200)


@pytest.mark.parametrize("closed", ["shop", "my-blog"])
def test_maintenance_of_one_app_leaves_the_other_open(site: Site, closed: str) -> None:
    site.put_blog("public/blog/static/a.css")
    site.start({}, BLOG)
    (site.folder / "srv" / closed / "maintenance").touch()
    for path, name in {"/": "shop", "/blog/": "my-blog", "/blog/static/a.css": "my-blog"}.items():
        answer = site.ask(path)
        assert answer.status == (503 if name == closed else 200), path
        assert ("Back soon" in answer.text) == (name == closed)


def test_the_host_itself_gets_missing_files_from_the_app(site: Site) -> None:
    site.put_blog("public/blog/static/a.css")
    site.start({}, BLOG)
    for path in ("/static/none", "/blog/static/none"):
        assert site.ask(path, source="127.0.0.1").text == f"app: {path}"


def test_error_pages_of_nginx_reach_clients_of_an_app_with_a_path(site: Site) -> None:
    site.start({}, BLOG | {"upload_limit": "1k"})
    answer = site.ask("/blog/", body=b"x" * 2000)
    assert answer.status == 413
    assert "Too large" in answer.text
    assert site.ask("/", body=b"x" * 2000).status != 413


def test_an_app_with_a_path_has_the_tls_of_the_domain(site: Site) -> None:
    assert site.check({"tls": "selfsigned"}, BLOG | {"tls": "selfsigned"}) == ""


def test_hsts_is_sent_over_https_only(site: Site) -> None:
    site.start({"tls": "selfsigned", "isolation": True}, BLOG | {"tls": "selfsigned"})
    for path in ("/", "/blog/"):
        assert "strict-transport-security" not in site.ask(path).headers
        headers = site.ask(path, secure=True).headers
        assert headers["strict-transport-security"] == "max-age=63072000"
        assert ("cross-origin-opener-policy" in headers) == (path == "/")
