#!/usr/bin/python
"""Run the release command of a release that is not live yet."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_command
short_description: Run an app's release command
description:
  - Starts the unit C(NAME.release-command@RELEASE.service) of a release, such as a migration of the database, and waits
    for its end. It has the same user, environment, sandbox and limits as the web service, and runs in the release's own
    source and venv, before the release gets its first request.
  - When it fails or takes too long, the error contains its output.
  - When the release command of another run is still running on this host, waits for its end first, so that two never
    run at once. For other hosts, the command of an app with a database of the role C(postgresql) has a lock there.
options:
  timeout:
    description: Seconds after which systemd stops the command.
    type: int
    default: 600
extends_documentation_fragment:
  - blueoctopus.site.attributes
  - blueoctopus.site.release
  - blueoctopus.site.release.id
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
"""

EXAMPLES = r"""
- name: Migrate the database
  blueoctopus.site.release_command:
    name: blueoctopus
    root: /srv/blueoctopus
    token: "{{ app_lock.token }}"
    release: 20260102T030405Z-1f0c2d3e4b
"""

RETURN = r"""
output:
  description: Output of the command.
  returned: when it has run
  type: str
"""

import time

from ansible_collections.blueoctopus.site.plugins.module_utils.app_log import explain
from ansible_collections.blueoctopus.site.plugins.module_utils.hints import hint
from ansible_collections.blueoctopus.site.plugins.module_utils.instances import (
    COMMAND,
    Instance,
    journal,
    remove_units,
    systemctl,
)
from ansible_collections.blueoctopus.site.plugins.module_utils.release_module import (
    ID,
    release_module,
    work,
)

PAUSE = 0.2  # seconds
RUNNING_STATES = ("active", "activating", "deactivating", "reloading")


def wait_for_other_runs(name: str, timeout: float) -> bool:
    """Wait until no release command of the app is running; return whether that is the case before the timeout."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        shown = systemctl("list-units", "--plain", "--no-legend", "--all", f"{name}.{COMMAND}@*.service")
        if not any(line.split()[2] in RUNNING_STATES for line in shown.splitlines()):
            return True
        time.sleep(PAUSE)
    return False


def main() -> None:
    module, store = release_module(**ID, timeout={"type": "int", "default": 600})
    params, release = module.params, module.params["release"]
    if module.check_mode:
        module.exit_json(changed=True)
    with work(module):
        if not wait_for_other_runs(params["name"], params["timeout"] + 30):
            module.fail_json(msg=f"{params['name']}: the release command of another run does not end.")
        instance = Instance(store, release)
        instance.install()
        started = time.time()
        systemctl("start", instance.command)
        unit = "--property=Result,ExecMainStatus,InvocationID"
        shown = dict(line.split("=", 1) for line in systemctl("show", unit, instance.command).splitlines())
        output = instance.mask(journal(f"_SYSTEMD_INVOCATION_ID={shown['InvocationID']}").strip())
        if instance.release != store.live:
            remove_units([u for u in instance.units if u not in instance.web])
    if shown["Result"] == "success":
        module.exit_json(changed=True, output=output)
    failure = f"did not end within {params['timeout']} s"
    if shown["Result"] != "timeout":
        failure = f"failed with exit status {shown['ExecMainStatus']} ({shown['Result']})"
    name = params["name"]
    module.fail_json(msg=explain(name, f"the release command {failure}.", output, started, hint(output, name)))


if __name__ == "__main__":
    main()
