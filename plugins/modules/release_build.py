#!/usr/bin/python
"""Build a release of an app from its source, its dependencies and its settings."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_build
short_description: Build a release of a Python web app
description:
  - Builds a release of an app on the host, in C(ROOT/releases/ID), from the archive of
    M(blueoctopus.site.release_source).
  - A release contains everything that the app runs with - its C(source), a C(venv) with the dependencies, its
    C(environment) and the further O(files). Root owns it, and it is never changed again.
  - No code of the app or its dependencies runs as root. Dependencies are installed, and code is compiled, in a systemd
    sandbox by a user who can write nowhere else. Then root becomes the owner of the finished files.
  - uv's cache is shared by all apps and contains only packages that need no build. Other packages are built with a
    separate cache for each app, and so is everything when there are O(build_secrets).
  - A project with a build system is installed beside its dependencies, never editable. When the dependencies are locked
    as in the live release, they are hard links to it; the project itself is always built anew.
  - What brotli made of static files that are the same in the live release is copied from it.
  - The release is built in a temporary folder, which is renamed when it is complete. A failure leaves no partial
    release.
  - When the host already has the release, nothing changes.
options:
  source:
    description: >-
      The return value RV(blueoctopus.site.release_source#module:package). The options that it contains need not be
      given again.
    type: dict
    required: true
  requirements:
    description: >-
      File in the source that lists the dependencies, including gunicorn. C(uv.lock), beside a C(pyproject.toml),
      installs the project as locked, and C(pyproject.toml) installs it unlocked. Any other name is a requirements file;
      when that contains a hash, every dependency must have one and match it.
    type: str
    default: requirements.txt
  extras:
    description: Optional dependencies of the project to install; only with a project.
    type: list
    elements: str
    default: []
  groups:
    description: Dependency groups of the project to install; only with a project.
    type: list
    elements: str
    default: []
  build_secrets:
    description: >-
      Environment variables for uv alone, such as the password of a private index. They are not part of the release, and
      their values are masked in errors. A dictionary, which the action part of this module passes on as one JSON text.
    type: str
    default: ""
  reuse:
    description: Whether locked dependencies may be hard links to those of the live release.
    type: bool
    default: true
  environment:
    description: >-
      Plain settings for the app, as environment variables. A diff may show them. C({release}) in a value is replaced
      with the path of the release's C(source).
    type: dict
    default: {}
  secrets:
    description: >-
      Settings that are never shown, in a file that only root can read. A dictionary, which the action part of this
      module passes on as one JSON text.
    type: str
    default: ""
  files:
    description: Further files of the release, by name and content.
    type: dict
    default: {}
  static:
    description: >-
      Folders of files that nginx serves itself, each with the C(url) of its files, and the C(path) of a folder in the
      source, or C(package:PACKAGE/FOLDER) for a folder of an installed package. They are copied to C(public), with a
      compressed version of each file where that is smaller. A folder of the source that does not exist is skipped.
    type: list
    elements: dict
    default: []
  prefix:
    description: Path that the URLs of O(static) are below, without a slash at the end.
    type: str
    default: ""
  data_folders:
    description: >-
      Folders in C(ROOT/data) that nginx may read. They are created for the app. The permission is an access control
      list, which files and folders that the app creates in them inherit.
    type: list
    elements: str
    default: []
  basic_auth:
    description: >-
      Hashes of passwords by user, for the file C(htpasswd), which only root and nginx can read. A dictionary, which the
      action part of this module passes on as one JSON text.
    type: str
    default: ""
  shared_paths:
    description: >-
      Paths in the source, or in the venv if they begin with C(venv/), that are replaced with links to the same paths in
      C(ROOT/data). The app's user creates folders there, and copies the content that the source has at a path, where
      the data folder has nothing yet. A path is a folder if it ends with C(/), is in the venv, is a folder in the
      source, or has no suffix; otherwise it is a file.
    type: list
    elements: str
    default: []
  socket:
    description: Socket on which an instance of the release listens; C(%i) is replaced with the release's id.
    type: path
    required: true
  python:
    description: Interpreter on the host for the release's venv, as a path or a name.
    type: str
    default: /usr/bin/python3
  uv:
    description: The uv program on the host.
    type: path
    required: true
  about:
    description: Metadata of the release, such as its health path.
    type: dict
    default: {}
  archive:
    description: Path of the packed source on the host. Set by the action part of this module.
    type: path
extends_documentation_fragment:
  - blueoctopus.site.attributes
  - blueoctopus.site.release
  - blueoctopus.site.release.id
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
"""

