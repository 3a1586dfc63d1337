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


def test_the_paths_of_a_removed_app_are_surplus(tmp_path: Path) -> None:
    (tmp_path / "release").mkdir()
    (tmp_path / "paths").mkdir()
    for name, target in {"shop": "release", "gone": "release", "lost": "nowhere"}.items():
        (tmp_path / f"paths/{name}.conf").symlink_to(tmp_path / target)
    assert nginx_config.surplus(tmp_path, {"paths": ["shop.conf"]}, {}) == ["paths/gone.conf", "paths/lost.conf"]
    assert files.read(tmp_path / "paths/gone.conf") == ""
