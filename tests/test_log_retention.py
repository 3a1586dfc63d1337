"""The requests of each app stay in nginx's log for its days: logrotate with the configuration of the role."""

from __future__ import annotations

import grp
import gzip
import json
import os
import pwd
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.blueoctopus.site.plugins.filter.apps import log_days
from ansible_collections.blueoctopus.site.plugins.filter.programs import PACKAGE, program_files
from ansible_collections.blueoctopus.site.plugins.module_utils import log_retention
from ansible_collections.blueoctopus.site.plugins.module_utils.log_retention import OTHERS, apply_retention
from ansible_collections.blueoctopus.site.plugins.module_utils.logs import rotated
from log_lines import request
from programs import find

Render = Callable[..., str]
DAYS = {"shop": 5, "blog": 1}
SITES = (*DAYS, "gone", "")


def text_of(path: Path) -> str:
    """The content of a log file."""
    return gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()


def days_of(folder: Path, site: str) -> list[int]:
    """The days whose requests of a site are in the log, the newest first."""
    text = "".join(text_of(path) for path in rotated(folder, "access.log"))
    return [int(day) for day in re.findall(rf'"site":"{site}".*?"uri":"/day/(\d+)"', text)]


def archive(folder: Path, number: int, *lines: str) -> Path:
    """A rotated log file."""
    path = folder / f"access.log.{number}.gz"
    path.write_bytes(gzip.compress("".join(lines).encode()))
    os.utime(path, (1_000_000 - number, 1_000_000 - number))
    return path


@pytest.mark.needs("logrotate")
def test_the_requests_of_each_app_stay_for_its_days(render: Render, tmp_path: Path) -> None:
    for name, content in program_files("log_retention", f"{tmp_path}/program").items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(content)
    code = tmp_path / "program" / PACKAGE.replace(".", "/")
    for module, path in (("traffic", "/var/log/nginx"), ("log_retention", "/var/lib/nginx-log")):
        copy = code / f"{module}.py"
        copy.write_text(copy.read_text().replace(path, f"{tmp_path}/{Path(path).name}"))
    values = {"nginx_log_days": DAYS, "__nginx_other_days": 3, "__nginx_log_program": f"{tmp_path}/program"}
    text = render("nginx", "logrotate.j2", **values).replace("/var/log/nginx", f"{tmp_path}/nginx")
    user, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
    config, folder = tmp_path / "logrotate.conf", tmp_path / "nginx"
    config.write_text(text.replace("www-data adm", f"{user} {group}").replace("systemctl kill", "true"))
    config.chmod(0o644)
    folder.mkdir(mode=0o755)
    rotate = [find("logrotate"), "--force", f"--state={tmp_path}/rotated", str(config)]
    for day in range(9):
        with (folder / "access.log").open("a") as file:
            file.writelines(request(1, site=site, uri=f"/day/{day}") for site in SITES if day != 4)
        done = subprocess.run(rotate, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
    assert days_of(folder, "shop") == [8, 7, 6, 5]  # no request on the fourth day
    assert days_of(folder, "blog") == [8]
    assert days_of(folder, "gone") == days_of(folder, "") == [8, 7, 6]
    assert len(rotated(folder, "access.log")) == 6
    assert (folder / "access.log").stat().st_mode & 0o777 == 0o640


def test_a_shorter_time_applies_to_all_files_and_no_file_is_read_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewritten: list[str] = []
    before = log_retention.keep_only

    def keep_only(path: Path, *others: object) -> None:
        rewritten.append(path.name)
        before(path, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(log_retention, "keep_only", keep_only)
    for day in range(2, 6):
        archive(tmp_path, day, *(request(1, site=site, uri=f"/day/{day}") for site in SITES))
    days, state = {OTHERS: 14, "shop": 14, "blog": 14}, tmp_path / "state.json"
    apply_retention(days, tmp_path, state)
    assert rewritten == []
    for _ in range(2):
        apply_retention(days | {"blog": 3}, tmp_path, state)
    assert rewritten == ["access.log.4.gz", "access.log.5.gz"]
    assert days_of(tmp_path, "blog") == [2, 3]
    assert days_of(tmp_path, "shop") == days_of(tmp_path, "") == [2, 3, 4, 5]
    times = [path.stat().st_mtime for path in rotated(tmp_path, "access.log")]
    assert times == [1_000_000 - day for day in range(2, 6)]  # the readers of the log use them
    state.write_text("garbage")
    apply_retention(days | {"blog": 1}, tmp_path, state)
    assert days_of(tmp_path, "blog") == []


def test_garbage_a_damaged_archive_and_an_interrupted_run_stop_nothing(tmp_path: Path) -> None:
    lines = ["garbage\n", "x" * (3 << 20), "\n", request(1, site="blog"), request(1), '{"time":"', request(1)]
    archive(tmp_path, 2, *lines)
    whole = archive(tmp_path, 3, *(request(n, site="blog" if n % 2 else "shop") for n in range(5000)))
    whole.write_bytes(whole.read_bytes()[:-2000])
    (tmp_path / ".access.log.2.gz.new").write_text("half")
    apply_retention({OTHERS: 14, "blog": 1}, tmp_path, tmp_path / "state.json")
    assert text_of(tmp_path / "access.log.2.gz") == "".join(line for line in lines if '"blog"' not in line)
    left = text_of(whole)
    assert '"shop"' in left
    assert '"blog"' not in left
    assert sorted(path.name for path in tmp_path.iterdir()) == ["access.log.2.gz", "access.log.3.gz", "state.json"]
    assert len(json.loads((tmp_path / "state.json").read_text())) == 2


def test_an_app_without_the_key_has_the_days_of_debian() -> None:
    app = {"name": "shop", "domains": ["shop.example"], "source": "app", "wsgi": "main:app"}
    assert log_days([app, app | {"name": "blog", "log_days": 90}]) == {"shop": 14, "blog": 90}
