"""The previous releases are drained and stopped after a deploy, and old ones are pruned."""

from __future__ import annotations

from ansible_collections.blueoctopus.site.plugins.modules import release_drain
from modules import Programs, Steps


def test_other_releases_are_stopped_and_those_that_are_not_kept_are_removed(
    steps: Steps, programs: Programs, four_releases: list[str]
) -> None:
    result = steps.run(release_drain, four_releases[-1], keep_releases=2)
    assert result["removed"] == four_releases[:2]
    assert steps.store.complete() == four_releases[2:]
    assert {path.name.split("@")[1].rsplit(".", 1)[0] for path in steps.units.iterdir()} == {four_releases[-1]}
    # A service still handles the requests that are queued on its socket.
    stopped = [call for call in programs.calls("systemctl stop") if four_releases[2] in call]
    assert [call.rsplit(".", 1)[1] for call in stopped] == ["service", "socket"]


def test_a_rollback_prunes_nothing(steps: Steps, four_releases: list[str]) -> None:
    assert steps.run(release_drain, four_releases[-1], prune=False, keep_releases=1)["removed"] == []
    assert steps.store.complete() == four_releases


def test_check_mode_changes_nothing(steps: Steps, programs: Programs, four_releases: list[str]) -> None:
    assert not steps.run(release_drain, four_releases[-1], check=True, keep_releases=1)["changed"]
    assert steps.store.complete() == four_releases
    assert programs.calls() == []
