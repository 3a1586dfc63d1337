"""Keep packed modules from one run of Ansible to the next."""

from __future__ import annotations

DOCUMENTATION = """
name: packed_modules
type: aggregate
short_description: keep packed modules from one run to the next
description:
  - Ansible packs each module with the Python files that it imports, once a run, which takes a quarter of the processor
    time of a run that changes nothing. This keeps the packed modules of Ansible itself and of this collection in
    C($XDG_CACHE_HOME/blueoctopus/modules), which only the user who runs Ansible can read.
  - A packed module is used again while Ansible, its Python, and all modules and imported files of this collection are
    the same. Other collections' modules are packed in each run, as usual.
  - Ansible has no setting for this. If it changes its own folder for packed modules, they are packed in each run again.
  - It also reads the settings of this collection once, instead of in the process of each task.
requirements:
  - Listed in C(callbacks_enabled) in C(ansible.cfg).
"""

import hashlib
import os
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path

from ansible import constants as C
from ansible.module_utils import ansible_release
from ansible.plugins.callback import CallbackBase
from ansible.plugins.loader import connection_loader
from ansible_collections.blueoctopus.site.plugins.plugin_utils.settings import app_keys, machine_settings

PLUGINS = Path(__file__).resolve().parents[1]
OWN = ("ansible.modules.", "ansible_collections.blueoctopus.site.")
UNUSED = 30 * 24 * 3600  # seconds; folders that no run has used for this time are removed


def cache_key() -> str:
    """What packed modules depend on: Ansible, its Python, and the files of this collection; a digest in hex."""
    digest = hashlib.sha256(repr((ansible_release.__version__, ansible_release.__file__, sys.version)).encode())
    for path in sorted(
        file for folder in ("modules", "module_utils") for file in PLUGINS.joinpath(folder).rglob("*.py")
    ):
        digest.update(f"{path}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def preload() -> None:
    """Load what otherwise the process of each task loads again: it is a fork of this one."""
    # Its options. Ansible does this for its own connection plugins.
    connection_loader.get(C.DEFAULT_TRANSPORT, class_only=True)
    machine_settings()
    app_keys()


def link_files(source: Path, target: Path) -> None:
    """Link the packed modules of Ansible and this collection in one folder into another one, on the disk."""
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    for file in source.iterdir():
        if not file.name.startswith(OWN) or file.name.endswith(("-part", ".lock")) or (target / file.name).exists():
            continue
        with file.open("rb") as content, suppress(FileExistsError):
            os.fsync(content)  # after a power failure, an empty file would fail each run
            os.link(file, target / file.name)


class CallbackModule(CallbackBase):
    """Give a run the packed modules of earlier ones, and keep what it adds."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "blueoctopus.site.packed_modules"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        preload()
        self.packed = Path(C.DEFAULT_LOCAL_TMP) / "ansiballz_cache"
        top = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "blueoctopus/modules"
        self.kept = top / cache_key()
        with suppress(OSError):  # a full disk, or a home folder on another file system: each run packs by itself
            self.kept.mkdir(mode=0o700, parents=True, exist_ok=True)
            link_files(self.kept, self.packed)
            os.utime(self.kept)
            for folder in top.iterdir():
                if folder.stat().st_mtime < time.time() - UNUSED:
                    shutil.rmtree(folder)

    def v2_playbook_on_stats(self, stats: object) -> None:  # noqa: ARG002
        with suppress(OSError):
            link_files(self.packed, self.kept)
