# shellcheck shell=bash
# One connection for all steps, as Capistrano's SSHKit keeps it. The suite sets the variables.
control=$(mktemp -d)
host=(-o ControlPath="$control/master" "$LOGIN_USER@$ADDRESS")
trap 'ssh -O exit "${host[@]}" 2>/dev/null || true; rm -rf "$control"' EXIT
if ! ssh -f -N -M -i "$KEY" -o UserKnownHostsFile="$KNOWN_HOSTS" -o BatchMode=yes "${host[@]}" </dev/null >/dev/null 2>"$control/errors"; then
    cat "$control/errors" >&2
    exit 1
fi
# shellcheck disable=SC2029  # the scripts expand their variables before they reach the host
on_host() { ssh "${host[@]}" "$@"; }
