"""What a deploy or rollback decides for all its hosts at once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

State = Mapping[str, Any]  # what the module release_lock returned for one host


def release_id(states: Iterable[State], packages: Iterable[Mapping[str, Any]]) -> str:
    """The id of the release to deploy, the same on every host.

    Args:
        states: the hosts' states.
        packages: for each host, in the same order, what release_source packed for it: the `digest` of everything that
            the release runs with there, which may differ between hosts, and the `time`, YYYYMMDDThhmmssZ.

    Returns:
        The newest release that a host has and that holds this content on every host that has it, else a new id.
    """
    states, packages = list(states), list(packages)
    known = {release for state in states for release in state["releases"]}
    pairs = list(zip(states, [package["digest"] for package in packages], strict=True))
    same = [r for r in known if all(state["releases"].get(r, digest) == digest for state, digest in pairs)]
    digests = " ".join(sorted({digest for _, digest in pairs}))
    digest = hashlib.sha256(digests.encode()).hexdigest()[:10]
    return max(same, default=f"{max(package['time'] for package in packages)}-{digest}")


def former_release(states: Iterable[State], target: str) -> str:
    """The release that all hosts go back to when the target fails: the last one that is good on each of them.

    Hosts that never had one are not asked. Empty when there is none.
    """
    stacks = [[release for release in state["stack"] if release != target] for state in states if state["stack"]]
    lives = {state["live"] for state in states if state["stack"]}
    if len(lives) == 1:  # the target itself, where a host that never had it is to get it, too
        return str(lives.pop())
    return common(stacks)


def common(stacks: list[list[str]]) -> str:
    """The last release of the first stack that is in all of them; empty when there is none."""
    first = stacks[0] if stacks else []
    return next((release for release in reversed(first) if all(release in stack for stack in stacks)), "")


def rollback_target(states: Mapping[str, State], release: str = "") -> dict[str, str]:
    """Which release the hosts go back to, the same on every one.

    Args:
        states: each host's state, by its name.
        release: a certain release; the one before the live one when empty. Where the hosts' live releases differ, after
            a run that was cut off, the last one that is good on all of them.

    Returns:
        The `release`, or the `problem`: why they can't go back to one release, with a table of what each of them has.
    """
    stacks = [list(state["stack"]) for state in states.values()]
    if release:
        lacking = [host for host, state in states.items() if release not in [*state["stack"], *state["rolled_back"]]]
        problem = f"Release {release} was never live on {', '.join(lacking)}, or is gone." if lacking else ""
    else:
        differ = len({state["live"] for state in states.values()}) > 1
        wanted = {common(stacks)} if differ else {(["", *stack])[-2] if stack else "" for stack in stacks}
        release = wanted.pop() if len(wanted) == 1 else ""
        problem = ""
        if not release and len(stacks) == 1:
            problem = "There is no good release before the live one."
        elif not release or not all(release in stack for stack in stacks):
            problem = "There is no release before the live one that is good on every host."
    if not problem:
        return {"release": release, "problem": ""}
    table = "\n".join(f"  {host}  {line}" for host, state in states.items() for line in lines_of(state))
    return {
        "release": "",
        "problem": f"{problem} Nothing was changed. What was live and is kept:\n{table}\n"
        "To go to a certain one: -e release=ID",
    }


def lines_of(state: State) -> list[str]:
    """A host's good releases, the newest first, with what there is to say of each."""
    marks = dict.fromkeys(state["rolled_back"], "  (rolled back from)") | {state["live"]: "  (live)"}
    releases = [*state["rolled_back"], *state["stack"]]
    return [f"{release}{marks.get(release, '')}" for release in reversed(releases)] or ["nothing"]


def failures(hostvars: Mapping[str, Mapping[str, Any]], hosts: Iterable[str], app: str) -> str:
    """Which hosts have failed and why, a line each.

    Args:
        hostvars: the variables of all hosts.
        hosts: all hosts of the play.
        app: name of the app, which the messages begin with.
    """
    lines = []
    for host in hosts:
        failed = hostvars[host].get("ansible_failed_result")
        if failed:
            message = str(failed.get("msg") or failed.get("stderr") or "failed").strip().removeprefix(f"{app}: ")
            lines.append(f"{host}: {(message.splitlines() or ['failed'])[0]}")
    return "\n".join(lines) or "A host can't be reached any more."


def hosts_of(hostvars: Mapping[str, Mapping[str, Any]], hosts: Iterable[str], app: str) -> list[str]:
    """The hosts on which this run has locked an app: others do not have it in their inventory."""
    return [host for host in hosts if hostvars[host].get("__app_lock", {}).get("app") == app]


def hosts_without(hostvars: Mapping[str, Mapping[str, Any]], name: str, hosts: Iterable[str]) -> list[str]:
    """The hosts that lack a variable: a host that was lost before a task has not registered its result."""
    return [host for host in hosts if name not in hostvars[host]]


def short_commit(commit: str) -> str:
    """A commit as people write it, with the mark of uncommitted changes."""
    name, plus, changes = commit.partition("+")
    return f"{name[:10]}{plus}{changes}"


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        return {
            "release_id": release_id,
            "former_release": former_release,
            "rollback_target": rollback_target,
            "release_failures": failures,
            "hosts_of": hosts_of,
            "hosts_without": hosts_without,
            "short_commit": short_commit,
        }
