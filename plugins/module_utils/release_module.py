"""Code that the modules for releases share: arguments, the lock, errors."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.blueoctopus.site.plugins.module_utils.app_log import explain
from ansible_collections.blueoctopus.site.plugins.module_utils.hints import hint
from ansible_collections.blueoctopus.site.plugins.module_utils.instances import Instance, NotReady
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
    """Create the module, and the releases of its app.

    Args:
        options: further options of the argument spec.
    """
    common: dict[str, dict[str, Any]] = {
        "name": {"type": "str", "required": True},
        "root": {"type": "path", "required": True},
        "token": {"type": "str", "default": "", "no_log": False},
    }
    module = AnsibleModule(argument_spec=common | options, supports_check_mode=True)
    return module, Releases(module.params["name"], module.params["root"])


@contextlib.contextmanager
def work(module: AnsibleModule) -> Iterator[Lock]:
    """Run the block with the lock of the app; an expected error makes the module fail with its message."""
    lock = Lock(module.params["name"])
    try:
        with lock.work(module.params["token"]):
            yield lock
    except (AccountError, LockLost, NginxError, NotReady, OSError) as error:
        is_full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        advice = ". The disk of this host is full: free some space, and run this again." if is_full else ""
        module.fail_json(msg=f"{module.params['name']}: {error}{advice}")


def fail_with_log(module: AnsibleModule, instance: Instance, problem: str, since: float, advice: str = "") -> None:
    """Fail with the cause that the log of a release contains, the problem, and the end of the log.

    Args:
        module: the module.
        instance: the release.
        problem: the message, without the names of the app and the release.
        since: start of the log, in seconds since 1970.
        advice: what to do, unless the log gives a hint.
    """
    name, log = module.params["name"], instance.log(since)
    problem = f"release {instance.release} {problem}"
    module.fail_json(msg=explain(name, problem, log, since, hint(log, name) or advice))
