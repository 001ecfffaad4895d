#!/usr/bin/env bash
# Makes a CA and the certificate of the aggregator's intake, with openssl, beside this script or in FOLDER:
# ca.crt, tls.crt, tls.key, and ca.key, which the cluster does not need: keep it in a safe place.
#
# What is there already stays, so that a second run changes nothing; remove tls.crt for a new certificate of
# the same CA, ca.crt for a new CA.
#
# usage: generate.sh [FOLDER]    (NAMESPACE=rollcall-system, DAYS=825)
set -euo pipefail
umask 077

folder=${1:-$(dirname "$0")}
namespace=${NAMESPACE:-rollcall-system}
days=${DAYS:-825}
service=rollcall-aggregator

command -v openssl >/dev/null || { echo "generate.sh: openssl is missing, install it and run again" >&2; exit 1; }
mkdir -p "$folder"
cd "$folder"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if ! [ -f ca.crt ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj "/CN=rollcall CA" \
        -addext "keyUsage=critical,keyCertSign,cRLSign" -keyout "$work/ca.key" -out "$work/ca.crt" 2>"$work/log" ||
        { cat "$work/log" >&2; exit 1; }
    mv "$work/ca.key" ca.key
    mv "$work/ca.crt" ca.crt
    # The certificate of another CA would be refused.
    rm -f tls.crt tls.key
fi
if ! [ -f tls.crt ]; then
    if ! [ -f ca.key ]; then
        echo "generate.sh: the CA's key is not here: put ca.key beside ca.crt, or remove ca.crt for a new CA" >&2
        exit 1
    fi
    {
        printf 'basicConstraints=critical,CA:FALSE\n'
        printf 'keyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\n'
        printf 'subjectAltName=DNS:%s,DNS:%s,DNS:%s,DNS:%s\n' "$service" "$service.$namespace" \
            "$service.$namespace.svc" "$service.$namespace.svc.cluster.local"
    } >"$work/extensions"
    {
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$service" \
            -keyout "$work/tls.key" -out "$work/tls.csr" &&
            openssl x509 -req -in "$work/tls.csr" -CA ca.crt -CAkey ca.key -set_serial "0x$(openssl rand -hex 16)" \
                -days "$days" -extfile "$work/extensions" -out "$work/tls.crt"
    } 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
    mv "$work/tls.key" tls.key
    mv "$work/tls.crt" tls.crt
fi
openssl verify -CAfile ca.crt tls.crt >/dev/null ||
    { echo "generate.sh: tls.crt is not of the CA in ca.crt: remove tls.crt and run again" >&2; exit 1; }
echo "$(pwd): valid until $(openssl x509 -in tls.crt -noout -enddate | cut -d= -f2)"
