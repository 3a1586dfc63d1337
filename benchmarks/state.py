"""Checks that a way of setting up the site has reached the state that all must reach."""

from __future__ import annotations

import re

from benchmarks.hosts import BENCHMARKS, BenchError, Lab, Machine, get


def facts_in(output: str) -> dict[str, bool]:
    """The facts that state.sh prints, and whether they are true.

    Raises:
        BenchError: if a line is something else, or there is none.
    """
    facts = {}
    for line in output.splitlines():
        match = re.fullmatch(r"(yes|no) (.+)", line)
        if not match:
            raise BenchError(f"state.sh printed a line that is no fact: {line}")
        facts[match[2]] = match[1] == "yes"
    if not facts:
        raise BenchError("state.sh printed no facts.")
    return facts


def site_facts(address: str) -> dict[str, bool]:
    """The facts that a client sees."""
    status, body, headers = get(address, "/api2")
    page_status, page, _ = get(address, "/")
    unknown, _, _ = get(address, "/", host="unknown.example")
    compressed = get(address, "/static/style.css", Accept_Encoding="gzip")
    return {
        "the site answers with its JSON": status == 201 and '"server_status": 201' in body,
        "the site answers with its page": page_status == 200 and "<html" in page,
        "the site sends security headers": headers.get("x-content-type-options") == "nosniff",
        "nginx does not tell its version": not re.search(r"\d", headers.get("server", "")),
        "nginx compresses static files": compressed[0] == 200 and compressed[2].get("content-encoding") == "gzip",
        "unknown host names get no answer": unknown == 0,
    }


def check_state(lab: Lab, machine: Machine, packages: list[str]) -> dict[str, bool]:
    """All facts about a machine, from inside and from outside."""
    script = (BENCHMARKS / "state.sh").read_text()
    words = " ".join([machine.address, *packages])
    said = lab.run(machine.ssh(f"sudo --non-interactive bash -s {words}", stdin=script)).output
    return {} if lab.dry else facts_in(said) | site_facts(machine.address)
