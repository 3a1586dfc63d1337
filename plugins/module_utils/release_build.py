"""Run code of an app and its dependencies while a release is built: in a sandbox, never as root."""

from __future__ import annotations

import grp
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.blueoctopus.site.plugins.module_utils.dependencies import Dependencies
from ansible_collections.blueoctopus.site.plugins.module_utils.files import write
from ansible_collections.blueoctopus.site.plugins.module_utils.hints import hint
from ansible_collections.blueoctopus.site.plugins.module_utils.instances import build_unit, stop_builds
from ansible_collections.blueoctopus.site.plugins.module_utils.masking import mask, passwords

CACHES = Path("/var/cache")  # the caches for each app
CACHE = CACHES / "uv"  # shared by all apps; only user uv, which runs no app's code, can write to it
FETCHER = "uv"
COMPILERS = "compilers"  # the group that can run compilers, if the role hardening has restricted them
TIME_LIMIT = 1800  # seconds
RUN = Path("/run")  # in memory: holds the environment of a build
# Settings of a proxy or of a private package index.
PASSED_VARIABLES = re.compile(r"UV_\w+|(https?|no|all)_proxy", re.IGNORECASE)
PRIVATE_VARIABLES = re.compile(r"\w+_(PASSWORD|TOKEN)", re.IGNORECASE)
PATH = "/usr/local/bin:/usr/bin:/bin"
# Folders that the sandboxes of a build or of an app hide.
HIDDEN = ("/home", "/root", "/run", "/srv", "/tmp", "/var/lib", "/var/tmp")  # noqa: S108
SETTINGS = {
    "UV_LINK_MODE": "copy",  # the owner of the cache could still write to a linked file
    "UV_NO_PROGRESS": "1",
    "UV_PYTHON_DOWNLOADS": "never",
    "UV_SYSTEM_CERTS": "1",  # trust the host's CAs, such as that of a company's proxy
}
SANDBOX = {
    "ProtectSystem": "strict",
    "ProtectHome": "tmpfs",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "PrivateUsers": "yes",
    "NoNewPrivileges": "yes",
    "CapabilityBoundingSet": "",
    "LockPersonality": "yes",
    "ProtectClock": "yes",
    "ProtectControlGroups": "yes",
    "ProtectHostname": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectProc": "invisible",
    "RemoveIPC": "yes",
    "RestrictNamespaces": "yes",
    "RestrictRealtime": "yes",
    "RestrictSUIDSGID": "yes",
    "SystemCallArchitectures": "native",
    "SystemCallFilter": "@system-service",
    "SystemCallErrorNumber": "EPERM",
    "UMask": "0022",
    "RuntimeMaxSec": str(TIME_LIMIT),
    "KillSignal": "SIGKILL",  # processes that a build leaves running have nothing to finish
    "TasksMax": "1024",
    # Hide other apps and the roles' own files.
    "TemporaryFileSystem": "/srv:ro /var/lib:ro",
    "InaccessiblePaths": "-/etc/nginx -/etc/certificates -/run/apps -/run/releases -/var/log",
}
# Both scripts: $1 uv, $2 the interpreter, $3 the release, $4 the folder of the source in which uv runs.
# $5 whether that is in a copy, which a build back end may write to; then uv's command.
INSTALL = """
uv=$1 python=$2 release=$3 folder=$4 copied=$5
shift 5
source=$release/source
if [ "$copied" ]; then
    source=$release/copy
    cp -R "$release/source/." "$source"
fi
cd "$source/$folder"
"$uv" venv --quiet --allow-existing --relocatable --python "$python" "$release/venv"
export UV_PROJECT_ENVIRONMENT="$release/venv" VIRTUAL_ENV="$release/venv"
"$uv" "$@" --quiet --python "$release/venv/bin/python"
# Without the module site, so that no .pth file of a package runs.
"$python" -I -S -m compileall -qq "$release/venv/lib" || true
"""
# uv build is not quiet, which would hide why a build fails. The install is without a cache, so that no release gets the
# package of another one.
INSTALL_PROJECT = """
uv=$1 python=$2 release=$3 folder=$4
cp -R "$release/source/." "$release/copy"
cd "$release/copy/$folder"
"$uv" build --wheel --python "$release/venv/bin/python" --out-dir "$release/wheel" .
"$uv" pip install --quiet --no-deps --no-index --no-cache --python "$release/venv/bin/python" "$release"/wheel/*.whl
"$python" -I -S -m compileall -qq "$release/venv/lib" || true
"""


