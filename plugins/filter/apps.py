"""Convert entries of `apps` for the roles."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ansible_collections.blueoctopus.site.plugins.plugin_utils.settings import with_defaults


def source_path(source: str, project: str) -> str:
    """The absolute path of a source folder, which may be relative to the project's root; a Git URL as it is."""
    if re.match(r"\w+://|[\w.-]+@[\w.-]+:", source):
        return source
    return str((Path(project) / source).resolve())


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        return {"with_defaults": with_defaults, "source_path": source_path}
