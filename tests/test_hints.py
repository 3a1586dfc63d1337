"""Hints for errors of builds and starts."""

from __future__ import annotations

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils.hints import hint

PORT = "Port 5000 is in use by another program."
MODULE = "Traceback (most recent call last):\nModuleNotFoundError: No module named"


@pytest.mark.parametrize(
    ("log", "key", "package"),
    [
        ("src/psycopg.h:35:10: fatal error: libpq-fe.h: No such file or directory", "build_packages", "libpq-dev"),
        ("src/a.c:1:10: fatal error: 'Python.h' file not found", "build_packages", "python3-dev"),
        ("x.c:1:10: fatal error: Python.h: No such file or directory", "build_packages", "python3-dev"),
        ("x.c:1:10: fatal error: libxml/xpath.h: No such file or directory", "build_packages", "libxml2-dev"),
        ("x.c:1:10: fatal error: foo_bar.h: No such file or directory", "build_packages", "libfoo-bar-dev"),
        ("Error: pg_config executable not found.", "build_packages", "libpq-dev"),
        ("/bin/sh: 1: mysql_config: not found", "build_packages", "default-libmysqlclient-dev"),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'cmake'", "build_packages", "cmake"),
        ("error: command 'gcc' failed: No such file or directory", "build_packages", "build-essential"),
        ("error: command '/usr/bin/x86_64-linux-gnu-gcc' failed: No such file", "build_packages", "build-essential"),
        ("error: can't find Rust compiler", "build_packages", "cargo"),
        ("/usr/bin/ld: cannot find -lpq: No such file or directory", "build_packages", "libpq-dev"),
        ("/usr/bin/ld: cannot find -lz", "build_packages", "zlib1g-dev"),
        ("Please make sure the libxml2 and libxslt development packages are", "build_packages", "libxslt1-dev"),
        ("ImportError: libpq.so.5: cannot open shared object file: No such file", "packages", "libpq5"),
        ("OSError: libpango-1.0.so.0: cannot open shared object file", "packages", "libpango-1.0-0"),
        ("ImportError: libGL.so.1: cannot open shared object file", "packages", "libgl1"),
        ("ImportError: libxml2.so.2: cannot open shared object file", "packages", "libxml2"),
        ("OSError: cannot load library 'libgobject-2.0-0': libgobject-2.0-0: x", "packages", "libglib2.0-0"),
        ("OSError: cannot load library 'libcairo.so.2': error", "packages", "libcairo2"),
        ("  Git executable not found. Ensure that Git is installed and available.", "build_packages", "git"),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'ffmpeg'", "packages", "ffmpeg"),
        ("RuntimeWarning: Couldn't find ffmpeg or avconv - defaulting to ffmpeg", "packages", "ffmpeg"),
        ("OSError: No wkhtmltopdf executable found: \"b''\"", "packages", "wkhtmltopdf"),
        ("tesseract is not installed or it's not in your PATH.", "packages", "tesseract-ocr"),
        ("graphviz.ExecutableNotFound: failed to execute PosixPath('dot')", "packages", "graphviz"),
        ("PDFInfoNotInstalledError: Is poppler installed and in PATH?", "packages", "poppler-utils"),
        ("ImportError: failed to find libmagic.  Check your installation", "packages", "libmagic1"),
        ("locale.Error: unsupported locale setting", "packages", "locales-all"),
    ],
)
def test_a_missing_debian_package_is_named_with_its_key(log: str, key: str, package: str) -> None:
    found = hint(f"first line\n{log}\nlast line", "shop")
    assert f"the key {key} of shop, such as {key}: [" in found
    assert package in found.rpartition("[")[2].rstrip("]").split(", ")
    assert "\n" not in found


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (f"{MODULE} 'flask_login'", ["flask_login", "such as flask-login", "requirements of shop"]),
        (f"{MODULE} 'PIL'", ["such as pillow"]),
        (f"{MODULE} 'yaml.nodes'", ["yaml.nodes", "such as pyyaml"]),
        (f"{MODULE} 'pkg_resources'", ["such as setuptools<81,"]),
        (f"{MODULE} 'cgi'", ["such as legacy-cgi,"]),
        (f"{MODULE} 'Crypto.Cipher'", ["such as pycryptodome,"]),
        (f"{MODULE} 'config'", ["no module config", ".gitignore", "environment and secrets of shop"]),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'a/b.json'", ["a/b.json", ".gitignore", "DATA_DIR"]),
        ("OSError: [Errno 30] Read-only file system: '/srv/shop/live/x.db'", ["/srv/shop/live/x.db", "DATA_DIR"]),
        ("PermissionError: [Errno 13] Permission denied: 'upload/a'", ["upload/a", "shared_paths of shop"]),
        ("sqlite3.OperationalError: attempt to write a readonly database", ["/srv/shop/data", "DATA_DIR"]),
        ("sqlite3.OperationalError: unable to open database file", ["DATA_DIR", "shared_paths"]),
        (
            "OSError: [Errno 30] Read-only file system: '/srv/shop/releases/1/source/app.log' -> '/srv/shop/app.log.1'",
            ["app.log", "such as logs/", "to the key shared_paths of shop"],
        ),
        ("OSError: [Errno 30] Read-only file system", ["/srv/shop/data", "shared_paths of shop"]),
        ("PermissionError: [Errno 13] Permission denied", ["/srv/shop/data", "ports from 1024 on"]),
        (" * Serving Flask app 'shop'\n * Debug mode: off", ["put app.run() under if __name__ == '__main__':"]),
        (f" * Serving Flask app 'shop'\nAddress already in use\n{PORT}", ["put app.run() under"]),
        (f"OSError: [Errno 98] Address already in use\n{PORT}", ["Each worker of shop", "while the app is imported"]),
        (
            "AttributeError: module 'select' has no attribute 'epoll'",
            ["Remove monkey_patch()", "async_mode='threading'"],
        ),
        (
            "RuntimeError: The gevent-websocket server is not configured appropriately.",
            ["websockets: true, workers: 1 and threads: 100 for shop"],
        ),
        ("RuntimeError: You need to use the eventlet server.", ["async_mode='threading'"]),
        ("the current Python version (3.11.2) does not satisfy Python>=3.12 and", ["key python of shop"]),
        (
            "The requested interpreter resolved to Python 3.11.2, which is incompatible with the project's Python "
            "requirement: `>=3.13`",
            ["key python of shop"],
        ),
        (
            "hint: You're using CPython 3.11 (`cp311`), but `heavy` (v1.0) only has wheels with the following Python "
            "implementation tag: `cp312`",
            ["key python of shop"],
        ),
    ],
)
def test_other_known_errors_name_what_to_change(log: str, words: list[str]) -> None:
    found = hint(f"first line\n{log}\nlast line", "shop")
    assert [word for word in words if word not in found] == []


