"""Validate the whole inventory on the control node: apps, certificates, settings of the hosts, administrators."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ansible.errors import AnsibleError
from ansible.module_utils.parsing.convert_bool import BOOLEANS, boolean
from ansible_collections.blueoctopus.site.plugins.plugin_utils.provided_certificate import find_certificate_errors
from ansible_collections.blueoctopus.site.plugins.plugin_utils.settings import (
    PROJECT,
    app_keys,
    example_of,
    expected_of,
    machine_settings,
    plain,
    with_defaults,
)
from ansible_collections.blueoctopus.site.plugins.plugin_utils.site_paths import (
    find_path_conflicts,
    find_shared_domain_conflicts,
)
from ansible_collections.blueoctopus.site.plugins.plugin_utils.validation import Problem, did_you_mean, find_problem

# The address in the inventory that comes with the project.
PLACEHOLDER = "203.0.113.10"
APPS_EXAMPLE = "apps: [{name: blueoctopus, domains: [example.org], source: app, wsgi: main:app}]"

# Explains why a variable can't be evaluated, from the host, the name of the variable and the error.
Explain = Callable[[str, str, AnsibleError], Iterable[Problem]]
# The keys that decide whether apps can share a domain.
SHARED_KEYS = ["name", "domains", "path", "tls", "static", "media", "private_files", "redirects", "health_path"]


# --- apps -----------------------------------------------------------------------------------------------------------


def key_problem(where: str, name: str, found: str, expected: str = "", example: str = "") -> Problem:
    """A problem with a key of an app; by default with the expected value and the example of that key."""
    entry = app_keys()[name]
    return Problem(f"{where}, key {name}", found, expected or expected_of(entry), example or example_of(name, entry))


def check_selected_keys(apps: Any, chosen: str | None, keys: list[str]) -> Iterator[Problem]:
    """Check only the keys that a playbook uses, of one app or of all. A rollback works even if the rest is invalid."""
    for number, app in enumerate(apps if isinstance(apps, list) else []):
        if isinstance(app, dict) and chosen in (None, app.get("name")):
            yield from check_app_keys(app, keys, f"app {app.get('name', f'number {number + 1}')}")


def check_app_keys(app: Mapping[str, Any], keys: Iterable[str], where: str) -> Iterator[Problem]:
    """Check the values of some keys of an app, each on its own."""
    for key in keys:
        if key in app and (problem := find_problem(key, plain(app[key]), app_keys()[key], f"{where}, key {key}")):
            yield problem


def check_apps(apps: Any) -> Iterator[Problem]:
    """Check the list `apps` of one host."""
    if not isinstance(apps, list):
        yield Problem("key apps", repr(plain(apps)), "a list of apps", APPS_EXAMPLE)
        return
    names: set[str] = set()
    owners: dict[str, str] = {}
    for number, app in enumerate(apps):
        if not isinstance(app, dict):
            yield Problem(f"key apps[{number}]", repr(plain(app)), "a set of keys and values", APPS_EXAMPLE)
            continue
        name = app.get("name")
        where = f"app {name}" if isinstance(name, str) else f"app number {number + 1}"
        yield from check_app_keys(app, app_keys(), where)
        for key, entry in app_keys().items():
            if entry.get("required") and key not in app:
                yield key_problem(where, key, "nothing")
        for key in map(str, app):
            if key not in app_keys():
                known = list(app_keys())
                hint = did_you_mean(key, known).removeprefix("; ")
                keys = ", ".join(known)
                expected = f"{hint} The known keys are {keys}" if hint else f"one of {keys}"
                yield Problem(f"{where}, key {key}", "an unknown key", expected, APPS_EXAMPLE)
        yield from check_source(app, where)
        yield from check_tls(app, where)
        yield from check_shared_paths(app, where)
        yield from check_paths(app, where)
        if isinstance(name, str) and name in names:
            example_name = example_of("name", app_keys()["name"])
            yield Problem(where, "two apps with this name", "a different name for each app", example_name)
        if isinstance(name, str):
            names.add(name)
        owns_domains = isinstance(app.get("domains"), list) and with_defaults(app)["path"] == "/"
        for domain in app["domains"] if owns_domains else []:
            owner = owners.setdefault(str(domain), where)
            if owner != where:
                expected = f"each domain in one app only; {owner} already has it"
                yield key_problem(where, "domains", repr(str(domain)), expected)
    yield from check_shared_domains(apps)


def check_shared_domains(apps: list[Any]) -> Iterator[Problem]:
    """Check the apps that have a path of another app's domain."""
    valid = [app for app in apps if isinstance(app, dict) and not any(check_app_keys(app, SHARED_KEYS, ""))]
    complete = [with_defaults(plain(app)) for app in valid if app.get("name") and app.get("domains")]
    for app, key, found, expected in find_shared_domain_conflicts(complete):
        yield key_problem(f"app {app}", key, found, expected)


