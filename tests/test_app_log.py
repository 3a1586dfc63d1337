"""The log of an app, made readable: what gunicorn and Flask log on a host, without the empty lines."""

from __future__ import annotations

import subprocess
import time

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils import app_log
from ansible_collections.blueoctopus.site.plugins.module_utils.app_log import (
    clean,
    excerpt,
    explain,
    find_cause,
    log_command,
)
from hypothesis import given
from hypothesis import strategies as st

RELEASE = "/srv/shop/releases/20260101T000000Z-00000000aa"
SOURCE = f"{RELEASE}/source"
LIBRARIES = f"{RELEASE}/venv/lib/python3.13/site-packages"
HEADER = "Traceback (most recent call last):"
# The frames of gunicorn until it imports the app.
IMPORT = f"""{HEADER}
  File "{LIBRARIES}/gunicorn/arbiter.py", line 608, in spawn_worker
    worker.init_process()
    ~~~~~~~~~~~~~~~~~~~^^
  File "{LIBRARIES}/gunicorn/workers/gthread.py", line 95, in init_process
    super().init_process()
    ~~~~~~~~~~~~~~~~~~~~^^
  File "{LIBRARIES}/gunicorn/util.py", line 371, in import_app
    mod = importlib.import_module(module)
  File "/usr/lib/python3.13/importlib/__init__.py", line 88, in import_module
    return _bootstrap._gcd_import(name[level:], package, level)
           ~~~~~~~~~~~~~~~~~~~~~~^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "<frozen importlib._bootstrap>", line 1387, in _gcd_import
  File "<frozen importlib._bootstrap_external>", line 1026, in exec_module
"""
HALT = f"""{HEADER}
  File "{LIBRARIES}/gunicorn/arbiter.py", line 201, in run
    self.manage_workers()
gunicorn.errors.HaltServer: <HaltServer 'Worker failed to boot.' 3>
During handling of the above exception, another exception occurred:
{HEADER}
  File "{RELEASE}/venv/bin/gunicorn", line 10, in <module>
    sys.exit(run())
gunicorn.errors.HaltServer: <HaltServer 'Worker failed to boot.' 3>
"""
MISSING_KEY = f"""  File "{SOURCE}/main.py", line 3, in <module>
    SECRET = os.environ["SECRET_KEY"]
             ~~~~~~~~~~^^^^^^^^^^^^^^
  File "<frozen os>", line 717, in __getitem__
KeyError: 'SECRET_KEY'
"""


def boot(pid: int, error: str) -> str:
    """What a worker logs that fails while it imports the app."""
    stamp = "[2026-01-01 00:00:00 +0000]"
    message = error.splitlines()[-1].partition(": ")[2]
    return (
        f"{stamp} [{pid}] [INFO] Booting worker with pid: {pid}\n{stamp} [{pid}] [ERROR] Exception in worker process\n"
        f"{IMPORT}{error}{message}\n{stamp} [{pid}] [INFO] Worker exiting (pid: {pid})\n"
    )


def lines(log: str) -> list[str]:
    """The lines of the excerpt of a log."""
    return excerpt(log).splitlines()


def test_a_traceback_of_several_workers_is_shown_once_without_frames_of_gunicorn() -> None:
    log = "".join(boot(pid, MISSING_KEY) for pid in (7, 8, 9))
    log += "[2026-01-01 00:00:00 +0000] [1] [ERROR] Worker (pid:7) exited with code 3.\n" + HALT
    assert find_cause(log) == "KeyError: 'SECRET_KEY' in main.py, line 3"
    assert lines(log) == [
        f"  {HEADER}",
        '    File "main.py", line 3, in <module>',
        '      SECRET = os.environ["SECRET_KEY"]',
        "               ~~~~~~~~~~^^^^^^^^^^^^^^",
        "  KeyError: 'SECRET_KEY'",
    ]


