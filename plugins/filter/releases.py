"""Results of a deploy or rollback from several hosts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

# A canary is worse than the other hosts when it exceeds this multiple of their value by more than the second number.
FACTOR, MORE_ERRORS, MORE_SECONDS = 2, 0.01, 0.1
FEWEST = 20  # requests on either side, below which nothing is compared
State = Mapping[str, Any]  # the result of the module release_lock on one host


def failures(errors: Mapping[str, Mapping[str, Any]], app: str) -> str:
    """The failed hosts with the reasons, one line for each.

    Args:
        errors: the results of the failed tasks, by host.
        app: name of the app, which is removed from the start of the messages.
    """
    lines = []
    for host, failed in errors.items():
        message = str(failed.get("msg") or failed.get("stderr") or "failed").strip().removeprefix(f"{app}: ")
        lines.append(f"{host}: {(message.splitlines() or ['failed'])[0]}")
    return "\n".join(lines) or "A host can no longer be reached."


def locks_of(results: Mapping[str, State], app: str) -> dict[str, State]:
    """The states of the hosts on which this run has locked an app, by their names.

    Args:
        results: the results of the module release_lock by host: of this app; of another one, where this one is not in
            the inventory; or of a failure.
        app: name of the app.
    """
    return {host: result for host, result in results.items() if result.get("app") == app}


def probe_problem(results: Iterable[Mapping[str, Any]], app: str, host: str) -> str:
    """Why a host has failed a probe through a balancer; empty when it has not.

    Args:
        results: the results of the module balancer_servers, each with the balancer as `item`.
        app: name of the app.
        host: name of the host.
    """
    for result in results:
        if problem := result.get("problems", {}).get(host):
            return f"{app}: the probe through {result['item']} failed. {problem}"
    return ""


def canary_problem(results: Iterable[Mapping[str, Any]], app: str, canary: Iterable[str], seconds: int | str) -> str:
    """What is worse on hosts that have switched first than on the others; empty when nothing is, or is not known.

    Args:
        results: the results of the module app_traffic, each with the host as `item`; that of an unreachable
            host has no traffic.
        app: name of the app.
        canary: the hosts that have switched first.
        seconds: length of the measured period.
    """
    canary, kinds = list(canary), (list[Mapping[str, Any]](), list[Mapping[str, Any]]())
    for result in results:
        if "traffic" in result:
            kinds[result["item"] in canary].append(result["traffic"])
    others, own = kinds
    (requests_before, errors_before), (requests, errors) = (
        (sum(one["requests"] for one in kind), sum(one["errors"] for one in kind)) for kind in (others, own)
    )
    if min(requests_before, requests) < FEWEST:
        return ""
    found = []
    if errors / requests > FACTOR * errors_before / requests_before + MORE_ERRORS:
        found.append(f"{errors} of {requests} requests failed, on the other hosts {errors_before} of {requests_before}")
    for key, share in (("p50_seconds", "half"), ("p95_seconds", "95 %")):
        before, after = (max(float(one[key] or 0) for one in kind) for kind in (others, own))
        if after > FACTOR * before + MORE_SECONDS:
            found.append(f"{share} of the requests took up to {after:g} s, on the other hosts {before:g} s")
    where = f"{app}: the release is worse than the previous one on {', '.join(canary)}, in {seconds} s"
    return f"{where}: {'; '.join(found)}." if found else ""


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        return {
            "canary_problem": canary_problem,
            "release_failures": failures,
            "locks_of": locks_of,
            "probe_problem": probe_problem,
        }
