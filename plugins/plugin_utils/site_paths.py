"""Find conflicts between the URL paths of an app: of its files, its redirects and its health check."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

CHALLENGES = "/.well-known/acme-challenge/"
ERRORS = "/_error/"


def urls_of(app: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The keys of an app that have a URL path, each with the path."""
    urls = [("static", entry["url"]) for entry in app["static"]]
    return urls + [(key, app[key]["url"]) for key in ("media", "private_files") if app[key]["url"]]


def requests_of(app: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The keys of an app that have the path of one request, each with the path."""
    health = [("health_path", app["health_path"].partition("?")[0])] if app["health_path"] != "/" else []
    return health + [("redirects", redirect["from"]) for redirect in app["redirects"]]


def find_shared_domain_conflicts(apps: list[dict[str, Any]]) -> Iterator[tuple[str, str, str, str]]:
    """Find apps that can't share the domain of another app.

    Args:
        apps: the apps of one host, with the defaults.

    Yields:
        The name of the app, the key, the value found, and the expected one.
    """
    owners = {app["domains"][0]: app for app in apps if app["path"] == "/"}
    taken: dict[tuple[str, str], str] = {}
    for app in apps:
        if app["path"] == "/":
            continue
        name, domain, path = app["name"], app["domains"][0], app["path"]
        owner = owners.get(domain)
        if owner is None or len(app["domains"]) > 1:
            expected = "only the first domain of another app of the same host, which has no path"
            yield name, "domains", f"{app['domains']}, with the path {path}", expected
            continue
        if (app["tls"] == "none") != (owner["tls"] == "none"):
            found = f"{app['tls']}, but {owner['tls']} for {owner['name']}, which has the domain"
            yield name, "tls", found, "none for both apps, or for neither"
        if (other := taken.setdefault((domain, path), name)) != name:
            yield name, "path", repr(path), f"a path that no other app of {domain} has; {other} has it"
        others = [app for app in apps if app["domains"][0] == domain and app["name"] != name]
        for other_app in (app for app in others if path.startswith(app["path"]) and path != app["path"]):
            for key, url in [*urls_of(other_app), *requests_of(other_app)]:
                whole = other_app["path"].rstrip("/") + url
                if whole.startswith(path) or (path.startswith(whole) and whole.endswith("/")):
                    expected = f"a path that does not overlap with {whole} of {key} of {other_app['name']}"
                    yield name, "path", repr(path), expected


def find_path_conflicts(app: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Find paths that nginx would have to serve in two ways.

    Args:
        app: a valid entry of `apps`, with the defaults.

    Yields:
        The key, the value found, and the expected one.
    """
    urls = urls_of(app)
    for (key, url), (other_key, other) in combinations(urls, 2):
        if url.startswith(other) or other.startswith(url):
            yield other_key, repr(other), f"a url that does not overlap with {url} of {key}"
    folders = [(key, f"{app[key]['path']}/") for key in ("media", "private_files") if app[key]["url"]]
    for (key, path), (other_key, other) in combinations(folders, 2):
        if path.startswith(other) or other.startswith(path):
            yield other_key, repr(other), f"a path that does not overlap with {path} of {key}, which everybody can read"
    for shared in app["shared_paths"]:
        for key, folder in folders:
            if f"{shared}/".startswith(folder) and f"{shared.rstrip('/')}/" != folder:
                yield key, repr(folder), f"a folder without {shared} of shared_paths, which nginx would serve"
    if app["path"] != "/" and app["basic_auth"] and app["nginx_extra"]:
        expected = "none: with a path and basic_auth, its locations would need no password"
        yield "nginx_extra", "directives", expected
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