def check_paths(app: Mapping[str, Any], where: str) -> Iterator[Problem]:
    """Check that no two keys of an app use the same URL path."""
    keys = [*SHARED_KEYS, "robots", "basic_auth", "nginx_extra", "shared_paths"]
    if not any(check_app_keys(app, keys, where)):
        for key, found, expected in find_path_conflicts(with_defaults(plain(app))):
            yield key_problem(where, key, found, expected)


def check_source(app: Mapping[str, Any], where: str) -> Iterator[Problem]:
    """Check that a source folder has the subfolder, and that extras and groups are those of a project."""
    keys = ("source", "subfolder", "requirements", "extras", "groups")
    if any(check_app_keys(app, keys, where)) or "source" not in app:
        return
    complete = with_defaults(plain(app))
    folder, subfolder, requirements = PROJECT / complete["source"], complete["subfolder"], complete["requirements"]
    if folder.is_dir() and not (folder / subfolder).is_dir():
        yield key_problem(where, "subfolder", repr(subfolder), f"a folder in {complete['source']}")
    for key in ("extras", "groups"):
        if complete[key] and Path(requirements).name not in ("uv.lock", "pyproject.toml"):
            expected = "none: only projects have them. Set requirements to the project's uv.lock or pyproject.toml"
            yield key_problem(where, key, f"{complete[key]}, with requirements: {requirements}", expected)


def check_shared_paths(app: Mapping[str, Any], where: str) -> Iterator[Problem]:
    """Check that the requirements file is not in a shared path, where the app could change it."""
    if any(check_app_keys(app, ("shared_paths", "requirements"), where)):
        return
    complete = with_defaults(plain(app))
    requirements = PurePosixPath(complete["requirements"])
    for path in map(PurePosixPath, complete["shared_paths"]):
        if path in (requirements, *requirements.parents):
            expected = f"paths without the requirements file, {requirements}, which the app must not change"
            yield key_problem(where, "shared_paths", str(path), expected)


def check_tls(app: Mapping[str, Any], where: str) -> Iterator[Problem]:
    """Check that the requested kind of certificate is possible for an app's domains."""
    if any(check_app_keys(app, ("tls", "tls_challenge", "domains", "path"), where)) or not app.get("domains"):
        return
    complete = with_defaults(plain(app))
    if complete["path"] != "/":  # another app has the certificate
        return
    tls, domains = complete["tls"], complete["domains"]
    for domain in domains if tls != "none" else []:
        if domain.replace(".", "").isdigit():
            expected = "a host name, or plain HTTP: TLS clients do not send an IP address as the server name"
            yield key_problem(where, "tls", f"{tls}, for {domain}", expected, "tls: none")
        if domain.startswith("*.") and tls == "acme" and complete["tls_challenge"] == "http":
            expected = (
                "the challenge dns, with certificate_dns_provider: certificate authorities require it for wildcards"
            )
            yield key_problem(where, "tls_challenge", f"http, for {domain}", expected, "tls_challenge: dns")
    if tls == "provided":
        yield from check_provided(complete, where)


def check_provided(app: Mapping[str, Any], where: str) -> Iterator[Problem]:
    """Check that an app with a provided certificate has both of its keys, and that they fit each other and the app."""
    missing = [name for name in ("tls_certificate", "tls_key") if name not in app]
    yield from (key_problem(where, name, "nothing") for name in missing)
    if not missing and not any(check_app_keys(app, ("tls_certificate", "tls_key"), where)):
        for key, found, expected in find_certificate_errors(app["tls_certificate"], app["tls_key"], app["domains"]):
            yield key_problem(where, key, found, expected)


# --- hosts ----------------------------------------------------------------------------------------------------------


def check_settings(variables: Iterable[str], get: Callable[[str], Any]) -> Iterator[Problem]:
    """Check the settings of one host, and find misspelt names."""
    settings = machine_settings()
    prefixes = tuple({f"{name.split('_')[0]}_" for name in settings})
    for name in map(str, variables):
        if name in settings:
            value = convert(plain(get(name)), settings[name]["type"])
            if problem := find_problem(name, value, settings[name], f"key {name}"):
                yield problem
        elif name.startswith(prefixes) and (hint := did_you_mean(name, list(settings))):
            yield Problem(f"key {name}", "an unknown key", f"a setting of a role{hint}", "see roles/*/README.md")


