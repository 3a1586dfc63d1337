#!/usr/bin/python
"""Make the PostgreSQL cluster of a host a streaming standby of another host's."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_standby
short_description: Make the PostgreSQL cluster of a host a standby
description:
  - Copies the cluster of the primary with C(pg_basebackup), and follows it from then on (streaming replication). Over
    TLS, with the password of the role C(site_replication).
  - The primary keeps a replication slot for the standby.
  - Nothing is lost. A former primary is kept beside the new cluster. A standby that lacks changes which the primary no
    longer has is copied again.
  - Fails on a host whose data may be newer than that of the primary - a host that was promoted, and a standby of
    another cluster, or with changes that the primary lacks.
options:
  primary:
    description: Address of the primary, as it is in its certificate.
    type: str
    required: true
  authority:
    description: Root certificate of the primary, in PEM form.
    type: str
    required: true
  password:
    description: Password of the role C(site_replication).
    type: str
    required: true
  slot:
    description: Name of the replication slot.
    type: str
    required: true
extends_documentation_fragment:
  - blueoctopus.site.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
"""

EXAMPLES = r"""
- name: Follow the primary
  blueoctopus.site.postgresql_standby:
    primary: 10.0.0.9
    authority: "{{ hostvars.db1.postgresql_authority.root }}"
    password: "{{ password }}"
    slot: standby_db2
"""

RETURN = r"""
copied:
  description: Whether the cluster was copied from the primary.
  returned: success
  type: bool
kept:
  description: Folder of the former cluster; empty when there was nothing to keep.
  returned: success
  type: str
"""

import contextlib
import re
import shutil
import subprocess
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.blueoctopus.site.plugins.module_utils.files import read, write
from ansible_collections.blueoctopus.site.plugins.module_utils.postgresql import (
    CLUSTER,
    CONFIG,
    DATA,
    FENCED,
    PostgresqlError,
    as_postgres,
    cluster_version,
    control_data,
    psql,
    set_start_mode,
    unit_of,
)

FOLDER = Path("/etc/postgresql-standby")
STREAM_TIMEOUT = 60  # seconds
SWAP = (
    "Nothing was changed. If this host has the data that the apps need, make it the primary in the inventory. If not, "
    "stop its server and move its folder /var/lib/postgresql/VERSION/main away. docs/databases.md#a-standby"
)
OWN_DATABASES = "SELECT count(*) FROM pg_database WHERE oid >= 16384;"
STREAMING = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming';"
CONNECTIONS = re.compile(r"^max_connections = (\d+)$", re.MULTILINE)
# In the log of a standby that can't follow any more: the primary has removed the WAL, or the slot.
TOO_LATE = re.compile(r"has already been removed|can no longer get changes|replication slot .* does not exist")


