"""Validate a value of the inventory against the schema of its key, with the library jsonschema."""

from __future__ import annotations

import difflib
import ipaddress
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ansible_collections.blueoctopus.site.plugins.plugin_utils.settings import (
    PROJECT,
    TYPE_NAMES,
    Entry,
    example_of,
    expected_of,
    json_schema,
)
from jsonschema import Draft202012Validator, FormatChecker, ValidationError, validators

GIT_URL = re.compile(r"((https?|ssh|git|file)://|[\w.-]+@[\w.-]+:)[^\s'\"]+")
FORMATS = FormatChecker(formats=())


def text_format(name: str) -> Callable[[Callable[[str], bool]], Callable[[str], bool]]:
    """Register a check as a format of JSON Schema. Like its own formats, it applies only to strings."""

    def register(check: Callable[[str], bool]) -> Callable[[str], bool]:
        FORMATS.checks(name)(lambda value: not isinstance(value, str) or check(value))
        return check

    return register


@text_format("domain")
def is_domain(value: str) -> bool:
    """Whether a text is a host name, or an IPv4 address, for hosts without a name."""
    try:
        return ipaddress.ip_address(value).version == 4
    except ValueError:
        label = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
        fits = re.fullmatch(rf"(\*\.)?{label}(\.{label})*", value)
        return len(value) <= 253 and bool(fits) and not value[-1].isdigit()


@text_format("source")
def is_source(value: str) -> bool:
    """Whether a text is a folder on the control node or the URL of a Git repository."""
    return bool(GIT_URL.fullmatch(value)) or ("\0" not in value and (PROJECT / value).is_dir())


@text_format("relative-path")
def is_relative_path(value: str) -> bool:
    """Whether a text is a relative path without `..`."""
    return bool(re.fullmatch(r"[\w./@+-]+", value)) and not value.startswith("/") and ".." not in value.split("/")


@text_format("command")
def is_command(value: str) -> bool:
    """Whether a text is empty, or one line that splits into words."""
    try:
        return not value or (value.isprintable() and bool(shlex.split(value)))
    except ValueError:
        return False


@text_format("address")
def is_address(value: str) -> bool:
    """Whether a text is an IP address, with or without a prefix length."""
    try:
        ipaddress.ip_network(value, strict=False)
    except ValueError:
        return False
    return "%" not in value


@text_format("network")
def is_network(value: str) -> bool:
    """Whether a text is an IP address, or a network without host bits."""
    try:
        ipaddress.ip_network(value)
    except ValueError:
        return False
    return "%" not in value


def are_domains(value: object) -> bool:
    """Whether the first of a list of domains is no wildcard: the others redirect to it."""
    return not (isinstance(value, list) and value and str(value[0]).startswith("*"))


def are_unique_names(value: object) -> bool:
    """Whether no two entries of a list have the same name."""
    names = [entry.get("name") for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
    return len(set(map(str, names))) == len(names)


FORMATS.checks("domains")(are_domains)
FORMATS.checks("unique-names")(are_unique_names)


def match_whole_pattern(_validator: object, pattern: str, value: object, _schema: object) -> Iterator[ValidationError]:
    """JSON Schema's keyword pattern, but for the whole text, including a line break at its end."""
    if isinstance(value, str) and not re.fullmatch(pattern, value, re.ASCII):
        yield ValidationError(f"{value!r} does not match {pattern!r}")


Validator = validators.extend(Draft202012Validator, {"pattern": match_whole_pattern})


@dataclass(frozen=True)
class Problem:
    """A problem in the inventory."""

    where: str  # the place, without the host: "app blueoctopus, key domains"
    found: str
    expected: str
    example: str


def find_problem(name: str, value: Any, entry: Entry, where: str) -> Problem | None:
    """Validate the value of a key or argument; return the problem, or None.

    Args:
        name: name of the key or argument.
        value: its value, from `plain`.
        entry: its description in settings.yml.
        where: its place, for the error.
    """
    errors = sorted(Validator(json_schema(entry), format_checker=FORMATS).iter_errors(value), key=lambda e: len(e.path))
    if not errors:
        return None
    error, expected, kind = errors[0], expected_of(entry), TYPE_NAMES.get(str(entry["type"]), "")
    if not error.path and error.validator == "type" and not expected.startswith(kind):
        expected = f"{kind}: {expected}"
    if error.validator == "additionalProperties" and "properties" in error.schema:
        known = list(error.schema["properties"])
        unknown = next(str(key) for key in error.instance if key not in known)
        expected += f"; '{unknown}' is an unknown key{did_you_mean(unknown, known)}"
    elif error.validator == "required":
        expected += f"; missing: {', '.join(key for key in error.validator_value if key not in error.instance)}"
    elif error.path and not entry.get("secret"):
        expected += f"; not {error.instance!r}"
    found = "(not shown: it may contain secrets)" if entry.get("secret") else repr(value)
    return Problem(where, found, expected, example_of(name, entry))


def did_you_mean(word: str, known: list[str]) -> str:
    """A hint with the most similar known word; empty when none is similar."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else ""
