"""Run the release command of an app while no other host runs it: with a lock in the app's database.

    command_lock.py COMMAND …

psql holds the lock in a session that ends with the command, even if both are killed. The server ends it half a minute
after the host has vanished.
"""

from __future__ import annotations

import os
import subprocess
import sys
from urllib.parse import unquote, urlsplit

KEY = int.from_bytes(b"release", "big")
SCRIPT = rf"""
SELECT pg_try_advisory_lock({KEY}) AS is_locked \gset
\if :is_locked
\else
\echo waiting
SELECT pg_advisory_lock({KEY}) \gset
\endif
\echo locked
"""
SETTINGS = {
    "tcp_keepalives_idle": 10,
    "tcp_keepalives_interval": 5,
    "tcp_keepalives_count": 4,
    "idle_session_timeout": 0,
}


def main() -> None:
    url = os.environ["DATABASE_URL"]
    password = urlsplit(url).password or ""
    # Not as an argument, which the process list shows.
    environment = os.environ | {"PGPASSWORD": unquote(password), "PGCONNECT_TIMEOUT": "30"}
    environment["PGOPTIONS"] = " ".join(f"-c {name}={value}" for name, value in SETTINGS.items())
    environment |= {"PGHOST": "", "PGPORT": "5432"}  # else Debian's psql looks for a cluster on this host
    # No child of the command, which may wait for all of its children.
    psql = ["setsid", "--fork", "psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"]
    psql.append(url.replace(f":{password}@", "@", 1) if password else url)
    ends, session = os.pipe()
    with subprocess.Popen(psql, stdin=ends, stdout=subprocess.PIPE, env=environment, text=True) as begun:
        os.close(ends)
        os.write(session, SCRIPT.encode())
        assert begun.stdout
        for line in begun.stdout:
            if line == "locked\n":
                break
            print("The release command waits for the one of another host.", flush=True)
        else:
            sys.exit("The release command was not run, as it could not take the lock in the app's database.")
    os.set_inheritable(session, True)  # psql ends when the command no longer has it
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606


if __name__ == "__main__":
    main()
