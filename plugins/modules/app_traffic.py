#!/usr/bin/python
"""Measure the requests of an app on a host, from nginx's log."""

from __future__ import annotations

DOCUMENTATION = r"""
module: app_traffic
short_description: Measure the requests of an app on a host
description:
  - Reads requests, errors and latency of an app in the last seconds from nginx's log. Changes nothing.
options:
  name:
    description: Name of the app.
    type: str
    required: true
  seconds:
    description: Length of the period, which ends now.
    type: int
    required: true
  nginx_logs:
    description: Folder of nginx's log files.
    type: path
    default: /var/log/nginx
extends_documentation_fragment:
  - blueoctopus.site.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
"""

EXAMPLES = r"""
- name: Measure the requests of the last five minutes
  blueoctopus.site.app_traffic:
    name: shop
    seconds: 300
  register: measured
"""

RETURN = r"""
traffic:
  description: >-
    The number of C(requests), the number of C(errors), which are responses with a status of 500 or more, and the
    latencies C(p50_seconds) and C(p95_seconds), which are null without requests.
  returned: success
  type: dict
"""

import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.blueoctopus.site.plugins.module_utils.traffic import read_traffic

LONGEST = 10.0  # seconds to read the log


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "seconds": {"type": "int", "required": True},
            "nginx_logs": {"type": "path", "default": "/var/log/nginx"},
        },
        supports_check_mode=True,
    )
    name, seconds, now = module.params["name"], module.params["seconds"], time.time()
    read = read_traffic([name], now - seconds, now, seconds, LONGEST, Path(module.params["nginx_logs"]))
    module.exit_json(changed=False, traffic=read.summary(name))


if __name__ == "__main__":
    main()
