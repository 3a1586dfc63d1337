#!/usr/bin/python
"""Watch a release that has just become live."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_watch
short_description: Watch a release that has just become live
description:
  - Sends health checks through nginx until some seconds have passed since the switch, and checks whether anything dies.
  - A response counts only when it comes from this release. nginx sends the release's id only to the host itself.
  - Fails when a health check fails, or when a worker, the web service or a background process has died since the start,
    by an exit, a signal or lack of memory. The error contains the end of the app's own log.
  - Fails when most requests of clients since the switch, and at least ten, got a status of 500 or more, unless that was
    so before the switch, too. Warns when some did.
options:
  seconds:
    description: Number of seconds to watch, from O(since) on.
    type: float
    default: 3
  since:
    description: Time of the switch, in seconds of the host's uptime; now when omitted.
    type: float
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
- name: Watch the release
  blueoctopus.site.release_watch:
    name: blueoctopus
    root: /srv/blueoctopus
    token: "{{ app_lock.token }}"
    release: 20260102T030405Z-1f0c2d3e4b
    seconds: 3
"""

RETURN = r"""
release:
  description: Id of the release, which is healthy.
  returned: success
  type: str
"""

import time
import zlib
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.blueoctopus.site.plugins.module_utils.instances import Instance, NotReady
from ansible_collections.blueoctopus.site.plugins.module_utils.logs import count_outcomes
from ansible_collections.blueoctopus.site.plugins.module_utils.release_module import (
    ID,
    fail_with_log,
    release_module,
    work,
)

PAUSE = 0.5  # seconds between two health checks
NGINX_LOGS = Path("/var/log/nginx")
BEFORE = 60  # seconds before the switch, for the comparison with the previous release
FEWEST = 10  # requests of clients, below which their failures do not fail the watch


def judge(before: tuple[int, int], after: tuple[int, int]) -> tuple[bool, str]:
    """Whether a release fails most requests, and the previous one did not; and a message, empty if no request failed.

    Args:
        before: requests of clients before the switch, and how many of them failed.
        after: the same for the new release.
    """
    requests, failed = after
    was_broken = before[1] * 2 > before[0]
    is_broken = requests >= FEWEST and failed * 2 > requests and not was_broken
    words = (
        f"{failed} of {requests} requests of clients got a status of 500 or more, although the health check succeeds. "
        "If the app answers health_path before it is ready for clients, make that page use what the app needs."
    )
    return is_broken, words if failed else ""


def check_requests(module: AnsibleModule, name: str, release: str, since: float) -> None:
    """Check the responses to clients since the switch, at the time `since`; warn of failures.

    Raises:
        NotReady: when most of their requests fail.
    """
    switched = time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - since)
    try:
        is_broken, words = judge(*count_outcomes(NGINX_LOGS, name, release, switched, BEFORE))
    except (OSError, EOFError, zlib.error):  # a log that is being rotated
        return
    if is_broken:
        raise NotReady(words)
    if words:
        module.warn(f"{name}: {words}")


def main() -> None:
    module, store = release_module(
        **ID,
        seconds={"type": "float", "default": 3},
        since={"type": "float"},
    )
    params, release = module.params, module.params["release"]
    if module.check_mode:
        module.exit_json(changed=False, release=release)
    began = time.clock_gettime(time.CLOCK_BOOTTIME)
    since = began if params["since"] is None else params["since"]
    started = time.time() - (began - since) - 60
    with work(module):
        new = Instance(store, release)
        try:
            while True:
                is_last = time.clock_gettime(time.CLOCK_BOOTTIME) >= since + params["seconds"]
                if problem := new.check_nginx():
                    raise NotReady(problem)
                if dead := new.find_deaths():
                    raise NotReady(f"{', '.join(dead)} died.")
                if is_last:
                    break
                time.sleep(PAUSE)
            # During maintenance, nginx answers clients with 503.
            if not (store.root / "maintenance").exists():
                check_requests(module, store.name, release, since)
        except NotReady as error:
            fail_with_log(module, new, f"failed in the seconds after the switch. {error}", started)
    module.exit_json(changed=False, release=release)


if __name__ == "__main__":
    main()
