"""The command app: what it takes from the web service, and which texts it hides."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from ansible_collections.blueoctopus.site.plugins.module_utils.release_build import environment_file

PROGRAM = Path(__file__).resolve().parent.parent / "roles/app/files/app"
UNIT = """[Unit]
Description=shop
[Service]
Type=notify
ExecStart=/srv/shop/releases/%i/venv/bin/gunicorn
ExecReload=/bin/kill -HUP $MAINPID
KillMode=mixed
TimeoutStartSec=30
Restart=always
RestartSec=2
# comment
User=shop
Environment=RELEASE=%i
Environment=SHARE=50%%
PrivateUsers=true

[Install]
WantedBy=multi-user.target
"""


@pytest.fixture(scope="module")
def app() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("app_command", str(PROGRAM))
    spec = importlib.util.spec_from_loader("app_command", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture
def release(tmp_path: Path) -> Path:
    folder = tmp_path / "shop/releases/20260102T030405Z-1f0c2d3e4b"
    (folder / "units").mkdir(parents=True)
    (folder / "units/shop@.service").write_text(UNIT)
    secrets = {"KEY": 'a "quoted" $value\\', "PEM": "-----BEGIN\nsecond line\n-----END", "PIN": "12"}
    secrets["DATABASE_URL"] = "postgresql://shop:p%40ss@db/shop"
    (folder / "environment").write_text(environment_file({"GREETING": "hello world"} | secrets))
    (folder / "release.json").write_text(json.dumps({"secrets": sorted(secrets)}))
    return folder


def test_a_command_gets_the_surroundings_of_the_web_service_but_not_its_process_settings(
    app: ModuleType, release: Path
) -> None:
    assert app.surroundings("shop", release) == [
        "--property=User=shop",
        "--property=Environment=RELEASE=20260102T030405Z-1f0c2d3e4b",
        "--property=Environment=SHARE=50%",
        "--property=PrivateUsers=true",
    ]


def test_a_command_gets_every_setting_that_the_services_of_an_app_share(
    app: ModuleType, release: Path, render: Callable[..., str]
) -> None:
    keys = {"memory_limit": "300M", "network": False}
    units = yaml.safe_load(render("app", "units.yml.j2", app=keys))
    (release / "units/shop@.service").write_text(units["units/shop@.service"])
    shared = render("app", "surroundings.j2", app=keys).replace("%i", release.name).splitlines()
    expected = [f"--property={line}" for line in shared if line and not line.startswith("#")]
    assert app.surroundings("shop", release) == expected
    assert {"--property=MemoryMax=300M", "--property=User=shop", "--property=PrivateNetwork=true"} <= set(expected)


def test_secrets_are_hidden_also_line_by_line_and_other_settings_are_not(
    app: ModuleType, release: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hidden = app.secret_values(release)
    text = 'a "quoted" $value\\ and second line and hello world and 12 and p@ss'
    assert app.run(["sh", "-c", f"printf %s {shlex.quote(text)}; exit 3"], hidden) == 3
    assert capfd.readouterr().out == "******** and ******** and hello world and 12 and ********"


@pytest.mark.parametrize("name", ["../etc", "shop/..", "", "Shop", "none"])
def test_a_name_that_is_no_app_has_no_release(
    app: ModuleType, release: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(app, "APPS", release.parents[2])
    (release.parents[1] / "live").symlink_to(release)
    assert app.live_release("shop") == release
    assert app.live_release(name) is None


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "postgresql://shop@/shop?host=/run/postgresql",
            {"PGUSER": "shop", "PGDATABASE": "shop", "PGHOST": "/run/postgresql"},
        ),
        (
            "postgresql://shop:p%40ss@[2001:db8::9]:5433/shop?sslmode=verify-full&sslrootcert=/etc/ssl/databases/db1.pem",
            {
                "PGUSER": "shop",
                "PGPASSWORD": "p@ss",
                "PGDATABASE": "shop",
                "PGHOST": "2001:db8::9",
                "PGPORT": "5433",
                "PGSSLMODE": "verify-full",
                "PGSSLROOTCERT": "/etc/ssl/databases/db1.pem",
            },
        ),
        (
            "postgresql://shop@/shop?host=db1,db2&target_session_attrs=read-write&connect_timeout=3",
            {
                "PGUSER": "shop",
                "PGDATABASE": "shop",
                "PGHOST": "db1,db2",
                "PGTARGETSESSIONATTRS": "read-write",
                "PGCONNECT_TIMEOUT": "3",
            },
        ),
    ],
)
def test_psql_gets_the_url_of_the_database_as_variables(app: ModuleType, url: str, expected: dict[str, str]) -> None:
    assert app.libpq_environment(url) == expected


def test_no_password_is_an_argument_of_psql(app: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(app.os, "environ", {"DATABASE_URL": "postgresql://shop:secret@db/shop"})
    monkeypatch.setattr(app.os, "execvp", lambda _, argv: ran.append(argv))
    app.connect("psql", "-c", "select 1")
    assert ran == [["psql", "-c", "select 1"]]
    assert app.os.environ["PGPASSWORD"] == "secret"


def test_redis_cli_gets_the_socket_of_the_app(app: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(app.os, "environ", {"REDIS_URL": "unix:///run/app-redis/shop/redis.sock"})
    monkeypatch.setattr(app.os, "execvp", lambda _, argv: ran.append(argv))
    monkeypatch.setattr(app.shutil, "which", lambda _: None)
    app.connect("redis-cli", "ping")
    assert ran == [["redis-cli", "-s", "/run/app-redis/shop/redis.sock", "ping"]]


@pytest.mark.parametrize(("program", "key"), [("psql", "postgresql: true"), ("redis-cli", "redis: true")])
def test_an_app_without_a_database_names_the_key_to_set(
    app: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], program: str, key: str
) -> None:
    monkeypatch.setattr(app.os, "environ", {})
    assert app.connect(program) == app.UNKNOWN
    assert key in capsys.readouterr().err
