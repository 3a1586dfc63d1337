"""Copy the files that nginx serves itself into the folder `public` of a release."""

from __future__ import annotations

import grp
import gzip
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ansible_collections.blueoctopus.site.plugins.module_utils.release_build import BuildError

COMPRESSED = {".css", ".html", ".js", ".json", ".map", ".mjs", ".svg", ".txt", ".wasm", ".webmanifest", ".xml"}
PACKAGE = "package:"  # begins the path of a folder in an installed package
Folders = list[dict[str, str]]  # each with `url` and `path`


def publish_source(building: Path, static: Folders, prefix: str, live: Path) -> None:
    """Create `public` with the folders of the source, in the structure of their URLs; skip those that do not exist.

    The URLs are below the path `prefix`. Files that are the same in the live release are not compressed again.

    Call this before any code of the app runs, so that root copies only files from the archive.
    """
    public = building / "public"
    public.mkdir()
    for folder in static:
        source = building / "source" / folder["path"]
        if not folder["path"].startswith(PACKAGE) and source.is_dir():
            place = f"{prefix}{folder['url']}".strip("/")
            (public / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, public / place, ignore_dangling_symlinks=True)
            add_compressed(public / place, live / "public" / place)
    os.chown(public, 0, grp.getgrnam("www-data").gr_gid)
    public.chmod(0o750)


def publish_packages(building: Path, static: Folders, prefix: str, live: Path) -> None:
    """Add the folders of installed packages to `public`, like those of the source.

    Call this when root owns the venv and no process of the build runs any more. Code of the build may have put links
    into the venv: they are refused, so that root copies no other files.

    Raises:
        BuildError: when the folder does not exist, or contains a link.
    """
    for folder in static:
        if folder["path"].startswith(PACKAGE):
            place = f"{prefix}{folder['url']}".strip("/")
            target = building / "public" / place
            target.parent.mkdir(parents=True, exist_ok=True)
            copy_files(package_folder(building / "venv", folder["path"]), target, folder["path"])
            add_compressed(target, live / "public" / place)


def package_folder(venv: Path, path: str) -> Path:
    """The folder of an installed package that a path such as package:admin/static names.

    Raises:
        BuildError: when it does not exist, or when it is a link or behind one.
    """
    inside = path.removeprefix(PACKAGE)
    for packages in sorted(venv.glob("lib/python3*/site-packages")):
        folder = packages / inside
        if folder.is_dir():
            if folder.resolve() != venv.resolve() / folder.relative_to(venv):
                raise BuildError(f"static: {path} is a link. Set the path to the folder that it leads to.")
            return folder
    package = inside.partition("/")[0]
    raise BuildError(
        f"static: there is no folder {path}. The dependencies have "
        + (f"the package {package}, but not this folder in it." if has_package(venv, package) else f"no {package}.")
        + " Set the path to package:PACKAGE/FOLDER, with the name under which Python imports the package."
    )


def has_package(venv: Path, name: str) -> bool:
    """Whether a package is installed in a venv."""
    return any(venv.glob(f"lib/python3*/site-packages/{name}"))


def copy_files(source: Path, target: Path, name: str) -> None:
    """Copy a tree of files and folders without following links.

    Raises:
        BuildError: when the tree contains a link; `name` is its name in the error.
    """
    target.mkdir()
    for folder, folders, files in os.walk(source):
        copied = target / Path(folder).relative_to(source)
        for entry in (*folders, *files):
            path = Path(folder) / entry
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode):
                (copied / entry).mkdir()
            elif stat.S_ISREG(mode):
                with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as original:
                    (copied / entry).write_bytes(original.read())
            else:
                raise BuildError(
                    f"static: {name} contains {path.relative_to(source)}, which is neither file nor folder."
                )


def add_compressed(target: Path, live: Path) -> None:
    """Add compressed versions of files if they are smaller and the app does not contain them.

    Args:
        target: folder of the files.
        live: the same folder in the live release.
    """
    files = [path for path in target.rglob("*") if path.is_file() and path.suffix in COMPRESSED]
    has_brotli = bool(shutil.which("brotli"))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        for done in [threads.submit(compress, path, live / path.relative_to(target), has_brotli) for path in files]:
            done.result()


def compress(path: Path, live: Path, has_brotli: bool) -> None:
    """Add compressed versions of one file. `live` is the same file in the live release."""
    content = path.read_bytes()
    add_smaller(path, ".gz", lambda: gzip.compress(content, mtime=0))
    if has_brotli:
        former = live.with_name(f"{live.name}.br")
        add_smaller(path, ".br", lambda: former.read_bytes() if unpacks_to(former, content) else pack(path))


def add_smaller(path: Path, suffix: str, compressed: Callable[[], bytes]) -> None:
    """Add a compressed version of a file if it is smaller and the app does not contain it."""
    target = path.with_name(path.name + suffix)
    if not target.exists() and len(packed := compressed()) < path.stat().st_size:
        target.write_bytes(packed)
        shutil.copystat(path, target)


def pack(path: Path) -> bytes:
    """Compress a file with brotli's best quality, which takes two seconds a megabyte."""
    return subprocess.run(["nice", "brotli", "--stdout", path], capture_output=True, check=True).stdout


def unpacks_to(path: Path, content: bytes) -> bool:
    """Whether a file exists and brotli unpacks it to this content. The app may have made it, so no more is read."""
    if not path.is_file():
        return False
    command: list[str | Path] = ["brotli", "--decompress", "--stdout", path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as running:
        found = running.stdout.read(len(content) + 1) if running.stdout else b""
        if len(found) > len(content):
            running.kill()
    return found == content and running.returncode == 0
