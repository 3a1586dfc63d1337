"""The monitor, as an administrator of it sees the alerts."""

from __future__ import annotations

import json
import shlex
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


def is_about(labels: dict[str, str], alert: str, host: str) -> bool:
    """Whether these are the labels of an alert about a host that a test has caused."""
    return {"alertname": alert, "host": host, **SUBJECTS.get(alert, {})}.items() <= labels.items()


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

    def firing(self, alert: str, host: str) -> list[dict[str, Any]]:
        """The active alerts in Alertmanager with a name, about a host."""
        found = self.get("http://127.0.0.1:9093/api/v2/alerts?active=true")
        return [one for one in found if is_about(one["labels"], alert, host)]

    def received(self, alert: str, host: str) -> list[str]:
        """What the receiver got about an alert of a host: firing, resolved."""
        alerts = [one for message in received_messages(self.host) for one in message["alerts"]]
        return [one["status"] for one in alerts if is_about(one["labels"], alert, host)]

    def forget(self) -> None:
        """Forget what the receiver got."""
        forget_messages(self.host)
