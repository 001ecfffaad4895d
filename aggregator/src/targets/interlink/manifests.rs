//! What leads from outside to the Kubernetes API, as interLink's guide has it: a reverse proxy, its
//! certificates, an Ingress, and a service account without rights to try it with.
//!
//! Differences from the guide, each on purpose: all of it is in the Ingress's namespace, for an Ingress
//! takes Issuers and Secrets from there alone; the proxy passes `/api` and `/apis` and nothing else,
//! checks the API server's certificate, and is spoken to over TLS, for tokens pass through it.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::cluster_file::interlink::{Address, ApiAccess};
use crate::digest::Digest;

/// The reverse proxy: its Deployment, `ConfigMap` and Service.
const PROXY: &str = "rollcall-api-proxy";

/// The certificate for outside, and its Secret: the name of the guide.
const CERTIFICATE: &str = "web-ssl-kubernetes-api";

/// The certificate between the Ingress's controller and the proxy.
const INNER_CERTIFICATE: &str = "rollcall-api-proxy-tls";

/// The CA of both, and its Secret.
const CA: &str = "rollcall-api-ca";

/// The issuer that signs the CA alone.
const SELF_SIGNED: &str = "rollcall-api-self-signed";

/// The service account to try with.
const ACCOUNT: &str = "rollcall-api-trial";

/// The Secret with its token.
pub(super) const TOKEN: &str = "rollcall-api-trial-token";

/// Where the API server is inside: the name that its certificate has on every cluster.
const API_SERVER: &str = "kubernetes.default.svc";

/// Unprivileged, and the guide's.
const PORT: u16 = 60443;

/// 100 years, as in the guide: the CA is copied into Helm values and into containers, and nobody comes
/// to change it there.
const FOR_EVER: &str = "876000h";

/// A year; cert-manager makes a new one when two months are left.
const YEAR: &str = "8760h";
const TWO_MONTHS: &str = "1440h";

/// The kinds of addresses that pods have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Families {
    /// IPv4 alone.
    Four,
    /// IPv6 alone: a socket of IPv4 is reached by nobody there.
    Six,
    /// Both.
    Both,
}

impl Families {
    /// Those of a Service's addresses, which are those of the pods; `None`: it has none.
    pub(super) fn of(addresses: &[IpAddr]) -> Option<Self> {
        let (four, six) =
            (addresses.iter().any(IpAddr::is_ipv4), addresses.iter().any(IpAddr::is_ipv6));
        match (four, six) {
            (false, false) => None,
            (true, false) => Some(Self::Four),
            (false, true) => Some(Self::Six),
            (true, true) => Some(Self::Both),
        }
    }

    /// What NGINX listens on. A machine without IPv6 refuses a socket of it, so none is opened in vain.
    fn listen(self) -> String {
        let four = format!("listen {PORT} ssl;");
        let six = format!("listen [::]:{PORT} ssl ipv6only=on;");
        match self {
            Self::Four => four,
            Self::Six => six,
            Self::Both => format!("{four}\n        {six}"),
        }
    }
}

/// All objects, in the order in which they need one another.
pub(super) fn manifests(access: &ApiAccess, address: &Address, families: Families) -> Vec<Value> {
    let configuration = configuration(families);
    let namespace = &access.ingress.namespace;
    let object = |api_version: &str, kind: &str, name: &str, content: Value| {
        let mut object = json!({
            "apiVersion": api_version,
            "kind": kind,
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": labels(),
            },
        });
        if let (Value::Object(object), Value::Object(content)) = (&mut object, content) {
            object.extend(content);
        }
        object
    };
    let certificates = "cert-manager.io/v1";
    let mut token =
        object("v1", "Secret", TOKEN, json!({"type": "kubernetes.io/service-account-token"}));
    annotate(&mut token, json!({"kubernetes.io/service-account.name": ACCOUNT}));
    let mut ingress =
        object("networking.k8s.io/v1", "Ingress", &access.ingress.name, ingress(access, address));
    annotate(&mut ingress, ingress_annotations(namespace));
    vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}),
        object("v1", "ServiceAccount", ACCOUNT, json!({"automountServiceAccountToken": false})),
        token,
        object("v1", "ConfigMap", PROXY, json!({"data": {"nginx.conf": configuration}})),
        object("apps/v1", "Deployment", PROXY, deployment(&access.image, &configuration)),
        object(
            "v1",
            "Service",
            PROXY,
            json!({"spec": {
                "type": "ClusterIP",
                "selector": selector(),
                // Without its protocol older API servers cannot tell a port from another.
                "ports": [{"name": "https", "port": PORT, "protocol": "TCP", "targetPort": "https"}],
            }}),
        ),
        object(certificates, "Issuer", SELF_SIGNED, json!({"spec": {"selfSigned": {}}})),
        object(
            certificates,
            "Certificate",
            CA,
            certificate(
                CA,
                FOR_EVER,
                SELF_SIGNED,
                json!({
                    "isCA": true,
                    "commonName": CA,
                    // A new key would have to be carried wherever the CA is.
                    "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Never"},
                }),
            ),
        ),
        object(certificates, "Issuer", CA, json!({"spec": {"ca": {"secretName": CA}}})),
        object(
            certificates,
            "Certificate",
            INNER_CERTIFICATE,
            certificate(
                INNER_CERTIFICATE,
                // The proxy reads it when it starts.
                FOR_EVER,
                CA,
                json!({"dnsNames": [inner_name(namespace)]}),
            ),
        ),
        object(
            certificates,
            "Certificate",
            CERTIFICATE,
            certificate(CERTIFICATE, YEAR, CA, {
                let mut names = match address {
                    Address::Ip(address) => json!({"ipAddresses": [address]}),
                    Address::Name(name) => json!({"dnsNames": [name]}),
                };
                if let Value::Object(names) = &mut names {
                    names.insert("renewBefore".to_owned(), TWO_MONTHS.into());
                }
                names
            }),
        ),
        ingress,
    ]
}

