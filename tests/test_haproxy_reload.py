"""The module haproxy_reload: a reload that fails is an error, in a real HAProxy with a master process."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.modules import haproxy_reload
from balancing import HAPROXY, Balancer, temporary_balancer
from modules import Programs, call

pytestmark = [pytest.mark.needs("haproxy"), pytest.mark.slow]
NOWHERE = "192.0.2.1"  # no address of this host
Reload = Callable[..., dict[str, Any]]


@pytest.fixture
def balancer(render: Callable[..., str], program: ModuleType) -> Iterator[Balancer]:
    """A balancer whose HAProxy has a master process, as the service does."""
    with temporary_balancer(render, program) as new:
        new.add("web1")
        assert new.check(new.site()) == ""
        master = ["-W", "-S", f"{new.folder}/master.sock"]
        new.running = subprocess.Popen([str(HAPROXY), *master, "-f", new.folder / "haproxy.cfg"])
        new.wait_for(lambda: new.ask_stats("/alive").status == 200)
        yield new


@pytest.fixture
def reload(balancer: Balancer, programs: Programs) -> Reload:
    assert balancer.running
    programs.add("systemctl", f"kill -USR2 {balancer.running.pid}; exit")
    programs.add("journalctl", 'echo "[ALERT] no such address"; echo "another line"; exit')

    def run(**options: Any) -> dict[str, Any]:
        return call(haproxy_reload, socket=f"{balancer.folder}/master.sock", **options)

    return run


def test_a_reload_that_succeeds_is_a_change_and_a_loaded_configuration_none(balancer: Balancer, reload: Reload) -> None:
    assert balancer.check(balancer.site(name="other")) == ""
    assert reload()["changed"] is True
    assert "other" in balancer.ask_stats("/;csv").text
    assert reload(state="loaded")["changed"] is False


def test_a_configuration_that_haproxy_cannot_use_is_an_error_until_it_can(balancer: Balancer, reload: Reload) -> None:
    assert balancer.check(balancer.site(), balancer_stats_address=NOWHERE) == ""  # it is valid
    for state in ("reloaded", "loaded"):
        failed = reload(state=state)
        assert failed["failed"]
        assert "continues with the previous one:\n[ALERT] no such address\nCorrect" in failed["msg"]
        assert balancer.ask_stats("/alive").status == 200
    assert reload(state="loaded", check=True)["changed"] is True
    assert balancer.check(balancer.site()) == ""
    assert reload(state="loaded")["changed"] is True
    assert reload(state="loaded")["changed"] is False
