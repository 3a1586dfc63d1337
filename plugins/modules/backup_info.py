#!/usr/bin/python
"""Report the state of a host's backups."""

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_info
short_description: Report the state of a host's backups
description:
  - Reports when each app was backed up, when the repositories were checked, when a backup was restored for a check, and
    which of these failed or is too old. Changes nothing.
options:
  apps:
    description: Names of the apps.
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
- name: Report the state of the backups
  blueoctopus.site.backup_info:
    apps: [shop]
  register: backups
"""

RETURN = r"""
apps:
  description: For each app its C(lines) for people and its C(problems); empty on a host without backups.
  returned: always
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.blueoctopus.site.plugins.module_utils.backup_status import backup_state


def main() -> None:
    module = AnsibleModule(
        argument_spec={"apps": {"type": "list", "elements": "str", "required": True}},
        supports_check_mode=True,
    )
    module.exit_json(changed=False, apps=backup_state(module.params["apps"]))


if __name__ == "__main__":
    main()
