"""Locks of apps that were not renewed for a while."""

from __future__ import annotations

from ansible_collections.blueoctopus.site.plugins.module_utils.release_lock import Lock


def grow_old(lock: Lock, seconds: float) -> None:
    """Move the last renewal into the past."""
    (lock.folder / "renewed").write_text(str(lock.renewed - seconds))
