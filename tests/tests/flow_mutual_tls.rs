//! Mutual TLS of the intake by real handshakes: who is let in and for whom, what is said of who is not,
//! and that certificates, keys, CAs and tokens can be replaced while both programs run.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, SanType, date_time_ymd,
};
use rollcall_daemon::http::install_crypto_provider;
use rollcall_tests::bed::{Aggregator, Bed, PATIENCE, TOKEN, exchange, get, report, run, said};
use rollcall_tests::openssl::Authority;
use rollcall_tests::process::{Daemon, program};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
const CLIENT: ExtendedKeyUsagePurpose = ExtendedKeyUsagePurpose::ClientAuth;
const SERVER: ExtendedKeyUsagePurpose = ExtendedKeyUsagePurpose::ServerAuth;

/// A CA that signs for any time.
struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, PEM.
#[derive(Clone)]
struct Identity {
    cert: String,
    key: String,
}

impl Ca {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("a CA").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// Signs for a name, from and until so many seconds from now.
    fn issue(&self, name: &str, usage: ExtendedKeyUsagePurpose, from: i64, until: i64) -> Identity {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time");
        let at = |seconds: i64| {
            let at = now.as_secs().checked_add_signed(seconds).expect("a time");
            date_time_ymd(1970, 1, 1) + Duration::from_secs(at)
        };
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) = (at(from), at(until));
        params.distinguished_name = DistinguishedName::new();
        if name.contains(' ') {
            params.distinguished_name.push(DnType::CommonName, name);
        } else {
            params.subject_alt_names =
                CertificateParams::new(vec![name.to_owned()]).expect("a name").subject_alt_names;
        }
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Identity { cert, key: key.serialize_pem() }
    }

    /// Signs for a client of these DNS names.
    fn issue_for(&self, names: &[&str]) -> Identity {
        let names = names.iter().map(|name| (*name).try_into().expect("ASCII"));
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names.map(SanType::DnsName).collect();
        params.extended_key_usages = vec![CLIENT];
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Identity { cert, key: key.serialize_pem() }
    }

    fn client(&self, node: &str) -> Identity {
        self.issue(node, CLIENT, -HOUR, 300 * DAY)
    }

    fn server(&self) -> Identity {
        self.issue("localhost", SERVER, -HOUR, 300 * DAY)
    }
}

/// A bed with a CA of servers, a CA of clients, and the aggregator's certificate.
struct Mutual {
    bed: Bed,
    servers: Ca,
    clients: Ca,
}

impl Mutual {
    fn new() -> Self {
        let it =
            Self { bed: Bed::new(""), servers: Ca::new("servers"), clients: Ca::new("clients") };
        it.bed.write("ca.pem", &it.servers.pem);
        it.bed.write("client-ca.pem", &it.clients.pem);
        it.put("tls", &it.servers.server());
        it
    }

    /// Puts a certificate and its key in their files.
    fn put(&self, name: &str, identity: &Identity) {
        self.bed.write(&format!("{name}.key"), &identity.key);
        self.bed.write(&format!("{name}.crt"), &identity.cert);
    }

    fn path(&self, name: &str) -> String {
        self.bed.path(name).display().to_string()
    }

    /// An aggregator that has the join token, and asks for certificates.
    fn aggregator(&self, more: &[&str]) -> Aggregator {
        let (cert, key, ca) =
            (self.path("tls.crt"), self.path("tls.key"), self.path("client-ca.pem"));
        let tls = ["--tls-cert", &cert, "--tls-key", &key, "--client-ca-file", &ca];
        self.bed.aggregator(&[&tls[..], more].concat())
    }

    /// An agent that has a certificate and no token.
    fn agent(&self, aggregator: SocketAddr, node: &str, name: &str) -> Daemon {
        self.agent_with(
            aggregator,
            node,
            &[
                "--client-cert",
                &self.path(&format!("{name}.crt")),
                "--client-key",
                &self.path(&format!("{name}.key")),
            ],
        )
    }

    fn agent_with(&self, aggregator: SocketAddr, node: &str, more: &[&str]) -> Daemon {
        let mut command = Command::new(program("rollcall-agent"));
        command
            .args(["run", "--listen", "127.0.0.1:0", "--interval", "1s", "--node-name", node])
            .arg("--aggregator")
            .arg(format!("https://localhost:{}", aggregator.port()))
            .arg("--ca-file")
            .arg(self.bed.path("ca.pem"))
            .args(more);
        Daemon::spawn("rollcall-agent", command)
    }

    /// Posts a report over a connection of its own.
    fn post(
        &self,
        to: SocketAddr,
        who: Option<&Identity>,
        token: Option<&str>,
        node: &str,
    ) -> Said {
        let mut connection = Connection::open(to, &self.servers.pem, who);
        connection.post(token, &report(node, node_number(node)))
    }
}

/// Nodes have a machine each.
fn node_number(node: &str) -> u64 {
    node.bytes().fold(7, |sum, byte| sum * 31 + u64::from(byte))
}

/// What came of a request.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    /// An answer: its status, and all of it.
    Answer(u16, String),
    /// An alert of TLS, and nothing of HTTP.
    Alert(AlertDescription),
    /// The end of the connection.
    Closed,
}

