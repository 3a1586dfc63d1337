"""Changes of nginx's configuration, which nginx itself validates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils import nginx
from ansible_collections.blueoctopus.site.plugins.modules import nginx_config
from modules import Programs, call
from nginx_site import needs_nginx

pytestmark = needs_nginx
SITE = "server { listen 127.0.0.1:1; server_name shop.example; }\n"
BAD = "server { listn 1; }\n"


def configure(root: Path, check: bool = False, **files: str) -> dict[str, Any]:
    """Change sites, by their names."""
    changes = {f"sites/{name}.conf": text for name, text in files.items()}
    return call(nginx_config, check, files=changes, root=str(root))


def test_a_valid_configuration_is_written_and_loaded_once(nginx_root: Path, programs: Programs) -> None:
    result = configure(nginx_root, shop=SITE)
    assert (result["changed"], result["reloaded"]) == (True, True)
    assert (nginx_root / "sites/shop.conf").read_text() == SITE
    assert programs.calls("systemctl reload", "systemctl enable") == ["systemctl reload nginx"]
    assert (result["diff"][0]["before"], result["diff"][0]["after"]) == ("", SITE)
    again = configure(nginx_root, shop=SITE)
    assert (again["changed"], again["reloaded"]) == (False, False)
    assert programs.calls("systemctl reload", "systemctl enable") == []


def test_an_invalid_configuration_changes_nothing_and_shows_what_nginx_says(
    nginx_root: Path, programs: Programs
) -> None:
    configure(nginx_root, shop=SITE)
    programs.calls()
    result = configure(nginx_root, shop=BAD, other=SITE)
    assert result["failed"]
    assert f'unknown directive "listn" in {nginx_root}/sites/shop.conf:1' in result["msg"]
    assert (nginx_root / "sites/shop.conf").read_text() == SITE
    assert not (nginx_root / "sites/other.conf").exists()
    assert programs.calls("systemctl reload", "systemctl enable") == []


def test_a_server_name_of_another_site_is_an_error(nginx_root: Path) -> None:
    configure(nginx_root, shop=SITE)
    result = configure(nginx_root, other=SITE)
    assert "Another site has this server name." in result["msg"]
    assert not (nginx_root / "sites/other.conf").exists()


def test_nginx_is_started_if_it_does_not_run(nginx_root: Path, programs: Programs) -> None:
    programs.fails("systemctl is-active")
    result = configure(nginx_root)
    assert (result["changed"], result["reloaded"]) == (True, False)
    assert programs.calls("systemctl reload", "systemctl enable") == ["systemctl enable --now nginx"]


def test_a_change_that_nginx_has_not_loaded_yet_is_loaded_by_the_next_run(nginx_root: Path, programs: Programs) -> None:
    programs.fails("systemctl reload")
    assert "nginx can't be reloaded: reload failed" in configure(nginx_root, shop=SITE)["msg"]
    programs.fails("systemctl reload", False)
    assert configure(nginx_root, shop=SITE)["reloaded"]
    assert not configure(nginx_root, shop=SITE)["changed"]


@pytest.mark.parametrize(("text", "failed"), [(SITE, False), (BAD, True)])
def test_check_mode_validates_and_changes_nothing(
    nginx_root: Path, programs: Programs, text: str, failed: bool
) -> None:
    result = configure(nginx_root, check=True, shop=text)
    assert result.get("failed", False) == failed
    assert failed or result["changed"]
    assert list((nginx_root / "sites").iterdir()) == []
    assert not nginx.reload_pending().exists()
    assert programs.calls("systemctl reload", "systemctl enable") == []


def test_check_mode_accepts_the_certificate_that_it_has_not_created(nginx_root: Path, tmp_path: Path) -> None:
    certificate = f"ssl_certificate {tmp_path}/a.pem; ssl_certificate_key {tmp_path}/b.pem;"
    site = f"server {{ listen 127.0.0.1:1 ssl; {certificate} }}\n"
    assert "failed" not in configure(nginx_root, check=True, shop=site)
    assert configure(nginx_root, shop=site)["failed"]