def test_a_syntax_error_has_the_place_of_the_error_itself() -> None:
    error = f"""  File "{SOURCE}/main.py", line 1, in <module>
    import shop.pages
  File "{SOURCE}/shop/pages.py", line 12
    app = Flask(
               ^
SyntaxError: '(' was never closed
"""
    assert find_cause(boot(7, error)) == "SyntaxError: '(' was never closed in shop/pages.py, line 12"
    assert lines(boot(7, error))[-1] == "  SyntaxError: '(' was never closed"
    # gunicorn prints the message once more, with the place.
    log = f"{IMPORT}{error}'(' was never closed (pages.py, line 12)\n"
    assert lines(log)[-1] == "  SyntaxError: '(' was never closed"


def test_of_linked_exceptions_the_last_one_is_the_cause_and_all_are_shown() -> None:
    for link in (
        "During handling of the above exception, another exception occurred:",
        "The above exception was the direct cause of the following exception:",
    ):
        error = f"""  File "{SOURCE}/main.py", line 2, in <module>
    import wonders
ModuleNotFoundError: No module named 'wonders'
{link}
{IMPORT}  File "{SOURCE}/main.py", line 4, in <module>
    raise ImportError("install wonders")
ImportError: install wonders
"""
        for log in (boot(7, error), boot(7, error) + boot(8, error)):
            assert find_cause(log) == "ImportError: install wonders in main.py, line 4"
            assert lines(log) == [
                f"  {HEADER}",
                '    File "main.py", line 2, in <module>',
                "      import wonders",
                "  ModuleNotFoundError: No module named 'wonders'",
                f"  {link}",
                f"  {HEADER}",
                '    File "main.py", line 4, in <module>',
                '      raise ImportError("install wonders")',
                "  ImportError: install wonders",
            ]


def test_an_exception_group_is_shown_with_its_exceptions() -> None:
    log = f"""  + Exception Group Traceback (most recent call last):
  |   File "{SOURCE}/main.py", line 9, in <module>
  |     check()
  |   File "{SOURCE}/checks.py", line 4, in check
  |     raise ExceptionGroup("checks failed", errors)
  | ExceptionGroup: checks failed (2 sub-exceptions)
  +-+---------------- 1 ----------------
    | {HEADER}
    |   File "{SOURCE}/checks.py", line 2, in mail
    |     raise ValueError("no mail server")
    | ValueError: no mail server
    +---------------- 2 ----------------
    | TypeError: b
    +------------------------------------
the next line
"""
    assert find_cause(log) == "ExceptionGroup: checks failed (2 sub-exceptions) in checks.py, line 4"
    shown = lines(log)
    assert '    |   File "checks.py", line 4, in check' in shown
    assert "      | ValueError: no mail server" in shown
    assert shown[-2:] == ["  Other lines:", "  the next line"]


def test_tracebacks_written_by_python_are_parsed() -> None:
    program = """
def fail():
    try:
        {}["url"]
    except KeyError as error:
        raise RuntimeError("no database is configured") from error
try:
    fail()
except RuntimeError as error:
    raise ExceptionGroup("start", [error, ValueError("second")]) from error
"""
    log = subprocess.run(["python3", "-c", program], capture_output=True, text=True).stderr
    assert find_cause(log) == "ExceptionGroup: start (2 sub-exceptions)"
    shown = excerpt(log)
    for words in ("KeyError: 'url'", "RuntimeError: no database is configured", "ValueError: second"):
        assert words in shown
    assert "Other lines" not in shown


def test_an_error_of_a_request_is_shown_with_flasks_own_line() -> None:
    flask = f"""[2026-01-01 00:00:01,907] ERROR in app: Exception on /healthz [GET]
{HEADER}
  File "{LIBRARIES}/flask/app.py", line 1511, in wsgi_app
    response = self.full_dispatch_request()
  File "{SOURCE}/shop.py", line 41, in healthz
    raise RuntimeError("the database is gone")
RuntimeError: the database is gone
"""
    assert find_cause(flask * 3) == "RuntimeError: the database is gone in shop.py, line 41"
    assert lines(flask * 3) == [
        f"  {HEADER}",
        '    File "shop.py", line 41, in healthz',
        '      raise RuntimeError("the database is gone")',
        "  RuntimeError: the database is gone",
        "  Other lines:",
        "  [2026-01-01 00:00:01,907] ERROR in app: Exception on /healthz [GET]",
    ]