EXAMPLES = r"""
- name: Build the release
  blueoctopus.site.release_build:
    name: blueoctopus
    root: /srv/blueoctopus
    token: "{{ app_lock.token }}"
    release: 20260102T030405Z-1f0c2d3e4b
    source: "{{ app_source.package }}"
    socket: /run/apps/blueoctopus/%i.sock
    uv: /usr/local/lib/uv/bin/uv
    environment:
      GREETING: hello
"""

RETURN = r"""
release:
  description: Id of the release.
  returned: success
  type: str
archive_needed:
  description: The host does not have the release and needs the packed source to build it.
  returned: when called without O(archive)
  type: bool
"""

import grp
import json
import os
import pwd
import shutil
import subprocess
from pathlib import Path
from typing import Any

from ansible_collections.blueoctopus.site.plugins.module_utils.data_folders import let_read
from ansible_collections.blueoctopus.site.plugins.module_utils.dependencies import (
    DependencyError,
    digest,
    read_dependencies,
)
from ansible_collections.blueoctopus.site.plugins.module_utils.files import difference, read, write
from ansible_collections.blueoctopus.site.plugins.module_utils.release_build import (
    Build,
    BuildError,
    compile_source,
    environment_file,
    find_python,
    install_dependencies,
    install_project,
    reuse_dependencies,
)
from ansible_collections.blueoctopus.site.plugins.module_utils.release_module import ID, release_module, work
from ansible_collections.blueoctopus.site.plugins.module_utils.releases import Releases, sync_folder, venv_matches
from ansible_collections.blueoctopus.site.plugins.module_utils.shared_paths import in_venv, set_aside, share
from ansible_collections.blueoctopus.site.plugins.module_utils.static_files import publish_packages, publish_source


def are_same(about: dict[str, Any], lock: str, shared_paths: list[str]) -> bool:
    """Whether the live release has the same locked dependencies, and the same links in its venv, which are copied, too.

    Args:
        about: the metadata of the live release.
        lock: the digest of the locked dependencies; empty when they are not locked.
        shared_paths: the parameter of the module.
    """
    return (
        bool(lock)
        and about.get("dependencies") == lock
        and in_venv(about.get("shared_paths", [])) == in_venv(shared_paths)
    )


def install(build: Build, live: Path, params: dict[str, Any]) -> str:
    """Create the venv: the dependencies and, if the source is a package, that package.

    Args:
        build: the build.
        live: the live release, whose dependencies are used again if they are locked and the same.
        params: parameters of the module.

    Returns:
        The digest of the locked dependencies; empty when they are not locked.
    """
    dependencies = read_dependencies(
        build.building / "source", params["requirements"], params["extras"], params["groups"]
    )
    lock = digest(dependencies.lock, build.python) if dependencies.lock else ""
    about = json.loads(read(live / "release.json") or "{}")
    before = live / "dependencies" if (live / "dependencies").is_dir() else live / "venv"
    if params["reuse"] and are_same(about, lock, params["shared_paths"]) and venv_matches(before, build.python):
        reuse_dependencies(build, before)
    else:
        install_dependencies(build, dependencies)
    venv = build.building / "venv"
    if dependencies.project:
        install_project(build, dependencies.folder)
    (build.workspace / "venv").rename(venv)
    shutil.rmtree(build.workspace)
    if not (venv / "bin/gunicorn").exists():
        raise BuildError(f"gunicorn is not among the dependencies. {dependencies.advice}")
    return lock


def resolve(environment: dict[str, Any], source: Path) -> dict[str, Any]:
    """Replace {release} in values with the path of the release's source. Other braces stay."""
    return {
        key: value.replace("{release}", str(source)) if isinstance(value, str) else value
        for key, value in environment.items()
    }


