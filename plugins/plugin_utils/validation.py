"""Validate a value of the inventory against the schema of its key, with the library jsonschema."""

from __future__ import annotations

import difflib
import functools
import ipaddress
import re
import shlex
import zoneinfo
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from ansible_collections.blueoctopus.site.plugins.plugin_utils.settings import (
    PROJECT,
    TYPE_NAMES,
    Entry,
    example_of,
    expected_of,
    json_schema,
)

URL_LOGIN = re.compile(r"://[^/@\s]+@")
GIT_URL = re.compile(r"((https?|ssh|git|file)://|[\w.-]+@[\w.-]+:)[^\s'\"]+")
# White space, a comment, a quoted text, the end of a directive or block, a word.
NGINX_TOKEN = re.compile(
    r"""\s+ | \#[^\n]* | "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' | [;{}] |
    (?:\\.|\$\{|[^\s;{\\"'\0]) (?:\\.|\$\{|[^\s;{\\\0])*""",
    re.DOTALL | re.VERBOSE,
)


def is_domain(value: str) -> bool:
    """Whether a text is a host name, or an IPv4 address, for hosts without a name."""
    try:
        return ipaddress.ip_address(value).version == 4
    except ValueError:
        label = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
        fits = re.fullmatch(rf"(\*\.)?{label}(\.{label})*", value)
        return len(value) <= 253 and bool(fits) and not value[-1].isdigit()


def is_source(value: str) -> bool:
    """Whether a text is a folder on the control node or the URL of a Git repository."""
    return bool(GIT_URL.fullmatch(value)) or ("\0" not in value and (PROJECT / value).is_dir())


def is_relative_path(value: str) -> bool:
    """Whether a text is a relative path without `..`."""
    return bool(re.fullmatch(r"[\w./@+-]+", value)) and not value.startswith("/") and ".." not in value.split("/")


def is_shared_path(value: str) -> bool:
    """Whether a text is the path of a file or folder in the source, or below venv/var; a folder may end with /."""
    path = value.removesuffix("/")
    parts = path.split("/")
    in_venv = parts[0] == "venv"
    return (
        is_relative_path(path)
        and not {"", "."}.intersection(parts)
        and (not in_venv or parts[1:2] == ["var"] != parts[1:])
    )


def is_static_path(value: str) -> bool:
    """Whether a text is a folder of the source, or `package:` and a folder of a Python package."""
    package = value.removeprefix("package:")
    return is_relative_path(package) and (package == value or bool(re.match(r"[A-Za-z_]\w*/", package, re.ASCII)))


def is_nginx_block(value: str) -> bool:
    """Whether a text consists of whole directives of nginx: it can't end the block that contains it."""
    depth = words = at = 0
    while at < len(value):
        found = NGINX_TOKEN.match(value, at)
        if not found:
            return False
        part, at = found[0], found.end()
        if part == "}":
            if words or not depth:
                return False
            depth -= 1
        elif part in (";", "{"):
            if not words:
                return False
            depth += part == "{"
            words = 0
        elif not (part.isspace() or part.startswith("#")):
            words += 1
    return depth == words == 0


def is_data_folder(value: str) -> bool:
    """Whether a text is the normalized relative path of a folder."""
    return is_relative_path(value) and not {"", "."}.intersection(value.split("/"))


def is_command(value: str) -> bool:
    """Whether a text is empty, or one line that splits into words."""
    try:
        return not value or (value.isprintable() and bool(shlex.split(value)))
    except ValueError:
        return False


def is_address(value: str) -> bool:
    """Whether a text is an IP address, with or without a prefix length."""
    try:
        ipaddress.ip_network(value, strict=False)
    except ValueError:
        return False
    return "%" not in value


def is_network(value: str) -> bool:
    """Whether a text is an IP address, or a network without host bits."""
    try:
        ipaddress.ip_network(value)
    except ValueError:
        return False
    return "%" not in value


@functools.cache
def time_zones() -> set[str]:
    """The time zones in the tz database of the control node; none if it has no such database."""
    return zoneinfo.available_timezones()


