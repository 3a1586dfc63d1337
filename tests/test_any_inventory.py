"""Random inventories, drawn from the settings: valid values arrive unchanged in the templates, wrong ones are named.

The environment variable INVENTORIES sets how many are drawn for each test; 40 when it is not set. Tests
that start no program draw eight times as many.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.blueoctopus.site.plugins.filter.systemd import systemd_command
from ansible_collections.blueoctopus.site.plugins.module_utils.release_build import environment_file
from ansible_collections.blueoctopus.site.plugins.modules.admin_account import sudo_rule
from ansible_collections.blueoctopus.site.plugins.plugin_utils import settings
from ansible_collections.blueoctopus.site.plugins.plugin_utils.inventory import check_apps
from ansible_collections.blueoctopus.site.plugins.plugin_utils.validation import find_problem
from hypothesis import HealthCheck, Phase, assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from nginx_site import Site, needs_nginx

ROLE = Path(__file__).resolve().parent.parent / "roles/app"
SBIN = f"{os.environ['PATH']}:/usr/sbin"
WORD = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1)
FORMATS = {
    "command": st.lists(WORD, min_size=1).map(shlex.join),
    "domain": st.from_regex(r"[a-z][a-z0-9]{0,20}(\.[a-z]{2,10}){1,3}", fullmatch=True),
    "network": st.ip_addresses().map(str),
    "nginx-block": st.sampled_from(["", "# }", "location = /ping { return 204; }", 'set $own "${host}} ; {";']),
    "data-folder": st.from_regex(re.compile(r"[\w-]{1,10}(/[\w-]{1,10}){0,2}", re.ASCII), fullmatch=True),
    "relative-path": st.from_regex(re.compile(r"[\w-]{1,10}(/[\w-]{1,10}){0,2}", re.ASCII), fullmatch=True),
    # Longer names than those of "relative-path", as the two must differ.
    "shared-path": st.from_regex(re.compile(r"shared-data[\w-]{0,10}(/[\w-]{1,10}){0,2}", re.ASCII), fullmatch=True),
    "source": st.just("app"),
    "static-path": st.from_regex(re.compile(r"(package:[a-z]\w{0,9}/)?[\w-]{1,9}", re.ASCII), fullmatch=True),
}
# Certificates are no random texts, and some keys must fit others; these checks have tests of their own.
FITTING = {"subfolder", "extras", "groups"}
KEYS = {
    name: entry for name, entry in settings.app_keys().items() if not name.startswith("tls") and name not in FITTING
}
draws = hypothesis_settings(
    max_examples=int(os.environ.get("INVENTORIES", "40")),
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
many_draws = hypothesis_settings(draws, max_examples=8 * draws.max_examples)


def values(schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Values that a schema allows, as far as its keywords tell."""
    if schema.get("format") in FORMATS:
        return FORMATS[schema["format"]]
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if isinstance(schema["type"], list):
        return st.one_of([values({**schema, "type": kind}) for kind in schema["type"]])
    if schema["type"] == "string":
        pattern = re.compile(schema.get("pattern", r"[^\x00]*"), re.ASCII)
        return st.from_regex(pattern, fullmatch=True)
    if schema["type"] == "integer":
        return st.integers(schema.get("minimum"), schema.get("maximum"))
    if schema["type"] == "number":
        return st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    if schema["type"] == "boolean":
        return st.booleans()
    if schema["type"] == "array":
        unique = repr if schema.get("uniqueItems") else None
        return st.lists(values(schema["items"]), min_size=schema.get("minItems", 0), max_size=3, unique_by=unique)
    if "properties" in schema:
        inner = {name: values(entry) for name, entry in schema["properties"].items()}
        required = {name: inner.pop(name) for name in schema.get("required", [])}
        return st.fixed_dictionaries(required, optional=inner)
    names = st.from_regex(re.compile(schema["propertyNames"]["pattern"], re.ASCII), fullmatch=True)
    return st.dictionaries(names, values(schema["additionalProperties"]), max_size=3)


def valid(name: str) -> st.SearchStrategy[Any]:
    """Valid values of a key of `apps`."""
    return values(KEYS[name]).filter(lambda value: find_problem(name, value, KEYS[name], name) is None)


REQUIRED = {name: valid(name) for name in KEYS if KEYS[name].get("required")}