@pytest.mark.parametrize(
    "log",
    [
        "werkzeug.exceptions.NotFound: node not found",
        "",
        "RuntimeError: the database is gone",
        "Hash mismatch for `flask==3.1.3`",
        "FileNotFoundError: [Errno 2] No such file or directory: '/etc/shop'",
        # uv explains this itself; it is not a requirement of the app.
        f"error: Failed to build `sd==1.0`\n{MODULE} 'setuptools'",
    ],
)
def test_an_unknown_error_has_no_hint(log: str) -> None:
    assert hint(log, "shop") == ""


def test_the_cause_of_a_failed_build_comes_before_what_it_quotes() -> None:
    log = f"{MODULE} 'x'\nx.c:1:10: fatal error: ffi.h: No such file or directory\nerror: Failed to build `x`"
    assert "libffi-dev" in hint(log, "shop")


def test_a_file_in_the_error_comes_before_an_error_without_one() -> None:
    log = "OSError: [Errno 30] Read-only file system\nOSError: [Errno 30] Read-only file system: '/opt/a'\n"
    assert "no access to /opt/a" in hint(log, "shop")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (
            "/srv/shop/data/app.db",
            "another user owns it or its folder. On the host: sudo chown -R shop: /srv/shop/data",
        ),
        ("/etc/ssl/private/key.pem", "no access to /etc/ssl/private/key.pem. It can write to"),
        ("/srv/shop/releases/1/source/x", "a release is never changed"),
        ("uploads/x", "a release is never changed"),
    ],
)
def test_a_denied_path_gets_advice_for_its_place(path: str, words: str) -> None:
    found = hint(f"PermissionError: [Errno 13] Permission denied: '{path}'", "shop")
    assert words in found
    assert ("a release is never changed" in found) == (words == "a release is never changed")