def is_time_zone(value: str) -> bool:
    """Whether a text is the name of a time zone, as far as the control node knows."""
    return not time_zones() or value in time_zones()


def are_domains(value: list[Any]) -> bool:
    """Whether the first of a list of domains is no wildcard: the others redirect to it."""
    return not (value and str(value[0]).startswith("*"))


def are_unique_names(value: list[Any]) -> bool:
    """Whether no two entries of a list have the same name."""
    names = [str(entry.get("name")) for entry in value if isinstance(entry, dict)]
    return len(set(names)) == len(names)


def are_shared_paths(value: list[Any]) -> bool:
    """Whether no path of a list is inside another one."""
    paths = [PurePosixPath(path) for path in value if isinstance(path, str)]
    return len(set(paths)) == len(paths) and not any(path in other.parents for path in paths for other in paths)


def are_unique_redirects(value: list[Any]) -> bool:
    """Whether no two redirects of a list begin at the same path."""
    paths = [str(entry.get("from")) for entry in value if isinstance(entry, dict)]
    return len(set(paths)) == len(paths)


# JSON Schema's keyword format: for texts, and for lists as a whole.
TEXT_FORMATS = {
    "address": is_address,
    "command": is_command,
    "data-folder": is_data_folder,
    "domain": is_domain,
    "network": is_network,
    "nginx-block": is_nginx_block,
    "relative-path": is_relative_path,
    "shared-path": is_shared_path,
    "source": is_source,
    "static-path": is_static_path,
    "time-zone": is_time_zone,
}
LIST_FORMATS = {
    "domains": are_domains,
    "shared-paths": are_shared_paths,
    "unique-names": are_unique_names,
    "unique-redirects": are_unique_redirects,
}


@functools.cache
def validator() -> Callable[[Entry], Any]:
    """What makes a validator of the library jsonschema from a key or argument."""
    # Imported where it is used, as ansible-test imports this file where jsonschema is not installed.
    from jsonschema import Draft202012Validator, FormatChecker, ValidationError, validators

    def whole_pattern(_validator: object, pattern: str, value: object, _schema: object) -> Iterator[Any]:
        """The keyword pattern, for the whole of a text: a line break at its end counts, too."""
        if isinstance(value, str) and not re.fullmatch(pattern, value, re.ASCII):
            yield ValidationError(f"{value!r} does not match {pattern!r}")

    formats = FormatChecker(formats=())
    for kind, checks in ((str, TEXT_FORMATS), (list, LIST_FORMATS)):
        for name, check in checks.items():
            formats.checks(name)(functools.partial(holds, kind, check))
    extended = validators.extend(Draft202012Validator, {"pattern": whole_pattern})
    return lambda entry: extended(json_schema(entry), format_checker=formats)


def holds(kind: type, check: Callable[[Any], bool], value: object) -> bool:
    """Whether a value passes a check, or is of a type to which the format does not apply."""
    return not isinstance(value, kind) or check(value)


@dataclass(frozen=True)
class Problem:
    """A problem in the inventory."""

    where: str  # the place, without the host: "app blueoctopus, key domains"
    found: str  # without the logins of URLs
    expected: str
    example: str

    def __post_init__(self) -> None:
        for field in ("found", "expected"):
            object.__setattr__(self, field, URL_LOGIN.sub("://…@", getattr(self, field)))


def find_problem(name: str, value: Any, entry: Entry, where: str) -> Problem | None:
    """Validate the value of a key or argument; return the problem, or None.

    Args:
        name: name of the key or argument.
        value: its value, from `plain`.
        entry: its description in settings.yml.
        where: its place, for the error.
    """
    errors = sorted(validator()(entry).iter_errors(value), key=lambda e: len(e.path))
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
    elif error.validator == "format" and error.validator_value == "time-zone":
        expected += did_you_mean(error.instance, sorted(time_zones()))
    elif error.path and not entry.get("secret"):
        expected += f"; not {error.instance!r}"
    found = "(not shown: it may contain secrets)" if entry.get("secret") else repr(value)
    return Problem(where, found, expected, example_of(name, entry))


def did_you_mean(word: str, known: list[str]) -> str:
    """A hint with the most similar known word; empty when none is similar."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else ""
