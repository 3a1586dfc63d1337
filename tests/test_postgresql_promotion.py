"""A primary is stopped for good, and its standby promoted. The scenario `standby` does it with real servers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils import postgresql
from ansible_collections.blueoctopus.site.plugins.modules import postgresql_promotion as module
from modules import Programs, call


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What this host's server answers, by the beginning of the statement; `state` is that of pg_controldata."""
    (tmp_path / "etc/17/main").mkdir(parents=True)
    found = {module.IS_STANDBY: "t", module.STREAMS: "1", "SELECT pg_promote": "t", "state": "shut down"}
    monkeypatch.setattr(postgresql, "CONFIG", tmp_path / "etc")

    def psql(sql: str) -> str:
        return next(answer for beginning, answer in found.items() if sql.startswith(beginning))

    def control_data(*_args: Any) -> dict[str, str]:
        return {"Database cluster state": found["state"], "Latest checkpoint location": "0/5000028"}

    monkeypatch.setattr(module, "DATA", tmp_path / "lib")
    monkeypatch.setattr(module, "psql", psql)
    monkeypatch.setattr(module, "control_data", control_data)
    monkeypatch.setattr(module, "cluster_version", lambda: "17")
    monkeypatch.setattr(module, "RECEIVE_TIMEOUT", 0)
    return found


@pytest.mark.usefixtures("answers")
def test_a_primary_is_stopped_also_for_restarts_of_the_host(tmp_path: Path, programs: Programs) -> None:
    result = call(module, state="fenced")
    assert (result["changed"], result["position"]) == (True, "0/5000028")
    assert (tmp_path / "etc/17/main/start.conf").read_text() == "disabled\n"
    assert "systemctl stop postgresql@17-main.service" in programs.calls()
    again = call(module, state="fenced")
    assert (again["changed"], again["position"]) == (False, "0/5000028")
    assert call(module, state="checked")["is_stopped"]


def test_a_run_that_was_interrupted_before_the_stop_is_completed(programs: Programs, answers: dict[str, str]) -> None:
    answers["state"] = "in production"
    call(module, state="fenced")
    programs.calls()
    assert not call(module, state="checked")["is_stopped"]
    answers["state"] = "shut down"
    call(module, state="fenced")
    assert "systemctl stop postgresql@17-main.service" in programs.calls()


@pytest.mark.usefixtures("programs")
def test_a_primary_that_did_not_shut_down_is_an_error(answers: dict[str, str]) -> None:
    answers["state"] = "in production"
    assert "The primary could not be stopped: the primary has not shut down" in call(module, state="fenced")["msg"]


@pytest.mark.usefixtures("answers")
def test_check_mode_stops_nothing(tmp_path: Path, programs: Programs) -> None:
    assert call(module, check=True, state="fenced")["changed"]
    assert not (tmp_path / "etc/17/main/start.conf").exists()
    assert programs.calls() == []


def test_a_standby_is_promoted_only_with_all_changes_of_the_primary(answers: dict[str, str]) -> None:
    answers["SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) >= '0/5000028'"] = "f"
    result = call(module, state="promoted", position="0/5000028")
    assert "it lacks the last changes of the former primary" in result["msg"]
    answers["SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) >= '0/5000028'"] = "t"
    assert call(module, state="promoted", position="0/5000028")["changed"]


def test_a_primary_is_not_promoted_again(answers: dict[str, str]) -> None:
    answers |= {module.IS_STANDBY: "f", "SELECT pg_promote": "refused"}
    assert not call(module, state="promoted")["changed"]
    assert call(module, state="checked")["is_primary"]


def test_a_promotion_that_takes_too_long_is_an_error(answers: dict[str, str]) -> None:
    answers["SELECT pg_promote"] = "f"
    assert "it has not become the primary within 60 seconds" in call(module, state="promoted")["msg"]


@pytest.mark.usefixtures("answers")
def test_a_standby_is_not_stopped_as_if_it_were_the_primary(tmp_path: Path, programs: Programs) -> None:
    (tmp_path / "lib/17/main").mkdir(parents=True)
    (tmp_path / "lib/17/main/standby.signal").touch()
    assert "it is a standby, and no primary" in call(module, state="fenced")["msg"]
    assert programs.calls() == []
