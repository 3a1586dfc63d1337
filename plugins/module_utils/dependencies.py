"""The dependencies of an app: the file that lists them, how uv installs them, and whether that file locks them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The lines of a fully locked requirements file: pinned names, their hashes, comments.
LOCKED_LINE = re.compile(r"[A-Za-z0-9][\w.\[\],-]*==\S+ .*\\|\s+--hash=\S+( \\)?|\s*(#.*)?")
INCLUDE = re.compile(r"(-r|--requirement|-c|--constraint)[\s=]*(\S+)")
# Files of other tools, which uv can't read, and the command that writes a requirements file from them.
POETRY = "poetry export --output requirements.txt"
PIPENV = "pipenv requirements --hash > requirements.txt"
EXPORTS = {
    "poetry.lock": POETRY,
    "Pipfile": PIPENV,
    "Pipfile.lock": PIPENV,
    "pdm.lock": "pdm export --output requirements.txt",
}
EDITABLE = re.compile(r"(-e|--editable)([\s=]|$)")
# Settings of uv that change neither from where nor to where it downloads, nor whether it builds something.
HARMLESS_SETTINGS = {
    "build-constraint-dependencies",
    "conflicts",
    "constraint-dependencies",
    "default-groups",
    "dev-dependencies",
    "environments",
    "exclude-newer",
    "no-index",
    "override-dependencies",
    "package",
    "required-environments",
    "required-version",
    "sources",
    "workspace",
}


class DependencyError(Exception):
    """The dependencies can't be installed; the message has the reason and the solution."""


@dataclass(frozen=True)
class Dependencies:
    """How the dependencies of an app are installed."""

    folder: str  # folder of the source in which uv runs
    command: list[str]  # uv's command and its arguments
    copied: bool  # whether uv may build something in the source, and so needs a copy that it can write to
    project: bool  # whether the source is itself a package, to be installed beside its dependencies
    lock: str  # digest of everything that the installed packages depend on; empty when they are not locked
    # Whether a hash verifies each package, and uv has no settings that could do harm. Then uv may use a cache that all
    # apps share: none can add a package that another one then installs.
    verified: bool
    files: frozenset[str]  # the files of the source that were read
    advice: str  # how to add gunicorn


def digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def normalized(name: str) -> str:
    """The name of a package, extra or group in the form in which two spellings are equal."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_dependencies(source: Path, requirements: str, extras: list[str], groups: list[str]) -> Dependencies:
    """Read the file that lists the dependencies.

    Args:
        source: the source folder.
        requirements: the file, relative to it: a uv.lock, a pyproject.toml, or a requirements file.
        extras: optional dependencies of the project to install.
        groups: dependency groups of the project to install.

    Raises:
        DependencyError: when a file is missing, invalid, or has something that a release can't have.
    """
    if Path(requirements).name in ("uv.lock", "pyproject.toml"):
        return read_project(source, requirements, extras, groups)
    if export := EXPORTS.get(Path(requirements).name):
        raise DependencyError(
            f"uv can't read {requirements}. Run: {export}, and set the key 'requirements' to requirements.txt."
        )
    return read_requirements(source, requirements)


# --- requirements files -----------------------------------------------------------------------------------------------


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines of a requirements file with their numbers: without comments, with continuation lines joined."""
    begun, start = "", 1
    for number, line in enumerate(text.splitlines(), start=1):
        start = start if begun else number
        stripped = re.sub(r"(^|\s)#.*", "", line).rstrip()
        if stripped.endswith("\\"):
            begun += stripped[:-1] + " "
            continue
        if whole := (begun + stripped).strip():
            yield start, whole
        begun = ""
    if begun.strip():
        yield start, begun.strip()


def included_files(source: Path, name: str, seen: dict[str, str], constraint: bool = False) -> Iterator[str]:
    """Read a requirements file and the files that it includes into `seen`; yield those that list dependencies.

    Raises:
        DependencyError: when an included file does not exist in the source, or a line is editable.
    """
    if name in seen:
        return
    seen[name] = text = (source / name).read_text(errors="replace")
    if not constraint:
        yield name
    for number, line in logical_lines(text):
        where = f"{name}, line {number}:"
        if EDITABLE.match(line):
            raise DependencyError(
                f"{where} '{line}' is an editable install, which a release can't have. Write it without "
                f"{line.split()[0].split('=')[0]}."
            )
        found = INCLUDE.fullmatch(line)
        if not found or "://" in found[2]:
            continue
        other = os.path.normpath(Path(name).parent / found[2])
        if os.path.isabs(other) or other.startswith("..") or not (source / other).is_file():
            raise DependencyError(f"{where} '{line}' includes a file that is not in the source. Add {found[2]} to it.")
        yield from included_files(source, other, seen, constraint or found[1] in ("-c", "--constraint"))


def is_local(line: str, source: Path) -> bool:
    """Whether a line of a requirements file names a file or folder of the source."""
    path = re.split(r"\s*;|\s+--|\[", line)[0].strip()
    if line.startswith("-") or "://" in line.replace("file://", ""):
        return False
    return (
        " @ " in line
        or path.startswith((".", "/", "file:"))
        or path.endswith((".whl", ".zip", ".gz"))
        or ("/" in path and (source / path).exists())
    )


