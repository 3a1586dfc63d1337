"""The guestbook of a webserver, as its guests and its administrators use it."""

from __future__ import annotations

from dataclasses import dataclass

from testing import Machine, Web
from web_client import Client

# The names of the guestbook and of the second app on each webserver; see inventory/group_vars/webservers.yml.
NAMES = {"web12": ("visitors", "another"), "web13": ("guestbook", "other")}


@dataclass
class Guestbook:
    """The guestbook of a webserver: its name, its site, and its machine."""

    name: str
    web: Web
    machine: Machine

    @property
    def client(self) -> Client:
        return Client(self.web)

    def app(self, command: str) -> str:
        """The output of a command of the program app, as an administrator types it."""
        with self.machine.host.sudo():
            return str(self.machine.host.check_output(f"app {self.name} {command}"))
