"""Pack an app's source on the control node, once for all hosts."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.blueoctopus.site.plugins.module_utils.dependencies import DependencyError, read_dependencies
from ansible_collections.blueoctopus.site.plugins.plugin_utils.settings import app_keys, keys_with

# Holds the clones of Git repositories, and the archives of the last day.
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "blueoctopus"
ARCHIVE_LIFETIME = 86400  # seconds
# Never part of a release, even if .gitignore does not list them.
EXCLUDED = {
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
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
# A credential helper, so that the user name and the password do not appear in git's arguments.
CREDENTIAL_HELPER = r"""!f() { printf 'username=%s\npassword=%s\n' "$RELEASE_GIT_USER" "$RELEASE_GIT_PASSWORD"; }; f"""


# --- git --------------------------------------------------------------------------------------------------------------


def is_git_url(source: str) -> bool:
    """Whether a source is the URL of a Git repository rather than a folder."""
    return bool(re.match(r"(https?|ssh|git|file)://|[\w.-]+@[\w.-]+:", source))


def split_credentials(url: str) -> tuple[str, dict[str, str]]:
    """A URL without its user name and password, and the environment variables that pass them to git."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.username:
        return url, {}
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=host)), {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "credential.helper",
        "GIT_CONFIG_VALUE_0": CREDENTIAL_HELPER,
        "RELEASE_GIT_USER": unquote(parts.username),
        "RELEASE_GIT_PASSWORD": unquote(parts.password or ""),
    }


