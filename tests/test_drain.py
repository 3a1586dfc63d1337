"""The playbook drain.yml: a webserver that an earlier run has disabled stays disabled, in a real HAProxy."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from balancing import temporary_balancer

pytestmark = [pytest.mark.needs("haproxy"), pytest.mark.slow]
PROJECT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("state", ["ready", "drain"])
def test_only_a_webserver_that_is_disabled_is_refused(
    render: Callable[..., str], program: ModuleType, tmp_path: Path, state: str
) -> None:
    play = yaml.safe_load((PROJECT / "playbooks/drain.yml").read_text())[-1] | {"hosts": "localhost", "become": False}
    with temporary_balancer(render, program) as balancer:
        for name in ("web1", "web2"):
            balancer.add(name, tls=False)
        balancer.start(balancer.site(tls=False), __balancer_out=["web1"])
        text = yaml.safe_dump([play | {"gather_facts": False}])
        for old, new in {"/etc/haproxy": str(balancer.folder), "/run/haproxy": f"{balancer.folder}/run"}.items():
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "drain.yml").write_text(text)

        def run(server: str) -> str:
            command = [f"{Path(sys.executable).parent}/ansible-playbook", f"{tmp_path}/drain.yml", "-i", "localhost,"]
            options = ["-c", "local", "--check", "-e", f"server={server}", "-e", f"state={state}"]
            environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
            done = subprocess.run([*command, *options], cwd=PROJECT, env=environment, capture_output=True, text=True)
            return done.stdout + done.stderr

        assert "An earlier run has disabled web1" in run("web1")
        assert "failed=0" in run("web2")
        assert balancer.states() == {"web1": "MAINT", "web2": "UP"}
