#!/usr/bin/python
"""Make a started release live: switch nginx's site and upstream to it in one step."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_switch
short_description: Make a release live
description:
  - Points C(ROOT/live) at a release that M(blueoctopus.site.release_start) has started. nginx finds the app's socket
    and the site's configuration through that link. For an app that shares a domain, the folder C(paths) of the release
    has its locations in the server block of that domain.
  - nginx reloads, if the site differs. M(blueoctopus.site.release_start) has validated it.
  - Then stops the background processes and timers of the previous release, and starts those of this one.
  - The web service of the previous release keeps running, so that M(blueoctopus.site.release_undo) can return to it at
    once.
  - Fails when nginx can't reload, or when the health check through nginx fails afterwards.
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
  description: Id of the previous release; empty when there was none.
  returned: success
  type: str
uptime:
  description: Time of the switch, in seconds of the host's uptime.
  returned: when something changed
  type: float
"""

import time

from ansible_collections.blueoctopus.site.plugins.module_utils import nginx
from ansible_collections.blueoctopus.site.plugins.module_utils.instances import Instance, NotReady
from ansible_collections.blueoctopus.site.plugins.module_utils.release_module import (
    HISTORY,
    ID,
    fail_with_log,
    release_module,
    work,
)

TIMEOUT = 2.0  # seconds for nginx's workers to apply the new site


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
        # A reload drops no request, but may close idle connections of clients. So nginx reloads only when necessary.
        differs = store.site_differs(release) or not nginx.is_running()
        store.record(params["action"], release, "begun", by=params["by"])
        # Before the switch, so that after a reboot from here on the live release starts.
        new.enable(*new.web)
        if differs:
            nginx.reload_pending().touch()
        store.make_live(release)
        # Not only the pending file: the run of another app may have removed it.
        if differs or nginx.reload_pending().exists():
            nginx.reload()
        uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
        if former and former != release:
            Instance(store, former).stop_background()
        new.start_background()
        try:
            while (problem := new.check_nginx()) and time.clock_gettime(time.CLOCK_BOOTTIME) < uptime + TIMEOUT:
                time.sleep(0.1)
        except NotReady as error:
            problem = str(error)
        if problem:
            fail_with_log(module, new, f"failed right after the switch. {problem}", time.time() - 10)
    module.exit_json(**result, uptime=uptime)


if __name__ == "__main__":
    main()
