"""Grade the site of the scenario front with external tools. See script/grade."""

from __future__ import annotations

import base64
import json
import re
import ssl
import subprocess
import sys
import urllib.request
from collections import Counter
from functools import partial
from pathlib import Path

from common import PROJECT, TOOLS, Host, Result, run, table, tell

OBSERVATORY = PROJECT / ".grade/node_modules/@mdn/mdn-http-observatory/src/scan.js"
WEBSERVERS = ("web12", "web13")
ACCEPTED = {"OK", "INFO", "WARN", "LOW"}  # severities of testssl.sh; WARN means that it could not run a check


def prepare(work: Path) -> None:
    """Download the root certificate and the nginx configuration of the hosts; write a hosts file with their domains."""
    open_eyed = ssl._create_unverified_context()  # noqa: S323 - this downloads the root certificate itself
    address = f"https://{Host('front', 'ca').address}:15000/roots/0"
    with urllib.request.urlopen(address, context=open_eyed) as answer:
        (work / "root.pem").write_bytes(answer.read())
    lines = [Path("/etc/hosts").read_text().rstrip("\n")]
    for name in WEBSERVERS:
        host = Host("front", name)
        lines.append(f"{host.address} {name}.test www.{name}.test echo.{name}.test")
        packed = host.run("tar -C /etc/nginx -cf - . | base64")
        (work / name).mkdir()
        subprocess.run(["tar", "-C", work / name, "-xf", "-"], input=base64.b64decode(packed), check=True)
    (work / "hosts").write_text("\n".join(lines) + "\n")


def sslyze(work: Path, name: str) -> Result:
    """Compliance with Mozilla's intermediate profile."""
    options = ["--mozilla_config=intermediate", f"--certinfo_ca_file={work / 'root.pem'}"]
    found = re.search(r"443: (OK|FAILED) - (.*)", run(TOOLS / "sslyze", *options, f"{name}.test:443"))
    return (found[2], found[1] == "OK") if found else ("no answer", False)


def testssl(work: Path, name: str) -> Result:
    """The number of findings of each severity."""
    report = work / f"{name}.json"
    run("testssl", "--quiet", "--color", "0", "--add-ca", work / "root.pem", "--jsonfile", report, f"{name}.test")
    findings = json.loads(report.read_text())
    for finding in findings:
        if finding["severity"] not in ("OK", "INFO"):
            tell("testssl.sh", name, f"{finding['severity']} {finding['id']}: {finding['finding']}")
    counts = Counter(finding["severity"] for finding in findings)
    shown = ", ".join(f"{count} {severity}" for severity, count in sorted(counts.items()))
    return shown, bool(findings) and set(counts) <= ACCEPTED


def observatory(work: Path, name: str) -> Result:
    """MDN's grade for the response headers."""
    shown = run("node", OBSERVATORY, f"{name}.test", environment={"NODE_EXTRA_CA_CERTS": str(work / "root.pem")})
    scan = json.loads(shown)["scan"]
    return f"{scan['grade']}, {scan['score']}", scan["grade"] == "A+" and scan["score"] >= 100


def gixy(work: Path, name: str) -> Result:
    """Security findings in nginx's configuration."""
    shown = run("sh", "-c", f"cd '{work / name}' && '{TOOLS / 'gixy'}' nginx.conf")
    print("" if "No issues found." in shown else shown, end="", file=sys.stderr)
    return ("no finding", True) if "No issues found." in shown else ("findings, see above", False)


def cpu_time(name: str) -> int:
    """The processor time of nginx and gunicorn on a host, in ticks; see proc(5)."""
    lines = Host("front", name).run("cat /proc/[0-9]*/stat 2>/dev/null").splitlines()
    ours = [line.rpartition(")")[2].split() for line in lines if re.search(r"\((nginx|python|gunicorn)", line)]
    return sum(int(fields[11]) + int(fields[12]) for fields in ours)


def load(name: str, path: str, count: int) -> tuple[float, float]:
    """Send requests over HTTP/2; return responses per second, and processor time per response on the host, in ticks."""
    before = cpu_time(name)
    options = ["-n", str(count), "-c", "16", "-m", "10", "-H", "accept-encoding: br"]
    shown = run("h2load", *options, f"https://{name}.test{path}")
    assert f"{count} succeeded, 0 failed" in shown, shown
    found = re.search(r"finished in .*, ([0-9.]+) req/s", shown)
    assert found, shown
    return float(found[1]), (cpu_time(name) - before) / count


def speed(_work: Path, name: str) -> Result:
    """Compare the page with its style sheet, by the host's processor time, because client and host share processors."""
    static_rate, static_cost = load(name, "/static/style.css?v=1", 100_000)
    page_rate, page_cost = load(name, "/", 5_000)
    ratio = page_cost / static_cost
    return (
        f"{static_rate:,.0f} to {page_rate:,.0f} a second; by the server's processor time {ratio:.0f} times",
        ratio >= 20,
    )


GRADERS = {
    "sslyze, Mozilla intermediate": sslyze,
    "testssl.sh, findings": testssl,
    "MDN HTTP Observatory": observatory,
    "gixy-ng": gixy,
    "static files to dynamic pages": speed,
}


if __name__ == "__main__":
    action, folder = sys.argv[1], Path(sys.argv[2])
    if action == "prepare":
        prepare(folder)
    else:
        sys.exit(not table(WEBSERVERS, {title: partial(grader, folder) for title, grader in GRADERS.items()}))
