"""The history records that the live release is good, and a restarted host starts that one."""

from __future__ import annotations

from ansible_collections.blueoctopus.site.plugins.modules import release_confirm
from modules import Programs, Steps


def test_a_confirmed_release_is_good_and_starts_its_processes_at_the_next_boot(
    steps: Steps, programs: Programs, four_releases: list[str]
) -> None:
    new = steps.build("20260105T000000Z-0000000005", "shop.worker@.service")
    steps.store.make_live(new)
    assert steps.store.confirmed == four_releases[-1]
    steps.run(release_confirm, new, by="me")
    assert steps.store.confirmed == new
    assert programs.calls("systemctl enable") == [f"systemctl enable --quiet --no-reload shop.worker@{new}.service"]


def test_check_mode_records_nothing(steps: Steps, programs: Programs, four_releases: list[str]) -> None:
    new = steps.build("20260105T000000Z-0000000005")
    steps.store.make_live(new)
    assert not steps.run(release_confirm, new, check=True, by="me")["changed"]
    assert steps.store.confirmed == four_releases[-1]
    assert programs.calls() == []
