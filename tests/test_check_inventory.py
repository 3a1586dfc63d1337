"""Bad values in the inventory: one clear error, before any host is touched."""

from __future__ import annotations

import copy
import datetime
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.blueoctopus.site.plugins.action import check_hosts, reach_host
from ansible_collections.blueoctopus.site.plugins.plugin_utils import inventory
from ansible_collections.blueoctopus.site.plugins.plugin_utils.inventory import check_apps, report
from ansible_collections.blueoctopus.site.plugins.plugin_utils.settings import app_keys
from ansible_collections.blueoctopus.site.plugins.plugin_utils.validation import Problem
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

PROJECT = Path(__file__).resolve().parent.parent
GOOD: dict[str, Any] = {
    "name": "shop",
    "domains": ["shop.example", "www.shop.example"],
    "source": "app",
    "wsgi": "main:app",
}


def problems(*apps: Any) -> list[Problem]:
    return list(check_apps(list(apps)))


def test_a_minimal_app_is_fine() -> None:
    assert problems(GOOD) == []


def test_every_key_of_the_example_inventory_is_fine() -> None:
    text = (PROJECT / "inventory/production/group_vars/webservers.yml").read_text()
    uncommented = re.sub(rf"^    # (?=({'|'.join(app_keys())}): )", "    ", text, flags=re.MULTILINE)
    shown = yaml.safe_load(uncommented.replace('["{{ ansible_host }}"]', "[shop.example]"))
    shown["apps"][0] |= {"tls_certificate": "-----BEGIN CERTIFICATE-----", "tls_key": "-----BEGIN PRIVATE KEY-----"}
    assert set(shown["apps"][0]) == set(app_keys())
    assert problems(*shown["apps"]) == []


@pytest.mark.parametrize("key", ["name", "domains", "source", "wsgi"])
def test_a_missing_key_is_named(key: str) -> None:
    app = {k: v for k, v in GOOD.items() if k != key}
    (problem,) = problems(app)
    assert problem.where.endswith(f", key {key}")
    assert problem.found == "nothing"
    assert problem.example.startswith(f"{key}: ")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "Shop"),
        ("name", "9lives"),
        ("name", "a" * 32),
        ("name", "shop;rm"),
        ("name", "root"),
        ("name", 5),
        ("domains", []),
        ("domains", "shop.example"),
        ("domains", ["shop example"]),
        ("domains", ['shop".example']),
        ("domains", ["shop.example;"]),
        ("domains", ["Shop.example"]),
        ("domains", ["*.shop.example", "shop.example"]),
        ("domains", ["shop.example", "a.*.shop.example"]),
        ("domains", ["shop.example", "shop.example"]),
        ("domains", ["shop..example"]),
        ("domains", ["192.0.2.300"]),
        ("domains", ["shop.example\n"]),
        ("source", "no/such/folder"),
        ("source", ["app"]),
        ("requirements", "/etc/passwd"),
        ("requirements", "../requirements.txt"),
        ("wsgi", "main"),
        ("wsgi", "main:app; rm"),
        ("wsgi", "main:app\n"),
        ("health_path", "healthz"),
        ("health_path", "/a b"),
        ("health_path", "/gesündheit"),
        ("health_timeout", "30"),
        ("health_timeout", 0),
        ("health_timeout", True),
        ("drain_timeout", 3601),
        ("source", "https://example.org/a b.git"),
        ("version", "--upload-pack=x"),
        ("release_command", "echo 'open"),
        ("release_command", "two\nlines"),
        ("keep_releases", 0),
        ("processes", [{"name": "mail"}]),
        ("processes", [{"name": "mail", "command": "a", "count": 0}]),
        ("processes", [{"name": "mail", "command": "a"}, {"name": "mail", "command": "b"}]),
        ("processes", [{"name": "mail", "command": "a", "counts": 2}]),
        ("timers", [{"name": "clean", "command": "a"}]),
        ("timers", [{"name": "clean", "command": "a", "on_calendar": "daily\nExecStart=x"}]),
        ("workers", 0),
        ("workers", 2.5),
        ("environment", ["A=b"]),
        ("environment", {"A-B": "c"}),
        ("environment", {"A": ["b"]}),
        ("environment", {"A": "b\0c"}),
        ("tls", "letsencrypt"),
        ("tls_challenge", "tls-alpn"),
        ("headers", {"X-A": "two\nlines"}),
        ("headers", {"X-A": 'a "quote"'}),
        ("headers", {"X-A": "a $variable"}),
        ("headers", {"X A": "b"}),
        ("headers", {"x-frame-options": "DENY"}),
        ("name", "certificates"),
        ("name", "all"),
        ("maintenance_allow", ["fe80::1%x 1; }"]),
        ("headers", {"X-A": 5}),
        ("static", {"url": "/static"}),
        ("static", {"url": "/../"}),
        ("static", {"url": "/s;/"}),
        ("static", {"url": "/s/", "path": "../s"}),
        ("limits", {"request": 5}),
        ("limits", {"requests": 5, "burst": -1, "connections": 5}),
        ("upload_limit", "10 MB"),
        ("timeout", 0),
        ("websockets", "yes"),
        ("streaming", 1),
        ("network", "none"),
        ("memory_limit", "lots"),
        ("memory_limit", "0M"),
        ("tasks_limit", 1),
        ("maintenance_allow", ["everybody"]),
        ("maintenance_allow", ["192.0.2.1; allow all"]),
    ],
)
def test_a_bad_value_is_named_with_what_is_expected(key: str, value: Any) -> None:
    found = problems(GOOD | {key: value})
    assert len(found) == 1, found
    assert f"key {key}" in found[0].where
    assert found[0].found == repr(value)
    assert found[0].expected
    assert found[0].example


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("domains", ["localhost"]),
        ("source", str(PROJECT / "app")),
        ("wsgi", "shop.web:create_app()"),
        ("health_path", "/health/live?full=1"),
        ("environment", {"QUOTE": 'a "b" $c\nd', "NUMBER": 7}),
        ("source", "https://example.org/shop.git"),
        ("source", "git@example.org:shop.git"),
        ("version", "v1.2.3"),
        ("version", "feature/x"),
        ("release_command", "flask --app main db upgrade"),
        ("processes", [{"name": "mail", "command": "python mail.py", "count": 2}]),
        ("timers", [{"name": "clean", "command": "flask clean", "on_calendar": "Mon..Fri *-*-* 03:00:00"}]),
        ("tls", "none"),
        ("headers", {"X-Frame-Options": "", "Content-Security-Policy": "default-src 'self' https://cdn.example"}),
        ("static", {"url": ""}),
        ("static", {"path": "assets"}),
        ("limits", {"burst": 300}),
        ("limits", {"requests": 0, "burst": 0, "connections": 0}),
        ("upload_limit", "2g"),
        ("websockets", True),
        ("memory_limit", "infinity"),
        ("maintenance_allow", ["192.0.2.0/24", "2001:db8::1"]),
    ],
)
def test_a_good_value_is_taken(key: str, value: Any) -> None:
    assert problems(GOOD | {key: value}) == []


