"""The last steps of a deploy: the release is confirmed, the previous ones are drained, stopped and pruned."""

from __future__ import annotations

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils.instances import Instance
from ansible_collections.blueoctopus.site.plugins.modules import release_confirm, release_drain
from modules import Programs, Steps

RELEASES = [f"2026010{n}T000000Z-{n:010x}" for n in (1, 2, 3, 4)]
LIVE = RELEASES[-1]


@pytest.fixture(autouse=True)
def deployed(steps: Steps, programs: Programs) -> None:
    """An app with four good releases; the units of all are installed."""
    for release in RELEASES:
        steps.store.make_live(steps.build(release, "shop.worker@.service"))
        steps.store.record("deploy", release, "ok")
        Instance(steps.store, release).install()
    programs.calls()


def test_other_releases_are_stopped_and_those_that_are_not_kept_are_removed(steps: Steps, programs: Programs) -> None:
    result = steps.run(release_drain, LIVE, keep_releases=2)
    assert result["removed"] == RELEASES[:2]
    assert steps.store.complete() == RELEASES[2:]
    assert {path.name.split("@")[1].rsplit(".", 1)[0] for path in steps.units.iterdir()} == {LIVE}
    # A service still handles the requests that are queued on its socket.
    stopped = [call for call in programs.calls("systemctl stop") if RELEASES[2] in call]
    assert [call.rsplit(".", 1)[1] for call in stopped] == ["service", "socket"]


def test_a_rollback_prunes_nothing(steps: Steps) -> None:
    assert steps.run(release_drain, LIVE, prune=False, keep_releases=1)["removed"] == []
    assert steps.store.complete() == RELEASES


def test_a_confirmed_release_is_good_and_starts_its_processes_at_the_next_boot(
    steps: Steps, programs: Programs
) -> None:
    new = steps.build("20260105T000000Z-0000000005", "shop.worker@.service")
    steps.store.make_live(new)
    assert steps.store.confirmed == LIVE
    steps.run(release_confirm, new, by="me")
    assert steps.store.confirmed == new
    assert programs.calls("systemctl enable") == [f"systemctl enable --quiet --no-reload shop.worker@{new}.service"]


@pytest.mark.parametrize("module", [release_confirm, release_drain])
def test_check_mode_changes_nothing(steps: Steps, programs: Programs, module: object) -> None:
    assert not steps.run(module, LIVE, check=True)["changed"]
    assert steps.store.complete() == RELEASES
    assert programs.calls() == []
