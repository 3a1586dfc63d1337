#!/usr/bin/python
"""Read what an app, its processes and timers, and nginx have logged on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: app_logs
short_description: Read the log of an app
description:
  - Reads the newest log entries of an app - its web service, processes, timers, release commands and builds from the
    journal, and its requests and errors from nginx's log files.
  - Reads backwards from the newest entry and stops at O(since) or after O(lines) entries, so that a large log costs
    little. Changes nothing.
options:
  name:
    description: Name of the app.
    type: str
    required: true
  root:
    description: Folder of the app.
    type: path
    required: true
  since:
    description: Start of the log, as C(journalctl --since) accepts it.
    type: str
    default: 1 hour ago
  grep:
    description: Only entries that match this regular expression of Python, in upper or lower case.
    type: str
    default: ""
  lines:
    description: Number of entries to return at most, the newest ones.
    type: int
    default: 200
  nginx_logs:
    description: Folder of nginx's log files.
    type: path
    default: /var/log/nginx
  nginx_paths:
    description: Folder with the locations of the apps that have a path of another app's domain.
    type: path
    default: /etc/nginx/paths
extends_documentation_fragment:
  - blueoctopus.site.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
"""

EXAMPLES = r"""
- name: Read the app's errors of today
  blueoctopus.site.app_logs:
    name: blueoctopus
    root: /srv/blueoctopus
    since: today
    grep: error|exception
  register: log
"""

RETURN = r"""
entries:
  description: >-
    The entries, the oldest first, each with its C(time) in seconds since 1970, its C(source) - web, the name of a
    process or timer, nginx, systemd - and its C(text).
  returned: success
  type: list
  elements: dict
complete:
  description: Whether these are all entries since O(since); false when O(lines) was reached.
  returned: success
  type: bool
"""

import re
import subprocess
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.blueoctopus.site.plugins.module_utils.logs import (
    app_paths,
    journal_entries,
    newest,
    parse_error,
    parse_request,
    parse_since,
    read_back,
    server_names,
)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
            "since": {"type": "str", "default": "1 hour ago"},
            "grep": {"type": "str", "default": ""},
            "lines": {"type": "int", "default": 200},
            "nginx_logs": {"type": "path", "default": "/var/log/nginx"},
            "nginx_paths": {"type": "path", "default": "/etc/nginx/paths"},
        },
        supports_check_mode=True,
    )
    params, name = module.params, module.params["name"]
    try:
        since = parse_since(params["since"])
    except ValueError:
        module.fail_json(
            msg=f"'{params['since']}' is not a time. Write it as journalctl does, for example: -e since='1 hour ago', "
            "-e since=today, -e since='2026-01-02 03:04'"
        )
    try:
        pattern = re.compile(params["grep"], re.IGNORECASE)
    except re.error as error:
        module.fail_json(msg=f"'{params['grep']}' is not a regular expression: {error}.")
    subprocess.run(["journalctl", "--sync"], capture_output=True)
    logs, names = Path(params["nginx_logs"]), server_names(Path(params["root"]) / "live/site.conf")
    paths = app_paths(Path(params["nginx_paths"]))
    sources = [
        journal_entries(name, since),
        read_back(logs, "access.log", since, lambda line: parse_request(name, line)),
        read_back(logs, "error.log", since, lambda line: parse_error(name, names, paths, line)),
    ]
    entries, complete = newest(sources, pattern, max(params["lines"], 1))
    module.exit_json(changed=False, entries=entries, complete=complete)


if __name__ == "__main__":
    main()
