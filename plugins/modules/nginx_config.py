#!/usr/bin/python
"""Change nginx's configuration, after the whole configuration has been validated."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nginx_config
short_description: Change nginx's configuration safely
description:
  - Copies nginx's whole configuration, writes the given files into the copy, and validates it with nginx. Only a valid
    configuration replaces the current one. Then nginx reloads, which drops no request.
  - When the validation fails, nothing is changed, and the error contains nginx's output.
  - When nginx is not running, it is enabled and started. Without a change it is not reloaded.
  - Includes in C(nginx.conf) must be relative, so that they work in the copy.
options:
  files:
    description: Contents of files by their path below O(root).
    type: dict
    default: {}
  root:
    description: Folder of nginx's configuration.
    type: path
    default: /etc/nginx
extends_documentation_fragment:
  - blueoctopus.site.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
"""

EXAMPLES = r"""
- name: Configure the site
  blueoctopus.site.nginx_config:
    files:
      sites/blueoctopus.conf: "{{ lookup('ansible.builtin.template', 'site.conf.j2') }}"
"""

RETURN = r"""
reloaded:
  description: Whether nginx has applied a new configuration.
  returned: success
  type: bool
"""

import re
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.blueoctopus.site.plugins.module_utils import nginx
from ansible_collections.blueoctopus.site.plugins.module_utils.files import difference, read

# Errors that check mode ignores, as it creates no certificate for a new site and installs no module. nginx has accepted
# everything before them.
UNKNOWN_IN_CHECK_MODE = re.compile(r'cannot load certificate .*No such file|unknown directive "brotli')


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "files": {"type": "dict", "default": {}},
            "root": {"type": "path", "default": "/etc/nginx"},
        },
        supports_check_mode=True,
    )
    root, files = Path(module.params["root"]), {name: str(text) for name, text in module.params["files"].items()}
    pending = nginx.reload_pending(root)
    changed = {name: content for name, content in files.items() if read(root / name) != content}
    is_running = nginx.is_running()
    reload_needed = bool(changed) or pending.exists()
    diff = [difference(root / name, read(root / name), after) for name, after in changed.items()]
    result = {"changed": reload_needed or not is_running, "reloaded": reload_needed and is_running, "diff": diff}
    # On a fresh host in check mode, nginx is not installed yet, so it can't validate anything.
    if module.check_mode and not Path(nginx.NGINX).exists():
        module.exit_json(**result)
    try:
        if changed:
            nginx.check(changed, root=root)
        if not module.check_mode:
            if changed:
                pending.touch()
                nginx.replace(root, changed)
            if reload_needed or not is_running:
                nginx.reload(root)
    except nginx.NginxError as error:
        if not (module.check_mode and UNKNOWN_IN_CHECK_MODE.search(str(error))):
            module.fail_json(msg=f"{error}\nThe current configuration stays in place.")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