def read_requirements(source: Path, requirements: str) -> Dependencies:
    """Read a requirements file. Paths in it are relative to the source folder, as if pip ran there."""
    seen: dict[str, str] = {}
    lists = list(included_files(source, requirements, seen))
    enforced = ["--require-hashes"] if any(re.search(r"--hash[\s=]", text) for text in seen.values()) else []
    locked = bool(enforced) and all(
        LOCKED_LINE.fullmatch(line) or is_include(line) for name in lists for line in seen[name].splitlines()
    )
    has_options = any(
        line.startswith("-") and not is_include(line) for text in seen.values() for _, line in logical_lines(text)
    )
    settings = uv_settings(source, Path("."))
    return Dependencies(
        folder=".",
        command=["pip", "install", "--requirement", requirements, *enforced],
        copied=any(is_local(line, source) for name in lists for _, line in logical_lines(seen[name])),
        project=False,
        lock=digest(requirements, seen, settings) if locked else "",
        verified=locked and not has_options and are_harmless(settings),
        files=frozenset(seen),
        advice=f"Add it to {requirements}.",
    )


def is_include(line: str) -> bool:
    """Whether a line includes another file of the source."""
    return bool(INCLUDE.fullmatch(line.strip())) and "://" not in line


def uv_settings(source: Path, folder: Path) -> list[dict[str, Any]]:
    """The settings of uv in the folder where it runs, and in the folders above it, up to the source."""
    found = []
    for parent in (folder, *folder.parents):
        for name, tables in {"uv.toml": (), "pyproject.toml": ("tool", "uv")}.items():
            if (source / parent / name).is_file():
                settings = read_toml(source / parent / name, str(parent / name))
                for table in tables:
                    settings = settings.get(table, {})
                found.append(settings)
    return found


def are_harmless(settings: list[dict[str, Any]]) -> bool:
    return all(HARMLESS_SETTINGS.issuperset(one) for one in settings)


# --- projects ---------------------------------------------------------------------------------------------------------


def read_toml(path: Path, shown: str) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DependencyError(f"{shown} is not valid TOML: {error}.") from None


def read_project(source: Path, requirements: str, extras: list[str], groups: list[str]) -> Dependencies:
    """Read a project: a pyproject.toml, and the uv.lock beside it if the dependencies are locked."""
    folder = Path(requirements).parent
    shown = str(folder / "pyproject.toml")
    if not (source / shown).is_file():
        raise DependencyError(f"There is no {shown} beside {requirements}. Add it, or set the key 'requirements'.")
    pyproject = read_toml(source / shown, shown)
    project = pyproject.get("project", {})
    settings = pyproject.get("tool", {}).get("uv", {})
    if not project and "poetry" in pyproject.get("tool", {}):
        raise DependencyError(
            f"{shown} has no table [project], only Poetry's own. Run: {POETRY}, and set the key 'requirements' to "
            "requirements.txt."
        )
    if not project:
        raise DependencyError(f"{shown} has no table [project]. Set the key 'requirements' to another file.")
    if "optional-dependencies" not in project.get("dynamic", []):
        optional = project.get("optional-dependencies", {})
        check_known("extras", extras, optional, shown, "[project.optional-dependencies]")
    check_known("groups", groups, pyproject.get("dependency-groups", {}), shown, "[dependency-groups]")
    chosen = [*(f"--extra={name}" for name in extras), *(f"--group={name}" for name in groups)]
    lock, verified = "", False
    command = ["pip", "install", "--requirement", "pyproject.toml", *chosen]
    if Path(requirements).name == "uv.lock":
        packages = read_toml(source / requirements, requirements).get("package", [])
        check_complete(project, packages, requirements)
        options = ["--frozen", "--no-dev", "--no-editable", "--no-install-project"]
        command = ["sync", *options, *chosen]
        uvs = uv_settings(source, folder)
        lock = digest((source / requirements).read_text(), uvs, extras, groups) if all(map(is_fixed, packages)) else ""
        verified = bool(lock) and not any("git" in one.get("source", {}) for one in packages) and are_harmless(uvs)
    return Dependencies(
        folder=str(folder),
        command=command,
        copied=True,
        project=bool(settings.get("package", "build-system" in pyproject)),
        lock=lock,
        verified=verified,
        files=frozenset((requirements, shown)),
        advice=f"Run: uv add gunicorn. It adds gunicorn to {shown}"
        + (" and uv.lock." if Path(requirements).name == "uv.lock" else "."),
    )


def check_known(key: str, names: list[str], known: dict[str, Any], shown: str, table: str) -> None:
    """Check that the project has the extras or groups of a key.

    Raises:
        DependencyError: with the names that the project has.
    """
    for name in names:
        if normalized(name) not in map(normalized, known):
            has = f"It has {', '.join(known)}" if known else "It has none"
            raise DependencyError(f"The key '{key}' has {name}, which is not in {table} of {shown}. {has}.")


def check_complete(project: dict[str, Any], packages: list[dict[str, Any]], requirements: str) -> None:
    """Check that a lock has all dependencies of its project, except those for certain systems only.

    Raises:
        DependencyError: with the first missing dependency.
    """
    locked = {normalized(package["name"]) for package in packages}
    for dependency in project.get("dependencies", []):
        name = re.match(r"[A-Za-z0-9][\w.-]*", dependency)
        if name and ";" not in dependency and normalized(name[0]) not in locked:
            raise DependencyError(f"{requirements} is out of date: it does not have {name[0]}. Run: uv lock")


def is_fixed(package: dict[str, Any]) -> bool:
    """Whether a package of a uv.lock always has the same content: not the project itself, which is installed anew."""
    source = package.get("source", {})
    if "." in (source.get("editable"), source.get("virtual"), source.get("directory")) or "git" in source:
        return True
    files = [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]
    return bool(files) and all("hash" in file for file in files)