impl Said {
    fn status(&self) -> u16 {
        match self {
            Self::Answer(status, _) => *status,
            other => panic!("no answer: {other:?}"),
        }
    }
}

struct Connection(StreamOwned<ClientConnection, TcpStream>);

impl Connection {
    fn open(to: SocketAddr, server_ca: &str, who: Option<&Identity>) -> Self {
        install_crypto_provider();
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(server_ca.as_bytes()).expect("PEM"))
            .expect("a CA");
        let builder = ClientConfig::builder().with_root_certificates(roots);
        let config = match who {
            None => builder.with_no_client_auth(),
            Some(Identity { cert, key }) => {
                let chain = CertificateDer::pem_slice_iter(cert.as_bytes())
                    .collect::<Result<Vec<_>, _>>()
                    .expect("PEM");
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
                builder.with_client_auth_cert(chain, key).expect("a pair")
            }
        };
        let name = ServerName::try_from("localhost").expect("a name");
        let connection = ClientConnection::new(Arc::new(config), name).expect("a connection");
        let stream = TcpStream::connect(to).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("a setting");
        Self(StreamOwned::new(connection, stream))
    }

    /// Posts a report, and leaves the connection open.
    fn post(&mut self, token: Option<&str>, report: &Value) -> Said {
        let body = report.to_string();
        let token = token.map(|token| format!("Authorization: Bearer {token}\r\n"));
        let request = format!(
            "POST /v1/reports HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{}Content-Length: {}\r\n\r\n{body}",
            token.unwrap_or_default(),
            body.len()
        );
        let mut answer = Vec::new();
        let exchanged = self.0.write_all(request.as_bytes()).and_then(|()| {
            loop {
                let mut part = [0; 4096];
                let read = self.0.read(&mut part)?;
                answer.extend(&part[..read]);
                // All answers are JSON objects.
                if read == 0 || answer.ends_with(b"}") {
                    break Ok(());
                }
            }
        });
        let text = String::from_utf8_lossy(&answer).into_owned();
        let inner = exchanged.as_ref().err().and_then(|error| error.get_ref());
        match inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::AlertReceived(alert)) => {
                assert_eq!(text, "", "HTTP was answered");
                Said::Alert(*alert)
            }
            Some(other) => panic!("{other}"),
            None if text.is_empty() => Said::Closed,
            None => {
                let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
                Said::Answer(status.expect("a status"), text)
            }
        }
    }
}

fn names(aggregator: &Aggregator) -> Vec<String> {
    let nodes = aggregator.ask(&["nodes", "--output", "json"]);
    let nodes = nodes["nodes"].as_array().cloned().unwrap_or_default();
    nodes.iter().filter_map(|node| node["name"].as_str().map(str::to_owned)).collect()
}

fn metric(aggregator: &Aggregator, series: &str) -> Option<i64> {
    let metrics = get(aggregator.admin, "/metrics", "").body;
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)).map(str::to_owned);
    line.and_then(|value| value.trim().parse().ok())
}

fn failed(aggregator: &Aggregator, reason: &str) -> Option<i64> {
    metric(
        aggregator,
        &format!("rollcall_aggregator_tls_handshakes_failed_total{{reason=\"{reason}\"}}"),
    )
}

fn count(daemon: &Daemon, words: &str) -> usize {
    daemon.lines().iter().filter(|line| line.contains(words)).count()
}

fn wait_for(daemon: &Daemon, words: &str) -> String {
    daemon.wait_for_line(|line| line.contains(words), PATIENCE)
}

