"""Code that the modules for releases share: arguments, the lock, errors."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from ansible.module_utils.basic import AnsibleModule
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

# What Python and SQLite print when the app writes outside of its data folder.
WRITE_ERROR = re.compile(
    r"Read-only file system|PermissionError|unable to open database file|attempt to write a readonly database"
)


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
def work(module: AnsibleModule) -> Iterator[None]:
    """Run the block with the lock of the app; an expected error makes the module fail with its message."""
    try:
        with Lock(module.params["name"]).work(module.params["token"]):
            yield
    except (AccountError, LockLost, NginxError, NotReady, OSError) as error:
        module.fail_json(msg=f"{module.params['name']}: {error}")


def fail_with_log(module: AnsibleModule, instance: Instance, problem: str, since: float) -> None:
    """Fail with a problem of a release and the last lines of its log.

    Args:
        module: the module.
        instance: the release.
        problem: the message, without the names of the app and the release.
        since: start of the log, in seconds since 1970.
    """
    release = f"{module.params['name']}: release {instance.release}"
    log = instance.log(since)
    hint = write_hint(log, module.params["root"])
    module.fail_json(msg=f"{release} {problem}\nThe last lines of its log:\n{log}{hint}")


def write_hint(log: str, root: str) -> str:
    """A line that says where an app can write, when its log has an error of writing elsewhere; otherwise empty.

    Args:
        log: what the app has logged.
        root: the folder of the app.
    """
    if not WRITE_ERROR.search(log):
        return ""
    return (
        f"\nThe app can write only to its data folder, {root}/data, which is DATA_DIR in its environment. Write there, "
        "or list the path in the key shared_paths."
    )