def convert(value: Any, kind: str | list[str]) -> Any:
    """Convert a number or a boolean that is a string, for example from the option -e."""
    if kind == "integer" and isinstance(value, str) and value.isdecimal():
        return int(value)
    if kind == "boolean" and isinstance(value, str) and value.lower() in BOOLEANS:
        return boolean(value)
    return value


def check_connection(get: Callable[[str], Any], variables: Mapping[str, Any]) -> Iterator[Problem]:
    """Check that the address of a host is not the placeholder."""
    address = str(get("ansible_host")) if "ansible_host" in variables else ""
    if address == PLACEHOLDER:
        yield Problem(
            "key ansible_host",
            f"{address}, which is a placeholder",
            "the address of your VM, in hosts.yml",
            "ansible_host: 198.51.100.7",
        )


def check_dns(apps: Any, provider: Any, credentials: Any) -> Iterator[Problem]:
    """Check that a DNS provider and its credentials are set where an app has the challenge dns."""
    for app in apps if isinstance(apps, list) else []:
        if isinstance(app, dict) and app.get("tls_challenge") == "dns" and not provider:
            found, expected = "dns, but no certificate_dns_provider", "the provider of your DNS; see docs/https.md"
            example = "certificate_dns_provider: cloudflare"
            yield key_problem(f"app {app.get('name')}", "tls_challenge", found, expected, example)
    if provider and not credentials:
        expected = f"the content of the credentials file of certbot-dns-{provider}; see docs/https.md"
        example = example_of("certificate_dns_credentials", machine_settings()["certificate_dns_credentials"])
        yield Problem("key certificate_dns_credentials", "nothing", expected, example)


def check_backup_targets(targets: Any) -> Iterator[Problem]:
    """Check that each target of backups is either a host or a repository."""
    for target in targets if isinstance(targets, list) else []:
        if isinstance(target, dict) and ("host" in target) == ("repository" in target):
            found = "a host and a repository" if "host" in target else "neither a host nor a repository"
            expected = "one of the two: a host of the group backups, or a repository; see docs/backups.md"
            where = f"key backup_targets, target {target.get('name')}"
            yield Problem(where, found, expected, example_of("backup_targets", machine_settings()["backup_targets"]))


def check_account_names(apps: Any, logins: Mapping[str, str]) -> Iterator[Problem]:
    """Check that no app has the name of a login user: it would use the same account."""
    for app in apps if isinstance(apps, list) else []:
        for key, login in logins.items():
            if isinstance(app, dict) and app.get("name") == login:
                found, expected = f"'{login}', which is also {key}", "a name that no user of the host has"
                yield key_problem(f"app {login}", "name", found, expected)