def test_an_address_does_for_a_domain_with_plain_http() -> None:
    assert problems(GOOD | {"domains": ["192.0.2.7"], "tls": "none"}) == []


def test_a_bad_tls_is_one_problem_even_for_an_address() -> None:
    (problem,) = problems(GOOD | {"domains": ["192.0.2.7"], "tls": "letsencrypt"})
    assert problem.found == "'letsencrypt'"


@pytest.mark.parametrize("tls", ["acme", "selfsigned"])
def test_an_address_gets_no_https(tls: str) -> None:
    (problem,) = problems(GOOD | {"domains": ["192.0.2.7"], "tls": tls})
    assert (problem.where, problem.example) == ("app shop, key tls", "tls: none")


def test_a_wildcard_needs_dns() -> None:
    domains = {"domains": ["shop.example", "*.shop.example"]}
    (problem,) = problems(GOOD | domains)
    assert problem.example == "tls_challenge: dns"
    assert problems(GOOD | domains | {"tls_challenge": "dns"}) == []


def test_the_challenge_by_dns_needs_a_program() -> None:
    app = GOOD | {"tls_challenge": "dns"}
    (problem,) = inventory.check_dns_hook([app], False)
    assert problem.where == "app shop, key tls_challenge"
    assert list(inventory.check_dns_hook([app], True)) == []


PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBweY/L0cxGLI5mPHTcI33kGs0rNbEV3uPJSNMtoJ3PL somebody@laptop"


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ([], "an empty list, so nobody could log in"),
        ([PUBLIC, "ssh-ed25519 AAAA"], "'ssh-ed25519 AAAA…', which is none"),
        (["-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl"], "a private key, which is none"),
        ([PUBLIC.replace("AAAAC3", "AAAAC4")], "'ssh-ed25519 AAAAC4NzaC1lZDI1NTE5AAAAIBwe…', which is none"),
    ],
)
def test_bad_keys_of_administrators_are_named(keys: list[str], found: str) -> None:
    (problem,) = inventory.check_admin_keys(keys)
    assert problem.found == found
    assert problem.where.startswith("key admin_keys")


