"""Check the whole inventory at once, on the control node, before any host is touched.

One error names everything that is wrong: where, what was found, what is expected, and an example.
"""

from __future__ import annotations

import datetime
import difflib
import ipaddress
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase
from ansible.release import __version__ as ansible_version
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

PROJECT = Path(__file__).resolve().parents[2]
OLDEST_ANSIBLE = (2, 19)
# The address in the inventory that ships with the project.
PLACEHOLDER = "203.0.113.10"
# Names of users and of folders that a Debian machine has for itself.
RESERVED = {
    *("root", "daemon", "bin", "sys", "sync", "games", "man", "lp", "mail", "news", "uucp", "proxy", "www-data"),
    *("backup", "list", "irc", "nobody", "sshd", "messagebus", "systemd", "nginx", "postgres", "mysql", "redis"),
    *("docker", "disk", "shadow", "tty", "audio", "video", "input", "kvm", "render", "crontab", "polkitd"),
    # the role certificate's own
    *("certificates", "all", "certbot", "challenges", "changed", "lock"),
    "uv",  # the user who fetches packages
    *("admin", "debian", "ubuntu", "sudo", "adm", "staff", "users", "ssh", "git", "ftp", "http", "default"),
}


@dataclass(frozen=True)
class Problem:
    """Something in the inventory that is not as it should be."""

    where: str  # what it is about, without the host: "app blueoctopus, key domains"
    found: str
    expected: str
    example: str


@dataclass(frozen=True)
class Key:
    """What a key of an entry in `apps` may hold."""

    type: type
    expected: str
    example: str
    fits: Callable[[Any], bool] = lambda _value: True
    required: bool = False
    secret: bool = False  # its value is never shown


def is_domain(value: object) -> bool:
    """Whether a value is a host name, or an address for those who have no name yet."""
    if not isinstance(value, str):
        return False
    try:
        return ipaddress.ip_address(value).version == 4
    except ValueError:
        label = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
        fits = re.fullmatch(rf"(\*\.)?{label}(\.{label})*", value)
        return len(value) <= 253 and bool(fits) and not value[-1].isdigit()


def is_relative_file(value: str) -> bool:
    """Whether a value is a path that stays inside of the folder it is relative to."""
    return bool(re.fullmatch(r"[\w./@+-]+", value)) and not value.startswith("/") and ".." not in value.split("/")


def is_environment(value: Mapping[Any, Any]) -> bool:
    """Whether a value is a set of environment variables with plain values of one line or more."""
    return all(
        isinstance(k, str)
        and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", k)
        and isinstance(v, str | int | float)
        and "\0" not in str(v)
        for k, v in value.items()
    )


def is_command(value: object) -> bool:
    """Whether a value is one line that splits into words."""
    if not isinstance(value, str) or not value.isprintable():
        return False
    try:
        return bool(shlex.split(value))
    except ValueError:
        return False


def are_beside(entries: list[Any], required: set[str], optional: set[str]) -> bool:
    """Whether a list holds processes or timers: their keys, and values that fit."""
    names = []
    for entry in entries:
        if not isinstance(entry, dict) or not required <= set(entry) <= required | optional:
            return False
        count, calendar = entry.get("count", 1), entry.get("on_calendar", "daily")
        fits = (
            isinstance(entry["name"], str)
            and re.fullmatch(r"[a-z][a-z0-9-]{0,30}", entry["name"])
            and entry["name"] != "release-command"  # names the unit of the release command
            and is_command(entry["command"])
            and isinstance(count, int)
            and not isinstance(count, bool)
            and 1 <= count <= 64
            and isinstance(calendar, str)
            and re.fullmatch(r"[\w ,*:/.~+-]+", calendar)
        )
        if not fits:
            return False
        names.append(entry["name"])
    return len(set(names)) == len(names)


def is_network(value: object) -> bool:
    """Whether a value is an address or a network."""
    try:
        ipaddress.ip_network(str(value))
    except ValueError:
        return False
    return isinstance(value, str) and "%" not in value


