"""The configuration of sshd: what a running sshd does with it. Needs the Debian package openssh-server."""

from __future__ import annotations

import contextlib
import getpass
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import paramiko
import pytest
from ansible_collections.blueoctopus.site.plugins.modules import sshd_policy
from nginx_site import free_port

pytestmark = [pytest.mark.needs("sshd"), pytest.mark.slow]
Configure = Callable[..., Path]


def run_command(command: list[str], **_options: Any) -> tuple[int, str, str]:
    """Run a program like AnsibleModule does."""
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def client_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key that may log in, beside the keys of the host."""
    folder = tmp_path_factory.mktemp("keys")
    for name, kind in {"client": "ed25519", "ssh_host_ed25519_key": "ed25519", "ssh_host_rsa_key": "rsa"}.items():
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(folder / name)], check=True)
    return folder / "client"


@pytest.fixture
def configure(render: Callable[..., str], client_key: Path, tmp_path: Path) -> Configure:
    """Write the configuration of the role for a Debian version, with the paths and the user of this test in front."""

    def written(debian: str, port: int = 22, **settings: Any) -> Path:
        own: dict[str, Any] = {"ssh_administrator": getpass.getuser(), "ssh_port": port}
        facts = {"distribution_major_version": debian}
        text = render("ssh", "10-hardening.conf.j2", ansible_facts=facts, **own, **settings)
        text = sshd_policy.supported(SimpleNamespace(run_command=run_command), text)
        (tmp_path / "drop-in.conf").write_text(text.replace("/etc/ssh/", f"{client_key.parent}/"))
        login = (
            f"AuthorizedKeysFile {client_key}.pub\nPermitRootLogin prohibit-password\n"  # for tests that run as root
        )
        here = f"ListenAddress 127.0.0.1\nPidFile none\nStrictModes no\n{login}"
        (tmp_path / "sshd_config").write_text(f"{here}Include {tmp_path}/drop-in.conf\n")
        if os.getuid() == 0:
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
        return tmp_path

    return written


@pytest.fixture
def listen(configure: Configure, tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Start an sshd with the configuration of the role; return its port."""
    with contextlib.ExitStack() as stack:

        def started(debian: str, **settings: Any) -> int:
            port = free_port()
            configure(debian, port, **settings)
            log = stack.enter_context((tmp_path / "log").open("w"))
            command = [sshd_policy.SSHD, "-D", "-e", "-f", str(tmp_path / "sshd_config")]
            process = stack.enter_context(subprocess.Popen(command, stderr=log))
            stack.callback(process.terminate)
            deadline = time.monotonic() + 10
            while "Server listening" not in (tmp_path / "log").read_text():
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            return port

        yield started


@contextlib.contextmanager
def paramiko_login(port: int, key: Path) -> Iterator[paramiko.Transport]:
    """Log in with paramiko, without the post-quantum key exchange that it has since version 5.1."""
    with paramiko.SSHClient() as client:
        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        options: dict[str, Any] = {"allow_agent": False, "look_for_keys": False, "timeout": 20}
        options["disabled_algorithms"] = {"kex": ["mlkem768x25519-sha256"]}
        client.connect("127.0.0.1", port, getpass.getuser(), key_filename=str(key), **options)
        transport = client.get_transport()
        assert transport
        yield transport


def sessions(transport: paramiko.Transport, number: int) -> int:
    """Open sessions in one connection; return how many sshd accepts."""
    opened = []
    for _ in range(number):
        with contextlib.suppress(paramiko.ChannelException):
            opened.append(transport.open_session())
    return len(opened)


@pytest.mark.parametrize("debian", ["12", "13"])
def test_paramiko_can_log_in(listen: Callable[..., int], client_key: Path, debian: str) -> None:
    with paramiko_login(listen(debian), client_key) as transport:
        channel = transport.open_session()
        channel.exec_command("echo works")
        assert channel.makefile().read() == b"works\n"


@pytest.mark.parametrize("debian", ["12", "13"])
@pytest.mark.parametrize("exchange", ["curve25519-sha256", "curve25519-sha256@libssh.org"])
def test_a_client_without_post_quantum_key_exchange_can_log_in(
    listen: Callable[..., int], client_key: Path, debian: str, exchange: str
) -> None:
    code, messages = openssh_login(listen(debian), client_key, exchange)
    assert code == 0, messages


def openssh_login(port: int, key: Path, exchange: str) -> tuple[int, str]:
    """Log in with OpenSSH and one key exchange; return its exit code and its messages."""
    options = ["-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"]
    options += [
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
        "-o",
        f"KexAlgorithms={exchange}",
    ]
    code, _out, err = run_command(["ssh", *options, "-i", str(key), "-p", str(port), "127.0.0.1", "true"])
    return code, err


def test_strict_allows_only_post_quantum_key_exchange_on_debian_13(
    listen: Callable[..., int], client_key: Path
) -> None:
    port = listen("13", ssh_strict=True)
    code, messages = openssh_login(port, client_key, "curve25519-sha256")
    assert code == 255
    assert "no matching key exchange method found" in messages
    code, messages = openssh_login(port, client_key, "sntrup761x25519-sha512@openssh.com")
    assert code == 0, messages
    with pytest.raises(paramiko.SSHException), paramiko_login(port, client_key):
        pass


@pytest.mark.parametrize(("strict", "most"), [(False, 10), (True, 2)])
def test_a_connection_carries_ten_sessions_or_two_when_strict(
    listen: Callable[..., int], client_key: Path, strict: bool, most: int
) -> None:
    with paramiko_login(listen("12", ssh_strict=strict), client_key) as transport:
        assert sessions(transport, 12) == most


def test_only_the_file_authorized_keys_contains_keys(configure: Configure) -> None:
    folder = configure("13")
    config = (folder / "sshd_config").read_text()
    (folder / "sshd_config").write_text("\n".join(line for line in config.splitlines() if "Authorized" not in line))
    code, out, err = run_command([sshd_policy.SSHD, "-T", "-f", f"{folder}/sshd_config"])
    assert code == 0, err
    assert sshd_policy.parse_settings(out)["authorizedkeysfile"] == ".ssh/authorized_keys"


def test_another_file_that_adds_authorized_keys2_is_an_error(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = (configure("13") / "drop-in.conf").read_text()
    folder = tmp_path / "ssh"
    (folder / "sshd_config.d").mkdir(parents=True)
    (folder / "sshd_config").write_text("Include /etc/ssh/sshd_config.d/*.conf\n")
    monkeypatch.setattr(sshd_policy, "FOLDER", folder)
    monkeypatch.setattr(sshd_policy, "os", SimpleNamespace(makedirs=lambda *_paths, **_options: None))  # /run/sshd

    def fail(msg: str) -> None:
        raise AssertionError(msg)

    module: Any = SimpleNamespace(run_command=run_command, fail_json=fail)
    sshd_policy.validate(module, config)
    (folder / "sshd_config.d/01-image.conf").write_text(
        "AuthorizedKeysFile .ssh/authorized_keys .ssh/authorized_keys2\n"
    )
    with pytest.raises(AssertionError, match=r"would use authorizedkeysfile .*authorized_keys2 instead of"):
        sshd_policy.validate(module, config)
