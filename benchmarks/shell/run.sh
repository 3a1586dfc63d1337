#!/usr/bin/env bash
# Provision a host and deploy the app with one script over one SSH connection. The suite sets the variables.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
tar --create --gzip --exclude=__pycache__ --directory="$FOLDER" files source key.pub --directory="$here" provision.sh |
    ssh -i "$KEY" -o UserKnownHostsFile="$KNOWN_HOSTS" -o BatchMode=yes "$LOGIN_USER@$ADDRESS" \
        "set -e; folder=\$(mktemp -d); trap 'rm -rf \$folder' EXIT; tar --extract --gzip --directory=\$folder;
         sudo --non-interactive env ADMIN_ADDRESS='$ADMIN_ADDRESS' PACKAGES='$PACKAGES' bash \$folder/provision.sh"
