#!/usr/bin/python
"""Configure the PostgreSQL cluster of a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_config
short_description: Configure the PostgreSQL cluster of a host
description:
  - Writes configuration files of the cluster C(main) and reloads the server. Restarts it only if a setting requires it.
  - When the server refuses the new configuration, restores the previous files and fails with the server's own message.
  - The cluster is the one on port 5432, whatever its major version is. This module never creates or upgrades one.
  - A change that an interrupted run has not applied is applied by the next run.
options:
  files:
    description: Contents of files by their paths, relative to the folder of the cluster in C(/etc/postgresql).
    type: dict
    required: true
  also_read:
    description: Other files of the server, such as its certificate. It is reloaded when one of them has changed.
    type: list
    elements: path
    default: []
  max_connections:
    description: Number of connections that the server accepts.
    type: int
    default: 100
  lower_connections:
    description: Whether O(max_connections) may lower the number in the present configuration.
    type: bool
    default: true
  dedicated:
    description: Whether the machine runs nothing but PostgreSQL. It gets more of the memory then.
    type: bool
    default: false
  standby:
    description: >-
      Whether the cluster is, or becomes, a standby. If it does not run, only its files are written, and
      M(blueoctopus.site.postgresql_standby) starts it. Of others, one that C(promote.yml) has stopped is an error.
    type: bool
    default: false
extends_documentation_fragment:
  - blueoctopus.site.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
"""

EXAMPLES = r"""
- name: Configure PostgreSQL
  blueoctopus.site.postgresql_config:
    files:
      conf.d/50-site.conf: "{{ lookup('ansible.builtin.template', 'postgresql.conf.j2') }}"
"""

RETURN = r"""
version:
  description: Major version of the cluster; empty in check mode when there is no cluster yet.
  returned: success
  type: str
restarted:
  description: Whether the server was restarted.
  returned: success
  type: bool
"""

import os
import re
import subprocess
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.blueoctopus.site.plugins.module_utils.files import difference, read, write
from ansible_collections.blueoctopus.site.plugins.module_utils.postgresql import (
    CLUSTER,
    CONFIG,
    DATA,
    FENCED,
    PostgresqlError,
    cluster_version,
    memory_settings,
    psql,
    start_mode,
    unit_of,
)

SERVER_FILE = "conf.d/40-machine.conf"
START_TIMEOUT = 120  # seconds: after a power cut, the server replays its log first
RELOAD_TIMEOUT = 15  # seconds
MODE = 0o644  # root owns the files, and the server's user reads them
# Settings that were removed from the files and wait for a restart: PostgreSQL reports each as an error without a file.
REMOVED = "SELECT count(*) FROM pg_file_settings WHERE error IS NOT NULL AND sourcefile IS NULL;"
# Rows of the files that the server could not apply. Settings that wait for a restart are no errors.
INVALID = """
SELECT format('%s, line %s: %s %s', sourcefile, sourceline, coalesce(name || ':', ''), error) FROM pg_file_settings
WHERE error IS NOT NULL AND sourcefile IS NOT NULL
  AND (name IS NULL OR name NOT IN (SELECT name FROM pg_settings WHERE pending_restart))
UNION ALL SELECT format('pg_hba.conf, line %s: %s', line_number, error) FROM pg_hba_file_rules WHERE error IS NOT NULL;
"""