def git(*argv: str | Path, failure: str, secrets: dict[str, str] | None = None) -> str:
    """Run git and return its output.

    Raises:
        AnsibleActionFail: when it fails; the message is `failure` and git's own.
    """
    command = ["git", *map(str, argv)]
    environment = os.environ | {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C.UTF-8"} | (secrets or {})
    try:
        done = subprocess.run(command, capture_output=True, env=environment)
    except FileNotFoundError:
        raise AnsibleActionFail(f"{failure} git is not installed on the control node.") from None
    if done.returncode:
        output = done.stderr.decode(errors="replace").strip()
        for secret in (secrets or {}).get("RELEASE_GIT_PASSWORD"), (secrets or {}).get("RELEASE_GIT_USER"):
            output = output.replace(secret, "…") if secret else output
        raise AnsibleActionFail(f"{failure} git printed:\n{output}" if output else failure)
    return os.fsdecode(done.stdout)


def check_out(url: str, version: str | None, target: Path) -> str:
    """Export one version of a Git repository into a folder; the clone stays on the control node.

    Args:
        url: URL of the repository.
        version: branch, tag or commit; None for the default branch.
        target: an empty folder.

    Returns:
        The commit.
    """
    shown, secrets = split_credentials(url)
    kept = CACHE / hashlib.sha256(shown.encode()).hexdigest()[:16]
    with kept.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            git("init", "--quiet", "--bare", kept, failure=f"{kept} can't be created.")
        refspecs = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*", "+HEAD:refs/default"]
        failure = f"The repository {shown} can't be read."
        git("-C", kept, "fetch", "--quiet", "--prune", shown, *refspecs, failure=failure, secrets=secrets)
        name = version or "refs/default"
        failure = f"'{version}' is not a branch, tag or commit of {shown}. No host was changed."
        commit = git("-C", kept, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", failure=failure).strip()
        tree = git("-C", kept, "ls-tree", "-r", "-z", commit, failure=f"{commit} can't be read.")
        submodules = [entry.partition("\t")[2] for entry in tree.split("\0") if entry.startswith("160000 ")]
        if submodules:
            raise AnsibleActionFail(
                f"{shown} has the submodule {submodules[0]}. A source that is a URL can't have submodules. Run "
                "git clone --recurse-submodules, and set source to that folder."
            )
        archive = target.parent / "source.tar"
        git("-C", kept, "archive", f"--output={archive}", commit, failure=f"{commit} can't be packed.")
    subprocess.run(["tar", "--extract", "--file", archive, "--directory", target], check=True)
    return commit


def commit_of(source: Path) -> str:
    """The commit that is checked out in a folder, marked when there are uncommitted changes; empty outside of Git."""
    if not is_checkout(source):
        return ""
    try:
        head = git("-C", source, "rev-parse", "--verify", "--quiet", "HEAD", failure="").strip()
    except AnsibleActionFail:
        return ""  # a repository without a commit
    failure = f"The state of {source} can't be read."
    changed = git("-C", source, "status", "--porcelain", "--", ".", failure=failure).strip()
    return head + ("+changes" if changed else "")


def is_checkout(source: Path) -> bool:
    """Whether a folder is in a Git work tree, even one that git refuses to read."""
    return any((folder / ".git").exists() for folder in (source.resolve(), *source.resolve().parents))


# --- files ------------------------------------------------------------------------------------------------------------


def is_venv(folder: Path) -> bool:
    """Whether a folder, of any name, is a Python virtual environment."""
    return (folder / "pyvenv.cfg").is_file()


def list_files(source: Path) -> list[Path]:
    """The files and links of a source folder that belong to a release, sorted, relative to it.

    Raises:
        AnsibleActionFail: when it is in a Git work tree that git refuses to read, as the ignored files are unknown
            then; or when a submodule is not checked out.
    """
    if not is_checkout(source):
        found = []
        for folder, folders, names in os.walk(source):
            folders[:] = [name for name in folders if name not in EXCLUDED and not is_venv(Path(folder) / name)]
            # os.walk lists a link to a folder among the folders; here it is one entry.
            names += [name for name in folders if (Path(folder) / name).is_symlink()]
            found += [(Path(folder) / name).relative_to(source) for name in names]
    else:
        failure = f"{source} is a Git work tree, but git can't list its files."
        command = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        found = [Path(name) for name in git("-C", source, *command, failure=failure).split("\0") if name]
        for path in [p for p in set(found) if (source / p).is_dir() and not (source / p).is_symlink()]:
            if not (source / path / ".git").exists():
                raise AnsibleActionFail(
                    f"The submodule {path} of {source} is not checked out. Run: git submodule update --init --recursive"
                )
            found.remove(path)
            found += [path / inner for inner in list_files(source / path)]
    parts = {part for path in found for part in (path, *path.parents) if part != Path()}
    venvs = {part for part in parts if is_venv(source / part)}
    return sorted(
        path
        for path in set(found)
        if not EXCLUDED.intersection(path.parts)
        and venvs.isdisjoint((path, *path.parents))
        and os.path.lexists(source / path)
    )


def subfolder_of(source: Path, args: dict[str, Any]) -> Path:
    """The folder of the app in its source.

    Raises:
        AnsibleActionFail: when it does not exist, or is a link to a folder outside of the source.
    """
    folder = source / (args.get("subfolder") or ".")
    shown = split_credentials(args["source"])[0]
    if not folder.is_dir():
        raise AnsibleActionFail(
            f"{args['name']}: {shown} has no folder {args['subfolder']}. Correct the key 'subfolder'."
        )
    if not folder.resolve().is_relative_to(source.resolve()):
        raise AnsibleActionFail(f"{args['name']}: the subfolder {args['subfolder']} is outside of {shown}.")
    return folder


def describe(source: Path, path: Path) -> str:
    """One line of the manifest: kind, content and path of a file.

    Raises:
        AnsibleActionFail: for a link to a target outside of the source, for anything that is neither a file nor a
            link, and for a pointer of Git LFS.
    """
    full = source / path
    if full.is_symlink():
        target = os.readlink(full)
        if not full.resolve().is_relative_to(source.resolve()) or os.path.isabs(target):
            raise AnsibleActionFail(f"{full} links to {target}, outside of the source. Replace the link with the file.")
        return f"link {target} {path}"
    if not full.is_file():
        raise AnsibleActionFail(f"{full} is neither a file nor a link. Remove it, or add it to .gitignore.")
    content = full.read_bytes()
    if content.startswith(LFS_POINTER):
        raise AnsibleActionFail(
            f"{path} is a pointer of Git LFS, not the file itself. In a checkout, run: git lfs pull. A source that is "
            "a URL can't use Git LFS: set source to a checkout."
        )
    kind = "program" if os.access(full, os.X_OK) else "file"
    return f"{kind} {hashlib.sha256(content).hexdigest()[:16]} {path}"


def check_shared_paths(source: Path, files: list[Path], paths: list[str]) -> None:
    """Check that the shared paths can be replaced with links, and that their content can be copied.

    Raises:
        AnsibleActionFail: when a path is a link or lies in a file or link; when its kind is not the expected one; or
            when a link in it leads out of it.
    """
    for given in paths:
        path = Path(given)
        inner = [file for file in files if path in file.parents and (source / file).is_symlink()]
        outward = [file for file in inner if not (source / file).resolve().is_relative_to((source / path).resolve())]
        problem = ""
        if parents := [parent for parent in path.parents if parent in files]:
            problem = f"{parents[0]} is a file or link in the source. Replace it with a folder"
        elif path in files and (source / path).is_symlink():
            problem = "is a link in the source. Remove it there"
        elif path in files and given.endswith("/"):
            problem = "is a file in the source. Remove the / at its end"
        elif outward:
            problem = f"its link {outward[0]} leads out of it. Replace the link with the file"
        if problem:
            raise AnsibleActionFail(f"The path {given} in the key shared_paths can't be shared: {problem}.")


def check_static(args: dict[str, Any], source: Path, files: list[Path]) -> None:
    """Check that the source contains the static folders.

    Raises:
        AnsibleActionFail: for a folder that it does not contain, unless it is the default.
    """
    for folder in args.get("static") or []:
        path = Path(folder["path"])
        if folder["path"].startswith("package:") or folder in app_keys()["static"]["default"]:
            continue
        if not (source / path).is_dir() or not any(path in (f, *f.parents) or f in path.parents for f in files):
            raise AnsibleActionFail(
                f"{args['name']}: static: the source has no folder {path} with files that belong to the release. Files "
                "that .gitignore matches do not belong to it. Correct the path in the key 'static'."
            )


def pack(source: Path, files: list[Path], target: Path) -> None:
    """Write the files into a compressed archive, without owners and modes of the control node."""

    def normalized(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        entry.mode = 0o755 if entry.mode & 0o100 else 0o644
        return entry

    temporary = target.with_name(f".{os.getpid()}-{target.name}")
    with tarfile.open(temporary, "w:gz") as tar:
        for path in files:
            tar.add(source / path, arcname=str(path), recursive=False, filter=normalized)
    temporary.replace(target)


def remove_old_archives() -> None:
    """Remove archives that are older than a day."""
    for archive in CACHE.glob("*.tar.gz"):
        with contextlib.suppress(FileNotFoundError):  # the worker of another host has removed it
            if archive.stat().st_mtime < time.time() - ARCHIVE_LIFETIME:
                archive.unlink()


def digest_of(manifest: str, args: dict[str, Any]) -> str:
    """The digest of everything that the release runs with on one host, as hex digits."""
    content = {key: args.get(key) for key in (*keys_with("release", "build"), "files", "about")}
    # A slow hash, so that nobody can guess short secrets from the digest.
    hidden = [args.get(key) or {} for key in keys_with("release", "secret")]
    secrets = json.dumps(hidden, sort_keys=True, default=str).encode()
    slow = hashlib.scrypt(secrets, salt=str(args["name"]).encode(), n=2**14, r=8, p=1)
    whole = json.dumps([manifest, content, slow.hex()], sort_keys=True, default=str)
    return hashlib.sha256(whole.encode()).hexdigest()


class ActionModule(ActionBase):
    """Pack the source; the host is not contacted."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        args = {**self._task.args.get("app", {}), **{key: self._task.args.get(key, {}) for key in ("files", "about")}}
        CACHE.mkdir(mode=0o700, parents=True, exist_ok=True)
        remove_old_archives()
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            if is_git_url(args["source"]):
                source = Path(folder) / "source"
                source.mkdir()
                commit = check_out(args["source"], args.get("version"), source)
                source = subfolder_of(source, args)
            else:
                source = Path(args["source"]).expanduser()
                if not source.is_dir():
                    raise AnsibleActionFail(f"{args['name']}: the source folder {source} does not exist.")
                source = subfolder_of(source, args)
                commit = commit_of(source)
            package = self.package(args, source)
        package |= {
            "commit": commit,
            "version": args.get("version") or "",
            "digest": digest_of(package["manifest"], args),
            "time": time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()),
            "settings": {key: args[key] for key in (*keys_with("release", "build"), "files", "about") if key in args},
        }
        return result | {"changed": False, "package": package}

    @staticmethod
    def package(args: dict[str, Any], source: Path) -> dict[str, Any]:
        """Pack a source folder; return the `manifest`, a line for each file, and the path of the `archive`."""
        files = list_files(source)
        requirements = args.get("requirements", "requirements.txt")
        if Path(requirements) not in files:
            raise AnsibleActionFail(
                f"{args['name']}: {split_credentials(args['source'])[0]} has no {requirements}. Create one that lists "
                "the dependencies, including gunicorn, or set the key 'requirements' to another file."
            )
        try:
            read = read_dependencies(source, requirements, args.get("extras") or [], args.get("groups") or []).files
        except DependencyError as error:
            raise AnsibleActionFail(f"{args['name']}: {error}") from None
        for name in sorted(read - set(map(str, files))):
            raise AnsibleActionFail(f"{args['name']}: {name} is not part of the release, as .gitignore excludes it.")
        check_shared_paths(source, files, args.get("shared_paths") or [])
        check_static(args, source, files)
        manifest = "".join(f"{describe(source, path)}\n" for path in files)
        archive = CACHE / f"{hashlib.sha256(manifest.encode()).hexdigest()[:32]}.tar.gz"
        if not archive.exists():
            pack(source, files, archive)
        os.utime(archive)
        return {"manifest": manifest, "archive": str(archive)}
