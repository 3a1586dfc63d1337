#!/usr/bin/env bash
# Roll back as Capistrano does: link the release before the live one, and restart the service.
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck disable=SC1091
. ./common.sh
root=/srv/blueoctopus

live=$(on_host "basename \$(readlink $root/current)")
before=$(on_host "ls -1r $root/releases" | grep --after-context=1 --line-regexp "$live" | tail -n 1)
if [ "$before" = "$live" ]; then
    echo "There is no release before $live." >&2
    exit 1
fi
on_host "sudo ln -sfn releases/$before $root/current.new && sudo mv -T $root/current.new $root/current"
on_host "sudo systemctl restart blueoctopus"
