#!/usr/bin/python
"""Start a release next to the live one, and check its health on its own socket."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_start
short_description: Start a release and check its health
description:
  - Installs the systemd units of a release, starts its web service on its own socket, and waits until its health check
    succeeds there. nginx sends it no requests yet.
  - First validates nginx's whole configuration with the site of the release, if that differs from the live one.
  - Fails when nginx rejects the site, when the release stops, or when its health check does not succeed in time. The
    error contains the last lines of the app's own log, with the last exception first.
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
- name: Start the release and check its health
  blueoctopus.site.release_start:
    name: blueoctopus
    root: /srv/blueoctopus
    token: "{{ app_lock.token }}"
    release: 20260102T030405Z-1f0c2d3e4b
"""

RETURN = r"""
release:
  description: Id of the release, which is ready to become live.
  returned: success
  type: str
"""

import subprocess
import time

from ansible_collections.blueoctopus.site.plugins.module_utils import nginx
from ansible_collections.blueoctopus.site.plugins.module_utils.instances import Instance, NotReady
from ansible_collections.blueoctopus.site.plugins.module_utils.release_module import (
    ID,
    fail_with_log,
    release_module,
    work,
)
from ansible_collections.blueoctopus.site.plugins.module_utils.releases import Releases


def check_calendars(new: Instance) -> None:
    """Check that systemd accepts the calendar expressions of the timers.

    Raises:
        NotReady: with the name of the invalid timer.
    """
    for unit in new.timers:
        text = (new.store.path(new.release) / "units" / unit.replace(f"@{new.release}.", "@.")).read_text()
        calendar = next(line.split("=", 1)[1] for line in text.splitlines() if line.startswith("OnCalendar="))
        done = subprocess.run(["systemd-analyze", "calendar", calendar], capture_output=True, text=True)
        if done.returncode:
            timer = unit.split("@")[0].split(".", 1)[1]
            raise NotReady(f"The on_calendar of the timer {timer} is invalid: {done.stderr.strip()}")


def check_site(store: Releases, release: str) -> None:
    """Validate nginx's configuration with the site of a release, before any host switches to it.

    Raises:
        NginxError: when nginx rejects it.
    """
    if not store.site_differs(release) and nginx.is_running():
        return
    links = {f"sites/{store.name}.conf": store.path(release) / "site.conf"}
    removed = []
    if store.has_paths(release):
        links[f"paths/{store.name}.conf"] = store.path(release) / "paths"
    elif store.paths.is_symlink():
        removed = [f"paths/{store.name}.conf"]
    nginx.check(links, removed)


def main() -> None:
    module, store = release_module(**ID)
    release = module.params["release"]
    if module.check_mode:
        module.exit_json(changed=True, release=release)
    started = time.time()
    with work(module):
        new = Instance(store, release)
        check_site(store, release)
        try:
            check_calendars(new)
            new.start_web()
            new.wait_until_healthy()
        except NotReady as error:
            fail_with_log(module, new, f"did not become ready. {error}", started, error.advice)
    module.exit_json(changed=True, release=release)


if __name__ == "__main__":
    main()
