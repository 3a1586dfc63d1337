"""The base image of a Debian release, and the root of a machine made from it."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from machines.common import MTU, STATE, key_pair, locked, run, say

# The minimum of a provider's image; the roles install everything else.
PACKAGES = "systemd,systemd-sysv,dbus,libpam-systemd,openssh-server,python3,sudo,iproute2,ca-certificates"
# Further packages of a virtual machine.
VM_PACKAGES = "linux-image-cloud-amd64,apparmor,initramfs-tools,kmod,udev,zstd"
VM_DISK = 6144  # MiB


def company_cas() -> list[Path]:
    """The additional certificate authorities that this computer trusts, such as that of a company's proxy."""
    return sorted(Path("/usr/local/share/ca-certificates").glob("**/*.crt"))


def base(suite: str, vm: bool = False, extra: str = "") -> Path:
    """The unpacked base image of a suite, created if missing; its name contains a digest of its inputs.

    Args:
        suite: name of the Debian release.
        vm: with a kernel, for a virtual machine.
        extra: further packages, separated by commas.
    """
    packages = ",".join(filter(None, [PACKAGES, VM_PACKAGES if vm else "", extra]))
    recipe = hashlib.sha256(packages.encode())
    for ca in company_cas():
        recipe.update(ca.read_bytes())
    path = STATE / "bases" / f"{suite}-{recipe.hexdigest()[:12]}"
    with locked(f"base-{suite}"):
        if path.exists():
            return path
        say(f"Creating the base image of Debian {suite} (once, about {60 if vm or extra else 30} s) …")
        path.parent.mkdir(exist_ok=True)
        partial = path.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        run("mmdebstrap", "--variant=minbase", f"--include={packages}", suite, partial)
        for ca in company_cas():
            shutil.copy(ca, partial / "usr/local/share/ca-certificates" / ca.name)
        run("chroot", partial, "update-ca-certificates")
        run("systemctl", f"--root={partial}", "enable", "systemd-networkd")
        # Each machine gets its own host keys and machine ID.
        for key in (partial / "etc/ssh").glob("ssh_host_*"):
            key.unlink()
        (partial / "etc/machine-id").write_text("")
        os.utime(partial / "var/lib/apt/lists", (0, 0))  # apt's index is empty
        partial.rename(path)
    return path


def mount_root(home: Path, lower: Path, plain: bool) -> Path:
    """Mount a fresh root as an overlay over the base image; copy it if `plain`, or if overlays can't be stacked."""
    root = home / "root"
    root.mkdir()
    if not plain:
        for part in ("upper", "work"):
            (home / part).mkdir()
        options = f"lowerdir={lower},upperdir={home / 'upper'},workdir={home / 'work'}"
        mounted = run("mount", "-t", "overlay", "overlay", "-o", options, root, check=False)
        if mounted.returncode == 0:
            return root
    run("cp", "-a", "--reflink=auto", f"{lower}/.", root)
    return root


def resolv_conf() -> str:
    """Name servers that also work inside a machine: not a stub resolver on loopback."""
    upstream = Path("/run/systemd/resolve/resolv.conf")
    return (upstream if upstream.exists() else Path("/etc/resolv.conf")).read_text()


def prepare_root(root: Path, name: str, user: str, address: str, gateway: str) -> str:
    """Configure the machine's name, network, host key and login user; return its public host key."""
    (root / "etc/hostname").write_text(f"{name}\n")
    (root / "etc/hosts").write_text(f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {name}\n")
    resolv = root / "etc/resolv.conf"
    resolv.unlink(missing_ok=True)
    resolv.write_text(resolv_conf())
    (root / "etc/systemd/network/10-host0.network").write_text(
        f"[Match]\nName=host0 en*\n\n[Link]\nMTUBytes={MTU}\n\n"
        f"[Network]\nAddress={address}/24\nGateway={gateway}\nIPv6AcceptRA=no\n"
    )
    host_key = root / "etc/ssh/ssh_host_ed25519_key"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", host_key)
    home = root / "root"
    if user != "root":  # as in images of providers: one user with full sudo
        home = root / "home" / user
        run("chroot", root, "useradd", "--create-home", "--shell", "/bin/bash", user)
        sudoers = root / "etc/sudoers.d/90-first-user"
        sudoers.write_text(f"{user} ALL=(ALL) NOPASSWD:ALL\n")
        sudoers.chmod(0o440)
    ssh = home / ".ssh"
    ssh.mkdir(mode=0o700, exist_ok=True)
    (ssh / "authorized_keys").write_text(key_pair().with_suffix(".pub").read_text())
    for path in (ssh, ssh / "authorized_keys"):
        os.chown(path, home.stat().st_uid, home.stat().st_gid)
    return host_key.with_suffix(".pub").read_text()


def make_disk(home: Path, root: Path) -> None:
    """Convert an unpacked root to a disk image; copy kernel and initrd beside it."""
    for name in ("vmlinuz", "initrd.img"):
        shutil.copy(max((root / "boot").glob(f"{name}-*")), home / name)
    disk = home / "disk.img"
    with disk.open("w") as file:
        file.truncate(VM_DISK << 20)
    run("mkfs.ext4", "-q", "-F", "-d", root, disk)
    shutil.rmtree(root)
