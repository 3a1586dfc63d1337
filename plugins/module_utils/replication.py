"""The replication of the PostgreSQL cluster of a host: whether it is a primary, a standby or fenced, and how it is.

Only root may ask the server. For programs without rights, root runs a copy of this module, which writes the answer.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from ansible_collections.blueoctopus.site.plugins.module_utils.files import write
from ansible_collections.blueoctopus.site.plugins.module_utils.postgresql import (
    CLUSTER,
    CONFIG,
    DATA,
    FENCED,
    PostgresqlError,
    cluster_version,
    psql,
    start_mode,
)

STANDBY = "conf.d/60-standby.conf"  # in the configuration of a standby; it stays after a promotion
NOT_CONNECTED = "not connected"
# pg_basebackup may use the slot for a new copy, which is no standby yet. A standby that is not connected has at least
# what its slot no longer keeps. A server that hangs must not stop the status.
QUESTION = r"""
SET statement_timeout = '5s';
SELECT json_build_object(
    'is_standby', pg_is_in_recovery(),
    'standbys', CASE WHEN pg_is_in_recovery() THEN '[]' ELSE (
        SELECT coalesce(json_agg(json_build_object(
            'name', slot.slot_name,
            'state', sender.state,
            'lag_bytes', pg_wal_lsn_diff(pg_current_wal_lsn(), coalesce(sender.replay_lsn, slot.restart_lsn))
        ) ORDER BY slot.slot_name), '[]')
        FROM pg_replication_slots AS slot
        LEFT JOIN pg_stat_replication AS sender
            ON sender.pid = slot.active_pid AND sender.application_name = slot.slot_name
        WHERE slot.slot_type = 'physical' AND slot.slot_name LIKE 'standby\_%') END,
    'connected', coalesce((SELECT status = 'streaming' FROM pg_stat_wal_receiver), false),
    'is_replayed', pg_last_wal_replay_lsn() >= pg_last_wal_receive_lsn(),
    'age', extract(epoch FROM clock_timestamp()
        - coalesce(pg_last_xact_replay_timestamp(), pg_postmaster_start_time()))
);
"""


def positive(number: float | None) -> float | None:
    """A number that is not below zero, as clocks differ and a standby may be ahead of what was just measured."""
    return None if number is None else max(0, number)


def ask() -> dict[str, Any]:
    """The replication of a cluster whose server runs.

    Raises:
        PostgresqlError: when the server does not answer.
    """
    try:
        found = json.loads(psql(QUESTION))
    except (OSError, ValueError) as error:
        raise PostgresqlError(str(error)) from error
    if not found["is_standby"]:
        standbys = [
            {**one, "state": one["state"] or NOT_CONNECTED, "lag_bytes": positive(one["lag_bytes"])}
            for one in found["standbys"]
        ]
        return {"role": "primary", "standbys": standbys}
    # While the primary is idle, the last transaction is old, and nothing is missing. Without one since the start of the
    # server, the lag is at least the time since then.
    lag = 0.0 if found["connected"] and found["is_replayed"] else positive(found["age"])
    return {"role": "standby", "connected": found["connected"], "lag_seconds": lag}


def describe_replication(config: Path = CONFIG, data: Path = DATA) -> dict[str, Any] | None:
    """The replication of the host; None on a host without any, which the files tell without the server.

    Args:
        config: the folder of the configuration of all clusters.
        data: the folder of their data.
    """
    versions = [path.parent.name for path in config.glob(f"*/{CLUSTER}")]
    version = versions[0] if len(versions) == 1 else cluster_version() if versions else ""
    files, folder = config / version / CLUSTER, data / version / CLUSTER
    is_fenced = start_mode(version, config) == FENCED
    if not version or not (is_fenced or (files / STANDBY).exists() or any(folder.glob("pg_replslot/standby_*"))):
        return None
    found: dict[str, Any] = {"role": "primary", "standbys": [], "lag_seconds": None, "connected": None, "problem": ""}
    try:
        answer = ask()
    except PostgresqlError as error:
        if is_fenced:
            return found | {"role": "fenced"}
        reason = (str(error).splitlines() or ["no reason was given"])[0]
        role = "standby" if (folder / "standby.signal").exists() else "primary"
        return found | {"role": role, "problem": f"PostgreSQL does not answer: {reason}"}
    if is_fenced:
        return found | {"role": "fenced", "problem": "its server must not run any more, and still runs"}
    return found | answer


def main() -> None:
    """Write the replication of the host to the file in the first argument; null without any. All users may read it."""
    os.umask(0o022)  # of the folder; the units that run this have a stricter one
    write(Path(sys.argv[1]), json.dumps(describe_replication()) + "\n")
