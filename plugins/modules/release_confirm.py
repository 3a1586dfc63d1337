#!/usr/bin/python
"""Confirm the live release as good."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_confirm
short_description: Confirm the live release
description:
  - Records in the history that the live release is good. From then on, a failed run returns to this release.
extends_documentation_fragment:
  - blueoctopus.site.attributes
  - blueoctopus.site.release
  - blueoctopus.site.release.id
  - blueoctopus.site.release.history
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
"""

EXAMPLES = r"""
- name: Confirm the release
  blueoctopus.site.release_confirm:
    name: blueoctopus
    root: /srv/blueoctopus
    token: "{{ app_lock.token }}"
    release: 20260102T030405Z-1f0c2d3e4b
"""

RETURN = r"""
release:
  description: Id of the release.
  returned: success
  type: str
"""

from ansible_collections.blueoctopus.site.plugins.module_utils.instances import Instance
from ansible_collections.blueoctopus.site.plugins.module_utils.release_module import HISTORY, ID, release_module, work


def main() -> None:
    module, store = release_module(**ID, **HISTORY)
    params, release = module.params, module.params["release"]
    if module.check_mode:
        module.exit_json(changed=False, release=release)
    with work(module):
        new = Instance(store, release)
        new.enable(*new.background)
        store.record(params["action"], release, "ok", by=params["by"])
    module.exit_json(changed=True, release=release)


if __name__ == "__main__":
    main()
