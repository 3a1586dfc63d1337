"""Projects and packages for tests of installations, and a program in place of systemd-run."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

PYTHON = os.path.realpath(sys.executable)
UV = str(Path(sys.executable).parent / "uv")
# Runs a program like systemd-run, as far as these tests need it, and records its own arguments.
SYSTEMD_RUN = """#!{python}
import json, os, pathlib, subprocess, sys
options, program = sys.argv[1 : sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1 :]
properties = dict(o.removeprefix("--property=").split("=", 1) for o in options if o.startswith("--property="))
variables = properties["EnvironmentFile"]
seen = {{"argv": sys.argv, "mode": oct(os.stat(variables).st_mode), "user": properties.get("User", "own")}}
with open("{log}", "a") as log:
    log.write(json.dumps(seen) + "\\n")
links = []
for pair in properties["BindPaths"].split():
    host, inside = map(pathlib.Path, pair.split(":"))
    inside.parent.mkdir(parents=True, exist_ok=True)
    if inside.is_dir():
        inside.rmdir()
    inside.symlink_to(host)
    links.insert(0, inside)
program = [word.replace("$$", "$") for word in program]
done = subprocess.run(["env", "-i", "sh", "-c", 'set -a; . "$0"; exec "$@"', variables, *program])
for link in links:
    link.unlink()
sys.exit(done.returncode)
"""
# A build back end without dependencies. It writes into the source, as setuptools does.
BACKEND = """
import pathlib, tomllib, zipfile

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    pathlib.Path("shop.egg-info").write_text("")
    files = {f"shop/{p.name}": p.read_text() for p in pathlib.Path("src/shop").glob("*.py")}
    info = "shop-1.0.dist-info"
    python = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]["requires-python"]
    about = f"Metadata-Version: 2.1\\nName: shop\\nVersion: 1.0\\nRequires-Python: {python}\\n"
    files[f"{info}/METADATA"] = about
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    files[f"{info}/entry_points.txt"] = "[console_scripts]\\nshop = shop:main\\n"
    files[f"{info}/RECORD"] = ""
    with zipfile.ZipFile(pathlib.Path(wheel_directory) / "shop-1.0-py3-none-any.whl", "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content if "RECORD" not in name else "".join(f"{n},,\\n" for n in files))
    return "shop-1.0-py3-none-any.whl"
"""
PROJECT = """
[project]
name = "shop"
version = "1.0"
requires-python = ">=3.11"
dependencies = ["gunicorn"]
[project.scripts]
shop = "shop:main"
[project.optional-dependencies]
postgres = ["driver"]
[dependency-groups]
prod = ["monitor"]
dev = ["linter"]
[tool.uv]
no-index = true
[tool.uv.sources]
"""
BUILD_SYSTEM = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


def wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    content: str = "def run():\n    print('hello')\n",
    tag: str = "py3-none-any",
) -> Path:
    """Create a wheel with one module and a program of the same name; `tag` says on which Python and system it runs."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": content,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name} = {name}:run\n",
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(zipfile.ZipInfo(file), text)
        archive.writestr(f"{info}/RECORD", "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"]))
    return path


def sha256(path: Path) -> str:
    """The hash of a file, as a requirements file has it."""
    return "sha256:" + subprocess.check_output(["sha256sum", path], text=True).split()[0]
