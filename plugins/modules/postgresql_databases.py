#!/usr/bin/python
"""Create databases in PostgreSQL, each with an owner of the same name, or drop them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_databases
short_description: Create or drop databases with their owners
description:
  - Creates databases, each with a role of the same name that owns it. No other role can connect to the database.
  - A database has the encoding UTF-8 and the locale C.UTF-8, which does not change with the version of the system.
  - Databases and extensions that are not listed stay as they are.
options:
  databases:
    description: The databases.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the database and of its owner.
        type: str
        required: true
      extensions:
        description: Extensions to create in the database.
        type: list
        elements: str
        default: []
      password:
        description:
          - Whether the owner logs in with a password. The module generates the password and keeps it in
            O(passwords). Statements contain only its SCRAM-SHA-256 verifier.
          - Without a password, only the Unix user with the name of the database can log in, over the Unix socket.
        type: bool
        default: false
  state:
    description: Whether the databases and their owners exist. V(absent) drops the data.
    type: str
    choices: [present, absent]
    default: present
  passwords:
    description: File on the host with the passwords, as JSON. Only root can read it.
    type: path
    default: /etc/postgresql-passwords.json
  connections:
    description: Number of connections that the server must accept. The module fails if it accepts fewer.
    type: int
    default: 0
  server_extensions:
    description: Extensions to create in the database C(postgres), which administrators use.
    type: list
    elements: str
    default: []
  standbys:
    description: >-
      Names of the replication slots of standbys. Other slots C(standby_*) that no standby uses are dropped, as the
      server keeps WAL for them.
    type: list
    elements: str
  replication:
    description: Whether to create the role C(site_replication), with which standbys connect. It has a password.
    type: bool
    default: false
extends_documentation_fragment:
  - blueoctopus.site.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
"""

EXAMPLES = r"""
- name: Create the databases
  blueoctopus.site.postgresql_databases:
    databases:
      - name: shop
        extensions: [pg_trgm]

- name: Drop a database and its owner
  blueoctopus.site.postgresql_databases:
    databases:
      - name: shop
    state: absent
"""

RETURN = r"""
names:
  description: Names of the databases that were created, changed or dropped, or are in check mode.
  returned: success
  type: list
  elements: str
"""

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.blueoctopus.site.plugins.module_utils.files import write
from ansible_collections.blueoctopus.site.plugins.module_utils.postgresql import (
    PostgresqlError,
    cluster_version,
    identifier,
    literal,
    psql,
    verifier,
    verifies,
)

# Roles and databases by name. PUBLIC means all roles; a database is open when they can connect to it.
STATE = """
SELECT json_build_object(
  'roles', (SELECT coalesce(json_object_agg(rolname, json_build_object(
      'plain', rolcanlogin AND NOT (rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls),
      'replicates', rolcanlogin AND rolreplication AND NOT (rolsuper OR rolcreatedb OR rolcreaterole OR rolbypassrls),
      'verifier', rolpassword)), '{}') FROM pg_authid),
  'databases', (SELECT coalesce(json_object_agg(datname, json_build_object(
      'owner', pg_get_userbyid(datdba), 'open', has_database_privilege('public', oid, 'CONNECT'))), '{}')
      FROM pg_database));
"""
SLOTS = r"""SELECT coalesce(json_agg(slot_name), '[]') FROM pg_replication_slots
  WHERE slot_type = 'physical' AND NOT active AND slot_name LIKE 'standby\_%';"""
EXTENSIONS = "SELECT coalesce(json_agg(extname), '[]') FROM pg_extension;"
PLAIN = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
REPLICATES = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE REPLICATION NOBYPASSRLS"
REPLICATION = "site_replication"  # no app can have this name
EMPTY: dict[str, Any] = {"roles": {}, "databases": {}}

Step = tuple[str, str, str]  # what it does, for the diff; the statement; the database to run it in


