"""The watch of a new release: when failed requests of clients fail the deploy."""

from __future__ import annotations

import pytest
from ansible_collections.blueoctopus.site.plugins.modules.release_watch import judge


@pytest.mark.parametrize(
    ("before", "after", "is_broken"),
    [
        ((100, 0), (20, 20), True),
        ((0, 0), (20, 11), True),
        ((100, 0), (20, 10), False),
        ((100, 0), (9, 9), False),
        ((100, 90), (20, 20), False),
        ((100, 40), (20, 20), True),
    ],
    ids=["all fail", "no requests before", "half fail", "few requests", "broken before, too", "partly broken before"],
)
def test_most_requests_must_not_fail_unless_they_did_before(
    before: tuple[int, int], after: tuple[int, int], is_broken: bool
) -> None:
    broken, words = judge(before, after)
    assert broken == is_broken
    assert f"{after[1]} of {after[0]} requests" in words
    assert "health_path" in words


def test_nothing_is_said_when_no_request_failed() -> None:
    assert judge((10, 0), (10, 0)) == (False, "")
