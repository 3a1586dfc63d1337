"""The step of a deploy that runs the release command."""

from __future__ import annotations

import pytest
from ansible_collections.blueoctopus.site.plugins.modules import release_command
from modules import Programs, Steps

LIVE, NEW = (f"2026010{n}T000000Z-{n:010x}" for n in (1, 2))
UNIT = "shop.release-command@.service"


@pytest.fixture(autouse=True)
def release(steps: Steps) -> str:
    """A new release with a release command and a background process."""
    steps.store.make_live(steps.build(LIVE))
    return steps.build(NEW, UNIT, "shop.worker@.service")


def set_result(programs: Programs, result: str, status: int = 0, output: str = "") -> None:
    """Set how the command ends."""
    programs.prints("systemctl show", f"Result={result}\nExecMainStatus={status}\nInvocationID=abc")
    programs.prints("journalctl _SYSTEMD_INVOCATION_ID=abc", output)


def test_the_output_of_the_command_is_returned_and_only_the_web_service_stays_installed(
    steps: Steps, programs: Programs, release: str
) -> None:
    set_result(programs, "success", output="migrated to 3")
    result = steps.run(release_command, release)
    assert (result["changed"], result["output"]) == (True, "migrated to 3")
    assert programs.calls("systemctl start") == [f"systemctl start shop.release-command@{NEW}.service"]
    assert sorted(path.name for path in steps.units.iterdir()) == [f"shop@{NEW}.service", f"shop@{NEW}.socket"]


@pytest.mark.parametrize(
    ("result", "status", "words"),
    [
        ("exit-code", 3, "the release command failed with exit status 3 (exit-code)."),
        ("timeout", 0, "the release command did not end within 7 s."),
    ],
)
def test_a_command_that_fails_is_an_error_with_its_output(
    steps: Steps, programs: Programs, release: str, result: str, status: int, words: str
) -> None:
    set_result(programs, result, status, "no such column: price")
    failed = steps.run(release_command, release, timeout=7)
    assert failed["failed"]
    assert words in failed["msg"]
    assert "no such column: price" in failed["msg"]


def test_the_command_waits_for_that_of_another_run(steps: Steps, programs: Programs, release: str) -> None:
    set_result(programs, "success")
    programs.prints("systemctl list-units", f"shop.release-command@{LIVE}.service loaded activating start")
    result = steps.run(release_command, release, timeout=-29)
    assert "the release command of another run does not end" in result["msg"]
    assert programs.calls("systemctl start") == []


def test_check_mode_runs_nothing(steps: Steps, programs: Programs, release: str) -> None:
    assert steps.run(release_command, release, check=True)["changed"]
    assert programs.calls() == []