def are_headers(value: Mapping[Any, Any]) -> bool:
    """Whether a value is a set of HTTP headers that nginx can add as they are written; it has no way to write a $."""
    return all(
        isinstance(k, str)
        and re.fullmatch(r"[A-Z][A-Za-z0-9]*(-[A-Z][A-Za-z0-9]*)*", k)
        and isinstance(v, str)
        and v.isascii()
        and (not v or v.isprintable())
        and not set(v) & set('"$')
        for k, v in value.items()
    )


def is_static(value: Mapping[str, Any]) -> bool:
    """Whether a value says where static files are, or that there are none."""
    url, path = value.get("url"), value.get("path", "static")
    return (
        set(value) <= {"url", "path"}
        and isinstance(url, str)
        and bool(re.fullmatch(r"(/[\w.-]+)+/|", url, re.ASCII))
        and ".." not in url
        and isinstance(path, str)
        and is_relative_file(path)
    )


def are_limits(value: Mapping[str, Any]) -> bool:
    """Whether a value holds the three limits."""
    return set(value) == {"requests", "burst", "connections"} and all(
        isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= 100_000 for v in value.values()
    )


GIT_URL = re.compile(r"((https?|ssh|git|file)://|[\w.-]+@[\w.-]+:)[^\s'\"]+")
GIT_VERSION = re.compile(r"[\w][\w./+-]*")
COMMAND = "a command line; its words are split as a shell would, but no shell runs it"
SECONDS = "a whole number of seconds, from 1 to 3600"
VARIABLES = "variables by name (letters, digits and _), each with a text or a number"