/// What the Ingress's controller must be started with, where plugins use an address: it knows
/// certificates by the name that a client asks for. `None`: they use a name.
pub(super) fn certificate_by_default(access: &ApiAccess, manifests: &[Value]) -> Option<String> {
    let is_of_address = |it: &Value| {
        it.pointer("/metadata/name").and_then(Value::as_str) == Some(CERTIFICATE)
            && it.pointer("/spec/ipAddresses").is_some()
    };
    let namespace = &access.ingress.namespace;
    let is_needed = manifests.iter().any(is_of_address);
    is_needed.then(|| format!("--default-ssl-certificate={namespace}/{CERTIFICATE}"))
}

fn labels() -> Value {
    json!({"app.kubernetes.io/name": PROXY, "app.kubernetes.io/managed-by": "rollcall"})
}

fn selector() -> Value {
    json!({"app.kubernetes.io/name": PROXY})
}

fn annotate(object: &mut Value, annotations: Value) {
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        metadata.insert("annotations".to_owned(), annotations);
    }
}

/// The proxy's name for the Ingress's controller.
fn inner_name(namespace: &str) -> String {
    format!("{PROXY}.{namespace}.svc")
}

fn certificate(secret: &str, duration: &str, issuer: &str, more: Value) -> Value {
    let mut spec = json!({
        "secretName": secret,
        "duration": duration,
        "privateKey": {"algorithm": "ECDSA", "size": 256},
        "issuerRef": {"group": "cert-manager.io", "kind": "Issuer", "name": issuer},
    });
    if let (Value::Object(spec), Value::Object(more)) = (&mut spec, more) {
        spec.extend(more);
    }
    json!({"spec": spec})
}

/// NGINX's configuration. No request is logged: headers hold tokens, and paths may.
///
/// A location is chosen by the path as NGINX reads it, without `..` and `%2e`; passed on is the path as
/// it was sent. Both must be below `/api` or `/apis`, so the second is looked at, too.
fn configuration(families: Families) -> String {
    let listen = families.listen();
    format!(
        r#"# A way to the Kubernetes API: /api and /apis, and nothing else.
daemon off;
worker_processes 2;
pid /tmp/nginx.pid;
error_log stderr error;
events {{
    worker_connections 1024;
}}
http {{
    access_log off;
    server_tokens off;
    client_max_body_size 0;
    client_body_temp_path /tmp/client-body;
    proxy_temp_path /tmp/proxy;
    fastcgi_temp_path /tmp/fastcgi;
    uwsgi_temp_path /tmp/uwsgi;
    scgi_temp_path /tmp/scgi;
    map $http_upgrade $connection_upgrade {{
        default upgrade;
        '' '';
    }}
    server {{
        {listen}
        ssl_certificate /etc/rollcall/tls/tls.crt;
        ssl_certificate_key /etc/rollcall/tls/tls.key;
        ssl_protocols TLSv1.2 TLSv1.3;
        if ($request_uri !~ "^/apis?([/?]|$)") {{
            return 404;
        }}
        if ($request_uri ~* "^[^?]*(/|%2f)(\.|%2e){{2}}(/|%2f|\?|$)") {{
            return 404;
        }}
        location ~ ^/apis?(/|$) {{
            proxy_pass https://{API_SERVER};
            proxy_ssl_trusted_certificate /etc/rollcall/kubernetes/ca.crt;
            proxy_ssl_verify on;
            proxy_ssl_verify_depth 4;
            proxy_ssl_name {API_SERVER};
            proxy_ssl_server_name on;
            proxy_ssl_protocols TLSv1.2 TLSv1.3;
            proxy_http_version 1.1;
            proxy_set_header Host {API_SERVER};
            proxy_set_header Authorization $http_authorization;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_buffering off;
            proxy_request_buffering off;
            proxy_read_timeout 1h;
            proxy_send_timeout 1h;
        }}
        location / {{
            return 404;
        }}
    }}
}}
"#
    )
}

