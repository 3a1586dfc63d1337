#!/bin/sh
# Create what privacyIDEA needs before its first start, with its own commands. Later runs only migrate the database.
set -eu
if [ ! -e "$DATA_DIR/enckey" ]; then
    pi-manage setup create_enckey
    pi-manage setup create_audit_keys
    pi-manage setup create_tables
    pi-manage db stamp head
    printf '%s\n%s\n' "$ADMIN_PASSWORD" "$ADMIN_PASSWORD" | pi-manage admin add admin
fi
pi-manage db upgrade
