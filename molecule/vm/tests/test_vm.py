"""Tests that need a kernel of its own: kernel settings, memory limits, AppArmor, swap, a reboot."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from testing import PROJECT, Machine, Run, after_the_switch, wait_for

Play = Callable[..., Run]
testinfra_hosts = ["ansible://vm"]
REBOOT = 240  # seconds that a reboot may take, with an emulated processor


def test_site_is_live(machine: Machine) -> None:
    assert machine.host.check_output("systemd-detect-virt") in ("kvm", "qemu")
    assert machine.web.ask("/").status == 200


def test_kernel_settings_are_hardened(machine: Machine) -> None:
    wanted = {
        "kernel.kptr_restrict": 2,
        "kernel.dmesg_restrict": 1,
        "kernel.sysrq": 0,
        "kernel.yama.ptrace_scope": 2,
        "kernel.unprivileged_bpf_disabled": 1,
        "fs.protected_fifos": 2,
        "fs.protected_regular": 2,
        "fs.suid_dumpable": 0,
        "net.ipv4.conf.all.rp_filter": 2,
        "net.ipv4.conf.all.accept_redirects": 0,
        "net.core.bpf_jit_harden": 2,
    }
    with machine.host.sudo():
        shown = machine.host.check_output(f"sysctl {' '.join(wanted)}")
    assert {k: int(v) for k, v in (line.split(" = ") for line in shown.splitlines())} == wanted


def test_unused_kernel_modules_cannot_be_loaded(machine: Machine) -> None:
    with machine.host.sudo():
        assert machine.host.run("modprobe sctp").rc != 0
        assert machine.host.run("modprobe --show-depends sctp").stdout.splitlines()[-1].strip() == "install /bin/false"
        assert "sctp" not in machine.host.check_output("cat /proc/modules")


def test_second_run_changes_nothing(play: Play) -> None:
    run = play("site")
    assert run.code == 0, run.output
    assert run.recap("vm")["changed"] == 0, run.output


def test_app_above_its_memory_limit_loses_only_a_worker(machine: Machine) -> None:
    unit = f"echo@{machine.live('echo')}.service"
    group = f"/sys/fs/cgroup/system.slice/system-echo.slice/{unit}/memory.events"

    def killed() -> int:
        events = dict(line.split() for line in machine.host.check_output(f"cat {group}").splitlines())
        return int(events["oom_kill"])

    def eat(mebibytes: int) -> int:
        connection = machine.web.connect(machine.web.domain)
        connection.timeout = REBOOT
        connection.request("POST", f"/eat?mebibytes={mebibytes}", headers={"Host": machine.web.domain})
        return connection.getresponse().status

    with machine.host.sudo():
        before, master = killed(), machine.host.check_output(f"systemctl show -P MainPID {unit}")
        assert eat(20) == 200
        assert eat(700) in (502, 504)  # 504 if swapping takes longer than nginx waits
        wait_for(lambda: killed() > before, REBOOT, "the kernel has killed the worker")
        assert machine.host.check_output(f"systemctl show -P MainPID {unit}") == master
    wait_for(lambda: machine.web.ask("/").status == 200, 60, "the site responds")


def test_release_that_needs_too_much_memory_after_the_switch_is_undone(
    machine: Machine, play: Play, changed_app: Callable[..., list[str]], tmp_path: Path
) -> None:
    live = machine.live("echo")
    source = Path(shutil.copytree(PROJECT / "molecule/default/apps/echo", tmp_path / "echo"))
    with (source / "echo.py").open("a") as file:
        file.write(after_the_switch("b'x' * (700 << 20)"))
    run = play("deploy", *changed_app("echo", source=str(source), watch_time=30))
    assert run.code != 0
    assert re.search(r"seconds after the switch\. .*worker.* died since the start", run.output), run.output
    assert machine.live("echo") == live
    assert machine.web.ask("/").status == 200


def test_apparmor_is_enabled(machine: Machine) -> None:
    assert machine.host.check_output("cat /sys/module/apparmor/parameters/enabled") == "Y"
    with machine.host.sudo():
        assert int(machine.host.check_output("wc -l </sys/kernel/security/apparmor/profiles")) > 0


def test_host_with_little_memory_has_swap(machine: Machine) -> None:
    shown = machine.host.check_output("cat /proc/swaps").splitlines()[1:]
    assert [line.split()[0] for line in shown] == ["/swapfile"]
    with machine.host.sudo():
        assert machine.host.file("/swapfile").mode == 0o600


def test_clock_is_synchronized(machine: Machine) -> None:
    assert machine.host.service("systemd-timesyncd").is_running


def test_all_services_run_after_a_reboot(machine: Machine) -> None:
    live = machine.live("echo")
    with machine.host.sudo():
        machine.host.run_expect([0], "systemd-run --collect sh -c 'sleep 1; systemctl reboot'")
        time.sleep(5)
        wait_for(lambda: machine.web.ask("/").status == 200, REBOOT, "the site responds")
        wait_for(lambda: machine.host.run("true").rc == 0, 60, "a login works")
        assert float(machine.host.check_output("cut -d' ' -f1 /proc/uptime")) < REBOOT
        assert machine.live("echo") == live
        for unit in (f"echo@{live}.service", "nginx", "fail2ban", "certificates.timer", "swapfile.swap"):
            wait_for(lambda unit=unit: machine.host.service(unit).is_running, 60, f"{unit} is running")  # type: ignore[misc]
        assert "Status: active" in machine.host.check_output("ufw status")
        assert machine.host.sysctl("kernel.kptr_restrict") == 2
        assert machine.host.check_output("systemctl --failed --no-legend --plain") == ""
