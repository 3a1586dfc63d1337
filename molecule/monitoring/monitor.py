"""The monitor, as an administrator of it sees the alerts."""

from __future__ import annotations

import json
import shlex
from collections import defaultdict
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from receiving import forget_messages, received_messages
from testinfra.host import Host

FETCH = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode())"
# Labels of the alerts that the tests cause, as a test machine may have others of the same name.
SUBJECTS = {
    "DiskFull": {"mount": "/tmp"},
    "MetricsMissing": {"job": "nginx"},
    "UnitFailed": {"unit": "broken.service"},
}


def is_about(labels: dict[str, str], host: str) -> bool:
    """Whether these are the labels of an alert about a host that a test has caused."""
    return {"host": host, **SUBJECTS.get(labels["alertname"], {})}.items() <= labels.items()


@dataclass
class Monitor:
    """The monitor; its commands run as root."""

    host: Host

    def get(self, url: str) -> Any:
        """The response to a request on the monitor, as JSON."""
        return json.loads(self.host.check_output(f"python3 -c {shlex.quote(FETCH)} {shlex.quote(url)}"))

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The labels and values of an expression."""
        found = self.get(f"http://127.0.0.1:9090/api/v1/query?query={quote(expression)}")
        return [(entry["metric"], float(entry["value"][1])) for entry in found["data"]["result"]]

    def firing(self, host: str) -> set[str]:
        """The names of the active alerts about a host in Alertmanager."""
        found = self.get("http://127.0.0.1:9093/api/v2/alerts?active=true")
        return {one["labels"]["alertname"] for one in found if is_about(one["labels"], host)}

    def received(self, host: str) -> dict[str, list[dict[str, Any]]]:
        """The messages to the receiver about each alert of a host, by its name, in their order."""
        alerts = defaultdict(list)
        for message in received_messages(self.host):
            for one in message["alerts"]:
                if is_about(one["labels"], host):
                    alerts[one["labels"]["alertname"]].append(one)
        return alerts

    def received_with(self, status: str, host: str) -> set[str]:
        """The names of the alerts of a host whose last message has a status: firing or resolved."""
        return {alert for alert, messages in self.received(host).items() if messages[-1]["status"] == status}

    def forget(self) -> None:
        """Forget what the receiver got."""
        forget_messages(self.host)
