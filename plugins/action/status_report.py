"""Show the status of all hosts as a table; write it as JSON and as a page. Runs on the control node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible import constants as C
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.color import stringc
from ansible.utils.display import Display
from ansible_collections.blueoctopus.site.plugins.plugin_utils.report import page
from ansible_collections.blueoctopus.site.plugins.plugin_utils.settings import plain
from ansible_collections.blueoctopus.site.plugins.plugin_utils.status import document
from ansible_collections.blueoctopus.site.plugins.plugin_utils.status_table import (
    BAD,
    FAINT,
    NOTABLE,
    details,
    notes,
    problem_lines,
    table,
)


def paint(text: str, mark: str) -> str:
    """A text in the colour of its mark, if the output has colours."""
    colors = {BAD: C.COLOR_ERROR, NOTABLE: C.COLOR_WARN, FAINT: C.COLOR_DEBUG}
    return str(stringc(text, colors[mark])) if mark and text else text


class ActionModule(ActionBase):
    """Show the `results`, for one `app` or all; write `json` and `report`."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        arguments = plain(self._task.args)
        app = arguments.get("app") or ""
        status = document(arguments["results"], arguments.get("logins") or {}, app)
        lines = table(status, paint) + notes(status)
        if app:
            for name, host in status["hosts"].items():
                for entry in host["apps"]:
                    lines += ["", *details(name, entry)]
        Display().display("\n".join(["", *lines, ""]))
        try:
            if path := arguments.get("json"):
                Path(path).write_text(json.dumps(status, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            if path := arguments.get("report"):
                Path(path).write_text(page(status), encoding="utf-8")
        except OSError as error:
            raise AnsibleActionFail(f"The file {error.filename} can't be written: {error.strerror}.") from error
        if status["problems"]:
            raise AnsibleActionFail("\n".join(problem_lines(status)))
        Display().display("\n".join(problem_lines(status)), color=C.COLOR_OK)
        return result | {"changed": False, "status": status}
