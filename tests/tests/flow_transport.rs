//! How targets are reached: CAs, client certificates, proxies, tokens, time limits; with real TLS.

#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs::{self, Permissions};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use reqwest::{Method, Request};
use rollcall_aggregator::cluster_file::ClusterFile;
use rollcall_aggregator::targets::transport::{ExchangeError, Transport, TransportError};
use rollcall_daemon::http::install_crypto_provider;
use rollcall_daemon::secret::Secret;
use rollcall_report::error_chain;
use rollcall_tests::aios::{AiosStandin, Behaviour};
use rollcall_tests::bed::{Aggregator, Bed, CLUSTER_ID, PATIENCE, exchange, get, report};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;
use url::Url;

/// The token that targets present.
const TOKEN: &str = "eyJhbGciOiJub25lIn0/0123456789abcdef==";

/// A CA that signs certificates for `localhost`.
struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, PEM.
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

    fn issue(&self, usage: ExtendedKeyUsagePurpose) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        params.extended_key_usages = vec![usage];
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Identity { cert, key: key.serialize_pem() }
    }

    /// A server's side of TLS; with `clients`, for those alone whose certificate it signed.
    fn server(&self, clients: Option<&Self>) -> Arc<ServerConfig> {
        install_crypto_provider();
        let own = self.issue(ExtendedKeyUsagePurpose::ServerAuth);
        let chain = CertificateDer::from_pem_slice(own.cert.as_bytes()).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).expect("a key");
        let builder = ServerConfig::builder();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let mut roots = RootCertStore::empty();
                let root = CertificateDer::from_pem_slice(ca.pem.as_bytes()).expect("a CA");
                roots.add(root).expect("a CA");
                let verifier = WebPkiClientVerifier::builder(Arc::new(roots));
                builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
            }
        };
        Arc::new(builder.with_single_cert(vec![chain], key).expect("certificate and key"))
    }
}

/// A request as it came in.
#[derive(Debug, Clone)]
struct Received {
    /// Request line and headers.
    head: String,
    body: Vec<u8>,
}

impl Received {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

/// What a service does with a request.
enum Answer {
    /// Writes it and closes.
    Whole(Vec<u8>),
    /// Writes it, and nothing more for as long as the client stays.
    Stalled(Vec<u8>),
}

fn whole(status: &str, headers: &str, body: &[u8]) -> Answer {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    Answer::Whole([head.as_bytes(), body].concat())
}

/// A service on a free port, over TLS or plain.
struct Service {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Service {
    fn start(
        tls: Option<Arc<ServerConfig>>,
        answer: impl Fn(&Received) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let received = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&received);
        let answer = Arc::new(answer);
        let address = each_connection(move |stream| {
            let served = || match &tls {
                None => serve(stream.try_clone()?, &seen, &*answer),
                Some(tls) => {
                    let connection = ServerConnection::new(Arc::clone(tls))
                        .map_err(|error| io::Error::other(error.to_string()))?;
                    serve(StreamOwned::new(connection, stream.try_clone()?), &seen, &*answer)
                }
            };
            // A client that goes away is what many tests are about.
            let _gone = served();
            // Closed with bytes unread the connection would be reset, and what was said last, such
            // as why a certificate is refused, might be lost.
            let _gone = stream.shutdown(Shutdown::Write).and_then(|()| {
                stream.set_read_timeout(Some(Duration::from_secs(1)))?;
                io::copy(&mut &stream, &mut io::sink())
            });
        });
        Self { address, received }
    }

    fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    fn received(&self) -> Vec<Received> {
        self.received.lock().expect("no panic over there").clone()
    }
}

/// Listens on a free port of loopback and does something with each connection, on a thread each.
fn each_connection(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            thread::spawn(move || serve(stream));
        }
    });
    address
}

fn serve(
    mut stream: impl Read + Write,
    seen: &Mutex<Vec<Received>>,
    answer: &dyn Fn(&Received) -> Answer,
) -> io::Result<()> {
    let head = read_head(&mut stream)?;
    let mut request = Received { head, body: Vec::new() };
    let length = request.header("content-length").and_then(|length| length.parse().ok());
    request.body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut request.body)?;
    seen.lock().expect("no panic over there").push(request.clone());
    match answer(&request) {
        Answer::Whole(bytes) => {
            stream.write_all(&bytes)?;
            stream.flush()
        }
        Answer::Stalled(bytes) => {
            stream.write_all(&bytes)?;
            stream.flush()?;
            io::copy(&mut stream, &mut io::sink()).map(drop)
        }
    }
}

