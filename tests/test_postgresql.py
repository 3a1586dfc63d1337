"""The memory settings of PostgreSQL, and what opens a database over the network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils.postgresql import memory_settings
from ansible_collections.blueoctopus.site.plugins.modules.private_certificate import Certificates
from postgresql_server import PORT, Module, needs_server


@pytest.mark.parametrize("dedicated", [False, True])
@pytest.mark.parametrize("total", [512, 1024, 4096, 65536])
def test_memory_settings_fit_the_machine(total: int, dedicated: bool) -> None:
    found = {name: int(value.removesuffix("MB")) for name, value in memory_settings(total, 100, dedicated).items()}
    assert found["shared_buffers"] <= total // 4
    assert found["effective_cache_size"] < total
    assert found["shared_buffers"] + found["maintenance_work_mem"] < total * 0.4


@needs_server
def test_over_the_network_only_the_password_and_the_verified_certificate_open_the_database(
    configure_postgresql: Module, create_databases: Module, postgresql_server: Path
) -> None:
    create_databases({"name": "network", "password": True}, {"name": "other"})
    certificates = Certificates(postgresql_server / "tls", ["127.0.0.1"])
    certificates.create()
    shutil.chown(certificates.key, "postgres")
    password = json.loads((postgresql_server / "passwords.json").read_text())["network"]
    settings = f"""listen_addresses = '127.0.0.1'
ssl = on
ssl_cert_file = '{certificates.certificate}'
ssl_key_file = '{certificates.key}'
"""
    hba = "local all all peer\nhostssl sameuser all 127.0.0.1/32 scram-sha-256\n"
    try:
        assert configure_postgresql(settings, hba=hba)["restarted"]

        def reach(database: str, secret: str, root: Path = certificates.ca, mode: str = "verify-full") -> str:
            url = f"postgresql://network@127.0.0.1:{PORT}/{database}?sslmode={mode}&sslrootcert={root}"
            environment = {"PATH": os.environ["PATH"], "PGPASSWORD": secret}
            done = subprocess.run(
                ["psql", url, "-Atc", "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"],
                env=environment, capture_output=True, text=True,
            )  # fmt: skip
            return done.stdout.strip() or done.stderr

        other = Certificates(postgresql_server / "tls2", ["127.0.0.1"])
        other.create()
        assert reach("network", password) == "t"
        assert "password authentication failed" in reach("network", "wrong")
        assert "certificate verify failed" in reach("network", password, other.ca)
        assert "no pg_hba.conf entry" in reach("other", password)
        assert "no pg_hba.conf entry" in reach("network", password, mode="disable")
    finally:
        configure_postgresql("# none\n")
