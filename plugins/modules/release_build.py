#!/usr/bin/python
"""Build a release of an app: its source, its locked dependencies and its settings, side by side and for good."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_build
short_description: Build a release of a Python web app
description:
  - Packs O(source) on the control node and builds a release of it on the host, in C(ROOT/releases/ID).
  - A release holds everything the app runs with - its C(source), a C(venv) of its own with the locked dependencies, its
    C(environment) and the further O(files). Root owns it, and it is never changed again.
  - It is built aside and renamed when it is complete, so a failure leaves nothing half done.
  - Makes the app's user and folders, and takes its lock, which M(release_switch) gives back.
  - The same content is the same release. When the host has it already, nothing changes.
  - In a Git work tree, what C(.gitignore) names stays out; C(.git), caches and virtual environments always do.
options:
  name:
    description: Name of the app, which is also the name of the user and the group it runs as.
    type: str
    required: true
  root:
    description: Folder of the app; C(releases/) and C(data/) lie in it.
    type: path
    required: true
  source:
    description: Folder on the control node that holds the app, or the URL of a Git repository, which is cloned there.
    type: str
    required: true
  version:
    description: Branch, tag or commit; for a Git repository only. Its default branch when left out.
    type: str
  requirements:
    description: >-
      File in O(source) that lists the dependencies, gunicorn among them. When it carries a hash, every dependency must
      carry one and match it.
    type: str
    default: requirements.txt
  environment:
    description: Plain settings for the app. They may show up in a diff.
    type: dict
    default: {}
  secrets:
    description: >-
      Settings that are never shown, kept in a file that only root can read. A dictionary, which the action part of this
      module hands over as one text of JSON.
    type: str
    default: ""
  files:
    description: Further files of the release, by name and content.
    type: dict
    default: {}
  static:
    description: >-
      Files that nginx serves by itself: those of the folder C(path) of the source, at the address C(url). They are laid
      out in C(public), compressed ones beside those that gain by it. None when C(url) is empty or the folder isn't
      there.
    type: dict
    default: {}
  socket:
    description: Where an instance of the release listens; C(%i) stands for the release's id.
    type: path
    required: true
  python:
    description: Interpreter on the host for the release's venv.
    type: path
    default: /usr/bin/python3
  uv:
    description: The uv program on the host.
    type: path
    default: /usr/local/lib/uv/bin/uv
  time:
    description: >-
      Time of the deploy, V(YYYYMMDDThhmmssZ), the first part of a new release's id. Hosts that are deployed together
      get the same id when they get the same time.
    type: str
    required: true
  about:
    description: What to note of the release beside its content, such as its health path.
    type: dict
    default: {}
  take_over_lock:
    description: Deploy although somebody else seems to be at it; see M(release_switch).
    type: bool
    default: false
  holder:
    description: Who takes the app's lock. Set by the action part of this module.
    type: dict
  digest:
    description: Digest of the release's content. Set by the action part of this module.
    type: str
  manifest:
    description: The packed files, a line each. Set by the action part of this module.
    type: str
  archive:
    description: Where the packed source lies on the host. Set by the action part of this module.
    type: path
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
"""

EXAMPLES = r"""
- name: Build the release
  release_build:
    name: blueoctopus
    root: /srv/blueoctopus
    source: "{{ playbook_dir }}/../app"
    socket: /run/apps/blueoctopus/%i.sock
    time: 20260102T030405Z
    environment:
      GREETING: hello
  register: app_release
"""

RETURN = r"""
release:
  description: Id of the release - the time of its deploy and a digest of its content. It sorts by time.
  returned: success
  type: str
  sample: 20260102T030405Z-1f0c2d3e4b
live:
  description: Id of the release that serves at the moment; empty when none does.
  returned: success
  type: str
archive_needed:
  description: The host does not have the release and needs the packed source to build it.
  returned: when called without O(archive)
  type: bool
"""

import grp
import gzip
import json
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.files import write
from ansible.module_utils.releases import BusyError, Releases

UV_SETTINGS = {
    "UV_CACHE_DIR": "/var/cache/uv",
    "UV_NO_PROGRESS": "1",
    "UV_PYTHON_DOWNLOADS": "never",
    "UV_SYSTEM_CERTS": "1",  # trust what the machine trusts, as behind a company's proxy
}


