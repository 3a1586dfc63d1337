"""Alerts: once per trouble and once when it is over, bounded when the receiver is down, nothing of the app's log."""

from __future__ import annotations

import copy
import json
import socketserver
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils import alerts, app_status, host_state
from ansible_collections.blueoctopus.site.plugins.module_utils.alerts import (
    add_sample,
    check,
    deliver,
    new_events,
    save,
    send_webhook,
)
from ansible_collections.blueoctopus.site.plugins.module_utils.checks import find_problems
from ansible_collections.blueoctopus.site.plugins.module_utils.files import write
from status_examples import NOW, backup, host

PROJECT = Path(__file__).resolve().parent.parent
GOOD = host()
DOWN = host({"state": "failed", "cause": "KeyError: 'squid-ink'"})


class Receiver:
    """A channel that keeps what it gets, or fails."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.fails = False

    def __call__(self, content: Mapping[str, Any]) -> None:
        if self.fails:
            raise OSError("Connection refused")
        self.got.append(dict(content))


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Receiver:
    new = Receiver()
    monkeypatch.setattr(alerts, "channels_of", lambda _: {"webhook": new})
    return new


Minutes = Callable[..., None]


@pytest.fixture
def minutes() -> Minutes:
    """Run a check each minute, with the given states of the host."""
    state: dict[str, Any] = {}
    passed = [0]

    def run(*hosts: dict[str, Any], **settings: Any) -> None:
        for found in hosts:
            check({"host": "web1", **settings}, state, copy.deepcopy(found), NOW + 60 * passed[0])
            passed[0] += 1
            state.update(json.loads(json.dumps(state)))  # as it is stored

    run.state = state  # type: ignore[attr-defined]
    return run


# --- what is sent -----------------------------------------------------------------------------------------------------


def test_a_problem_is_sent_once_and_its_end_once(receiver: Receiver, minutes: Minutes) -> None:
    minutes(GOOD, *[DOWN] * 10, *[GOOD] * 10)
    assert [entry["text"] for entry in receiver.got] == [
        "web1 shop: down: the web service is in the state failed",
        "web1 shop: resolved: down: the web service is in the state failed",
    ]
    first, last = receiver.got
    assert (first["state"], first["kind"], first["app"], first["host"]) == ("problem", "down", "shop", "web1")
    assert last["state"] == "over"
    assert first["since"] == last["since"] == "2026-01-02T03:11:00Z"


def test_a_problem_of_a_single_check_is_not_sent(receiver: Receiver, minutes: Minutes) -> None:
    minutes(GOOD, DOWN, GOOD, DOWN, GOOD)
    assert receiver.got == []


def test_a_problem_that_one_check_does_not_find_is_not_over(receiver: Receiver, minutes: Minutes) -> None:
    minutes(DOWN, DOWN, GOOD, DOWN, DOWN, GOOD, DOWN)
    assert len(receiver.got) == 1


def test_a_text_that_changes_is_the_same_problem(receiver: Receiver, minutes: Minutes) -> None:
    old = [host(backup=backup(("shop", "backup to store", f"{hours} h old"))) for hours in (51, 52)]
    minutes(*old, *old)
    assert len(receiver.got) == 1


def test_several_problems_are_separate(receiver: Receiver, minutes: Minutes) -> None:
    both = host({"state": "failed"}, failed_units=["logrotate.service", "apt-daily.service"])
    minutes(both, both)
    assert len(receiver.got) == 3


def test_a_further_problem_of_backups_is_sent_while_another_lasts_and_each_ends_once(
    receiver: Receiver, minutes: Minutes
) -> None:
    drill, failed = ("blog", "drill", "no drill for 340 hours"), ("shop", "backup to store", "damaged")
    first, both, second = (host(backup=backup(*found)) for found in ([drill], [drill, failed], [failed]))
    minutes(*[first] * 3, *[both] * 3, *[second] * 3, *[GOOD] * 3)
    assert [entry["text"] for entry in receiver.got] == [
        "web1 blog: backup: no drill for 340 hours",
        "web1 shop: backup: damaged",
        "web1 blog: resolved: backup: no drill for 340 hours",
        "web1 shop: resolved: backup: damaged",
    ]


@pytest.mark.parametrize("allowed", [False, True])
def test_the_log_of_the_app_is_sent_only_if_that_is_set(receiver: Receiver, minutes: Minutes, allowed: bool) -> None:
    minutes(DOWN, DOWN, log=allowed)
    assert ("squid-ink" in json.dumps(receiver.got)) == allowed
    assert "squid-ink" not in json.dumps(minutes.state["problems"])  # type: ignore[attr-defined]


# --- a receiver that is down ------------------------------------------------------------------------------------------


def test_a_message_waits_until_the_receiver_is_up_again(receiver: Receiver, minutes: Minutes) -> None:
    receiver.fails = True
    minutes(*[DOWN] * 5)
    delivery = minutes.state["delivery"]  # type: ignore[attr-defined]
    assert delivery == {"failing_since": "2026-01-02T03:11:00Z", "error": "webhook: Connection refused", "waiting": 1}
    receiver.fails = False
    minutes(*[DOWN] * 10)
    assert len(receiver.got) == 1
    assert minutes.state["delivery"] == {}  # type: ignore[attr-defined]


def test_retries_become_less_frequent(receiver: Receiver, minutes: Minutes, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[int] = []
    receiver.fails = True
    plain = Receiver.__call__

    def counted(self: Receiver, content: Mapping[str, Any]) -> None:
        attempts.append(1)
        plain(self, content)

    monkeypatch.setattr(Receiver, "__call__", counted)
    minutes(*[DOWN] * 120)
    assert 5 <= len(attempts) <= 10


def test_messages_that_cannot_be_sent_are_bounded_in_number_and_age() -> None:
    def refuse(_: Any) -> None:
        raise OSError("no")

    old = {"time": NOW - 4 * 86400, "channels": ["webhook"], "message": {"text": "old"}}
    new = [{"time": NOW, "channels": ["webhook"], "message": {"text": str(n)}} for n in range(500)]
    state: dict[str, Any] = {"waiting": [old, *new]}
    deliver(state, {"webhook": refuse}, NOW)
    assert len(state["waiting"]) == 100
    assert state["waiting"][-1]["message"]["text"] == "499"


def test_a_clock_that_was_ahead_does_not_stop_further_attempts() -> None:
    def refuse(_: Any) -> None:
        raise OSError("no")

    year, good = 365 * 86400, Receiver()
    state: dict[str, Any] = {"waiting": [{"time": NOW + year, "channels": ["webhook"], "message": {"text": "x"}}]}
    deliver(state, {"webhook": refuse}, NOW + year)
    deliver(state, {"webhook": good}, NOW)
    assert [entry["text"] for entry in good.got] == ["x"]
    assert state["delivery"] == {}


def test_a_channel_that_fails_does_not_stop_the_other_and_gets_nothing_twice() -> None:
    good, bad = Receiver(), Receiver()
    bad.fails = True
    message = {"time": NOW, "channels": ["webhook", "mail"], "message": {"text": "x"}}
    state: dict[str, Any] = {"waiting": [message]}
    for minute in range(3):
        deliver(state, {"webhook": bad, "mail": good}, NOW + 600 * minute)
    bad.fails = False
    deliver(state, {"webhook": bad, "mail": good}, NOW + 7200)
    assert len(good.got) == len(bad.got) == 1
    assert state["waiting"] == []


def test_a_message_for_a_channel_that_was_removed_is_dropped() -> None:
    state: dict[str, Any] = {"waiting": [{"time": NOW, "channels": ["mail"], "message": {"text": "x"}}]}
    deliver(state, {"webhook": Receiver()}, NOW)
    assert state["waiting"] == []


def test_an_answer_that_is_no_http_stops_neither_the_check_nor_the_mail() -> None:
    class Garbage(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            self.wfile.write(b"garbage\r\n\r\n")

    mail = Receiver()
    state: dict[str, Any] = {"waiting": [{"time": NOW, "channels": ["webhook", "mail"], "message": {"text": "x"}}]}
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Garbage) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/squid-token"
        deliver(state, {"webhook": lambda content: send_webhook(url, content), "mail": mail}, NOW)
        server.shutdown()
    assert len(mail.got) == 1
    assert state["waiting"][0]["channels"] == ["webhook"]
    assert "garbage" in state["delivery"]["error"]


def test_a_check_that_is_killed_while_it_sends_loses_nothing_and_sends_nothing_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Killed(BaseException):
        pass

    got: list[str] = []
    stored: list[str] = []
    kills = True

    def send(content: Mapping[str, Any]) -> None:
        if kills and got:
            raise Killed
        got.append(content["subject"])

    monkeypatch.setattr(alerts, "channels_of", lambda _: {"webhook": send})
    found = host(failed_units=["a.service", "b.service"])
    state: dict[str, Any] = {}
    check({"host": "web1"}, state, found, NOW)
    with pytest.raises(Killed):
        check({"host": "web1"}, state, found, NOW + 60, lambda kept: stored.append(json.dumps(kept)))
    kills = False
    check({"host": "web1"}, json.loads(stored[-1]), found, NOW + 120)
    assert got == ["a.service", "b.service"]


# --- the state --------------------------------------------------------------------------------------------------------


def test_a_check_looks_for_certificates_of_a_balancer_that_expire(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "haproxy.cfg").touch()
    (tmp_path / "shop.json").touch()
    (tmp_path / "shop/current/real").mkdir(parents=True)
    (tmp_path / "shop/state.json").write_text(json.dumps({"not_after": time.time() + 9.5 * 86400}))
    for name, path in (("HAPROXY", "haproxy.cfg"), ("BALANCED", "."), ("CERTIFICATES", ".")):
        monkeypatch.setattr(app_status, name, tmp_path / path)
    monkeypatch.setattr(app_status.certificates_of_balancer, "__defaults__", (tmp_path,))
    (found,) = [one for one in find_problems(alerts.measure([], NOW), NOW) if one["kind"] == "certificate"]
    assert (found["app"], found["text"]) == ("shop", "the certificate expires in 9 days")


def test_a_check_looks_for_logs_that_are_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"state": "failed", "has_died": False, "waiting_bytes": 0, "space_bytes": 0}
    monkeypatch.setattr(alerts, "describe_logs", lambda: found)
    measured = alerts.measure([], NOW)
    assert "logs" in {problem["kind"] for problem in find_problems(measured, NOW)}


def test_samples_are_kept_for_a_day_each_five_minutes() -> None:
    samples: list[dict[str, Any]] = []
    for minute in range(3000):
        samples = add_sample(samples, GOOD, NOW + 60 * minute)
    assert 280 <= len(samples) <= 288
    assert samples[-1]["memory"] == {"shop": 182 << 20}
    assert samples[-1]["disks"] == {"/": 4 * 10**9}
    assert all(host_state.is_sample(sample) for sample in samples)


def test_the_state_is_kept_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, disk = tmp_path / "run/state.json", tmp_path / "lib/state.json"
    save({"checked": "2026-01-02T03:00:00Z"}, (memory, disk))

    def full(path: Path, *rest: Any) -> None:
        if path == disk:
            raise OSError(28, "No space left on device")
        write(path, *rest)

    monkeypatch.setattr(alerts, "write", full)
    save({"checked": "2026-01-02T03:01:00Z"}, (memory, disk))
    assert host_state.read_alerts((memory, disk)) == {"checked": "2026-01-02T03:01:00Z"}


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "\x00", '{"samples": 7, "delivery": []}', '{"samples": [{"time": "x"}]}']
)
def test_a_damaged_state_is_no_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "state.json").write_text(content)
    found = host_state.describe_alerts((tmp_path / "state.json", tmp_path / "absent"))
    assert found is None or (found["samples"], found["delivery"]) == ([], {})


def test_a_folder_of_backups_that_cannot_be_read_means_no_backups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", refuse)
    monkeypatch.setattr(Path, "exists", refuse)
    assert host_state.describe_backup(tmp_path / "status.json") is None


def test_a_file_of_backups_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text("damaged")
    (found,) = host(backup=host_state.describe_backup(tmp_path / "status.json"))["problems"]
    assert (found["kind"], found["text"]) == ("backup", f"backup: {tmp_path}/status.json can't be read")


# --- deploys ----------------------------------------------------------------------------------------------------------


def event(time: str, result: str = "ok", **more: str) -> str:
    found = {"time": time, "action": "deploy", "release": "r1", "commit": "0123456789abcdef", "result": result}
    return f"shop {json.dumps({**found, 'by': 'somebody@laptop', 'reason': '', **more})}\n"


def test_deploys_are_sent_once_with_their_user_and_result(tmp_path: Path) -> None:
    file, state = tmp_path / "history", {"checked": "x"}
    file.write_text(event("2026-01-02T01:00:00Z"))
    assert new_events(state, "web1", NOW, False, file) == []  # from before the first check
    failed = event("2026-01-02T02:00:00Z", "failed", reason="KeyError: 'squid-ink'")
    file.write_text(event("2026-01-02T01:00:00Z") + event("2026-01-02T01:59:00Z", "begun") + failed + "garbage\n")
    (found,) = new_events(state, "web1", NOW, False, file)
    assert found["text"] == "web1 shop: deploy of r1 (commit 0123456789ab) by somebody@laptop: failed"
    assert "squid" not in json.dumps(found)
    assert new_events(state, "web1", NOW, False, file) == []


def test_deploys_are_sent_also_after_one_by_a_clock_that_was_ahead_and_in_the_same_second(tmp_path: Path) -> None:
    file, state = tmp_path / "history", {"checked": "x"}
    lines = event("2027-01-02T01:00:00Z")
    file.write_text(lines)
    assert new_events(state, "web1", NOW, False, file) == []
    lines += event("2026-01-02T02:00:00Z", release="r2")
    file.write_text(lines)
    assert [found["subject"] for found in new_events(state, "web1", NOW, False, file)] == ["r2"]
    file.unlink()  # such as by a reboot, until it is written again
    assert new_events(state, "web1", NOW, False, file) == []
    lines += event("2026-01-02T02:00:00Z", release="r3")
    file.write_text(lines)
    assert [found["subject"] for found in new_events(state, "web1", NOW, False, file)] == ["r3"]
    assert new_events(json.loads(json.dumps(state)), "web1", NOW, False, file) == []


def test_without_deploys_there_are_no_events(tmp_path: Path) -> None:
    assert new_events({}, "web1", NOW, False, tmp_path / "absent") == []
