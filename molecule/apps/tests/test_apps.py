"""Flask apps from PyPI, used over HTTPS as their users do."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
import yaml
from apps.visits import ADMIN_OF_TOKENS, FILES, PAGES, PRIVATE_PAGES, STEPS
from testing import Machine, Run, Web
from web_client import browse, browser

testinfra_hosts = ["ansible://webservers"]
SiteOf = Callable[[str], Web]
Play = Callable[..., Run]


@pytest.fixture
def site(machine: Machine) -> SiteOf:
    """The site of an app. Its certificate is self-signed."""
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    return lambda name: Web(machine.web.address, 443, f"{name}.test", trusting)


@pytest.mark.on("apps12")
def test_the_apps_are_deployed_on_debian_12_as_well(machine: Machine, play: Play, inventory: Path) -> None:
    run = play("deploy", "-e", f"@{inventory / 'group_vars/webservers.yml'}")
    assert run.code == 0, run.output
    assert [name for name in STEPS if not machine.live(name)] == []


@pytest.mark.parametrize("name", STEPS)
def test_user_data_survives_a_restart(machine: Machine, site: SiteOf, name: str) -> None:
    write, read = STEPS[name]
    mark = f"m{uuid4().hex[:8]}"
    write(site(name), mark)
    read(site(name), mark)
    with machine.host.sudo():
        machine.host.run_expect([0], f"systemctl restart {name}@{machine.live(name)}.service")
    read(site(name), mark)


@pytest.mark.parametrize("name", FILES)
def test_files_of_an_installed_package_come_from_nginx(site: SiteOf, name: str) -> None:
    path, media_type = FILES[name]
    answer = site(name).ask(path)
    assert (answer.status, answer.headers["Content-Type"].partition(";")[0]) == (200, media_type)
    assert answer.headers["Cache-Control"] == "max-age=300"  # Flask would say no-cache


@pytest.mark.on("apps13")
@pytest.mark.parametrize(("name", "path", "text"), PAGES)
def test_a_browser_shows_a_page_with_all_its_files_and_reports_no_violation(
    site: SiteOf, tmp_path: Path, name: str, path: str, text: str
) -> None:
    page = browse(site(name), path, text, tmp_path)
    assert text in page.text
    assert (page.violations, page.failed) == ([], [])


@pytest.mark.on("apps13")
@pytest.mark.parametrize("name", PRIVATE_PAGES)
def test_a_browser_shows_pages_behind_a_login_with_all_their_files(site: SiteOf, tmp_path: Path, name: str) -> None:
    enter, pages = PRIVATE_PAGES[name]
    mark = f"m{uuid4().hex[:8]}"
    STEPS[name][0](site(name), mark)
    visitor = enter(site(name), mark)
    for path, text in pages.items():
        page = browse(site(name), path.replace("MARK", mark), text, tmp_path, visitor.cookies)
        assert text in page.text
        assert (page.violations, page.failed) == ([], [])


@pytest.mark.on("apps13")
def test_a_browser_logs_in_to_an_app_that_consists_of_scripts(site: SiteOf, tmp_path: Path) -> None:
    form = {"#username": "admin", "#password": ADMIN_OF_TOKENS}
    page = browse(site("tokens"), "/", "Log In With Passkey", tmp_path, form=form, after="<app-navigation")
    assert "<app-navigation" in page.text  # of administrators, whatever page is their first
    assert (page.violations, page.failed) == ([], [])


@pytest.mark.on("apps13")
def test_a_browser_opens_a_websocket_to_the_site_of_its_page(site: SiteOf, tmp_path: Path) -> None:
    script = """new Promise(done => {
        const socket = new WebSocket("wss://terminal.test/socket.io/?EIO=4&transport=websocket");
        socket.onmessage = message => done(message.data);
        socket.onerror = () => done("an error");
    })"""
    with browser(site("terminal"), tmp_path) as tab:
        tab.call("Page.navigate", url="https://terminal.test/")
        tab.wait("pyxterm.js")
        opened = tab.call("Runtime.evaluate", expression=script, awaitPromise=True)
    assert opened["result"]["value"].startswith('0{"sid":'), opened


@pytest.mark.on("apps13")
def test_user_data_survives_a_deploy_and_a_rollback(
    machine: Machine, site: SiteOf, play: Play, inventory: Path, tmp_path: Path
) -> None:
    variables = yaml.safe_load((inventory / "group_vars/webservers.yml").read_text())
    for app in variables["apps"]:
        app["environment"] = app.get("environment", {}) | {"CHANGED": "yes"}
    (tmp_path / "changed.yml").write_text(yaml.safe_dump({"apps": variables["apps"]}))
    before, mark = {name: machine.live(name) for name in STEPS}, f"m{uuid4().hex[:8]}"
    for name, (write, _) in STEPS.items():
        write(site(name), mark)
    run = play("deploy", "-e", f"@{tmp_path / 'changed.yml'}")
    assert run.code == 0, run.output
    for name, (_, read) in STEPS.items():
        assert machine.live(name) != before[name]
        read(site(name), mark)
    for name in STEPS:
        run = play("rollback", "-e", f"app={name}")
        assert run.code == 0, run.output
        assert machine.live(name) == before[name]
        STEPS[name][1](site(name), mark)