def test_the_place_is_the_last_line_of_the_app_and_long_runs_of_library_frames_are_cut() -> None:
    library = "".join(f'  File "{LIBRARIES}/sqlalchemy/pool.py", line {n}, in step{n}\n    go({n})\n' for n in range(9))
    log = f"""{HEADER}
  File "{SOURCE}/main.py", line 8, in <module>
    db.connect()
{library}sqlalchemy.exc.OperationalError: connection refused
"""
    assert find_cause(log) == "sqlalchemy.exc.OperationalError: connection refused in main.py, line 8"
    assert lines(log)[3:8] == [
        '    File "sqlalchemy/pool.py", line 0, in step0',
        "      go(0)",
        "    … 7 frames of libraries …",
        '    File "sqlalchemy/pool.py", line 8, in step8',
        "      go(8)",
    ]


def test_an_endless_recursion_keeps_its_start_and_its_exception() -> None:
    frames = "".join(f'  File "{SOURCE}/main.py", line {2 + n % 2}, in f{n % 2}\n    f()\n' for n in range(990))
    shown = lines(f"{HEADER}\n{frames}RecursionError: maximum recursion depth exceeded\n")
    assert len(shown) == app_log.LINES + 1
    assert shown[0] == f"  {HEADER}"
    assert shown[-1] == "  RecursionError: maximum recursion depth exceeded"


def test_without_a_frame_of_the_app_the_exception_has_no_place() -> None:
    log = boot(7, "ModuleNotFoundError: No module named 'mian'\n")
    assert find_cause(log) == "ModuleNotFoundError: No module named 'mian'"
    assert lines(log)[-1] == "  ModuleNotFoundError: No module named 'mian'"
    assert "gunicorn" not in excerpt(log)


def test_a_name_that_gunicorn_does_not_find_is_the_cause() -> None:
    log = "Failed to find attribute 'application' in 'shop'.\n[1] [ERROR] Reason: App failed to load.\n"
    assert find_cause(log) == "Failed to find attribute 'application' in 'shop'."
    assert lines(log) == ["  Failed to find attribute 'application' in 'shop'."]


def test_further_lines_of_a_message_stay_with_the_exception() -> None:
    log = f"""before
{HEADER}
  File "{SOURCE}/settings.py", line 5, in <module>
    settings = Settings()
pydantic_core._pydantic_core.ValidationError: 1 validation error for Settings
SECRET_KEY
  Field required [type=missing, input_value={{}}, input_type=dict]
[2026-01-01 00:00:00 +0000] [7] [CRITICAL] WORKER TIMEOUT (pid:8)
"""
    assert lines(log)[3:] == [
        "  pydantic_core._pydantic_core.ValidationError: 1 validation error for Settings",
        "  SECRET_KEY",
        "    Field required [type=missing, input_value={}, input_type=dict]",
        "  Other lines:",
        "  before",
        "  [2026-01-01 00:00:00 +0000] [7] [CRITICAL] WORKER TIMEOUT (pid:8)",
    ]


def test_what_is_printed_after_a_repeated_traceback_is_kept() -> None:
    log = f"{IMPORT}{MISSING_KEY}first\n{IMPORT}{MISSING_KEY}second\n"
    assert excerpt(log).count("KeyError") == 1
    assert {"  first", "  second"} <= set(lines(log))


def test_the_latest_of_different_exceptions_is_the_cause() -> None:
    earlier = f'{HEADER}\n  File "{SOURCE}/mail.py", line 1, in <module>\n    x\nNameError: x\n[7] [INFO] more\n'
    log = earlier + boot(8, MISSING_KEY)
    assert find_cause(log) == "KeyError: 'SECRET_KEY' in main.py, line 3"
    assert lines(log)[5:10] == [
        "  Before that:",
        f"  {HEADER}",
        '    File "mail.py", line 1, in <module>',
        "      x",
        "  NameError: x",
    ]