/// Waits until something is so, which nothing logs.
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "waited {PATIENCE:?} for {what}");
        thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_certificate_is_for_its_own_node_alone() {
    let it = Mutual::new();
    let kubernetes = Authority::new("kubernetes");
    it.bed.write("client-ca.pem", &format!("{}{}", it.clients.pem, kubernetes.certificate()));
    let aggregator = it.aggregator(&["--require-client-certificate"]);
    let intake = aggregator.intake;
    let a = it.clients.client("node-a");
    let kubelet = kubernetes.issue_for_kubelet("node-k");
    let kubelet = Identity { cert: kubelet.certificate, key: kubelet.key };
    let user = kubernetes.issue("system:kube-proxy", "", 30);
    let user = Identity { cert: user.certificate, key: user.key };
    let nobody = it.clients.issue("nobody in particular", CLIENT, -HOUR, DAY);

    assert_eq!(it.post(intake, Some(&a), None, "node-a").status(), 200);
    let before = names(&aggregator);
    for (what, who, token, node, status, words) in [
        (
            "another node",
            &a,
            None,
            "node-b",
            403,
            "is of node node-a, which cannot report for node node-b",
        ),
        ("another node, with the token", &a, Some(TOKEN), "node-b", 403, "is of node node-a"),
        ("another node, a kubelet's", &kubelet, None, "node-a", 403, "is of node node-k"),
        ("no node", &nobody, None, "node-b", 403, "names no node"),
        (
            "no node, a wrong token",
            &nobody,
            Some("hunter2hunter2hunter2"),
            "node-b",
            401,
            "credentials-wrong",
        ),
        ("a user of Kubernetes", &user, None, "node-b", 403, "names no node"),
    ] {
        let Said::Answer(found, text) = it.post(intake, Some(who), token, node) else {
            panic!("{what}: no answer")
        };
        assert_eq!(found, status, "{what}: {text}");
        assert!(text.contains(words), "{what}: {text}");
    }
    assert_eq!(names(&aggregator), before, "nothing has changed");
    for (what, who, token, node) in [
        ("a wrong token is not looked at", &a, Some("hunter2hunter2hunter2"), "node-a"),
        ("a kubelet's", &kubelet, None, "node-k"),
        ("no node, with the token", &nobody, Some(TOKEN), "node-c"),
    ] {
        assert_eq!(it.post(intake, Some(who), token, node).status(), 200, "{what}");
    }
    // Nor may it take another's id, before that one has reported or after.
    let b = it.clients.client("node-b");
    let both = it.clients.issue_for(&["node-a", "Blue_1"]);
    let with_id = |who: &Identity, node: &str, id: &str, source: &str| {
        let mut report = report(node, node_number(node));
        report["node"]["proposedId"] = id.into();
        report["node"]["idSource"] = source.into();
        Connection::open(intake, &it.servers.pem, Some(who)).post(None, &report)
    };
    for (what, who, id, source, status) in [
        ("another's name", &a, "node-b", "explicit", 403),
        ("another's name, as its label", &a, "node-b", "label", 403),
        ("another's name, as its own", &a, "node-b", "nodeName", 403),
        ("any", &a, "Blue_1", "explicit", 403),
        ("one in its certificate, in other letters", &both, "blue_1", "explicit", 403),
        ("one in its certificate", &both, "Blue_1", "explicit", 200),
        ("the one that it has", &a, "Blue_1", "explicit", 200),
        ("its name", &a, "node-a", "nodeName", 200),
    ] {
        let said = with_id(who, "node-a", id, source);
        assert_eq!(said.status(), status, "{what}: {said:?}");
        if let Said::Answer(403, text) = &said {
            let advice = format!("ca node --node-id {id} node-a");
            assert!(text.contains(&advice), "{what}: {text}");
        }
    }
    assert_eq!(it.post(intake, Some(&b), None, "node-b").status(), 200, "nobody has its id");
    // The machine that a node is bound to counts here, too: a copy of the disk has the key.
    let mut copied = report("node-a", node_number("node-a"));
    copied["node"]["machineHash"] = format!("{:032x}", 12345).into();
    let refused = Connection::open(intake, &it.servers.pem, Some(&a)).post(None, &copied);
    assert_eq!(refused.status(), 409, "{refused:?}");
}

