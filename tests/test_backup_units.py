"""The units, the timers and the role of PostgreSQL that the role backup writes."""

from __future__ import annotations

from collections.abc import Callable

Render = Callable[..., str]


def test_the_units_run_without_root_and_can_write_only_to_their_own_folders(render: Render) -> None:
    for unit, user in (("backup@", "backups"), ("backup-drill@", "backups-restore"), ("backup-archive@", "backups")):
        text = render("backup", f"{unit}.service.j2", backup_targets=[{"name": "disk", "repository": "/mnt/disk"}])
        assert f"User={user}\n" in text
        assert "ProtectSystem=strict\n" in text
        assert "LoadCredential=password:/etc/backup/password\n" in text
        writable = next(line for line in text.splitlines() if line.startswith("ReadWritePaths="))
        assert writable.startswith("ReadWritePaths=/var/lib/backup")
        assert writable.endswith(" /mnt/disk")
    assert "\nCapabilityBoundingSet=\n" in render("backup", "backup-drill@.service.j2", backup_targets=[])


def test_the_base_backup_runs_as_the_user_of_the_cluster_who_cannot_read_the_backups(render: Render) -> None:
    text = render("backup", "backup-base.service.j2")
    assert "User=postgres\n" in text
    assert "ProtectSystem=strict\n" in text
    assert "LoadCredential" not in text


def test_only_instances_of_redis_with_data_write_a_dump_before_a_backup(render: Render) -> None:
    start = "ExecStartPre=+/usr/local/sbin/backup dump-redis %i\n"
    for saved in ("", "aof"):
        apps = [{"name": "shop", "data": True, "database": False, "redis": saved}, {"name": "old"}]
        text = render("backup", "backup@.service.j2", backup_targets=[], backup_apps=apps)
        assert text.count(start) == bool(saved)


def test_the_timers_have_the_times_of_the_settings(render: Render) -> None:
    assert "OnCalendar=hourly\nRandomizedDelaySec=5min\n" in render(
        "backup", "backup.timer.j2", backup_time="hourly", backup_delay=5
    )
    assert "OnCalendar=monthly\n" in render("backup", "backup-drill.timer.j2", backup_drill_time="monthly")


def test_the_role_of_postgresql_is_made_once_and_may_connect_to_the_databases(render: Render) -> None:
    text = render("backup", "roles.sql.j2", backup_apps=[{"name": "shop", "data": True, "database": True}])
    assert "datname = 'shop'" in text
    assert text.count(r"\gexec") == 4
