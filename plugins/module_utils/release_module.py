"""What the modules that work on an app's releases have in common: arguments, the lock, errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.blueoctopus.site.plugins.module_utils.instances import NotReady
from ansible_collections.blueoctopus.site.plugins.module_utils.nginx import NginxError
from ansible_collections.blueoctopus.site.plugins.module_utils.release_lock import Lock, LockLost
from ansible_collections.blueoctopus.site.plugins.module_utils.releases import AccountError, Releases

# Options of several modules, documented in plugins/doc_fragments/release.py.
ID: dict[str, dict[str, Any]] = {"release": {"type": "str", "required": True}}
HISTORY: dict[str, dict[str, Any]] = {
    "action": {"type": "str", "choices": ["deploy", "rollback"], "default": "deploy"},
    "by": {"type": "str", "default": ""},
}


def release_module(**options: dict[str, Any]) -> tuple[AnsibleModule, Releases]:
    """The module and the releases of its app.

    Args:
        options: further options of its argument spec.
    """
    common: dict[str, dict[str, Any]] = {
        "name": {"type": "str", "required": True},
        "root": {"type": "path", "required": True},
        "token": {"type": "str", "default": "", "no_log": False},
    }
    module = AnsibleModule(argument_spec=common | options, supports_check_mode=True)
    return module, Releases(module.params["name"], module.params["root"])


@contextlib.contextmanager
def work(module: AnsibleModule) -> Iterator[None]:
    """Change the host, as the run that has the lock; an error that is known ends the module with its message."""
    try:
        with Lock(module.params["name"]).work(module.params["token"]):
            yield
    except (AccountError, LockLost, NginxError, NotReady, OSError) as error:
        module.fail_json(msg=f"{module.params['name']}: {error}")
