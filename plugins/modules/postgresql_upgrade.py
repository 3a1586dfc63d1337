#!/usr/bin/python
"""Upgrade the PostgreSQL cluster of a host to a newer major version, or drop the former cluster."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_upgrade
short_description: Upgrade the PostgreSQL cluster of a host to a newer major version
description:
  - Copies the cluster C(main) on port 5432 to a new one of the newest major version that is installed, with Debian's
    C(pg_upgradecluster). The new cluster gets the port; the former one is kept, stopped.
  - Refreshes the materialized views that had content, as C(pg_upgradecluster) leaves them empty. Then compares rows,
    sequences, views, indexes, functions and extensions, also when an earlier run was interrupted before that. If they
    differ, or a step fails, the former cluster runs again, and the new one is dropped. Clients can't connect meanwhile.
options:
  step:
    description: V(check) only checks whether an upgrade is needed and possible. V(drop) drops the former clusters.
    type: str
    choices: [check, upgrade, drop]
    required: true
  dump:
    description: File for a dump of the whole cluster, made before the upgrade. None is made when empty.
    type: path
    default: ""
extends_documentation_fragment:
  - blueoctopus.site.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
"""

EXAMPLES = r"""
- name: Upgrade PostgreSQL
  blueoctopus.site.postgresql_upgrade:
    step: upgrade
"""

