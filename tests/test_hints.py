"""Hints for errors of builds and starts."""

from __future__ import annotations

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils.hints import hint

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
        ("OSError: [Errno 30] Read-only file system: '/srv/shop/live/x.db'", ["/srv/shop/live/x.db", "DATA_DIR"]),
        ("PermissionError: [Errno 13] Permission denied: 'upload/a'", ["upload/a", "shared_paths of shop"]),
        ("sqlite3.OperationalError: attempt to write a readonly database", ["/srv/shop/data", "DATA_DIR"]),
        ("sqlite3.OperationalError: unable to open database file", ["DATA_DIR", "shared_paths"]),
        ("the current Python version (3.11.2) does not satisfy Python>=3.12 and", ["key python of shop"]),
        (
            "The requested interpreter resolved to Python 3.11.2, which is incompatible with the project's Python "
            "requirement: `>=3.13`",
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
        "",
        "RuntimeError: the database is gone",
        "Hash mismatch for `flask==3.1.3`",
        # uv explains this itself; it is not a requirement of the app.
        f"error: Failed to build `sd==1.0`\n{MODULE} 'setuptools'",
    ],
)
def test_an_unknown_error_has_no_hint(log: str) -> None:
    assert hint(log, "shop") == ""


def test_the_cause_of_a_failed_build_comes_before_what_it_quotes() -> None:
    log = f"{MODULE} 'x'\nx.c:1:10: fatal error: ffi.h: No such file or directory\nerror: Failed to build `x`"
    assert "libffi-dev" in hint(log, "shop")
