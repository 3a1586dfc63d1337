#!/usr/bin/python
"""Write a drop-in file of sshd's configuration, which the host undoes unless a new login confirms it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: sshd_policy
short_description: Change sshd's configuration without the risk of a lockout
description:
  - Validates the whole configuration of sshd with the new drop-in file, and checks that the settings of the file take
    effect, before the file replaces the current one.
  - Creates missing host keys, and replaces an RSA key that is shorter than 4096 bits.
  - Where systemd listens for sshd (C(ssh.socket)), changes the port of the socket, too.
  - The host undoes a change after a minute unless M(blueoctopus.site.confirm_access) confirms it.
options:
  config:
    description: Content of the drop-in file.
    type: str
    required: true
  port:
    description: Port in the drop-in file.
    type: int
    required: true
extends_documentation_fragment:
  - blueoctopus.site.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
"""

EXAMPLES = r"""
- name: Allow keys only
  blueoctopus.site.sshd_policy:
    port: 22
    config: |
      Port 22
      PasswordAuthentication no
"""

RETURN = r"""
socket_activated:
  description: Whether systemd listens on the port instead of sshd.
  returned: success
  type: bool
token:
  description: >-
    The value for O(blueoctopus.site.confirm_access#module:token), which confirms this change, or an earlier one that is
    not confirmed yet; empty without such a change, and in check mode.
  returned: success
  type: str
  sample: 0f3a9c51d2b7e846
"""

import os
import re
import shutil
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.blueoctopus.site.plugins.module_utils.files import difference, read, write
from ansible_collections.blueoctopus.site.plugins.module_utils.lockout import arm, restart_undo_timer

SSHD = "/usr/sbin/sshd"
FOLDER = Path("/etc/ssh")
DROP_IN = FOLDER / "sshd_config.d/10-hardening.conf"
SOCKET = Path("/etc/systemd/system/ssh.socket.d/10-hardening.conf")
MODULI = FOLDER / "moduli.strong"
MIN_RSA_BITS = 4096
MIN_MODULUS_BITS = 3071  # the file moduli counts one bit less
# Settings that must take effect. sshd uses the first value that it reads, so another file could override them.
ENFORCED = {
    "allowusers",
    "authorizedkeysfile",
    "kbdinteractiveauthentication",
    "passwordauthentication",
    "permitrootlogin",
    "port",
}


def parse_settings(text: str) -> dict[str, str]:
    """The settings of a configuration, by their names in lower case; a repeated setting has all its values."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.strip().partition(" ")
        if key and not key.startswith("#"):
            found[key.lower()] = f"{found.get(key.lower(), '')} {value}".strip()
    return found


def validate(module: AnsibleModule, config: str) -> None:
    """Validate sshd's whole configuration with the new drop-in file."""
    main = read(FOLDER / "sshd_config")
    if not re.search(r"^\s*Include\s+\S*sshd_config\.d/\*\.conf", main, re.MULTILINE):
        module.fail_json(
            msg="/etc/ssh/sshd_config does not include sshd_config.d/*.conf, so drop-in files have no effect. Add "
            "Debian's default line at the top: Include /etc/ssh/sshd_config.d/*.conf"
        )
    with tempfile.TemporaryDirectory() as folder:
        candidate = Path(folder) / "sshd_config.d"
        shutil.copytree(FOLDER / "sshd_config.d", candidate)
        (candidate / DROP_IN.name).write_text(config)
        (Path(folder) / "sshd_config").write_text(main.replace("/etc/ssh/sshd_config.d", str(candidate)))
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
        rc, out, err = module.run_command([SSHD, "-T", "-f", f"{folder}/sshd_config"])
        if rc:
            output = err.strip().replace(str(candidate), str(DROP_IN.parent))
            module.fail_json(msg=f"sshd rejects the new configuration; the current one stays in place:\n{output}")
    effective, wanted = parse_settings(out), parse_settings(config)
    for key in sorted(ENFORCED & set(wanted)):
        if sorted(effective.get(key, "").split()) != sorted(wanted[key].split()):
            module.fail_json(
                msg=f"sshd would use {key} {effective.get(key)} instead of {wanted[key]}: another file in "
                f"{DROP_IN.parent}, or sshd_config itself, sets it. Remove the line there. Nothing was changed."
            )


