# The bed's certificates and the kubeconfigs that hold them, made with openssl.
# shellcheck shell=bash disable=SC2154
#
# Sourced by bed.sh, which sets: bed (the bed's folder).

# The cluster's authority, and the key that service account tokens are signed with.
make_authority() {
    mkdir -p "$bed/pki"
    chmod 700 "$bed/pki"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -sha256 -days 30 \
        -subj "/CN=rollcall test bed" -addext "keyUsage=critical,keyCertSign,cRLSign" \
        -keyout "$bed/pki/ca.key" -out "$bed/pki/ca.crt" 2>/dev/null
    openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out "$bed/pki/service-accounts.key" 2>/dev/null
}

# make_certificate NAME SUBJECT [ALTERNATIVE-NAMES]: for a client, with names for a server too.
make_certificate() {
    local name=$1 subject=$2 alternative=${3:-} usage=clientAuth
    local extensions
    [ -z "$alternative" ] || usage=$usage,serverAuth
    extensions="keyUsage=critical,digitalSignature
extendedKeyUsage=$usage
${alternative:+subjectAltName=$alternative}"
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -sha256 -subj "$subject" \
        -keyout "$bed/pki/$name.key" -out "$bed/pki/$name.csr" 2>/dev/null
    openssl x509 -req -in "$bed/pki/$name.csr" -CA "$bed/pki/ca.crt" -CAkey "$bed/pki/ca.key" \
        -CAserial "$bed/pki/serial" -CAcreateserial -days 30 -sha256 \
        -extfile <(echo "$extensions") -out "$bed/pki/$name.crt" 2>/dev/null
    rm "$bed/pki/$name.csr"
}

# make_kubeconfig FILE CERTIFICATE-NAME: for the API server at $api_server.
make_kubeconfig() {
    local file=$1 name=$2
    (
        umask 077
        cat >"$file" <<EOF
apiVersion: v1
kind: Config
current-context: bed
clusters:
- name: bed
  cluster:
    server: $api_server
    certificate-authority-data: $(base64 -w 0 <"$bed/pki/ca.crt")
users:
- name: $name
  user:
    client-certificate-data: $(base64 -w 0 <"$bed/pki/$name.crt")
    client-key-data: $(base64 -w 0 <"$bed/pki/$name.key")
contexts:
- name: bed
  context: {cluster: bed, user: $name}
EOF
    )
}
