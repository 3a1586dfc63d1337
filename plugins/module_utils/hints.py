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
    "Git": "git",
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
# Debian packages that contain a program for the app itself.
TOOLS = {
    "convert": "imagemagick",
    "dot": "graphviz",
    "exiftool": "libimage-exiftool-perl",
    "ffmpeg": "ffmpeg",
    "ffprobe": "ffmpeg",
    "git": "git",
    "gs": "ghostscript",
    "node": "nodejs",
    "pandoc": "pandoc",
    "pdftoppm": "poppler-utils",
    "pdftotext": "poppler-utils",
    "pg_dump": "postgresql-client",
    "soffice": "libreoffice",
    "tesseract": "tesseract-ocr",
    "wkhtmltopdf": "wkhtmltopdf",
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
# Packages of the index that contain a module of another name, or one that Python 3.13 lacks.
DISTRIBUTIONS = {
    "Crypto": "pycryptodome",
    "MySQLdb": "mysqlclient",
    "OpenSSL": "pyopenssl",
    "PIL": "pillow",
    "asyncore": "standard-asyncore",
    "attr": "attrs",
    "audioop": "audioop-lts",
    "bs4": "beautifulsoup4",
    "cgi": "legacy-cgi",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "decouple": "python-decouple",
    "distutils": "setuptools",
    "dns": "dnspython",
    "docx": "python-docx",
    "dotenv": "python-dotenv",
    "fitz": "pymupdf",
    "git": "gitpython",
    "imghdr": "standard-imghdr",
    "jose": "python-jose",
    "jwt": "pyjwt",
    "ldap": "python-ldap",
    "magic": "python-magic",
    "nacl": "pynacl",
    "pkg_resources": "setuptools<81",
    "pptx": "python-pptx",
    "psycopg": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
    "serial": "pyserial",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "slugify": "python-slugify",
    "telnetlib": "standard-telnetlib",
    "yaml": "pyyaml",
    "zmq": "pyzmq",
}
# Modules that are usually the app's own.
OWN_MODULES = {"app", "config", "local_settings", "models", "secret", "settings", "utils"}
IGNORED = "Files that .gitignore matches are not deployed."


def build_package(app: str, what: str, package: str) -> str:
    return (
        f"{what} Add the Debian package that contains it to the key build_packages of {app}, "
        f"such as build_packages: [{package}]"
    )


def stem(header: str) -> str:
    """The likely name of a library, from the path of its header."""
    return re.split(r"[/.]", header)[0].lower().removeprefix("lib").replace("_", "-")


def app_package(app: str, what: str, package: str) -> str:
    return f"{what} Add the Debian package that contains it to the key packages of {app}, such as packages: [{package}]"


def missing_header(found: re.Match[str], app: str) -> str:
    header = found[1]
    package = next((name for start, name in HEADERS.items() if header.startswith(start)), f"lib{stem(header)}-dev")
    return build_package(app, f"The build needs the header {header}.", package)


def missing_program(found: re.Match[str], app: str) -> str:
    name = next(filter(None, found.groups()))
    return build_package(app, f"The build needs {name}.", PROGRAMS[name])


def missing_tool(found: re.Match[str], app: str) -> str:
    name = next(filter(None, found.groups()))
    return app_package(app, f"The app needs the program {name}.", TOOLS[name])


def missing_link(found: re.Match[str], app: str) -> str:
    package = LINKED.get(found[1]) or f"lib{found[1].lower().replace('_', '-')}-dev"
    return build_package(app, f"The build needs the library {found[1]}.", package)


def missing_library(found: re.Match[str], app: str) -> str:
    """A shared library. Debian names its package after the library and its version: libpq.so.5 is in libpq5."""
    name, version = found[1], next(filter(None, found.groups()[1:]), "")
    base = name.lower().replace("_", "-")
    package = LIBRARIES.get(name) or f"lib{base}{'-' if version and base[-1:].isdigit() else ''}{version}"
    return app_package(app, f"The app needs the shared library lib{name}.", package)


def missing_module(found: re.Match[str], app: str) -> str:
    module = found[1].split(".")[0]
    if module in OWN_MODULES:
        return (
            f"The release has no module {found[1]}. {IGNORED} Read its values from the environment, with the keys "
            f"environment and secrets of {app}. Otherwise check the keys wsgi and subfolder."
        )
    package = DISTRIBUTIONS.get(module, module.replace("_", "-"))
    return (
        f"The module {found[1]} is not installed. Add its package, such as {package}, to the requirements of {app}. If "
        f"it is a module of the app itself, check the keys wsgi and subfolder. {IGNORED}"
    )


def missing_file(found: re.Match[str], app: str) -> str:
    return (
        f"The app does not find {found[1]} in the folder of its source. {IGNORED} For a file that the app writes, use "
        f"the folder in the environment variable DATA_DIR, /srv/{app}/data, or the key shared_paths of {app}."
    )


def not_writable(found: re.Match[str], app: str) -> str:
    path, data = next(filter(None, found.groups()), ""), f"/srv/{app}/data"
    owner = f"another user owns it or its folder. On the host: sudo chown -R {app}: {data}"
    if path.startswith(f"{data}/"):
        return f"The app has no access to {path}: {owner}"
    if path.startswith("/") and not path.startswith("/srv/"):
        return f"The app has no access to {path}. It can write to the folder {data}, the environment variable DATA_DIR."
    advice = (
        f"The app can't write to {path or 'its database file'}: a release is never changed. Write to the folder in the "
        f"environment variable DATA_DIR, {data}, or add the path to the key shared_paths of {app}."
    )
    return advice if path else f"{advice} If the file is in {data}, {owner}"


def fixed_name(found: re.Match[str], app: str) -> str:
    return (
        f"The app renames or replaces {found[1]}, which a release does not allow. Let it write the file into a folder "
        f"of its own, such as logs/, and add that folder to the key shared_paths of {app}."
    )


COMPILER = build_package("{app}", "The build needs a C compiler.", "build-essential, python3-dev")
RUST = build_package("{app}", "The build needs a Rust compiler.", "cargo")
LIBXML = build_package("{app}", "The build needs libxml2 and libxslt.", "libxml2-dev, libxslt1-dev")
LOCALES = app_package("{app}", "The app needs a locale that the host does not have.", "locales-all")
MAGIC = app_package("{app}", "The app needs the shared library libmagic.", "libmagic1")
POPPLER = app_package("{app}", "The app needs the program pdftoppm.", "poppler-utils")
REFUSED = (
    "The system denied the app access to a file or a port; the error does not say which. The app can write to the "
    "folder in the environment variable DATA_DIR, /srv/{app}/data, and to the paths in the key shared_paths of {app}; "
    "it can open ports from 1024 on."
)
OWN_SERVER = (
    "The app starts a server of its own while it is imported. gunicorn is the server here: put app.run() under "
    "if __name__ == '__main__':"
)
PORT_IN_USE = (
    "The app opens a port that is in use. Each worker of {app} imports the app, and the previous release runs until "
    "the new one is live. Do not open a port while the app is imported: put the start of a server under "
    "if __name__ == '__main__':"
)
NEWER_PYTHON = (
    "A package needs another version of Python than {app} has. Set the key python of {app} to an interpreter on the "
    "host, such as python: python3.13"
)
NO_GEVENT = (
    "gunicorn answers requests in threads here, without gevent and eventlet. Remove monkey_patch() from the app. With "
    "Flask-SocketIO, write SocketIO(app, async_mode='threading') and set websockets: true, workers: 1 and threads: 100 "
    "for {app}."
)
TOO_MUCH_LOG = (
    "{app} logs more than the journal accepts within 30 s, and the journal drops the rest. Log less, such as with the "
    "level WARNING for the loggers of {app}."
)


def not_found(programs: dict[str, str]) -> str:
    """A pattern for the errors of shells, Python and libraries about a program that is not installed."""
    name = f"({'|'.join(map(re.escape, programs))})"
    return (
        rf"\b{name}(?: executable|: command) (?:was )?not found|\b{name}: not found|\b{name} is not installed"
        rf"|No such file or directory: '(?:\S*/)?{name}'|[Ff]ailed to execute \S*\b{name}\b"
        rf"|(?:Did not find|Could not find|Couldn't find|Please install|[Cc]an't find) {name}\b|No {name} executable"
    )


# Patterns and their hints: a text, or a function of the match and the app. The first one that matches counts: errors of
# builds first, as they quote other errors.
HINTS: list[tuple[str, str | Callable[[re.Match[str], str], str]]] = [
    (r"does not satisfy Python[<>=!~]|incompatible with the project's Python requirement", NEWER_PYTHON),
    (r"the following Python (?:implementation|ABI) tag|The wheel is compatible with CPython", NEWER_PYTHON),
    (r"requires a different Python|but the package requires Python ?[<>=]", NEWER_PYTHON),
    (r"fatal error: '?([\w./+-]+\.h(?:pp|h)?)(?:: No such file|' file not found)", missing_header),
    (not_found(PROGRAMS), missing_program),
    (r"make sure the libxml2 and libxslt development packages", LIBXML),
    (r"cannot find -l(\w+)", missing_link),
    (
        r"command '\S*(?:gcc|cc|g\+\+)' failed: No such file|(?:gcc|g\+\+|\bcc): (?:command )?not found"
        r"|No such file or directory: '\S*(?:gcc|g\+\+|/cc|cc)'|Unknown compiler\(s\)|No CMAKE_CX*_COMPILER",
        COMPILER,
    ),
    (r"can't find Rust compiler|Rust toolchain|cargo, the Rust package manager, is not installed", RUST),
    (
        r"module 'select' has no attribute 'epoll'|gevent-websocket server is not configured"
        r"|need to use the eventlet server",
        NO_GEVENT,
    ),
    (r"\* Serving Flask app", OWN_SERVER),
    (r"Address already in use|Port \d+ is in use by another program", PORT_IN_USE),
    (r"lib([\w.+-]+?)\.so(?:\.(\d+))?[\d.]*: cannot open shared object file", missing_library),
    (r"cannot load library '(?:\S*/)?lib([\w.+-]+?)(?:-(\d+)|\.so(?:\.(\d+))?)?'", missing_library),
    (r"(?:Read-only file system|Permission denied): '([^']+)' -> '", fixed_name),
    (r"Read-only file system: '([^']+)'|PermissionError: \[Errno 13\] Permission denied: '([^']+)'", not_writable),
    (r"attempt to write a readonly database|unable to open database file", not_writable),
    (r"(?m)\[Errno 30\] Read-only file system$|\[Errno 13\] Permission denied$", REFUSED),
    (not_found(TOOLS), missing_tool),
    (r"Is poppler installed", POPPLER),
    (r"unsupported locale setting", LOCALES),
    (r"failed to find libmagic", MAGIC),
    (r"FileNotFoundError: \[Errno 2\] No such file or directory: '([^/'][^']*)'", missing_file),
    (r"^Suppressed \d+ messages from ", TOO_MUCH_LOG),
    (r"ModuleNotFoundError: No module named '([\w.]+)'", missing_module),
]


def hint(log: str, app: str) -> str:
    """One line that names the solution of a known error; empty when the error is not known.

    Args:
        log: output of a build, or the log of an app.
        app: name of the app.
    """
    failed_build = "Failed to build" in log  # uv has hints of its own for modules that a build needs
    for pattern, advice in HINTS:
        found = re.search(pattern, log)
        if found and not (failed_build and advice in (missing_module, missing_file, fixed_name, not_writable, REFUSED)):
            return advice.format(app=app) if isinstance(advice, str) else advice(found, app)
    return ""