RETURN = r"""
needed:
  description: Whether a newer major version is installed than the cluster has.
  returned: V(check)
  type: bool
old:
  description: Major version of the cluster before.
  returned: V(check) and V(upgrade)
  type: str
new:
  description: Newest major version that is installed.
  returned: V(check) and V(upgrade)
  type: str
interrupted:
  description: Whether an earlier run has not ended. No client can connect to the cluster then.
  returned: V(check)
  type: bool
rows:
  description: Number of rows in all tables that were compared.
  returned: V(upgrade)
  type: int
dropped:
  description: Major versions of the clusters that were dropped.
  returned: V(drop)
  type: list
  elements: str
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.blueoctopus.site.plugins.module_utils import postgresql
from ansible_collections.blueoctopus.site.plugins.module_utils.files import read, write
from ansible_collections.blueoctopus.site.plugins.module_utils.postgresql import CLUSTER, PostgresqlError, psql
from ansible_collections.blueoctopus.site.plugins.module_utils.postgresql_contents import Contents, contents, refresh

PROGRAMS = Path("/usr/lib/postgresql")
# Exists while a cluster is copied. The version in it is that of a cluster that is not complete. After the comparison,
# it has another word: clients may then have written to that cluster.
MARKER = Path("/etc/postgresql-upgrade-to")
COMPARED = "compared"
SPARE = 512 * 2**20  # bytes that stay free
FIRST_OWN = 16384  # the lowest number of a database that is not from initdb
START_TIMEOUT = 120  # seconds
ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    # The user postgres reads a file there, so it is not the folder that libpam-tmpdir gives to root.
    "TMPDIR": "/tmp",  # noqa: S108
}
SIZE = "SELECT coalesce(sum(pg_database_size(oid)), 0) FROM pg_database;"
REPLICAS = """SELECT CASE WHEN pg_is_in_recovery() THEN 'it is a replica itself'
  WHEN EXISTS (SELECT FROM pg_stat_replication) THEN 'a replica is connected'
  WHEN EXISTS (SELECT FROM pg_replication_slots) THEN 'it has replication slots' ELSE '' END;"""


@dataclass(frozen=True)
class Cluster:
    """A cluster of this host, with the name of Debian's packages.

    Args:
        version: its major version.
        port: its port.
        status: such as online, down or online,recovery.
        data: its folder.
    """

    version: str
    port: int
    status: str
    data: Path

    @property
    def unit(self) -> str:
        return f"postgresql@{self.version}-{CLUSTER}.service"

    @property
    def has_databases(self) -> bool:
        """Whether it has a database that is not from its creation. Its server need not run."""
        return any(int(path.name) >= FIRST_OWN for path in (self.data / "base").glob("[0-9]*"))


def clusters() -> list[Cluster]:
    """The clusters of this host, the oldest version first."""
    rows = [line.split() for line in run("pg_lsclusters", "--no-header", accept=(0, 3)).splitlines()]
    found = [Cluster(row[0], int(row[2]), row[3], Path(row[5])) for row in rows if row[1] == CLUSTER]
    return sorted(found, key=lambda one: int(one.version))


def cluster(version: str) -> Cluster | None:
    """The cluster of a version."""
    return next((one for one in clusters() if one.version == version), None)


def current() -> Cluster:
    """The cluster that the apps use.

    Raises:
        PostgresqlError: when there is none.
    """
    for one in clusters():
        if one.port == postgresql.PORT:
            return one
    raise PostgresqlError(f"This host has no PostgreSQL cluster {CLUSTER} on port {postgresql.PORT}.")


def newest() -> str:
    """The newest major version that is installed."""
    return max((path.parent.parent.name for path in PROGRAMS.glob("[0-9]*/bin/postgres")), key=int, default="0")


def run(*argv: str, accept: Collection[int] = (0,)) -> str:
    """Run a program of Debian's postgresql-common, or systemctl, and return its output.

    Args:
        argv: the command.
        accept: exit statuses of success.

    Raises:
        PostgresqlError: when it fails.
    """
    with tempfile.TemporaryFile("w+") as output:  # a server that it starts would keep a pipe open
        try:
            done = subprocess.run(
                argv, cwd="/", env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        except FileNotFoundError:
            raise PostgresqlError(f"{argv[0]} is missing. Run playbooks/site.yml, which installs PostgreSQL.") from None
        output.seek(0)
        text = output.read()
    if done.returncode not in accept:
        raise PostgresqlError(f"{argv[0]} failed: {text.strip()[-1500:]}")
    return text


def check(old: Cluster, new: str, dump: str) -> None:
    """Check that the cluster can be upgraded.

    Raises:
        PostgresqlError: when it can't.
    """
    if "down" in old.status:
        raise PostgresqlError(
            f"PostgreSQL {old.version} does not run. Start it, or find the cause in its log: {old.unit}"
        )
    if replicas := psql(REPLICAS):
        raise PostgresqlError(
            f"PostgreSQL {old.version} is part of a replication: {replicas}.\nAn upgrade makes the replicas useless. "
            "Remove them and their slots, upgrade, then create them again."
        )
    target = cluster(new)
    if target and target.has_databases:
        raise PostgresqlError(
            f"This host has a second cluster with databases, PostgreSQL {new} on port {target.port}. The apps use "
            f"PostgreSQL {old.version}, on port {old.port}.\nNothing is dropped that may be needed. If it is not: "
            f"sudo pg_dropcluster --stop {new} {CLUSTER}"
        )
    size = int(psql(SIZE))
    needed = size * (3 if dump else 2) + SPARE
    free = shutil.disk_usage(old.data).free
    if needed > free:
        raise PostgresqlError(
            f"The upgrade needs {needed >> 20} MiB of disk space, but {old.data} has {free >> 20} MiB free. "
            f"The databases have {size >> 20} MiB."
        )


def interrupted() -> str:
    """The version of the new cluster of an upgrade that was interrupted; empty without one."""
    return MARKER.read_text().split()[0] if MARKER.exists() else ""


def wait(server: Cluster) -> None:
    """Wait until a server accepts connections.

    Raises:
        PostgresqlError: when it does not.
    """
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            psql("SELECT 1;", port=server.port)
        except PostgresqlError as error:
            if time.monotonic() > deadline:
                raise PostgresqlError(f"PostgreSQL {server.version} does not start: {error}") from None
            time.sleep(0.5)
        else:
            return


def start(server: Cluster) -> None:
    """Start a server for its clients, also when it runs without them now."""
    found = cluster(server.version)
    if found and "down" not in found.status:
        run("pg_ctlcluster", "--skip-systemctl-redirect", server.version, CLUSTER, "stop")
    run("systemctl", "daemon-reload")
    run("systemctl", "start", server.unit)
    wait(server)
    MARKER.unlink(missing_ok=True)


@contextlib.contextmanager
def without_clients(server: Cluster) -> Iterator[None]:
    """A running server that only its superuser can connect to."""
    if "down" not in server.status:  # an interrupted run has left it
        run("pg_ctlcluster", "--skip-systemctl-redirect", server.version, CLUSTER, "stop")
    access = postgresql.SOCKETS / "upgrade_hba.conf"
    write(access, "local all postgres peer\n")
    options = f"-c hba_file={access} -c listen_addresses="
    run("pg_ctlcluster", "--skip-systemctl-redirect", server.version, CLUSTER, "start", "-o", options)
    try:
        wait(server)
        yield
    finally:
        run("pg_ctlcluster", "--skip-systemctl-redirect", server.version, CLUSTER, "stop")
        access.unlink()


def undo(old: str, new: str) -> None:
    """Drop the new cluster, to which no client has written, and start the old one as before."""
    if cluster(new):
        run("pg_dropcluster", "--stop", new, CLUSTER)
    run("pg_conftool", old, CLUSTER, "set", "port", str(postgresql.PORT))
    write(postgresql.CONFIG / old / CLUSTER / "start.conf", "auto\n")
    start(current())


def copy_settings(old: str, new: str) -> None:
    """Copy the configuration files that pg_upgradecluster leaves out."""
    for path in (postgresql.CONFIG / old / CLUSTER / "conf.d").glob("*.conf"):
        write(postgresql.CONFIG / new / CLUSTER / "conf.d" / path.name, read(path))


def write_dump(path: Path) -> None:
    """Write all databases and roles to a file that only root can read.

    Raises:
        PostgresqlError: when it fails.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    command = ["runuser", "-u", "postgres", "--", "pg_dumpall", f"--port={postgresql.PORT}"]
    command.append(f"--host={postgresql.SOCKETS}")
    with os.fdopen(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        done = subprocess.run(command, cwd="/", env=ENVIRONMENT, stdout=file, stderr=subprocess.PIPE, text=True)
        os.fsync(file.fileno())
    if done.returncode:
        partial.unlink()
        raise PostgresqlError(f"The dump failed, and nothing was changed: {done.stderr.strip()[-800:]}")
    partial.replace(path)


def upgrade(old: str, new: str, warn: Callable[[str], None], copied: bool = False) -> int:
    """Copy the cluster to a new one, which then has its port, and return the number of rows in all tables.

    Args:
        old: version of the cluster.
        new: version of the new one.
        warn: is called with each warning.
        copied: whether an earlier run has copied it, and was interrupted before it had compared both.

    Raises:
        PostgresqlError: when it fails; the old cluster runs as before, or the new one if it was copied before.
    """
    if cluster(new) and not copied:  # an empty one, as an upgrade of Debian creates it
        run("pg_dropcluster", "--stop", new, CLUSTER)
    write(MARKER, f"{new}\n")
    try:
        if not copied:
            run("pg_upgradecluster", "--no-start", "-v", new, old, CLUSTER)
        copy_settings(old, new)
        empty: list[str] = []
        found: list[Contents] = []
        # Both without clients: pg_upgradecluster goes on when a table can't be restored.
        for one in (one for one in clusters() if one.version in (old, new)):
            with without_clients(one):
                empty = refresh(one.port, found[0].objects) if found else []
                found.append(contents(one.port))
        for view in empty:
            warn(f"{view} could not be refreshed, and has no content. As its owner: REFRESH MATERIALIZED VIEW.")
        if missing := [name for name in found[0].missing_in(found[1]) if name not in empty]:
            raise PostgresqlError(f"PostgreSQL {new} does not have the same content in: {', '.join(missing[:10])}")
        write(MARKER, f"{new} {COMPARED}\n")
        start(current())
    except PostgresqlError as error:
        if copied:  # clients may have written to it since then, so it is never dropped
            start(current())
            advice = "If that is not from clients since the interrupted run, go back: docs/databases.md#upgrades"
            raise PostgresqlError(f"{error}\nPostgreSQL {new} runs, and the former cluster is kept. {advice}") from None
        undo(old, new)
        raise PostgresqlError(f"{error}\nThe upgrade was undone: PostgreSQL {old} runs as before.") from None
    return sum(int(count) for count in found[1].rows.values() if count)


def former() -> list[Cluster]:
    """The clusters that upgrades have kept.

    Raises:
        PostgresqlError: when one of them runs.
    """
    used = current()
    found = [one for one in clusters() if int(one.version) < int(used.version)]
    if running := [one for one in found if "down" not in one.status]:
        raise PostgresqlError(
            f"PostgreSQL {running[0].version} runs on port {running[0].port}, so something may use it. "
            f"Nothing was dropped.\nTo stop it: sudo systemctl stop {running[0].unit}"
        )
    return found


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "step": {"type": "str", "choices": ["check", "upgrade", "drop"], "required": True},
            "dump": {"type": "path", "default": ""},
        },
        supports_check_mode=True,
    )
    step, dump = module.params["step"], module.params["dump"]
    try:
        if step == "drop":
            found = former()
            psql("SELECT 1;")  # the new one works
            for one in found if not module.check_mode else []:
                run("pg_dropcluster", one.version, CLUSTER)
            module.exit_json(changed=bool(found), dropped=[one.version for one in found])
        old, new, begun = current(), newest(), interrupted()
        needed = int(new) > int(old.version) or begun == old.version
        if step == "upgrade" and begun and not module.check_mode:
            if begun == old.version:  # the copy was complete
                before = [one.version for one in clusters() if int(one.version) < int(begun)][-1]
                if COMPARED in MARKER.read_text():
                    start(old)
                count = upgrade(before, begun, module.warn, copied=True) if MARKER.exists() else 0
                module.exit_json(changed=True, needed=True, old=before, new=begun, rows=count)
            undo(old.version, begun)
            old = current()
        if needed and not (begun and (step == "check" or module.check_mode)):
            check(old, new, dump)
        if step == "check" or not needed or module.check_mode:
            about = {"needed": needed, "old": old.version, "new": new, "interrupted": bool(begun)}
            module.exit_json(changed=step == "upgrade" and needed, **about)
        if dump:
            write_dump(Path(dump))
        count = upgrade(old.version, new, module.warn)
        module.exit_json(changed=True, needed=True, old=old.version, new=new, rows=count)
    except PostgresqlError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
