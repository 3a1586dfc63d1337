"""The tasks of a deploy on several hosts: the order of its batches, and what happens when one fails.

Ansible runs the tasks of the role app. In place of the modules that change a host is an action plugin that records
their calls.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.blueoctopus.site.plugins.plugin_utils.inventory import check_settings
from ansible_collections.blueoctopus.site.plugins.plugin_utils.releases import batches
from ansible_collections.blueoctopus.site.plugins.plugin_utils.settings import role_settings

PROJECT = Path(__file__).resolve().parent.parent
HOSTS = ["web1", "web2", "web3", "web4"]
V1, V2 = "20260101T000000Z-0000000001", "20260102T000000Z-0000000002"
REPLACED = ["app_traffic", "balancer_servers", "release_build", "release_confirm", "release_drain", "release_lock"]
REPLACED += ["release_source", "release_start", "release_switch", "release_undo", "release_watch"]
RECORDER = f'''
import json, os
from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

RESULTS = {{
    "release_source": {{"package": {{"digest": "new", "time": "20260102T000000Z"}}}},
    "release_lock": {{"token": "token", "by": "tester", "app": "shop", "live": "{V1}", "stack": ["{V1}"],
                     "confirmed": "{V1}", "stopped": False, "restored": True,
                     "rolled_back": [], "releases": {{"{V1}": "old"}}, "settled": True}},
    "app_traffic": {{"traffic": {{"requests": 100, "errors": 0, "p50_seconds": 0.1, "p95_seconds": 0.1}}}},
    "release_undo": {{"live": "{V1}"}},
}}

class ActionModule(ActionBase):
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        module, args = self._task.action.rpartition(".")[2], self._task.args
        done = module + ("_" + args["state"] if "state" in args else "")
        host = self._task.delegate_to or task_vars["inventory_hostname"]
        with open(os.environ["RECORD"], "a") as file:
            file.write(json.dumps([done, host, args.get("servers", [])]) + "\\n")
        if os.environ.get("LOST") == done + " " + host:
            raise AnsibleConnectionFailure("lost")
        if os.environ.get("FAILS") == done + " " + host:
            if module == "app_traffic":
                return {{"traffic": {{**RESULTS[module]["traffic"], "errors": 50}}}}
            if module == "balancer_servers":
                return {{"problems": {{"web2": "it is broken"}}}}
            return {{"failed": True, "msg": "shop: it is broken"}}
        return {{"changed": False, **RESULTS.get(module, {{}})}}
'''


@dataclass
class Record:
    """A run: its output, and the calls of modules in their order: module with state, host, servers."""

    output: str
    calls: list[tuple[str, str, list[str]]]

    def hosts(self, *modules: str) -> list[str]:
        """The hosts of the calls of some modules."""
        return [host for module, host, _ in self.calls if module in modules]

    def steps(self, *modules: str) -> list[tuple[str, set[str]]]:
        """The calls of some modules, with the hosts or servers of consecutive ones."""
        found: list[tuple[str, set[str]]] = []
        for module, host, servers in self.calls:
            if module in modules:
                if not found or found[-1][0] != module:
                    found.append((module, set()))
                found[-1][1].update(servers or [host])
        return found


Deploy = Callable[..., Record]


@pytest.fixture
def deploy(tmp_path: Path) -> Deploy:
    """Run the role app on hosts that do not exist."""
    site = tmp_path / "collections/ansible_collections/blueoctopus/site"
    (site / "plugins/action").mkdir(parents=True)
    for path in (PROJECT / "roles", PROJECT / "meta", PROJECT / "galaxy.yml"):
        (site / path.name).symlink_to(path)
    for path in (PROJECT / "plugins").iterdir():
        if path.name != "action":
            (site / "plugins" / path.name).symlink_to(path)
    for path in (PROJECT / "plugins/action").glob("*.py"):
        (site / "plugins/action" / path.name).symlink_to(path)
    for name in REPLACED:
        (site / f"plugins/action/{name}.py").unlink(missing_ok=True)
        (site / f"plugins/action/{name}.py").write_text(RECORDER)

    def run(
        batch: str = "2", balancers: tuple[str, ...] = ("lb1", "lb2"), canary: int = 0, **environment: str
    ) -> Record:
        app = {"name": "shop", "domains": ["shop.example"], "source": "app", "wsgi": "main:app", "tls": "none"}
        arguments: dict[str, Any] = {"app_config": app, "app_uv": "/opt/uv", "app_batch": batch}
        arguments |= {"app_nginx": role_settings("app")["arguments"]["app_nginx"]["example"]}
        arguments |= {"app_balancers": list(balancers), "app_balancer_site": "shop", "app_canary": canary}
        task = {
            "name": "Deploy",
            "ansible.builtin.include_role": {"name": "blueoctopus.site.app"},
            "vars": arguments,
            "loop": ["shop"],
            "loop_control": {"loop_var": "app_name"},
        }
        play = {"name": "Deploy", "hosts": "webservers", "strategy": "ansible.builtin.linear", "tasks": [task]}
        (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
        groups = {"webservers": {"hosts": dict.fromkeys(HOSTS)}, "balancers": {"hosts": dict.fromkeys(["lb1", "lb2"])}}
        groups["webservers"]["vars"] = groups["balancers"]["vars"] = {"ansible_connection": "local"}
        (tmp_path / "hosts.yml").write_text(yaml.safe_dump(groups))
        (tmp_path / "record").write_text("")
        own = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        own |= {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", "LC_ALL": "C.UTF-8"}
        own |= {"ANSIBLE_COLLECTIONS_PATH": str(tmp_path / "collections"), "RECORD": str(tmp_path / "record")}
        command = [str(Path(sys.executable).parent / "ansible-playbook"), "play.yml", "-i", "hosts.yml"]
        done = subprocess.run(command, cwd=tmp_path, env=own | environment, capture_output=True, text=True)
        lines = (tmp_path / "record").read_text().splitlines()
        return Record(done.stdout + done.stderr, [tuple(json.loads(line)) for line in lines])

    return run


# --- batches ----------------------------------------------------------------------------------------------------------


def states(*serving: str) -> dict[str, Any]:
    """The states of all hosts; some of them serve the new release already."""
    return {host: {"live": V2 if host in serving else V1, "settled": True} for host in HOSTS}


@pytest.mark.parametrize(
    ("size", "groups"),
    [
        ("100%", [HOSTS]),
        ("9", [HOSTS]),
        ("25%", [[host] for host in HOSTS]),
        ("1%", [[host] for host in HOSTS]),
        ("50%", [["web1", "web2"], ["web3", "web4"]]),
        ("74%", [["web1", "web2"], ["web3", "web4"]]),
        ("3", [["web1", "web2", "web3"], ["web4"]]),
    ],
)
def test_hosts_are_grouped_in_their_order(size: str, groups: list[list[str]]) -> None:
    found = batches(states(), V2, size, "shop")
    assert list(found.values()) == groups
    count = len(groups)
    assert list(found) == ([f"shop, batch {n} of {count}" for n in range(1, count + 1)] if count > 1 else ["shop"])


def test_hosts_that_serve_the_release_already_are_in_no_batch_but_count_for_its_size() -> None:
    assert list(batches(states("web1"), V2, "50%", "shop").values()) == [["web2", "web3"], ["web4"]]
    assert batches(states(*HOSTS), V2, "1", "shop") == {}
    unsettled = states(*HOSTS) | {"web3": {"live": V2, "settled": False}}
    assert batches(unsettled, V2, "1", "shop") == {"shop": ["web3"]}


@pytest.mark.parametrize("value", [0, "0", -1, "-1", "0%", "101%", "2.5", "all", True, None])
def test_an_impossible_size_is_a_problem_of_the_inventory(value: Any) -> None:
    (problem,) = check_settings(["deploy_batch"], {"deploy_batch": value}.get)
    assert (problem.where, problem.found) == ("key deploy_batch", repr(value))
    assert problem.expected.startswith("a number from 1, or a percentage from 1% to 100%")
    assert problem.example == "deploy_batch: 25%"


@pytest.mark.parametrize("value", [1, "2", "1%", "25%", "100%", ""])
def test_a_number_or_a_percentage_is_valid(value: Any) -> None:
    assert list(check_settings(["deploy_batch"], {"deploy_batch": value}.get)) == []


# --- the tasks of the role --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_each_batch_is_drained_switched_probed_and_watched_before_the_next_one(deploy: Deploy) -> None:
    run = deploy(LOST="balancer_servers_drained lb1")  # which is no reason to stop
    names = ("balancer_servers_drained", "release_switch", "balancer_servers_ready", "release_watch")
    expected = [(name, hosts) for hosts in ({"web1", "web2"}, {"web3", "web4"}) for name in names]
    assert run.steps(*names) == expected, run.output
    everywhere = ("release_start", "release_confirm", "release_drain")
    assert run.steps(*everywhere) == [(name, set(HOSTS)) for name in everywhere]
    assert run.hosts("balancer_servers_drained") == ["lb1", "lb2"] * 2
    assert run.hosts("balancer_servers_ready") == ["lb1", "lb2"] * 2
    assert run.hosts("release_undo") == []
    assert "unreachable=1" not in run.output, run.output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failed", "switched"), [("release_watch web3", HOSTS), ("balancer_servers_ready lb1", ["web1", "web2"])]
)
def test_a_failure_in_a_batch_is_undone_on_every_host(deploy: Deploy, failed: str, switched: list[str]) -> None:
    run = deploy(FAILS=failed)
    assert set(run.hosts("release_switch")) == set(switched), run.output
    assert sorted(run.hosts("release_undo")) == sorted(run.hosts("release_lock_free")) == HOSTS, run.output
    assert run.hosts("release_confirm") == []
    # The balancers send requests to all hosts again, after the undo.
    last = [call for call in run.calls if call[0] != "release_lock_free"][-2:]
    assert last == [("balancer_servers_ready", lb, HOSTS) for lb in ("lb1", "lb2")]
    host = "web2" if "lb1" in failed else "web3"
    assert f"the deploy failed on {host} and was undone on every host" in run.output, run.output


@pytest.mark.slow
def test_a_host_that_is_lost_in_a_batch_stops_the_others(deploy: Deploy) -> None:
    run = deploy(LOST="release_switch web1")
    assert sorted(run.hosts("release_undo")) == HOSTS[1:], run.output
    assert set(run.hosts("release_switch")) == {"web1", "web2"}
    assert run.hosts("release_confirm") == []
    assert "web1 can't be reached" in run.output


@pytest.mark.slow
@pytest.mark.parametrize("step", ["release_lock"])
def test_a_host_that_is_lost_before_the_switch_leaves_all_hosts_as_they_are(deploy: Deploy, step: str) -> None:
    run = deploy(LOST=f"{step} web2")
    others = [host for host in HOSTS if host != "web2"]
    assert run.hosts("release_switch", "release_confirm", "release_drain") == [], run.output
    assert sorted(run.hosts("release_lock_free")) == others, run.output
    assert sorted(run.hosts("release_undo")) == ([] if step == "release_lock" else others)
    assert "web2 can't be reached" in run.output, run.output


@pytest.mark.slow
def test_one_batch_is_not_numbered_and_nothing_is_drained_without_balancers(deploy: Deploy) -> None:
    run = deploy("100%", (), FAILS="release_switch web2")
    assert run.steps("release_switch", "release_undo") == [(n, set(HOSTS)) for n in ("release_switch", "release_undo")]
    assert "app : Switch nginx to the release [shop]" in run.output, run.output
    assert run.hosts("balancer_servers_drained", "balancer_servers_ready") == []


@pytest.mark.slow
def test_the_other_hosts_follow_a_canary_only_if_it_is_not_worse(deploy: Deploy) -> None:
    run = deploy("100%", canary=1, FAILS="app_traffic web1")
    names = ("release_switch", "balancer_servers_ready", "release_watch", "app_traffic", "release_undo")
    steps = run.steps(*names)
    assert steps[:4] == [*((name, {"web1"}) for name in names[:3]), ("app_traffic", set(HOSTS))], run.output
    assert steps[4] == ("release_undo", set(HOSTS))
    assert "[web1]: FAILED! => app : Refuse a release with more errors" in run.output
    assert "50 of 100 requests failed, on the other hosts 0 of 300" in run.output
    good = deploy("100%", canary=1)
    assert good.steps("release_switch") == [("release_switch", set(HOSTS))]
    assert good.hosts("release_switch")[0] == "web1"
    assert good.hosts("release_undo") == []
