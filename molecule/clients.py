"""Clients that send requests while something happens, and record each one."""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from dataclasses import dataclass, field

from testing import Web


@dataclass
class Request:
    """One request: when it began, on the monotonic clock, and how long it took, in seconds; the version that responded,
    or the error."""

    number: int
    method: str
    began: float
    seconds: float = 0
    version: str = ""
    error: str = ""


@dataclass
class Clients:
    """Clients that send GET and POST requests alternately, each on a new connection.

    Args:
        web: the site.
        redirects: whether a redirect is no error.
    """

    web: Web
    redirects: bool = False
    requests: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.numbers, self.ended = itertools.count(time.time_ns() // 1000), threading.Event()

    def run(self) -> None:
        while not self.ended.is_set():
            number = next(self.numbers)
            sent = Request(number, "POST" if number % 2 else "GET", time.monotonic())
            try:
                answer = self.web.ask(method=sent.method, headers={"X-Number": str(number)})
                if answer.status == 200:
                    sent.version = str(answer.json["version"])
                elif answer.status != 301 or not self.redirects:
                    sent.error = f"status {answer.status}"
            except (OSError, ValueError, http.client.HTTPException) as error:
                sent.error = repr(error)
            sent.seconds = time.monotonic() - sent.began
            self.requests.append(sent)
            time.sleep(0.05)

    def failed(self) -> list[Request]:
        return [request for request in self.requests if request.error]

    def after(self, moment: float) -> list[Request]:
        """The requests that began after a moment."""
        return [request for request in self.requests if request.began > moment]


def hosts_of(site: Web, count: int = 12) -> set[str]:
    """The webservers that answer a number of requests; their names end with those of the inventory."""
    return {str(site.ask().json["answered_by"]).rpartition("-")[2] for _ in range(count)}