def has_own_paths(app: dict[str, Any]) -> bool:
    """Whether each path of an app has one use only; the check of that has tests of its own."""
    complete = settings.with_defaults(app)
    urls = [folder["url"] for folder in (*complete["static"], complete["media"], complete["private_files"])]
    urls = [url for url in urls if url]
    redirects = [(entry["from"], entry["to"]) for entry in complete["redirects"]]
    folders = [f"{complete[key]['path']}/" for key in ("media", "private_files") if complete[key]["url"]]
    overlaps = any(
        a.startswith(b) for paths in (urls, folders) for at, a in enumerate(paths) for b in paths[:at] + paths[at + 1 :]
    )
    health_path = complete["health_path"].split("?")[0]
    open_directives = complete["path"] != "/" and complete["basic_auth"] and complete["nginx_extra"]
    has_conflict = overlaps or open_directives
    return not has_conflict and all(path not in (target, health_path, "/robots.txt") for path, target in redirects)


APPS = st.fixed_dictionaries(REQUIRED, optional={name: valid(name) for name in KEYS if name not in REQUIRED}).filter(
    has_own_paths
)
ANYTHING = (
    st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text()) | st.dictionaries(st.text(), st.text())
)


@functools.cache
def variables() -> dict[str, Any]:
    """The role's own variables, which Ansible may template."""
    found = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    for name, value in yaml.safe_load((ROLE / "vars/main.yml").read_text()).items():
        found[name] = trust_as_template(value) if isinstance(value, str) else value
    return dict(found)


def render(template: str, app: Mapping[str, Any], **others: Any) -> str:
    """Render a template of the role app, as a deploy does, with other values of some variables."""
    templar = Templar(DataLoader(), variables() | {"app_config": app, "ansible_managed": "managed"} | others)
    environment = templar.copy_with_new_env(searchpath=[str(ROLE / "templates")])
    text = trust_as_template((ROLE / "templates" / template).read_text())
    return str(environment.template(text, escape_backslashes=False, overrides={"trim_blocks": True}))


def with_owner(app: dict[str, Any]) -> list[dict[str, Any]]:
    """An app, after the app that has its domain if it has only a path of it."""
    if app.get("path", "/") == "/":
        return [app]
    owner = {"name": f"own-{app['name'][:20].rstrip('-')}", "source": "app", "wsgi": "main:app", "static": []}
    domains = app["domains"][:1]
    return [owner | {"domains": domains, "tls": app["tls"]}, app | {"domains": domains}]


@given(APPS)
@many_draws
def test_a_valid_app_has_no_problem(app: dict[str, Any]) -> None:
    assert list(check_apps(with_owner(app | {"tls": "none"}))) == []


# Reads paths of gunicorn's configuration files, and prints the settings that gunicorn itself has loaded from each.
LOAD_SETTINGS = """
import json, sys
from gunicorn.app.base import Application

class Settings(Application):
    def init(self, parser, opts, args):
        pass

    def load(self):
        pass

for line in sys.stdin:
    sys.argv = ["gunicorn", "--config", line.strip()]
    loaded = Settings().cfg
    names = "wsgi_app workers threads preload_app max_requests timeout graceful_timeout"
    print(json.dumps({name: getattr(loaded, name) for name in names.split()}), flush=True)
"""