/// Reads to the empty line, byte by byte: what follows is not ours.
fn read_head(stream: &mut impl Read) -> io::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// Hands a request over to a service that speaks plain HTTP on this machine.
fn hand_over(request: &Received, to: SocketAddr) -> Answer {
    let line = request.head.lines().next().unwrap_or_default();
    let mut words = line.split(' ');
    let (method, target) = (words.next().expect("a method"), words.next().expect("a target"));
    let path = Url::parse(target).map_or(target.to_owned(), |url| url.path().to_owned());
    let length = request.body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    let answer = exchange(to, &[head.as_bytes(), &request.body].concat());
    whole(&format!("{} As answered", answer.status), "", answer.body.as_bytes())
}

/// A proxy: tunnels to this machine whatever the name, and hands plain requests over to `plain`.
struct Proxy {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn start(plain: impl Fn(&Received) -> Answer + Send + Sync + 'static) -> Self {
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&heads);
        let address = each_connection(move |stream| {
            let _gone = proxy(stream, &seen, &plain);
        });
        Self { address, heads }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("no panic over there").clone()
    }
}

fn proxy(
    mut client: TcpStream,
    seen: &Mutex<Vec<String>>,
    plain: &dyn Fn(&Received) -> Answer,
) -> io::Result<()> {
    let head = read_head(&mut client)?;
    seen.lock().expect("no panic over there").push(head.clone());
    let Some(authority) = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next())
    else {
        let mut request = Received { head, body: Vec::new() };
        let length = request.header("content-length").and_then(|length| length.parse().ok());
        request.body = vec![0; length.unwrap_or(0)];
        client.read_exact(&mut request.body)?;
        let (Answer::Whole(bytes) | Answer::Stalled(bytes)) = plain(&request);
        return client.write_all(&bytes);
    };
    let mut server = TcpStream::connect(authority)?;
    client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || io::copy(&mut from_client, &mut to_server));
    io::copy(&mut server, &mut client)?;
    client.shutdown(Shutdown::Both)
}

/// A folder with the files of a target, and transports that use them.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.path().join(name), text).expect("written");
    }

    /// A target's transport; `@` in its keys stands for the folder.
    fn transport(&self, url: &str, keys: &str) -> Result<Transport, TransportError> {
        let keys = keys.replace('@', &self.0.path().display().to_string());
        let text = format!(
            "cluster: {{id: west, regionId: r}}\ntargets:\n  - {{name: a, type: aios, parserUrl: '{url}', gatewayUrl: '{url}', {keys}}}\n"
        );
        let file = ClusterFile::parse(&text).unwrap_or_else(|problem| panic!("{text}: {problem}"));
        let Some(target) = file.aios_targets().next() else { panic!("one target") };
        Transport::new(&target.transport, &target.parser_url)
    }
}

fn ask(transport: &Transport, url: &str) -> Result<(u16, Vec<u8>), ExchangeError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let request = Request::new(Method::GET, url.parse().expect("a URL"));
    runtime.expect("a runtime").block_on(transport.exchange(request))
}

/// The words of an exchange: those of its error, or status and reply.
fn words(outcome: Result<(u16, Vec<u8>), ExchangeError>) -> String {
    match outcome {
        Ok((status, reply)) => format!("{status} {}", String::from_utf8_lossy(&reply)),
        Err(error) => error_chain(&error),
    }
}

fn hello(_request: &Received) -> Answer {
    whole("200 OK", "", b"hello")
}

