"""The processes of the machines: systemd-nspawn for containers, QEMU for virtual machines."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from machines import cgroup
from machines.common import BRIDGE, MTU, MachineError, run, say

# systemd-nspawn exits with status 133 when the machine reboots.
SUPERVISE = ["sh", "-c", 'while "$@"; [ $? -eq 133 ]; do :; done', "supervise"]
BOOT_TIMEOUT = 60  # seconds until sshd answers
VM_BOOT_TIMEOUT = 240
VM_MEMORY = 1024  # MiB; as the smallest VM of many providers
# Messages of QEMU when KVM exists but does not work.
KVM_BROKEN = ("KVM internal error", "emulation failure", "failed to initialize kvm", "Could not access KVM")


def start(record: dict[str, str], nestable: bool) -> None:
    """Boot the machine in the background and wait until its sshd answers."""
    home = Path(record["home"])
    capabilities = "all" if nestable else "CAP_NET_ADMIN,CAP_NET_RAW,CAP_SYS_ADMIN"
    argv = [*SUPERVISE, "systemd-nspawn", "-q", "-D", home / "root", "-M", record["id"], "--register=no", "--keep-unit"]
    argv += [f"--network-bridge={BRIDGE}", f"--hostname={record['name']}", "--resolv-conf=off", "--timezone=off"]
    argv += [f"--capability={capabilities}", "--boot"]
    process = in_background(record, [str(a) for a in argv], {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"})
    if not answers(record, process, BOOT_TIMEOUT):
        log = (home / "console.log").read_text()[-2000:]
        raise MachineError(f"{record['name']} did not boot within {BOOT_TIMEOUT} s. Console output:\n{log}")


def in_background(record: dict[str, str], argv: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a machine's process detached from the login session; its output goes to console.log."""
    if Path("/run/systemd/system").exists():
        # The machine must outlive the login session, so it gets a unit and control groups of its own.
        settings = [f"--setenv={k}={v}" for k, v in environment.items()]
        unit = f"--unit=blueoctopus-machine-{record['id']}"
        argv = ["systemd-run", "-q", "--collect", unit, "--property=Delegate=yes", *settings, *argv]
    else:
        argv = [*cgroup.entering(record["id"]), *argv]
    with (Path(record["home"]) / "console.log").open("w") as console:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            start_new_session=True,
            env=os.environ | environment,
        )


def answers(
    record: dict[str, str], process: subprocess.Popen[bytes], seconds: float, ends: tuple[str, ...] = ()
) -> bool:
    """Wait until its sshd answers; return False if the process ends or the console prints one of `ends` first."""
    console = Path(record["home"]) / "console.log"
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((record["address"], 22), timeout=0.25) as link:
            if link.recv(4) == b"SSH-":
                return True
        if process.poll() or any(words in console.read_text(errors="replace") for words in ends):
            return False
        time.sleep(0.05)
    return False


def newest_guest() -> str:
    """The newest Debian that this computer's QEMU can emulate: kernel 6.12 of Debian 13 panics under QEMU 7."""
    shown = run("qemu-system-x86_64", "--version").stdout
    return "13" if int(shown.split("version ")[1].split(".")[0]) >= 10 else "12"


def start_vm(record: dict[str, str]) -> None:
    """Boot the virtual machine, with KVM if that works here, and wait until its sshd answers."""
    home, tap = Path(record["home"]), record["tap"]
    run("ip", "tuntap", "add", "dev", tap, "mode", "tap")
    run("ip", "link", "set", tap, "mtu", str(MTU), "master", BRIDGE, "up")
    argv = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-serial", "stdio", "-pidfile", home / "qemu.pid"]
    argv += ["-m", str(VM_MEMORY), "-smp", str(min(2, os.cpu_count() or 1))]
    argv += ["-kernel", home / "vmlinuz", "-initrd", home / "initrd.img"]
    argv += ["-append", "root=/dev/vda rw console=ttyS0 mitigations=off quiet", "-device", "virtio-rng-pci"]
    argv += ["-drive", f"file={home / 'disk.img'},if=virtio,format=raw,cache=unsafe,discard=unmap"]
    argv += ["-netdev", f"tap,id=net,ifname={tap},script=no,downscript=no"]
    argv += ["-device", f"virtio-net-pci,netdev=net,romfile=,mac={record['mac']}"]
    ways = [["-accel", "kvm", "-cpu", "host"]] if os.access("/dev/kvm", os.R_OK | os.W_OK) else []
    ways.append(["-accel", "tcg,thread=multi", "-cpu", "max,la57=off"])
    for way in ways:
        process = in_background(record, [str(a) for a in [*argv, *way]], {})
        if answers(record, process, VM_BOOT_TIMEOUT, KVM_BROKEN if "kvm" in way else ()):
            return
        end_vm(home)
        if way is not ways[-1]:
            say("KVM does not work here. Emulating the processor instead, which is five to eight times slower.")
    log = (home / "console.log").read_text(errors="replace")[-2000:]
    raise MachineError(f"{record['name']} did not boot within {VM_BOOT_TIMEOUT} s. Console output:\n{log}")


def end_vm(home: Path) -> None:
    """Kill the process of a virtual machine, if there is one."""
    with contextlib.suppress(OSError, ValueError):
        pid = int((home / "qemu.pid").read_text())
        if str(home).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
            for _ in range(50):
                if not Path(f"/proc/{pid}").exists():
                    break
                time.sleep(0.1)
    (home / "qemu.pid").unlink(missing_ok=True)


def processes(root: Path) -> list[int]:
    """The first process inside the machine and the systemd-nspawn process outside."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                argv = (entry / "cmdline").read_bytes().split(b"\0")
                if argv[0].endswith(b"systemd-nspawn") and str(root).encode() in argv:
                    children = (entry / "task" / entry.name / "children").read_text().split()
                    found += [int(child) for child in children] + [int(entry.name)]
    return found
