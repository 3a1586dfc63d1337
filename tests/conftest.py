"""Lets the modules' shared code be imported the way Ansible offers it to them."""

from __future__ import annotations

from pathlib import Path

import ansible.module_utils

ansible.module_utils.__path__.append(str(Path(__file__).resolve().parent.parent / "plugins/module_utils"))
