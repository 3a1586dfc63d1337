"""Decisions of a deploy or rollback that are the same for all hosts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

State = Mapping[str, Any]  # the result of the module release_lock on one host


def release_id(states: Iterable[State], packages: Iterable[Mapping[str, Any]], rebuild: bool = False) -> str:
    """The id of the release to deploy, the same on every host.

    Args:
        states: the hosts' states.
        packages: for each host, in the same order, the `package` of release_source: the `digest` of everything that
            the release runs with there, which may differ between hosts, and the `time`, YYYYMMDDThhmmssZ.
        rebuild: return a new id in any case.

    Returns:
        The newest existing release whose content is the same on every host that has it. Otherwise a new id.
    """
    states, packages = list(states), list(packages)
    known = {release for state in states for release in state["releases"]}
    pairs = list(zip(states, [package["digest"] for package in packages], strict=True))
    same = [r for r in known if all(state["releases"].get(r, digest) == digest for state, digest in pairs)]
    digests = " ".join(sorted({digest for _, digest in pairs}))
    digest = hashlib.sha256(digests.encode()).hexdigest()[:10]
    new = f"{max(package['time'] for package in packages)}-{digest}"
    return new if rebuild else max(same, default=new)


def former_release(states: Iterable[State], target: str) -> str:
    """The previous release, which all hosts return to when the target fails: the last one that is good on all of them.

    Hosts without a good release, or with an app that was stopped, do not count. Empty when there is no such release.
    """
    serving = [state for state in states if state["confirmed"]]
    stacks = [[release for release in state["stack"] if release != target] for state in serving]
    lives = {state["confirmed"] for state in serving}
    if len(lives) == 1:  # this may be the target itself, when only a new host lacks it
        return str(lives.pop())
    return common(stacks)


def common(stacks: list[list[str]]) -> str:
    """The last release of the first stack that is in all stacks; empty when there is none."""
    first = stacks[0] if stacks else []
    return next((release for release in reversed(first) if all(release in stack for stack in stacks)), "")


def batches(states: Mapping[str, State], release: str, size: str, app: str, canary: int = 0) -> dict[str, list[str]]:
    """The hosts that do not serve the release yet, in the groups in which they switch to it, in their own order.

    Args:
        states: each host's state, by its name.
        release: the release that becomes live.
        size: number of hosts in a group, or the percentage of all hosts: rounded down, but at least one.
        app: name of the app, for the names of the groups.
        canary: number of hosts in an additional first group, which leaves at least one host for the others.
    """
    due = [host for host, state in states.items() if state["live"] != release or not state["settled"]]
    count = max(1, len(states) * int(size[:-1]) // 100) if size.endswith("%") else int(size)
    alone = min(canary, max(0, len(due) - 1))
    groups = [due[first : first + count] for first in range(alone, len(due), count)]
    names = [
        f"{app}, batch {number} of {len(groups)}" if len(groups) > 1 else app for number in range(1, len(groups) + 1)
    ]
    return ({f"{app}, canary": due[:alone]} if alone else {}) | dict(zip(names, groups, strict=True))


def rollback_target(states: Mapping[str, State], release: str = "") -> dict[str, str]:
    """The release that the hosts roll back to, the same on all of them.

    Args:
        states: each host's state, by its name.
        release: the requested release. When empty: the good release before the live one; if the hosts' live releases
            differ, after an interrupted run, the last one that is good on all of them.

    Returns:
        The `release`, or the `problem`: why the hosts can't roll back, with a table of their releases.
    """
    stacks = [list(state["stack"]) for state in states.values()]
    if release:
        lacking = [host for host, state in states.items() if release not in [*state["stack"], *state["rolled_back"]]]
        hosts = ", ".join(lacking)
        problem = f"Release {release} was never live on {hosts}, or was removed there." if lacking else ""
    else:
        # A host on which the app was stopped has no live release, and does not change the target.
        serving = [state for state in states.values() if state["live"]] or list(states.values())
        differ = len({state["live"] for state in serving}) > 1
        wanted = {common(stacks)} if differ else {before_live(state) for state in serving}
        release = wanted.pop() if len(wanted) == 1 else ""
        problem = ""
        if not release and len(stacks) == 1:
            problem = "The host has no good release before the live one."
        elif not release or not all(release in stack for stack in stacks):
            problem = "The hosts have no common good release before the live one."
    if not problem:
        return {"release": release, "problem": ""}
    table = "\n".join(f"  {host}  {line}" for host, state in states.items() for line in release_rows(state))
    return {
        "release": "",
        "problem": f"{problem} Nothing was changed. Good releases that are kept:\n{table}\n"
        "To roll back to one of them: -e release=ID",
    }


def before_live(state: State) -> str:
    """The good release before the live one; of a stopped app, its last good release. Empty when there is none."""
    stack = ["", *state["stack"]]
    return str(stack[-2] if state["live"] and len(stack) > 1 else stack[-1])


def release_rows(state: State) -> list[str]:
    """A line for each good release of a host, the newest first; marked if it is live or was rolled back from."""
    marks = dict.fromkeys(state["rolled_back"], "  (rolled back from)") | {state["live"]: "  (live)"}
    releases = [*state["rolled_back"], *state["stack"]]
    return [f"{release}{marks.get(release, '')}" for release in reversed(releases)] or ["none"]


def release_result(states: Mapping[str, State], release: str) -> dict[str, Any]:
    """What a deploy or a rollback changes, as the role's result for one app.

    Args:
        states: each host's state before, by its name: the results of the module release_lock.
        release: the release that becomes live.

    Returns:
        The `release`, and for each of the `hosts` the release `before`, whether it was `settled`, and whether the
        release already `exists` there.
    """
    hosts = {
        host: {"before": state["live"], "settled": state["settled"], "exists": release in state["releases"]}
        for host, state in states.items()
    }
    return {"release": release, "hosts": hosts}
