#!/usr/bin/python
"""Run a command in a release that is not live yet."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_command
short_description: Run an app's release command
description:
  - Runs a command, such as a migration of the database, as the app's user, in the release's source, venv and
    environment, before the release gets its first visitor.
  - When it fails, the release is removed, the live one keeps serving, and the error carries what the command printed.
options:
  name:
    description: Name of the app.
    type: str
    required: true
  root:
    description: Folder of the app.
    type: path
    required: true
  release:
    description: Id of the release.
    type: str
    required: true
  command:
    description: Command line; split into words as a shell would, but not run by one.
    type: str
    required: true
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
"""

EXAMPLES = r"""
- name: Migrate the database
  release_command:
    name: blueoctopus
    root: /srv/blueoctopus
    release: 20260102T030405Z-1f0c2d3e4b
    command: flask --app main db upgrade
"""

RETURN = r"""
output:
  description: What the command printed.
  returned: when it ran
  type: str
"""

import shlex

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.releases import Releases


def words_of(command: str) -> list[str]:
    """The words of a command line, so that systemd expands nothing in them."""
    return [word.replace("$", "$$") for word in shlex.split(command)]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
            "release": {"type": "str", "required": True},
            "command": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=True)
    name, release = module.params["name"], module.params["release"]
    store = Releases(name, module.params["root"])
    home = store.path(release)
    properties = {
        "User": name,
        "Group": name,
        "WorkingDirectory": f"{home}/source",
        "EnvironmentFile": f"{home}/environment",
        "Environment": f"PATH={home}/venv/bin:/usr/local/bin:/usr/bin:/bin",
        "UMask": "0027",
        "ReadWritePaths": f"{store.root}/data",
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "PrivateTmp": "yes",
        "NoNewPrivileges": "yes",
    }
    settings = [f"--property={key}={value}" for key, value in properties.items()]
    run = ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", "--service-type=exec", *settings]
    rc, out, err = module.run_command([*run, "/usr/bin/env", *words_of(module.params["command"])])
    output = (out + err).strip()
    if rc == 0:
        module.exit_json(changed=True, output=output)
    words = "\n".join(f"  {line}" for line in output.splitlines()[-40:])
    store.note("deploy", release, "failed", f"release command ended with {rc}")
    if release not in store.good():
        store.remove(release)
    store.unlock()
    keeps = f"{store.live} keeps serving" if store.live else "no release is live"
    module.fail_json(
        msg=f"{name}: the release command '{module.params['command']}' ended with {rc}, so {keeps}. "
        f"It printed:\n{words}\nMend it and deploy again."
    )


if __name__ == "__main__":
    main()
