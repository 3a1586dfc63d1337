"""The value of an option -e of ansible-playbook, as it was typed."""

from __future__ import annotations

DOCUMENTATION = r"""
name: option
short_description: Value of an option -e, with its spaces
description:
  - Returns the value of C(-e NAME=VALUE). Ansible itself splits the text at spaces, so that
    C(-e since='1 hour ago') would set C(since) to C(1).
  - A value that is given in another way, such as in a file, is returned as the variable of that name.
options:
  _terms:
    description: Names of options.
    required: true
  default:
    description: Value of an option that is not given.
    default: ""
  alone:
    description: >-
      Whether a text with a further C(WORD=) is an error. Otherwise, it is a list of several options, as Ansible reads
      it.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Show the start of the log
  ansible.builtin.debug:
    msg: "{{ lookup('blueoctopus.site.option', 'since', default='1 hour ago') }}"
"""

RETURN = r"""
_raw:
  description: The values.
  type: list
  elements: raw
"""

import re
from collections.abc import Iterable
from typing import Any

from ansible import context
from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase


def typed(name: str, options: Iterable[str], alone: bool) -> str | None:
    """The value of an option as it was typed; None if Ansible parses the value correctly.

    Args:
        name: name of the option.
        options: the texts after each -e.
        alone: whether a text that Ansible reads as several options is an error.

    Raises:
        AnsibleError: for such a text.
    """
    for option in reversed([str(option).strip() for option in options]):
        if not option.startswith(f"{name}="):
            continue
        value = option.removeprefix(f"{name}=")
        quote = value[:1]
        if quote in ("'", '"') and len(value) > 1 and value.find(quote, 1) == len(value) - 1:
            return value[1:-1]
        others = re.findall(r"\s([A-Za-z_]\w*)=", re.sub(r"'[^']*'|\"[^\"]*\"", "''", value))
        if others and alone:
            raise AnsibleError(
                f"Ansible would read {others[0]}= in the option -e {name} as an option of its own. Nothing was "
                f"changed. Add quotes within the quotes: -e \"{name}='…'\""
            )
        return None if others else value
    return None


class LookupModule(LookupBase):
    """The lookup."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[Any]:
        self.set_options(var_options=variables, direct=kwargs)
        options = context.CLIARGS.get("extra_vars") or ()
        found = []
        for name in map(str, terms):
            value = typed(name, options, self.get_option("alone"))
            found.append((variables or {}).get(name, self.get_option("default")) if value is None else value)
        return found