def role_steps(name: str, role: dict[str, Any] | None, password: str) -> Iterator[Step]:
    """The steps that are left for the owner of a database, or for the role of the standbys.

    Args:
        name: name of the role.
        role: its state; None without one.
        password: empty when the role logs in without one.
    """
    quoted = identifier(name)
    kind, attributes = ("replicates", REPLICATES) if name == REPLICATION else ("plain", PLAIN)
    if role is None:
        yield f"create the role {name}", f"CREATE ROLE {quoted} {attributes};", "postgres"
    elif not role[kind]:
        yield f"reset the attributes of the role {name}", f"ALTER ROLE {quoted} {attributes};", "postgres"
    stored = role["verifier"] if role else None
    if password and not verifies(stored, password):
        statement = f"ALTER ROLE {quoted} PASSWORD {literal(verifier(password))};"
        yield f"set the password of the role {name}", statement, "postgres"
    elif stored and not password:
        yield f"remove the password of the role {name}", f"ALTER ROLE {quoted} PASSWORD NULL;", "postgres"


def database_steps(name: str, database: dict[str, Any] | None) -> Iterator[Step]:
    """The steps that are left for a database; its state is None without one."""
    quoted = identifier(name)
    if database is None:
        statement = f"CREATE DATABASE {quoted} OWNER {quoted} TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C.UTF-8';"
        yield f"create the database {name}", statement, "postgres"
    elif database["owner"] != name:
        yield f"make {name} the owner of the database {name}", f"ALTER DATABASE {quoted} OWNER TO {quoted};", "postgres"
    if database is None or database["open"]:
        statement = f"REVOKE ALL ON DATABASE {quoted} FROM PUBLIC;"
        yield f"revoke access to the database {name} from other roles", statement, "postgres"


def extension_steps(name: str, extensions: list[str], exists: bool) -> Iterator[Step]:
    """The extensions that a database lacks."""
    present = json.loads(psql(EXTENSIONS, name)) if extensions and exists else []
    for extension in extensions:
        if extension not in present:
            # Into the schema public, unless the extension has one of its own.
            statement = f"SET search_path = public; CREATE EXTENSION IF NOT EXISTS {identifier(extension)} CASCADE;"
            yield f"create the extension {extension} in {name}", statement, name


def drop_steps(name: str, state: dict[str, Any]) -> Iterator[Step]:
    """Drop a database, its copies from restores, and its owner; skip databases of other owners."""
    database = state["databases"].get(name)
    if database and (database["owner"] != name or name == "postgres"):
        raise PostgresqlError(f"the owner of the database {name} is {database['owner']}. It was not dropped")
    for found, entry in state["databases"].items():
        if entry["owner"] == name and (found in (name, f"{name}-copy") or found.startswith(f"{name}.")):
            yield f"drop the database {found}", f"DROP DATABASE {identifier(found)} WITH (FORCE);", "postgres"
    if (state["roles"].get(name) or {}).get("plain"):
        yield f"drop the role {name}", f"DROP ROLE {identifier(name)};", "postgres"


