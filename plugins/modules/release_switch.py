#!/usr/bin/python
"""Make a started release live: nginx's site and the link that nginx follows, in one step."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_switch
short_description: Make a release live
description:
  - Points C(ROOT/live) at a release that M(blueoctopus.site.release_start) has started. nginx finds the app's socket
    and the site's configuration through that link. The configuration is tested as a whole first, and nginx reloads.
  - Then processes and timers of the release before are asked to stop, and those of this one start.
  - The release before keeps running, so that M(blueoctopus.site.release_undo) can go back to it at once.
  - Fails when nginx refuses the site, or is not answered by this release afterwards.
extends_documentation_fragment:
  - blueoctopus.site.attributes
  - blueoctopus.site.release
  - blueoctopus.site.release.id
  - blueoctopus.site.release.history
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
"""

EXAMPLES = r"""
- name: Make the release live
  blueoctopus.site.release_switch:
    name: blueoctopus
    root: /srv/blueoctopus
    token: "{{ app_lock.token }}"
    release: 20260102T030405Z-1f0c2d3e4b
"""

RETURN = r"""
former:
  description: Id of the release that was live before; empty when there was none.
  returned: success
  type: str
uptime:
  description: When the switch was made, in seconds of the host's uptime.
  returned: when something changed
  type: float
"""

import time

from ansible_collections.blueoctopus.site.plugins.module_utils import nginx
from ansible_collections.blueoctopus.site.plugins.module_utils.instances import Instance
from ansible_collections.blueoctopus.site.plugins.module_utils.release_module import (
    HISTORY,
    ID,
    fail_with_log,
    release_module,
    work,
)

PATIENCE = 2.0  # seconds for nginx's workers to apply the new site


def main() -> None:
    module, store = release_module(**ID, **HISTORY)
    params, release, former = module.params, module.params["release"], store.live
    result = {
        "changed": True,
        "former": former,
        "diff": {
            "before_header": f"live release of {store.name}",
            "after_header": f"live release of {store.name}",
            "before": f"{former or 'none'}\n",
            "after": f"{release}\n",
        },
    }
    if module.check_mode:
        module.exit_json(**result)
    with work(module):
        new = Instance(store, release)
        # A reload drops no request, but clients may lose a connection that they keep. So only for another site.
        if differs := store.site_differs(release) or not nginx.is_running():
            nginx.check({f"sites/{store.name}.conf": store.path(release) / "site.conf"})
        store.record(params["action"], release, "begun", by=params["by"])
        # First: a reboot from here on finds the live release among those that start.
        new.enable(*new.web)
        if differs:
            nginx.reload_pending().touch()
        store.make_live(release)
        # Not by the mark alone: the run of another app may have taken that away.
        if differs or nginx.reload_pending().exists():
            nginx.reload()
        uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
        if former and former != release:
            Instance(store, former).stop_background()
        new.start_background()
        while (problem := new.probe_nginx()) and time.clock_gettime(time.CLOCK_BOOTTIME) < uptime + PATIENCE:
            time.sleep(0.1)
        if problem:
            fail_with_log(module, new, f"failed right after the switch. {problem}", time.time() - 10)
    module.exit_json(**result, uptime=uptime)


if __name__ == "__main__":
    main()
