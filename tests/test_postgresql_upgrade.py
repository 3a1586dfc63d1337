"""The upgrade of PostgreSQL, with Debian's own tools and real servers.

Everything runs in a mount namespace with empty folders in place of those of PostgreSQL. As Debian has one version only,
its programs are both OLD and NEW there: what the tools do depends on these names, not on the programs. No package has
these names, so that no tool misses a package of the new one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from programs import find

PROGRAMS = Path(find("initdb")).parent
OLD, NEW = (str(int(PROGRAMS.parent.name or 0) + n) for n in (1, 2))
PROJECT = Path(__file__).resolve().parent.parent
TOOLS = PROJECT / "tests/tools"
pytestmark = [pytest.mark.slow, pytest.mark.needs("root", "initdb", "runuser", "unshare", "pg_upgradecluster")]
REPLACED = [
    "/etc/postgresql",
    "/etc/postgresql-common",
    "/var/lib/postgresql",
    "/var/log/postgresql",
    "/run/postgresql",
]
SYSTEMCTL = """#!/bin/sh
case $1 in start) unit=${2#postgresql@}; version=${unit%%-*}
    exec pg_ctlcluster --skip-systemctl-redirect "$version" main start;; esac
"""
PRELUDE = """
import json, subprocess, sys
from pathlib import Path
sys.path[:0] = {paths!r}
from ansible_collections.blueoctopus.site.plugins.module_utils.postgresql import psql
from ansible_collections.blueoctopus.site.plugins.modules import postgresql_upgrade as upgrade
from modules import call
upgrade.ENVIRONMENT["PATH"] = {path!r}
upgrade.MARKER = Path("/etc/postgresql-common/upgrade-to")
def step(name, **args):
    return call(upgrade, step=name, **args)
def shell(command):
    subprocess.run(["sh", "-ec", command], check=True, env=upgrade.ENVIRONMENT)
def clusters():
    return {{one.version: (one.port, one.status) for one in upgrade.clusters()}}
shown, OLD, NEW = {{}}, {old!r}, {new!r}
"""


@pytest.fixture
def host() -> Iterator[Callable[[str], dict[str, Any]]]:
    """Run Python on a host with a cluster OLD/main, in which the app shop has rows; returns the variable `shown`."""
    folder = Path(tempfile.mkdtemp(prefix="upgrade-", dir="/tmp"))
    folder.chmod(0o755)
    mounts = []
    for number, path in enumerate(REPLACED):
        (folder / str(number)).mkdir()
        mounts.append(f"mkdir -p {path}; mount --bind {folder}/{number} {path}")
    for number in (0, 2, 3, 4):
        shutil.chown(folder / str(number), "postgres", "postgres")
    (folder / "1/createcluster.conf").write_text("listen_addresses = ''\nadd_include_dir = 'conf.d'\n")
    for version in (OLD, NEW):
        (folder / "versions" / version).mkdir(parents=True)
        mounts.append(f"mount --bind {PROGRAMS.parent} {folder}/versions/{version}")
    mounts.append(f"mount --rbind {folder}/versions {PROGRAMS.parent.parent}")
    # With systemd, the tools would call the one of this computer.
    mounts.append("[ ! -d /run/systemd ] || mount -t tmpfs none /run/systemd")
    (folder / "bin").mkdir()
    (folder / "bin/systemctl").write_text(SYSTEMCTL)
    (folder / "bin/systemctl").chmod(0o755)
    path = f"{folder}/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    begin = [
        f"pg_createcluster --port 5432 -u postgres {OLD} main >/dev/null",
        f"echo 'max_connections = 33' >/etc/postgresql/{OLD}/main/conf.d/50-site.conf",
        f"pg_ctlcluster --skip-systemctl-redirect {OLD} main start",
    ]
    end = (
        f"for v in {OLD} {NEW}; do pg_ctlcluster --skip-systemctl-redirect $v main stop -m immediate 2>/dev/null; done"
    )

    def run(code: str) -> dict[str, Any]:
        program = folder / "program.py"
        data = "psql('CREATE ROLE shop LOGIN; '); psql('CREATE DATABASE shop OWNER shop;')\n"
        data += "psql('CREATE TABLE public.entry AS SELECT generate_series(1, 500) AS n;', 'shop')\n"
        text = (
            PRELUDE.format(old=OLD, new=NEW, paths=[str(TOOLS), str(PROJECT / "collections")], path=path) + data + code
        )
        text += f"\nPath('{folder}/shown.json').write_text(json.dumps(shown))\n"
        program.write_text(text)
        script = "\n".join(
            [
                "set -e",
                *mounts,
                f"export PATH={path}",
                *begin,
                "set +e",
                f"{sys.executable} {program}",
                "r=$?",
                end,
                "exit $r",
            ]
        )
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        environment.pop("PGHOST", None)
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                ["unshare", "--mount", "bash", "-c", script], env=environment, stdout=output, stderr=output
            )
            output.seek(0)
            said = output.read()
        assert done.returncode == 0, said
        return dict(json.loads((folder / "shown.json").read_text()))

    yield run
    shutil.rmtree(folder)


def test_an_upgrade_keeps_every_row_the_settings_and_the_former_cluster(
    host: Callable[[str], dict[str, Any]],
) -> None:
    shown = host("""
shell(f"pg_createcluster -u postgres {NEW} main --start")  # empty, as an upgrade of Debian creates it
shown["before"] = step("check"), clusters()
shown["upgrade"] = step("upgrade", dump="/var/lib/postgresql/dumps/before.sql")
shown["after"] = clusters()
shown["rows"] = psql("SELECT count(*) FROM entry;".replace("entry", "public.entry"), "shop")
shown["settings"] = psql("SHOW max_connections;")
shown["owner"] = psql("SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'shop';")
dump = Path("/var/lib/postgresql/dumps/before.sql")
shown["dump"] = dump.stat().st_mode & 0o777, "CREATE DATABASE shop" in dump.read_text()
shown["again"] = step("check")["needed"], step("upgrade")["changed"]
shown["drop"] = step("drop")["dropped"], clusters(), step("drop")["changed"]
""")
    check, before = shown["before"]
    assert (check["needed"], check["old"], check["new"], before[OLD]) == (True, OLD, NEW, [5432, "online"])
    assert (shown["upgrade"]["changed"], shown["upgrade"]["rows"]) == (True, 500), shown["upgrade"]
    assert shown["after"][NEW] == [5432, "online"]
    assert shown["after"][OLD][1] == "down"
    assert (shown["rows"], shown["settings"], shown["owner"]) == ("500", "33", "shop")
    assert shown["dump"] == [0o600, True]
    assert shown["again"] == [False, False]
    assert shown["drop"] == [[OLD], {NEW: [5432, "online"]}, False]


def test_an_upgrade_that_loses_rows_or_is_interrupted_is_undone_and_can_be_repeated(
    host: Callable[[str], dict[str, Any]],
) -> None:
    shown = host("""
from ansible_collections.blueoctopus.site.plugins.module_utils import postgresql_contents
real = postgresql_contents.rows
calls = iter([{"shop: public.entry": "500"}, {"shop: public.entry": "499"}])
postgresql_contents.rows = lambda port: next(calls)
shown["lost"] = step("upgrade")["msg"], clusters(), psql("SELECT count(*) FROM public.entry;", "shop")
postgresql_contents.rows = real
# Killed while the new cluster is filled: the old one runs without clients.
shell(f"pg_createcluster -u postgres {NEW} main --start")
shell("cd / && createdb -h /run/postgresql -p 5433 -U postgres half || runuser -u postgres -- createdb -p 5433 half")
shown["refused"] = step("check")["msg"]
upgrade.MARKER.write_text(NEW)
shell(f"pg_ctlcluster --skip-systemctl-redirect {OLD} main stop")
shown["interrupted"] = step("check")["interrupted"]
shown["repeated"] = step("upgrade"), clusters()[NEW]
# Killed before the new one was started for its clients: after both were compared, and before.
def kill(marker):
    shell(f"pg_ctlcluster --skip-systemctl-redirect {NEW} main stop")
    upgrade.MARKER.write_text(marker)
psql("CREATE TABLE public.later ();", "shop")
kill(f"{NEW} compared")
shown["finished"] = step("upgrade")["changed"], upgrade.MARKER.exists()
psql("DROP TABLE public.later; DELETE FROM public.entry WHERE n = 1;", "shop")
kill(f"{NEW} compared")
shown["written"] = step("upgrade")["changed"], upgrade.MARKER.exists()
psql("INSERT INTO public.entry VALUES (1);", "shop")
kill(NEW)
shell(f"rm /etc/postgresql/{NEW}/main/conf.d/*; pg_ctlcluster --skip-systemctl-redirect {OLD} main start")
shown["compared"] = step("upgrade"), psql("SHOW max_connections;"), upgrade.MARKER.exists()
psql("DELETE FROM public.entry WHERE n = 1;", "shop")
kill(NEW)
shown["differs"] = step("upgrade").get("msg", ""), clusters(), upgrade.MARKER.exists()
""")
    message, clusters, rows = shown["lost"]
    assert "does not have the same content in: shop: public.entry" in message
    assert f"PostgreSQL {OLD} runs as before" in message
    assert (clusters, rows) == ({OLD: [5432, "online"]}, "500")
    assert f"a second cluster with databases, PostgreSQL {NEW} on port 5433" in shown["refused"]
    assert shown["interrupted"] is True
    assert shown["repeated"][0].get("rows") == 500, shown["repeated"]
    assert shown["repeated"][1] == [5432, "online"]
    assert shown["finished"] == shown["written"] == [True, False]
    compared, settings, begun = shown["compared"]
    assert (compared.get("rows"), settings, begun) == (500, "33", False), compared
    message, clusters, begun = shown["differs"]
    assert "does not have the same content in: shop: public.entry\n" in message
    # Clients may have written to the new cluster since the interrupted run, so it stays.
    assert f"PostgreSQL {NEW} runs, and the former cluster is kept." in message
    assert (clusters[NEW], clusters[OLD][1], begun) == ([5432, "online"], "down", False)


def test_sequences_views_functions_indexes_and_extensions_are_compared(
    host: Callable[[str], dict[str, Any]],
) -> None:
    """A materialized view is refreshed in the copy, as pg_upgradecluster leaves it empty; so its rows may differ."""
    shown = host("""
psql('''CREATE SEQUENCE public.numbers; SELECT nextval('public.numbers'); CREATE SEQUENCE public.unused;
    CREATE EXTENSION pg_trgm SCHEMA public; CREATE INDEX by_n ON public.entry (n);
    CREATE VIEW public.some AS SELECT n FROM public.entry WHERE n < 3;
    CREATE FUNCTION public.one() RETURNS int LANGUAGE sql AS 'SELECT 1';
    INSERT INTO public.entry VALUES (0);
    CREATE MATERIALIZED VIEW public.counted AS SELECT n FROM public.entry WHERE n < 10;
    DELETE FROM public.entry WHERE n = 0;
    ''', "shop")
real = upgrade.copy_settings
def copied(old, new):
    real(old, new)
    shell(f"pg_ctlcluster --skip-systemctl-redirect {new} main start")
    psql('''DROP VIEW public.some; DROP INDEX public.by_n; DROP FUNCTION public.one(); DROP EXTENSION pg_trgm;
        SELECT setval('public.numbers', 9);''', "shop", upgrade.cluster(new).port)
    shell(f"pg_ctlcluster --skip-systemctl-redirect {new} main stop")
upgrade.copy_settings = copied
shown["lost"] = step("upgrade").get("msg", "")
upgrade.copy_settings = real
shown["whole"] = step("upgrade"), psql("SELECT count(*) FROM public.counted;", "shop")
""")
    for name in ("views", "indexes", "functions", "extension pg_trgm", "sequence public.numbers"):
        assert f"shop: {name}" in shown["lost"], shown
    assert "unused" not in shown["lost"]
    upgraded, refreshed = shown["whole"]
    assert (upgraded.get("rows"), refreshed) == (500, "9"), shown["whole"]


def test_a_replica_and_too_small_a_disk_are_refused_before_anything_is_changed(
    host: Callable[[str], dict[str, Any]],
) -> None:
    shown = host("""
upgrade.shutil.disk_usage = lambda path: upgrade.shutil._ntuple_diskusage(2**30, 2**30, 2**20)
shown["disk"] = step("upgrade")["msg"]
upgrade.shutil.disk_usage = lambda path: upgrade.shutil._ntuple_diskusage(2**40, 0, 2**40)
psql("SELECT pg_create_physical_replication_slot('one');")
shown["replica"] = step("upgrade")["msg"], clusters()
psql("SELECT pg_drop_replication_slot('one');")
shell(f"pg_ctlcluster --skip-systemctl-redirect {OLD} main stop")
shown["down"] = step("check")["msg"]
""")
    assert "MiB of disk space, but" in shown["disk"]
    assert "it has replication slots" in shown["replica"][0]
    assert shown["replica"][1] == {OLD: [5432, "online"]}
    assert f"PostgreSQL {OLD} does not run" in shown["down"]
