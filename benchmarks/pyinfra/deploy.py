"""Make a fresh Debian 13 host into the site, with pyinfra. The suite sets the variables.

About 40 operations, each of the kind that pyinfra's documentation recommends. One operation installs all packages.
"""

import os
from pathlib import Path

from pyinfra import host
from pyinfra.api.operation import OperationMeta
from pyinfra.facts.server import Command
from pyinfra.operations import apt, files, pip, server, systemd
from pyinfra.operations.util import any_changed

FOLDER = Path(os.environ["FOLDER"])
ROOT = "/srv/blueoctopus"


def put(path: str, mode: str = "644") -> OperationMeta:
    """Copy one configuration file."""
    return files.put(name=f"Copy {path}", src=str(FOLDER / "files") + path, dest=path, mode=mode)


# --- packages
apt.packages(
    name="Install the packages",
    packages=os.environ["PACKAGES"].split(),
    update=True,
    cache_time=3600,
    no_recommends=True,
)

# --- the machine
put("/etc/apt/apt.conf.d/52-updates")
put("/etc/needrestart/conf.d/52-restart.conf")
put("/etc/security/limits.d/60-no-core-dumps.conf")
put("/etc/modprobe.d/60-unused.conf")
put("/etc/locale.conf")
put("/etc/issue.net")
journal = put("/etc/systemd/journald.conf.d/10-size.conf")
kernel = put("/etc/sysctl.d/99-server.conf")
files.link(name="Set the time zone", path="/etc/localtime", target="/usr/share/zoneinfo/Etc/UTC")
systemd.service(name="Restart journald", service="systemd-journald", restarted=True, _if=journal.did_change)
systemd.service(name="Apply the kernel settings", service="systemd-sysctl", restarted=True, _if=kernel.did_change)

# --- accounts and SSH
server.user(  # noqa: S604
    name="Create the administrator",
    user="admin",
    home="/home/admin",
    shell="/bin/bash",
    create_home=True,
    public_keys=(FOLDER / "key.pub").read_text().strip(),
)
put("/etc/sudoers.d/90-admin", "440")
sshd = put("/etc/ssh/sshd_config.d/10-hardening.conf")
server.shell(name="Validate the configuration of sshd", commands=["sshd -t"], _if=sshd.did_change)
systemd.service(name="Reload sshd", service="ssh", reloaded=True, _if=sshd.did_change)

# --- firewall: pyinfra has no operations for UFW
rules = (host.get_fact(Command, command="ufw show added || true") or "").splitlines()
for rule in (
    f"allow from {os.environ['ADMIN_ADDRESS']} to any port 22 proto tcp",
    "limit 22/tcp",
    "allow 80/tcp",
    "allow 443/tcp",
    "allow 443/udp",
):
    if f"ufw {rule}" not in rules:
        server.shell(name=f"Firewall: {rule}", commands=[f"ufw {rule}"])
if "Status: active" not in (host.get_fact(Command, command="ufw status || true") or ""):
    server.shell(name="Enable the firewall", commands=["ufw default deny incoming", "ufw --force enable"])

# --- fail2ban
jail = put("/etc/fail2ban/jail.local")
systemd.service(name="Restart fail2ban", service="fail2ban", restarted=True, _if=jail.did_change)
systemd.service(name="Start fail2ban", service="fail2ban", running=True, enabled=True)

# --- the app
server.user(  # noqa: S604
    name="Create the user of the app",
    user="blueoctopus",
    home=ROOT,
    shell="/usr/sbin/nologin",
    system=True,
    ensure_home=False,
)
files.directory(name="Create the folder of the app", path=ROOT, user="root", group="root", mode="755")
files.directory(name="Create the folder of the dependencies", path=f"{ROOT}/shared", mode="755")
lock = files.put(
    name="Copy the list of dependencies",
    src=str(FOLDER / "source/requirements.txt"),
    dest=f"{ROOT}/shared/requirements.txt",
    mode="644",
)
pip.venv(name="Create the venv", path=f"{ROOT}/shared/venv", python="python3")
pip.packages(
    name="Install the dependencies",
    requirements=f"{ROOT}/shared/requirements.txt",
    virtualenv=f"{ROOT}/shared/venv",
    extra_install_args="--quiet --disable-pip-version-check --require-hashes",
    _if=lock.did_change,
)
code = files.sync(
    name="Copy the code",
    src=str(FOLDER / "source"),
    dest=f"{ROOT}/current",
    user="root",
    group="root",
    mode="644",
    dir_mode="755",
    delete=True,
)
unit = put("/etc/systemd/system/blueoctopus.service")
systemd.daemon_reload(name="Reload systemd", _if=unit.did_change)
systemd.service(name="Restart the app", service="blueoctopus", restarted=True, _if=any_changed(lock, code, unit))
systemd.service(name="Start the app", service="blueoctopus", running=True, enabled=True)

# --- nginx
main = put("/etc/nginx/nginx.conf")
site = put("/etc/nginx/sites-available/blueoctopus")
link = files.link(
    name="Enable the site", path="/etc/nginx/sites-enabled/blueoctopus", target="/etc/nginx/sites-available/blueoctopus"
)
default = files.link(name="Disable the default site", path="/etc/nginx/sites-enabled/default", present=False)
nginx_changed = any_changed(main, site, link, default)
server.shell(name="Validate the configuration of nginx", commands=["nginx -t"], _if=nginx_changed)
systemd.service(name="Start nginx", service="nginx", running=True, enabled=True)
systemd.service(name="Reload nginx", service="nginx", reloaded=True, _if=nginx_changed)