def test_an_unfinished_traceback_is_shown() -> None:
    log = f'{HEADER}\n  File "{SOURCE}/main.py", line 3, in <module>\n    x\n'
    assert find_cause(log) == ""
    assert lines(log) == [f"  {HEADER}", '    File "main.py", line 3, in <module>', "      x"]


def test_of_a_long_log_only_the_last_lines_are_shown() -> None:
    shown = lines("".join(f"line {n}\n" for n in range(100)))
    assert shown == [f"  line {n}" for n in range(100 - app_log.LINES, 100)]


def test_a_log_of_gunicorns_own_lines_is_shown_as_it_is() -> None:
    assert lines("[1] [INFO] Shutting down: Master\n") == ["  [1] [INFO] Shutting down: Master"]


def test_an_empty_log_is_reported_as_empty() -> None:
    assert excerpt("") == excerpt("\n\n") == "  (the log is empty)"
    assert find_cause("") == ""


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b[2J\x1b[1;1Hcleared", "cleared"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;https://evil.example\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]52;c;unfinished", "52;c;unfinished"),
        ("progress\rdone\x08\x00", "progressdone"),
        ("\x9b31mc1", "31mc1"),
        ("\u202eright to left\u2066", "right to left"),
        ("tab\tstop", "tab    stop"),
    ],
)
def test_what_a_terminal_would_execute_is_removed(hostile: str, shown: str) -> None:
    assert clean(hostile) == shown


def test_a_coloured_traceback_is_understood() -> None:
    log = (
        f'{HEADER}\n  File \x1b[35m"{SOURCE}/main.py"\x1b[0m, line \x1b[35m3\x1b[0m, in <module>\n    x\nNameError: x\n'
    )
    assert find_cause(log) == "NameError: x in main.py, line 3"


def test_a_very_long_message_is_cut() -> None:
    log = f'{HEADER}\n  File "{SOURCE}/main.py", line 3, in <module>\n    x\nValueError: {"x" * 100_000}\n'
    assert len(find_cause(log)) < 300
    assert len(excerpt(log)) < 1000


@pytest.mark.parametrize("piece", ["\x1b]", "\x1b]x", "\x1b[0", "\x1bP\x1b"])
def test_many_unfinished_sequences_take_little_time(piece: str) -> None:
    begun = time.process_time()
    clean(piece * 100_000)
    assert time.process_time() - begun < 2


PIECES = [
    *IMPORT.splitlines(),
    *MISSING_KEY.splitlines(),
    *HALT.splitlines(),
    "  + Exception Group " + HEADER,
    "  | x: y",
]


@given(st.lists(st.sampled_from([*PIECES, "", "text"]) | st.text(max_size=20)))
def test_any_log_gives_a_short_excerpt_that_is_safe_to_print(pieces: list[str]) -> None:
    log = "\n".join(pieces)
    shown = excerpt(log)
    assert clean(shown) == shown
    assert len(shown.splitlines()) <= 2 * app_log.LINES
    assert len(find_cause(log).splitlines()) <= 1


def test_an_error_is_the_cause_then_the_problem_the_advice_the_log_and_the_command() -> None:
    shown = explain("shop", "release A stopped.", boot(7, MISSING_KEY), 1767225600, "Set it in secrets.").splitlines()
    assert shown[:4] == [
        "shop: KeyError: 'SECRET_KEY' in main.py, line 3",
        "Release A stopped.",
        "Set it in secrets.",
        "The end of its log:",
    ]
    assert shown[-1] == (
        "The whole log, on the host: sudo journalctl -u 'shop@*' -u 'shop.*' --since '2026-01-01 00:00 UTC'"
    )


def test_the_command_for_the_log_has_the_units_of_this_app_only() -> None:
    assert log_command("shop") == "sudo journalctl -u 'shop@*' -u 'shop.*' --since '1 hour ago'"
