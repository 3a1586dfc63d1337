"""Entries of `apps`, converted for the roles."""

from __future__ import annotations

import pytest
from ansible_collections.blueoctopus.site.plugins.filter.apps import with_source_path


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("app", "/project/app"),
        ("../shop", "/shop"),
        ("/srv/source", "/srv/source"),
        ("https://example.org/shop.git", "https://example.org/shop.git"),
        ("git@example.org:shop.git", "git@example.org:shop.git"),
    ],
)
def test_a_folder_becomes_absolute_and_a_git_url_is_unchanged(source: str, path: str) -> None:
    assert with_source_path({"name": "shop", "source": source}, "/project") == {"name": "shop", "source": path}
