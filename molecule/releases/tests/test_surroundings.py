"""What a release finds around it: environment and shared paths."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from testing import Machine, Run

testinfra_hosts = ["ansible://debian13"]
Deploy = Callable[..., Run]
NOTES = """

@app.route("/notes", methods=["GET", "POST"])
def notes() -> ResponseReturnValue:
    import sqlite3

    from flask import request

    with sqlite3.connect("app.db") as database:
        database.execute("create table if not exists notes (text)")
        if request.method == "POST":
            database.execute("insert into notes values (?)", [request.args["text"]])
        rows = [row[0] for row in database.execute("select text from notes")]
    (Path(app.instance_path) / "last").write_text(VERSION)
    return jsonify(notes=rows, files=sorted(path.name for path in Path(app.instance_path).iterdir()))


@app.get("/environment")
def environment() -> ResponseReturnValue:
    return jsonify(dict(os.environ))
"""


def clear_data(machine: Machine) -> None:
    with machine.host.sudo():
        machine.host.run_expect([0], "find /srv/shop/data -mindepth 1 -delete")


def check_environment(machine: Machine) -> None:
    """The environment of the app, and of its release command, names the release and its folders."""
    live = machine.live("shop")
    source = f"/srv/shop/releases/{live}/source"
    seen = machine.web.ask("/environment").json
    assert (seen["RELEASE"], seen["RELEASE_DIR"], seen["DATA_DIR"]) == (live, source, "/srv/shop/data")
    assert (seen["SETTINGS"], seen["OTHER"]) == (f"{source}/settings.py", "{other}")
    with machine.host.sudo():
        assert machine.host.file("/srv/shop/data/command").content_string == f"{source}/settings.py"


def test_the_environment_names_the_folders_of_a_release_and_shared_paths_outlive_it(
    machine: Machine, deploy: Deploy, shop: Path
) -> None:
    with (shop / "shop.py").open("a") as code:
        code.write(NOTES)
    clear_data(machine)
    (shop / "instance").mkdir()
    (shop / "instance/first.txt").write_text("from the source\n")
    keys = {"shared_paths": ["instance", "app.db"]}
    command = "import os; open(os.environ['DATA_DIR'] + '/command', 'w').write(os.environ['SETTINGS'])"
    run = deploy(
        "first with notes",
        app_environment={"GREETING": "first", "SETTINGS": "{release}/settings.py", "OTHER": "{other}"},
        release_command=f'python -c "{command}"',
        **keys,
    )
    assert run.code == 0, run.output
    check_environment(machine)
    assert machine.web.ask("/notes?text=one", method="POST").json["notes"] == ["one"]
    (shop / "instance/first.txt").write_text("changed in the source\n")
    run = deploy("second with notes", **keys)
    assert run.code == 0, run.output
    seen = machine.web.ask("/notes?text=two", method="POST").json
    assert seen == {"notes": ["one", "two"], "files": ["first.txt", "last"]}
    with machine.host.sudo():
        assert machine.host.file("/srv/shop/data/instance/first.txt").content_string == "from the source\n"
        owners = machine.host.check_output("find /srv/shop/data -mindepth 1 -printf '%u\\n' | sort -u")
        assert owners == "shop"
        assert "shared" not in machine.host.check_output("ls -A /srv/shop/live/").split()
    clear_data(machine)


def test_a_build_follows_no_link_in_the_data_folder(machine: Machine, deploy: Deploy, shop: Path) -> None:
    clear_data(machine)
    (shop / "files").mkdir()
    (shop / "files/first.txt").write_text("from the source\n")
    with machine.host.sudo():
        machine.host.run_expect([0], "mkdir -p -m 777 /opt/outside && rm -rf /opt/outside/*")
        machine.host.run_expect([0], "runuser -u shop -- ln -s /opt/outside /srv/shop/data/files")
        machine.host.run_expect([0], "runuser -u shop -- ln -s /opt/outside /srv/shop/data/more")
    run = deploy("with planted links", shared_paths=["files", "more/inner/"])
    with machine.host.sudo():
        assert machine.host.check_output("ls -A /opt/outside") == "", run.output
    clear_data(machine)


def test_write_error_names_the_writable_folders(deploy: Deploy, shop: Path) -> None:
    with (shop / "shop.py").open("a") as code:
        code.write("\nPath('written').write_text(VERSION)\n")
    run = deploy("that writes into its source")
    assert run.code != 0
    assert "the folder in the environment variable DATA_DIR, /srv/shop/data" in run.output, run.output
    assert "shared_paths" in run.output
