"""SSH clients: which can log in, with which keys, and how many sessions a connection carries."""

from __future__ import annotations

import contextlib
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import paramiko
import pytest
from testing import Door, Run

testinfra_hosts = ["ansible://webservers"]
Play = Callable[..., Run]


@contextlib.contextmanager
def paramiko_login(door: Door, post_quantum: bool = False) -> Iterator[paramiko.Transport]:
    """Log in with paramiko, with or without the post-quantum key exchange that it has since version 5.1."""
    with paramiko.SSHClient() as client:
        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        client.connect(
            door.address,
            door.port,
            door.user,
            key_filename=door.key,
            allow_agent=False,
            look_for_keys=False,
            disabled_algorithms={} if post_quantum else {"kex": ["mlkem768x25519-sha256"]},
        )
        transport = client.get_transport()
        assert transport
        yield transport


def sessions(transport: paramiko.Transport) -> int:
    """Open twelve sessions in one connection; return how many sshd accepts."""
    opened = []
    for _ in range(12):
        with contextlib.suppress(paramiko.ChannelException):
            opened.append(transport.open_session())
    return len(opened)


def openssh_login(door: Door, *options: str) -> subprocess.CompletedProcess[str]:
    """Log in with further options of ssh."""
    command = ["ssh", *options, *door.options, "-i", door.key, "-p", str(door.port), f"{door.user}@{door.address}"]
    return subprocess.run([*command, "true"], capture_output=True, text=True)


def test_paramiko_logs_in_and_opens_ten_sessions(door: Door) -> None:
    with paramiko_login(door) as transport:
        assert sessions(transport) == 10


@pytest.mark.parametrize("exchange", ["curve25519-sha256", "curve25519-sha256@libssh.org"])
def test_a_client_without_post_quantum_key_exchange_can_log_in(door: Door, exchange: str) -> None:
    done = openssh_login(door, "-o", f"KexAlgorithms={exchange}")
    assert done.returncode == 0, done.stderr


def test_a_key_in_authorized_keys2_can_not_log_in(door: Door, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
    public = shlex.quote((tmp_path / "key.pub").read_text().strip())
    login = ["ssh", *door.options, "-o", "IdentitiesOnly=yes", "-i", str(tmp_path / "key"), "-p", str(door.port)]
    for file, code in {"authorized_keys2": 255, "authorized_keys": 0}.items():
        assert door.ssh(f"cp -p ~/.ssh/authorized_keys ~/before && echo {public} >>~/.ssh/{file}").returncode == 0
        done = subprocess.run([*login, f"{door.user}@{door.address}", "true"], capture_output=True, text=True)
        assert door.ssh("mv ~/before ~/.ssh/authorized_keys && rm -f ~/.ssh/authorized_keys2").returncode == 0
        assert done.returncode == code, done.stderr
    assert door.opens()


@pytest.mark.on("root13")  # Debian 12 keeps the other key exchanges
def test_strict_restricts_key_exchange_and_sessions(door: Door, play: Play) -> None:
    run = play("provision", "-e", '{"ssh_strict": true}')
    assert run.code == 0, run.output
    done = openssh_login(door, "-o", "KexAlgorithms=curve25519-sha256")
    assert "no matching key exchange method found" in done.stderr
    with pytest.raises(paramiko.SSHException), paramiko_login(door):
        pass
    done = openssh_login(door, "-o", "KexAlgorithms=sntrup761x25519-sha512@openssh.com")
    assert done.returncode == 0, done.stderr
    with paramiko_login(door, post_quantum=True) as transport:
        assert sessions(transport) == 2
    run = play("provision")
    assert run.code == 0, run.output
    with paramiko_login(door) as transport:
        assert sessions(transport) == 10
