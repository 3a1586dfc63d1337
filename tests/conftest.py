"""Lets code of the project be imported the way Ansible offers it."""

from __future__ import annotations

from pathlib import Path

import ansible.module_utils
import ansible_collections

ansible.module_utils.__path__.append(str(Path(__file__).resolve().parent.parent / "plugins/module_utils"))
ansible_collections.__path__.append(str(Path(__file__).resolve().parent.parent / "collections/ansible_collections"))
