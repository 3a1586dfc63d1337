#!/usr/bin/python
"""Run an instance of Redis or Valkey for an app."""

from __future__ import annotations

DOCUMENTATION = r"""
module: redis_instance
short_description: Run an instance of Redis or Valkey for an app
description:
  - Writes the unit and the configuration of the instance, starts it, and enables it for the next boot.
  - The instance runs as the user of the app, which is created if it does not exist.
  - It is restarted only if its unit or its configuration has changed.
options:
  name:
    description: Name of the app.
    type: str
    required: true
  state:
    description: Whether the instance runs. With V(absent), its data stays.
    type: str
    choices: [present, absent]
    default: present
  unit:
    description: Text of the unit.
    type: str
    default: ""
  config:
    description: Text of the configuration.
    type: str
    default: ""
extends_documentation_fragment:
  - blueoctopus.site.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
"""

EXAMPLES = r"""
- name: Run an instance for the app shop
  blueoctopus.site.redis_instance:
    name: shop
    unit: "{{ lookup('ansible.builtin.template', 'redis.service.j2') }}"
    config: "{{ lookup('ansible.builtin.template', 'redis.conf.j2') }}"
"""

RETURN = r"""
service:
  description: Name of the unit.
  returned: success
  type: str
"""

import subprocess
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.blueoctopus.site.plugins.module_utils.app_redis import Redis
from ansible_collections.blueoctopus.site.plugins.module_utils.files import difference, read, write
from ansible_collections.blueoctopus.site.plugins.module_utils.instances import systemctl
from ansible_collections.blueoctopus.site.plugins.module_utils.releases import AccountError, Releases
from ansible_collections.blueoctopus.site.plugins.module_utils.removal import APPS


def is_running(redis: Redis) -> bool:
    """Whether the instance runs with the configuration of its files, and starts at the next boot."""
    if systemctl("is-active", redis.service) != "active" or systemctl("is-enabled", redis.service) != "enabled":
        return False
    started = systemctl("show", "--value", "--property=ActiveEnterTimestamp", "--timestamp=unix", redis.service)
    changed = max(path.stat().st_mtime for path in (redis.unit, redis.config))
    return int(started.removeprefix("@") or 0) >= int(changed)


def start(redis: Redis) -> str:
    """Start or restart the instance; return its last messages if it does not start."""
    systemctl("daemon-reload")
    systemctl("enable", "--quiet", redis.service)
    done = subprocess.run(["systemctl", "restart", redis.service], capture_output=True, text=True)
    if not done.returncode:
        return ""
    command = ["journalctl", "--unit", redis.service, "--lines=10", "--no-pager", "--output=cat"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or done.stderr.strip()


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "unit": {"type": "str", "default": ""},
            "config": {"type": "str", "default": ""},
        },
        required_if=[("state", "present", ("unit", "config"))],
        supports_check_mode=True,
    )
    name = module.params["name"]
    redis, store = Redis(name), Releases(name, APPS / name)
    if module.params["state"] == "absent":
        existed = redis.unit.exists()
        if not module.check_mode:
            redis.stop()
        module.exit_json(changed=existed, service=redis.service)
    files: dict[Path, str] = {redis.unit: module.params["unit"], redis.config: module.params["config"]}
    before = {path: read(path) for path in files}
    written = [path for path in files if before[path] != files[path]]
    changed = bool(written) or not is_running(redis)
    if changed and not module.check_mode:
        try:
            store.prepare()
        except AccountError as error:
            module.fail_json(msg=f"{name}: {error}. Choose another name for the app.")
        for path in written:
            write(path, files[path])
        if problem := start(redis):
            module.fail_json(msg=f"{name}: its instance of Redis does not start.\n{problem}")
    diff = [difference(path, before[path], files[path]) for path in written]
    module.exit_json(changed=changed, service=redis.service, diff=diff)


if __name__ == "__main__":
    main()
