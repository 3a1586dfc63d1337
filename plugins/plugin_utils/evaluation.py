"""Explain why Ansible can't evaluate a variable of the inventory: which app, which key, and what to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ansible.errors import AnsibleError
from ansible_collections.blueoctopus.site.plugins.plugin_utils.settings import app_keys, machine_settings
from ansible_collections.blueoctopus.site.plugins.plugin_utils.validation import Problem

Evaluate = Callable[[Any], Any]  # a template or an encrypted text, to its value; fails with AnsibleError


def explain(name: str, value: Any, evaluate: Evaluate, error: AnsibleError) -> list[Problem]:
    """The problems of a variable that can't be evaluated, one for each value inside.

    Args:
        name: name of the variable.
        value: its value before evaluation.
        evaluate: evaluates a value.
        error: why the variable as a whole can't be evaluated.
    """
    if name == "apps" and isinstance(value, list):
        problems = list(explain_apps(value, evaluate))
    else:
        secret = bool(machine_settings().get(name, {}).get("secret"))
        problems = list(explain_value(f"key {name}", value, evaluate, secret))
    # A value that fails only as a part of the whole.
    return problems or [describe(f"key {name}", error, secret=True)]


def explain_apps(apps: list[Any], evaluate: Evaluate) -> Iterator[Problem]:
    """The problems of the list `apps`, by app and key."""
    for number, app in enumerate(apps):
        if not isinstance(app, Mapping):
            yield from explain_value(f"key apps[{number}]", app, evaluate, secret=True)
            continue
        try:
            where = f"app {evaluate(app['name'])}"
        except (AnsibleError, KeyError):
            where = f"app number {number + 1}"
        for key, value in app.items():
            secret = bool(app_keys().get(str(key), {}).get("secret"))
            yield from explain_value(f"{where}, key {key}", value, evaluate, secret)


def explain_value(where: str, value: Any, evaluate: Evaluate, secret: bool) -> Iterator[Problem]:
    """The problems of a value, or of the values inside it."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from explain_value(f"{where}.{key}", inner, evaluate, secret)
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from explain_value(f"{where}[{number}]", inner, evaluate, secret)
    else:
        try:
            evaluate(value)
        except AnsibleError as error:
            yield describe(where, error, secret)


def describe(where: str, error: AnsibleError, secret: bool) -> Problem:
    """The problem of one value. Ansible's own text may contain parts of the value, so it is not shown for a secret."""
    text = str(error)
    if "'hostvars' is undefined" in text:
        return Problem(
            where,
            "hostvars, which Ansible does not provide here: a run reads the keys of all its hosts together",
            "a value without hostvars, such as a variable in group_vars/all.yml",
            "db_address: 198.51.100.7",
        )
    if found := re.search(r"'(\w+)' is undefined", text):
        return Problem(
            where,
            found[0],
            "a variable that is defined for this host; for a secret, in vault.yml: see docs/secrets.md",
            f"{found[1]}: VALUE",
        )
    if "ecrypt" in text:  # undecryptable, decryption failed
        reason = "this run has no vault password" if "no vault secrets found" in text else "another vault password"
        return Problem(
            where,
            f"an encrypted value that can't be decrypted: {reason}",
            "the vault password, as a file or with --ask-vault-pass: see docs/secrets.md",
            "export ANSIBLE_VAULT_PASSWORD_FILE=~/.config/blueoctopus/vault-password",
        )
    return Problem(
        where,
        f"a value that can't be evaluated{' (not shown: it may contain secrets)' if secret else f': {text}'}",
        "a valid template, with defined variables only; for a text that contains {{ or {%, the tag !unsafe",
        "KEY: !unsafe 'TEXT with {{ in it'",
    )
