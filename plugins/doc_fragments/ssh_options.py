"""The options of Ansible's own connection plugin ssh."""

from __future__ import annotations

from typing import Any

import yaml
from ansible.plugins.connection import ssh


class ModuleDocFragment:
    """For plugins that extend ansible.builtin.ssh."""

    def __init__(self) -> None:
        """Read the options from that plugin."""
        self.DOCUMENTATION = yaml.safe_dump({"options": without_versions(yaml.safe_load(ssh.DOCUMENTATION)["options"])})


def without_versions(value: Any) -> Any:
    """Leave out `version_added`, which is a version of Ansible and would be taken as one of this collection."""
    if isinstance(value, list):
        return [without_versions(entry) for entry in value]
    if isinstance(value, dict):
        return {key: without_versions(entry) for key, entry in value.items() if key != "version_added"}
    return value
