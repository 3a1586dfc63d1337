"""Lines of nginx's JSON log."""

from __future__ import annotations

import datetime

NOW = 1_767_323_400.0  # 2026-01-02T03:10:00Z
V1 = "20260101T000000Z-00000000aa"


def request(
    ago: float,
    status: int = 200,
    seconds: float = 0.02,
    site: str = "shop",
    uri: str = "/",
    now: float = NOW,
    release: str = V1,
) -> str:
    """A line as nginx writes it."""
    moment = datetime.datetime.fromtimestamp(now - ago, datetime.UTC).isoformat(timespec="seconds")
    return (
        f'{{"time":"{moment}","site":"{site}","request_id":"{"0" * 32}","client":"192.0.2.1","scheme":"https",'
        f'"host":"shop.example","method":"GET","uri":"{uri}","protocol":"HTTP/2.0","tls":"TLSv1.3",'
        f'"status":{status},"bytes":12,"seconds":{seconds:.3f},"upstream_status":"200",'
        '"upstream_connect_seconds":"0.000","upstream_seconds":"0.012","release":"'
        f'{release}",'
        '"referer":"","user_agent":"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"}\n'
    )