#[test]
fn certificates_are_checked_on_both_sides() {
    let (ours, theirs) = (Ca::new("our CA"), Ca::new("another CA"));
    let folder = Folder::new();
    folder.write("ours.pem", &ours.pem);
    folder.write("theirs.pem", &theirs.pem);
    for (name, ca) in [("known", &ours), ("unknown", &theirs)] {
        let client = ca.issue(ExtendedKeyUsagePurpose::ClientAuth);
        folder.write(&format!("{name}.crt"), &client.cert);
        folder.write(&format!("{name}.key"), &client.key);
    }
    let open = Service::start(Some(ours.server(None)), hello);
    let closed = Service::start(Some(ours.server(Some(&ours))), hello);
    let known = "caFile: '@/ours.pem', clientCertFile: '@/known.crt', clientKeyFile: '@/known.key'";
    let unknown =
        "caFile: '@/ours.pem', clientCertFile: '@/unknown.crt', clientKeyFile: '@/unknown.key'";
    for (what, service, keys, expected) in [
        ("our CA", &open, "caFile: '@/ours.pem'", "200 hello"),
        ("another CA", &open, "caFile: '@/theirs.pem'", "caFile must hold the CA that signed it"),
        ("the system's CAs", &open, "timeout: 20s", "caFile must hold the CA that signed it"),
        ("a certificate that nobody asks for", &open, known, "200 hello"),
        ("a certificate", &closed, known, "200 hello"),
        (
            "no certificate",
            &closed,
            "caFile: '@/ours.pem'",
            "the service demands a client certificate: clientCertFile",
        ),
        (
            "a certificate of another CA",
            &closed,
            unknown,
            "the service does not accept our client certificate",
        ),
    ] {
        let transport = folder.transport(&service.url(), keys).expect(what);
        let got = words(ask(&transport, &service.url()));
        assert!(got.contains(expected), "{what}: {got}");
    }
    let by_address = format!("https://127.0.0.1:{}", open.address.port());
    let transport = folder.transport(&by_address, "caFile: '@/ours.pem'").expect("another name");
    let got = words(ask(&transport, &by_address));
    assert!(got.contains("the URL must name a host that it was made for"), "{got}");
}

#[test]
fn certificate_files_of_no_use_are_found_at_the_start() {
    let ca = Ca::new("our CA");
    let folder = Folder::new();
    let client = ca.issue(ExtendedKeyUsagePurpose::ClientAuth);
    folder.write("client.crt", &client.cert);
    folder.write("client.key", &client.key);
    folder.write("another.key", &ca.issue(ExtendedKeyUsagePurpose::ClientAuth).key);
    folder.write("empty", "");
    for (cert, key, expected) in [
        ("client.crt", "client.key", "usable"),
        ("none", "client.key", "/none cannot be read"),
        ("client.crt", "none", "/none cannot be read"),
        ("empty", "client.key", "/empty holds no valid PEM certificate"),
        ("client.key", "client.key", "/client.key holds no valid PEM certificate"),
        ("client.crt", "empty", "/empty holds no PEM private key"),
        ("client.crt", "client.crt", "/client.crt holds no PEM private key"),
        ("client.crt", "another.key", "another.key cannot be used together"),
    ] {
        let keys = format!("clientCertFile: '@/{cert}', clientKeyFile: '@/{key}'");
        let got = match folder.transport("https://localhost:1", &keys) {
            Ok(_) => "usable".to_owned(),
            Err(error) => error_chain(&error),
        };
        assert!(got.contains(expected), "{cert}, {key}: {got}");
    }
}