def machine_memory() -> int:
    """The memory of this host, in MiB."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20


def server_file(total: int, connections: int, dedicated: bool) -> str:
    """The file with the settings that depend on the machine."""
    settings = {"max_connections": str(connections), **memory_settings(total, connections, dedicated)}
    return "# Managed by Ansible: from the memory of this host.\n" + "".join(
        f"{name} = {value}\n" for name, value in settings.items()
    )


def configured_connections(content: str) -> int:
    """The number of connections in the file with the settings that depend on the machine; 0 without one."""
    found = re.search(r"^max_connections = (\d+)$", content, re.MULTILINE)
    return int(found[1]) if found else 0


class Server:
    """The server of the cluster.

    Args:
        version: major version of the cluster.
        files: the files that it reads.
    """

    def __init__(self, version: str, files: list[Path]) -> None:
        self.unit = unit_of(version)
        self.log = Path(f"/var/log/postgresql/postgresql-{version}-{CLUSTER}.log")
        self.files = files

    @property
    def answers(self) -> bool:
        """Whether the server accepts connections."""
        try:
            psql("SELECT 1;")
        except PostgresqlError:
            return False
        return True

    @property
    def must_reload(self) -> bool:
        """Whether a file is newer than the configuration that the server uses."""
        newest = max(path.stat().st_mtime for path in self.files if path.exists())
        return float(psql("SELECT extract(epoch FROM pg_conf_load_time());")) < newest

    @property
    def must_restart(self) -> bool:
        """Whether a setting waits for a restart."""
        changed = psql("SELECT count(*) FROM pg_settings WHERE pending_restart;")
        return (changed, psql(REMOVED)) != ("0", "0")

    def control(self, action: str) -> None:
        """Start or restart the server, and wait until it accepts connections.

        Raises:
            PostgresqlError: when it does not; with the end of its log.
        """
        subprocess.run(["systemctl", action, self.unit], capture_output=True, text=True)
        deadline = time.monotonic() + START_TIMEOUT
        while not self.answers:
            state = subprocess.run(["systemctl", "is-active", self.unit], capture_output=True, text=True).stdout.strip()
            if state != "active" or time.monotonic() > deadline:
                raise PostgresqlError("\n".join(["the server does not start:", *read(self.log).splitlines()[-15:]]))
            time.sleep(0.5)

    def apply(self, reload: bool = False) -> tuple[bool, bool]:
        """Make the server use the files; return whether it was changed, and whether it was restarted.

        Args:
            reload: reload the files even if none is newer than what the server uses.

        Raises:
            PostgresqlError: when it refuses them.
        """
        if not self.answers:
            self.control("start")
            return True, True
        reloaded = reload or self.must_reload
        if reloaded:
            psql("SELECT pg_reload_conf();")
            deadline = time.monotonic() + RELOAD_TIMEOUT
            while self.must_reload and time.monotonic() < deadline:
                time.sleep(0.1)
            if invalid := psql(INVALID):
                raise PostgresqlError(invalid)
        if not self.must_restart:
            return reloaded, False
        self.control("restart")
        return True, True


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "files": {"type": "dict", "required": True},
            "also_read": {"type": "list", "elements": "path", "default": []},
            "max_connections": {"type": "int", "default": 100},
            "lower_connections": {"type": "bool", "default": True},
            "dedicated": {"type": "bool", "default": False},
            "standby": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    params, version = module.params, cluster_version()
    if not version and not module.check_mode:
        module.fail_json(
            msg=f"This host has no PostgreSQL cluster {CLUSTER} on port 5432. The first installation of Debian's "
            "package postgresql creates it; pg_lsclusters shows the clusters of the host. To create one by hand: "
            f"sudo pg_createcluster --start VERSION {CLUSTER}"
        )
    is_fenced = bool(version) and start_mode(version) == FENCED
    if is_fenced and not params["standby"]:
        module.fail_json(
            msg="promote.yml has stopped the PostgreSQL cluster of this host, as another host has its databases now. "
            "Set postgresql_standby_of of this host to that one, and remove it there. docs/databases.md#a-standby"
        )
    if not params["standby"] and (DATA / (version or "VERSION") / CLUSTER / "standby.signal").exists():
        module.fail_json(
            msg="The PostgreSQL cluster of this host is a standby, but the inventory says nothing of that. If its "
            "primary is lost, run promote.yml with postgresql_standby_of still set for it. docs/databases.md#a-standby"
        )
    folder = CONFIG / (version or "VERSION") / CLUSTER
    connections = params["max_connections"]
    if not params["lower_connections"]:
        connections = max(connections, configured_connections(read(folder / SERVER_FILE)))
    own = server_file(machine_memory(), connections, params["dedicated"])
    files = {folder / name: str(content) for name, content in {SERVER_FILE: own, **params["files"]}.items()}
    before = {path: read(path) for path in files}
    written = [path for path, content in files.items() if before[path] != content]
    diff = [difference(path, before[path], files[path]) for path in written]
    server = Server(version, [*files, *map(Path, params["also_read"])])
    if module.check_mode:
        waits = not written and not is_fenced
        pending = waits and (not server.answers or server.must_reload or server.must_restart)
        module.exit_json(changed=bool(written) or pending, version=version, restarted=False, diff=diff)
    for path in written:
        write(path, files[path], MODE)
    if is_fenced or (params["standby"] and not server.answers):
        module.exit_json(changed=bool(written), version=version, restarted=False, diff=diff)
    try:
        applied, restarted = server.apply()
    except PostgresqlError as error:
        for path in written:
            if before[path]:
                write(path, before[path], MODE)
            else:
                path.unlink()
        problem = (
            f"PostgreSQL rejects the new configuration. The previous one was restored. PostgreSQL reports:\n{error}"
        )
        try:
            server.apply(reload=True)
        except PostgresqlError as second:
            problem += f"\nWith the previous configuration: {second}"
        module.fail_json(msg=problem)
    module.exit_json(changed=bool(written) or applied, version=version, restarted=restarted, diff=diff)


if __name__ == "__main__":
    main()
