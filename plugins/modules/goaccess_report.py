#!/usr/bin/python
"""Write a report of goaccess about the requests of an app."""

from __future__ import annotations

DOCUMENTATION = r"""
module: goaccess_report
short_description: Write a report of goaccess about the requests of an app
description:
  - Runs goaccess on the host, in a sandbox, over the requests of an app in nginx's log files, and writes its page on
    the control node. The page needs no other file.
  - The last part of each address is replaced with zeros. Health checks of the host are left out.
options:
  name:
    description: Name of the app.
    type: str
    required: true
  dest:
    description: File on the control node.
    type: str
    required: true
  since:
    description: Start of the report, as C(journalctl --since) accepts it.
    type: str
    default: 1 year ago
  nginx_logs:
    description: Folder of nginx's log files.
    type: path
    default: /var/log/nginx
extends_documentation_fragment:
  - blueoctopus.site.attributes
attributes:
  check_mode:
    support: none
  diff_mode:
    support: none
"""

EXAMPLES = r"""
- name: Write the report of this week
  blueoctopus.site.goaccess_report:
    name: blueoctopus
    dest: visits.html
    since: 1 week ago
"""

RETURN = r"""
dest:
  description: The file.
  returned: success
  type: str
"""

import base64
import gzip
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.blueoctopus.site.plugins.module_utils.logs import parse_since
from ansible_collections.blueoctopus.site.plugins.module_utils.visits import ReportError, report, site_lines


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "dest": {"type": "str", "required": True},
            "since": {"type": "str", "default": "1 year ago"},
            "nginx_logs": {"type": "path", "default": "/var/log/nginx"},
        },
    )
    params = module.params
    try:
        since = parse_since(params["since"])
        page = report(params["name"], site_lines(Path(params["nginx_logs"]), params["name"], since))
    except ValueError:
        module.fail_json(
            msg=f"'{params['since']}' is not a time. Write it as journalctl does, for example: -e since='1 week ago', "
            "-e since=today, -e since='2026-01-02 03:04'"
        )
    except ReportError as error:
        module.fail_json(msg=str(error))
    # The action plugin writes it on the control node.
    module.exit_json(changed=False, dest=params["dest"], page=base64.b64encode(gzip.compress(page)).decode())


if __name__ == "__main__":
    main()
