"""Files that are removed from nginx's configuration."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.blueoctopus.site.plugins.module_utils import files
from ansible_collections.blueoctopus.site.plugins.modules import nginx_config


def test_only_files_that_are_not_listed_are_surplus(tmp_path: Path) -> None:
    for name in ("sites/shop.conf", "sites/gone.conf", "sites/kept.conf", "sites/.shop.conf.new", "other/a.conf"):
        files.write(tmp_path / name, "")
    only = {"sites": ["kept.conf"], "none": []}
    assert nginx_config.surplus(tmp_path, only, {"sites/shop.conf": ""}) == ["sites/gone.conf"]
