"""Find conflicts between the URL paths of an app: of its files, its redirects and its health check."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

CHALLENGES = "/.well-known/acme-challenge/"
ERRORS = "/_error/"


def find_path_conflicts(app: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Find paths that nginx would have to serve in two ways.

    Args:
        app: a valid entry of `apps`, with the defaults.

    Yields:
        The key, the value found, and the expected one.
    """
    urls = [("static", entry["url"]) for entry in app["static"]]
    urls += [(key, app[key]["url"]) for key in ("media", "private_files") if app[key]["url"]]
    for (key, url), (other_key, other) in combinations(urls, 2):
        if url.startswith(other) or other.startswith(url):
            yield other_key, repr(other), f"a url that does not overlap with {url} of {key}"
    folders = [(key, f"{app[key]['path']}/") for key in ("media", "private_files") if app[key]["url"]]
    for (key, path), (other_key, other) in combinations(folders, 2):
        if path.startswith(other) or other.startswith(path):
            yield other_key, repr(other), f"a path that does not overlap with {path} of {key}, which everybody can read"
    for key, url in urls:
        if url.startswith(ERRORS):
            yield key, repr(url), f"another url than {ERRORS}, where nginx has its error pages"
    health_path = app["health_path"].partition("?")[0]
    for redirect in app["redirects"]:
        path = redirect["from"]
        if path == redirect["to"]:
            yield "redirects", f"from {path} to itself", "another target"
        if path == health_path:
            yield "redirects", f"from {path}, the health_path", "another health_path, which the app itself answers"
        if path.startswith((ERRORS, CHALLENGES)) or (path == "/robots.txt" and not app["robots"]):
            yield "redirects", f"from {path}", "another path: nginx itself answers this one"
