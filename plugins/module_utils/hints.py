"""Hints for common errors of builds and starts: which key of the app to set, or which file to change."""

from __future__ import annotations

import re
from collections.abc import Callable

# Debian packages that contain a header, by the start of the header's path.
HEADERS = {
    "Python.h": "python3-dev",
    "bzlib.h": "libbz2-dev",
    "cairo": "libcairo2-dev",
    "cups/": "libcups2-dev",
    "curl/": "libcurl4-openssl-dev",
    "dbus/": "libdbus-1-dev",
    "ffi": "libffi-dev",
    "ft2build.h": "libfreetype-dev",
    "gdal": "libgdal-dev",
    "geos": "libgeos-dev",
    "gmp": "libgmp-dev",
    "gssapi": "libkrb5-dev",
    "hdf5": "libhdf5-dev",
    "jpeglib.h": "libjpeg-dev",
    "krb5": "libkrb5-dev",
    "lber.h": "libldap-dev",
    "ldap.h": "libldap-dev",
    "libpq": "libpq-dev",
    "librdkafka/": "librdkafka-dev",
    "libxml/": "libxml2-dev",
    "libxslt/": "libxslt1-dev",
    "lzma.h": "liblzma-dev",
    "magic.h": "libmagic-dev",
    "mpfr.h": "libmpfr-dev",
    "mysql": "default-libmysqlclient-dev",
    "openssl/": "libssl-dev",
    "portaudio.h": "portaudio19-dev",
    "postgres": "libpq-dev",
    "proj": "libproj-dev",
    "readline/": "libreadline-dev",
    "sasl/": "libsasl2-dev",
    "snappy": "libsnappy-dev",
    "sql.h": "unixodbc-dev",
    "sqlext.h": "unixodbc-dev",
    "sqlite3.h": "libsqlite3-dev",
    "systemd/": "libsystemd-dev",
    "xmlsec/": "libxmlsec1-dev",
    "yaml.h": "libyaml-dev",
    "zlib.h": "zlib1g-dev",
    "zmq": "libzmq3-dev",
}
# Debian packages that contain a program for builds.
PROGRAMS = {
    "cargo": "cargo",
    "cmake": "cmake",
    "curl-config": "libcurl4-openssl-dev",
    "gdal-config": "libgdal-dev",
    "geos-config": "libgeos-dev",
    "gfortran": "gfortran",
    "krb5-config": "libkrb5-dev",
    "mysql_config": "default-libmysqlclient-dev",
    "ninja": "ninja-build",
    "pg_config": "libpq-dev",
    "pkg-config": "pkg-config",
    "pkgconf": "pkg-config",
    "rustc": "rustc",
    "swig": "swig",
    "xml2-config": "libxml2-dev",
    "xslt-config": "libxslt1-dev",
}
# Debian packages that contain a library for the linker.
LINKED = {
    "crypto": "libssl-dev",
    "jpeg": "libjpeg-dev",
    "mysqlclient": "default-libmysqlclient-dev",
    "z": "zlib1g-dev",
}
# Debian packages of shared libraries whose names do not follow from the library's.
LIBRARIES = {
    "geos_c": "libgeos-c1v5",
    "gio-2.0": "libglib2.0-0",
    "glib-2.0": "libglib2.0-0",
    "gobject-2.0": "libglib2.0-0",
    "gthread-2.0": "libglib2.0-0",
    "xml2": "libxml2",
}
# Packages of the index that contain a module of another name.
DISTRIBUTIONS = {
    "MySQLdb": "mysqlclient",
    "PIL": "pillow",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "dotenv": "python-dotenv",
    "jwt": "pyjwt",
    "magic": "python-magic",
    "psycopg": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


def build_package(app: str, what: str, package: str) -> str:
    return (
        f"{what} Add the Debian package that contains it to the key build_packages of {app}, "
        f"such as build_packages: [{package}]"
    )


def missing_header(found: re.Match[str], app: str) -> str:
    header = found[1]
    package = next((name for start, name in HEADERS.items() if header.startswith(start)), f"lib{stem(header)}-dev")
    return build_package(app, f"The build needs the header {header}.", package)


def missing_program(found: re.Match[str], app: str) -> str:
    name = next(filter(None, found.groups()))
    return build_package(app, f"The build needs {name}.", PROGRAMS[name])


def missing_compiler(_found: re.Match[str], app: str) -> str:
    return build_package(app, "The build needs a C compiler.", "build-essential")


def missing_rust(_found: re.Match[str], app: str) -> str:
    return build_package(app, "The build needs a Rust compiler.", "cargo")


def missing_libxml(_found: re.Match[str], app: str) -> str:
    return build_package(app, "The build needs libxml2 and libxslt.", "libxml2-dev, libxslt1-dev")


def missing_link(found: re.Match[str], app: str) -> str:
    package = LINKED.get(found[1]) or f"lib{found[1].lower().replace('_', '-')}-dev"
    return build_package(app, f"The build needs the library {found[1]}.", package)


def missing_library(found: re.Match[str], app: str) -> str:
    """A shared library. Debian names its package after the library and its version: libpq.so.5 is in libpq5."""
    name, version = found[1], next(filter(None, found.groups()[1:]), "")
    base = name.lower().replace("_", "-")
    package = LIBRARIES.get(name) or f"lib{base}{'-' if version and base[-1:].isdigit() else ''}{version}"
    return (
        f"The app needs the shared library lib{name}. Add the Debian package that contains it to the key packages of "
        f"{app}, such as packages: [{package}]"
    )


def missing_module(found: re.Match[str], app: str) -> str:
    module = found[1].split(".")[0]
    package = DISTRIBUTIONS.get(module, module.replace("_", "-"))
    return (
        f"The module {found[1]} is not installed. Add its package, such as {package}, to the requirements of {app}. If "
        "it is a module of the app itself, check the keys wsgi and subfolder."
    )


def not_writable(found: re.Match[str], app: str) -> str:
    path = next(filter(None, found.groups()), "")
    return (
        f"{f'The app can not write to {path}' if path else 'The app can not write to its database file'}: a release is "
        f"never changed. Write to the folder in the environment variable DATA_DIR, /srv/{app}/data, or add the path to "
        f"the key shared_paths of {app}."
    )


def newer_python(_found: re.Match[str], app: str) -> str:
    return (
        f"A package needs another version of Python than {app} has. Set the key python of {app} to an interpreter on "
        "the host, such as python: python3.13"
    )


def stem(header: str) -> str:
    """The likely name of a library, from the path of its header."""
    return re.split(r"[/.]", header)[0].lower().removeprefix("lib").replace("_", "-")


PROGRAM = "|".join(map(re.escape, PROGRAMS))
# Patterns and their hints. The first one that matches counts: errors of builds first, as they quote other errors.
HINTS: list[tuple[str, Callable[[re.Match[str], str], str]]] = [
    (r"does not satisfy Python[<>=!~]|incompatible with the project's Python requirement", newer_python),
    (r"requires a different Python|but the package requires Python ?[<>=]", newer_python),
    (r"fatal error: '?([\w./+-]+\.h(?:pp|h)?)(?:: No such file|' file not found)", missing_header),
    (rf"\b({PROGRAM})(?: executable)?(?:: command)? (?:was )?not found|\b({PROGRAM}): not found", missing_program),
    (rf"No such file or directory: '(?:\S*/)?({PROGRAM})'", missing_program),
    (rf"(?:Did not find|Could not find|Please install|[Cc]an't find) ({PROGRAM})\b", missing_program),
    (r"make sure the libxml2 and libxslt development packages", missing_libxml),
    (r"cannot find -l(\w+)", missing_link),
    (
        r"command '\S*(?:gcc|cc|g\+\+)' failed: No such file|(?:gcc|g\+\+|\bcc): (?:command )?not found"
        r"|No such file or directory: '\S*(?:gcc|g\+\+|/cc|cc)'|Unknown compiler\(s\)|No CMAKE_CX*_COMPILER",
        missing_compiler,
    ),
    (r"can't find Rust compiler|Rust toolchain|cargo, the Rust package manager, is not installed", missing_rust),
    (r"lib([\w.+-]+?)\.so(?:\.(\d+))?[\d.]*: cannot open shared object file", missing_library),
    (r"cannot load library '(?:\S*/)?lib([\w.+-]+?)(?:-(\d+)|\.so(?:\.(\d+))?)?'", missing_library),
    (r"Read-only file system: '([^']+)'|PermissionError: \[Errno 13\] Permission denied: '([^']+)'", not_writable),
    (r"attempt to write a readonly database|unable to open database file", not_writable),
    (r"ModuleNotFoundError: No module named '([\w.]+)'", missing_module),
]


def hint(log: str, app: str) -> str:
    """One line that names the solution of a known error; empty when the error is not known.

    Args:
        log: output of a build, or the log of an app.
        app: name of the app.
    """
    failed_build = "Failed to build" in log  # uv has hints of its own for modules that a build needs
    for pattern, explain in HINTS:
        found = re.search(pattern, log)
        if found and not (failed_build and explain in (missing_module, not_writable)):
            return explain(found, app)
    return ""
