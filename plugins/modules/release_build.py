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
    description: Folder on the control node that holds the app.
    type: path
    required: true
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
    description: Settings that are never shown, kept in a file that only root can read.
    type: dict
    default: {}
  files:
    description: Further files of the release, by name and content.
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
archive_needed:
  description: The host does not have the release and needs the packed source to build it.
  returned: when called without O(archive)
  type: bool
"""

import contextlib
import fcntl
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

UV_SETTINGS = {
    "UV_CACHE_DIR": "/var/cache/uv",
    "UV_NO_PROGRESS": "1",
    "UV_PYTHON_DOWNLOADS": "never",
    "UV_SYSTEM_CERTS": "1",  # trust what the machine trusts, as behind a company's proxy
}


class BuildError(Exception):
    """A release could not be built; the message says why and what to do."""


def environment_file(settings: dict[str, Any]) -> str:
    """Write settings in the form of systemd's EnvironmentFile, any value quoted so that it arrives as it is."""
    lines = []
    for key, value in sorted(settings.items()):
        quoted = "".join(f"\\{c}" if c in '"\\$`' else c for c in str(value))
        lines.append(f'{key}="{quoted}"\n')
    return "".join(lines)


def find_release(root: Path, digest: str) -> Path | None:
    """The complete release with that digest, if the host has it."""
    return next(iter(sorted((root / "releases").glob(f"2*-{digest}"))), None)


def latest_manifest(root: Path) -> str:
    """The packed files of the live release, for a diff; empty when there is none."""
    with contextlib.suppress(OSError):
        return (root / "live" / "manifest").read_text()
    return ""


def run(*argv: str | Path) -> None:
    """Run a build step; its own words go into the error."""
    result = subprocess.run(
        [str(a) for a in argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | UV_SETTINGS,
    )
    if result.returncode:
        lines = "\n".join(f"  {line}" for line in result.stdout.strip().splitlines()[-25:])
        raise BuildError(f"{Path(str(argv[0])).name} {argv[1]} failed:\n{lines}")


@contextlib.contextmanager
def one_build_at_a_time(root: Path) -> Iterator[None]:
    """Hold the app's build lock; the kernel lets go of it when the process ends, however it ends."""
    with (root / "releases" / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BuildError(
                "Another deploy is building a release of this app right now. Wait for it to end."
            ) from None
        yield


def unpack(archive: Path, target: Path) -> None:
    """Unpack what the control node packed."""
    target.mkdir()
    run("tar", "--extract", "--gzip", "--no-same-owner", "--file", archive, "--directory", target)


def install(building: Path, params: dict[str, Any]) -> None:
    """Make the venv and install the dependencies into it, hashes enforced where the file carries any."""
    requirements = building / "source" / params["requirements"]
    uv, venv = params["uv"], building / "venv"
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
    # Its own user can't write compiled code later. What doesn't compile is for the health check to judge.
    subprocess.run([python, "-m", "compileall", "-qq", building / "source"], check=False, capture_output=True)


def build(root: Path, params: dict[str, Any]) -> Path:
    """Build the release aside and rename it when it is complete."""
    owner = pwd.getpwnam(params["name"])
    releases, data = root / "releases", root / "data"
    for folder, mode in ((root, 0o755), (releases, 0o711), (data, 0o750)):
        if not folder.exists():
            folder.mkdir(parents=True)
            folder.chmod(mode)
    os.chown(data, owner.pw_uid, owner.pw_gid)
    with one_build_at_a_time(root):
        for left_over in releases.glob(".building-*"):
            shutil.rmtree(left_over)
        name = f"{params['time']}-{params['digest']}"
        building = releases / f".building-{name}"
        try:
            # nginx passes through to the socket and sees nothing else; the app's own user may read its code.
            building.mkdir()
            building.chmod(0o711)
            unpack(Path(params["archive"]), building / "source")
            install(building, params)
            for part in ("source", "venv"):
                os.chown(building / part, 0, owner.pw_gid)
                (building / part).chmod(0o750)
            secret = building / "environment"
            secret.touch(mode=0o600)
            secret.write_text(environment_file(params["environment"] | params["secrets"]))
            for file_name, content in params["files"].items():
                (building / file_name).write_text(content)
            (building / "manifest").touch(mode=0o600)
            (building / "manifest").write_text(params["manifest"])
            (building / "socket").symlink_to(params["socket"].replace("%i", name))
            return building.rename(releases / name)
        finally:
            shutil.rmtree(building, ignore_errors=True)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
            "source": {"type": "path", "required": True},
            "requirements": {"type": "str", "default": "requirements.txt"},
            "environment": {"type": "dict", "default": {}},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "files": {"type": "dict", "default": {}},
            "socket": {"type": "path", "required": True},
            "python": {"type": "path", "default": "/usr/bin/python3"},
            "uv": {"type": "path", "default": "/usr/local/lib/uv/bin/uv"},
            "time": {"type": "str", "required": True},
            "digest": {"type": "str"},
            "manifest": {"type": "str"},
            "archive": {"type": "path"},
        },
        required_together=[("digest", "manifest")],
        supports_check_mode=True,
    )
    params = module.params
    root = Path(params["root"])
    os.umask(0o022)

    existing = find_release(root, params["digest"])
    if existing:
        module.exit_json(changed=False, release=existing.name, archive_needed=False)
    result = {
        "changed": True,
        "release": f"{params['time']}-{params['digest']}",
        "diff": {
            "before_header": "files of the live release",
            "after_header": "files of the new release",
            "before": latest_manifest(root),
            "after": params["manifest"],
        },
    }
    if module.check_mode or not params["archive"]:
        module.exit_json(archive_needed=not module.check_mode, **result)
    try:
        build(root, params)
    except (BuildError, OSError) as error:
        module.fail_json(
            msg=f"{params['name']}: the new release could not be built, and nothing was changed. {error}",
            release=result["release"],
        )
    module.exit_json(archive_needed=False, **result)


if __name__ == "__main__":
    main()