@pytest.mark.slow
def test_gunicorn_loads_the_settings_of_a_valid_app(gunicorn: Path, tmp_path: Path) -> None:
    file = tmp_path / "gunicorn.conf.py"
    command = [str(gunicorn.parent / "python"), "-c", LOAD_SETTINGS]
    # Otherwise Python could take the bytecode of a former file that has the same size and time.
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    loader = subprocess.Popen(command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert loader.stdin
    assert loader.stdout

    @given(APPS)
    @draws
    def loads(app: dict[str, Any]) -> None:
        assert loader.stdin
        assert loader.stdout
        file.write_text(render("gunicorn.conf.py.j2", app))
        print(file, file=loader.stdin, flush=True)
        found, complete = json.loads(loader.stdout.readline()), settings.with_defaults(app)
        cores = 2 * len(os.sched_getaffinity(0)) + 1
        assert found == {
            "wsgi_app": complete["wsgi"],
            "workers": complete.get("workers", cores),
            "threads": complete["threads"],
            "preload_app": complete["preload"],
            "max_requests": complete["max_requests"],
            "timeout": max(60, complete["health_timeout"]),
            "graceful_timeout": complete["drain_timeout"],
        }

    try:
        loads()
    finally:
        loader.communicate()


@given(APPS)
@draws
def test_the_units_of_a_valid_app_hold_its_commands_and_nothing_else(app: dict[str, Any]) -> None:
    units = yaml.safe_load(render("units.yml.j2", app))
    name, expected = app["name"], 2
    if app.get("release_command"):
        expected += 1
        has_database = app.get("postgresql", False) is not False  # {} is a database with the defaults
        lock = f"/usr/bin/python3 -I /srv/{name}/releases/%i/command_lock.py " if has_database else ""
        line = f"ExecStart={lock}{systemd_command(app['release_command'])}"
        assert line in units[f"units/{name}.release-command@.service"].split("\n")
    for process in app.get("processes", []):
        expected += process.get("count", 1)
        unit = units[f"units/{name}.{process['name']}.1@.service"].split("\n")
        assert [line for line in unit if line.startswith("Exec")] == [
            f"ExecStart={systemd_command(process['command'])}"
        ]
    for timer in app.get("timers", []):
        expected += 2
        unit = units[f"units/{name}.{timer['name']}@.timer"].split("\n")
        assert [line for line in unit if line.startswith("On")] == [f"OnCalendar={timer['on_calendar']}"]
    for file, unit in units.items():
        if file.endswith(".service"):  # a line that is lost would let it run as root
            lines = unit.split("\n")
            assert {f"User={name}", "ProtectSystem=strict", "NoNewPrivileges=true"} <= set(lines), file
            assert all(re.fullmatch(r"#.*|\[\w+\]|[A-Z]\w+=.*|", line) for line in lines), file
    names = [entry["name"] for key in ("processes", "timers") for entry in app.get(key, [])]
    assert len(units) == expected or len(set(names)) < len(names)


INSTANCE = "20260101T000000Z-00000000aa"
# systemd prints what it has understood of each unit, as a debug message; and before each message its level.
SHOW_UNITS = {"SYSTEMD_LOG_LEVEL": "debug", "SYSTEMD_LOG_TARGET": "console-prefixed"}
CALENDARS = st.sampled_from(["daily", "*-*-* 04:00:00", "Mon..Fri *-*-01/2 12:00,30 UTC", "Mon *-*~07/1 Europe/Berlin"])


def with_valid_calendars(app: dict[str, Any], draw: Callable[[st.SearchStrategy[str]], str]) -> dict[str, Any]:
    """An app whose timers have times that systemd accepts; a deploy checks that on the host."""
    return app | {"timers": [timer | {"on_calendar": draw(CALENDARS)} for timer in app.get("timers", [])]}


def words_of(line: str) -> list[str]:
    """The words of a command line, as systemd prints it."""
    found = re.findall(r'"((?:\\.|[^"\\])*)"|(\S+)', line)
    return [plain or re.sub(r"\\(.)", r"\1", quoted) for quoted, plain in found]


@pytest.mark.needs("systemd-analyze")
def test_systemd_accepts_the_units_of_a_valid_app_with_its_commands(tmp_path: Path) -> None:
    units = tmp_path / "units"

    @given(APPS, st.data())
    @hypothesis_settings(draws, phases=[Phase.generate])
    def accepts(drawn: dict[str, Any], data: st.DataObject) -> None:
        app = with_valid_calendars(drawn, data.draw)
        name, root = app["name"], tmp_path / "srv" / drawn["name"]
        program = root / "releases" / INSTANCE / "venv/bin/gunicorn"
        program.parent.mkdir(parents=True, exist_ok=True)
        program.touch(0o755)
        shutil.rmtree(units, ignore_errors=True)
        units.mkdir()
        rendered = yaml.safe_load(render("units.yml.j2", app, __app_root=str(root)))
        for file, text in rendered.items():
            (units / Path(file).name.replace("@.", f"@{INSTANCE}.")).write_text(text)
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", *sorted(units.iterdir())],
            env={"PATH": os.environ["PATH"], "SYSTEMD_UNIT_PATH": f"{units}:"} | SHOW_UNITS,
            capture_output=True,
            text=True,
        )
        problems = [line for line in done.stderr.splitlines() if line[:4] not in ("<30>", "<31>")]
        # Debian 12 ignores these keys, which are new in systemd 254.
        problems = [line for line in problems if not re.search("Unknown key 'Restart(Steps|MaxDelaySec)'", line)]
        assert (done.returncode, problems) == (0, []), done.stderr
        read = dict(re.findall(r"(?:->|→) Unit (\S+):\n(.*?)(?=(?:->|→) Unit |\Z)", done.stdout, re.DOTALL))
        commands = {f"{name}.{process['name']}.1": process["command"] for process in app.get("processes", [])}
        commands |= {f"{name}.{timer['name']}": timer["command"] for timer in app.get("timers", [])}
        if app.get("release_command"):
            commands[f"{name}.release-command"] = app["release_command"]
        for unit, command in commands.items():
            (line,) = re.findall(r"Command Line: (.*)", read[f"{unit}@{INSTANCE}.service"])
            # systemd replaces $$ with $ when it starts the program.
            words = [word.replace("$$", "$") for word in words_of(line)]
            is_locked = unit.endswith(".release-command") and app.get("postgresql", False) is not False
            lock = ["/usr/bin/python3", "-I", f"{root}/releases/{INSTANCE}/command_lock.py"] if is_locked else []
            assert words == [*lock, "/usr/bin/env", *shlex.split(command)]

    accepts()