COMPRESSED = {".css", ".html", ".js", ".json", ".map", ".mjs", ".svg", ".txt", ".wasm", ".webmanifest", ".xml"}
# The lines of a requirements file that says all by itself: pinned names, their hashes, comments.
LOCKED_LINE = re.compile(r"[A-Za-z0-9][\w.\[\],-]*==\S+ .*\\|\s+--hash=\S+( \\)?|\s*(#.*)?")


class BuildError(Exception):
    """A release could not be built; the message says why and what to do."""


def environment_file(settings: dict[str, Any]) -> str:
    """Write settings in the form of systemd's EnvironmentFile, any value quoted so that it arrives as it is."""
    lines = []
    for key, value in sorted(settings.items()):
        quoted = "".join(f"\\{c}" if c in '"\\$`' else c for c in str(value))
        lines.append(f'{key}="{quoted}"\n')
    return "".join(lines)


def run(*argv: str | Path) -> None:
    """Run a build step; its own words go into the error."""
    result = subprocess.run(
        [str(a) for a in argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=os.environ | UV_SETTINGS,
    )
    if result.returncode:
        raise BuildError(f"{Path(str(argv[0])).name} {argv[1]} failed:\n{shortened(result.stdout)}")


def shortened(words: str) -> str:
    """What a program said, without the middle where that is long: what is wrong stands at an end."""
    lines = words.strip().splitlines()
    if len(lines) > 30:
        lines = [*lines[:15], f"… {len(lines) - 30} lines more …", *lines[-15:]]
    return "\n".join(f"  {line}" for line in lines)


def unpack(archive: Path, target: Path) -> None:
    """Unpack what the control node packed."""
    target.mkdir()
    run("tar", "--extract", "--gzip", "--no-same-owner", "--file", archive, "--directory", target)


def suits(venv: Path, python: str) -> bool:
    """Whether a venv was made for this Python; after an upgrade of the system it isn't any more."""
    return (venv / "lib" / os.path.basename(os.path.realpath(python))).is_dir()


def is_locked(requirements: str) -> bool:
    """Whether the text of a requirements file leads to the same dependencies at any time."""
    return "--hash=" in requirements and all(map(LOCKED_LINE.fullmatch, requirements.splitlines()))


def install(building: Path, live: Path, params: dict[str, Any]) -> None:
    """Make the venv with the dependencies in it, hashes enforced where the file carries any."""
    requirements = building / "source" / params["requirements"]
    uv, venv = params["uv"], building / "venv"
    before = live / "source" / params["requirements"]
    same = before.is_file() and before.read_text() == requirements.read_text() and is_locked(before.read_text())
    if same and suits(live / "venv", params["python"]):
        # Hard links: what a deploy of code alone takes must not depend on the number of dependencies.
        run("cp", "--archive", "--link", live / "venv", venv)
        return
    if not Path(uv).exists():
        raise BuildError(f"{uv} is not there. Run playbooks/provision.yml on this host first.")
    Path(UV_SETTINGS["UV_CACHE_DIR"]).mkdir(mode=0o700, exist_ok=True)
    run(uv, "venv", "--quiet", "--relocatable", "--python", params["python"], venv)
    enforced = ["--require-hashes"] if "--hash=" in requirements.read_text() else []
    python = venv / "bin/python"
    # Wheels that are hard links into uv's cache cost neither time nor space.
    run(uv, "pip", "install", "--quiet", "--compile-bytecode", *enforced, "--python", python, "-r", requirements)
    if not (venv / "bin/gunicorn").exists():
        raise BuildError(f"gunicorn is not among the dependencies. Add it to {params['requirements']}.")


def publish(building: Path, static: dict[str, str]) -> None:
    """Lay out the files that nginx serves, the way their addresses are; nobody but nginx may read them."""
    public, source = building / "public", building / "source" / (static.get("path") or "static")
    public.mkdir()
    if static.get("url") and source.is_dir():
        target = public / static["url"].strip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target, dirs_exist_ok=True)
        for path in [p for p in target.rglob("*") if p.is_file() and p.suffix in COMPRESSED]:
            compress(path)
    os.chown(public, 0, grp.getgrnam("www-data").gr_gid)
    public.chmod(0o750)


