"""One Python on the host for all modules: the same results, and no module runs twice or in a Python that has ended."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import zipfile
import zipimport
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
import yaml
from ansible_collections.blueoctopus.site.plugins.plugin_utils import module_server

PROJECT = Path(__file__).resolve().parent.parent
SERVER = Path(module_server.__file__).read_text()
# Instead of ssh; the last argument is the command on the host. Each start is counted.
SSH = '#!/bin/sh\nfor last; do :; done\necho "$$" >> "{starts}"\nexec sh -c "$last"\n'
# The process of the module, and the one that has started it.
PARENTS = "sh -c 'echo $PPID; cut -d\" \" -f4 /proc/$PPID/stat'"
HOLD_LOCK = """
import fcntl, pathlib, sys, time
file = next(pathlib.Path(sys.argv[1]).glob("ansible-local-*/*/lock")).open("w")
fcntl.flock(file, fcntl.LOCK_EX)
pathlib.Path(sys.argv[1], "locked").touch()
time.sleep(20)
"""
OWN = "blueoctopus.site.persistent_ssh"


class Host:
    """A host on this computer, for plays of Ansible."""

    def __init__(self, folder: Path) -> None:
        """Write a program that stands in for ssh."""
        self.folder, self.starts = folder, folder / "starts"
        (folder / "ssh").write_text(SSH.format(starts=self.starts))
        (folder / "ssh").chmod(0o755)

    def play(self, *tasks: dict[str, Any], transport: str = OWN, **variables: Any) -> list[dict[str, Any]]:
        """Run tasks; return their results."""
        self.starts.unlink(missing_ok=True)
        variables = {"ansible_ssh_executable": f"{self.folder}/ssh", **variables}
        play = {"hosts": "all", "gather_facts": False, "vars": variables, "tasks": tasks}
        (self.folder / "play.yml").write_text(yaml.safe_dump([play]))
        environment = os.environ | {
            "ANSIBLE_CONFIG": f"{PROJECT}/ansible.cfg",
            "ANSIBLE_TRANSPORT": transport,
            "ANSIBLE_LOCAL_TEMP": str(self.folder / "tmp"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
        }
        done = subprocess.run(
            ["ansible-playbook", "-i", "host,", "play.yml"],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        result = json.loads(done.stdout[done.stdout.index("{\n") :])
        return [task["hosts"]["host"] for task in result["plays"][0]["tasks"]]

    def count(self) -> int:
        """How often ssh was started in the last play."""
        return len(self.starts.read_text().split())


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host."""
    return Host(tmp_path)


def command(text: str, **options: Any) -> dict[str, Any]:
    """A task that runs a command."""
    return {"ansible.builtin.command": text, **options}


def parents(result: dict[str, Any]) -> tuple[str, str]:
    """The process IDs of a module and of its parent."""
    module, parent = result["stdout"].split()
    return module, parent


@pytest.mark.slow
def test_all_modules_of_a_run_have_one_python_and_processes_of_their_own(host: Host) -> None:
    first, second, third = (parents(result) for result in host.play(*[command(PARENTS)] * 3))
    assert len({first[0], second[0], third[0]}) == 3
    assert first[1] == second[1] == third[1]
    assert host.count() == 1
    assert len({parent for _module, parent in map(parents, host.play(*[command(PARENTS)] * 3, transport="ssh"))}) == 3


@pytest.mark.slow
def test_modules_have_the_same_results_as_over_ssh(host: Host) -> None:
    tasks = [
        command("sh -c 'echo out; echo err >&2; exit 3'", ignore_errors=True),
        command(f"{shlex.quote(sys.executable)} -c 'print(\"ä\" * 300000)'"),
        {"ansible.builtin.file": {"path": "/no/such/folder/file", "state": "touch"}, "ignore_errors": True},
        command("sh -c umask"),
        {"ansible.builtin.slurp": {"src": "/etc/hostname"}},
        {"ansible.builtin.command": "sh -c 'read line; echo \"$line\"'", "args": {"stdin": "a line"}},
    ]
    times = ("start", "end", "delta", "_ansible_no_log", "invocation", "diff", "changed")

    def shown(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{name: value for name, value in result.items() if name not in times} for result in results]

    assert shown(host.play(*tasks)) == shown(host.play(*tasks, transport="ssh"))