class Standby:
    """The cluster of this host, as a standby.

    Args:
        version: major version of the cluster.
        primary: address of the primary.
        slot: name of the replication slot.
    """

    def __init__(self, version: str, primary: str, slot: str) -> None:
        self.version, self.slot = version, slot
        self.unit = unit_of(version)
        self.data = DATA / version / CLUSTER
        self.config = CONFIG / version / CLUSTER
        self.log = Path(f"/var/log/postgresql/postgresql-{version}-{CLUSTER}.log")
        self.connection = (
            f"host={primary} port=5432 user=site_replication passfile={FOLDER}/pgpass sslmode=verify-full "
            f"sslrootcert={FOLDER}/primary.pem application_name={slot} connect_timeout=10"
        )

    def files(self, authority: str, password: str) -> dict[Path, tuple[str, int]]:
        """The files of the standby, with their modes."""
        settings = f"primary_conninfo = '{self.connection}'\nprimary_slot_name = '{self.slot}'\n"
        return {
            FOLDER / "primary.pem": (authority, 0o644),
            FOLDER / "pgpass": (f"*:*:*:site_replication:{password}\n", 0o600),
            self.config / "conf.d/60-standby.conf": (f"# Managed by Ansible: the primary.\n{settings}", 0o644),
        }

    def ask_primary(self, command: str) -> str:
        """Run a command of the replication protocol on the primary."""
        shown = as_postgres("psql", "-XAtd", f"{self.connection} dbname=postgres replication=true", "-c", command)
        return shown.strip()

    def check(self) -> bool:
        """Whether the cluster is a standby of this primary.

        Raises:
            PostgresqlError: when its data may be newer than that of the primary.
        """
        if self.ask_primary("SHOW in_hot_standby") == "on":
            raise PostgresqlError(f"that host is itself a standby. {SWAP}")
        if not self.data.exists():
            return False
        own = control_data(self.version, self.data)  # before the primary's position, which is the later one
        system, timeline, position = self.ask_primary("IDENTIFY_SYSTEM").split("|")[:3]
        is_standby, is_copy = (self.data / "standby.signal").exists(), own["Database system identifier"] == system
        timelines = [own["Latest checkpoint's TimeLineID"], own["Min recovery ending loc's timeline"]]
        reached = max(number(own["Latest checkpoint location"]), number(own["Minimum recovery ending location"]))
        if is_copy and max(map(int, timelines)) > int(timeline):
            raise PostgresqlError(f"it was promoted after the primary was its primary. {SWAP}")
        if is_standby and not is_copy:
            raise PostgresqlError(
                f"it is a standby of another cluster, such as that of a host with the same name. {SWAP}"
            )
        if is_standby and reached > number(position):
            raise PostgresqlError(f"it has changes that the primary lacks, such as one from an old image. {SWAP}")
        return is_standby

    @property
    def streams(self) -> bool:
        try:
            return psql(STREAMING) == "1"
        except PostgresqlError:
            return False

    def keeps_data(self) -> bool:
        """Whether the cluster has databases that are in no other copy: it is no standby, and not a new one."""
        if (self.data / "standby.signal").exists():
            return False
        try:
            return psql(OWN_DATABASES) != "0"
        except PostgresqlError:
            return self.data.exists()  # a fenced primary does not run

    def copy(self) -> str:
        """Replace the cluster by a copy of the primary; return the folder in which the former one is kept."""
        keeps = self.keeps_data()
        new, former = (self.data.with_name(f"{CLUSTER}.{name}") for name in ("copy", "former"))
        for folder in (new, former):
            shutil.rmtree(folder, ignore_errors=True)
        # A former primary must not run again before it is a standby, also when this is interrupted.
        set_start_mode(self.version, FENCED)
        subprocess.run(["systemctl", "stop", self.unit], check=True, capture_output=True)
        with contextlib.suppress(PostgresqlError):  # it does not exist
            self.ask_primary(f"DROP_REPLICATION_SLOT {self.slot} WAIT")
        self.ask_primary(f"CREATE_REPLICATION_SLOT {self.slot} PHYSICAL RESERVE_WAL")
        try:
            as_postgres(
                f"/usr/lib/postgresql/{self.version}/bin/pg_basebackup", "--dbname", self.connection, "--pgdata", new,
                "--wal-method=stream", f"--slot={self.slot}", "--checkpoint=fast", "--no-password",
            )  # fmt: skip
        except PostgresqlError:
            shutil.rmtree(new, ignore_errors=True)
            raise
        signal = new / "standby.signal"
        signal.touch(0o600)
        shutil.chown(signal, "postgres", "postgres")
        kept = self.data.with_name(f"{CLUSTER}.before-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
        if self.data.exists():
            self.data.rename(kept if keeps else former)
        new.rename(self.data)
        shutil.rmtree(former, ignore_errors=True)
        return str(kept) if keeps else ""

    def accept_connections(self) -> None:
        """Accept at least as many connections as the primary, without which a standby does not start."""
        file = self.config / "conf.d/40-machine.conf"
        needed = int(control_data(self.version, self.data)["max_connections setting"])
        found = CONNECTIONS.search(before := read(file))
        if found and int(found[1]) < needed:
            write(file, CONNECTIONS.sub(f"max_connections = {needed}", before))

    def start(self) -> bool:
        """Start the server, and wait until it follows the primary; False if that lacks changes for it.

        Raises:
            PostgresqlError: when it does not follow; with the end of its log.
        """
        self.accept_connections()
        set_start_mode(self.version, "auto")
        logged = len(read(self.log))
        subprocess.run(["systemctl", "start", self.unit], capture_output=True)
        if not self.streams:
            with contextlib.suppress(PostgresqlError):  # it still starts
                psql("SELECT pg_reload_conf();")  # the primary may be another one
        deadline = time.monotonic() + STREAM_TIMEOUT
        while not self.streams:
            new = read(self.log)[logged:]  # it tries again every five seconds
            if TOO_LATE.search(new):
                return False
            if time.monotonic() > deadline:
                raise PostgresqlError("\n".join(["it does not follow:", *new.splitlines()[-15:]]))
            time.sleep(0.5)
        return True


def write_files(files: dict[Path, tuple[str, int]]) -> bool:
    """Write the files that differ; return whether any did."""
    FOLDER.mkdir(mode=0o750, exist_ok=True)
    shutil.chown(FOLDER, "root", "postgres")
    changed = [path for path, (content, _mode) in files.items() if read(path) != content]
    for path in changed:
        write(path, *files[path])
    shutil.chown(FOLDER / "pgpass", "postgres", "postgres")  # always: an earlier run may have ended before
    return bool(changed)


def number(position: str) -> int:
    """A position in the WAL, such as 0/5000028, as a number."""
    high, _, low = position.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "primary": {"type": "str", "required": True},
            "authority": {"type": "str", "required": True},
            "password": {"type": "str", "required": True, "no_log": True},
            "slot": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    params, version = module.params, cluster_version()
    if module.check_mode:
        signal = DATA / (version or "none") / CLUSTER / "standby.signal"
        module.exit_json(changed=not signal.exists(), copied=False, kept="")
    if not version:
        module.fail_json(msg="This host has no PostgreSQL cluster main. Run playbooks/site.yml, which installs it.")
    if not (params["authority"] and params["password"]):
        module.fail_json(
            msg=f"This run has not configured {params['primary']}, the primary: see its error. Nothing was changed."
        )
    standby = Standby(version, params["primary"], params["slot"])
    copied, kept = False, ""
    try:
        changed = write_files(standby.files(params["authority"], params["password"]))
        other = standby.ask_primary("SHOW server_version").partition(".")[0]
        if other != version:
            module.fail_json(
                msg=f"The primary has PostgreSQL {other}, and this host {version}. A standby needs the same version, "
                "so the same version of Debian. docs/databases.md#a-standby"
            )
        is_standby = standby.check()
        if is_standby and changed and standby.streams:
            psql("SELECT pg_reload_conf();")
        changed |= not standby.streams
        if not (is_standby and standby.start()):
            copied, kept = True, standby.copy()
            if not standby.start():
                raise PostgresqlError("the primary has removed changes since the copy began")
    except (OSError, PostgresqlError, subprocess.CalledProcessError) as error:
        module.fail_json(
            msg=f"This host can't be a standby of {params['primary']}: {error}\nRun this again.", kept=kept
        )
    module.exit_json(changed=changed or copied, copied=copied, kept=kept)


if __name__ == "__main__":
    main()
