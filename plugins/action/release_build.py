"""The control node's part of release_build: pack the source, and send it only where it isn't yet."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

# Never part of a release, whatever .gitignore says or doesn't.
LEFT_OUT = {
    ".git",
    ".hg",
    ".svn",
    "__pycache__",
    ".venv",
    "venv",
    ".pytest_cache",
    ".mypy_cache",
    ".ruff_cache",
    ".tox",
}


def list_files(source: Path) -> list[Path]:
    """The files and links of a source folder that belong to a release, sorted, relative to it."""
    try:
        listed = subprocess.run(
            ["git", "-C", str(source), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            capture_output=True,
        )
        inside_git = listed.returncode == 0 and listed.stdout
    except FileNotFoundError:
        inside_git = False
    if inside_git:
        found = [Path(os.fsdecode(name)) for name in listed.stdout.split(b"\0") if name]
    else:
        found = []
        for folder, folders, names in os.walk(source):
            folders[:] = [name for name in folders if name not in LEFT_OUT]
            # a link to a folder is listed among the folders, but it is one entry of ours
            names += [name for name in folders if (Path(folder) / name).is_symlink()]
            found += [(Path(folder) / name).relative_to(source) for name in names]
    return sorted(
        path for path in set(found) if not LEFT_OUT.intersection(path.parts) and os.path.lexists(source / path)
    )


def describe(source: Path, path: Path) -> str:
    """One line of the manifest: kind, content and path of a file.

    Raises:
        AnsibleActionFail: for a link that leads out of the source, or something that is neither file nor link.
    """
    full = source / path
    if full.is_symlink():
        target = os.readlink(full)
        if not full.resolve().is_relative_to(source.resolve()) or os.path.isabs(target):
            raise AnsibleActionFail(f"{full} links to {target}, outside of the source. Put the file itself there.")
        return f"link {target} {path}"
    if not full.is_file():
        raise AnsibleActionFail(f"{full} is neither a file nor a link. Remove it, or name it in .gitignore.")
    kind = "program" if os.access(full, os.X_OK) else "file"
    return f"{kind} {hashlib.sha256(full.read_bytes()).hexdigest()[:16]} {path}"


def pack(source: Path, files: list[Path], target: Path) -> None:
    """Write the files into a compressed archive, with nothing of this computer in it."""

    def cleaned(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        entry.mode = 0o755 if entry.mode & 0o100 else 0o644
        return entry

    with tarfile.open(target, "w:gz") as tar:
        for path in files:
            tar.add(source / path, arcname=str(path), recursive=False, filter=cleaned)


def digest_of(manifest: str, args: dict[str, Any]) -> str:
    """Ten hex digits that stand for everything the release runs with. Secrets go in through a slow function."""
    content = {key: args.get(key) for key in ("requirements", "environment", "files", "python")}
    secrets = json.dumps(args.get("secrets") or {}, sort_keys=True, default=str).encode()
    slow = hashlib.scrypt(secrets, salt=str(args["name"]).encode(), n=2**14, r=8, p=1)
    whole = json.dumps([manifest, content, slow.hex()], sort_keys=True, default=str)
    return hashlib.sha256(whole.encode()).hexdigest()[:10]


class ActionModule(ActionBase):
    """Pack the source and call the module; a second time, with the archive, where the host lacks the release."""

    TRANSFERS_FILES = True
    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        args = dict(self._task.args)
        source = Path(args["source"]).expanduser()
        requirements = args.get("requirements", "requirements.txt")
        if not source.is_dir():
            raise AnsibleActionFail(f"{args['name']}: the source folder {source} is not there.")
        files = list_files(source)
        if Path(requirements) not in files:
            raise AnsibleActionFail(
                f"{args['name']}: {source} has no {requirements}. Write one that lists the dependencies, with "
                "gunicorn among them, or name another file with the key 'requirements'."
            )
        manifest = "".join(f"{describe(source, path)}\n" for path in files)
        args |= {"manifest": manifest, "digest": digest_of(manifest, args)}

        result = self._execute_module(module_args=args, task_vars=task_vars)
        if not result.get("archive_needed") or self._task.check_mode:
            return result
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder) / "source.tar.gz"
            pack(source, files, archive)
            remote = self._connection._shell.join_path(self._make_tmp_path(), archive.name)
            self._transfer_file(str(archive), remote)
        try:
            return self._execute_module(module_args=args | {"archive": remote}, task_vars=task_vars)
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)