#[test]
fn whoever_has_no_good_certificate_is_refused_in_the_handshake() {
    let it = Mutual::new();
    let aggregator = it.aggregator(&["--require-client-certificate"]);
    let others = Ca::new("others");
    // One that bears the name of ours.
    let namesake = Ca::new("clients");
    for (what, who, alert, reason, told) in [
        (
            "none",
            None,
            AlertDescription::CertificateRequired,
            "no-certificate",
            "presents no certificate",
        ),
        (
            "another CA's",
            Some(others.client("node-a")),
            AlertDescription::UnknownCA,
            "unknown-ca",
            "was signed by no CA of --client-ca-file",
        ),
        (
            "expired",
            Some(it.clients.issue("node-a", CLIENT, -2 * DAY, -DAY)),
            AlertDescription::CertificateExpired,
            "expired",
            "the client's certificate expired at ",
        ),
        (
            "not valid yet",
            Some(it.clients.issue("node-a", CLIENT, DAY, 2 * DAY)),
            AlertDescription::CertificateExpired,
            "not-yet-valid",
            "the client's certificate is not valid before ",
        ),
        (
            "for servers",
            Some(it.clients.issue("node-a", SERVER, -HOUR, DAY)),
            AlertDescription::UnsupportedCertificate,
            "not-for-clients",
            "a client was not let in",
        ),
    ] {
        assert_eq!(failed(&aggregator, reason), Some(0), "{what}: counted before");
        for _ in 0..3 {
            let refused = it.post(aggregator.intake, who.as_ref(), Some(TOKEN), "node-a");
            assert_eq!(refused, Said::Alert(alert), "{what}");
        }
        wait_until(what, || failed(&aggregator, reason) == Some(3));
        let line = wait_for(&aggregator.daemon, &format!("reason={reason}"));
        assert!(line.contains("WARN") && line.contains(told), "{what}: {line}");
        assert!(line.contains("peer=127.0.0.1"), "{what}: {line}");
        assert_eq!(count(&aggregator.daemon, &format!("reason={reason}")), 1, "{what}: told once");
    }
    let forged = it.post(aggregator.intake, Some(&namesake.client("node-a")), None, "node-a");
    assert!(matches!(forged, Said::Alert(_)), "{forged:?}");
    assert_eq!(names(&aggregator), Vec::<String>::new(), "nobody was let in");

    // What is no TLS is counted, and not told.
    let lines = aggregator.daemon.lines().len();
    let mut plain = TcpStream::connect(aggregator.intake).expect("connects");
    plain.write_all(b"GET /v1/reports HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
    let mut answer = Vec::new();
    let _reset = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    drop(TcpStream::connect(aggregator.intake).expect("connects"));
    wait_until("both counted", || {
        failed(&aggregator, "not-tls") == Some(1) && failed(&aggregator, "broken-off") == Some(1)
    });
    assert_eq!(aggregator.daemon.lines().len(), lines, "{}", aggregator.daemon.tail());

    // The admin listener has nothing to do with it.
    for path in ["/livez", "/readyz", "/metrics", "/v1/nodes"] {
        assert_eq!(get(aggregator.admin, path, "").status, 200, "{path}");
    }
    // A client that does not accept ours is told of as well.
    let stranger = Connection::open(aggregator.intake, &others.pem, None).0.conn.is_handshaking();
    assert!(stranger);
}

#[test]
fn a_certificate_can_be_optional_and_without_tokens_is_not() {
    let it = Mutual::new();
    let a = it.clients.client("node-a");
    {
        let aggregator = it.aggregator(&[]);
        let intake = aggregator.intake;
        let expired = it.clients.issue("node-e", CLIENT, -2 * DAY, -DAY);
        for (what, who, token, node, expected) in [
            ("a certificate", Some(&a), None, "node-a", 200),
            ("a token", None, Some(TOKEN), "node-t", 200),
            ("neither", None, None, "node-x", 401),
        ] {
            assert_eq!(it.post(intake, who, token, node).status(), expected, "{what}");
        }
        let refused = it.post(intake, Some(&expired), Some(TOKEN), "node-e");
        assert_eq!(refused, Said::Alert(AlertDescription::CertificateExpired), "bad is not none");
    }
    // Nothing else lets anybody report.
    let mut command = Command::new(program("rollcall-aggregator"));
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
        .arg(format!("--store=sqlite:{}", it.path("other.db")))
        .args([
            "--cluster",
            &it.path("cluster.yaml"),
            "--client-ca-file",
            &it.path("client-ca.pem"),
        ])
        .args(["--tls-cert", &it.path("tls.crt"), "--tls-key", &it.path("tls.key")]);
    let daemon = Daemon::spawn("rollcall-aggregator", command);
    let intake = daemon.listening_address("intake");
    let none = it.post(intake, None, Some(TOKEN), "node-a");
    assert_eq!(none, Said::Alert(AlertDescription::CertificateRequired));
    assert_eq!(it.post(intake, Some(&a), None, "node-a").status(), 200);
    let nobody = it.clients.issue("nobody in particular", CLIENT, -HOUR, DAY);
    let Said::Answer(403, words) = it.post(intake, Some(&nobody), None, "node-a") else {
        panic!("a certificate of nobody")
    };
    assert!(words.contains("names no node"), "{words}");
}

#[test]
fn a_connection_does_not_outlive_what_let_it_in() {
    let it = Mutual::new();
    let aggregator = it.aggregator(&["--require-client-certificate"]);
    let a = it.clients.client("node-a");
    let mut connection = Connection::open(aggregator.intake, &it.servers.pem, Some(&a));
    let report = report("node-a", 1);
    let first = connection.post(None, &report);
    assert_eq!(first.status(), 200);
    assert_eq!(connection.post(None, &report), Said::Closed, "one connection, one request");
}

#[test]
fn wrong_usage() {
    let it = Mutual::new();
    let (store, cluster) = (format!("sqlite:{}", it.path("rollcall.db")), it.path("cluster.yaml"));
    let (cert, key, ca) = (it.path("tls.crt"), it.path("tls.key"), it.path("client-ca.pem"));
    it.bed.write("empty.pem", "");
    let empty = it.path("empty.pem");
    it.bed.write("other.key", &it.servers.server().key);
    let other = it.path("other.key");
    let serve = |more: &[&str]| {
        let usual = ["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
        run(
            "rollcall-aggregator",
            &[&usual[..], &["--cluster", &cluster, "--store", &store], more].concat(),
            b"",
        )
    };
    let agent = |more: &[&str]| {
        run("rollcall-agent", &[&["run", "--listen", "127.0.0.1:0"], more].concat(), b"")
    };
    let https = ["--aggregator", "https://localhost:1"];
    for (what, output, code, words) in [
        ("no TLS", serve(&["--client-ca-file", &ca]), 2, "--tls-cert"),
        ("no CA", serve(&["--require-client-certificate"]), 2, "--client-ca-file"),
        ("nobody", serve(&["--tls-cert", &cert, "--tls-key", &key]), 2, "--client-ca-file"),
        (
            "half a pair",
            serve(&["--tls-cert", &cert, "--tls-key", &other, "--client-ca-file", &ca]),
            1,
            "cannot be served with the key",
        ),
        (
            "half a key",
            serve(&["--tls-cert", &cert, "--tls-key", &empty, "--client-ca-file", &ca]),
            1,
            "--tls-key",
        ),
        (
            "an empty CA",
            serve(&["--tls-cert", &cert, "--tls-key", &key, "--client-ca-file", &empty]),
            1,
            "--client-ca-file",
        ),
        ("an agent with nothing", agent(&https), 2, "--client-cert"),
        (
            "an agent without a key",
            agent(&[&https[..], &["--client-cert", &cert]].concat()),
            2,
            "--client-key",
        ),
    ] {
        let message = said(&output);
        assert_eq!(output.status.code(), Some(code), "{what}: {message}");
        assert!(message.contains(words), "{what}: {message}");
    }
}

#[test]
fn an_agent_says_what_is_wrong_with_its_certificate_and_mends_itself() {
    let it = Mutual::new();
    let aggregator = it.aggregator(&["--require-client-certificate"]);
    let others = Ca::new("others");
    // Not there yet: waited for, and so is the CA.
    let ca = fs::read_to_string(it.path("ca.pem")).expect("read");
    fs::remove_file(it.path("ca.pem")).expect("removed");
    let mut agent = it.agent(aggregator.intake, "node-a", "agent");
    let missing = wait_for(&agent, "the aggregator's certificate could not be checked");
    assert!(missing.contains("ca.pem cannot be read: No such file"), "{missing}");
    it.bed.write("ca.pem", &ca);
    let missing = wait_for(&agent, "this node's client certificate cannot be used");
    assert!(missing.contains("agent.crt cannot be read"), "{missing}");
    let path = it.path("agent.crt");
    for (what, identity, words) in [
        (
            "expired",
            it.clients.issue("node-a", CLIENT, -2 * DAY, -DAY),
            format!("{path} expired at "),
        ),
        (
            "not valid yet",
            it.clients.issue("node-a", CLIENT, DAY, 2 * DAY),
            format!("{path} is not valid before "),
        ),
        (
            "another CA's",
            others.client("node-a"),
            "which is no CA of its --client-ca-file".to_owned(),
        ),
        (
            "for servers",
            it.clients.issue("node-a", SERVER, -HOUR, DAY),
            "is not made for clients".to_owned(),
        ),
    ] {
        it.put("agent", &identity);
        // One that has a good one would not take it up.
        agent = it.agent(aggregator.intake, "node-a", "agent");
        let line = wait_for(&agent, &words);
        let refused = "the aggregator refused this node's certificate: ";
        assert!(line.contains("report not accepted") && line.contains(refused), "{what}: {line}");
        // A good one mends it, and all that was said of the bad one is one line.
        let good = it.clients.client("node-a");
        it.put("agent", &good);
        wait_until(what, || count(&agent, "reports are accepted again") > 0);
        assert_eq!(count(&agent, refused), 1, "{what}: {}", agent.tail());
    }
    assert_eq!(names(&aggregator), ["node-a"]);

    // A pair that is written in part: what was read before goes on, and nothing is lost.
    let next = it.clients.client("node-a");
    let refusals = count(&agent, "report not accepted");
    it.bed.write("agent.key", &next.key);
    let line = wait_for(&agent, "the files of TLS cannot be read again");
    assert!(line.contains("cannot be used together"), "{line}");
    it.bed.write("agent.crt", &next.cert);
    let renewed = count(&agent, "client certificate is renewed");
    wait_until("the pair to be whole", || count(&agent, "client certificate is renewed") > renewed);
    assert_eq!(count(&agent, "report not accepted"), refusals, "{}", agent.tail());
    // One that is broken, and then as it was.
    it.bed.write("agent.crt", "no certificate");
    wait_for(&agent, "agent.crt holds no valid PEM certificate");
    it.bed.write("agent.crt", &next.cert);
    wait_for(&agent, "the files of TLS can be read again");
    // One that is not valid does not take the place of one that is.
    let accepted = aggregator.daemon.lines().len();
    it.put("agent", &it.clients.issue("node-a", CLIENT, -2 * DAY, -DAY));
    let line = wait_for(&agent, "this node's new client certificate is not valid");
    assert!(line.contains(&format!("{path} expired at ")), "{line}");
    thread::sleep(Duration::from_secs(3));
    assert_eq!(count(&agent, "this node's new client certificate is not valid"), 1);
    assert_eq!(count(&agent, "report not accepted"), refusals, "{}", agent.tail());
    assert_eq!(aggregator.daemon.lines().len(), accepted, "{}", aggregator.daemon.tail());
    // One that ends soon is told of once.
    it.put("agent", &it.clients.issue("node-a", CLIENT, -300 * DAY, 13 * DAY));
    wait_for(&agent, "client certificate expires soon");
}

#[test]
fn a_kubelets_certificate_does_for_an_agent() {
    let it = Mutual::new();
    let kubernetes = Authority::new("kubernetes");
    it.bed.write("client-ca.pem", &kubernetes.certificate());
    let aggregator = it.aggregator(&["--require-client-certificate"]);
    let kubelet = kubernetes.issue_for_kubelet("node-k");
    // As kubelet-client-current.pem has it: certificate and key in one file.
    it.bed.write("kubelet.pem", &format!("{}{}", kubelet.certificate, kubelet.key));
    let file = it.path("kubelet.pem");
    let both = ["--client-cert", &file, "--client-key", &file];
    let agent = it.agent_with(aggregator.intake, "node-k", &both);
    wait_for(&agent, "the aggregator accepted the node");
    drop(agent);
    let other = it.agent_with(aggregator.intake, "node-b", &both);
    let line = wait_for(&other, "report not accepted");
    assert!(
        line.contains("403")
            && line.contains("is of node node-k, which cannot report for node node-b"),
        "{line}"
    );
}

#[test]
fn an_agent_says_what_is_wrong_with_the_aggregators_certificate() {
    let it = Mutual::new();
    it.put("agent", &it.clients.client("node-a"));
    let others = Ca::new("others");
    for (what, identity, words, own) in [
        (
            "expired",
            it.servers.issue("localhost", SERVER, -2 * DAY, -DAY),
            "the aggregator's certificate expired at ",
            Some("the intake's certificate has expired"),
        ),
        (
            "not valid yet",
            it.servers.issue("localhost", SERVER, DAY, 2 * DAY),
            "the aggregator's certificate is not valid before ",
            Some("the intake's certificate is not valid yet"),
        ),
        ("another CA's", others.server(), "was signed by no CA of --ca-file", None),
        (
            "another name",
            it.servers.issue("elsewhere.example.org", SERVER, -HOUR, 300 * DAY),
            "the aggregator's certificate is for elsewhere.example.org, not for localhost",
            None,
        ),
        (
            "about to expire",
            it.servers.issue("localhost", SERVER, -300 * DAY, 13 * DAY),
            "the aggregator accepted the node",
            Some("the intake's certificate expires soon"),
        ),
    ] {
        it.put("tls", &identity);
        let aggregator = it.aggregator(&[]);
        let agent = it.agent(aggregator.intake, "node-a", "agent");
        wait_for(&agent, words);
        if let Some(own) = own {
            wait_for(&aggregator.daemon, own);
            assert_eq!(count(&aggregator.daemon, own), 1, "{what}");
        } else {
            wait_for(&aggregator.daemon, "reason=refused-by-client");
        }
        thread::sleep(Duration::from_secs(3));
        assert!(count(&agent, "report not accepted") <= 1, "{what}: {}", agent.tail());
        drop((agent, aggregator));
    }
}

#[test]
fn all_can_be_replaced_while_both_run() {
    let it = Mutual::new();
    it.put("agent", &it.clients.client("node-a"));
    let mut aggregator = it.aggregator(&[]);
    let mut agent = it.agent(aggregator.intake, "node-a", "agent");
    wait_for(&agent, "the aggregator accepted the node");
    let until = metric(
        &aggregator,
        "rollcall_aggregator_certificate_expires_timestamp_seconds{certificate=\"intake\"}",
    );
    assert!(until.is_some_and(|until| until > 1_700_000_000), "{until:?}");

    // A new CA of clients beside the old one, then without it.
    let successor = Ca::new("successor");
    it.bed.write("client-ca.pem", &format!("{}{}", it.clients.pem, successor.pem));
    wait_for(&aggregator.daemon, "the CA of clients' certificates is renewed");
    it.put("agent", &successor.client("node-a"));
    wait_for(&agent, "this node's client certificate is renewed");
    it.bed.write("client-ca.pem", &successor.pem);
    wait_until("the old CA to go", || {
        let old = it.post(aggregator.intake, Some(&it.clients.client("node-o")), None, "node-o");
        old == Said::Alert(AlertDescription::UnknownCA)
    });
    assert_eq!(count(&agent, "report not accepted"), 0, "{}", agent.tail());

    // A new certificate of the aggregator; one that is not valid is not taken in its place.
    it.put("tls", &it.servers.issue("localhost", SERVER, -2 * DAY, -DAY));
    let line = wait_for(&aggregator.daemon, "the intake's new certificate is not valid");
    assert!(line.contains("expired at"), "{line}");
    it.bed.write("tls.key", &it.servers.server().key);
    wait_for(&aggregator.daemon, "the intake's certificate cannot be loaded again");
    // Meanwhile a CA can come and be taken out: neither waits for the other.
    let third = Ca::new("third");
    let post = |ca: &Ca, node: &str| it.post(aggregator.intake, Some(&ca.client(node)), None, node);
    it.bed.write("client-ca.pem", &format!("{}{}", successor.pem, third.pem));
    wait_until("the third CA", || matches!(post(&third, "node-t"), Said::Answer(200, _)));
    it.bed.write("client-ca.pem", &successor.pem);
    wait_until("the third CA to go", || {
        post(&third, "node-t") == Said::Alert(AlertDescription::UnknownCA)
    });
    assert_eq!(count(&aggregator.daemon, "the intake's certificate is renewed"), 0);
    fs::remove_file(it.bed.path("client-ca.pem")).expect("removed");
    wait_for(&aggregator.daemon, "the CA of clients' certificates cannot be loaded again");
    it.put("tls", &it.servers.server());
    wait_for(&aggregator.daemon, "the intake's certificate is renewed");
    assert_eq!(post(&successor, "node-s").status(), 200, "the CA is not there");
    it.bed.write("client-ca.pem", &successor.pem);
    wait_for(&aggregator.daemon, "the CA of clients' certificates can be loaded again");
    // A broken one beside a good one: the whole file is not taken up.
    let broken = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    it.bed.write("client-ca.pem", &format!("{}{broken}", it.clients.pem));
    wait_for(&aggregator.daemon, "its certificate 2 cannot be read");
    assert_eq!(post(&successor, "node-s").status(), 200, "a CA is broken");
    it.bed.write("tls.key", "");
    let lost = wait_for(&aggregator.daemon, "tls.key cannot be used");
    assert!(lost.contains("served still"), "{lost}");
    for words in ["the intake's certificate is valid", "the intake's certificate is renewed"] {
        let expected = usize::from(words.ends_with("renewed"));
        assert_eq!(count(&aggregator.daemon, words), expected, "{}", aggregator.daemon.tail());
    }
    assert_eq!(count(&agent, "report not accepted"), 0, "{}", agent.tail());
    assert!(agent.terminate().success());
    assert!(aggregator.daemon.terminate().success());
}

#[test]
fn tokens_can_be_replaced_while_the_aggregator_runs() {
    let bed = Bed::new("");
    let aggregator = bed.aggregator(&[]);
    let (new, operators) = ("a-new-join-token-for-everybody", "a-new-operators-token-for-us");
    let post = |token: &str| {
        let headers = format!("Authorization: Bearer {token}\r\n");
        let body = report("node-a", 1).to_string();
        rollcall_tests::bed::post(aggregator.intake, "/v1/reports", &headers, body.as_bytes())
            .status
    };
    assert_eq!([post(TOKEN), post(new)], [200, 401]);
    bed.write("token", &format!("{new}\n{TOKEN}\n"));
    let line = wait_for(&aggregator.daemon, "the join tokens are replaced");
    assert!(line.contains("tokens=2"), "{line}");
    assert_eq!([post(TOKEN), post(new)], [200, 200]);
    // What is of no use changes nothing, and is told once each.
    for (text, words) in [
        ("\n", "token is empty"),
        ("short\n", "too easy to guess"),
        ("the-operators-token-of-the-test-bed\n", "hold the same token"),
    ] {
        bed.write("token", text);
        let line = wait_for(&aggregator.daemon, words);
        assert!(line.contains("those before hold on"), "{line}");
        assert_eq!([post(TOKEN), post(new)], [200, 200], "{words}");
    }
    fs::remove_file(bed.path("token")).expect("removed");
    wait_for(&aggregator.daemon, "token cannot be read");
    assert_eq!([post(TOKEN), post(new)], [200, 200]);
    bed.write("token", &format!("{new}\n{TOKEN}\n"));
    wait_for(&aggregator.daemon, "the tokens can be read again");
    bed.write("token", new);
    bed.write("operator-token", operators);
    wait_for(&aggregator.daemon, "the operator's tokens are replaced");
    // The other file may have been looked at just before it was written.
    wait_until("the old token to go", || [post(TOKEN), post(new)] == [401, 200]);
    let act = |token: &str| {
        let request = format!(
            "DELETE /v1/nodes/node-a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        exchange(aggregator.admin, request.as_bytes()).status
    };
    assert_eq!([act("the-operators-token-of-the-test-bed"), act(operators)], [401, 204]);
    assert_eq!(
        count(&aggregator.daemon, "those before hold on"),
        4,
        "{}",
        aggregator.daemon.tail()
    );
    let log = aggregator.daemon.lines().join("\n");
    assert!(![TOKEN, new, operators].iter().any(|token| log.contains(token)), "{log}");
}

#[test]
fn tokens_may_come_later_than_the_aggregator() {
    let bed = Bed::new("");
    for name in ["token", "operator-token"] {
        fs::remove_file(bed.path(name)).expect("removed");
    }
    let aggregator = bed.aggregator(&[]);
    let post = || {
        let headers = format!("Authorization: Bearer {TOKEN}\r\n");
        let body = report("node-a", 1).to_string();
        rollcall_tests::bed::post(aggregator.intake, "/v1/reports", &headers, body.as_bytes())
    };
    for flag in ["--token-file", "--operator-token-file"] {
        let line =
            aggregator.daemon.wait_for_line(|line| line.contains(&format!("{flag} is")), PATIENCE);
        assert!(line.contains("nobody is let in") && line.contains("ERROR"), "{line}");
    }
    let refused = post();
    assert_eq!(refused.status, 503, "{}", refused.body);
    assert!(refused.body.contains("no token to compare with yet"), "{}", refused.body);
    bed.write("token", TOKEN);
    wait_for(&aggregator.daemon, "the join tokens are there now");
    assert_eq!(post().status, 200);
    bed.write("operator-token", "the-operators-token-of-the-test-bed");
    wait_for(&aggregator.daemon, "the operator's tokens are there now");
    assert_eq!(count(&aggregator.daemon, "nobody is let in"), 2, "{}", aggregator.daemon.tail());
}

/// Runs openssl, which judges what our own CA makes.
fn openssl(arguments: &[&str]) -> (bool, String) {
    let output = Command::new("openssl").args(arguments).output().expect("openssl is installed");
    (output.status.success(), said(&output))
}

/// Runs `ca`; says whether it succeeded, and what it said.
fn ca(arguments: &[&str]) -> (bool, String) {
    let output = run("rollcall-aggregator", &[&["ca"], arguments].concat(), b"");
    (output.status.success(), said(&output))
}

#[test]
fn openssl_takes_what_our_own_ca_makes() {
    let it = Mutual::new();
    let path = |name: &str| it.path(name);
    let (folder, to) = (path("authority"), path("made"));
    let from = ["--ca", &folder, "--to", &to];
    let (made, said) = ca(&["new", &folder]);
    assert!(made, "{said}");
    let (made, said) =
        ca(&[&["server"], &from[..], &["localhost", "192.0.2.7", "2001:db8::7"]].concat());
    assert!(made, "{said}");
    let long = format!("{}.example.org", ["a"; 30].join("."));
    let (made, said) = ca(&[&["node"], &from[..], &["node-a", "node-b", &long]].concat());
    assert!(made, "{said}");
    let file = |name: &str| format!("{to}/{name}");
    let root = format!("{folder}/ca.pem");
    for (name, purpose, is_good) in [
        ("tls.crt", "sslserver", true),
        ("tls.crt", "sslclient", false),
        ("node-a.crt", "sslclient", true),
        ("node-a.crt", "sslserver", false),
        (&format!("{long}.crt"), "sslclient", true),
    ] {
        let (verified, said) = openssl(&[
            "verify",
            "-x509_strict",
            "-purpose",
            purpose,
            "-CAfile",
            &root,
            &file(name),
        ]);
        assert_eq!(verified, is_good, "{name} {purpose}: {said}");
    }
    for (path, expected) in [
        (
            root.clone(),
            vec![
                "CN = rollcall CA",
                "CA:TRUE, pathlen:0",
                "Certificate Sign, CRL Sign",
                "prime256v1",
            ],
        ),
        (
            file("tls.crt"),
            vec![
                "DNS:localhost, IP Address:192.0.2.7, IP Address:2001:DB8:0:0:0:0:0:7",
                "TLS Web Server Authentication",
                "CA:FALSE",
                "Authority Key Identifier",
                "Subject Key Identifier",
            ],
        ),
        (
            file("node-a.crt"),
            vec!["CN = node-a", "DNS:node-a", "TLS Web Client Authentication", "Digital Signature"],
        ),
        (
            file(&format!("{long}.crt")),
            vec!["Subject: \n", &long, "X509v3 Subject Alternative Name: critical"],
        ),
    ] {
        let (_, text) = openssl(&["x509", "-in", &path, "-noout", "-text"]);
        for words in expected {
            assert!(text.contains(words), "{path}: {words} in {text}");
        }
    }
    let (made, said) = ca(&[&["node"], &from[..], &["--node-id", "Blue_1", "node-i"]].concat());
    assert!(made, "{said}");
    let (_, text) = openssl(&["x509", "-in", &file("node-i.crt"), "-noout", "-text"]);
    assert!(text.contains("DNS:node-i, DNS:Blue_1"), "{text}");
    // Those that are there already do not keep the others back.
    let (made, said) = ca(&[&["node"], &from[..], &["node-a", "node-d", "node-b"]].concat());
    assert!(!made && said.contains("2 of 3 certificates were not made"), "{said}");
    for name in ["node-a.crt", "node-b.crt"] {
        assert!(said.contains(&format!("{} is there already", file(name))), "{said}");
    }
    assert!(fs::exists(file("node-d.crt")).expect("a folder"), "{said}");
    let serial = |name: &str| openssl(&["x509", "-in", &file(name), "-noout", "-serial"]).1;
    assert_ne!(serial("node-a.crt"), serial("node-b.crt"));

    for (what, arguments) in [
        ("a name that is none", vec!["server", "not a name"]),
        ("a node that is none", vec!["node", "Not_A_Node"]),
        ("one id for two", vec!["node", "--node-id", "Blue_1", "node-x", "node-y"]),
        ("the server's, with force", vec!["node", "--force", "tls"]),
        ("too long", vec!["node", "--days", "36501", "node-c"]),
    ] {
        let (first, rest) = arguments.split_first().expect("a command");
        let (made, said) = ca(&[&[*first], &from[..], rest].concat());
        assert!(!made, "{what}: {said}");
    }
}

#[test]
fn certificates_of_our_own_ca_are_renewed_in_their_place() {
    let it = Mutual::new();
    let path = |name: &str| it.path(name);
    let (folder, to) = (path("authority"), path("made"));
    let from = ["--ca", &folder, "--to", &to];
    for arguments in [
        vec!["new", &folder],
        [&["server"], &from[..], &["localhost"]].concat(),
        [&["node"], &from[..], &["node-a"]].concat(),
    ] {
        let (made, said) = ca(&arguments);
        assert!(made, "{said}");
    }
    let file = |name: &str| format!("{to}/{name}");
    let root = format!("{folder}/ca.pem");
    it.bed.write("ca.pem", &fs::read_to_string(&root).expect("a CA"));
    let (cert, key) = (file("tls.crt"), file("tls.key"));
    let aggregator = it.bed.aggregator(&[
        "--tls-cert",
        &cert,
        "--tls-key",
        &key,
        "--client-ca-file",
        &root,
        "--require-client-certificate",
    ]);
    let (own, own_key) = (file("node-a.crt"), file("node-a.key"));
    let agent = it.agent_with(
        aggregator.intake,
        "node-a",
        &["--client-cert", &own, "--client-key", &own_key],
    );
    wait_for(&agent, "the aggregator accepted the node");
    let (refused, said) = ca(&[&["node"], &from[..], &["node-a"]].concat());
    assert!(!refused && said.contains("--force"), "{said}");
    let before = fs::read_to_string(&own).expect("a certificate");
    for words in [vec!["node", "--force"], vec!["server", "--force"]] {
        let name = if words.contains(&"node") { "node-a" } else { "localhost" };
        let (made, said) = ca(&[&words, &from[..], &[name]].concat());
        assert!(made, "{said}");
    }
    assert_ne!(fs::read_to_string(&own).expect("a certificate"), before);
    wait_for(&agent, "this node's client certificate is renewed");
    wait_for(&aggregator.daemon, "the intake's certificate is renewed");
    assert_eq!(count(&agent, "report not accepted"), 0, "{}", agent.tail());
}
