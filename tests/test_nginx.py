"""Files of nginx's configuration."""

from __future__ import annotations

import os
from pathlib import Path

from ansible_collections.blueoctopus.site.plugins.module_utils import files, nginx


def test_files_are_replaced_and_no_temporary_files_remain(tmp_path: Path) -> None:
    nginx.replace(tmp_path, {"sites/shop.conf": "old", "sites/blog.conf": "old"})
    nginx.replace(tmp_path, {"sites/shop.conf": "new"}, ["sites/blog.conf"])
    assert files.read(tmp_path / "sites/shop.conf") == "new"
    assert os.listdir(tmp_path / "sites") == ["shop.conf"]


def test_a_path_becomes_a_link_and_its_target_stays(tmp_path: Path) -> None:
    site = tmp_path / "live/site.conf"
    files.write(site, "server {}")
    for _ in range(2):
        nginx.replace(tmp_path, {"sites/shop.conf": site})
        assert os.readlink(tmp_path / "sites/shop.conf") == str(site)
    nginx.replace(tmp_path, {"sites/shop.conf": "a file of its own"})
    assert files.read(site) == "server {}"
    assert not (tmp_path / "sites/shop.conf").is_symlink()
