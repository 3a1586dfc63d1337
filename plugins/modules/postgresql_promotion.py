#!/usr/bin/python
"""Stop a primary for good, and promote its standby."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_promotion
short_description: Stop the primary of PostgreSQL, and promote its standby
description:
  - V(checked) changes nothing.
  - V(fenced) stops the primary, also after a restart of the host, so that no app writes to it any more. Before it
    stops, it sends its last changes to a standby that is connected.
  - V(promoted) makes a standby the primary, when it has all changes of the former one.
options:
  state:
    description: The step.
    type: str
    choices: [checked, fenced, promoted]
    required: true
  position:
    description: >-
      Position in the WAL of the primary that was stopped; the standby is not promoted before it has received the WAL up
      to there. Empty to promote it with what it has.
    type: str
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
- name: Stop the primary
  blueoctopus.site.postgresql_promotion:
    state: fenced
  register: fenced
  delegate_to: db1

- name: Promote the standby
  blueoctopus.site.postgresql_promotion:
    state: promoted
    position: "{{ fenced.position }}"
"""

RETURN = r"""
is_stopped:
  description: Whether the host is a primary that was stopped.
  returned: V(checked)
  type: bool
is_primary:
  description: Whether the host is a primary that runs.
  returned: V(checked)
  type: bool
streams:
  description: Whether the standby is connected to its primary, and applies its changes.
  returned: V(checked)
  type: bool
position:
  description: Position in the WAL at which the primary was stopped.
  returned: V(fenced)
  type: str
"""

import subprocess
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.blueoctopus.site.plugins.module_utils.postgresql import (
    CLUSTER,
    DATA,
    FENCED,
    PostgresqlError,
    cluster_version,
    control_data,
    literal,
    psql,
    set_start_mode,
    start_mode,
    unit_of,
)

RECEIVE_TIMEOUT = 30  # seconds
IS_STANDBY = "SELECT pg_is_in_recovery();"
# A standby that accepts fewer connections than its primary receives changes, but pauses before it applies them.
STREAMS = """SELECT count(*) FROM pg_stat_wal_receiver
WHERE status = 'streaming' AND pg_get_wal_replay_pause_state() = 'not paused';"""


def is_stopped(version: str) -> bool:
    """Whether the primary is stopped, also for restarts of the host, and has shut down in order."""
    state = control_data(version, DATA / version / CLUSTER)["Database cluster state"]
    return start_mode(version) == FENCED and state == "shut down"


def fence(version: str) -> str:
    """Stop the server, also for restarts of the host; return its position in the WAL.

    Raises:
        PostgresqlError: when it does not shut down in order.
    """
    if (DATA / version / CLUSTER / "standby.signal").exists():
        raise PostgresqlError("it is a standby, and no primary")
    set_start_mode(version, FENCED)  # first: a host that restarts now does not start it again
    subprocess.run(["systemctl", "stop", unit_of(version)], check=True, capture_output=True)
    control = control_data(version, DATA / version / CLUSTER)
    if control["Database cluster state"] != "shut down":
        raise PostgresqlError(f"the primary has not shut down: its state is {control['Database cluster state']}")
    return control["Latest checkpoint location"]


def promote(position: str) -> None:
    """Promote the standby, once it has received all changes up to a position.

    Raises:
        PostgresqlError: when it has not, or does not become the primary.
    """
    deadline = time.monotonic() + RECEIVE_TIMEOUT
    has_all = f"SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) >= {literal(position)}::pg_lsn;"
    while position and psql(has_all) != "t":
        if time.monotonic() > deadline:
            raise PostgresqlError("it lacks the last changes of the former primary")
        time.sleep(0.5)
    if psql("SELECT pg_promote(true, 60);") != "t":
        raise PostgresqlError("it has not become the primary within 60 seconds")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["checked", "fenced", "promoted"], "required": True},
            "position": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    state, version = module.params["state"], cluster_version()
    if not version:
        module.fail_json(msg="This host has no PostgreSQL cluster. Nothing was changed.")
    try:
        if state == "fenced":
            stopped = is_stopped(version)
            position = "" if module.check_mode else fence(version)
            module.exit_json(changed=not stopped, position=position)
        if state == "checked" and is_stopped(version):
            module.exit_json(changed=False, is_stopped=True, is_primary=False, streams=False)
        is_standby = psql(IS_STANDBY) == "t"
        if state == "checked":
            streams = is_standby and psql(STREAMS) == "1"
            module.exit_json(changed=False, is_stopped=False, is_primary=not is_standby, streams=streams)
        if is_standby and not module.check_mode:
            promote(module.params["position"])
        module.exit_json(changed=is_standby)
    except (OSError, PostgresqlError, subprocess.CalledProcessError) as error:
        problem = {"fenced": "The primary could not be stopped", "promoted": "The standby could not be promoted"}
        module.fail_json(msg=f"{problem.get(state, 'PostgreSQL does not answer')}: {error}")


if __name__ == "__main__":
    main()
