"""docs/architecture.md lists every module, with its uses and its tests, and every filter of the collection."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
PAGE = PROJECT / "docs/architecture.md"


def rows(section: str, column: int = 2) -> dict[str, str]:
    """The names in the table of a section, each with the cell in a column, by default `used in`."""
    _, found, rest = PAGE.read_text().partition(f"\n## {section}\n")
    assert found, f"{PAGE} has no section {section}"
    lines = [line.split("|")[1:-1] for line in rest.partition("\n## ")[0].splitlines() if line.startswith("| `")]
    return {cells[0].split("`")[1]: cells[column] for cells in lines}


def filters() -> set[str]:
    """The names of all filters."""
    names: set[str] = set()
    for path in (PROJECT / "plugins/filter").glob("*.py"):
        module = importlib.import_module(f"ansible_collections.blueoctopus.site.plugins.filter.{path.stem}")
        names |= set(module.FilterModule().filters())
    return names


def test_architecture_page_lists_every_module() -> None:
    assert set(rows("Modules")) == {path.stem for path in (PROJECT / "plugins/modules").glob("*.py")}


def test_every_module_has_a_file_of_tests() -> None:
    for name, cell in rows("Modules", column=3).items():
        files = re.findall(r"`(tests/test_\w+\.py)`", cell)
        assert files, name
        for file in files:
            text = (PROJECT / file).read_text()
            assert file == f"tests/test_{name}.py" or re.search(rf"\b{name}\b", text), f"{file} does not test {name}"


def test_architecture_page_lists_every_filter() -> None:
    assert set(rows("Filters")) == filters()


def test_architecture_page_states_where_each_module_and_filter_is_used() -> None:
    files = [path for folder in ("playbooks", "roles") for path in (PROJECT / folder).rglob("*") if path.is_file()]
    texts = {str(path.relative_to(PROJECT)): path.read_text() for path in files if path.suffix in (".yml", ".j2")}
    for section, use in (
        ("Modules", r"^ *blueoctopus\.site\.{}:$"),
        ("Filters", r"(?:\| |map\(')blueoctopus\.site\.{}\b"),
    ):
        for name, cell in rows(section).items():
            pattern = re.compile(use.format(name), re.MULTILINE)
            used = {path for path, text in texts.items() if pattern.search(text)}
            assert used == set(re.findall(r"`([^`]+)`", cell)), name
