#!/usr/bin/python
"""Report the state of a host and its apps."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_status
short_description: Report the state of a host and its apps
description:
  - Measures in one call what the status shows - each app with its live release, processes, memory, requests,
    certificate and history, and the host with its disks, updates, failed units, last backup,
    shipped logs and PostgreSQL's replication.
  - Lists the problems. On a monitor, asks Prometheus whether alerts can be sent and metrics stored.
  - Reads nginx's log backwards, for a limited time. Changes nothing.
options:
  apps:
    description: Names of the apps in the inventory. Other apps of the host are reported, too.
    type: list
    elements: str
    required: true
  day:
    description: Also report the requests, errors and latency of the last day, which takes seconds if the log is large.
    type: bool
    default: false
extends_documentation_fragment:
  - blueoctopus.site.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
"""

EXAMPLES = r"""
- name: Measure the host and its apps
  blueoctopus.site.host_status:
    apps: [blueoctopus]
  register: status
"""

RETURN = r"""
host:
  description: The state of the host, as docs/status.schema.json describes it.
  returned: always
  type: dict
  contains:
    replication:
      description:
        - The replication of PostgreSQL; null on a host that neither is nor has a standby and is not fenced.
        - Its role, which is C(primary), C(standby) or C(fenced). On a primary, each standby with its name, state and
          lag in bytes. On a standby, its lag in seconds, and whether it is connected. Why it can't be read, or nothing.
      type: dict
      returned: always
asked:
  description: When the control node has asked the host, in seconds since 1970 by its own clock.
  returned: always
  type: float
answered:
  description: When it had the answer, by the same clock.
  returned: always
  type: float
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.blueoctopus.site.plugins.module_utils.app_status import (
    certificates_of_balancer,
    describe_releases,
    describe_service,
)
from ansible_collections.blueoctopus.site.plugins.module_utils.checks import find_problems
from ansible_collections.blueoctopus.site.plugins.module_utils.host_state import (
    Updates,
    describe_alerts,
    describe_backup,
    disks,
    failed_units,
    needs_reboot,
)
from ansible_collections.blueoctopus.site.plugins.module_utils.monitor import describe_monitor
from ansible_collections.blueoctopus.site.plugins.module_utils.removal import installed_apps
from ansible_collections.blueoctopus.site.plugins.module_utils.replication import describe_replication
from ansible_collections.blueoctopus.site.plugins.module_utils.shipped_logs import describe_logs
from ansible_collections.blueoctopus.site.plugins.module_utils.traffic import DAY, WINDOW, read_traffic


def describe_app(name: str, in_inventory: bool) -> dict[str, Any]:
    """The state of one app."""
    service = describe_service(name)
    return {"in_inventory": in_inventory, **service, **describe_releases(name, service["live"])}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "apps": {"type": "list", "elements": "str", "required": True},
            "day": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    names, updates = module.params["apps"], Updates()
    others = [name for name in installed_apps() if name not in names]
    apps = [describe_app(name, name in names) for name in (*names, *others)]
    now = time.time()
    recent = read_traffic([*names, *others], now - WINDOW, now, WINDOW, seconds=1)
    day = read_traffic([*names, *others], now - DAY, now, DAY // 96, seconds=20) if module.params["day"] else None
    for app in apps:
        app["requests"] = recent.summary(app["name"])
        app["day"] = {**day.summary(app["name"]), "series": day.series(app["name"])} if day else None
        app["failed_requests"] = day.failed[app["name"]] if day else []
    host: dict[str, Any] = {
        "time": time.time(),
        "apps": apps,
        "disks": disks(),
        "failed_units": failed_units(),
        "backup": describe_backup(),
        "alerts": describe_alerts(),
        "logs": describe_logs(),
        "replication": describe_replication(),
        "reboot_needed": needs_reboot(),
        "updates": updates.count(),
    }
    problems = find_problems({**host, "certificates": certificates_of_balancer(), "monitor": describe_monitor()})
    if host["alerts"] and not day:
        host["alerts"]["samples"] = []  # the report plots them
    module.exit_json(changed=False, host={**host, "problems": problems})


if __name__ == "__main__":
    main()
