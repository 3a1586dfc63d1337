"""What output shows: no secrets of a build or of an app, and no passwords of the host's environment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils import instances
from ansible_collections.blueoctopus.site.plugins.module_utils import release_build as sandbox
from ansible_collections.blueoctopus.site.plugins.module_utils.instances import Instance
from ansible_collections.blueoctopus.site.plugins.module_utils.masking import mask
from ansible_collections.blueoctopus.site.plugins.module_utils.releases import Releases


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
    assert "s3cret" not in mask(text, [secret])


def test_a_value_that_is_too_short_to_be_a_secret_leaves_the_output_readable() -> None:
    assert mask("HTTP 401 in 10 s", ["1", ""]) == "HTTP 401 in 10 s"


def test_passwords_of_a_proxy_are_masked() -> None:
    passed = {"https_proxy": "http://me:s3cret@proxy.example:3128", "UV_INDEX_A_PASSWORD": "hidden", "UV_OFFLINE": "1"}
    shown = mask("1 s3cret hidden", sandbox.private_values(passed, {}))
    assert shown == "1 … …"


def test_the_log_of_a_release_has_no_secrets_of_its_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, release = Releases("shop", tmp_path, tmp_path / "sites"), "20260101T000000Z-00000000aa"
    store.path(release).mkdir(parents=True)
    settings = {"DSN": 'postgresql://shop:s3cret"$word@db/shop', "COLOR": "yellow", "KEY": "two\nlines"}
    (store.path(release) / "environment").write_text(sandbox.environment_file(settings))
    (store.path(release) / "release.json").write_text(json.dumps({"secrets": ["DSN", "KEY"]}))
    monkeypatch.setattr(instances, "journal", lambda *_: 'yellow: bad s3cret"$word in lines')
    assert Instance(store, release).log(0) == "yellow: bad … in …"