@pytest.mark.slow
def test_a_task_with_environment_variables_and_one_beside_another_run_as_over_ssh(host: Host) -> None:
    with_variable = command("printenv COLOR", environment={"COLOR": "blue"})
    plain, coloured, after = host.play(command(PARENTS), with_variable, command(PARENTS))
    assert coloured["stdout"] == "blue"
    assert parents(plain)[1] == parents(after)[1]

    # A module of another host that is delegated to this one runs meanwhile: here, another process has the lock.
    start = command(
        f"{shlex.quote(sys.executable)} -c {shlex.quote(HOLD_LOCK)} {host.folder}/tmp", **{"async": 30, "poll": 0}
    )
    wait = {"ansible.builtin.wait_for": {"path": f"{host.folder}/tmp/locked"}, "delegate_to": "localhost"}
    before, _started, _waited, beside = host.play(command(PARENTS), start, wait, command(PARENTS))
    assert parents(before)[1] != parents(beside)[1]


@pytest.mark.slow
def test_a_python_that_has_ended_is_replaced_and_a_module_that_ends_with_it_is_not_repeated(host: Host) -> None:
    server = '$(cut -d" " -f4 /proc/$PPID/stat)'
    # Between two modules.
    later = f"sh -c 'server={server}; (sleep 0.2; kill -9 $server) > /dev/null 2>&1 &'"
    first, _killed, _pause, second = host.play(
        command(PARENTS), command(later), {"ansible.builtin.pause": {"seconds": 1}}, command(PARENTS)
    )
    assert parents(first)[1] != parents(second)[1]

    # While a module runs.
    now = f"sh -c 'echo ran >> {host.folder}/ran; kill -9 {server}; sleep 1'"
    results = host.play(command(now, ignore_unreachable=True), command(PARENTS, ignore_unreachable=True))
    assert results[0]["unreachable"]
    assert "The connection was lost while a module ran." in results[0]["msg"]
    assert (host.folder / "ran").read_text() == "ran\n"
    assert parents(results[1])


@pytest.mark.slow
def test_a_host_without_that_python_gives_the_error_of_ssh(host: Host) -> None:
    results = [
        host.play(command("id"), transport=name, ansible_python_interpreter="/no/python3")[0] for name in (OWN, "ssh")
    ]
    assert results[0]["msg"] == results[1]["msg"]
    assert results[0]["rc"] == 127
    tasks = [command("id", ignore_errors=True)] * 3
    host.play(*tasks, ansible_python_interpreter="/no/python3")
    assert host.count() == len(tasks) + 1  # only the first task tries to start a server


