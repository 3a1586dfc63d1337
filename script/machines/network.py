"""The bridge of the machines, and their Internet access."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path

from machines.common import BRIDGE, MTU, STATE, MachineError, records, run

COMMENT = "blueoctopus-machines"  # marks the firewall rules of this script


def network() -> ipaddress.IPv4Interface:
    """The address of the bridge, which is created if missing. Call with the lock held."""
    shown = run("ip", "-j", "-4", "address", "show", "dev", BRIDGE, check=False)
    if shown.returncode == 0:
        for address in json.loads(shown.stdout)[0]["addr_info"]:
            return ipaddress.IPv4Interface(f"{address['local']}/{address['prefixlen']}")
        run("ip", "link", "delete", BRIDGE)  # left incomplete by an aborted run
    taken = [
        ipaddress.ip_network(route["dst"], strict=False)
        for route in json.loads(run("ip", "-j", "-4", "route", "show", "table", "all").stdout)
        if route["dst"] != "default"
    ]
    free = (ipaddress.IPv4Network(f"10.213.{i}.0/24") for i in range(256))
    subnet = next((n for n in free if not any(n.overlaps(t) for t in taken)), None)
    if subnet is None:
        raise MachineError("No free network for the machines: every 10.213.x.0/24 is in use here.")
    interface = ipaddress.IPv4Interface(f"{subnet[1]}/24")
    run("ip", "link", "add", BRIDGE, "mtu", str(MTU), "type", "bridge")
    run("ip", "address", "add", str(interface), "dev", BRIDGE)
    run("ip", "link", "set", BRIDGE, "up")
    forward = Path("/proc/sys/net/ipv4/ip_forward")
    (STATE / "ip_forward.before").write_text(forward.read_text())
    forward.write_text("1\n")
    for rule in firewall_rules(subnet):
        table, chain, *rest = rule
        run("iptables", "-w", "-t", table, "-I", chain, *rest)
    return interface


def firewall_rules(subnet: ipaddress.IPv4Network) -> list[list[str]]:
    """The rules that give the machines Internet access: table, chain and match of each."""
    mark = ["-m", "comment", "--comment", COMMENT]
    return [
        ["nat", "POSTROUTING", "-s", str(subnet), "!", "-d", str(subnet), *mark, "-j", "MASQUERADE"],
        ["filter", "FORWARD", "-i", BRIDGE, *mark, "-j", "ACCEPT"],
        ["filter", "FORWARD", "-o", BRIDGE, *mark, "-j", "ACCEPT"],
    ]


def remove_network() -> None:
    """Remove the bridge and its rules after the last machine. Call with the lock held."""
    shown = run("ip", "-j", "-4", "address", "show", "dev", BRIDGE, check=False)
    if shown.returncode:
        return
    for address in json.loads(shown.stdout)[0]["addr_info"]:
        subnet = ipaddress.IPv4Interface(f"{address['local']}/{address['prefixlen']}").network
        for table, chain, *rest in firewall_rules(subnet):
            run("iptables", "-w", "-t", table, "-D", chain, *rest, check=False)
    run("ip", "link", "delete", BRIDGE)
    before = STATE / "ip_forward.before"
    if before.exists():
        Path("/proc/sys/net/ipv4/ip_forward").write_text(before.read_text())
        before.unlink()


def free_address(interface: ipaddress.IPv4Interface) -> str:
    """The first unused address on the bridge."""
    taken = {record["address"] for record in records()}
    for host in list(interface.network.hosts())[9:]:
        if str(host) not in taken:
            return str(host)
    raise MachineError(f"No free address on {interface}. Remove machines with: script/machine down NAME")
