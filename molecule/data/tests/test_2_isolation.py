"""Who can connect to which database: on a webserver through the socket, and on a database host over the network."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from data.guestbook import Guestbook
from testinfra.host import Host
from testing import Machine, Run

testinfra_hosts = ["ansible://webservers"]
At = Callable[[str], Host]


def test_through_the_socket_an_app_reaches_only_its_own_database(local: Machine) -> None:
    with local.host.sudo():
        own = local.host.run("runuser -u other -- psql -h /run/postgresql -d other -Atc 'select 1'")
        assert own.stdout.strip() == "1", own.stderr
        for user, database in (("other", "guestbook"), ("other", "postgres"), ("www-data", "guestbook")):
            refused = local.host.run(
                f"runuser -u {user} -- psql -h /run/postgresql -U {user} -d {database} -c 'select 1'"
            )
            assert refused.rc != 0
            assert "pg_hba.conf" in refused.stderr, refused.stderr
        stolen = local.host.run("runuser -u other -- psql -h /run/postgresql -U guestbook -d guestbook -c 'select 1'")
        assert "Peer authentication failed" in stolen.stderr


def test_no_role_but_the_owner_may_connect_to_a_database(local: Machine) -> None:
    query = "select has_database_privilege('other', 'guestbook', 'CONNECT')"
    with local.host.sudo():
        assert local.host.check_output(f'cd / && runuser -u postgres -- psql -Atc "{query}"') == "f"


def test_postgresql_beside_the_app_listens_on_no_port(local: Machine) -> None:
    assert not local.accepts(5432)
    with local.host.sudo():
        assert local.host.check_output("cd / && runuser -u postgres -- psql -Atc 'show listen_addresses'") == ""


def test_the_cluster_has_checksums_and_statistics_of_its_statements(local: Machine, at: At) -> None:
    for host in (local.host, at("db13")):
        with host.sudo():
            assert host.check_output("cd / && runuser -u postgres -- psql -Atc 'show data_checksums'") == "on"
            assert int(
                host.check_output("cd / && runuser -u postgres -- psql -Atc 'select count(*) from pg_stat_statements'")
            )


@pytest.mark.usefixtures("remote")
def test_the_connection_over_the_network_is_encrypted(guestbook: Guestbook) -> None:
    assert guestbook.app('psql -Atc "select ssl from pg_stat_ssl where pid = pg_backend_pid()"') == "t"


def test_over_the_network_a_wrong_password_an_unverified_server_and_plain_text_are_refused(
    remote: Machine, at: At
) -> None:
    address = at("db13").ansible.get_variables()["ansible_host"]
    root = "/etc/ssl/databases/db13.pem"

    def refused(options: str, database: str = "visitors", password: str = "wrong") -> str:
        url = f"postgresql://visitors@{address}/{database}?{options}"
        with remote.host.sudo():
            done = remote.host.run(f"PGPASSWORD={password} psql -w '{url}' -c 'select 1'")
        assert done.rc != 0
        return str(done.stderr)

    assert "password authentication failed" in refused(f"sslmode=verify-full&sslrootcert={root}")
    assert "no password supplied" in refused(f"sslmode=verify-full&sslrootcert={root}", password="")
    assert "no pg_hba.conf entry" in refused("sslmode=disable")
    assert "no pg_hba.conf entry" in refused(f"sslmode=verify-full&sslrootcert={root}", database="another")
    other = "/etc/ssl/certs/ca-certificates.crt"
    assert "certificate verify failed" in refused(f"sslmode=verify-full&sslrootcert={other}")


def test_the_firewall_of_the_database_host_allows_only_the_webserver(remote: Machine, at: At) -> None:
    database = at("db13")
    address = str(database.ansible.get_variables()["ansible_host"])
    outside = Machine("db13", database, {}, type(remote.web)(address, 5432))
    assert not outside.accepts(5432)
    remote.host.run_expect([0], f"timeout 5 bash -c '</dev/tcp/{address}/5432'")
    with database.sudo():
        assert not database.package("nginx").is_installed


@pytest.mark.usefixtures("remote")
def test_the_password_is_in_no_log_of_the_database_host(at: At) -> None:
    database = at("db13")
    with database.sudo():
        assert database.check_output("stat -c '%a %U' /etc/postgresql-passwords.json") == "600 root"
        found = 'python3 -c \'import json; print(json.load(open("/etc/postgresql-passwords.json"))["visitors"])\''
        password = database.check_output(found)
        logs = database.check_output("cat /var/log/postgresql/*.log; journalctl --no-pager --output=cat")
    assert password not in logs


def test_removing_an_app_keeps_its_database_until_its_data_is_to_be_deleted(
    local: Machine, play: Callable[..., Run]
) -> None:
    databases = "cd / && runuser -u postgres -- psql -Atc 'select datname from pg_database'"
    kept = play("remove", "-e", "app=other")
    assert kept.code == 0, kept.output
    with local.host.sudo():
        assert {"guestbook", "other"} <= set(local.host.check_output(databases).split())
    gone = play("remove", "-e", "app=other", "-e", "data=delete")
    assert gone.code == 0, gone.output
    with local.host.sudo():
        found = local.host.check_output(databases).split()
        assert "guestbook" in found
        assert "other" not in found
        assert local.host.run("id other").rc != 0