@pytest.mark.slow
def test_the_python_imports_nothing_from_the_home_folder_and_what_that_writes_before_does_no_harm(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = host.folder / "home"
    home.mkdir()
    monkeypatch.setenv("LOGIN", str(home))
    (home / "sched.py").write_text(f"open('{home}/imported', 'w')")
    (home / "select.py").write_text(f"open('{home}/imported', 'w')")
    program = (host.folder / "ssh").read_text()
    (host.folder / "ssh").write_text(program.replace("exec sh", "cd \"$LOGIN\"; printf 'no end of line'\nexec sh"))
    (host.folder / "library").mkdir()
    (host.folder / "library/use_sched.py").write_text(
        "from ansible.module_utils.basic import AnsibleModule\nimport sched\n"
        "AnsibleModule({}).exit_json(msg=sched.__file__)\n"
    )
    results = host.play({"use_sched": {}}, {"use_sched": {}}, command(PARENTS))
    assert host.count() == 1
    assert results[0]["msg"] == results[1]["msg"] == f"{os.path.dirname(os.__file__)}/sched.py"
    assert not (home / "imported").exists()


class Process:
    """A module server."""

    def __init__(self, idle: float, python: str | Path = sys.executable) -> None:
        """Start it, with the seconds after which it ends."""
        self.ends = 0
        program = SERVER.replace("IDLE = 60", f"IDLE = {idle}")
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        self.process = subprocess.Popen(
            [python, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        assert self.process.stdin
        assert self.process.stdout
        self.input, self.output = self.process.stdin, self.process.stdout
        assert self.output.readline() == b"\n"
        assert self.output.readline() == module_server.READY

    def run(self, program: str) -> tuple[int, str, str]:
        """Run a program; return its exit code, output and errors."""
        self.input.write(b"%d\n%s" % (len(program.encode()), program.encode()))
        self.input.flush()
        code, *sizes, self.ends = map(int, self.output.readline().split())
        output, errors = (self.output.read(size).decode() for size in sizes)
        return code, output, errors


@pytest.fixture
def server() -> Iterator[Process]:
    """A module server that ends two seconds after the last module."""
    started = Process(2)
    yield started
    started.process.kill()
    started.process.wait()


def test_a_module_has_exit_code_output_and_errors_of_its_own(server: Process) -> None:
    assert server.run("import sys\nprint('one')\nprint('two', file=sys.stderr)\nsys.exit(4)") == (4, "one\n", "two\n")
    assert server.run("import os\nos.kill(os.getpid(), 9)") == (137, "", "")
    assert server.run("import sys\nprint(repr(sys.stdin.read()), __name__)") == (0, "'' __main__\n", "")
    code, output, errors = server.run("known = 1\nraise ValueError('wrong')")
    assert (code, output) == (1, "")
    assert errors.endswith("ValueError: wrong\n")
    assert server.run("print('known' in globals(), 'serve' in globals())") == (0, "False False\n", "")


def test_a_process_that_a_module_leaves_behind_delays_nothing(server: Process) -> None:
    assert server.run("import subprocess\nsubprocess.Popen(['sleep', '60'])\nprint('left')")[1] == "left\n"
    assert server.run("print('next')")[1] == "next\n"


def test_files_of_a_zip_file_are_compiled_once(server: Process, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "one.zip", "w") as file:
        file.writestr("brought.py", "value = 1")
    (tmp_path / "two.zip").write_bytes((tmp_path / "one.zip").read_bytes())
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("brought.py", "value = 2")
    program = (
        "import sys\nsys.path.insert(0, '{}')\nimport brought\nprint(brought.value, brought.f.__code__.co_filename)"
    )
    program = (
        "import sys\nsys.path.insert(0, '{}')\nimport brought\n"
        "print(brought.value, brought.__spec__.loader.get_code('brought').co_filename)"
    )
    assert server.run(program.format(tmp_path / "one.zip"))[1] == f"1 {tmp_path}/one.zip/brought.py\n"
    assert server.run(program.format(tmp_path / "two.zip"))[1] == f"1 {tmp_path}/one.zip/brought.py\n"
    assert server.run(program.format(tmp_path / "other.zip"))[1] == f"2 {tmp_path}/one.zip/brought.py\n"


def write_module(path: Path, **own: str) -> None:
    """Write a ZIP file like Ansible's for a module: what runs modules, empty packages, and its own files."""
    folder = Path(module_server.RUN_MODULE.replace(".", "/")).parent
    files = {f"{parent}/__init__.py": "" for parent in [folder, *folder.parents][:-1]}
    files |= {f"{folder}/_loader.py": "import ansible.module_utils.basic\nnumber = 0\n"}
    files |= {"ansible/module_utils/basic.py": "def fail():\n    raise ValueError\n"}
    with zipfile.ZipFile(path, "w") as file:
        for name, content in (files | {f"ansible/module_utils/{name}.py": text for name, text in own.items()}).items():
            file.writestr(name, content)


def test_the_part_of_ansible_that_runs_modules_is_imported_once(server: Process, tmp_path: Path) -> None:
    program = f"""import sys
print("{module_server.RUN_MODULE}" in sys.modules, "ansible.module_utils.own" in sys.modules)
sys.path.insert(0, '{{}}')
import {module_server.RUN_MODULE} as loader
from ansible.module_utils.own import value
import ansible.module_utils.basic as basic
loader.number += 1
print(value, loader.number, basic.__file__)
"""
    write_module(tmp_path / "one.zip", own="value = 1")
    write_module(tmp_path / "two.zip", own="value = 2")
    one, two = tmp_path / "one.zip", tmp_path / "two.zip"
    path = f"{one}/ansible/module_utils/basic.py"
    assert server.run(program.format(one)) == (0, f"False False\n1 1 {path}\n", "")
    one.unlink()
    # A file of the module itself is imported each time; what one module changes in memory is not seen by the next.
    for _time in range(2):
        assert server.run(program.format(two)) == (0, f"True False\n2 1 {path}\n", "")
    fail = "try: basic.fail()\nexcept ValueError: import traceback; traceback.print_exc()"
    errors = server.run(program.format(two) + fail)[2]
    assert f'File "{path}", line 2, in fail\n    raise ValueError\n' in errors


@pytest.mark.parametrize(
    ("end", "code"), [("", 0), ("sys.exit()", 0), ("sys.exit(3)", 3), ("sys.exit('words')", 1), ("raise ValueError", 1)]
)
def test_a_module_ends_with_its_exit_code_and_everything_that_it_has_written(
    server: Process, tmp_path: Path, end: str, code: int
) -> None:
    program = f"""import atexit, logging, logging.handlers, sys
file = open("{tmp_path}/left-open", "w")
file.write("written")
def use(): return file
target = logging.FileHandler("{tmp_path}/log")
logging.getLogger().addHandler(logging.handlers.MemoryHandler(100, target=target))
logging.warning("buffered")
atexit.register(lambda: print("at the end"))
print("output", end="")
{end}
"""
    for _time in range(2):  # the second one has the server's own logging, which has registered what it does at the end
        (tmp_path / "left-open").unlink(missing_ok=True)
        (tmp_path / "log").unlink(missing_ok=True)
        found, output, errors = server.run(program)
        assert (found, output) == (code, "outputat the end\n")
        assert (tmp_path / "left-open").read_text() == "written"
        assert (tmp_path / "log").read_text() == "buffered\n"
        assert ("words" in errors, "ValueError" in errors) == ("words" in end, "ValueError" in end)


def test_output_is_not_lost_when_a_module_replaces_its_standard_output(server: Process) -> None:
    for replaced in ("io.StringIO()", "None", "codecs.getwriter('utf-8')(sys.stdout.buffer)"):
        program = f"import codecs, io, sys\nprint('written')\nsys.stdout = {replaced}"
        assert server.run(program) == (0, "written\n", "")


def test_a_python_that_passes_the_name_of_the_module_to_its_compiler_has_the_same_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def compile_source(path: str, source: bytes, _name: str) -> CodeType:
        return compile(source, path, "exec")

    monkeypatch.setattr(zipimport, "_compile_source", compile_source, raising=False)
    compiler = module_server.Compiler()
    assert compiler("/one.zip/a.py", b"value = 1", "a") is compiler("/two.zip/a.py", b"value = 1", "a")


def test_the_standard_library_is_imported_once(server: Process) -> None:
    program = "import sys\nprint('sched' in sys.modules)\nimport sched"
    assert [server.run(program)[1] for _time in range(2)] == ["False\n", "True\n"]


def test_a_module_that_is_killed_or_forks_while_it_tells_what_it_has_imported_harms_no_other(
    server: Process, tmp_path: Path
) -> None:
    broken = "import marshal, os, sched\nmarshal.dump = lambda data, file: (file.write(b'x'), os._exit(1))"
    assert server.run(broken)[0] == 1
    fork = "import os, sched, marshal\nif os.fork(): os.wait()\nelse: marshal.dump = lambda *_: "
    fork += f"open('{tmp_path}/told', 'w')"
    assert server.run(fork) == (0, "", "")
    assert not (tmp_path / "told").exists()
    assert server.run("print('next')")[1] == "next\n"


def test_a_python_that_was_upgraded_ends_after_an_answer_that_says_so(tmp_path: Path) -> None:
    shutil.copy(os.path.realpath(sys.executable), tmp_path / "python3")
    server = Process(2, tmp_path / "python3")
    assert server.run("print(1)") == (0, "1\n", "")
    assert server.ends == 0
    (tmp_path / "python3").unlink()
    assert server.run("print(2)") == (0, "2\n", "")
    assert server.ends == 1
    assert server.process.wait(10) == 0


@pytest.mark.parametrize("request_", [b"", b"1", b"10\nprint"], ids=["nothing", "half a line", "half a program"])
def test_the_server_ends_without_a_whole_request(request_: bytes) -> None:
    server = Process(0.3)
    server.input.write(request_)
    server.input.flush()
    assert server.process.wait(10) == 0


def test_the_server_ends_with_its_connection(server: Process) -> None:
    server.input.close()
    assert server.process.wait(1) == 0