def compress(path: Path) -> None:
    """Put compressed versions beside a file, where they are smaller and the app brings none of its own."""
    content = path.read_bytes()
    packers: dict[str, Callable[[], bytes]] = {".gz": lambda: gzip.compress(content, mtime=0)}
    if shutil.which("brotli"):
        packers[".br"] = lambda: subprocess.run(["brotli", "--stdout", path], capture_output=True, check=True).stdout
    for suffix, pack in packers.items():
        beside = path.with_name(path.name + suffix)
        if not beside.exists() and len(packed := pack()) < len(content):
            beside.write_bytes(packed)
            shutil.copystat(path, beside)


def build(store: Releases, release: str, params: dict[str, Any]) -> None:
    """Build the release aside and rename it when it is complete."""
    group = pwd.getpwnam(params["name"]).pw_gid
    for left_over in store.folder.glob(".building-*"):
        shutil.rmtree(left_over)
    building = store.folder / f".building-{release}"
    try:
        # nginx passes through to the socket and sees nothing else; the app's own user may read its code.
        building.mkdir()
        building.chmod(0o711)
        unpack(Path(params["archive"]), building / "source")
        install(building, store.path(store.live or "none"), params)
        # Its own user can't write compiled code later. What doesn't compile is for the health check to judge.
        compiler = [building / "venv/bin/python", "-m", "compileall", "-qq", building / "source"]
        subprocess.run(compiler, check=False, capture_output=True)
        publish(building, params["static"])
        for part in ("source", "venv"):
            os.chown(building / part, 0, group)
            (building / part).chmod(0o750)
        write(
            building / "environment",
            environment_file(params["environment"] | json.loads(params["secrets"] or "{}")),
            0o600,
        )
        for name, content in params["files"].items():
            write(building / name, content, 0o644)
        write(building / "manifest", params["manifest"], 0o600)
        write(building / "release.json", json.dumps(params["about"]), 0o600)
        (building / "socket").symlink_to(params["socket"].replace("%i", release))
        run("sync", "--file-system", building)  # a power cut must not leave a release that only looks complete
        building.rename(store.path(release))
    finally:
        shutil.rmtree(building, ignore_errors=True)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
            "source": {"type": "str", "required": True},
            "version": {"type": "str"},
            "requirements": {"type": "str", "default": "requirements.txt"},
            "environment": {"type": "dict", "default": {}},
            "secrets": {"type": "str", "default": "", "no_log": True},
            "files": {"type": "dict", "default": {}},
            "static": {"type": "dict", "default": {}},
            "socket": {"type": "path", "required": True},
            "python": {"type": "path", "default": "/usr/bin/python3"},
            "uv": {"type": "path", "default": "/usr/local/lib/uv/bin/uv"},
            "time": {"type": "str", "required": True},
            "about": {"type": "dict", "default": {}},
            "take_over_lock": {"type": "bool", "default": False},
            "holder": {"type": "dict"},
            "digest": {"type": "str"},
            "manifest": {"type": "str"},
            "archive": {"type": "path"},
        },
        required_together=[("digest", "manifest")],
        supports_check_mode=True,
    )
    params = module.params
    store = Releases(params["name"], params["root"])
    os.umask(0o022)

    if not module.check_mode:
        store.prepare()
        if other := store.lock(params["holder"], params["take_over_lock"]):
            module.exit_json(locked_by=other)
    existing = store.find(params["digest"], lambda release: suits(release / "venv", params["python"]))
    result = {
        "changed": not existing,
        "release": existing or f"{params['time']}-{params['digest']}",
        "live": store.live,
        "archive_needed": not existing and not module.check_mode,
    }
    if existing:
        module.exit_json(**result)
    live_manifest = store.path(store.live or "none") / "manifest"
    result["diff"] = {
        "before_header": "files of the live release",
        "after_header": "files of the new release",
        "before": live_manifest.read_text() if live_manifest.exists() else "",
        "after": params["manifest"],
    }
    if module.check_mode or not params["archive"]:
        module.exit_json(**result)
    try:
        with store.busy():
            build(store, result["release"], params)
    except (BuildError, BusyError, OSError) as error:
        store.unlock()
        module.fail_json(
            msg=f"{params['name']}: the new release could not be built, and nothing was changed. {error}",
            release=result["release"],
        )
    module.exit_json(**result | {"archive_needed": False})


if __name__ == "__main__":
    main()
