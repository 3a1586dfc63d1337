"""From an entry of `apps` to the arguments of the role that brings it out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROLES = Path(__file__).resolve().parents[2] / "roles"


def with_role_defaults(items: list[dict[str, Any]], role: str) -> list[dict[str, Any]]:
    """Give each item the defaults of a role's arguments: ROLE_KEY in its defaults/main.yml stands for KEY.

    Args:
        items: entries of an inventory list, such as `apps`.
        role: the role that each entry is handed to.
    """
    defaults = yaml.safe_load((ROLES / role / "defaults" / "main.yml").read_text())
    named = {key.removeprefix(f"{role}_"): value for key, value in defaults.items()}
    return [named | dict(item) for item in items]


def source_path(source: str, project: str) -> str:
    """Where an app's source is: a folder relative to the project's root is made absolute, a Git URL stays as it is."""
    if re.match(r"\w+://|[\w.-]+@[\w.-]+:", source):
        return source
    return str((Path(project) / source).resolve())


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        return {"with_role_defaults": with_role_defaults, "source_path": source_path}
