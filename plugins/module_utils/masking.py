"""Replace secrets in texts that are shown: output of builds, logs in errors and in the status."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote, unquote

SHORTEST = 4  # characters; shorter values are no secrets, such as the 1 of UV_NO_INDEX


def passwords(text: str) -> set[str]:
    """The passwords, or user names without a password, of the URLs in a text."""
    return {login.partition(":")[2] or login for login in re.findall(r"://([^/@\s]+)@", text)}


def mask(text: str, secrets: Iterable[str]) -> str:
    """A text without secrets: the values themselves, their lines, and the passwords of URLs in them."""
    parts = {part for secret in secrets for part in (secret, *secret.splitlines(), *passwords(secret))}
    parts |= {change(part) for part in parts for change in (unquote, lambda part: quote(part, safe=""))}
    for part in sorted(map(str.strip, parts), key=len, reverse=True):
        if len(part) >= SHORTEST:
            text = text.replace(part, "…")
    return text


def secret_values(release: Path) -> list[str]:
    """The values of the secrets of a release; none where its files can't be read."""
    with contextlib.suppress(OSError, ValueError):
        names = json.loads((release / "release.json").read_text()).get("secrets", [])
        text = (release / "environment").read_text()
        found = re.findall(r'^(\w+)="((?:\\.|[^"\\])*)"$', text, re.DOTALL | re.MULTILINE)
        return [re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL) for name, quoted in found if name in names]
    return []