def check_admin_keys(keys: Any) -> Iterator[Problem]:
    """Check that admin_keys is not empty and contains only public keys."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    example = "admin_keys: [ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI… somebody@laptop]"
    if keys == []:
        expected = "the public keys of the administrators; without this line, the keys of the current login user"
        yield Problem("key admin_keys", "an empty list: nobody could log in", expected, example)
    for number, key in enumerate(keys if isinstance(keys, list) else [], start=1):
        try:
            serialization.load_ssh_public_key(str(key).strip().encode())
        except (ValueError, UnsupportedAlgorithm):
            found = "a private key" if "PRIVATE KEY" in str(key) else repr(f"{str(key)[:40]}…")
            expected = "a public key: the line of a file such as ~/.ssh/id_ed25519.pub"
            yield Problem(f"key admin_keys, entry {number}", f"{found}, not a public key", expected, example)


def report(problems: dict[Problem, list[str]]) -> str:
    """All problems as one text; hosts with the same problem are listed together."""
    count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
    lines = [f"The inventory has {count}. No host was changed."]
    for problem, hosts in problems.items():
        shown = ", ".join(hosts[:5]) + (f" and {len(hosts) - 5} more" if len(hosts) > 5 else "")
        lines += [
            "",
            f"{'host' if len(hosts) == 1 else 'hosts'} {shown}, {problem.where}",
            f"  found:    {problem.found}",
            f"  expected: {problem.expected}",
            f"  example:  {problem.example}",
        ]
    return "\n".join(lines)


# --- the whole inventory --------------------------------------------------------------------------------------------


def check_hosts(
    hosts: Mapping[str, Mapping[str, Any]],
    explain: Explain,
    app: str | None = None,
    app_required: bool = False,
    keys: list[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    app_known: bool = True,
    without_apps: Iterable[str] = (),
) -> dict[Problem, list[str]]:
    """Check the inventory of all hosts, and the options of the playbook.

    Args:
        hosts: the variables of each host, by its name.
        explain: explains why a variable of a host can't be evaluated.
        app: value of the option -e app.
        app_required: whether that option is required.
        keys: check only these keys of that app, or of all apps; check everything when None.
        options: further options -e of the playbook, by name: the `given` value and its description, as in settings.yml.
        app_known: whether that app must be in the inventory.
        without_apps: hosts that run no apps, such as database hosts.

    Returns:
        Each problem, with its hosts.
    """
    problems: dict[Problem, list[str]] = {}
    known: set[str] = set()
    for host, variables in hosts.items():
        for problem in check_host(
            variables, functools.partial(explain, host), known, app, keys, host not in without_apps
        ):
            problems.setdefault(problem, []).append(host)
    if app is not None and not app_known:
        if wrong := find_problem("name", plain(app), app_keys()["name"], "option -e app"):
            problems[wrong] = ["all"]
    elif (app is not None or app_required) and app not in known and not problems:
        expected = f"the name of an app in the inventory: {', '.join(sorted(known)) or 'it has none'}"
        found = "nothing" if app is None else repr(str(app))
        problems[Problem("option -e app", found, expected, "-e app=blueoctopus")] = ["all"]
    for name, option in plain(options or {}).items():
        if wrong := check_option(name, option):
            problems[wrong] = ["all"]
    return problems


def check_option(name: str, option: Mapping[str, Any]) -> Problem | None:
    """Check an option -e of a playbook.

    Args:
        name: name of the option.
        option: its value as `given`, and its description, as in settings.yml.
    """
    entry = dict(option)
    given = entry.pop("given", None)
    if isinstance(given, bool) and "on" in entry.get("enum", []):  # YAML parses on and off as booleans
        given = "on" if given else "off"
    problem = find_problem(name, given, entry, f"option -e {name}")
    if not problem:
        return None
    found = "nothing" if given in (None, "") else problem.found
    return Problem(problem.where, found, expected_of(entry), f"-e {name}={shlex.quote(str(entry['example']))}")


def check_host(
    hostvars: Mapping[str, Any],
    explain: Callable[[str, AnsibleError], Iterable[Problem]],
    known: set[str],
    chosen: str | None = None,
    keys: list[str] | None = None,
    runs_apps: bool = True,
) -> Iterator[Problem]:
    """Check one host, or only some keys of the chosen app; add the names of its apps to `known`."""
    unreadable: dict[str, list[Problem]] = {}

    def get(name: str) -> Any:
        try:
            return None if name in unreadable else hostvars[name]
        except AnsibleError as error:  # an undefined variable, no vault password
            unreadable[name] = list(explain(name, error))
            return None

    apps = get("apps") if "apps" in hostvars else []
    if "apps" not in hostvars and runs_apps:
        expected = "a list of apps, in group_vars/webservers/main.yml or host_vars/HOST.yml; [] for a host without apps"
        yield Problem("key apps", "nothing", expected, APPS_EXAMPLE)
    elif runs_apps and not unreadable:
        yield from check_apps(apps) if keys is None else check_selected_keys(apps, chosen, keys)
        known.update(str(app["name"]) for app in apps or [] if isinstance(app, dict) and "name" in app)
    yield from check_connection(get, hostvars)
    if keys is None:
        yield from check_machine(hostvars, get, apps, unreadable)
    for found in unreadable.values():
        yield from found


def check_machine(
    hostvars: Mapping[str, Any], get: Callable[[str], Any], apps: Any, unreadable: Mapping[str, list[Problem]]
) -> Iterator[Problem]:
    """Check the settings of one host. A setting that can't be evaluated has no problem but that one."""
    for name in machine_settings():
        if name in hostvars:
            get(name)
    yield from check_settings([name for name in hostvars if name not in unreadable], get)
    yield from check_account_names(
        apps, {key: str(get(key)) for key in ("ansible_user", "admin_user") if key in hostvars}
    )
    if "backup_targets" in hostvars:
        yield from check_backup_targets(plain(get("backup_targets")))
    yield from check_admin_keys(plain(get("admin_keys")) if "admin_keys" in hostvars else None)
    dns = ("certificate_dns_provider", "certificate_dns_credentials")
    if not unreadable.keys() & set(dns):
        yield from check_dns(apps, *(get(key) if key in hostvars else "" for key in dns))
