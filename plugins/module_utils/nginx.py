"""Validate nginx's whole configuration before replacing any part of it."""

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
    """nginx rejects a configuration, or can't be reloaded; the message contains nginx's output."""


def replace(root: Path, files: Mapping[str, str | Path], removed: Iterable[str] = ()) -> None:
    """Replace files below a folder, each atomically, and remove others; a path as content becomes a link."""
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
    """Validate a copy of nginx's configuration that contains the changes.

    Args:
        files: the changed files, by their path below `root`: a text, or the target of a link.
        removed: files to remove.
        root: folder of nginx's configuration.

    Raises:
        NginxError: when nginx rejects the configuration.
    """
    if not Path(NGINX).exists():
        raise NginxError("nginx is not installed. Run playbooks/provision.yml on this host first.")
    with tempfile.TemporaryDirectory() as folder:
        candidate = Path(folder) / "nginx"
        shutil.copytree(root, candidate, symlinks=True)
        replace(candidate, files, removed)
        done = subprocess.run([NGINX, "-t", "-c", str(candidate / "nginx.conf")], capture_output=True, text=True)
    is_conflict = "conflicting server name" in done.stderr
    if done.returncode or is_conflict:
        hint = (
            "\nAnother site has this server name. If its app is no longer in the inventory, run "
            "playbooks/provision.yml, which removes the site. If you moved the domain to an app that is earlier in the "
            "list, deploy its previous app first: -e app=NAME"
        )
        output = done.stderr.replace(str(candidate), str(root)).strip()
        indented = "\n".join(f"  {line}" for line in output.splitlines())
        raise NginxError(f"nginx rejects the new configuration:\n{indented}{hint * is_conflict}")


def is_running() -> bool:
    return subprocess.run(["systemctl", "is-active", "--quiet", "nginx"]).returncode == 0


def reload_pending(root: Path = ROOT) -> Path:
    """A file that exists from the first change until nginx has reloaded.

    If a run is interrupted in between, the next run finds the file and reloads nginx.
    """
    return root / ".reload-pending"


def reload(root: Path = ROOT) -> None:
    """Reload nginx, which drops no request. If it is not running, enable and start it.

    Raises:
        NginxError: when that fails.
    """
    command = ["reload", "nginx"] if is_running() else ["enable", "--now", "nginx"]
    done = subprocess.run(["systemctl", *command], capture_output=True, text=True)
    if done.returncode:
        raise NginxError(f"nginx can't be reloaded: {done.stderr.strip()}")
    reload_pending(root).unlink(missing_ok=True)