def build(store: Releases, params: dict[str, Any]) -> None:
    """Build the release in a temporary folder and rename that when it is complete."""
    python = find_python(params["python"])
    group = pwd.getpwnam(params["name"]).pw_gid
    building, final = store.folder / f".building-{params['release']}", store.path(params["release"])
    try:
        building.mkdir(mode=0o700)
        (building / "source").mkdir()
        # The archive is safe to unpack: release_source has created it.
        unpack: list[str | Path] = ["tar", "--extract", "--gzip", "--no-same-owner", "--file", params["archive"]]
        subprocess.run([*unpack, "--directory", building / "source"], check=True, capture_output=True, text=True)
        venv_paths = in_venv(params["shared_paths"])
        shared = set_aside(building, [path for path in params["shared_paths"] if path not in venv_paths])
        live = store.path(store.live or "none")
        publish_source(building, params["static"], params["prefix"], live)
        build_secrets = json.loads(params["build_secrets"] or "{}")
        uv_build = Build(params["name"], building, final, python, params["uv"], build_secrets)
        lock = install(uv_build, live, params)
        publish_packages(building, params["static"], params["prefix"], live)
        compile_source(building, final, params["name"], python)
        shared += set_aside(building, venv_paths)
        share(building, final, params["name"], store.root / "data", shared)
        for part in ("source", "venv"):
            os.chown(building / part, 0, group)
            (building / part).chmod(0o750)
        secrets = json.loads(params["secrets"] or "{}")
        environment = resolve(params["environment"], final / "source")
        write(building / "environment", environment_file(environment | secrets), 0o600)
        if passwords := json.loads(params["basic_auth"] or "{}"):
            lines = [f"{user}:{hashed}\n" for user, hashed in sorted(passwords.items())]
            write(building / "htpasswd", "".join(lines), 0o640)
            os.chown(building / "htpasswd", 0, grp.getgrnam("www-data").gr_gid)
        for name, content in params["files"].items():
            write(building / name, content, 0o644)
        write(building / "manifest", params["source"]["manifest"], 0o600)
        about = params["about"] | {key: params["source"][key] for key in ("commit", "version", "digest")}
        about["secrets"] = sorted(secrets)  # names; their values are hidden in the output of commands
        about |= {"dependencies": lock, "python": python}
        about["shared_paths"] = params["shared_paths"]
        write(building / "release.json", json.dumps(about), 0o600)
        (building / "socket").symlink_to(params["socket"].replace("%i", params["release"]))
        # nginx can enter the folder to reach the socket, but can't list it; the app's user can read its code.
        building.chmod(0o711)
        # A power failure must not leave a release that only looks complete.
        subprocess.run(["sync", "--file-system", building], check=True)
        building.rename(final)
        sync_folder(final.parent)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def let_nginx_read(store: Releases, folders: list[str]) -> None:
    """Let nginx read some folders of the app's data."""
    owner = pwd.getpwnam(store.name)
    for folder in folders:
        let_read(store.root / "data", folder, (owner.pw_uid, owner.pw_gid), pwd.getpwnam("www-data").pw_uid)


def differences(store: Releases, params: dict[str, Any]) -> list[dict[str, str]]:
    """The differences between the release and the live one, as entries of a diff: the manifest and the files."""
    live = store.path(store.live or "none")
    found = [difference(Path("source"), read(live / "manifest"), params["source"]["manifest"])]
    for name, content in sorted(params["files"].items()):
        if read(live / name) != content:
            found.append(difference(Path(name), read(live / name), content))
    return found


def main() -> None:
    module, store = release_module(
        **ID,
        source={"type": "dict", "required": True},
        requirements={"type": "str", "default": "requirements.txt"},
        environment={"type": "dict", "default": {}},
        secrets={"type": "str", "default": "", "no_log": True},
        files={"type": "dict", "default": {}},
        extras={"type": "list", "elements": "str", "default": []},
        groups={"type": "list", "elements": "str", "default": []},
        build_secrets={"type": "str", "default": "", "no_log": True},
        reuse={"type": "bool", "default": True},
        shared_paths={"type": "list", "elements": "str", "default": []},
        static={"type": "list", "elements": "dict", "default": []},
        prefix={"type": "str", "default": ""},
        data_folders={"type": "list", "elements": "str", "default": []},
        basic_auth={"type": "str", "default": "", "no_log": True},
        socket={"type": "path", "required": True},
        python={"type": "str", "default": "/usr/bin/python3"},
        uv={"type": "path", "required": True},
        about={"type": "dict", "default": {}},
        archive={"type": "path"},
    )
    params = module.params
    os.umask(0o022)
    exists = store.path(params["release"]).is_dir()
    result: dict[str, Any] = {"changed": not exists, "release": params["release"], "archive_needed": not exists}
    if exists:
        if not module.check_mode:
            with work(module):
                let_nginx_read(store, params["data_folders"])  # the folders may have been restored from a backup
        module.exit_json(**result)
    result["diff"] = differences(store, params)
    if module.check_mode or not params["archive"]:
        module.exit_json(**result)
    with work(module):
        try:
            store.prepare()
            store.sweep()
            build(store, params)
            let_nginx_read(store, params["data_folders"])  # last: shared_paths may have replaced a folder
        except (BuildError, DependencyError, OSError, subprocess.CalledProcessError) as error:
            reason = f"{error} {getattr(error, 'stderr', None) or ''}".strip()
            module.fail_json(msg=f"{params['name']}: release {params['release']} could not be built. {reason}")
    module.exit_json(**result | {"archive_needed": False})


if __name__ == "__main__":
    main()