#[test]
fn tokens_and_headers_are_read_for_each_request() {
    let ca = Ca::new("our CA");
    let service = Service::start(Some(ca.server(None)), hello);
    let url = service.url();
    let folder = Folder::new();
    folder.write("ca.pem", &ca.pem);
    let keys = "caFile: '@/ca.pem', bearerTokenFile: '@/token', headerFiles: {X-Api-Key: '@/key'}";
    let transport = folder.transport(&url, keys).expect("files are not read yet");
    for (what, token, key, expected) in [
        ("no file", None, None, "the target's bearerTokenFile: secret file "),
        ("one file", Some("first-token\nold-token\n"), None, "headerFiles, x-api-key: secret file"),
        ("both", Some("first-token\nold-token\n"), Some("first-key\n"), "200 hello"),
        ("a new token", Some("second-token"), Some("first-key\n"), "200 hello"),
        ("no token in it", Some("\n"), Some("first-key\n"), "/token is empty"),
        (
            "a line too many",
            Some("second-token"),
            Some("first-key\nsecond-key\n"),
            "headerFiles, x-api-key: file ",
        ),
        ("all well again", Some("second-token"), Some("second-key\n"), "200 hello"),
    ] {
        for (name, text) in [("token", token), ("key", key)] {
            if let Some(text) = text {
                folder.write(name, text);
            }
        }
        let outcome = ask(&transport, &url);
        let is_unsent = outcome.as_ref().is_err_and(ExchangeError::is_unsent);
        assert_eq!(is_unsent, !expected.starts_with("200"), "{what}");
        let got = words(outcome);
        assert!(got.contains(expected), "{what}: {got}");
        assert!(!got.contains("first-") && !got.contains("second-"), "{what}: {got}");
    }
    let sent: Vec<_> = service
        .received()
        .iter()
        .map(|request| {
            let text = |name| request.header(name).unwrap_or_default().to_owned();
            (text("authorization"), text("x-api-key"))
        })
        .collect();
    let expected = [
        ("Bearer first-token", "first-key"),
        ("Bearer second-token", "first-key"),
        ("Bearer second-token", "second-key"),
    ];
    assert_eq!(sent, expected.map(|(token, key)| (token.to_owned(), key.to_owned())));
    // Those in use and those just replaced, to be taken out of replies.
    let secrets = transport.secrets();
    let mut known: Vec<&str> = secrets.iter().map(Secret::expose).collect();
    known.sort_unstable();
    assert_eq!(known, ["first-key", "first-token", "second-key", "second-token"]);
    assert!(!format!("{transport:?}").contains("second-"), "{transport:?}");
}

#[test]
fn headers_go_nowhere_else_and_not_in_the_open() {
    let here = Service::start(None, hello);
    let elsewhere = Service::start(None, hello);
    let plain = |service: &Service| format!("http://{}", service.address);
    let folder = Folder::new();
    folder.write("token", TOKEN);
    let token = "bearerTokenFile: '@/token'";
    let open = "http://parser.invalid:8000";
    for (what, service, keys, url, expected) in [
        ("this machine", plain(&here), token, plain(&here), "200 hello"),
        ("another service", plain(&here), token, plain(&elsewhere), "are for http://127.0.0.1:"),
        ("nothing secret", plain(&here), "timeout: 9s", plain(&elsewhere), "200 hello"),
        (
            "in the open",
            open.to_owned(),
            token,
            open.to_owned(),
            "the target's bearerTokenFile holds would go over plain HTTP",
        ),
        (
            "in the open, a header",
            open.to_owned(),
            "headerFiles: {X-Key: '@/token'}",
            open.to_owned(),
            "the target's headerFiles, x-key holds would go over plain HTTP",
        ),
        (
            "in the open, as told: a name that nobody has",
            open.to_owned(),
            "bearerTokenFile: '@/token', insecureHttp: true",
            open.to_owned(),
            "no reply",
        ),
    ] {
        let transport = folder.transport(&service, keys).expect(what);
        let got = words(ask(&transport, &url));
        assert!(got.contains(expected), "{what}: {got}");
        assert!(!got.contains(TOKEN), "{what}: {got}");
    }
    assert_eq!(here.received().len(), 1);
    let [other] = &*elsewhere.received() else { panic!("one request elsewhere") };
    assert_eq!(other.header("authorization"), None);
}

#[test]
fn redirects_are_not_followed() {
    let ca = Ca::new("our CA");
    let elsewhere = Service::start(Some(ca.server(None)), hello);
    let folder = Folder::new();
    folder.write("ca.pem", &ca.pem);
    folder.write("token", TOKEN);
    for status in ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let location = format!("Location: {}/\r\n", elsewhere.url());
        let service = Service::start(Some(ca.server(None)), move |_| whole(status, &location, b""));
        let keys = "caFile: '@/ca.pem', bearerTokenFile: '@/token'";
        let transport = folder.transport(&service.url(), keys).expect("usable");
        let (code, _) = ask(&transport, &service.url()).expect("a reply");
        assert!(status.starts_with(&code.to_string()), "{status}: {code}");
        assert_eq!(service.received().len(), 1, "{status}");
    }
    assert_eq!(elsewhere.received().len(), 0);
}

