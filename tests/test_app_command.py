"""The command app: what it takes from the web service, and which texts it hides."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import shlex
from pathlib import Path
from types import ModuleType

import pytest
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