# Every key that an entry of `apps` may have. What is left out gets the default of the role `app`.
KEYS = {
    "name": Key(
        str,
        "a name of 1 to 31 characters: a lower-case letter, then lower-case letters, digits and '-'; "
        "not one that Debian uses for itself",
        "name: blueoctopus",
        lambda v: bool(re.fullmatch(r"[a-z][a-z0-9-]{0,30}", v)) and v not in RESERVED and not v.endswith("-"),
        required=True,
    ),
    "domains": Key(
        list,
        "a list of host names in lower case (or IPv4 addresses), the canonical one first, none twice; all but the "
        "first may begin with '*.'",
        "domains: [example.org, www.example.org]",
        lambda v: bool(v) and all(map(is_domain, v)) and len(set(v)) == len(v) and not v[0].startswith("*"),
        required=True,
    ),
    "source": Key(
        str,
        "a folder that is there, absolute or relative to the project's root, or the URL of a Git repository",
        "source: app",
        lambda v: bool(GIT_URL.fullmatch(v)) or (PROJECT / v).is_dir(),
        required=True,
    ),
    "version": Key(
        str, "a branch, tag or commit of the Git repository", "version: main", lambda v: bool(GIT_VERSION.fullmatch(v))
    ),
    "requirements": Key(
        str, "a file in the source, relative to it", "requirements: requirements.txt", is_relative_file
    ),
    "wsgi": Key(
        str,
        "the WSGI callable, MODULE:NAME",
        "wsgi: main:app",
        lambda v: bool(re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*(\(\))?", v, re.ASCII)),
        required=True,
    ),
    "health_path": Key(
        str,
        "a path that begins with /, without spaces",
        "health_path: /healthz",
        lambda v: bool(re.fullmatch(r"/[\w./~%?&=+:@,;-]*", v, re.ASCII)),
    ),
    "health_timeout": Key(int, SECONDS, "health_timeout: 30", lambda v: 1 <= v <= 3600),
    "drain_timeout": Key(int, SECONDS, "drain_timeout: 30", lambda v: 1 <= v <= 3600),
    "release_command": Key(str, COMMAND, "release_command: flask --app main db upgrade", is_command),
    "release_timeout": Key(int, SECONDS, "release_timeout: 600", lambda v: 1 <= v <= 3600),
    "keep_releases": Key(int, "a whole number from 1 to 100", "keep_releases: 5", lambda v: 1 <= v <= 100),
    "processes": Key(
        list,
        "a list of processes, each with a name of its own, a command and, if need be, a count from 1 to 64",
        "processes: [{name: mail, command: python mail.py, count: 2}]",
        lambda v: are_beside(v, {"name", "command"}, {"count"}),
    ),
    "timers": Key(
        list,
        "a list of timers, each with a name of its own, a command and systemd's on_calendar",
        "timers: [{name: cleanup, command: flask --app main cleanup, on_calendar: daily}]",
        lambda v: are_beside(v, {"name", "command", "on_calendar"}, set()),
    ),
    "workers": Key(
        int,
        "a whole number from 1 to 256; leave it out to go by the host's cores",
        "workers: 3",
        lambda v: 1 <= v <= 256,
    ),
    "environment": Key(dict, VARIABLES, "environment: {GREETING: hello}", is_environment),
    "secrets": Key(dict, VARIABLES, 'secrets: {SECRET_KEY: "{{ vault_secret_key }}"}', is_environment, secret=True),
    "static": Key(
        dict,
        "the address of files that nginx serves by itself, and their folder in the source; url: '' for none",
        "static: {url: /static/, path: static}",
        is_static,
    ),
    "headers": Key(
        dict,
        'headers by name (capitals as usual), each a line without " and $; an empty one takes a default away',
        "headers: {X-Frame-Options: SAMEORIGIN}",
        are_headers,
    ),
    "limits": Key(
        dict,
        "what one client may ask for: requests in a second, a burst beyond that, and connections, as whole numbers; 0 "
        "requests or connections are no limit",
        "limits: {requests: 30, burst: 120, connections: 60}",
        are_limits,
    ),
    "upload_limit": Key(
        str,
        "the largest request body, a number with k, m or g",
        "upload_limit: 50m",
        lambda v: bool(re.fullmatch(r"[0-9]+[kmg]?", v)),
    ),
    "timeout": Key(int, SECONDS, "timeout: 60", lambda v: 1 <= v <= 3600),
    "websockets": Key(bool, "true or false", "websockets: true"),
    "streaming": Key(bool, "true or false", "streaming: true"),
    "network": Key(bool, "true or false", "network: false"),
    "memory_limit": Key(
        str,
        "an amount such as 512M or 2G, a share of the machine's memory such as 50%, or infinity",
        "memory_limit: 512M",
        lambda v: bool(re.fullmatch(r"[1-9][0-9]*[KMGT]|[1-9][0-9]?%|100%|infinity", v)),
    ),
    "tasks_limit": Key(int, "a whole number from 16 to 100000", "tasks_limit: 512", lambda v: 16 <= v <= 100000),
    "maintenance_allow": Key(
        list, "a list of addresses and networks", "maintenance_allow: [198.51.100.7]", lambda v: all(map(is_network, v))
    ),
    "tls": Key(
        str,
        "where the certificate comes from: acme, selfsigned or provided; or none, for plain HTTP",
        "tls: acme",
        lambda v: v in ("acme", "selfsigned", "provided", "none"),
    ),
    "tls_challenge": Key(str, "http or dns", "tls_challenge: http", lambda v: v in ("http", "dns")),
    "tls_certificate": Key(
        str,
        "a certificate and those between it and the CA's root, in PEM form",
        "tls_certificate: \"{{ lookup('ansible.builtin.file', 'shop.pem') }}\"",
        lambda v: v.startswith("-----BEGIN CERTIFICATE-----"),
    ),
    "tls_key": Key(
        str,
        "the certificate's private key, in PEM form, not encrypted",
        'tls_key: "{{ vault_shop_key }}"',
        lambda v: v.startswith("-----BEGIN ") and "PRIVATE KEY-----" in v and "ENCRYPTED" not in v,
        secret=True,
    ),
}
ADDRESSES = ("admin_addresses", "fail2ban_ignore", "firewall_ssh_from", "firewall_ssh_unlimited")
# Settings whose type alone does not say what they may hold, and in words; they reach configuration files.
SHAPES = {
    "nginx_client_max_body_size": (r"[0-9]+[kKmMgG]?", "a size in nginx's notation"),
    "base_reboot_time": (r"|([01]\d|2[0-3]):[0-5]\d", "a time, HH:MM, or nothing"),
    "base_timezone": (r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*", "the name of a zone in the tz database"),
    "base_locale": (r"[\w.@-]+", "the name of a locale"),
    "base_journal_size": (r"[0-9]+[KMGT]?", "a size in journald's notation"),
    "admin_user": (r"(?!root$)[a-z_][a-z0-9_-]{0,31}", "a user other than root: small letters, digits, - and _"),
    "hardening_unused_modules": (r"\[('[\w-]+'(, )?)*\]", "names of kernel modules"),
    "hardening_banner": (r"[^\\]*", "a text without \\, which a console would read in its own way"),
}
TYPE_NAMES = {
    str: "text",
    int: "a whole number",
    bool: "true or false",
    list: "a list",
    dict: "a set of keys and values",
}


def did_you_mean(word: str, known: list[str]) -> str:
    """A hint at the known word that was likely meant, or nothing."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def check_value(name: str, value: Any, where: str) -> Iterator[Problem]:
    """Check one known key of an app."""
    key = KEYS[name]
    typed = isinstance(value, key.type) and isinstance(value, bool) == (key.type is bool)
    if typed and key.fits(value):
        return
    found = "(not shown: it may hold secrets)" if key.secret else repr(plain(value))
    expected = key.expected if typed else f"{TYPE_NAMES[key.type]}: {key.expected}"
    yield Problem(f"{where}, key {name}", found, expected, key.example)


def check_used(apps: Any, chosen: str | None, keys: list[str]) -> Iterator[Problem]:
    """Check only what a playbook uses: some keys of one app, or of all. For the worst night, the rest may be wrong."""
    for number, app in enumerate(apps if isinstance(apps, list) else []):
        if isinstance(app, dict) and chosen in (None, app.get("name")):
            for key in keys:
                if key in app:
                    yield from check_value(key, app[key], f"app {app.get('name', f'number {number + 1}')}")


def check_apps(apps: Any) -> Iterator[Problem]:
    """Check the list `apps` of one host."""
    example = "apps: [{name: blueoctopus, domains: [example.org], source: app, wsgi: main:app}]"
    if not isinstance(apps, list):
        yield Problem("key apps", repr(plain(apps)), "a list of apps", example)
        return
    names: set[str] = set()
    owners: dict[str, str] = {}
    for number, app in enumerate(apps):
        if not isinstance(app, dict):
            yield Problem(f"key apps[{number}]", repr(plain(app)), "a set of keys and values", example)
            continue
        name = app.get("name")
        where = f"app {name}" if isinstance(name, str) else f"app number {number + 1}"
        for key in KEYS:
            if key in app:
                yield from check_value(key, app[key], where)
            elif KEYS[key].required:
                yield Problem(f"{where}, key {key}", "nothing", KEYS[key].expected, KEYS[key].example)
        for key in app:
            if key not in KEYS:
                hint = did_you_mean(str(key), list(KEYS))
                yield Problem(f"{where}, key {key}", "an unknown key", f"one of {', '.join(KEYS)}{hint}", example)
        yield from check_tls(app, where)
        if name in names:
            yield Problem(where, "two apps of this name", "a name of its own for each app", KEYS["name"].example)
        if isinstance(name, str):
            names.add(name)
        for domain in app["domains"] if isinstance(app.get("domains"), list) else []:
            owner = owners.setdefault(str(domain), where)
            if owner != where:
                expected = f"one app for each domain; {owner} has it already"
                yield Problem(f"{where}, key domains", repr(str(domain)), expected, KEYS["domains"].example)


def check_tls(app: Mapping[str, Any], where: str) -> Iterator[Problem]:
    """Check that an app's domains can have the certificate that is asked for."""
    tls, domains = app.get("tls", "acme"), app.get("domains")
    if tls == "none" or not KEYS["tls"].fits(tls) or not isinstance(domains, list) or not KEYS["domains"].fits(domains):
        return
    for domain in domains:
        if domain.replace(".", "").isdigit():
            expected = "a host name, or plain HTTP: who asks for an address tells nginx no name to go by"
            yield Problem(f"{where}, key tls", f"{tls}, for {domain}", expected, "tls: none")
    if tls == "provided":
        yield from check_provided(app, where)
    for domain in domains if tls == "acme" else []:
        if domain.startswith("*.") and app.get("tls_challenge", "http") == "http":
            expected = "the challenge dns, with certificate_dns_provider: a CA certifies a wildcard in no other way"
            yield Problem(f"{where}, key tls_challenge", f"http, for {domain}", expected, "tls_challenge: dns")


def check_provided(app: Mapping[str, Any], where: str) -> Iterator[Problem]:
    """Check a provided certificate: it can be read, is valid now and for all domains, and the key is its own."""
    for name in ("tls_certificate", "tls_key"):
        if not isinstance(app.get(name), str) or not KEYS[name].fits(app[name]):
            if name not in app:
                yield Problem(f"{where}, key {name}", "nothing", KEYS[name].expected, KEYS[name].example)
            return
    example = KEYS["tls_certificate"].example
    try:
        certificate = x509.load_pem_x509_certificates(app["tls_certificate"].encode())[0]
    except ValueError:
        yield Problem(
            f"{where}, key tls_certificate", "a text that is no certificate", "a certificate in PEM form", example
        )
        return
    now = datetime.datetime.now(datetime.UTC)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        found = f"valid from {certificate.not_valid_before_utc:%Y-%m-%d} to {certificate.not_valid_after_utc:%Y-%m-%d}"
        yield Problem(f"{where}, key tls_certificate", found, "a certificate that is valid now", example)
    try:
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        named = [*alternatives.get_values_for_type(x509.DNSName)]
        named += map(str, alternatives.get_values_for_type(x509.IPAddress))
    except x509.ExtensionNotFound:
        named = []
    missing = [d for d in app["domains"] if d not in named and f"*.{d.partition('.')[2]}" not in named]
    if missing:
        found = f"for {', '.join(named) or 'no name'}, not for {', '.join(missing)}"
        yield Problem(f"{where}, key tls_certificate", found, "a certificate for all domains of the app", example)
    try:
        key = serialization.load_pem_private_key(app["tls_key"].encode(), None)
        fits = key.public_key() == certificate.public_key()
    except (ValueError, TypeError):
        fits = False
    if not fits:
        found = "a key that does not belong to tls_certificate"
        yield Problem(f"{where}, key tls_key", found, KEYS["tls_key"].expected, KEYS["tls_key"].example)


def plain(value: Any) -> Any:
    """A value without Ansible's own types, so that it prints as the user wrote it."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def role_options() -> dict[str, dict[str, Any]]:
    """The settings that users make for machines: every argument of every role but `app`, which has the list `apps`."""
    options: dict[str, dict[str, Any]] = {}
    for path in sorted(PROJECT.glob("roles/*/meta/argument_specs.yml")):
        if path.parts[-3] != "app":
            options |= yaml.safe_load(path.read_text())["argument_specs"]["main"]["options"]
    return options


def check_settings(variables: Mapping[str, Any], get: Callable[[str], Any]) -> Iterator[Problem]:
    """Check the machine settings of one host against the roles' argument specs; find misspelt ones."""
    options = role_options()
    prefixes = tuple({f"{name.split('_')[0]}_" for name in options})
    for name in variables:
        if name in options:
            spec = {name: without_docs(options[name])}
            result = ArgumentSpecValidator(spec).validate({name: plain(get(name))})
            value = plain(get(name))
            pattern, meant = SHAPES.get(name, (".*", ""))
            if not re.fullmatch(pattern, str(value), re.DOTALL):
                yield Problem(f"key {name}", repr(value), meant, f"{name}: {options[name].get('default')}")
            for found, expected, example in odd_values(name, str(options[name]["type"]), value):
                yield Problem(f"key {name}", found, expected, f"{name}: {example}")
            for message in result.error_messages:
                described = str(options[name]["description"]).rstrip(".")
                expected = f"{options[name]['type']}: {described}. {message}"
                yield Problem(
                    f"key {name}", repr(plain(get(name))), expected, f"{name}: {options[name].get('default')}"
                )
        elif name.startswith(prefixes) and did_you_mean(name, list(options)):
            hint = did_you_mean(name, list(options))
            yield Problem(f"key {name}", "an unknown key", f"a setting of a role{hint}", "see roles/*/README.md")


def odd_values(name: str, kind: str, value: Any) -> Iterator[tuple[str, str, str]]:
    """What is wrong with a setting though its type may pass: what was found, what is expected, an example."""
    if kind == "list" and not isinstance(value, list):
        yield repr(value), "a list", f"[{value}]"
        return
    if re.search(r"_ports?$", name):
        for port in value if isinstance(value, list) else [value]:
            if str(port).isdigit() and not 0 < int(port) < 65536:
                yield str(port), "a port, from 1 to 65535", "[443]" if kind == "list" else "2222"
    rules = [rule for rule in value if isinstance(rule, dict)] if name == "firewall_allow" else []
    sources = value if name in ADDRESSES else [rule["from"] for rule in rules if rule.get("from")]
    for source in sources:
        try:
            ipaddress.ip_network(str(source), strict=False)
        except ValueError:
            example = "[{port: 9100, from: 198.51.100.7}]" if rules else "[198.51.100.7, 2001:db8::/32]"
            yield repr(source), "addresses or networks, by numbers", example


def without_docs(spec: Mapping[str, Any]) -> dict[str, Any]:
    """An argument spec as the validator takes it: types and bounds, no descriptions, nothing filled in."""
    kept = {key: value for key, value in spec.items() if key in ("type", "elements", "choices", "required")}
    if "options" in spec:
        kept["options"] = {name: without_docs(option) for name, option in spec["options"].items()}
    return kept


def check_connection(get: Callable[[str], Any], variables: Mapping[str, Any]) -> Iterator[Problem]:
    """Check how a host is reached."""
    address = str(get("ansible_host")) if "ansible_host" in variables else ""
    if address == PLACEHOLDER:
        yield Problem(
            "key ansible_host",
            f"{address}, which only holds the place",
            "the address of your machine, in hosts.yml",
            "ansible_host: 198.51.100.7",
        )


def check_dns(apps: Any, provider: Any, credentials: Any) -> Iterator[Problem]:
    """Check that a DNS provider and its credentials are set where an app has the challenge dns."""
    for app in apps if isinstance(apps, list) else []:
        if isinstance(app, dict) and app.get("tls_challenge") == "dns" and not provider:
            found, expected = "dns, but no certificate_dns_provider", "the provider of your DNS; see docs/https.md"
            example = "certificate_dns_provider: cloudflare"
            yield Problem(f"app {app.get('name')}, key tls_challenge", found, expected, example)
    if provider and not credentials:
        expected = f"the content of the credentials file of certbot-dns-{provider}; see docs/https.md"
        example = 'certificate_dns_credentials: "dns_cloudflare_api_token = {{ vault_dns_token }}"'
        yield Problem("key certificate_dns_credentials", "nothing", expected, example)


def check_names(apps: Any, logins: Mapping[str, str]) -> Iterator[Problem]:
    """Check that no app takes the name of a user who logs in: it would take the account, too."""
    for app in apps if isinstance(apps, list) else []:
        for key, login in logins.items():
            if isinstance(app, dict) and app.get("name") == login:
                found, expected = f"'{login}', which is also {key}", "a name that no user of the machine has"
                yield Problem(f"app {login}, key name", found, expected, KEYS["name"].example)


def check_keys(keys: Any) -> Iterator[Problem]:
    """Check that each of admin_keys is a public key, and that there is one."""
    example = "admin_keys: [ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI… somebody@laptop]"
    if keys == []:
        expected = "the public keys of the administrators, or no such line: then whoever logs in now stays"
        yield Problem("key admin_keys", "an empty list, so nobody could log in", expected, example)
    for number, key in enumerate(keys if isinstance(keys, list) else [], start=1):
        try:
            serialization.load_ssh_public_key(str(key).strip().encode())
        except (ValueError, UnsupportedAlgorithm):
            found = "a private key" if "PRIVATE KEY" in str(key) else repr(f"{str(key)[:40]}…")
            expected = "public keys, each as the one line of a file such as ~/.ssh/id_ed25519.pub"
            yield Problem(f"key admin_keys, entry {number}", f"{found}, which is none", expected, example)


def report(problems: dict[Problem, list[str]]) -> str:
    """All problems as one text; hosts that share one are named together."""
    count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
    lines = [f"The inventory has {count}. No host was touched."]
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


class ActionModule(ActionBase):
    """Check what the inventory says of every host of the play."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        variables = task_vars or {}
        self.check_ansible()
        problems: dict[Problem, list[str]] = {}
        chosen = variables.get("app")
        known: set[str] = set()
        for host in variables["ansible_play_hosts_all"]:
            for problem in self.check_host(variables["hostvars"][host], known, chosen, variables.get("checked_keys")):
                problems.setdefault(problem, []).append(host)
        if (chosen is not None or variables.get("app_needed")) and chosen not in known and not problems:
            expected = f"the name of an app in the inventory: {', '.join(sorted(known)) or 'there is none'}"
            found = "nothing" if chosen is None else repr(str(chosen))
            problems[Problem("option -e app", found, expected, "-e app=blueoctopus")] = ["all"]
        for option, choices in variables.get("needed_options", {}).items():
            given = plain(variables.get(option))
            given = {True: "on", False: "off"}.get(given, given) if isinstance(given, bool) else given
            if given not in choices:
                found = "nothing" if given is None else repr(given)
                expected = f"one of {', '.join(choices)}"
                problems[Problem(f"option -e {option}", found, expected, f"-e {option}={choices[0]}")] = ["all"]
        if problems:
            raise AnsibleActionFail(report(problems))
        return result | {"changed": False}

    @staticmethod
    def check_ansible() -> None:
        """Refuse an Ansible that reads this project differently from how it was tested."""
        version = tuple(int(n) for n in re.findall(r"\d+", ansible_version)[:2])
        if version < OLDEST_ANSIBLE:
            wanted = ".".join(map(str, OLDEST_ANSIBLE))
            raise AnsibleActionFail(
                f"This is ansible-core {ansible_version}, but {wanted} or newer is needed. Run script/bootstrap, "
                "then: source .venv/bin/activate. No host was touched."
            )

    @staticmethod
    def check_host(
        hostvars: Mapping[str, Any], known: set[str], chosen: str | None = None, keys: list[str] | None = None
    ) -> Iterator[Problem]:
        """Check one host, or only these keys of the chosen app; note the names of its apps in `known`."""
        unreadable: list[Problem] = []

        def get(name: str) -> Any:
            try:
                return hostvars[name]
            except AnsibleError as error:  # an undefined variable, a wrong vault password
                found = f"a value that can't be worked out: {error}"
                unreadable.append(Problem(f"key {name}", found, "a value, or variables that are defined", "-"))
                return None

        apps = get("apps") if "apps" in hostvars else []
        if not unreadable:
            yield from check_apps(apps) if keys is None else check_used(apps, chosen, keys)
            known.update(str(app["name"]) for app in apps or [] if isinstance(app, dict) and "name" in app)
        yield from check_connection(get, hostvars)
        if keys is not None:
            yield from unreadable
            return
        yield from check_settings(hostvars, get)
        yield from check_names(apps, {key: str(get(key)) for key in ("ansible_user", "admin_user") if key in hostvars})
        yield from check_keys(plain(get("admin_keys")) if "admin_keys" in hostvars else None)
        dns = [
            get(key) if key in hostvars else "" for key in ("certificate_dns_provider", "certificate_dns_credentials")
        ]
        yield from check_dns(apps, *dns)
        yield from unreadable
