#!/usr/bin/python
"""Report the status of apps and their releases on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_info
short_description: Report the status of apps and their releases
description:
  - Reports the live release, its state, the kept releases and the history. Changes nothing.
options:
  apps:
    description: Names of the apps in the inventory. Other apps of the host are reported, too.
    type: list
    elements: str
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
- name: Report the status of the releases
  blueoctopus.site.release_info:
    apps: [blueoctopus]
  register: releases
"""

RETURN = r"""
apps:
  description: >-
    For each app its name, whether it is in the inventory, live release, commit, state of the systemd unit, number of
    restarts by systemd, current trouble, number of workers, memory in MiB, time since the start, last event, kept
    releases, those that were rolled back from, owner of the lock, certificate, whether it is in maintenance, and the
    history, the oldest first.
  returned: always
  type: list
  elements: dict
"""

import contextlib
import json
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.blueoctopus.site.plugins.module_utils.app_log import find_cause
from ansible_collections.blueoctopus.site.plugins.module_utils.instances import Instance, journal, systemctl
from ansible_collections.blueoctopus.site.plugins.module_utils.release_lock import Lock
from ansible_collections.blueoctopus.site.plugins.module_utils.releases import Releases
from ansible_collections.blueoctopus.site.plugins.module_utils.removal import installed_apps


def duration(seconds: float) -> str:
    """A duration in its two largest units."""
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, seconds = divmod(int(seconds), size)
        if count or unit == "s":
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def certificate_of(name: str) -> dict[str, Any] | None:
    """The certificate of an app's site; None without TLS."""
    folder = Path("/var/lib/certificates") / name
    try:
        if f"{folder}/" not in Path(f"/etc/nginx/sites/{name}.conf").read_text():
            return None
        state = json.loads((folder / "state.json").read_text())
    except (OSError, ValueError):
        return None
    real = (folder / "current/real").exists()
    return {
        "method": state.get("wanted", {}).get("method", ""),
        "days_left": int((state.get("not_after", 0) - time.time()) // 86400) if real else 0,
        "is_there": real,
        "problem": state.get("error", ""),
    }


def describe_trouble(instance: Instance) -> str:
    """The dead units of a live release and the last error in its log, in one line; empty when nothing has died."""
    if not (dead := instance.find_deaths()):
        return ""
    cause = find_cause(journal(f"_SYSTEMD_UNIT={instance.service}", "--since=-10min", "--lines=200"))
    return f"{', '.join(dead)} died and restarted" + (f"; last error: {cause}" if cause else "")


def describe(name: str, in_inventory: bool) -> dict[str, Any]:
    """The status of one app."""
    store = Releases(name, f"/srv/{name}")
    live, history = store.live, store.history()
    properties = "ActiveState,SubState,NRestarts,MainPID,MemoryCurrent,ActiveEnterTimestampMonotonic"
    shown = systemctl("show", f"--property={properties}", f"{name}@{live}.service") if live else ""
    unit = dict(line.split("=", 1) for line in shown.splitlines())
    main = unit.get("MainPID", "0")
    children, memory = [], 0
    # A process may end in the meantime.
    with contextlib.suppress(OSError):
        if main != "0":
            with open(f"/proc/{main}/task/{main}/children") as listed:
                children = listed.read().split()
            # The proportional set size counts shared pages only once in total.
            for pid in (main, *children):
                with open(f"/proc/{pid}/smaps_rollup") as rollup:
                    memory += next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
    since = int(unit.get("ActiveEnterTimestampMonotonic") or 0) / 1e6
    return {
        "name": name,
        "in_inventory": in_inventory,
        "live": live,
        "commit": store.about(live).get("commit", ""),
        "state": "restarting" if unit.get("SubState") == "auto-restart" else unit.get("ActiveState", "absent"),
        "restarts": int(unit.get("NRestarts") or 0),
        "trouble": describe_trouble(Instance(store, live)) if live else "",
        "workers": len(children),
        "memory_mib": memory // 1024,
        "up": duration(time.monotonic() - since) if since else "-",
        "last": next((e for e in reversed(history) if e["result"] != "begun"), None),
        "kept": store.good(),
        "rolled_back": store.rolled_back,
        "unfinished": bool(live) and live != store.confirmed,
        "locked_by": None if (lock := Lock(name)).is_stale else lock.owner,
        "certificate": certificate_of(name),
        "in_maintenance": (store.root / "maintenance").exists(),
        "history": history,
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={"apps": {"type": "list", "elements": "str", "required": True}},
        supports_check_mode=True,
    )
    names = module.params["apps"]
    others = [name for name in installed_apps() if name not in names]
    module.exit_json(changed=False, apps=[describe(name, name in names) for name in (*names, *others)])


if __name__ == "__main__":
    main()
