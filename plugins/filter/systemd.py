"""Parts of systemd's unit files."""

from __future__ import annotations

import shlex
from collections.abc import Container
from typing import Any

# What hardly any program needs: no change of the system, of the kernel or of its own rights, no unusual system calls.
SANDBOX = {
    "ProtectSystem": "strict",
    "ProtectHome": "true",
    "PrivateTmp": "true",
    "PrivateDevices": "true",
    "NoNewPrivileges": "true",
    "LockPersonality": "true",
    "ProtectClock": "true",
    "ProtectControlGroups": "true",
    "ProtectHostname": "true",
    "ProtectKernelLogs": "true",
    "ProtectKernelModules": "true",
    "ProtectKernelTunables": "true",
    "RestrictNamespaces": "true",
    "RestrictRealtime": "true",
    "RestrictSUIDSGID": "true",
    "SystemCallArchitectures": "native",
    "SystemCallFilter": "@system-service",
    "SystemCallErrorNumber": "EPERM",
}


def systemd_command(command: str) -> str:
    """Write a command line for ExecStart=. It is split into words like in a shell, but nothing is expanded.

    The program is looked up in the unit's own PATH, where the release's venv comes first.
    """
    words = []
    for word in shlex.split(command):
        escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
        words.append(f'"{escaped}"')
    return " ".join(["/usr/bin/env", *words])


def sandbox_without(names: Container[str]) -> str:
    """The lines of the sandbox that the units of the roles share, without some settings that would stop a program."""
    return "\n".join(f"{name}={value}" for name, value in SANDBOX.items() if name not in names)


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        return {"sandbox_without": sandbox_without, "systemd_command": systemd_command}