class BuildError(Exception):
    """A release could not be built; the message has the reason and the solution."""


@dataclass(frozen=True)
class Build:
    """The parameters that the steps of a build share."""

    app: str  # its name
    building: Path  # folder in which the release is built
    final: Path  # final path of the release
    python: str  # path of the interpreter
    uv: str  # path of the uv program
    secrets: Mapping[str, Any] = field(default_factory=dict)  # environment variables for uv alone

    @property
    def workspace(self) -> Path:
        """The folder that sandboxes can write to. Other users can't enter `building`, so its mode 777 is safe."""
        return self.building / "work"

    @property
    def own_user(self) -> dict[str, str]:
        """Properties of a unit that runs code of packages: a temporary user with a cache for this app alone."""
        name = f"release-build-{self.app}"
        groups = COMPILERS if any(group.gr_name == COMPILERS for group in grp.getgrall()) else ""
        return {
            "DynamicUser": "yes",
            "SupplementaryGroups": groups,
            "CacheDirectory": name,
            "CacheDirectoryMode": "0700",
        }

    @property
    def own_cache(self) -> Path:
        return CACHES / f"release-build-{self.app}"


def shorten(output: str) -> str:
    """A program's output, indented; long output without its middle, as errors are at the start or the end."""
    lines = output.strip().splitlines()
    if len(lines) > 30:
        lines = [*lines[:15], f"… {len(lines) - 30} more lines …", *lines[-15:]]
    return "\n".join(f"  {line}" for line in lines)


def environment_file(settings: Mapping[str, Any]) -> str:
    """Write settings in the format of systemd's EnvironmentFile, with quotes so that no value is changed."""
    lines = []
    for key, value in sorted(settings.items()):
        quoted = "".join(f"\\{c}" if c in '"\\$`' else c for c in str(value))
        lines.append(f'{key}="{quoted}"\n')
    return "".join(lines)


def find_python(name: str) -> str:
    """The path of an interpreter on this host.

    Raises:
        BuildError: when there is none, or it is where the sandboxes can't see it.
    """
    path = name if name.startswith("/") else shutil.which(name, path=PATH)
    advice = "Set the key 'python' to the name or the path of an interpreter on the host, or leave it out."
    if not path or not os.access(path, os.X_OK) or not os.path.isfile(path):
        found = {other.name for folder in PATH.split(":") for other in Path(folder).glob("python3*")}
        has = ", ".join(sorted(other for other in found if re.fullmatch(r"python3(\.\d+)?", other)))
        raise BuildError(f"The interpreter {name} does not exist on this host, which has {has or 'none'}. {advice}")
    real = os.path.realpath(path)
    if real.startswith(tuple(f"{folder}/" for folder in HIDDEN)):
        raise BuildError(f"The interpreter {real} is in a folder that apps can't access. Install it in /opt. {advice}")
    return path


def private_values(passed: Mapping[str, str], secrets: Mapping[str, Any]) -> list[str]:
    """The values that no output may show: all build secrets, and passwords in the host's own environment."""
    own = [value for name, value in passed.items() if PRIVATE_VARIABLES.fullmatch(name)]
    return [*map(str, secrets.values()), *own, *(word for value in passed.values() for word in passwords(value))]


