#!/usr/bin/env bash
# Make a fresh Debian 13 host into the site. Runs as root on the host, from a folder with files/, source/ and key.pub. A
# second run changes only what differs, and prints a line for each change.
set -euo pipefail
umask 022
here=$(cd "$(dirname "$0")" && pwd)
export DEBIAN_FRONTEND=noninteractive

changes=()
changed() {
    changes+=("$1")
    echo "changed: $1"
}
has_changed() { [[ " ${changes[*]} " == *" $1 "* ]]; }
put() { # put PATH [MODE]
    if ! cmp --silent "$here/files$1" "$1"; then
        install -D --mode="${2:-0644}" "$here/files$1" "$1"
        changed "$1"
    fi
}

# --- packages
installed=$(dpkg-query --show --showformat='${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p')
missing=()
for package in $PACKAGES; do
    grep --quiet --line-regexp --fixed-strings "$package" <<<"$installed" || missing+=("$package")
done
if [ "${#missing[@]}" -gt 0 ]; then
    apt-get update --quiet=2
    apt-get install --yes --quiet=2 --no-install-recommends "${missing[@]}" >/dev/null
    changed packages
fi

# --- files
for path in /etc/apt/apt.conf.d/52-updates /etc/needrestart/conf.d/52-restart.conf /etc/systemd/journald.conf.d/10-size.conf \
    /etc/security/limits.d/60-no-core-dumps.conf /etc/modprobe.d/60-unused.conf /etc/locale.conf /etc/issue.net \
    /etc/sysctl.d/99-server.conf /etc/fail2ban/jail.local /etc/ssh/sshd_config.d/10-hardening.conf /etc/nginx/nginx.conf \
    /etc/nginx/sites-available/blueoctopus /etc/systemd/system/blueoctopus.service; do
    put "$path"
done
put /etc/sudoers.d/90-admin 0440
if [ "$(readlink /etc/localtime)" != /usr/share/zoneinfo/Etc/UTC ]; then
    ln --symbolic --force --no-dereference /usr/share/zoneinfo/Etc/UTC /etc/localtime
    changed /etc/localtime
fi
if [ ! -e /etc/nginx/sites-enabled/blueoctopus ]; then
    ln --symbolic ../sites-available/blueoctopus /etc/nginx/sites-enabled/blueoctopus
    rm --force /etc/nginx/sites-enabled/default
    changed /etc/nginx/sites-enabled
fi

# --- accounts
if ! id admin >/dev/null 2>&1; then
    useradd --create-home --shell /bin/bash admin
    changed admin
fi
if ! cmp --silent "$here/key.pub" /home/admin/.ssh/authorized_keys; then
    install --directory --owner=admin --group=admin --mode=0700 /home/admin/.ssh
    install --owner=admin --group=admin --mode=0600 "$here/key.pub" /home/admin/.ssh/authorized_keys
    changed authorized_keys
fi
if ! id blueoctopus >/dev/null 2>&1; then
    useradd --system --home-dir /srv/blueoctopus --no-create-home --shell /usr/sbin/nologin blueoctopus
    changed blueoctopus
fi

# --- the app: its code in releases/, the live one in current, the dependencies in shared/venv. Names with a date, as
# Capistrano chooses, come after this one.
root=/srv/blueoctopus
install --directory "$root" "$root/releases" "$root/shared"
[ -x "$root/shared/venv/bin/pip" ] || python3 -m venv "$root/shared/venv"
if ! cmp --silent "$here/source/requirements.txt" "$root/shared/requirements.txt"; then
    "$root/shared/venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r "$here/source/requirements.txt"
    cp "$here/source/requirements.txt" "$root/shared/requirements.txt"
    changed dependencies
fi
digest=0-$(cd "$here/source" && find . -type f -print0 | LC_ALL=C sort --zero-terminated | xargs -0 sha256sum | sha256sum | cut -c1-12)
if [ "$(readlink "$root/current" || true)" != "releases/$digest" ]; then
    rm -rf "$root/releases/$digest"
    cp -r "$here/source" "$root/releases/$digest"
    chown -R root:root "$root/releases/$digest"
    chmod -R u=rwX,go=rX "$root/releases/$digest"
    ln --symbolic --force --no-dereference "releases/$digest" "$root/current"
    changed code
fi

# --- firewall
rules=$(ufw show added)
rule() {
    if ! grep --quiet --line-regexp --fixed-strings "ufw $1" <<<"$rules"; then
        # shellcheck disable=SC2086  # a rule is several words
        ufw $1 >/dev/null
        changed "ufw"
    fi
}
rule "allow from $ADMIN_ADDRESS to any port 22 proto tcp"
rule "limit 22/tcp"
rule "allow 80/tcp"
rule "allow 443/tcp"
rule "allow 443/udp"
grep --quiet '^DEFAULT_INPUT_POLICY="DROP"' /etc/default/ufw || ufw default deny incoming >/dev/null
if ! grep --quiet '^Status: active' <<<"$(ufw status)"; then
    ufw --force enable >/dev/null
    changed "ufw"
fi

# --- services
! has_changed /etc/systemd/system/blueoctopus.service || systemctl daemon-reload
! has_changed /etc/sysctl.d/99-server.conf || systemctl restart systemd-sysctl
! has_changed /etc/systemd/journald.conf.d/10-size.conf || systemctl restart systemd-journald
if has_changed /etc/ssh/sshd_config.d/10-hardening.conf; then
    sshd -t
    systemctl reload ssh
fi
! has_changed /etc/fail2ban/jail.local || systemctl restart fail2ban
for service in blueoctopus nginx fail2ban; do
    systemctl is-enabled --quiet "$service" || systemctl enable --quiet "$service"
done
if has_changed code || has_changed dependencies || has_changed /etc/systemd/system/blueoctopus.service; then
    systemctl restart blueoctopus
fi
if has_changed /etc/nginx/nginx.conf || has_changed /etc/nginx/sites-available/blueoctopus || has_changed /etc/nginx/sites-enabled; then
    nginx -t -q
    systemctl reload-or-restart nginx
fi
echo "changes: ${#changes[@]}"
