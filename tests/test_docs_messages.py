"""The messages that the guides quote are those of the project."""

from __future__ import annotations

import ast
import functools
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible.parsing import vault

PROJECT = Path(__file__).resolve().parent.parent
VALUE = "…"
# Sections with messages.
SECTIONS = {
    "docs/ru/README.md": ["10. Если что-то пошло не так", "11. Как уйти от установки руками"],
    "docs/secrets.md": ["Errors"],
}
# Parts of the quoted messages that come from a host, an app or the inventory.
VALUES = re.compile(
    r"ModuleNotFoundError.*|ssh: connect to host .*|\d{8}T\d{6}Z-[0-9a-f]{10}|\d+(?:\.\d+){3}|Ubuntu 24\.04 LTS|"
    r"'vault_secret_key'|key secrets\.SECRET_KEY|sudo journalctl.*|/home/blueoctopus|\S*webservers(?:/|\.yml)|"
    r"\b(?:a problem|vault\.yml|user@laptop|blueoctopus|debian|admin|web1|root)\b|\b\d+(?: s)?\b|\bdeploy\b|uv pip|…"
)
# A sentence, or the cause of an error, is often the value of another text.
END = re.compile(r"[.:] ")
FOUND = re.compile(r"^ *(?:found|expected|example): +")  # how an error of the inventory begins a line
SHORTEST = 10  # characters of a part that shows something


def text_of(node: ast.Constant | ast.JoinedStr) -> str:
    """A text of Python with … in place of its values."""
    if isinstance(node, ast.Constant):
        return re.sub(r"%[sd]", VALUE, node.value) if isinstance(node.value, str) else ""
    return "".join(text_of(part) if isinstance(part, ast.Constant) else VALUE for part in node.values)


@functools.cache
def sources() -> str:
    """All texts that the project can print, in plugins, playbooks and roles; and Ansible's, of vault passwords."""
    found = []
    paths = [path for folder in ("plugins", "playbooks", "roles") for path in (PROJECT / folder).rglob("*")]
    for path in [*paths, Path(inspect.getfile(vault))]:
        if not path.is_file() or path.suffix in (".md", ".txt", ".pyc"):
            continue
        text = path.read_text()
        if path.suffix == ".py" or text.startswith("#!/usr/bin/env python3"):
            nodes = ast.walk(ast.parse(text))
            found += [text_of(node) for node in nodes if isinstance(node, ast.Constant | ast.JoinedStr)]
        else:
            found.append(text)
    return "\n".join(re.sub(r"\s+", " ", text) for text in found)


def messages() -> Iterator[tuple[str, str]]:
    """Each quoted message, with the page."""
    for page, titles in SECTIONS.items():
        for title in titles:
            _, found, rest = (PROJECT / page).read_text().partition(f"\n## {title}\n")
            assert found, title
            section = rest.partition("\n## ")[0]
            for block in re.findall(r"```text\n(.*?)```", section, re.DOTALL):
                yield from ((page, line) for line in block.splitlines() if line.strip())
            yield from ((page, quoted) for quoted in re.findall(r"^\| `(.+?)` \|", section, re.MULTILINE))
            yield from ((page, quoted) for quoted in re.findall(r"^  `(.+?)`\.$", section, re.MULTILINE))


def parts(message: str) -> list[str]:
    """The parts of a message between its values and between its sentences."""
    split = (part.strip(" .,:;") for text in VALUES.split(FOUND.sub("", message)) for part in END.split(text))
    return [part for part in split if len(part) >= SHORTEST]


@pytest.mark.parametrize(("page", "message"), list(messages()))
def test_a_quoted_message_is_one_of_the_project(page: str, message: str) -> None:
    for part in parts(message):
        assert part in sources(), f"{page}: the project never says {part!r}"


def test_the_guides_quote_messages_with_words_of_the_project() -> None:
    assert len([message for _, message in messages() if parts(message)]) > 20
