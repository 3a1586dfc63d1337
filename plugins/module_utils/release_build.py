"""Run code of an app and its dependencies while a release is built: in a sandbox, never as root."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

from ansible_collections.blueoctopus.site.plugins.module_utils.instances import build_unit, stop_builds

CACHE = Path("/var/cache/uv")  # shared by all apps; only user uv, which runs no app's code, can write to it
FETCHER = "uv"
TIME_LIMIT = 1800  # seconds
# Settings of a proxy or of a private package index.
PASSED_VARIABLES = re.compile(r"UV_\w+|(https?|no|all)_proxy", re.IGNORECASE)
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
# $1 uv, $2 the interpreter, $3 the venv, $4 the requirements; then options for uv.
INSTALL = """
uv=$1 python=$2 venv=$3 requirements=$4
shift 4
"$uv" venv --quiet --allow-existing --relocatable --python "$python" "$venv"
"$uv" pip install --quiet --python "$venv/bin/python" --requirement "$requirements" "$@"
# Without the module site, so that no .pth file of a package runs.
"$python" -I -S -m compileall -qq "$venv/lib" || true
"""


class BuildError(Exception):
    """A release could not be built; the message has the reason and the solution."""


def shorten(output: str) -> str:
    """A program's output, indented; long output without its middle, as errors are at the start or the end."""
    lines = output.strip().splitlines()
    if len(lines) > 30:
        lines = [*lines[:15], f"… {len(lines) - 30} more lines …", *lines[-15:]]
    return "\n".join(f"  {line}" for line in lines)


def run_in_sandbox(
    app: str, argv: list[str | Path], binds: dict[Path, Path], properties: dict[str, str], settings: dict[str, str]
) -> tuple[int, str]:
    """Run a program in a sandbox, and kill all processes that it leaves running.

    Args:
        app: name of the app, for the unit's name.
        argv: the program and its arguments.
        binds: folders of the host, and their paths in the sandbox.
        properties: further properties of the unit, such as the user.
        settings: environment variables.

    Returns:
        Exit status and output.
    """
    all_properties = SANDBOX | properties
    mounts = " ".join(f"{host}:{inside}" for host, inside in binds.items())
    passed = {key: value for key, value in os.environ.items() if PASSED_VARIABLES.fullmatch(key)}
    environment = passed | {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp"} | settings  # noqa: S108
    stop_builds(app)
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
    command += [f"--property=BindPaths={mounts}", *(f"--setenv={key}" for key in environment)]
    done = subprocess.run(
        [*command, "--", *(str(word).replace("$", "$$") for word in argv)],  # systemd would expand a single $
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **environment},
    )
    return done.returncode, done.stdout


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


def install_venv(building: Path, final: Path, app: str, requirements: Path, python: str, uv: str) -> None:
    """Create a venv and install the dependencies in it.

    Args:
        building: folder in which the release is built; `venv` is created there.
        final: final path of the release.
        app: name of the app.
        requirements: the file that lists the dependencies.
        python: the interpreter.
        uv: the uv program.

    Raises:
        BuildError: when a dependency can't be downloaded, does not match its hash, or can't be built.
    """
    if not Path(uv).exists():
        raise BuildError(f"{uv} does not exist. Run playbooks/provision.yml on this host first.")
    account = f'u {FETCHER} - "Fetches packages for releases" {CACHE} /usr/sbin/nologin'
    subprocess.run(["systemd-sysusers", "--inline", account], check=True, capture_output=True)
    # A cache of root's is not reused: it may contain links that other users have created.
    if not CACHE.is_dir() or CACHE.stat().st_uid == 0:
        shutil.rmtree(CACHE, ignore_errors=True)
        CACHE.mkdir(mode=0o700)
        shutil.chown(CACHE, FETCHER, FETCHER)
    # In the sandbox, the release has its final path. Other users can't enter the folder, so its mode 777 is safe.
    workspace = building / "work"
    enforced = ["--require-hashes"] if "--hash=" in requirements.read_text() else []
    binds = {workspace: final, building / "source": final / "source"}
    argv: list[str | Path] = ["/bin/sh", "-euc", INSTALL, "sh", uv, python, final / "venv"]
    argv += [final / requirements.relative_to(building), *enforced]

    def attempt(properties: dict[str, str], cache: Path, *options: str) -> tuple[int, str]:
        shutil.rmtree(workspace, ignore_errors=True)
        workspace.mkdir()
        (workspace / "source").mkdir()
        workspace.chmod(0o777)
        network = {"RestrictAddressFamilies": "AF_UNIX AF_INET AF_INET6"}
        settings = SETTINGS | {"UV_CACHE_DIR": str(cache)}
        return run_in_sandbox(app, [*argv, *options], binds, network | properties, settings)

    # First without builds: then no code of a package runs, so the cache may be shared.
    shared = {"User": FETCHER, "Group": FETCHER, "ReadWritePaths": str(CACHE)}
    status, output = attempt(shared, CACHE, "--no-build")
    if status and re.search(r"no usable wheels|[Bb]uilding .* is disabled|no-build", output):
        name = f"release-build-{app}"
        own = {"DynamicUser": "yes", "CacheDirectory": name, "CacheDirectoryMode": "0700"}
        status, output = attempt(own, Path("/var/cache") / name)
    if status:
        raise BuildError(f"uv pip failed:\n{shorten(output) or f'  it ended with exit status {status}'}")
    hand_to_root(workspace / "venv")
    (workspace / "venv").rename(building / "venv")
    shutil.rmtree(workspace)


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
