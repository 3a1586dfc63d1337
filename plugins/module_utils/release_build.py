"""Run what came with an app, to build a release of it: by a user and in a sandbox of its own, never as root."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

CACHE = Path("/var/cache/uv")  # shared by all apps; only the user of the same name writes to it, and runs no app's code
FETCHER = "uv"
TIME_LIMIT = 1800  # seconds
# What a computer behind a proxy or with an index of its own is set up with.
PASSED_VARIABLES = re.compile(r"UV_\w+|(https?|no|all)_proxy", re.IGNORECASE)
SETTINGS = {
    "UV_LINK_MODE": "copy",  # a link would leave the file to the user of the cache
    "UV_NO_PROGRESS": "1",
    "UV_PYTHON_DOWNLOADS": "never",
    "UV_SYSTEM_CERTS": "1",  # trust what the machine trusts, as behind a company's proxy
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
    "KillSignal": "SIGKILL",  # what a build leaves running has nothing to finish
    "TasksMax": "1024",
    # Neither other apps nor what roles keep for themselves.
    "TemporaryFileSystem": "/srv:ro /var/lib:ro",
    "InaccessiblePaths": "-/etc/nginx -/etc/certificates -/run/apps -/run/releases -/var/log",
}
# $1 uv, $2 the interpreter, $3 the venv, $4 the requirements; then options for uv.
INSTALL = """
uv=$1 python=$2 venv=$3 requirements=$4
shift 4
"$uv" venv --quiet --allow-existing --relocatable --python "$python" "$venv"
"$uv" pip install --quiet --python "$venv/bin/python" --requirement "$requirements" "$@"
# Without site, so that no .pth file of a package runs.
"$python" -I -S -m compileall -qq "$venv/lib" || true
"""


class BuildError(Exception):
    """A release could not be built; the message says why and what to do."""


def shorten(words: str) -> str:
    """What a program said, without the middle where that is long: what is wrong stands at an end."""
    lines = words.strip().splitlines()
    if len(lines) > 30:
        lines = [*lines[:15], f"… {len(lines) - 30} lines more …", *lines[-15:]]
    return "\n".join(f"  {line}" for line in lines)


def run_in_sandbox(
    app: str, argv: list[str | Path], binds: dict[Path, Path], properties: dict[str, str], settings: dict[str, str]
) -> tuple[int, str]:
    """Run a program in a sandbox, and end whatever it leaves running.

    Args:
        app: name of the app, for the unit's name.
        argv: the program.
        binds: folders of the host, and where the sandbox has them.
        properties: properties of the unit beside SANDBOX, such as the user.
        settings: environment variables.

    Returns:
        Exit status and output.
    """
    all_properties = SANDBOX | properties
    places = " ".join(f"{host}:{inside}" for host, inside in binds.items())
    passed = {key: value for key, value in os.environ.items() if PASSED_VARIABLES.fullmatch(key)}
    environment = passed | {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp"} | settings  # noqa: S108
    unit = f"release-build-{app}.service"
    subprocess.run(["systemctl", "stop", unit], capture_output=True)  # of a module that was killed
    command = ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", f"--unit={unit}"]
    command += [f"--property={key}={value}" for key, value in all_properties.items()]
    command += [f"--property=BindPaths={places}", *(f"--setenv={key}" for key in environment)]
    done = subprocess.run(
        [*command, "--", *(str(word).replace("$", "$$") for word in argv)],  # systemd expands what is not doubled
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **environment},
    )
    return done.returncode, done.stdout


def hand_to_root(tree: Path) -> None:
    """Give a tree that a sandbox has written to root: plain files, folders and links, and no special modes.

    Raises:
        BuildError: when the tree itself is not a folder any more; os.walk would follow a link.
    """
    if not stat.S_ISDIR(tree.lstat().st_mode):
        raise BuildError(f"{tree.name} is not a folder any more: a package has replaced it.")
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
    """Make a venv with the dependencies in it.

    Args:
        building: folder in which the release is built; `venv` is made there.
        final: where the release will be.
        app: name of the app.
        requirements: the file that lists the dependencies.
        python: the interpreter.
        uv: the uv program.

    Raises:
        BuildError: when a dependency can't be had, does not match its hash, or does not build.
    """
    if not Path(uv).exists():
        raise BuildError(f"{uv} is not there. Run playbooks/provision.yml on this host first.")
    account = f'u {FETCHER} - "Fetches packages for releases" {CACHE} /usr/sbin/nologin'
    subprocess.run(["systemd-sysusers", "--inline", account], check=True, capture_output=True)
    if (
        not CACHE.is_dir() or CACHE.stat().st_uid == 0
    ):  # of root's, it can't be taken over: others' links may lead there
        shutil.rmtree(CACHE, ignore_errors=True)
        CACHE.mkdir(mode=0o700)
        shutil.chown(CACHE, FETCHER, FETCHER)
    # The sandbox sees the release where it will be; whoever may write there can't be reached by other users.
    workplace = building / "work"
    enforced = ["--require-hashes"] if "--hash=" in requirements.read_text() else []
    binds = {workplace: final, building / "source": final / "source"}
    argv: list[str | Path] = ["/bin/sh", "-euc", INSTALL, "sh", uv, python, final / "venv"]
    argv += [final / requirements.relative_to(building), *enforced]

    def attempt(properties: dict[str, str], cache: Path, *options: str) -> tuple[int, str]:
        shutil.rmtree(workplace, ignore_errors=True)
        workplace.mkdir()
        (workplace / "source").mkdir()
        workplace.chmod(0o777)
        network = {"RestrictAddressFamilies": "AF_UNIX AF_INET AF_INET6"}
        settings = SETTINGS | {"UV_CACHE_DIR": str(cache)}
        return run_in_sandbox(app, [*argv, *options], binds, network | properties, settings)

    # First without builds: none of the packages' code runs then, so the cache may be shared.
    shared = {"User": FETCHER, "Group": FETCHER, "ReadWritePaths": str(CACHE)}
    status, said = attempt(shared, CACHE, "--no-build")
    if status and re.search(r"no usable wheels|[Bb]uilding .* is disabled|no-build", said):
        name = f"release-build-{app}"
        own = {"DynamicUser": "yes", "CacheDirectory": name, "CacheDirectoryMode": "0700"}
        status, said = attempt(own, Path("/var/cache") / name)
    if status:
        raise BuildError(f"uv pip failed:\n{shorten(said) or f'  it ended with status {status}'}")
    hand_to_root(workplace / "venv")
    (workplace / "venv").rename(building / "venv")
    shutil.rmtree(workplace)


def compile_source(building: Path, final: Path, app: str, python: str) -> None:
    """Compile the source, which its own user can't do later. What doesn't compile is for the health check to judge."""
    source = building / "source"
    caches = [folder / "__pycache__" for folder in {path.parent for path in source.rglob("*.py")}]
    for cache in caches:
        cache.mkdir(exist_ok=True)
        cache.chmod(0o777)  # only there may the sandbox write
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