fn deployment(image: &str, configuration: &str) -> Value {
    let digest = Digest::of(&[configuration.as_bytes()]).short();
    json!({"spec": {
        "replicas": 2,
        "selector": {"matchLabels": selector()},
        "template": {
            "metadata": {
                "labels": labels(),
                // NGINX reads its configuration when it starts.
                "annotations": {"rollcall.dev/configuration": digest},
            },
            "spec": {
                "automountServiceAccountToken": false,
                "securityContext": {
                    "runAsNonRoot": true,
                    "runAsUser": 101,
                    "runAsGroup": 101,
                    "fsGroup": 101,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [{
                    "name": "nginx",
                    "image": image,
                    "command": ["nginx", "-e", "stderr", "-c", "/etc/rollcall/nginx/nginx.conf"],
                    "ports": [{"name": "https", "containerPort": PORT, "protocol": "TCP"}],
                    "readinessProbe": {"tcpSocket": {"port": "https"}},
                    "resources": {
                        "requests": {"cpu": "50m", "memory": "32Mi"},
                        "limits": {"memory": "128Mi"},
                    },
                    "securityContext": {
                        "allowPrivilegeEscalation": false,
                        "readOnlyRootFilesystem": true,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [
                        {"name": "configuration", "mountPath": "/etc/rollcall/nginx", "readOnly": true},
                        {"name": "tls", "mountPath": "/etc/rollcall/tls", "readOnly": true},
                        {"name": "kubernetes-ca", "mountPath": "/etc/rollcall/kubernetes", "readOnly": true},
                        {"name": "tmp", "mountPath": "/tmp"},
                    ],
                }],
                "volumes": [
                    {"name": "configuration", "configMap": {"name": PROXY}},
                    {"name": "tls", "secret": {"secretName": INNER_CERTIFICATE}},
                    // Kubernetes puts it into every namespace.
                    {"name": "kubernetes-ca", "configMap": {"name": "kube-root-ca.crt"}},
                    {"name": "tmp", "emptyDir": {}},
                ],
            },
        },
    }})
}

fn ingress(access: &ApiAccess, address: &Address) -> Value {
    let path = |path: &str| {
        json!({
            "path": path,
            "pathType": "Prefix",
            "backend": {"service": {"name": PROXY, "port": {"number": PORT}}},
        })
    };
    let mut rule = json!({"http": {"paths": [path("/api"), path("/apis")]}});
    let mut tls = json!({"secretName": CERTIFICATE});
    // An address is no host of a rule; and one of IPv6 is none of TLS's either.
    if let (Address::Name(name), Value::Object(rule)) = (address, &mut rule) {
        rule.insert("host".to_owned(), name.as_str().into());
    }
    if let (Address::Name(_) | Address::Ip(IpAddr::V4(_)), Value::Object(tls)) = (address, &mut tls)
    {
        tls.insert("hosts".to_owned(), json!([address]));
    }
    json!({"spec": {
        "ingressClassName": access.ingress.class_name,
        "rules": [rule],
        "tls": [tls],
    }})
}

/// For ingress-nginx: TLS to the proxy, whose certificate is checked; watches last.
fn ingress_annotations(namespace: &str) -> Value {
    json!({
        "nginx.ingress.kubernetes.io/backend-protocol": "HTTPS",
        "nginx.ingress.kubernetes.io/proxy-ssl-secret": format!("{namespace}/{INNER_CERTIFICATE}"),
        "nginx.ingress.kubernetes.io/proxy-ssl-name": inner_name(namespace),
        "nginx.ingress.kubernetes.io/proxy-ssl-server-name": "on",
        "nginx.ingress.kubernetes.io/proxy-ssl-verify": "on",
        "nginx.ingress.kubernetes.io/proxy-body-size": "0",
        "nginx.ingress.kubernetes.io/proxy-buffering": "off",
        "nginx.ingress.kubernetes.io/proxy-read-timeout": "3600",
        "nginx.ingress.kubernetes.io/proxy-send-timeout": "3600",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(address: &str) -> Vec<Value> {
        let address = Address::parse(address).expect("an address");
        manifests(&ApiAccess::default(), &address, Families::Four)
    }

    fn one<'a>(made: &'a [Value], kind: &str, name: &str) -> &'a Value {
        let is_it = |it: &&Value| it["kind"] == kind && it["metadata"]["name"] == name;
        made.iter().find(is_it).expect(name)
    }

    #[test]
    fn an_address_or_a_name() {
        for (address, key, host, hosts) in [
            ("10.1.2.3", "ipAddresses", Value::Null, json!(["10.1.2.3"])),
            ("fd00::1", "ipAddresses", Value::Null, Value::Null),
            ("k8s.example.org", "dnsNames", json!("k8s.example.org"), json!(["k8s.example.org"])),
        ] {
            let made = made(address);
            let certificate = one(&made, "Certificate", CERTIFICATE);
            assert_eq!(certificate["spec"][key], json!([address]), "{address}");
            let ingress = one(&made, "Ingress", "default");
            assert_eq!(ingress["spec"]["rules"][0]["host"], host, "{address}");
            assert_eq!(ingress["spec"]["tls"][0]["hosts"], hosts, "{address}");
            let argument = certificate_by_default(&ApiAccess::default(), &made);
            let expected = (key == "ipAddresses").then_some(
                "--default-ssl-certificate=ingress-nginx-internal/web-ssl-kubernetes-api",
            );
            assert_eq!(argument.as_deref(), expected, "{address}");
        }
    }

    #[test]
    fn what_is_listened_on() {
        let (four, six) = ("listen 60443 ssl;", "listen [::]:60443 ssl ipv6only=on;");
        for (addresses, expected) in [
            (&["10.96.0.1"][..], &[four][..]),
            (&["fd00::1"], &[six]),
            (&["10.96.0.1", "fd00::1"], &[four, six]),
        ] {
            let parsed: Vec<IpAddr> =
                addresses.iter().map(|it| it.parse().expect("an address")).collect();
            let families = Families::of(&parsed).expect("a family");
            let text = configuration(families);
            let lines: Vec<&str> =
                text.lines().map(str::trim).filter(|line| line.starts_with("listen ")).collect();
            assert_eq!(lines, expected, "{addresses:?}");
            let access = ApiAccess::default();
            let address = Address::parse("fd00::7").expect("an address");
            let made = manifests(&access, &address, families);
            assert_eq!(one(&made, "ConfigMap", PROXY)["data"]["nginx.conf"], text, "{addresses:?}");
        }
        assert_eq!(Families::of(&[]), None);
    }

    #[test]
    fn what_is_routed() {
        let made = made("10.1.2.3");
        let ingress = one(&made, "Ingress", "default");
        let paths = ingress["spec"]["rules"][0]["http"]["paths"].as_array().expect("paths");
        let paths: Vec<(&Value, &Value)> =
            paths.iter().map(|path| (&path["path"], &path["pathType"])).collect();
        assert_eq!(
            paths,
            [(&json!("/api"), &json!("Prefix")), (&json!("/apis"), &json!("Prefix"))]
        );
    }

    /// Every name that one object knows another by is that of an object.
    #[test]
    fn the_parts_fit() {
        let made = made("10.1.2.3");
        let names = |kind: &str| -> Vec<&Value> {
            made.iter().filter(|it| it["kind"] == kind).map(|it| &it["metadata"]["name"]).collect()
        };
        let certificates: Vec<&Value> =
            made.iter().filter(|it| it["kind"] == "Certificate").collect();
        let secrets: Vec<&Value> =
            certificates.iter().map(|it| &it["spec"]["secretName"]).collect();
        let pod = &one(&made, "Deployment", PROXY)["spec"]["template"]["spec"];
        let ingress = &one(&made, "Ingress", "default")["spec"];
        let service = &ingress["rules"][0]["http"]["paths"][0]["backend"]["service"];
        let account = &one(&made, "Secret", TOKEN)["metadata"]["annotations"];
        let mut needed = vec![
            ("the proxy's certificate", &pod["volumes"][1]["secret"]["secretName"], &secrets),
            ("the Ingress's certificate", &ingress["tls"][0]["secretName"], &secrets),
        ];
        let (issuers, maps) = (names("Issuer"), names("ConfigMap"));
        let (services, accounts) = (names("Service"), names("ServiceAccount"));
        needed.extend([
            ("the configuration", &pod["volumes"][0]["configMap"]["name"], &maps),
            ("the Ingress's way", &service["name"], &services),
            ("the account", &account["kubernetes.io/service-account.name"], &accounts),
        ]);
        for certificate in &certificates {
            needed.push(("an issuer", &certificate["spec"]["issuerRef"]["name"], &issuers));
        }
        for (what, name, there) in needed {
            assert!(there.contains(&name), "{what}: {name} is not among {there:?}");
        }
        let proxy = &one(&made, "Service", PROXY)["spec"];
        assert_eq!(service["port"]["number"], proxy["ports"][0]["port"]);
        assert_eq!(
            one(&made, "Deployment", PROXY)["spec"]["selector"]["matchLabels"],
            proxy["selector"]
        );
    }
}
