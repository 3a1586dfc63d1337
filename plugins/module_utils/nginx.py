"""nginx's configuration: tested as a whole before any of it is replaced."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from ansible_collections.blueoctopus.site.plugins.module_utils.files import write

NGINX = "/usr/sbin/nginx"
ROOT = Path("/etc/nginx")


class NginxError(Exception):
    """nginx refuses a configuration, or can't be reloaded; the message has nginx's own words."""


def replace(root: Path, files: Mapping[str, str | Path], removed: Iterable[str] = ()) -> None:
    """Replace files below a folder, each in one step, and remove others; a path in place of a text becomes a link."""
    for name in removed:
        (root / name).unlink()
    for name, content in files.items():
        if isinstance(content, Path):
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).unlink(missing_ok=True)
            (root / name).symlink_to(content)
        else:
            write(root / name, content)


def check(files: Mapping[str, str | Path], removed: Iterable[str] = (), root: Path = ROOT) -> None:
    """Let nginx test a copy of its configuration with changes in it.

    Args:
        files: the changed files, by their path below `root`: a text, or the file that a link leads to.
        removed: files that go away.
        root: folder of nginx's configuration.

    Raises:
        NginxError: when it refuses the configuration.
    """
    if not Path(NGINX).exists():
        raise NginxError("nginx is not installed. Run playbooks/provision.yml on this host first.")
    with tempfile.TemporaryDirectory() as folder:
        candidate = Path(folder) / "nginx"
        shutil.copytree(root, candidate, symlinks=True)
        replace(candidate, files, removed)
        done = subprocess.run([NGINX, "-t", "-c", str(candidate / "nginx.conf")], capture_output=True, text=True)
    clash = "conflicting server name" in done.stderr
    if done.returncode or clash:
        hint = (
            "\nAnother site serves this name. Did its app leave the inventory? playbooks/provision.yml removes it. Did "
            "the name move from an app to one before it in the list? Deploy the one that gave it up first: -e app=NAME"
        )
        words = done.stderr.replace(str(candidate), str(root)).strip()
        indented = "\n".join(f"  {line}" for line in words.splitlines())
        raise NginxError(f"nginx refuses the new configuration:\n{indented}{hint * clash}")


def is_running() -> bool:
    return subprocess.run(["systemctl", "is-active", "--quiet", "nginx"]).returncode == 0


def reload_pending(root: Path = ROOT) -> Path:
    """A file that is there from the first changed file until nginx has reloaded, so that a run that was cut off in
    between is made up for by the next one."""
    return root / ".reload-pending"


def reload(root: Path = ROOT) -> None:
    """Have nginx apply its configuration, which drops no request; start it, now and after a reboot, when it is down.

    Raises:
        NginxError: when it can't.
    """
    command = ["reload", "nginx"] if is_running() else ["enable", "--now", "nginx"]
    done = subprocess.run(["systemctl", *command], capture_output=True, text=True)
    if done.returncode:
        raise NginxError(f"nginx can't be reloaded: {done.stderr.strip()}")
    reload_pending(root).unlink(missing_ok=True)