def supported(module: AnsibleModule, config: str) -> str:
    """The configuration without the key exchanges that this version of sshd does not support."""
    available = module.run_command(["ssh", "-Q", "kex"], check_rc=True)[1].split()
    wanted = parse_settings(config).get("kexalgorithms", "")
    kept = [name for name in wanted.split(",") if name in available]
    return config.replace(f"KexAlgorithms {wanted}", f"KexAlgorithms {','.join(kept)}") if kept else config


def check_port(module: AnsibleModule, port: int) -> None:
    """Fail when another program listens on the port."""
    _rc, out, _err = module.run_command(["ss", "--no-header", "--listening", "--tcp", "--numeric", "--processes"])
    for line in out.splitlines():
        local, program = line.split()[3], re.search(r'\(\("([^"]+)"', line)
        if local.endswith(f":{port}") and program and program[1] not in ("sshd", "systemd"):
            module.fail_json(
                msg=f"{program[1]} already listens on port {port}, so sshd can't. Set another ssh_port. "
                "Nothing was changed."
            )


def keys_to_create(module: AnsibleModule) -> list[Path]:
    """The host keys that are missing or too short."""
    weak = [path for path in (FOLDER / "ssh_host_ed25519_key", FOLDER / "ssh_host_rsa_key") if not path.exists()]
    rsa = FOLDER / "ssh_host_rsa_key"
    if rsa.exists():
        _rc, out, _err = module.run_command(["ssh-keygen", "-l", "-f", str(rsa)], check_rc=True)
        weak += [rsa] if int(out.split()[0]) < MIN_RSA_BITS else []
    return weak


def strong_moduli() -> str:
    """The lines of the file moduli whose groups for key exchange are long enough."""
    lines = [line for line in read(FOLDER / "moduli").splitlines() if line and not line.startswith("#")]
    return "".join(f"{line}\n" for line in lines if int(line.split()[4]) >= MIN_MODULUS_BITS)


def main() -> None:
    module = AnsibleModule(
        argument_spec={"config": {"type": "str", "required": True}, "port": {"type": "int", "required": True}},
        supports_check_mode=True,
    )
    config, port = supported(module, module.params["config"]), module.params["port"]
    socket_activated = module.run_command(["systemctl", "is-enabled", "--quiet", "ssh.socket"])[0] == 0
    files = {DROP_IN: (config, 0o600), MODULI: (strong_moduli(), 0o644)}
    if socket_activated:
        files[SOCKET] = (f"[Socket]\nBindIPv6Only=both\nListenStream=\nListenStream={port}\n", 0o644)
    changed = {path: content for path, (content, _mode) in files.items() if read(path) != content}
    keys = keys_to_create(module)
    diff = [difference(path, read(path), content) for path, content in changed.items() if path != MODULI]
    diff += [difference(key, "", "a new host key\n") for key in keys]
    result = {"changed": bool(changed or keys), "socket_activated": socket_activated, "diff": diff}
    if changed or keys:
        check_port(module, port)
        # sshd rejects host keys that do not exist; they are created after the validation.
        lines = config.splitlines()
        present = [line for line in lines if not any(line == f"HostKey {key}" for key in keys if not key.exists())]
        validate(module, "\n".join(present) + "\n")
    if module.check_mode:
        module.exit_json(**result, token="")
    token = restart_undo_timer()
    # With a token, an earlier run was interrupted, and sshd may not have read its changes yet.
    if changed or keys or token:
        token = arm()
        for key in keys:
            for old in (key, key.with_name(f"{key.name}.pub")):
                old.unlink(missing_ok=True)
            kind = ["-t", "rsa", "-b", str(MIN_RSA_BITS)] if "rsa" in key.name else ["-t", "ed25519"]
            module.run_command(["ssh-keygen", "-q", *kind, "-N", "", "-C", "", "-f", str(key)], check_rc=True)
        for path, (content, mode) in files.items():
            write(path, content, mode)
        if socket_activated:
            # The running sshd has inherited the old port; as long as it runs, the socket can't be restarted. They stop
            # together: between two commands, a connection could start sshd again.
            commands = [["daemon-reload"], ["stop", "ssh.socket", "ssh.service"], ["start", "ssh.socket"]]
        else:
            commands = [["reload-or-restart", "ssh.service"]]
        for command in commands:
            module.run_command(["systemctl", *command], check_rc=True)
    module.exit_json(**result, token=token)


if __name__ == "__main__":
    main()