def test_good_keys_of_administrators_are_taken() -> None:
    assert list(inventory.check_admin_keys([PUBLIC])) == []
    assert list(inventory.check_admin_keys(None)) == []


def certify(names: list[str], days: int = 30) -> dict[str, str]:
    """The keys of an app with a certificate of its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    now = datetime.datetime.now(datetime.UTC)
    begin, end = sorted([now - datetime.timedelta(days=1), now + datetime.timedelta(days=days)])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), begin, end)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), False)
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return {
        "tls": "provided",
        "tls_certificate": builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode(),
        "tls_key": key.private_bytes(serialization.Encoding.PEM, *plain).decode(),
    }


def test_a_provided_certificate_that_fits_is_taken() -> None:
    assert problems(GOOD | certify(["shop.example", "*.shop.example"])) == []


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda good, _other: {k: v for k, v in good.items() if k != "tls_key"}, "nothing"),
        (lambda good, _other: good | {"tls_certificate": "-----BEGIN CERTIFICATE-----\nAAAA"}, "no certificate"),
        (lambda good, other: good | {"tls_key": other["tls_key"]}, "a key that does not belong to tls_certificate"),
        (lambda _good, other: other, "for other.example, not for shop.example, www.shop.example"),
    ],
    ids=["no key", "no certificate", "another key", "other names"],
)
def test_a_provided_certificate_that_does_not_fit_is_refused(change: Any, found: str) -> None:
    good, other = certify(GOOD["domains"]), certify(["other.example"])
    (problem,) = problems(GOOD | change(good, other))
    assert found in problem.found
    assert "PRIVATE KEY-----\n" not in str(problem)


def test_a_provided_certificate_that_is_over_is_refused() -> None:
    (problem,) = problems(GOOD | certify(GOOD["domains"], days=-10))
    assert problem.found.startswith("valid from ")


def test_a_secret_is_not_shown_in_its_error() -> None:
    (problem,) = problems(GOOD | {"secrets": {"SECRET-KEY": "squid"}})
    assert "squid" not in str(problem)


def test_a_misspelt_key_gets_a_hint() -> None:
    (problem,) = problems(GOOD | {"worker": 3})
    assert problem.where == "app shop, key worker"
    assert "did you mean 'workers'?" in problem.expected


def test_two_apps_cannot_have_one_domain() -> None:
    (problem,) = problems(GOOD, GOOD | {"name": "blog", "domains": ["blog.example", "www.shop.example"]})
    assert problem.where == "app blog, key domains"
    assert "'www.shop.example'" in problem.found
    assert "app shop has it already" in problem.expected


def test_two_apps_cannot_have_one_name() -> None:
    (problem,) = problems(GOOD, GOOD | {"domains": ["blog.example"]})
    assert problem.found == "two apps of this name"


@pytest.mark.parametrize("apps", [None, "shop", {"shop": GOOD}])
def test_apps_is_a_list(apps: Any) -> None:
    (problem,) = check_apps(apps)
    assert problem.where == "key apps"


def test_hosts_with_one_problem_are_named_together() -> None:
    problem = problems(GOOD | {"worker": 3})[0]
    text = report({problem: [f"web{n}" for n in range(1, 8)]})
    assert text.count("found:") == 1
    assert "hosts web1, web2, web3, web4, web5 and 2 more, app shop, key worker" in text


# --- what a rollback uses ------------------------------------------------------------------------------------------

USED = ["name", "keep_releases"]


def host_problems(apps: Any, chosen: str | None, keys: list[str] | None) -> tuple[list[Problem], set[str]]:
    """The problems of a host, and the apps that are known."""
    known: set[str] = set()
    return list(inventory.check_host({"apps": apps}, known, chosen, keys)), known


def test_of_the_chosen_app_only_the_named_keys_are_checked() -> None:
    app = GOOD | {"source": "no/such/folder", "wsgi": "main", "workers": 0, "unknown": 1}
    assert len(host_problems([app], "shop", None)[0]) == 4
    assert host_problems([app], "shop", USED) == ([], {"shop"})


def test_of_the_chosen_app_a_named_key_that_is_wrong_is_a_problem() -> None:
    (problem,), _known = host_problems([GOOD | {"keep_releases": 0}], "shop", USED)
    assert problem.where == "app shop, key keep_releases"
    assert problem.found == "0"


def test_a_key_that_is_left_out_gets_its_default_and_is_no_problem() -> None:
    assert "keep_releases" not in GOOD
    assert host_problems([{"name": "shop"}], "shop", USED)[0] == []


@pytest.mark.parametrize(
    "other", [{"name": "blog", "keep_releases": 0}, {"name": "Blog;"}, {"name": "blog"}, "blog", None]
)
def test_another_app_that_is_wrong_is_no_problem_for_the_chosen_one(other: Any) -> None:
    assert host_problems([other, GOOD], "shop", None)[0]
    found, known = host_problems([other, GOOD], "shop", USED)
    assert found == []
    assert "shop" in known


def test_without_a_chosen_app_the_named_keys_of_all_are_checked() -> None:
    found, known = host_problems([GOOD | {"keep_releases": 0}, {"name": "blog", "keep_releases": 0}], None, USED)
    assert [problem.where for problem in found] == ["app shop, key keep_releases", "app blog, key keep_releases"]
    assert known == {"shop", "blog"}


def test_machine_settings_that_are_wrong_are_no_problem_where_only_keys_of_an_app_are_checked() -> None:
    hostvars = {"apps": [GOOD], "ssh_port": 70000, "admin_keys": []}
    assert list(inventory.check_host(hostvars, set(), "shop", None))
    assert list(inventory.check_host(hostvars, set(), "shop", USED)) == []


# --- as a person meets it -------------------------------------------------------------------------------------------

Play = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def play(tmp_path: Path) -> Play:
    """Run a playbook, site.yml if no other is named, with an inventory of one host that nobody could reach."""

    def run(
        variables: dict[str, Any], *options: str, ansible: str = "ansible-playbook", playbook: str = "site"
    ) -> subprocess.CompletedProcess[str]:
        host = {"ansible_host": "127.0.0.1", "ansible_port": 9} | variables
        hosts_file = tmp_path / "hosts.yml"
        hosts_file.write_text(yaml.safe_dump({"webservers": {"hosts": {"web1": host}}}))
        program = Path(sys.executable).parent / ansible
        environment = os.environ | {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        return subprocess.run(
            [str(program), str(PROJECT / f"playbooks/{playbook}.yml"), "-i", str(hosts_file), *options],
            cwd=PROJECT,
            env=environment | {"LC_ALL": "C.UTF-8"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return run


def test_all_problems_come_in_one_error_before_any_host_is_asked(play: Play) -> None:
    app = copy.deepcopy(GOOD) | {"domains": ['shop".example'], "helth_path": "/"}
    run = play({"apps": [app], "firewall_allow": [{"prot": "tcp", "port": 1}], "nginx_http_prt": 8080})
    assert run.returncode != 0
    assert "The inventory has 4 problems. No host was touched." in run.stdout
    for line in (
        "host web1, app shop, key domains\n",
        "host web1, app shop, key helth_path\n",
        "did you mean 'health_path'?",
        "host web1, key firewall_allow\n",
        "; there is no 'prot'; did you mean 'proto'?\n",
        "host web1, key nginx_http_prt\n",
        "did you mean 'nginx_http_port'?",
    ):
        assert line in run.stdout, run.stdout
    assert "Reach every host" not in run.stdout


def test_a_setting_of_the_wrong_type_is_named(play: Play) -> None:
    run = play({"apps": [GOOD], "nginx_http_port": "eighty"})
    assert run.returncode != 0
    assert "host web1, key nginx_http_port\n" in run.stdout
    assert "found:    'eighty'" in run.stdout


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"admin_keys": "ssh-ed25519 AAAA"}, "'ssh-ed25519 AAAA'"),
        ({"admin_addresses": "10.0.0.1"}, "'10.0.0.1'"),
        ({"admin_addresses": ["10.0.0.300"]}, "['10.0.0.300']"),
        ({"firewall_allow": [{"port": 9100, "from": "monitor"}]}, "[{'from': 'monitor', 'port': 9100}]"),
        ({"ssh_port": 70000}, "70000"),
        ({"nginx_https_port": 0}, "0"),
        ({"admin_user": "Ad min"}, "'Ad min'"),
        ({"hardening_unused_modules": ["a /bin/sh"]}, "['a /bin/sh']"),
    ],
)
def test_a_setting_that_could_not_work_is_named(play: Play, settings: dict[str, Any], found: str) -> None:
    run = play({"apps": [GOOD]} | settings)
    assert run.returncode != 0
    assert f"host web1, key {next(iter(settings))}\n" in run.stdout
    assert f"found:    {found}\n" in run.stdout
    assert "Reach every host" not in run.stdout


def test_a_size_that_is_no_size_never_reaches_nginx(play: Play) -> None:
    run = play({"apps": [GOOD], "nginx_client_max_body_size": "1m; autoindex on"})
    assert run.returncode != 0
    assert "host web1, key nginx_client_max_body_size\n" in run.stdout


def test_an_app_can_not_take_the_account_of_who_logs_in(play: Play) -> None:
    run = play({"apps": [GOOD], "ansible_user": "shop"})
    assert run.returncode != 0
    assert "'shop', which is also ansible_user" in run.stdout


def test_a_variable_that_nobody_defined_is_named(play: Play) -> None:
    run = play({"apps": [GOOD | {"secrets": {"SECRET_KEY": "{{ vault_secret_key }}"}}]})
    assert run.returncode != 0
    assert "host web1, key apps\n" in run.stdout
    assert "'vault_secret_key' is undefined" in run.stdout
    assert "Reach every host" not in run.stdout


def test_an_app_that_is_not_there_is_refused_with_the_list(play: Play) -> None:
    run = play({"apps": [GOOD]}, "-e", "app=blog")
    assert run.returncode != 0
    assert "option -e app\n" in run.stdout
    assert "the name of an app in the inventory: shop" in run.stdout


def test_a_good_inventory_lets_the_hosts_be_asked(play: Play) -> None:
    run = play({"apps": [GOOD]}, "-e", "patience=0")
    assert "web1 (127.0.0.1) can't be reached" in run.stdout
    assert "The inventory has" not in run.stdout


def test_a_rollback_goes_on_although_the_rest_of_the_inventory_is_wrong(play: Play) -> None:
    apps = [GOOD | {"source": "no/such/folder"}, GOOD | {"name": "blog", "wsgi": "main"}]
    run = play({"apps": apps}, "-e", "app=shop", playbook="rollback")
    assert "web1 (127.0.0.1) can't be reached" in run.stdout, run.stdout
    assert "The inventory has" not in run.stdout


def test_a_rollback_of_an_app_that_is_not_there_is_refused(play: Play) -> None:
    run = play({"apps": [GOOD]}, "-e", "app=blog", playbook="rollback")
    assert run.returncode != 0
    assert "the name of an app in the inventory: shop" in run.stdout


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="the old Ansible does not run on this Python")
def test_a_too_old_ansible_is_refused(play: Play, tmp_path: Path) -> None:
    uv = Path(sys.executable).parent / "uv"
    old = tmp_path / "old"
    subprocess.run([str(uv), "venv", "--quiet", "--python", sys.executable, str(old)], check=True)
    install = [str(uv), "pip", "install", "--quiet", "--system-certs", "--python", str(old), "ansible-core==2.18.*"]
    subprocess.run(install, check=True)
    run = play({"apps": [GOOD]}, ansible=str(old / "bin/ansible-playbook"))
    assert run.returncode != 0
    assert "This is ansible-core 2.18" in run.stdout
    assert "2.19 or newer is needed" in run.stdout
    assert "Reach every host" not in run.stdout


# --- the hosts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "is_fine"),
    [
        ('PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nVERSION_ID="13"\nID=debian\n', True),
        ('PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_ID="12"\nID=debian\n', True),
        ('PRETTY_NAME="Debian GNU/Linux 11 (bullseye)"\nVERSION_ID="11"\nID=debian\n', False),
        ('PRETTY_NAME="Ubuntu 24.04 LTS"\nVERSION_ID="24.04"\nID=ubuntu\nID_LIKE=debian\n', False),
        ("", False),
    ],
)
def test_only_debian_12_and_13_are_taken(text: str, is_fine: bool) -> None:
    problem = check_hosts.find_problem("web1", {"ansible_host": "192.0.2.7"}, {"system": reach_host.parse(text)}, False)
    assert (problem is None) == is_fine
    assert is_fine or "Debian 12 or 13 is needed" in str(problem)
    assert check_hosts.find_problem("web1", {}, {"system": reach_host.parse(text)}, False, True) is None
