"""The test machines themselves."""

from testinfra.host import Host


def test_machines_share_no_control_groups(host: Host) -> None:
    """A machine sees the number 0 for a process of another one."""
    processes = host.check_output("cat /sys/fs/cgroup/init.scope/cgroup.procs").split()
    assert "1" in processes
    assert "0" not in processes
