#!/usr/bin/python
"""Show the status of all hosts."""

from __future__ import annotations

DOCUMENTATION = r"""
module: status_report
short_description: Show the status of all hosts
description:
  - Prints the results of M(blueoctopus.site.host_status) as one table, problems first, and writes them as JSON and as a
    page if that is requested. Fails if there is a problem.
  - Runs on the control node. The code is in C(plugins/action/status_report.py).
options:
  results:
    description: The result of M(blueoctopus.site.host_status) on each host, by the name of the host.
    type: dict
    required: true
  logins:
    description: The result of M(blueoctopus.site.reach_host) on each host, with the reason if there is no other result.
    type: dict
    default: {}
  app:
    description: Show only this app, with its releases and history; all apps when empty.
    type: str
    default: ""
  json:
    description: File to write the status to as JSON; none when empty.
    type: str
    default: ""
  report:
    description: File to write the report to, a page in HTML; none when empty.
    type: str
    default: ""
extends_documentation_fragment:
  - blueoctopus.site.attributes
attributes:
  check_mode:
    support: full
    details: Writes the files also in check mode, as they change no host.
  diff_mode:
    support: none
"""

EXAMPLES = r"""
- name: Show the status
  blueoctopus.site.status_report:
    results: "{{ dict(ansible_play_hosts | zip(ansible_play_hosts | map('extract', hostvars, 'status'))) }}"
  run_once: true
"""

RETURN = r"""
status:
  description: The status, as docs/status.schema.json describes it.
  returned: success
  type: dict
"""
