"""Apps with a database and Redis, on both webservers: web13 has its databases itself, web12 uses the host db13."""

from __future__ import annotations

import re
from collections.abc import Callable
from uuid import uuid4

import pytest
from data.guestbook import NAMES, Guestbook
from testinfra.host import Host
from testing import Machine, Run, wait_for

testinfra_hosts = ["ansible://webservers"]
Play = Callable[..., Run]
ALL = "webservers:databases"


def test_an_entry_is_stored_in_postgresql_and_shown_on_the_page(guestbook: Guestbook) -> None:
    message = f"m{uuid4().hex[:8]}"
    answer = guestbook.client.post("/entries", {"name": "Ada", "message": message}, "/")
    assert answer.status == 200
    assert message in answer.text
    query = f"select name from entry where message = '{message}'"
    assert guestbook.app(f'psql -Atc "{query}"') == "Ada"


def test_psql_logs_in_only_as_the_owner_of_the_database(guestbook: Guestbook) -> None:
    shown = guestbook.app(
        'psql -Atc "select current_user, current_database(), usesuper from pg_user where usename = user"'
    )
    assert shown == f"{guestbook.name}|{guestbook.name}|f"
    assert guestbook.app("psql -Atc \"select 1 from pg_extension where extname = 'pg_trgm'\"") == "1"


def test_the_worker_makes_a_thumbnail_of_an_upload(guestbook: Guestbook, picture: bytes) -> None:
    message, client = f"m{uuid4().hex[:8]}", guestbook.client
    fields = {"name": "Ada", "message": message}
    client.upload("/entries", "grey.png", picture, "image/png", fields, form="/", field="picture")
    entry = guestbook.app(f"psql -Atc \"select id from entry where message = '{message}'\"")

    def link() -> re.Match[str] | None:
        return re.search(rf'src="(/media/{entry}\.webp)"', client.get("/").text)

    found = wait_for(link, 30, "the worker has made the thumbnail")
    response = guestbook.web.raw(found[1])
    assert (response.status, response.getheader("Content-Type")) == (200, "image/webp")
    assert response.read()[:4] == b"RIFF"


def test_redis_is_reached_through_its_socket_alone(guestbook: Guestbook, machine: Machine) -> None:
    assert guestbook.app("redis-cli ping") == "PONG"
    assert guestbook.app("redis-cli config get port").split() == ["port", "0"]
    assert "noeviction" in guestbook.app("redis-cli config get maxmemory-policy")
    second = NAMES[machine.name][1]
    with machine.host.sudo():
        socket = f"/run/app-redis/{guestbook.name}/redis.sock"
        client = "valkey-cli" if machine.variables["machine_debian"] == 13 else "redis-cli"
        assert machine.host.run(f"runuser -u {second} -- {client} -s {socket} ping").stdout.strip() != "PONG"
        assert not machine.host.run("ss -Hltn | grep -E ':(5432|6379) '").stdout


def test_jobs_that_wait_survive_a_restart_of_redis(guestbook: Guestbook, machine: Machine) -> None:
    guestbook.app("redis-cli rpush waiting job")
    with machine.host.sudo():
        machine.host.check_output(f"sleep 2; systemctl restart app-redis-{guestbook.name}")
    assert guestbook.app("redis-cli lrange waiting 0 -1") == "job"
    guestbook.app("redis-cli del waiting")


def test_the_password_is_in_no_argument_and_no_log(guestbook: Guestbook, machine: Machine) -> None:
    with machine.host.sudo():
        release = machine.live(guestbook.name)
        environment = machine.host.check_output(f"cat /srv/{guestbook.name}/releases/{release}/environment")
        url = re.search(r'^DATABASE_URL="([^"]+)"$', environment, re.MULTILINE)
        assert url
        password = re.search(r"://[^:/@]+:([^@]+)@", url[1])
        if machine.name == "web13":
            assert (url[1], password) == (f"postgresql://{guestbook.name}@/{guestbook.name}?host=/run/postgresql", None)
            return
        assert password
        assert password[1] not in machine.host.check_output("ps -eo args; journalctl --no-pager --output=cat")
        mode = machine.host.check_output(f"stat -c '%a %U' /srv/{guestbook.name}/releases/{release}/environment")
        assert mode == "600 root"


def test_a_restart_of_postgresql_is_survived_without_a_restart_of_the_app(
    guestbook: Guestbook, machine: Machine, at: Callable[[str], Host]
) -> None:
    server = at("db13" if machine.name == "web12" else machine.name)
    with server.sudo():
        server.check_output("systemctl restart postgresql")
    wait_for(lambda: guestbook.web.ask("/").status == 200, 15, "the app has connected again")


@pytest.mark.usefixtures("local")  # once: both webservers and the database host are part of the run
def test_a_second_run_changes_nothing_and_check_mode_agrees(play: Play) -> None:
    for options in ([], ["--check", "--diff"]):
        run = play("site", *options, limit=ALL)
        assert run.code == 0, run.output
        assert [run.recap(name)["changed"] for name in ("web12", "web13", "db13")] == [0, 0, 0], run.output


@pytest.mark.usefixtures("remote")
def test_a_run_without_the_database_host_is_refused_before_any_change(play: Play) -> None:
    run = play("deploy")
    assert run.code != 0
    assert "option --limit" in run.output
    assert "No host was changed" in run.output