@given(valid("environment"), valid("secrets"))
@many_draws
def test_the_environment_of_a_valid_app_is_unchanged(plain: dict[str, Any], secrets: dict[str, Any]) -> None:
    texts = {name: str(value) for name, value in (plain | secrets).items()}
    # systemd parses the file like a shell parses words in double quotes.
    script = "".join(f'printf "%s\\0" "${name}"\n' for name in texts)
    done = subprocess.run(["sh", "-c", f"{environment_file(texts)}\n{script}"], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == list(texts.values())


@pytest.mark.needs("visudo")
def test_sudo_accepts_the_rule_of_a_valid_administrator(tmp_path: Path) -> None:
    file, entry = tmp_path / "sudoers", settings.machine_settings()["admin_user"]

    @given(values(entry))
    @draws
    def accepts(user: str) -> None:
        assert find_problem("admin_user", user, entry, "admin_user") is None
        file.write_text(sudo_rule(user))
        file.chmod(0o440)
        check = ["visudo", "--check", "--strict", f"--file={file}"]
        done = subprocess.run(check, env={"PATH": SBIN}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        convert = ["cvtsudoers", "--output-format=json", str(file)]
        (rule,) = json.loads(subprocess.check_output(convert, env={"PATH": SBIN}))["User_Specs"]
        assert rule["User_List"] == [{"username": user}]

    accepts()


@needs_nginx
def test_nginx_accepts_the_site_of_a_valid_app_with_its_values(site: Site) -> None:
    @given(APPS)
    @hypothesis_settings(draws, phases=[Phase.generate])  # to find a smaller app would take minutes
    def accepts(app: dict[str, Any]) -> None:
        assert site.check(*with_owner(app | {"tls": "selfsigned"})) == ""
        files = [site.folder / f"nginx/sites/{app['name']}.conf", *site.folder.glob("nginx/paths/*/*")]
        text = "".join(path.read_text() for path in files)
        assert app.get("nginx_extra", "") in text
        words = re.findall(r'"((?:\\.|[^"\\])*)"', re.sub(r"^ *#.*$", "", text, flags=re.MULTILINE))
        found = {word.replace('\\"', '"').replace("\\\\", "\\").removesuffix("$is_args$args") for word in words}
        assert {value for value in app.get("headers", {}).values() if value} <= found
        prefix = app.get("path", "/").rstrip("/")
        targets = [redirect[end] for redirect in app.get("redirects", []) for end in ("from", "to")]
        assert {prefix + target if target.startswith("/") else target for target in targets} <= found

    accepts()


@given(APPS, st.sampled_from(sorted(KEYS)), ANYTHING)
@many_draws
def test_a_wrong_value_is_named_with_its_key(app: dict[str, Any], key: str, value: Any) -> None:
    assume(find_problem(key, value, KEYS[key], key) is not None)
    problems = list(check_apps([app | {"tls": "none", "path": "/", key: value}]))
    assert problems
    assert all(problem.where.endswith(f", key {key}") for problem in problems), problems
