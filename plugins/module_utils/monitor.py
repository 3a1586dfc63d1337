"""What a monitor knows about itself and can tell nobody: alerts that it can't send, metrics that it can't store."""

from __future__ import annotations

import http.client
import json
import urllib.request
from pathlib import Path
from typing import Any

SETTINGS = Path("/etc/monitor/alertmanager.yml")  # of the role monitor
PROMETHEUS = "http://127.0.0.1:9090"
ALERTS = ("AlertsNotSent", "MetricsNotStored")
TIMEOUT = 2  # seconds
MOST_BYTES = 16 << 20  # of an answer


def firing_alerts() -> list[dict[str, str]]:
    """The alerts about the monitor itself that fire: each with its `text`, and the `subject` that could not be reached.

    Raises:
        OSError, HTTPException: when Prometheus does not answer.
        ValueError, TypeError, KeyError: when the answer is not valid.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # without a proxy of the environment
    with opener.open(f"{PROMETHEUS}/api/v1/alerts", timeout=TIMEOUT) as answer:
        alerts = json.loads(answer.read(MOST_BYTES))["data"]["alerts"]
    return [
        {
            "text": alert["annotations"]["summary"].partition(": ")[2],  # without the name of the host
            "subject": alert["labels"].get("integration", ""),
        }
        for alert in alerts
        if alert["state"] == "firing" and alert["labels"]["alertname"] in ALERTS
    ]


def describe_monitor() -> dict[str, Any] | None:
    """The alerts about the monitor itself that fire, or why they are unknown; None on a host that is no monitor."""
    if not SETTINGS.exists():
        return None
    try:
        return {"firing": firing_alerts(), "error": ""}
    except (OSError, http.client.HTTPException) as error:
        reason = str(getattr(error, "reason", error)) or type(error).__name__
        return {"firing": [], "error": f"Prometheus does not answer: {reason}"}
    except (ValueError, TypeError, KeyError):
        return {"firing": [], "error": "the answer of Prometheus is not valid"}
