"""Results of a deploy or rollback from several hosts."""

from __future__ import annotations

from typing import Any

from ansible_collections.blueoctopus.site.plugins.filter.releases import failures, locks_of, probe_problem


def test_failures_list_each_failed_host_with_the_first_line_of_its_error() -> None:
    errors: dict[str, dict[str, Any]] = {
        "web1": {"msg": "shop: It stopped right after the start.\nits log"},
        "web3": {"msg": "", "stderr": "no space left\n"},
        "web4": {"rc": 1},
        "web5": {"msg": "\n"},
    }
    assert failures(errors, "shop").splitlines() == [
        "web1: It stopped right after the start.",
        "web3: no space left",
        "web4: failed",
        "web5: failed",
    ]


def test_without_a_failed_task_a_host_is_unreachable() -> None:
    assert failures({}, "shop") == "A host can no longer be reached."


def test_only_hosts_on_which_this_run_has_locked_the_app_are_selected() -> None:
    results: dict[str, dict[str, Any]] = {"web1": {"app": "shop"}, "web2": {"app": "blog"}, "web3": {"failed": True}}
    assert locks_of(results, "shop") == {"web1": {"app": "shop"}}


def test_the_problem_of_a_probe_names_the_balancer() -> None:
    results: list[dict[str, Any]] = [
        {"item": "lb1", "unreachable": True},
        {"item": "lb2", "problems": {"web2": "GET /healthz did not succeed."}},
    ]
    assert probe_problem(results, "shop", "web1") == ""
    assert probe_problem(results, "shop", "web2") == "shop: the probe through lb2 failed. GET /healthz did not succeed."
