"""Talk to the PostgreSQL cluster of a host, as its superuser over its Unix socket."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from ansible_collections.blueoctopus.site.plugins.module_utils.files import read, write

SOCKETS = Path("/run/postgresql")
PORT = 5432
CONFIG = Path("/etc/postgresql")
DATA = Path("/var/lib/postgresql")
FENCED = "disabled"  # in start.conf: nothing starts the cluster
CLUSTER = "main"  # the name that Debian's package gives to the cluster that it creates
ITERATIONS = 4096  # of SCRAM-SHA-256, as PostgreSQL itself uses


class PostgresqlError(Exception):
    """A statement failed, or the server does not answer."""


def cluster_version() -> str:
    """The major version of the cluster on this host; empty without one. After an upgrade, that of the new cluster."""
    try:
        shown = subprocess.run(["pg_lsclusters", "--no-header"], capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    rows = [line.split() for line in shown.stdout.splitlines()]
    return next((row[0] for row in rows if row[1:3] == [CLUSTER, str(PORT)]), "")


def unit_of(version: str) -> str:
    """The systemd unit of the cluster of a version."""
    return f"postgresql@{version}-{CLUSTER}.service"


def psql(sql: str, database: str = "postgres", port: int = 0) -> str:
    """Run statements as the superuser, and return their output. No process list shows them, as they are no argument.

    Args:
        sql: the statements.
        database: the database in which they run.
        port: port of another cluster of this host; that of the apps when 0.

    Raises:
        PostgresqlError: when a statement fails, or the server does not answer.
    """
    command = ["psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1", "--file=-"]
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
        "PGHOST": str(SOCKETS),
        "PGPORT": str(port or PORT),
        "PGDATABASE": database,
        "PGCONNECT_TIMEOUT": "30",
        # Else the owner of a database could have functions of its own called, by a search_path of the database.
        "PGOPTIONS": "-c search_path=pg_catalog",
    }
    as_superuser = ["runuser", "-u", "postgres", "--"]
    done = subprocess.run(
        [*as_superuser, *command], input=sql, cwd="/", env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise PostgresqlError(re.sub(r"^psql:<stdin>:\d+: ERROR: +", "", done.stderr.strip()) or "psql failed")
    return done.stdout.strip()


def as_postgres(*argv: str | Path) -> str:
    """Run a program as the superuser of PostgreSQL, and return its output.

    Raises:
        PostgresqlError: when it fails.
    """
    command = ["runuser", "-u", "postgres", "--", *map(str, argv)]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True)
    if done.returncode:
        raise PostgresqlError(done.stderr.strip() or f"{argv[0]} failed")
    return done.stdout


def control_data(version: str, data: Path) -> dict[str, str]:
    """What pg_controldata shows of a cluster, whether its server runs or not.

    Raises:
        PostgresqlError: when it has none.
    """
    shown = as_postgres(f"/usr/lib/postgresql/{version}/bin/pg_controldata", "-D", data)
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in shown.splitlines())}


def start_mode(version: str, config: Path | None = None) -> str:
    """How the host starts its cluster: auto, manual or disabled.

    Args:
        version: its major version.
        config: the folder of the configuration of all clusters; that of the host when omitted.
    """
    lines = read((config or CONFIG) / version / CLUSTER / "start.conf").splitlines()
    return next(filter(None, (line.partition("#")[0].strip() for line in lines)), "auto")


def set_start_mode(version: str, mode: str) -> None:
    """Change how the host starts its cluster, also after a restart."""
    if start_mode(version) != mode:
        write(CONFIG / version / CLUSTER / "start.conf", f"{mode}\n")
        subprocess.run(["systemctl", "daemon-reload"], check=True, capture_output=True)


def identifier(name: str) -> str:
    """A name, quoted for a statement."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text, quoted for a statement. The server has standard_conforming_strings, so a backslash is no escape."""
    return "'" + text.replace("'", "''") + "'"


# --- passwords ------------------------------------------------------------------------------------------------------


def verifier(password: str, salt: bytes | None = None, iterations: int = ITERATIONS) -> str:
    """The SCRAM-SHA-256 verifier of a password, as PostgreSQL stores it. With it, no statement contains the password.

    Args:
        password: letters, digits, - and _ only.
        salt: a random one when omitted.
        iterations: of the hash.
    """
    salt = salt or os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    parts = [base64.b64encode(part).decode() for part in (salt, hashlib.sha256(client_key).digest(), server_key)]
    return f"SCRAM-SHA-256${iterations}:{parts[0]}${parts[1]}:{parts[2]}"


def verifies(stored: str | None, password: str) -> bool:
    """Whether a stored verifier is that of a password."""
    try:
        kind, parameters, _keys = str(stored).split("$")
        iterations, _, salt = parameters.partition(":")
        expected = verifier(password, base64.b64decode(salt), int(iterations))
    except ValueError:
        return False
    return kind == "SCRAM-SHA-256" and hmac.compare_digest(str(stored), expected)


# --- memory ---------------------------------------------------------------------------------------------------------


def memory_settings(total: int, connections: int, dedicated: bool) -> dict[str, str]:
    """The settings that depend on the size of the machine.

    Args:
        total: memory of the machine, in MiB.
        connections: value of max_connections.
        dedicated: whether the machine runs nothing else; otherwise apps run on it.
    """
    shared = total // 4 if dedicated else total // 8
    work = total // 4 // connections if dedicated else total // 16 // connections
    values: dict[str, Any] = {
        "shared_buffers": max(64, shared),
        "effective_cache_size": max(128, total * 3 // 4 if dedicated else total * 3 // 8),
        "maintenance_work_mem": min(1024, max(32, total // 32)),
        "work_mem": min(64, max(4, work)),
    }
    return {name: f"{value}MB" for name, value in values.items()}
