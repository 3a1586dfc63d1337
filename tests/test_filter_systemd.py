"""Quoting for unit files of systemd."""

from __future__ import annotations

import pytest
from ansible_collections.blueoctopus.site.plugins.filter.systemd import systemd_command


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
