"""What a host remembers of an app's releases."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from action import release_switch
from ansible.module_utils.releases import BusyError, Releases
from filter.systemd import systemd_command

IDS = [f"2026010{n}T000000Z-{n:010x}" for n in range(1, 8)]


@pytest.fixture
def store(tmp_path: Path) -> Releases:
    """An app with two releases, neither of which was ever live."""
    made = Releases("shop", tmp_path)
    for release in IDS[:2]:
        (made.folder / release).mkdir(parents=True)
    return made


def go_live(store: Releases, release: str, action: str = "deploy") -> None:
    (store.folder / release).mkdir(exist_ok=True)
    store.make_live(release)
    store.note(action, release, "ok")


def test_the_live_link_is_never_missing(store: Releases) -> None:
    for release in IDS[:2]:
        store.make_live(release)
        assert store.live == release
    assert sorted(os.listdir(store.root)) == ["before", "live", "releases"]
    assert os.readlink(store.root / "before") == f"releases/{IDS[0]}"


def test_a_release_that_was_never_live_is_nothing_to_go_back_to(store: Releases) -> None:
    assert store.good() == []
    assert store.previous() == ""


def test_going_back_means_the_last_good_one(store: Releases) -> None:
    for release in IDS[:3]:
        go_live(store, release)
    store.note("deploy", IDS[1], "failed")
    assert store.previous() == IDS[1]
    go_live(store, IDS[1], "rollback")
    assert store.previous() == IDS[2]


def test_a_failed_release_never_was_good(store: Releases) -> None:
    go_live(store, IDS[0])
    store.note("deploy", IDS[1], "failed")
    assert store.good() == [IDS[0]]


def test_a_release_is_good_only_while_it_is_there(store: Releases) -> None:
    for release in IDS[:3]:
        go_live(store, release)
    store.remove(IDS[0])
    assert store.good() == IDS[1:3]


@pytest.mark.parametrize(("keep", "kept"), [(3, IDS[4:7]), (2, IDS[5:7]), (1, IDS[5:7])])
def test_pruning_keeps_the_good_ones_and_always_the_one_before(store: Releases, keep: int, kept: list[str]) -> None:
    for release in IDS[2:]:
        go_live(store, release)
    store.prune(keep)
    assert store.complete() == kept


def test_pruning_never_takes_what_was_gone_back_to(store: Releases) -> None:
    for release in IDS:
        go_live(store, release)
    go_live(store, IDS[0], "rollback")
    store.prune(2)
    assert store.complete() == [IDS[0], IDS[6]]


def test_pruning_takes_what_crashes_left(store: Releases) -> None:
    go_live(store, IDS[0])
    (store.folder / ".building-x").mkdir()
    (store.folder / ".removed-x").mkdir()
    store.prune(5)
    assert os.listdir(store.folder) == [IDS[0]]


def test_a_release_that_no_longer_fits_the_machine_is_built_again(store: Releases) -> None:
    digest = IDS[0].split("-")[1]
    (store.folder / f"20270101T000000Z-{digest}").mkdir()
    assert store.find(digest, lambda _release: True) == f"20270101T000000Z-{digest}"
    assert store.find(digest, lambda release: release.name == IDS[0]) == IDS[0]
    assert store.find(digest, lambda _release: False) is None


def test_another_process_of_the_host_is_not_interrupted(store: Releases) -> None:
    with store.busy(), pytest.raises(BusyError, match="still at work"), store.busy():
        pass
    with store.busy():
        pass


def test_the_live_release_can_not_be_removed(store: Releases) -> None:
    store.make_live(IDS[0])
    store.remove(IDS[0])
    assert IDS[0] in store.complete()


def test_a_history_that_a_crash_cut_short_can_be_read(store: Releases) -> None:
    go_live(store, IDS[0])
    with (store.root / "history.jsonl").open("a") as history:
        history.write('{"time": "20')
    assert [event["release"] for event in store.history()] == [IDS[0]]


def holder(process: str = "1:1") -> dict[str, Any]:
    return {"by": "me@here", "computer": "here", "process": process, "since": 0}


def test_one_deploy_at_a_time(store: Releases) -> None:
    assert store.lock(holder()) is None
    assert store.lock(holder()) is None  # the same run again
    other = store.lock(holder("2:2"))
    assert other == holder()
    store.unlock()
    assert store.lock(holder("2:2")) is None


def test_a_lock_can_be_taken_over(store: Releases) -> None:
    store.lock(holder())
    assert store.lock(holder("2:2"), take_over=True) is None
    assert store.lock(holder()) == holder("2:2")


def test_a_lock_that_a_crash_cut_short_is_nobodys(store: Releases) -> None:
    (store.root / "deploy.lock").write_text('{"by"')
    assert store.lock(holder()) is None


def test_a_lock_is_stale_when_its_run_has_died() -> None:
    own = holder(release_switch.process_of(os.getpid()))
    assert not release_switch.is_stale(own, holder("2:2"))
    assert release_switch.is_stale(holder(f"{os.getpid()}:1"), own)  # the number was given to somebody else since
    assert release_switch.is_stale(holder("999999999:1"), own)


def test_a_lock_of_another_computer_is_stale_after_an_hour() -> None:
    there = holder() | {"computer": "there"}
    assert release_switch.is_stale(there | {"since": 0}, holder())
    assert not release_switch.is_stale(there | {"since": time.time() - 60}, holder())


@pytest.mark.parametrize(
    ("command", "written"),
    [
        ("python mail.py", '/usr/bin/env "python" "mail.py"'),
        ("flask 'a b' 50%", '/usr/bin/env "flask" "a b" "50%%"'),
        ("echo $HOME;", '/usr/bin/env "echo" "$$HOME;"'),
        ("echo '\"'", '/usr/bin/env "echo" "\\""'),
    ],
)
def test_a_command_reaches_systemd_as_it_is(command: str, written: str) -> None:
    assert systemd_command(command) == written
