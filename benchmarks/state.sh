#!/usr/bin/env bash
# Print one line for each fact about a host: "yes FACT" or "no FACT". Every way of setting up the site must have them all.
#   state.sh ADDRESS PACKAGE...    as root, on the host
set -uo pipefail
address=$1
shift
packages=("$@")

# No grep --quiet at the end of a pipe: it would end at the first match, and with pipefail the writer's SIGPIPE is a failure.
fact() { # fact DESCRIPTION COMMAND...
    if "${@:2}" >/dev/null 2>&1; then echo "yes $1"; else echo "no $1"; fi
}
are_installed() {
    local installed
    installed=$(dpkg-query --show --showformat='${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p')
    for package in "${packages[@]}"; do
        grep --quiet --line-regexp --fixed-strings "$package" <<<"$installed" || return 1
    done
}
is_service() { systemctl is-active --quiet "$1" && systemctl is-enabled --quiet "$1"; }
app_unit() { systemctl list-units --plain --no-legend --state=active 'blueoctopus.service' 'blueoctopus@*.service' | cut -d' ' -f1; }
app_is_service() { is_service "$(app_unit | head -n 1)"; }
app_processes_are_unprivileged() {
    local group pid found=1
    group=$(systemctl show --property=ControlGroup --value "$(app_unit | head -n 1)")
    while read -r pid; do
        [ "$(stat --format=%U "/proc/$pid")" = blueoctopus ] || return 1
        found=0
    done <"/sys/fs/cgroup$group/cgroup.procs"
    return $found
}
app_is_read_only() {
    local live code
    live=$(readlink --canonicalize-existing /srv/blueoctopus/current || readlink --canonicalize-existing /srv/blueoctopus/live) || return 1
    code=$(find "$live" -name bench.py -not -path '*/venv/*' | head -n 1)
    [ -n "$code" ] && ! setpriv --reuid=blueoctopus --regid=blueoctopus --clear-groups test -w "$code"
}
app_has_no_login() { getent passwd blueoctopus | grep -E ':(/usr/sbin/nologin|/bin/false)$'; }
app_is_sandboxed() {
    systemctl show --property=NoNewPrivileges,ProtectSystem "$(app_unit | head -n 1)" | sort | tr '\n' ' ' |
        grep --line-regexp 'NoNewPrivileges=yes ProtectSystem=strict '
}
open_ports() {
    ufw show added | sed -nE 's#^ufw (allow|limit) ([0-9]+/(tcp|udp)).*#\2#p
        s#^ufw (allow|limit) from [^ ]+ to any port ([0-9]+) proto (tcp|udp).*#\2/\3#p' | sort --unique | tr '\n' ' '
}
ports_are() { [ "$(open_ports)" = "$1 " ]; }
firewall_is_active() { ufw status verbose | grep '^Status: active' && grep --quiet '^ENABLED=yes' /etc/ufw/ufw.conf; }
firewall_denies() { ufw status verbose | grep 'deny (incoming)'; }
sshd_has() { /usr/sbin/sshd -T | grep --ignore-case --line-regexp "$1"; }
site_is_configured() { nginx -T | grep --fixed-strings "server_name $address;"; }
updates_are_on() { apt-config dump APT::Periodic::Unattended-Upgrade | grep '"1"'; }
time_zone_is_utc() { [ "$(date +%Z)" = UTC ]; }
journal_is_kept() { [ -d /var/log/journal ] && systemd-analyze cat-config systemd/journald.conf | grep '^SystemMaxUse=500M'; }

fact "the packages are installed" are_installed
fact "nginx is active and enabled" is_service nginx
fact "nginx accepts its configuration" nginx -t
fact "nginx has the site" site_is_configured
fact "the app is active and enabled" app_is_service
fact "the app runs as an unprivileged user" app_processes_are_unprivileged
fact "the app can't write its code" app_is_read_only
fact "the user of the app can't log in" app_has_no_login
fact "the app is sandboxed" app_is_sandboxed
fact "the firewall is active, also after a reboot" firewall_is_active
fact "the firewall denies other connections" firewall_denies
fact "the firewall allows SSH and the web only" ports_are "22/tcp 443/tcp 443/udp 80/tcp"
fact "sshd refuses passwords" sshd_has "passwordauthentication no"
fact "sshd refuses root" sshd_has "permitrootlogin no"
fact "sshd accepts the administrator only" sshd_has "allowusers admin"
fact "fail2ban is active and enabled" is_service fail2ban
fact "fail2ban watches sshd" fail2ban-client status sshd
fact "security updates are installed by the host" updates_are_on
fact "the network ignores redirects" grep --quiet 0 /proc/sys/net/ipv4/conf/all/send_redirects
fact "no core dumps are written" grep --quiet --recursive 'hard core 0' /etc/security/limits.d
fact "unused protocols are blocked" grep --quiet --recursive '^install dccp /bin/false' /etc/modprobe.d
fact "the journal is kept, up to 500 MB" journal_is_kept
fact "the time zone is UTC" time_zone_is_utc
