"""The module that obtains the certificate of a site: when it calls the program on the host, and what it reports."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.blueoctopus.site.plugins.modules import site_certificate
from modules import Programs, call

UNIT = "systemctl start certificates@renew:shop.service"


@pytest.fixture(autouse=True)
def host(programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with the program, which reports a valid certificate."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "state").mkdir()
    monkeypatch.setattr(site_certificate, "PROGRAM", "certificates")
    monkeypatch.setattr(site_certificate, "SETTINGS", tmp_path / "etc")
    monkeypatch.setattr(site_certificate, "STATE", tmp_path / "state")
    monkeypatch.setattr("os.access", lambda _path, _mode: True)
    programs.add("runuser", f'if [ "$5" = show:shop ]; then cat {tmp_path}/shown; else cat >{tmp_path}/given; fi')
    show(tmp_path)


def show(folder: Path, due: bool = False, version: str = "1", **found: Any) -> None:
    """Set what the program reports."""
    (folder / "shown").write_text(json.dumps({"due": due, "version": version, "real": True} | found))


def obtain(check: bool = False, **args: Any) -> dict[str, Any]:
    return call(site_certificate, check, **{"name": "shop", "domains": ["shop.example"], "method": "acme"} | args)


def test_a_new_site_is_recorded_and_its_certificate_requested_once(programs: Programs, tmp_path: Path) -> None:
    result = obtain()
    assert (result["changed"], result["real"], result["problem"]) == (True, True, "")
    settings = json.loads((tmp_path / "etc/shop.json").read_text())
    assert (settings["domains"], settings["method"]) == (["shop.example"], "acme")
    assert UNIT in programs.calls("systemctl")
    assert not obtain()["changed"]
    assert programs.calls("systemctl") == []


def test_a_certificate_that_is_due_is_requested(programs: Programs, tmp_path: Path) -> None:
    obtain()
    programs.calls()
    show(tmp_path, due=True, error="The domain has no address.")
    result = obtain()
    assert UNIT in programs.calls("systemctl")
    assert result["problem"] == "shop: The domain has no address."
    assert "failed" not in result


def test_a_provided_key_reaches_the_program_and_is_in_no_file_of_settings(programs: Programs, tmp_path: Path) -> None:
    obtain(method="provided", certificate="CERTIFICATE", key="PRIVATE KEY")
    calls = programs.calls()
    assert "runuser -u certificates -- certificates install:shop" in calls
    assert not any("PRIVATE KEY" in found for found in calls)
    assert "PRIVATE KEY" not in (tmp_path / "etc/shop.json").read_text()


def test_the_certificate_of_another_host_is_installed(programs: Programs, tmp_path: Path) -> None:
    obtain(issued_by="lb1", certificate="CERTIFICATE", key="PRIVATE KEY")
    assert "runuser -u certificates -- certificates install:shop" in programs.calls()
    assert json.loads((tmp_path / "given").read_text()) == {"certificate": "CERTIFICATE", "key": "PRIVATE KEY"}
    written = (tmp_path / "etc/shop.json").read_text()
    assert json.loads(written)["issued_by"] == "lb1"
    assert "PRIVATE KEY" not in written


@pytest.mark.parametrize(("operation", "requested"), [("renew", False), ("force", False), ("revoke", True)])
def test_only_a_revocation_of_a_copy_reaches_certbot(programs: Programs, operation: str, requested: bool) -> None:
    given: dict[str, Any] = {"issued_by": "lb1", "certificate": "CERTIFICATE", "key": "PRIVATE KEY"}
    obtain(**given)
    programs.calls()
    obtain(**given, operation=operation)
    unit = f"systemctl start certificates@{operation}:shop.service"
    assert (unit in programs.calls()) is requested
    obtain(issued_by="lb1", operation=operation)  # the other host is not there
    assert (unit in programs.calls()) is (operation != "renew")


def test_a_certificate_without_the_method_provided_or_another_host_is_ignored(programs: Programs) -> None:
    obtain(certificate="CERTIFICATE", key="PRIVATE KEY")
    assert not any("install:shop" in found for found in programs.calls())


def test_a_copy_has_the_domains_of_the_other_host(tmp_path: Path) -> None:
    show(tmp_path, wanted={"domains": ["shop.example", "old.example"]})
    obtain(issued_by="lb1", certificate="CERTIFICATE", key="PRIVATE KEY", keep_domains=True)
    assert json.loads((tmp_path / "etc/shop.json").read_text())["domains"] == ["shop.example"]


@pytest.mark.parametrize("same", [True, False])
def test_check_mode_shows_whether_a_copy_changes(tmp_path: Path, same: bool) -> None:
    given: dict[str, Any] = {"issued_by": "lb1", "certificate": "CERTIFICATE", "key": "PRIVATE KEY"}
    obtain(**given)
    (tmp_path / "state/shop/current").mkdir(parents=True)
    (tmp_path / "state/shop/current/fullchain.pem").write_text("CERTIFICATE" if same else "ANOTHER")
    assert obtain(check=True, **given)["changed"] is not same


def test_check_mode_requests_nothing(programs: Programs, tmp_path: Path) -> None:
    assert obtain(check=True)["changed"]
    assert not (tmp_path / "etc/shop.json").exists()
    assert programs.calls("systemctl") == []


def settings(folder: Path) -> list[str]:
    """The domains that the program on the host requests."""
    return list(json.loads((folder / "etc/shop.json").read_text())["domains"])


@pytest.fixture
def two_domains(programs: Programs, tmp_path: Path) -> None:
    """A certificate for two domains."""
    obtain(domains=["shop.example", "old.example"])
    show(tmp_path, wanted={"domains": ["shop.example", "old.example"]})
    programs.calls()


@pytest.mark.usefixtures("two_domains")
def test_a_removed_domain_is_in_the_certificate_until_the_deploy_has_succeeded(
    programs: Programs, tmp_path: Path
) -> None:
    before = obtain(keep_domains=True)
    assert (before["changed"], before["kept"]) == (False, ["old.example"])
    assert programs.calls("systemctl") == []
    after = obtain()
    assert (after["changed"], after["kept"]) == (True, [])
    assert settings(tmp_path) == ["shop.example"]
    assert UNIT in programs.calls("systemctl")


@pytest.mark.usefixtures("two_domains")
def test_a_replaced_domain_is_in_the_certificate_beside_the_new_one(programs: Programs, tmp_path: Path) -> None:
    result = obtain(domains=["shop.example", "new.example"], keep_domains=True)
    assert (result["changed"], result["kept"]) == (True, ["old.example"])
    assert settings(tmp_path) == ["shop.example", "new.example", "old.example"]
    assert UNIT in programs.calls("systemctl")


@pytest.mark.usefixtures("two_domains")
@pytest.mark.parametrize("check", [True, False])
def test_a_provided_certificate_waits_when_the_current_one_has_more_domains(
    programs: Programs, tmp_path: Path, check: bool
) -> None:
    given: dict[str, Any] = {"method": "provided", "certificate": "CERTIFICATE", "key": "PRIVATE KEY"}
    result = obtain(check, keep_domains=True, **given)
    assert (result["changed"], result["kept"], result["real"]) == (False, ["old.example"], True)
    assert not [found for found in programs.calls() if "install:" in found]
    assert settings(tmp_path) == ["shop.example", "old.example"]
    obtain(keep_domains=True, **given | {"domains": ["new.example"]})
    assert [found for found in programs.calls() if "install:" in found]
    assert settings(tmp_path) == ["new.example"]


def test_the_domains_of_a_placeholder_are_not_kept(tmp_path: Path) -> None:
    obtain(domains=["typo.example"])
    show(tmp_path, due=True, real=False)
    assert obtain(keep_domains=True)["kept"] == []
    assert settings(tmp_path) == ["shop.example"]


# --- the tasks of the role --------------------------------------------------------------------------------------------

ROLE = Path(__file__).resolve().parent.parent / "roles/certificate"


def evaluate(text: str, **values: Any) -> Any:
    """Evaluate an expression of a task."""
    trusted = {name: trust_as_template(value) if isinstance(value, str) else value for name, value in values.items()}
    return Templar(DataLoader(), trusted).template(trust_as_template(text))


def arguments(host: str = "lb1", **site: str) -> tuple[str, str, str]:
    """The arguments issued_by, certificate and key for a site on a host; lb1 obtains the certificates."""
    (task,) = yaml.safe_load((ROLE / "tasks/site.yml").read_text())
    pattern = yaml.safe_load((ROLE / "vars/main.yml").read_text())["__certificate_key"]
    variables = {name: value for name, value in task["vars"].items() if name != "site"}
    variables |= {"__certificate_key": pattern, "certificate_issuer": "lb1", "inventory_hostname": host, "item": "shop"}
    issued = {} if host == "lb1" else {"shop": "CHAIN\n-----BEGIN PRIVATE KEY-----\nKEY\n"}
    options = task["blueoctopus.site.site_certificate"]
    names = ("issued_by", "certificate", "key")
    issuer, chain, key = (evaluate(options[name], **variables, certificate_issued=issued, site=site) for name in names)
    return issuer, chain, key


def test_another_host_gets_the_certificate_and_its_key() -> None:
    assert arguments(tls="acme") == ("", "", "")
    assert arguments("lb2", tls="acme") == ("lb1", "CHAIN\n", "-----BEGIN PRIVATE KEY-----\nKEY\n")


@pytest.mark.parametrize("host", ["lb1", "lb2"])
def test_a_provided_certificate_is_installed_only_with_the_method_provided(host: str) -> None:
    given = {"tls_certificate": "PROVIDED", "tls_key": "ITS KEY"}
    assert arguments(host, tls="provided", **given) == ("", "PROVIDED", "ITS KEY")
    assert arguments(host, tls="acme", **given) == arguments(host, tls="acme")


def test_only_certificates_that_were_obtained_are_copied() -> None:
    tasks = yaml.safe_load((ROLE / "tasks/copies.yml").read_text())
    (loop,) = [task["loop"] for task in tasks if "loop" in task]
    results = [
        {"item": "shop", "real": True, "problem": ""},
        {"item": "blog", "real": True, "problem": "blog: the authority is down"},
        {"item": "wiki", "real": False, "problem": "wiki: it has no address"},
        {"item": "docs", "real": False, "problem": ""},
    ]
    assert evaluate(loop, certificate_results={"results": results}) == ["shop"]


# --- the unit that reloads nginx or HAProxy ---------------------------------------------------------------------------


@pytest.fixture
def reload(render: Any, programs: Programs, tmp_path: Path) -> Callable[[], int]:
    """Run the command of the unit; `systemctl reload` runs the text in the file `during`, if there is one."""
    (state := tmp_path / "state").mkdir(exist_ok=True)
    programs.add("systemctl", f"[ ! -e {state}/during ] || . {state}/during")
    unit = render("certificate", "certificates-reload.service.j2", certificate_service="nginx.service")
    command = re.search(r"^ExecStart=(.*)$", unit, re.MULTILINE)[1]  # type: ignore[index]
    command = command.replace("/var/lib/certificates", str(state)).replace("/usr/bin/systemctl", "systemctl")
    return lambda: subprocess.run(shlex.split(command), check=False).returncode


def marks(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "state").glob("changed*"))


def test_the_mark_of_a_new_certificate_is_removed_after_the_reload(reload: Callable[[], int], tmp_path: Path) -> None:
    (tmp_path / "state/changed").touch()
    assert (reload(), marks(tmp_path)) == (0, [])


def test_the_mark_of_a_certificate_that_is_obtained_during_the_reload_stays(
    reload: Callable[[], int], tmp_path: Path
) -> None:
    (tmp_path / "state/changed").touch()
    (tmp_path / "state/during").write_text(f"touch {tmp_path}/state/changed")
    assert (reload(), marks(tmp_path)) == (0, ["changed"])


def test_the_mark_stays_when_the_reload_fails(reload: Callable[[], int], tmp_path: Path) -> None:
    (tmp_path / "state/changed").touch()
    (tmp_path / "state/during").write_text("exit 1")
    assert (reload(), marks(tmp_path)) == (1, ["changed"])


def test_a_reload_that_a_power_failure_has_interrupted_is_repeated(reload: Callable[[], int], tmp_path: Path) -> None:
    (tmp_path / "state/changed").touch()
    (tmp_path / "state/during").write_text("kill -KILL $PPID")
    reload()
    assert marks(tmp_path) == ["changed.reloading"]
    (tmp_path / "state/during").unlink()
    assert (reload(), marks(tmp_path)) == (0, [])
