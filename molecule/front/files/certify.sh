#!/bin/sh
# Create a certificate for the ACME directory, signed by another certificate authority. Python 3.13 accepts a certificate
# authority only with a key usage, and a certificate only with an authority key identifier.
set -e
mkdir -p /etc/pebble
cd /etc/pebble
ec() { openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes "$@"; }
ec -x509 -days 3650 -subj "/CN=Signs the ACME directory" -addext keyUsage=critical,keyCertSign,cRLSign -keyout ca.key -out ca.pem
ec -subj "/CN=ca.test" -keyout key.pem -out request.pem
printf '%s\n' subjectAltName=DNS:ca.test,DNS:localhost subjectKeyIdentifier=hash authorityKeyIdentifier=keyid >extensions
openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 3650 -extfile extensions -out cert.pem
