"""Grade this project's own code and its dependencies with external tools. See script/grade."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter

from common import PROJECT, TOOLS, Result, run, table, tell

CODE = ("plugins", "roles/certificate/files/certificates", "script/machine", "script/machines", "app/main.py")
LOCKS = ("requirements.txt", "app/requirements.txt", "roles/base/files/uv.txt", "roles/certificate/files/certbot.txt")


def bandit(_where: str) -> Result:
    """Security findings in Python code."""
    found = json.loads(
        run(TOOLS / "bandit", "--quiet", "--recursive", "--format", "json", *(PROJECT / c for c in CODE))
    )
    counts = Counter(finding["issue_severity"] for finding in found["results"])
    for finding in found["results"]:
        if finding["issue_severity"] != "LOW":
            tell("bandit", finding["filename"], f"{finding['line_number']}: {finding['issue_text']}")
    return ", ".join(f"{counts[level]} {level.lower()}" for level in ("HIGH", "MEDIUM", "LOW")), set(counts) <= {"LOW"}


def pip_audit(_where: str) -> Result:
    """Known vulnerabilities of the locked dependencies."""
    unknown, found = 0, []
    for lock in LOCKS:
        options = ["--disable-pip", "--require-hashes", "--format", "json", "--progress-spinner", "off"]
        shown = run(TOOLS / "pip-audit", *options, "--requirement", PROJECT / lock)
        packages = json.loads(shown or '{"dependencies": [{"skip_reason": "no answer"}]}')["dependencies"]
        unknown += sum("skip_reason" in package for package in packages)
        found += [f"{p['name']} {p['version']}: {v['id']}" for p in packages for v in p.get("vulns", [])]
    for vulnerability in found:
        tell("pip-audit", "locks", vulnerability)
    if unknown:
        return f"{len(found)} vulnerabilities; its database was not reached for {unknown} entries", not found
    return f"{len(found)} vulnerabilities", not found


def zizmor(_where: str) -> Result:
    """Security findings in the CI workflow."""
    shown = run(TOOLS / "zizmor", "--offline", "--format", "plain", "--color", "never", PROJECT)
    found = re.search(r"^(\d+ findings?|No findings)", shown, re.MULTILINE)
    good = "No findings" in shown
    if not good:
        tell("zizmor", "workflows", shown)
    return found[1].lower() if found else "no answer", good


if __name__ == "__main__":
    sys.exit(not table(["this project"], {"bandit": bandit, "pip-audit": pip_audit, "zizmor": zizmor}))
