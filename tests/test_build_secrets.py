"""What the output of a build shows: neither the secrets of the build nor passwords of the host's environment."""

from __future__ import annotations

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils import release_build as sandbox


@pytest.mark.parametrize(
    ("secret", "text"),
    [
        ("s3cret", "password s3cret is wrong"),
        ("https://me:s3cret@index.example/simple", "401 for https://me:s3cret@index.example/other"),
        ("https://s3cret@index.example/simple", "login s3cret failed"),
        ("s3cret%2Fa", "decoded: s3cret/a"),
        ("one s3cret\ntwo s3cret", "line: two s3cret"),
    ],
)
def test_secrets_are_masked(secret: str, text: str) -> None:
    assert "s3cret" not in sandbox.mask(text, [secret])


def test_a_value_that_is_too_short_to_be_a_secret_leaves_the_output_readable() -> None:
    assert sandbox.mask("HTTP 401 in 10 s", ["1", ""]) == "HTTP 401 in 10 s"


def test_passwords_of_a_proxy_are_masked() -> None:
    passed = {"https_proxy": "http://me:s3cret@proxy.example:3128", "UV_INDEX_A_PASSWORD": "hidden", "UV_OFFLINE": "1"}
    shown = sandbox.mask("1 s3cret hidden", sandbox.private_values(passed, {}))
    assert shown == "1 … …"