def run_in_sandbox(
    app: str,
    argv: list[str | Path],
    binds: dict[Path, Path],
    properties: dict[str, str],
    settings: dict[str, str],
    secrets: Mapping[str, Any] | None = None,
) -> tuple[int, str]:
    """Run a program in a sandbox, and kill all processes that it leaves running.

    Args:
        app: name of the app, for the unit's name.
        argv: the program and its arguments.
        binds: folders of the host, and their paths in the sandbox.
        properties: further properties of the unit, such as the user.
        settings: environment variables.
        secrets: environment variables whose values are masked in the output.

    Returns:
        Exit status and output.
    """
    all_properties = SANDBOX | properties
    mounts = " ".join(f"{host}:{inside}" for host, inside in binds.items())
    passed = {key: value for key, value in os.environ.items() if PASSED_VARIABLES.fullmatch(key)}
    environment = {**passed, **(secrets or {}), "PATH": PATH, "HOME": "/tmp", **settings}  # noqa: S108
    stop_builds(app)
    # In a file that only root can read: every user can read the properties of a unit, with its variables.
    variables = RUN / f"release-build-{app}.environment"
    # A name of its own: systemd may know a unit that it has just stopped for a moment longer.
    command = [
        "systemd-run",
        "--quiet",
        "--wait",
        "--pipe",
        "--collect",
        f"--unit={build_unit(app, os.urandom(4).hex())}",
    ]
    command += [f"--property={key}={value}" for key, value in all_properties.items()]
    command += [f"--property=BindPaths={mounts}", f"--property=EnvironmentFile={variables}"]
    try:
        write(variables, environment_file(environment), 0o600)
        done = subprocess.run(
            [*command, "--", *(str(word).replace("$", "$$") for word in argv)],  # systemd would expand a single $
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    finally:
        variables.unlink(missing_ok=True)
    return done.returncode, mask(done.stdout, private_values(passed, secrets or {}))


def hand_to_root(tree: Path) -> None:
    """Make root the owner of a tree that a sandbox has written: only files, folders and links, with plain modes.

    Raises:
        BuildError: when the tree itself is no longer a folder; os.walk would follow a link.
    """
    if not stat.S_ISDIR(tree.lstat().st_mode):
        raise BuildError(f"{tree.name} is no longer a folder: a package has replaced it.")
    for folder, folders, names in os.walk(tree):
        for path in (Path(folder), *(Path(folder) / name for name in (*folders, *names))):
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
                path.unlink()
                continue
            os.lchown(path, 0, 0)
            if not stat.S_ISLNK(mode):
                path.chmod(0o755 if stat.S_ISDIR(mode) or mode & 0o100 else 0o644)


def prepare_cache() -> None:
    """Create the user that fetches packages, and the cache that all apps share."""
    account = f'u {FETCHER} - "Fetches packages for releases" {CACHE} /usr/sbin/nologin'
    subprocess.run(["systemd-sysusers", "--inline", account], check=True, capture_output=True)
    # A cache of root's is not reused: it may contain links that other users have created.
    if not CACHE.is_dir() or CACHE.stat().st_uid == 0:
        shutil.rmtree(CACHE, ignore_errors=True)
        CACHE.mkdir(mode=0o700)
        shutil.chown(CACHE, FETCHER, FETCHER)


def run_uv(build: Build, script: str, arguments: list[str], properties: dict[str, str], cache: Path) -> tuple[int, str]:
    """Run a script with uv in a sandbox, in which the release has its final path."""
    (build.workspace / "source").mkdir(exist_ok=True)
    binds = {build.workspace: build.final, build.building / "source": build.final / "source"}
    argv: list[str | Path] = ["/bin/sh", "-euc", script, "sh", build.uv, build.python, build.final, *arguments]
    network = {"RestrictAddressFamilies": "AF_UNIX AF_INET AF_INET6"}
    settings = SETTINGS | {"UV_CACHE_DIR": str(cache)}
    return run_in_sandbox(build.app, argv, binds, network | properties, settings, build.secrets)


def check(build: Build, task: str, status: int, output: str) -> None:
    """Check the result of uv.

    Raises:
        BuildError: when it has failed, with its output and a hint.
    """
    if status:
        reason = f"{task} failed:\n{shorten(output) or f'  it ended with exit status {status}'}"
        raise BuildError("\n".join(filter(None, (reason, hint(output, build.app)))))


def install_dependencies(build: Build, dependencies: Dependencies) -> None:
    """Create a venv in the workspace and install the dependencies in it.

    Raises:
        BuildError: when a dependency can't be downloaded, does not match its hash, or can't be built.
    """
    if not Path(build.uv).exists():
        raise BuildError(f"{build.uv} does not exist. Run playbooks/provision.yml on this host first.")
    prepare_cache()
    arguments = [dependencies.folder, "yes" if dependencies.copied else "", *dependencies.command]

    def attempt(properties: dict[str, str], cache: Path, *options: str) -> tuple[int, str]:
        shutil.rmtree(build.workspace, ignore_errors=True)
        build.workspace.mkdir()
        build.workspace.chmod(0o777)
        return run_uv(build, INSTALL, [*arguments, *options], properties, cache)

    # First without builds, so that no code of a package runs, and with the cache that all apps share. Not with secrets:
    # packages of a private index are for this app alone.
    status, output = 1, "no-build"
    if dependencies.verified and not build.secrets:
        shared = {"User": FETCHER, "Group": FETCHER, "ReadWritePaths": str(CACHE)}
        status, output = attempt(shared, CACHE, "--no-build")
    if status and re.search(r"no usable wheels|[Bb]uilding .* is disabled|no-build", output):
        status, output = attempt(build.own_user, build.own_cache)
    check(build, f"uv {dependencies.command[0]}", status, output)
    hand_to_root(build.workspace / "venv")
    for folder in ("copy", "source"):
        shutil.rmtree(build.workspace / folder, ignore_errors=True)


def link_tree(source: Path, target: Path) -> None:
    """Copy a folder, with hard links for its files."""
    command: list[str | Path] = ["cp", "--archive", "--link", source, target]
    subprocess.run(command, check=True, capture_output=True)


def reuse_dependencies(build: Build, venv: Path) -> None:
    """Use a venv of another release, as hard links, so that this is fast however many dependencies there are."""
    build.workspace.mkdir()
    build.workspace.chmod(0o777)
    link_tree(venv, build.workspace / "venv")


def install_project(build: Build, folder: str) -> None:
    """Build the app's own package and install it in the workspace's venv.

    Its build runs code of the package, which can replace files of the venv, but not write to those that are hard links.
    The folder `dependencies` keeps the venv without the package, for the next release.

    Args:
        build: the build.
        folder: folder of the project in the source.

    Raises:
        BuildError: when it can't be built.
    """
    link_tree(build.workspace / "venv", build.building / "dependencies")
    (build.building / "dependencies").chmod(0o700)
    for path, _folders, _names in os.walk(build.workspace / "venv"):
        Path(path).chmod(0o777)
    status, output = run_uv(build, INSTALL_PROJECT, [folder], build.own_user, build.own_cache)
    check(build, "uv build", status, output)
    hand_to_root(build.workspace / "venv")


def compile_source(building: Path, final: Path, app: str, python: str) -> None:
    """Compile the source, as the app's user can't write the result later. Errors are left to the health check."""
    source = building / "source"
    caches = [folder / "__pycache__" for folder in {path.parent for path in source.rglob("*.py")}]
    for cache in caches:
        cache.mkdir(exist_ok=True)
        cache.chmod(0o777)  # the sandbox can write only there
    argv: list[str | Path] = [python, "-I", "-S", "-m", "compileall", "-qq", final / "source"]
    run_in_sandbox(app, argv, {source: final / "source"}, {"DynamicUser": "yes", "PrivateNetwork": "yes"}, {})
    for cache in caches:
        for path in cache.iterdir():
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode):
                shutil.rmtree(path)
            elif not stat.S_ISREG(mode):
                path.unlink()
        hand_to_root(cache)
