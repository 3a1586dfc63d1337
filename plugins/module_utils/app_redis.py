"""The instance of Redis or Valkey of an app: its files and its unit."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.blueoctopus.site.plugins.module_utils.instances import UNITS, systemctl

CONFIG = Path("/etc/app-redis")
DATA = Path("/var/lib/app-redis")
SOCKETS = Path("/run/app-redis")
PREFIX = "app-redis-"


class Redis:
    """The instance of an app.

    Args:
        name: name of the app.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.service = f"{PREFIX}{name}.service"
        self.unit = UNITS / self.service
        self.config = CONFIG / f"{name}.conf"
        self.data = DATA / name

    def stop(self) -> None:
        """Stop and remove the instance. Its data is kept."""
        if self.unit.exists():
            systemctl("disable", "--now", "--quiet", self.service)
            self.unit.unlink(missing_ok=True)
            systemctl("daemon-reload")
        self.config.unlink(missing_ok=True)
