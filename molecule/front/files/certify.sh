#!/bin/sh
# A certificate for the address of the CA, from a CA of its own. Python 3.13 takes no CA without a key usage, and no
# certificate that does not name its CA's key.
set -e
mkdir -p /etc/pebble
cd /etc/pebble
ec() { openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes "$@"; }
ec -x509 -days 3650 -subj "/CN=Vouches for the CA" -addext keyUsage=critical,keyCertSign,cRLSign -keyout ca.key -out ca.pem
ec -subj "/CN=ca.test" -keyout key.pem -out request.pem
printf '%s\n' subjectAltName=DNS:ca.test,DNS:localhost subjectKeyIdentifier=hash authorityKeyIdentifier=keyid >extensions
openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 3650 -extfile extensions -out cert.pem