#[test]
fn a_service_that_stalls_is_left_at_the_time_limit() {
    for (what, sent) in [
        ("before the reply", ""),
        ("in the head", "HTTP/1.1 200 OK\r\nContent-"),
        ("in the body", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"),
    ] {
        let service = Service::start(None, |_| Answer::Stalled(sent.into()));
        let url = format!("http://{}", service.address);
        let transport = Folder::new().transport(&url, "timeout: 1s").expect("usable");
        let start = Instant::now();
        let outcome = ask(&transport, &url);
        let took = start.elapsed();
        assert!(matches!(outcome, Err(ExchangeError::TimedOut { .. })), "{what}: {outcome:?}");
        let got = words(outcome);
        assert_eq!(got, "no whole reply within 1s: the target's timeout allows no more", "{what}");
        let limits = Duration::from_secs(1)..Duration::from_secs(5);
        assert!(limits.contains(&took), "{what}: {took:?}");
    }
}

#[test]
fn replies_are_bounded() {
    const MB: usize = 1024 * 1024;
    for (size, expected) in
        [(10 * MB, None), (16 * MB, None), (17 * MB, Some("longer than 16777216 bytes"))]
    {
        let service = Service::start(None, move |_| whole("200 OK", "", &vec![b'x'; size]));
        let url = format!("http://{}", service.address);
        let transport = Folder::new().transport(&url, "timeout: 1m").expect("usable");
        match (ask(&transport, &url), expected) {
            (Ok((200, reply)), None) => assert_eq!(reply.len(), size),
            (Err(error), Some(expected)) => {
                let got = error_chain(&error);
                assert!(got.contains(expected), "{size}: {got}");
            }
            (outcome, _) => panic!("{size}: {:?}", outcome.map(|(status, _)| status)),
        }
    }
}

#[test]
fn a_proxy_has_a_certificate_too_and_may_refuse() {
    let (ours, theirs) = (Ca::new("our CA"), Ca::new("another CA"));
    let folder = Folder::new();
    folder.write("ours.pem", &ours.pem);
    folder.write("theirs.pem", &theirs.pem);
    let over_tls = Service::start(Some(ours.server(None)), hello);
    let refusing = Service::start(None, |_| whole("403 Forbidden", "", b"not there"));
    let plain = format!("http://{}", refusing.address);
    for (what, url, proxy, ca, expected) in [
        ("its CA", "http://parser.example:8000", over_tls.url(), "ours", "200 hello"),
        (
            "another CA",
            "http://parser.example:8000",
            over_tls.url(),
            "theirs",
            "or of an https proxy before it, is not accepted",
        ),
        ("no tunnel", "https://parser.example", plain, "ours", "no reply: "),
    ] {
        let keys = format!("proxy: '{proxy}', caFile: '@/{ca}.pem'");
        let transport = folder.transport(url, &keys).expect(what);
        let got = words(ask(&transport, url));
        assert!(got.contains(expected), "{what}: {got}");
        assert!(expected != "no reply: " || got.contains("tunnel"), "{what}: {got}");
    }
    let [asked] = &*over_tls.received() else { panic!("one request to the proxy") };
    assert!(asked.head.starts_with("GET http://parser.example:8000/ "), "{}", asked.head);
    let [asked] = &*refusing.received() else { panic!("one request for a tunnel") };
    assert!(asked.head.starts_with("CONNECT parser.example:443 "), "{}", asked.head);
}

/// A bed with a CA, a client's certificate and a token, and the keys that name them.
fn bed_with_secrets(ca: &Ca) -> (Bed, String) {
    let bed = Bed::new("");
    let client = ca.issue(ExtendedKeyUsagePurpose::ClientAuth);
    bed.write("ca.pem", &ca.pem);
    bed.write("client.crt", &client.cert);
    bed.write("client.key", &client.key);
    bed.write("target-token", TOKEN);
    let path = |name: &str| bed.path(name).display().to_string();
    let keys = format!(
        "    caFile: {}\n    clientCertFile: {}\n    clientKeyFile: {}\n    bearerTokenFile: {}\n",
        path("ca.pem"),
        path("client.crt"),
        path("client.key"),
        path("target-token")
    );
    (bed, keys)
}

fn set_target(bed: &Bed, parser: &str, gateway: &str, keys: &str) {
    let target = Bed::aios_target(parser, gateway, keys);
    let cluster = format!("cluster:\n  id: {CLUSTER_ID}\n  regionId: lab\n{target}");
    bed.write("cluster.yaml", &format!("{cluster}expect: {{nodes: 1}}\n"));
}

fn post_and_wait(aggregator: &Aggregator, log: &str) {
    let answer = aggregator.post_report(report("node-a", 1).to_string().as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.body);
    aggregator.daemon.wait_for_line(|line| line.contains(log), PATIENCE);
}

/// Leaves nothing of the environment's proxies.
fn without_proxies(command: &mut Command) {
    for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
}

#[test]
fn a_cluster_is_registered_through_what_the_cluster_file_names() {
    let ca = Ca::new("our CA");
    for (what, is_plain, is_here, no_proxy, expected) in [
        ("TLS through a tunnel", false, true, None, "CONNECT localhost:"),
        ("TLS past the proxy", false, true, Some("example.org, localhost"), ""),
        ("plain through the proxy", true, false, None, "http://"),
        ("plain on this machine", true, true, None, ""),
    ] {
        let aios = AiosStandin::start();
        let address = |url: String| -> SocketAddr {
            url.trim_start_matches("http://").parse().expect("an address")
        };
        let (parser_at, gateway_at) = (address(aios.parser_url()), address(aios.gateway_url()));
        let tls = || Some(ca.server(Some(&ca)));
        let parser = Service::start(tls(), move |request| hand_over(request, parser_at));
        let gateway = Service::start(tls(), move |request| hand_over(request, gateway_at));
        let proxy = Proxy::start(move |request| {
            let is_parser = request.head.contains("http://parser.example:8000/");
            hand_over(request, if is_parser { parser_at } else { gateway_at })
        });
        let (bed, keys) = bed_with_secrets(&ca);
        let keys = format!("{keys}    proxy: http://{}\n", proxy.address);
        match (is_plain, is_here) {
            (false, _) => set_target(&bed, &parser.url(), &gateway.url(), &keys),
            (true, true) => set_target(&bed, &aios.parser_url(), &aios.gateway_url(), &keys),
            (true, false) => set_target(
                &bed,
                "http://parser.example:8000",
                "http://gateway.example:5000",
                &format!("{keys}    insecureHttp: true\n"),
            ),
        }
        let aggregator = bed.aggregator_with(&[], |command| {
            without_proxies(command);
            if let Some(names) = no_proxy {
                command.env("NO_PROXY", names);
            }
        });
        post_and_wait(&aggregator, "the cluster is registered");
        assert_eq!(aios.clusters().len(), 1, "{what}");

        let heads = proxy.heads();
        assert_eq!(heads.is_empty(), expected.is_empty(), "{what}: {heads:?}");
        let is_tunnel = expected.starts_with("CONNECT");
        for head in &heads {
            assert!(head.contains(expected), "{what}: {head}");
            assert_eq!(head.contains(TOKEN), !is_tunnel, "{what}: {head}");
        }
        let mut received = parser.received();
        received.extend(gateway.received());
        assert_eq!(received.is_empty(), is_plain, "{what}");
        for request in received {
            let expected = format!("Bearer {TOKEN}");
            assert_eq!(request.header("authorization"), Some(expected.as_str()), "{what}");
        }
    }
}

#[test]
fn a_token_is_shown_nowhere() {
    let ca = Ca::new("our CA");
    let aios = AiosStandin::start();
    let gateway_at: SocketAddr =
        aios.gateway_url().trim_start_matches("http://").parse().expect("an address");
    // As it was sent, and as PHP's JSON would have it.
    let escaped = TOKEN.replace('/', "\\/");
    let reply = format!(
        r#"{{"success": true, "task_id": "", "result": [false, "Error occurred: cluster not allowed to be added: you sent {TOKEN} and {escaped}"]}}"#
    );
    let tls = || Some(ca.server(Some(&ca)));
    let parser = Service::start(tls(), move |_| whole("200 OK", "", reply.as_bytes()));
    let gateway = Service::start(tls(), move |request| hand_over(request, gateway_at));
    let (bed, keys) = bed_with_secrets(&ca);
    set_target(&bed, &parser.url(), &gateway.url(), &keys);
    let aggregator = bed.aggregator_with(&["--log-level", "trace"], without_proxies);
    post_and_wait(&aggregator, "a person must act");
    let sent = parser.received();
    assert!(sent.iter().all(|request| request.head.contains(TOKEN)) && !sent.is_empty());

    let mut shown = aggregator.daemon.lines().join("\n");
    for command in [&["status"][..], &["status", "--output", "json"], &["document", "aios"]] {
        let output = aggregator.operate(command);
        assert!(output.status.success(), "{command:?}");
        shown.push_str(&String::from_utf8_lossy(&output.stdout));
        shown.push_str(&String::from_utf8_lossy(&output.stderr));
    }
    shown.push_str(&get(aggregator.admin, "/metrics", "").body);
    for name in ["rollcall.db", "rollcall.db-wal"] {
        shown.push_str(&String::from_utf8_lossy(&fs::read(bed.path(name)).expect("the store")));
    }
    assert!(shown.contains("you sent *** masked *** and *** masked ***"), "{shown}");
    for part in TOKEN.split(['/', '=']).filter(|part| !part.is_empty()) {
        assert!(!shown.contains(part), "{part} in {shown}");
    }
    let key = fs::read_to_string(bed.path("client.key")).expect("the key");
    let line = key.lines().nth(1).expect("a line of the key");
    assert!(!shown.contains(line), "the client's key in {shown}");
}

#[test]
fn a_token_that_is_missing_is_named_and_waited_for() {
    let aios = AiosStandin::start();
    let bed = Bed::new("");
    let path = bed.path("target-token").display().to_string();
    let keys = format!("    bearerTokenFile: {path}\n");
    set_target(&bed, &aios.parser_url(), &aios.gateway_url(), &keys);
    let aggregator = bed.aggregator_with(&[], without_proxies);
    post_and_wait(&aggregator, "not registered, trying again");
    let (phase, detail) = aggregator.target_state();
    assert_eq!(phase, "failing");
    for words in ["was not asked", "the target's bearerTokenFile", &path, "cannot be read"] {
        assert!(detail.contains(words), "{words}: {detail}");
    }
    assert_eq!(aios.requests(), []);
    bed.write("target-token", TOKEN);
    aggregator.daemon.wait_for_line(|line| line.contains("the cluster is registered"), PATIENCE);
}

#[test]
fn a_token_for_plain_http_to_another_machine_is_held_back() {
    let aios = AiosStandin::start();
    aios.set(Behaviour::NotAnswering);
    let proxy = Proxy::start(hello);
    for (what, key, name) in [
        ("a token", "bearerTokenFile: FILE", "bearerTokenFile"),
        ("a header", "headerFiles: {X-Api-Key: FILE}", "headerFiles"),
    ] {
        // The parser is here, the gateway elsewhere: either counts.
        let bed = Bed::new("");
        bed.write("target-token", TOKEN);
        let for_everybody = Permissions::from_mode(0o644);
        fs::set_permissions(bed.path("target-token"), for_everybody).expect("a mode");
        let key = key.replace("FILE", &bed.path("target-token").display().to_string());
        let keys = format!("    {key}\n    proxy: http://{}\n", proxy.address);
        set_target(&bed, &aios.parser_url(), "http://gateway.example:5000", &keys);
        let aggregator = bed.aggregator_with(&[], without_proxies);
        post_and_wait(&aggregator, "a person must act");
        let (phase, detail) = aggregator.target_state();
        assert_eq!(phase, "refused", "{what}: {detail}");
        for words in [name, "http://gateway.example:5000/ is plain HTTP", "insecureHttp: true"] {
            assert!(detail.contains(words), "{what}: {detail}");
        }
        assert!(proxy.heads().is_empty() && aios.requests().is_empty(), "{what}");
        let warnings = aggregator.daemon.lines().into_iter().filter(|line| {
            line.contains("every user of this machine can read") && line.contains("target-token")
        });
        assert_eq!(warnings.count(), 1, "{what}");
    }
}