class Passwords:
    """The passwords of the roles that need one, in a file that only root can read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}

    def save(self) -> None:
        if self.known:
            write(self.path, json.dumps(self.known, indent=2, sort_keys=True) + "\n", 0o600)
        else:
            self.path.unlink(missing_ok=True)

    def create(self, name: str) -> None:
        """Generate a password. It is stored before it is set in the server, so that an interrupted run loses none."""
        self.known[name] = secrets.token_urlsafe(32)
        self.save()

    def forget(self, name: str) -> None:
        if self.known.pop(name, None):
            self.save()


def steps(module: AnsibleModule, state: dict[str, Any], database: dict[str, Any], passwords: Passwords) -> list[Step]:
    """The steps that are left for a database and its owner."""
    name, present = database["name"], module.params["state"] == "present"
    if not present:
        return list(drop_steps(name, state))
    if database["password"] and name not in passwords.known and not module.check_mode:
        passwords.create(name)
    password = passwords.known.get(name, "unknown so far") if database["password"] else ""
    found = state["databases"].get(name)
    return [
        *role_steps(name, state["roles"].get(name), password),
        *database_steps(name, found),
        *extension_steps(name, database["extensions"], found is not None),
    ]


def slot_steps(kept: list[str]) -> Iterator[Step]:
    """Drop the replication slots of standbys that are no longer in the inventory."""
    for slot in json.loads(psql(SLOTS)):
        if slot not in kept:
            statement = f"SELECT pg_drop_replication_slot({literal(slot)});"
            yield f"drop the replication slot {slot}", statement, "postgres"


def replication_steps(module: AnsibleModule, state: dict[str, Any], passwords: Passwords) -> list[Step]:
    """The steps that are left for the role with which standbys connect."""
    if REPLICATION not in passwords.known and not module.check_mode:
        passwords.create(REPLICATION)
    password = passwords.known.get(REPLICATION, "unknown so far")
    return list(role_steps(REPLICATION, state["roles"].get(REPLICATION), password))


def read_state(module: AnsibleModule) -> dict[str, Any]:
    """Roles and databases of the host; none in check mode when PostgreSQL is not installed yet."""
    if not cluster_version():
        if module.check_mode or module.params["state"] == "absent":
            return EMPTY
        module.fail_json(msg="PostgreSQL is not installed on this host. Run playbooks/site.yml, which installs it.")
    return dict(json.loads(psql(STATE)))


def check_connections(module: AnsibleModule) -> None:
    """Fail if the server accepts fewer connections than its clients may open."""
    needed, accepted = module.params["connections"], int(psql("SHOW max_connections;"))
    if needed > accepted:
        module.fail_json(
            msg=f"The apps may open {needed} connections to PostgreSQL, but it accepts {accepted}.\n"
            "They need one for each thread of each worker and one for each process, on all hosts. The app that is "
            "deployed needs them twice. Run playbooks/site.yml, which raises the number. If postgresql_max_connections "
            "is set, raise it, or set fewer workers or threads for the apps."
        )


def main() -> None:
    database = {
        "name": {"type": "str", "required": True},
        "extensions": {"type": "list", "elements": "str", "default": []},
        "password": {"type": "bool", "default": False, "no_log": False},
    }
    module = AnsibleModule(
        argument_spec={
            "databases": {"type": "list", "elements": "dict", "required": True, "options": database},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "passwords": {"type": "path", "default": "/etc/postgresql-passwords.json", "no_log": False},
            "connections": {"type": "int", "default": 0},
            "server_extensions": {"type": "list", "elements": "str", "default": []},
            "standbys": {"type": "list", "elements": "str"},
            "replication": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    params = module.params
    passwords, done, names, current = Passwords(Path(params["passwords"])), [], [], "read the state of the server"
    try:
        state = read_state(module)
        if state is not EMPTY:
            check_connections(module)
        work = [("postgres", list(extension_steps("postgres", params["server_extensions"], state is not EMPTY)))]
        work += [(entry["name"], steps(module, state, entry, passwords)) for entry in params["databases"]]
        if params["standbys"] is not None and state is not EMPTY:
            work.append(("standbys", list(slot_steps(params["standbys"]))))
        if params["replication"]:
            work.append((REPLICATION, replication_steps(module, state, passwords)))
        for name, left in work:
            for text, statement, where in left:
                current = text
                if not module.check_mode:
                    psql(statement, where)
                done.append(text)
            if left:
                names.append(name)
            if params["state"] == "absent" and not module.check_mode:
                passwords.forget(name)
    except PostgresqlError as error:
        module.fail_json(msg=f"PostgreSQL could not {current}: {error}\nCorrect the cause and run this again.")
    diff = {"after_header": "databases", "before": "", "after": "".join(f"{text}\n" for text in done)}
    module.exit_json(changed=bool(done), names=names, diff=[diff] if done else [])


if __name__ == "__main__":
    main()
