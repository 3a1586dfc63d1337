"""The history of an app's releases on a host: good releases, rollbacks, removal."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils.releases import Releases

IDS = [f"2026010{n}T000000Z-{n:010x}" for n in range(1, 8)]
V1, V2, V3, V4 = IDS[:4]


def build(store: Releases, release: str) -> None:
    """Create a complete release, with metadata."""
    store.path(release).mkdir(exist_ok=True)
    (store.path(release) / "release.json").write_text(json.dumps({"commit": f"commit of {release}"}))


def go_live(store: Releases, release: str, action: str = "deploy") -> None:
    """Record a successful deploy or rollback."""
    build(store, release)
    store.record(action, release, "begun")
    store.make_live(release)
    store.record(action, release, "ok")


def fail(store: Releases, release: str, action: str = "deploy") -> None:
    """Record a deploy or rollback that fails and is undone on this host."""
    build(store, release)
    store.record(action, release, "begun")
    store.make_live(release)
    store.make_live(store.confirmed)
    store.record(action, release, "failed", "it is broken")


def roll_back(store: Releases) -> str:
    """Roll back to the previous release; return its id."""
    release = store.previous()
    go_live(store, release, "rollback")
    return release


# --- good releases and rollback -------------------------------------------------------------------------------------


def test_a_release_that_was_never_live_is_not_good(store: Releases) -> None:
    build(store, V1)
    assert store.complete() == [V1]
    assert (store.good(), store.stack, store.previous(), store.confirmed) == ([], [], "", "")


def test_the_first_release_has_no_previous_release(store: Releases) -> None:
    go_live(store, V1)
    assert store.confirmed == V1
    assert store.previous() == ""


def test_rolling_back_twice_goes_back_two_releases(store: Releases) -> None:
    for release in (V1, V2, V3):
        go_live(store, release)
    assert roll_back(store) == V2
    assert roll_back(store) == V1
    assert store.confirmed == V1
    assert store.previous() == ""
    assert sorted(store.rolled_back) == [V2, V3]


def test_a_rollback_skips_a_release_that_was_rolled_back_from(store: Releases) -> None:
    for release in (V1, V2, V3):
        go_live(store, release)
    assert roll_back(store) == V2
    go_live(store, V4)
    assert store.stack == [V1, V2, V4]
    assert store.rolled_back == [V3]
    assert roll_back(store) == V2


def test_a_rollback_to_a_given_release_makes_it_good_again(store: Releases) -> None:
    for release in (V1, V2):
        go_live(store, release)
    roll_back(store)
    go_live(store, V2, "rollback")
    assert store.confirmed == V2
    assert store.previous() == V1
    assert store.rolled_back == []


def test_a_new_deploy_of_a_release_makes_it_good_again(store: Releases) -> None:
    for release in (V1, V2):
        go_live(store, release)
    roll_back(store)
    go_live(store, V2)
    assert (store.stack, store.rolled_back) == ([V1, V2], [])


def test_a_rollback_to_an_older_release_rolls_back_from_all_later_ones(store: Releases) -> None:
    for release in (V1, V2, V3):
        go_live(store, release)
    go_live(store, V1, "rollback")
    assert (store.stack, store.rolled_back) == ([V1], [V2, V3])


def test_an_undone_deploy_is_never_good_even_if_it_succeeded_on_this_host(store: Releases) -> None:
    for release in (V1, V2):
        go_live(store, release)
    store.make_live(V1)
    store.record("deploy", V2, "failed", "another host failed")
    store.record("undo", V1, "ok")
    assert store.confirmed == V1
    assert store.good() == [V1]
    store.sweep()
    assert store.complete() == [V1]


def test_an_undone_rollback_marks_no_release_as_rolled_back(store: Releases) -> None:
    for release in (V1, V2, V3):
        go_live(store, release)
    go_live(store, V2, "rollback")
    store.make_live(V3)
    store.record("undo", V3, "ok")
    assert (store.stack, store.rolled_back) == ([V1, V2, V3], [])


def test_a_failed_release_is_never_good(store: Releases) -> None:
    go_live(store, V1)
    fail(store, V2)
    assert store.good() == [V1]
    assert store.confirmed == V1


def test_a_failed_redeploy_of_a_good_release_keeps_it_good(store: Releases) -> None:
    for release in (V1, V2):
        go_live(store, release)
    fail(store, V1)
    assert store.stack == [V1, V2]
    assert store.previous() == V1


def test_a_failed_rollback_changes_nothing(store: Releases) -> None:
    for release in (V1, V2):
        go_live(store, release)
    fail(store, V1, "rollback")
    assert (store.stack, store.rolled_back, store.live) == ([V1, V2], [], V2)


def test_a_removed_release_is_no_longer_good(store: Releases) -> None:
    for release in (V1, V2, V3):
        go_live(store, release)
    store.remove(V2)
    assert store.good() == [V1, V3]
    assert store.previous() == V1


def test_an_undo_restores_the_previous_stack(store: Releases) -> None:
    for release in IDS[:3]:
        store.path(release).mkdir(parents=True, exist_ok=True)
        store.record("deploy", release, "ok")
    store.record("deploy", IDS[0], "ok")  # an older release again, only on this host
    store.record("undo", IDS[2], "ok")
    assert store.good() == IDS[:3]


def test_an_undo_gives_the_same_stack_after_the_failed_release_is_removed(store: Releases) -> None:
    failed = "20260109T000000Z-000000000f"
    for release in (IDS[0], IDS[1], IDS[0], failed):
        store.path(release).mkdir(parents=True, exist_ok=True)
        store.record("deploy", release, "ok")
    store.record("undo", IDS[0], "ok")
    before = store.stack
    store.remove(failed)
    assert store.stack == before == [IDS[1], IDS[0]]


# --- unfinished runs ------------------------------------------------------------------------------------------------


def test_a_deploy_is_unfinished_until_its_end(store: Releases) -> None:
    go_live(store, V1)
    assert store.unfinished() is None
    build(store, V2)
    store.record("deploy", V2, "begun", by="me@here")
    store.make_live(V2)
    begun = store.unfinished()
    assert begun is not None
    assert (begun["release"], begun["action"], begun["by"], begun["from"]) == (V2, "deploy", "me@here", V1)
    assert store.confirmed == V1
    store.record("deploy", V2, "failed")
    assert store.unfinished() is None


def test_the_end_of_a_deploy_contains_the_previous_release(store: Releases) -> None:
    for release in (V1, V2):
        go_live(store, release)
    end = store.history()[-1]
    assert (end["result"], end["from"], end["commit"]) == ("ok", V1, f"commit of {V2}")


def test_an_event_can_have_the_commit_of_a_removed_release(store: Releases) -> None:
    store.record("deploy", V1, "failed", commit="abc")
    assert store.history()[-1]["commit"] == "abc"


# --- removal --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("keep", "kept"), [(3, IDS[4:7]), (2, IDS[5:7]), (1, IDS[5:7])])
def test_pruning_keeps_the_newest_good_releases_and_always_the_previous_one(
    store: Releases, keep: int, kept: list[str]
) -> None:
    for release in IDS:
        go_live(store, release)
    gone = store.prune(keep)
    assert store.complete() == kept
    assert gone == [release for release in IDS if release not in kept]


def test_pruning_removes_rolled_back_releases_before_others(store: Releases) -> None:
    for release in (V1, V2, V3):
        go_live(store, release)
    roll_back(store)
    go_live(store, V4)
    assert store.prune(3) == [V3]
    assert store.complete() == [V1, V2, V4]


def test_pruning_keeps_a_rolled_back_release_within_the_limit(store: Releases) -> None:
    for release in (V1, V2):
        go_live(store, release)
    roll_back(store)
    assert store.prune(2) == []
    assert store.rolled_back == [V2]


def test_pruning_keeps_the_live_release_when_it_is_not_confirmed(store: Releases) -> None:
    for release in (V1, V2, V3):
        go_live(store, release)
    build(store, V4)
    store.make_live(V4)
    store.prune(1)
    assert store.complete() == [V2, V3, V4]


def test_sweeping_removes_leftovers_of_crashes_and_releases_that_are_not_good(store: Releases) -> None:
    go_live(store, V1)
    build(store, V2)
    for name in (".building-x", ".removed-x"):
        (store.folder / name).mkdir()
        (store.folder / name / "file").touch()
    store.sweep()
    assert os.listdir(store.folder) == [V1]


def test_the_live_release_cannot_be_removed(store: Releases) -> None:
    build(store, V1)
    store.make_live(V1)
    store.remove(V1)
    assert store.complete() == [V1]
    store.remove("")  # an empty id does not remove the folder itself
    assert store.complete() == [V1]


# --- the history file -----------------------------------------------------------------------------------------------


def history_file(store: Releases) -> Path:
    return store.root / "history.jsonl"


def test_a_truncated_line_is_skipped_and_the_next_event_gets_its_own_line(store: Releases) -> None:
    go_live(store, V1)
    with history_file(store).open("a") as history:
        history.write('{"time": "20')
    assert [event["release"] for event in store.history()] == [V1, V1]
    build(store, V2)
    store.record("deploy", V2, "ok")
    assert [event["release"] for event in store.history()] == [V1, V1, V2]
    assert history_file(store).read_text().endswith("}\n")
    assert store.confirmed == V2


def test_a_line_with_invalid_bytes_is_skipped(store: Releases) -> None:
    go_live(store, V1)
    with history_file(store).open("ab") as history:
        history.write(b'\xff\xfe{"\n')
    assert store.confirmed == V1


def test_recording_on_a_full_disk_fails_and_leaves_no_partial_line(
    store: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_live(store, V1)
    before = history_file(store).read_bytes()
    build(store, V2)
    working = os.fsync
    failures = [OSError(28, "No space left on device")]

    def fsync(descriptor: int) -> None:
        if failures:
            raise failures.pop()
        working(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left"):
        store.record("deploy", V2, "ok")
    assert history_file(store).read_bytes() == before
    store.record("deploy", V2, "ok")
    assert history_file(store).read_bytes().startswith(before)
    assert store.confirmed == V2


def test_an_event_is_on_the_disk_when_record_returns(store: Releases, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    working = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        working(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    store.record("deploy", V1, "ok")
    assert str(history_file(store)) in synced
    assert str(store.root) in synced


def test_only_root_and_its_group_can_read_the_history(store: Releases) -> None:
    store.record("deploy", V1, "ok")
    assert history_file(store).stat().st_mode & 0o777 == 0o640
