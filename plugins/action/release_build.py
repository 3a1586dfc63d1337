"""The control node's part of release_build: pack the source, and send it only where it isn't yet."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

# Where clones of Git sources are kept between deploys.
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "blueoctopus"
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
# Bytes of source up to which asking the host first, whether it needs them, takes longer than sending them.
SENT_AT_ONCE = 1_000_000


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
    content = {key: args.get(key) for key in ("requirements", "environment", "files", "python", "static")}
    secrets = json.dumps(args.get("secrets") or {}, sort_keys=True, default=str).encode()
    slow = hashlib.scrypt(secrets, salt=str(args["name"]).encode(), n=2**14, r=8, p=1)
    whole = json.dumps([manifest, content, slow.hex()], sort_keys=True, default=str)
    return hashlib.sha256(whole.encode()).hexdigest()[:10]


def is_git_url(source: str) -> bool:
    """Whether a source names a Git repository rather than a folder."""
    return bool(re.match(r"(https?|ssh|git|file)://|[\w.-]+@[\w.-]+:", source))


def git(*argv: str | Path, failure: str) -> str:
    """Run git and return what it printed; a failure is told in the given words and git's own."""
    command = ["git", *map(str, argv)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"GIT_TERMINAL_PROMPT": "0"})
    if done.returncode:
        raise AnsibleActionFail(f"{failure} Git says:\n{done.stderr.strip()}")
    return done.stdout.strip()


def check_out(url: str, version: str | None, target: Path) -> str:
    """Put one version of a Git repository into a folder; the repository itself is kept on the control node.

    Args:
        url: where the repository is.
        version: branch, tag or commit; None for the default branch.
        target: an empty folder.

    Returns:
        The commit.
    """
    kept = CACHE / hashlib.sha256(url.encode()).hexdigest()[:16]
    kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with kept.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            git("init", "--quiet", "--bare", kept, failure=f"{kept} can't be made.")
        what = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*", "+HEAD:refs/default"]
        git("-C", kept, "fetch", "--quiet", "--prune", url, *what, failure=f"The repository {url} can't be read.")
        name = version or "refs/default"
        failure = f"'{version}' is no branch, tag or commit of {url}. Nothing was changed."
        commit = git("-C", kept, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", failure=failure)
        archive = target.parent / "source.tar"
        git("-C", kept, "archive", f"--output={archive}", commit, failure=f"{commit} can't be packed.")
    subprocess.run(["tar", "--extract", "--file", archive, "--directory", target], check=True)
    return commit


def commit_of(source: Path) -> str:
    """The commit that a folder is at, with a mark when it holds changes; empty outside of Git."""
    try:
        shown = subprocess.run(["git", "-C", str(source), "rev-parse", "HEAD"], capture_output=True, text=True)
        changed = subprocess.run(["git", "-C", str(source), "status", "--porcelain", "."], capture_output=True)
    except FileNotFoundError:
        return ""
    return shown.stdout.strip() + ("+changes" if changed.stdout else "") if shown.returncode == 0 else ""


class ActionModule(ActionBase):
    """Pack the source and call the module; a second time, with the archive, where the host lacks the release."""

    TRANSFERS_FILES = True
    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        args = dict(self._task.args)
        with tempfile.TemporaryDirectory() as folder:
            if is_git_url(args["source"]):
                source = Path(folder) / "source"
                source.mkdir()
                commit = check_out(args["source"], args.get("version"), source)
            else:
                source = Path(args["source"]).expanduser()
                if not source.is_dir():
                    raise AnsibleActionFail(f"{args['name']}: the source folder {source} is not there.")
                commit = commit_of(source)
            return self.build(args, source, commit, Path(folder), task_vars)

    def build(
        self, args: dict[str, Any], source: Path, commit: str, folder: Path, task_vars: dict[str, Any] | None
    ) -> dict[str, Any]:
        """Have the host build a release from a source folder of the control node."""
        files = list_files(source)
        requirements = args.get("requirements", "requirements.txt")
        if Path(requirements) not in files:
            raise AnsibleActionFail(
                f"{args['name']}: {args['source']} has no {requirements}. Write one that lists the dependencies, with "
                "gunicorn among them, or name another file with the key 'requirements'."
            )
        manifest = "".join(f"{describe(source, path)}\n" for path in files)
        args |= {"manifest": manifest, "digest": digest_of(manifest, args)}
        # As one text: Ansible hides a secret wherever it shows up, and one that is "1" would show up everywhere.
        args["secrets"] = json.dumps(args["secrets"]) if args.get("secrets") else ""
        args["about"] = {**args.get("about", {}), "commit": commit, "version": args.get("version") or ""}

        # Only now: what is wrong with the source is known, and leaves no lock behind.
        if self._task.check_mode or sum(os.lstat(source / path).st_size for path in files) > SENT_AT_ONCE:
            result = self.under_lock(args, task_vars)
            if not result.get("archive_needed"):
                return result
        archive = folder / "source.tar.gz"
        pack(source, files, archive)
        remote = self._connection._shell.join_path(self._make_tmp_path(), archive.name)
        self._transfer_file(str(archive), remote)
        try:
            return self.under_lock(args | {"archive": remote}, task_vars)
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)

    def under_lock(self, args: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """Call the module; the lock is taken the way release_switch takes it."""
        switch = self._shared_loader_obj.action_loader.get(
            "release_switch",
            task=self._task,
            connection=self._connection,
            play_context=self._play_context,
            loader=self._loader,
            templar=self._templar,
            shared_loader_obj=self._shared_loader_obj,
        )
        result: dict[str, Any] = switch.under_lock("release_build", args, task_vars)
        return result
