"""The errors for hosts that are unreachable or not supported."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.action import check_hosts, reach_host


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
def test_only_debian_12_and_13_are_accepted(text: str, is_fine: bool) -> None:
    problem = check_hosts.find_problem("web1", {"ansible_host": "192.0.2.7"}, {"system": reach_host.parse(text)}, False)
    assert (problem is None) == is_fine
    assert is_fine or "Debian 12 or 13 is required" in str(problem)
    assert check_hosts.find_problem("web1", {}, {"system": reach_host.parse(text)}, False, True) is None


@pytest.mark.parametrize("result", [{"unreachable": True}, {"failed": True}])
def test_the_error_has_the_reason_without_the_prefix_of_ansible(result: dict[str, bool]) -> None:
    reason = "root on port 22: Connection refused"
    problem = check_hosts.find_problem(
        "web1", {"ansible_host": "192.0.2.7"}, result | {"msg": f"Task failed: {reason}"}, False
    )
    assert str(problem).splitlines()[0].endswith(f": {reason}")
    assert "Task failed" not in str(problem)


def test_a_host_without_python_is_refused_only_in_check_mode() -> None:
    result = {"system": {"ID": "debian", "VERSION_ID": "13"}, "python": False}
    assert "has no Python yet" in str(check_hosts.find_problem("web1", {}, result, True))
    assert check_hosts.find_problem("web1", {}, result, False) is None


LOST = {"unreachable": True, "msg": "no route"}


@pytest.mark.parametrize(
    ("lost", "balancers", "left_out", "reason"),
    [
        ([], ["lb1"], [], ""),
        (["web2"], ["lb1"], ["web2"], ""),
        (["web2"], [], [], "needs balancers"),
        (["web2"], ["lb1", "lb2"], [], "does not reach lb2"),  # which --limit excludes
        (["web2", "lb1"], ["lb1"], [], "does not reach lb1"),
        (["web1", "web2"], ["lb1"], [], "needs a webserver that can be reached"),
        (["web1"], ["lb1"], [], "would take down blog, which no other webserver has than web1"),
    ],
)
def test_a_webserver_can_be_left_out_only_if_all_balancers_keep_requests_away_from_it(
    lost: list[str], balancers: list[str], left_out: list[str], reason: str
) -> None:
    reached = {host: LOST if host in lost else {} for host in ("web1", "web2", "lb1")}  # web3 is excluded by --limit
    apps: dict[str, dict[str, Any]] = {host: {"apps": [{"name": "shop"}]} for host in ("web1", "web2", "web3")}
    apps["web1"]["apps"].append({"name": "blog"})
    found, problem = check_hosts.find_left_out(reached, ["web1", "web2", "web3"], balancers, apps)
    assert found == left_out
    assert reason in problem
    assert bool(problem) == bool(reason)


@pytest.mark.parametrize(("can_be_skipped", "option"), [(True, "-e skip_unreachable=true"), (False, "--limit '!web1'")])
def test_the_error_names_the_option_with_which_the_run_goes_on(can_be_skipped: bool, option: str) -> None:
    problem = check_hosts.find_problem("web1", {}, LOST, False, can_be_skipped=can_be_skipped)
    assert str(problem).endswith(f"To continue without this host: {option}")


@pytest.mark.parametrize(
    ("accounts", "problem"),
    [
        ({}, ""),
        ({"shop": "/srv/shop/data"}, ""),
        (
            {"shop": "/srv/shop/data", "uuidd": "/run/uuidd"},
            "the user uuidd already exists on this host, with",
        ),
        ({"adm": ""}, "the group adm already exists on this host"),
    ],
)
def test_an_app_with_the_name_of_an_account_that_was_not_created_for_it_is_refused(
    accounts: dict[str, str], problem: str
) -> None:
    result = {"system": {"ID": "debian", "VERSION_ID": "13"}, "accounts": accounts}
    found = check_hosts.find_problem("web1", {}, result, False)
    assert problem in (found or "")
    assert bool(problem) == bool(found)
