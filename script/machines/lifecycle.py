"""Create and remove machines."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import time
from pathlib import Path

from machines import cgroup
from machines.boot import end_vm, newest_guest, processes, start, start_vm
from machines.common import (
    CHECKOUT,
    KEYS,
    STATE,
    SUITES,
    MachineError,
    identity,
    key_pair,
    locked,
    records,
    remember,
    run,
)
from machines.images import base, make_disk, mount_root, prepare_root
from machines.network import free_address, network, remove_network

STOP_TIMEOUT = 60  # seconds until all processes of a machine have ended, on a busy computer


def up(name: str, debian: str, user: str, nestable: bool, vm: bool, packages: str = "") -> dict[str, str]:
    """Boot a fresh machine of that name, with further packages, separated by commas; remove an existing one first."""
    debian = debian or (newest_guest() if vm else "13")
    lower = base(SUITES[debian], vm, packages)
    with locked("machines"):
        remove(name)
        interface = network()
        home = STATE / "machines" / identity(name)
        home.mkdir(parents=True)
        key = key_pair()
        record = {
            "name": name,
            "id": identity(name),
            "checkout": str(CHECKOUT),
            "home": str(home),
            "debian": debian,
            "address": free_address(interface),
            "user": user,
            "gateway": str(interface.ip),
            "private_key": str(key),
            "known_hosts": str(KEYS / "known_hosts"),
        }
        if vm:
            number = hashlib.sha256(record["id"].encode()).hexdigest()
            record["tap"] = f"bo{number[:10]}"
            record["mac"] = ":".join(["52", "54", "00", *(number[i : i + 2] for i in (0, 2, 4))])
        (home / "record.json").write_text(json.dumps(record))
        root = mount_root(home, lower, plain=nestable or vm)
        host_key = prepare_root(root, name, user, record["address"], str(interface.ip))
        remember(record["address"], host_key)
        if vm:
            make_disk(home, root)
            start_vm(record)
        else:
            start(record, nestable)
    return record


def remove(name: str) -> bool:
    """Remove a machine and all its files, also after an aborted run. Call with the lock held."""
    home = STATE / "machines" / identity(name)
    if not home.exists():
        return False
    end_vm(home)
    root = home / "root"
    deadline = time.monotonic() + STOP_TIMEOUT
    while (pids := processes(root)) and time.monotonic() < deadline:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pids[0], signal.SIGKILL)  # the machine's own init: its namespaces end with it
        time.sleep(0.1)
    if processes(root):
        raise MachineError(f"{name} does not stop. Find its processes with: ps -ef | grep {identity(name)}")
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in sorted((m for m in mounts if m.startswith(f"{home}/")), reverse=True):
        run("umount", mount)
    for record in records():
        if record["home"] == str(home):
            remember(record["address"], None)
            if "tap" in record:
                run("ip", "link", "delete", record["tap"], check=False)
    if not Path("/run/systemd/system").exists():
        cgroup.remove(identity(name))
    shutil.rmtree(home)
    return True


def down(names: list[str]) -> list[str]:
    """Remove machines of this checkout, and the network with the last one; return the names of removed machines."""
    with locked("machines"):
        removed = [name for name in names if remove(name)]
        if not any((STATE / "machines").glob("*")):
            remove_network()
    return removed
