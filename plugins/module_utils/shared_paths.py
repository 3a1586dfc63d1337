"""Paths of a release that lead to the app's data folder, so that their content outlives the release."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.blueoctopus.site.plugins.module_utils.release_build import (
    BuildError,
    run_in_sandbox,
    shorten,
)

ASIDE = "shared"  # folder of an unfinished release, with what the source contains at the shared paths
# Arguments, for each path: its kind; whether that is certain; the content that the source has there; the path in the
# data folder. No is an empty text. A link there was made by the app or an administrator, and is left as it is.
POPULATE = """
import os, shutil, sys
for kind, is_certain, content, target in zip(*[iter(sys.argv[1:])] * 4):
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(target):
        continue
    if os.path.exists(target):
        if is_certain and os.path.isdir(target) != (kind == "folder"):
            sys.exit(f"{target} exists already, but is not a {kind}. Move it away, or correct shared_paths.")
        if not content or kind == "file" or os.listdir(target):
            continue
    if not content:
        if kind == "folder":
            os.mkdir(target)
        continue
    copy = f"{target}.{os.getpid()}.new"
    if kind == "folder":
        shutil.copytree(content, copy, symlinks=True)
        os.rename(copy, target)
    else:
        shutil.copyfile(content, copy)
        os.link(copy, target)
        os.unlink(copy)
"""


@dataclass(frozen=True)
class SharedPath:
    """A path of the source, or of the venv if it begins with venv/."""

    path: str  # without the / at its end
    kind: str  # folder or file
    is_certain: bool  # whether the kind does not only follow from the name
    has_content: bool  # whether the source contains something there, which is now in the folder ASIDE


def in_venv(paths: list[str]) -> list[str]:
    """Those of the shared paths that are in the venv."""
    return sorted(path for path in paths if path.startswith("venv/"))


def place(building: Path, path: str) -> Path:
    """Where a shared path is in an unfinished release."""
    return building / path if path.startswith("venv/") else building / "source" / path


def check_parents(building: Path, where: Path) -> None:
    """Check that no parent of a path is a link: a package may have created one in the venv. Root must not follow it.

    Raises:
        BuildError: when one is.
    """
    if where.parent.resolve() != building.resolve() / where.parent.relative_to(building):
        raise BuildError(f"shared_paths: {where.relative_to(building)} is behind a link, which a package has created.")


def set_aside(building: Path, paths: list[str]) -> list[SharedPath]:
    """Move what an unfinished release contains at shared paths to the folder ASIDE, and return the paths.

    Raises:
        BuildError: when a path that must be a folder is a file.
    """
    (building / ASIDE).mkdir(exist_ok=True)
    found = []
    for given in paths:
        path = given.rstrip("/")
        where, aside = place(building, path), building / ASIDE / path
        check_parents(building, where)
        if where.is_symlink():  # of the live release, whose venv is reused
            where.unlink()
        has_content = where.exists()
        must_be_folder = given.endswith("/") or given.startswith("venv/")
        is_folder = where.is_dir() if has_content else must_be_folder or not where.suffix
        if must_be_folder and not is_folder:
            raise BuildError(f"shared_paths: {given} must be a folder, but is a file.")
        if has_content:
            aside.parent.mkdir(parents=True, exist_ok=True)
            where.rename(aside)
        is_certain = must_be_folder or has_content
        found.append(SharedPath(path, "folder" if is_folder else "file", is_certain, has_content))
    return found


def share(building: Path, final: Path, app: str, data: Path, paths: list[SharedPath]) -> None:
    """Create the shared paths in the data folder, as the app's user, and replace those of the release with links.

    Content of the source is copied only where the data folder has nothing. Root writes nothing there, as the app may
    have created links to any file.

    Args:
        building: folder in which the release is built.
        final: final path of the release.
        app: name of the app and of its user.
        data: the data folder.
        paths: the shared paths, from `set_aside`.

    Raises:
        BuildError: when the data folder has something else there, or can't be written to.
    """
    if paths:
        argv: list[str | Path] = ["/usr/bin/python3", "-I", "-S", "-c", POPULATE]
        for shared in paths:
            content = final / ASIDE / shared.path if shared.has_content else ""
            argv += [shared.kind, "yes" if shared.is_certain else "", content, data / shared.path]
        binds = {building / ASIDE: final / ASIDE, data: data}
        properties = {"User": app, "Group": app, "UMask": "0027", "PrivateNetwork": "yes"}
        status, output = run_in_sandbox(app, argv, binds, properties, {})
        if status:
            raise BuildError(f"The shared_paths could not be created in {data}:\n{shorten(output)}")
    for shared in paths:
        where = place(building, shared.path)
        check_parents(building, where)
        where.parent.mkdir(parents=True, exist_ok=True)
        where.symlink_to(data / shared.path)
    shutil.rmtree(building / ASIDE, ignore_errors=True)
