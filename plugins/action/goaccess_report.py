"""The action part of goaccess_report: writes the page on the control node."""

from __future__ import annotations

import base64
import gzip
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """Call the module, and write its page to `dest`."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        made = self._execute_module("blueoctopus.site.goaccess_report", task_vars=task_vars)
        page = made.pop("page", None)
        if page is not None:
            path = Path(str(self._task.args["dest"]))
            try:
                path.write_bytes(gzip.decompress(base64.b64decode(page)))
            except OSError as error:
                raise AnsibleActionFail(f"The file {path} can't be written: {error.strerror}.") from error
        return result | made
