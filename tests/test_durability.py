"""A power failure at any moment leaves the former or the new file, link or unit: all is on the disk in this order."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils import files, instances, releases
from ansible_collections.blueoctopus.site.plugins.module_utils.instances import Instance
from ansible_collections.blueoctopus.site.plugins.module_utils.releases import Releases
from modules import Programs

RELEASE = "20260101T000000Z-0000000001"
Steps = list[tuple[str, str]]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    """What is written to the disk (`sync`), renamed and removed, with the names of the files."""
    seen: Steps = []
    fsync, replace, unlink = os.fsync, os.replace, os.unlink

    def note_sync(descriptor: int) -> None:
        seen.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        fsync(descriptor)

    def note_rename(source: Path, target: Path) -> None:
        seen.append(("rename", Path(target).name))
        replace(source, target)

    def note_removal(path: Path) -> None:
        unlink(path)
        seen.append(("remove", Path(path).name))

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_rename)
    monkeypatch.setattr(os, "unlink", note_removal)
    return seen


def test_a_file_is_complete_before_it_gets_its_name(tmp_path: Path, steps: Steps) -> None:
    files.write(tmp_path / "file", "content")
    assert steps == [("sync", ".file.new"), ("rename", "file")]


def test_a_link_is_on_the_disk_when_it_points_to_its_target(tmp_path: Path, steps: Steps) -> None:
    releases.replace_link(tmp_path / "link", "target")
    assert steps == [("rename", "link"), ("sync", tmp_path.name)]


def test_units_are_on_the_disk_when_they_are_installed(
    store: Releases, tmp_path: Path, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instances, "UNITS", tmp_path / "system")
    monkeypatch.setattr(instances, "systemctl", lambda *_argv: "")
    (store.path(RELEASE) / "units").mkdir(parents=True)
    (store.path(RELEASE) / "units/shop@.service").write_text("[Service]\n")
    Instance(store, RELEASE).install()
    unit = f"shop@{RELEASE}.service"
    assert steps == [("sync", f".{unit}.new"), ("rename", unit), ("sync", "system")]


def test_units_that_are_enabled_are_so_after_a_power_failure(
    store: Releases, tmp_path: Path, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    def systemctl(*argv: str, **_options: bool) -> str:
        steps.append((argv[0], argv[-1]))
        return ""

    (tmp_path / "multi-user.target.wants").mkdir()
    monkeypatch.setattr(instances, "UNITS", tmp_path)
    monkeypatch.setattr(instances, "systemctl", systemctl)
    Instance(store, RELEASE).enable("shop@1.service")
    assert steps == [("enable", "shop@1.service"), ("sync", "multi-user.target.wants")]


def test_units_that_cannot_be_enabled_are_an_error(store: Releases, programs: Programs) -> None:
    programs.fails("systemctl enable")
    with pytest.raises(OSError, match="systemctl enable failed"):
        Instance(store, RELEASE).enable("shop@1.service")


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "file").write_text("before")
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left"):
        files.write(tmp_path / "file", "after")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "before")]


def test_the_site_is_gone_from_the_disk_before_the_release_that_it_points_to(store: Releases, steps: Steps) -> None:
    store.path(RELEASE).mkdir(parents=True)
    store.make_live(RELEASE)
    steps.clear()
    store.clear_live()
    site = store.site
    assert steps == [
        ("remove", site.name),
        ("sync", site.parent.name),
        ("remove", "live"),
        ("sync", store.root.name),
    ]
