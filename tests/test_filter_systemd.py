"""Parts of unit files of systemd."""

from __future__ import annotations

import pytest
from ansible_collections.blueoctopus.site.plugins.filter.systemd import sandbox_without, systemd_command


@pytest.mark.parametrize(
    ("command", "written"),
    [
        ("python mail.py", '/usr/bin/env "python" "mail.py"'),
        ("flask 'a b' 50%", '/usr/bin/env "flask" "a b" "50%%"'),
        ("echo $HOME;", '/usr/bin/env "echo" "$$HOME;"'),
        ("echo '\"'", '/usr/bin/env "echo" "\\""'),
    ],
)
def test_systemd_gets_the_command_unchanged(command: str, written: str) -> None:
    assert systemd_command(command) == written


def test_a_unit_may_leave_out_settings_of_the_shared_sandbox() -> None:
    whole = sandbox_without([]).splitlines()
    assert {"ProtectSystem=strict", "NoNewPrivileges=true", "SystemCallFilter=@system-service"} <= set(whole)
    assert sandbox_without(["PrivateTmp"]).splitlines() == [line for line in whole if line != "PrivateTmp=true"]
