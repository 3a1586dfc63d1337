"""docs/architecture.md lists every module and filter with its uses, and paths that exist. Each module has its tests."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
PAGE = PROJECT / "docs/architecture.md"


def rows(section: str) -> dict[str, str]:
    """The names in the table of a section, each with the cell `used in`."""
    _, found, rest = PAGE.read_text().partition(f"\n## {section}\n")
    assert found, f"{PAGE} has no section {section}"
    lines = [line.split("|")[1:-1] for line in rest.partition("\n## ")[0].splitlines() if line.startswith("| `")]
    return {cells[0].split("`")[1]: cells[2] for cells in lines}


def filters() -> set[str]:
    """The names of all filters."""
    names: set[str] = set()
    for path in (PROJECT / "plugins/filter").glob("*.py"):
        module = importlib.import_module(f"ansible_collections.blueoctopus.site.plugins.filter.{path.stem}")
        names |= set(module.FilterModule().filters())
    return names


def test_architecture_page_lists_every_module() -> None:
    assert set(rows("Modules")) == {path.stem for path in (PROJECT / "plugins/modules").glob("*.py")}


def test_every_module_has_a_file_of_tests_of_its_own() -> None:
    modules = {path.stem for path in (PROJECT / "plugins/modules").glob("*.py")}
    tests = {path.stem.removeprefix("test_") for path in (PROJECT / "tests").glob("test_*.py")}
    assert sorted(modules - tests) == []


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


def test_architecture_page_lists_the_shared_python_code() -> None:
    page = PAGE.read_text()
    listed = ("modules", "action", "filter", "doc_fragments")  # in the tables, or as a folder
    files = [path for path in (PROJECT / "plugins").rglob("*.py") if path.parent.name not in listed]
    assert len(files) > 40
    assert [path.name for path in files if f"`{path.relative_to(PROJECT)}`" not in page] == []


def test_each_path_on_the_page_exists() -> None:
    paths = re.findall(r"`((?:plugins|roles|playbooks|inventory|molecule|tests|script)/[\w./*-]+)`", PAGE.read_text())
    assert len(paths) > 50
    assert [path for path in paths if not list(PROJECT.glob(path.replace("NAME", "*")))] == []
