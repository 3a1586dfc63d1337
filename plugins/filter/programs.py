"""Programs that run on a host without Ansible, and consist of modules of this collection."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "module_utils"
PACKAGE = "ansible_collections.blueoctopus.site.plugins.module_utils"


def program_files(name: str, folder: str) -> dict[str, str]:
    """The files of a program, by their paths on the host.

    Args:
        name: the module of module_utils with the function `main`. The modules that it imports are included.
        folder: folder of the program on the host; Python runs it.
    """
    texts: dict[str, str] = {}
    waiting = [name]
    while waiting:
        module = waiting.pop()
        if module not in texts:
            texts[module] = (FOLDER / f"{module}.py").read_text()
            waiting += imported(texts[module])
    start = f"# Ansible managed\nfrom {PACKAGE}.{name} import main\n\nmain()\n"
    copies = {f"{folder}/{PACKAGE.replace('.', '/')}/{module}.py": text for module, text in sorted(texts.items())}
    return {f"{folder}/__main__.py": start, **copies}


def imported(text: str) -> Iterator[str]:
    """The modules of module_utils that a module imports."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module == PACKAGE:
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and str(node.module).startswith(f"{PACKAGE}."):
            yield str(node.module).removeprefix(f"{PACKAGE}.")


class FilterModule:
    """The filter of this file."""

    def filters(self) -> dict[str, Any]:
        return {"program_files": program_files}
