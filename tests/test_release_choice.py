"""The release of a deploy or a rollback, the same for all hosts: the decisions of the module release_choice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.blueoctopus.site.plugins.plugin_utils.releases import (
    former_release,
    release_id,
    rollback_target,
)
from plays import run_play

TIME = "20260107T000000Z"
V1, V2, V3, V4 = (f"2026010{n}T000000Z-{n:010x}" for n in range(1, 5))


def state(*stack: str, live: str | None = None, rolled_back: tuple[str, ...] = (), **keys: Any) -> dict[str, Any]:
    """The state of a host with these good releases; the last one is live by default."""
    return {
        "live": (stack or ("",))[-1] if live is None else live,
        "confirmed": (stack or ("",))[-1] if live is None else live and (stack or ("",))[-1],
        "stack": list(stack),
        "rolled_back": list(rolled_back),
        "releases": dict.fromkeys([*stack, *rolled_back], "digest"),
        "settled": True,
    } | keys


EMPTY = state()


# --- release_id -----------------------------------------------------------------------------------------------------


def package(digest: str, time: str = TIME) -> dict[str, str]:
    return {"digest": digest, "time": time}


def having(**releases: str) -> dict[str, Any]:
    """The state of a host whose releases have these digests."""
    return state(releases={f"2026010{n}T000000Z-{n:010x}": digest for n, digest in enumerate(releases.values(), 1)})


def test_new_content_gets_a_new_id_with_the_time_of_the_deploy() -> None:
    release = release_id([having(v1="old")], [package("new")])
    assert release.startswith(f"{TIME}-")
    assert len(release) == len(V1)


def test_the_id_has_the_latest_time_of_all_hosts() -> None:
    packages = [package("new", "20260107T000001Z"), package("new", TIME)]
    assert release_id([EMPTY, EMPTY], packages).startswith("20260107T000001Z-")


def test_a_host_without_the_release_gets_the_id_of_the_other_host() -> None:
    assert release_id([having(v1="one"), EMPTY], [package("one"), package("one")]) == V1
    assert release_id([EMPTY, having(v1="one")], [package("one"), package("one")]) == V1


def test_of_two_ids_with_the_same_content_the_newest_is_chosen() -> None:
    assert release_id([having(v1="one", v2="one"), having(v1="one")], [package("one"), package("one")]) == V2


def test_a_release_for_another_python_on_one_host_is_built_again_on_all() -> None:
    release = release_id([having(v1="one"), having(v1="")], [package("one"), package("one")])
    assert release.startswith(f"{TIME}-")


def test_a_rebuild_gets_a_new_id_that_is_the_same_on_every_host() -> None:
    states, packages = [having(v1="one"), EMPTY], [package("one"), package("one", "20260107T000001Z")]
    rebuilt = release_id(states, packages, rebuild=True)
    assert rebuilt.startswith("20260107T000001Z-")
    states = [having(v1="one") | {"releases": {V1: "one", rebuilt: "one"}} for _ in range(2)]
    assert release_id(states, packages) == rebuilt


def test_content_that_differs_between_hosts_can_be_one_release() -> None:
    states = [having(v1="one"), having(v1="two")]
    packages = [package("one"), package("two")]
    assert release_id(states, packages) == V1
    assert [release_id([state], [package]) for state, package in zip(states, packages, strict=True)] == [V1, V1]


def test_changed_content_on_one_host_gives_all_hosts_a_new_release() -> None:
    states = [having(v1="one"), having(v1="two")]
    assert release_id(states, [package("one"), package("three")]).startswith(f"{TIME}-")


def test_the_digest_of_a_new_id_does_not_depend_on_the_order_of_the_hosts() -> None:
    both = [package("one"), package("two")]
    assert release_id([EMPTY, EMPTY], both) == release_id([EMPTY, EMPTY], both[::-1])
    assert release_id([EMPTY, EMPTY], both) != release_id([EMPTY], both[:1])


# --- former_release -------------------------------------------------------------------------------------------------


def test_the_previous_release_is_the_live_one() -> None:
    assert former_release([state(V1, V2), state(V1, V2)], V3) == V2


def test_hosts_without_a_release_do_not_affect_the_previous_release() -> None:
    assert former_release([EMPTY, state(V1, V2)], V3) == V2
    assert former_release([EMPTY, EMPTY], V1) == ""


def test_with_different_live_releases_the_previous_one_is_the_last_common_one() -> None:
    assert former_release([state(V1, V2, V3), state(V1, V2)], V4) == V2
    assert former_release([state(V1), state(V2)], V3) == ""


def test_a_new_host_that_fails_does_not_change_the_release_of_the_others() -> None:
    assert former_release([state(V1, V2), state()], V2) == V2


def test_with_different_live_releases_the_target_is_not_its_own_previous_release() -> None:
    assert former_release([state(V1, V2), state(V1)], V2) == V1


# --- rollback_target ------------------------------------------------------------------------------------------------


def target(states: dict[str, dict[str, Any]], release: str = "") -> str:
    """The chosen release; fails when there is a problem."""
    found = rollback_target(states, release)
    assert found["problem"] == ""
    return found["release"]


def problem(states: dict[str, dict[str, Any]], release: str = "") -> str:
    """The problem; fails when a release is chosen."""
    found = rollback_target(states, release)
    assert found["release"] == ""
    return found["problem"]


def test_a_rollback_goes_to_the_good_release_before_the_live_one() -> None:
    assert target({"web1": state(V1, V2, V3), "web2": state(V1, V2, V3)}) == V2


def test_a_second_rollback_goes_back_one_more_release() -> None:
    assert target({"web1": state(V1, V2, rolled_back=(V3,))}) == V1


def test_older_releases_may_differ_between_hosts() -> None:
    assert target({"web1": state(V1, V3, V4), "web2": state(V2, V3, V4)}) == V3


def test_hosts_with_different_live_releases_go_to_the_last_common_release() -> None:
    assert target({"web1": state(V1, V2, V3), "web2": state(V1, V2)}) == V2
    assert target({"web1": state(V1, V2), "web2": state(V1, V3)}) == V1


@pytest.mark.parametrize("release", [V1, V2, V3])
def test_a_requested_release_is_chosen_when_every_host_has_it(release: str) -> None:
    states = {"web1": state(V1, V2, rolled_back=(V3,)), "web2": state(V1, V2, V3)}
    assert target(states, release) == release


def test_a_requested_release_that_hosts_lack_is_refused_with_their_names() -> None:
    text = problem({"web1": state(V1, V2), "web2": state(V2), "web3": state(V2)}, V1)
    assert text.startswith(f"Release {V1} was never live on web2, web3, or was removed there.")


def test_a_release_that_was_never_live_is_refused() -> None:
    assert "was never live on web1" in problem({"web1": state(V1, releases={V1: "digest", V2: "digest"})}, V2)


def test_hosts_without_a_common_release_are_listed_with_their_releases() -> None:
    text = problem({"web1": state(V1, V2), "web2": state(V3, rolled_back=(V4,)), "web3": EMPTY})
    rows = [line.split(None, 2) for line in text.splitlines() if line.startswith("  ")]
    assert rows == [
        ["web1", V2, "(live)"],
        ["web1", V1],
        ["web2", V3, "(live)"],
        ["web2", V4, "(rolled back from)"],
        ["web3", "none"],
    ]
    assert "Nothing was changed." in text


def test_hosts_with_different_previous_releases_are_refused() -> None:
    assert "no common good release" in problem({"web1": state(V1, V3), "web2": state(V2, V3)})


@pytest.mark.parametrize("only", [state(V1), state(V2, rolled_back=(V3,)), EMPTY, EMPTY | {"live": V1}])
def test_a_host_without_a_previous_release_is_refused(only: dict[str, Any]) -> None:
    assert problem({"web1": only}).startswith("The host has no good release before the live one.")


# --- apps that were stopped on a host -------------------------------------------------------------------------------


def test_a_stopped_app_on_one_host_does_not_take_back_the_others() -> None:
    live, stopped = state(V1, V2), state(V1, V2, live="")
    assert former_release([live, stopped], V2) == V2
    assert former_release([stopped, stopped], V2) == ""


def test_a_live_release_that_was_never_confirmed_is_nothing_to_return_to() -> None:
    # The run before was interrupted, and the confirmed release did not start any more.
    assert former_release([state(V1, V2, live=V3)], V4) == V2
    assert former_release([state(V1, V2, live=V3), state(V1, V2)], V4) == V2


def test_a_rollback_of_a_stopped_app_goes_to_its_last_good_release() -> None:
    stopped = {"live": "", "stack": [V1, V2], "rolled_back": []}
    assert rollback_target({"web1": stopped})["release"] == V2


def test_a_stopped_app_on_one_host_does_not_change_the_target_of_a_rollback() -> None:
    live = {"live": V3, "stack": [V1, V2, V3], "rolled_back": []}
    stopped = {"live": "", "stack": [V1, V2, V3], "rolled_back": []}
    assert rollback_target({"web1": live, "web2": stopped})["release"] == V2


# --- the plugin -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_choice_is_a_result_on_every_host_beside_those_of_other_apps(tmp_path: Path) -> None:
    states = {"web1": state(V1, V2), "web2": state(V1, V2)}
    choice = {"app": "shop", "states": states, "apps": {"blog": {"release": V4}}}
    tasks = [
        {"blueoctopus.site.release_choice": choice, "register": "chosen", "run_once": True},
        {
            "ansible.builtin.copy": {
                "content": "{{ chosen.apps | to_json }}",
                "dest": f"{tmp_path}/{{{{ inventory_hostname }}}}",
            }
        },
    ]
    shown = run_play(tmp_path, yaml.safe_dump(tasks), hosts="web1 web2")
    hosts = {host: {"before": V2, "settled": True, "exists": True} for host in states}
    shop = {"release": V1, "problem": "", "former": V2, "hosts": hosts, "batches": {"shop": ["web1", "web2"]}}
    for host in states:
        assert json.loads((tmp_path / host).read_text()) == {"blog": {"release": V4}, "shop": shop}, shown
