#!/usr/bin/env bash
# Deploy as Capistrano does: a folder for each release, the dependencies in a shared venv, a link to the live release, a
# restart of the service, and the five newest releases are kept.
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck disable=SC1091
. ./common.sh
root=/srv/blueoctopus
release=$(date -u +%Y%m%d%H%M%S%N)

on_host "test -d $root/releases && test -d $root/shared"                                        # deploy:check
tar --create --gzip --exclude=__pycache__ --directory="$FOLDER/source" . |                      # deploy:updating
    on_host "sudo mkdir $root/releases/$release && sudo tar --extract --gzip --no-same-owner --directory=$root/releases/$release"
on_host "sudo $root/shared/venv/bin/pip install --quiet --disable-pip-version-check --require-hashes \
    -r $root/releases/$release/requirements.txt"
on_host "sudo ln -sfn releases/$release $root/current.new && sudo mv -T $root/current.new $root/current"  # deploy:publishing
on_host "sudo systemctl restart blueoctopus"
# deploy:finishing
on_host "cd $root/releases && ls -1r | tail -n +6 | xargs -r sudo rm -rf"
