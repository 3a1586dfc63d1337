#!/usr/bin/python
"""Create a certificate that a certificate authority of this host alone has signed."""

from __future__ import annotations

DOCUMENTATION = r"""
module: private_certificate
short_description: Create a certificate and the certificate authority that signs it
description:
  - Creates a certificate authority on the host, once, and with it a certificate for a server or a client of the host.
    Others that have the root certificate of the authority can verify it, and trust it for nothing else.
  - Creates the certificate anew when its names differ, or when it expires within a year. The others need no change.
  - Several runs can use the module at the same time.
  - The key of the authority can be read by root alone. No key leaves the host.
options:
  folder:
    description: Folder of the files C(ca.key), C(ca.pem), C(USAGE.key) and C(USAGE.pem).
    type: path
    required: true
  names:
    description: Host names and IP addresses of the server or the client.
    type: list
    elements: str
    required: true
  group:
    description: Group that can read the key of the certificate.
    type: str
    required: true
  usage:
    description: Whether the certificate is that of a server or of a client.
    type: str
    choices: [server, client]
    default: server
extends_documentation_fragment:
  - blueoctopus.site.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
"""

EXAMPLES = r"""
- name: Create the certificate of PostgreSQL
  blueoctopus.site.private_certificate:
    folder: /etc/postgresql-tls
    names: [192.0.2.7]
    group: postgres
"""

RETURN = r"""
root:
  description: Root certificate of the authority, in PEM form; empty in check mode when there is none yet.
  returned: success
  type: str
"""

import contextlib
import fcntl
import ipaddress
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.blueoctopus.site.plugins.module_utils.files import read, write

AUTHORITY_DAYS = 20 * 365
SERVER_DAYS = 10 * 365
RENEW_BEFORE = 365 * 86400  # seconds
MOST_COMMON_NAME = 64  # characters; clients use the alternative names, which may be longer
CONFIG = """[req]
prompt = no
distinguished_name = subject
[subject]
CN = {name}
[authority]
basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[{usage}]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = {usage}Auth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = {alternatives}
"""
NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]


class CertificateError(Exception):
    """openssl failed."""


def openssl(*argv: object) -> str:
    """Call openssl and return its output.

    Raises:
        CertificateError: when it fails.
    """
    done = subprocess.run(["openssl", *map(str, argv)], capture_output=True, text=True)
    if done.returncode:
        raise CertificateError(done.stderr.strip() or f"openssl {argv[0]} failed")
    return done.stdout


def alternatives(names: list[str]) -> list[str]:
    """Names and addresses as in a certificate: DNS:NAME or IP:ADDRESS."""
    found = []
    for name in names:
        try:
            found.append(f"IP:{ipaddress.ip_address(name)}")
        except ValueError:
            found.append(f"DNS:{name}")
    return found


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


class Certificates:
    """The authority and the certificate in a folder.

    Args:
        folder: where they are.
        names: names and addresses of the server or the client.
        usage: server or client.
    """

    def __init__(self, folder: Path, names: list[str], usage: str = "server") -> None:
        self.folder = folder
        self.names = list(map(normal, names))
        self.usage = usage
        self.ca_key, self.ca = folder / "ca.key", folder / "ca.pem"
        self.key, self.certificate = folder / f"{usage}.key", folder / f"{usage}.pem"

    @property
    def has_authority(self) -> bool:
        return self.ca_key.exists() and self.ca.exists()

    @property
    def current_names(self) -> list[str]:
        """The names and addresses that the certificate has; none without a certificate."""
        with contextlib.suppress(CertificateError):
            shown = openssl("x509", "-noout", "-ext", "subjectAltName", "-in", self.certificate)
            return [normal(name) for name in re.findall(r"(?:DNS|IP Address):([^,\s]+)", shown)]
        return []

    @property
    def is_valid(self) -> bool:
        """Whether the certificate has the names, is from the authority, and does not expire soon."""
        if not (self.has_authority and self.key.exists() and self.certificate.exists()):
            return False
        try:
            openssl("x509", "-noout", "-checkend", str(RENEW_BEFORE), "-in", self.certificate)
            openssl("verify", "-CAfile", self.ca, self.certificate)
            own = openssl("x509", "-noout", "-pubkey", "-in", self.certificate)
            is_own = own == openssl("pkey", "-pubout", "-in", self.key)
        except CertificateError:
            return False
        return sorted(self.current_names) == sorted(self.names) and is_own

    def create(self) -> None:
        """Create what is missing. The files replace the previous ones when all of them are complete."""
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        with locked(self.folder):
            if not self.is_valid:  # another run may have created it in the meantime
                self.create_files()

    def create_files(self) -> None:
        names = self.names
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            work = Path(name)
            config = work / "config"
            if not self.has_authority:
                config.write_text(CONFIG.format(name="Private authority", alternatives="DNS:none", usage=self.usage))
                made = ["-keyout", work / "ca.key", "-out", work / "ca.pem"]
                days = ["-days", str(AUTHORITY_DAYS)]
                openssl("req", "-x509", *NEW_KEY, "-config", config, "-extensions", "authority", *days, *made)
                write(self.ca_key, (work / "ca.key").read_text(), 0o600)
                write(self.ca, (work / "ca.pem").read_text())
            common = names[0][:MOST_COMMON_NAME]
            config.write_text(CONFIG.format(name=common, alternatives=",".join(alternatives(names)), usage=self.usage))
            request = work / "request"
            openssl("req", "-new", *NEW_KEY, "-config", config, "-keyout", work / "own.key", "-out", request)
            signer = ["-CA", self.ca, "-CAkey", self.ca_key, "-CAserial", work / "serial", "-CAcreateserial"]
            extensions = ["-extfile", config, "-extensions", self.usage, "-days", str(SERVER_DAYS)]
            openssl("x509", "-req", "-in", request, *signer, *extensions, "-out", work / "own.pem")
            write(self.key, (work / "own.key").read_text(), 0o600)
            write(self.certificate, (work / "own.pem").read_text())


def normal(name: str) -> str:
    """A name in lower case, or an address in its shortest form; openssl prints an IPv6 address in another one."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name.lower()


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "folder": {"type": "path", "required": True},
            "names": {"type": "list", "elements": "str", "required": True},
            "group": {"type": "str", "required": True},
            "usage": {"type": "str", "choices": ["server", "client"], "default": "server"},
        },
        supports_check_mode=True,
    )
    params = module.params
    certificates = Certificates(Path(params["folder"]), params["names"], params["usage"])
    changed = not certificates.is_valid
    if changed and not module.check_mode:
        try:
            certificates.create()
        except (CertificateError, OSError) as error:
            module.fail_json(msg=f"The certificate can't be created: {error}")
    if not module.check_mode:
        shutil.chown(certificates.key, "root", params["group"])
        certificates.key.chmod(0o640)
    module.exit_json(changed=changed, root=read(certificates.ca))


if __name__ == "__main__":
    main()
