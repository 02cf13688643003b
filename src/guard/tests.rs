//! Tokens, rates and connections, and files that change.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use prometheus::Registry;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

use super::testing::{Authority, replace};
use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

fn token_file(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("token");
    replace(&path, text);
    path
}

/// Lets the time pass after which files are looked at again.
async fn a_second_later() {
    tokio::time::pause();
    tokio::time::advance(super::watched::LOOK_INTERVAL).await;
    tokio::time::resume();
}

#[test]
fn only_a_known_token_is_taken_and_nothing_shows_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = token_file(folder.path(), "first-one\n\n second-one \n");
    let tokens = TokenFile::open(SecretFile::token(&path)).unwrap();
    for good in ["Bearer first-one", "bearer second-one", "BEARER first-one"] {
        assert!(tokens.takes(good.as_bytes()), "{good}");
    }
    for bad in [
        "",
        "Bearer",
        "Bearer ",
        "Bearer first-on",
        "Bearer first-one ",
        "Bearer first-one\n",
        "Basic first-one",
        "first-one",
        "Bearer  first-one",
        "Bearer \u{e9}irst-one",
    ] {
        assert!(!tokens.takes(bad.as_bytes()), "{bad:?}");
    }
    let token = tokens.token();
    assert_eq!(token.header().as_str(), "Bearer first-one");
    assert!(!format!("{tokens:?} {token:?}").contains("one"));
}

#[test]
fn a_file_without_a_good_token_is_refused_without_its_text() {
    let folder = tempfile::tempdir().unwrap();
    let many = "token\n".repeat(9);
    let long = "x".repeat(5000);
    for text in ["", " \n", "hunter2 hunter3", "hunter2\u{e9}", &many, &long] {
        let path = token_file(folder.path(), text);
        let error = TokenFile::open(SecretFile::token(&path)).unwrap_err().to_string();
        assert!(error.starts_with("AUTH_TOKEN_FILE: "), "{error}");
        assert!(!error.contains("hunter"), "{error}");
    }
    for path in ["/no/such/file", "/dev/zero", "/proc"] {
        TokenFile::open(SecretFile::token(path.as_ref())).unwrap_err();
    }
}

#[tokio::test]
async fn a_token_that_changes_is_read_again_and_a_broken_file_leaves_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = token_file(folder.path(), "old");
    let tokens = TokenFile::open(SecretFile::token(&path)).unwrap();
    replace(&path, "new\nold");
    assert!(!tokens.takes(b"Bearer new"), "files are looked at once a second");
    a_second_later().await;
    assert!(tokens.takes(b"Bearer new") && tokens.takes(b"Bearer old"));
    std::fs::write(&path, "").unwrap();
    a_second_later().await;
    assert!(tokens.takes(b"Bearer new"), "an empty file was taken");
    std::fs::write(&path, "newest").unwrap();
    a_second_later().await;
    assert!(tokens.takes(b"Bearer newest"), "a write in place was not seen");
    assert!(!tokens.takes(b"Bearer old"));
    // As Kubernetes does it: the file is a link into a folder that is a link, which is switched.
    let link = folder.path().join("mounted");
    let version = |name: &str| {
        let version = folder.path().join(name);
        std::fs::create_dir(&version).unwrap();
        std::fs::write(version.join("token"), name).unwrap();
        let fresh = folder.path().join("fresh");
        std::os::unix::fs::symlink(version, &fresh).unwrap();
        std::fs::rename(&fresh, &link).unwrap();
    };
    version("v1");
    let mounted = TokenFile::open(SecretFile::token(&link.join("token"))).unwrap();
    assert!(mounted.takes(b"Bearer v1"));
    version("v2");
    a_second_later().await;
    assert!(mounted.takes(b"Bearer v2"), "a switched link was not seen");
}

fn peer(address: &str) -> Peer {
    door::peer_for_tests(address.parse().unwrap())
}

fn gate(token: Option<&Path>, certificates: Demand, rate: Rate) -> Gate {
    let token = token.map(|path| Arc::new(TokenFile::open(SecretFile::token(path)).unwrap()));
    Gate::new(token, certificates, rate, None)
}

#[test]
fn what_is_demanded_and_not_shown_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = token_file(folder.path(), "word");
    let caller = peer("10.0.0.1:5");
    let open = gate(None, Demand::Open, Rate::CALLS);
    assert!(!open.asks_for_credentials());
    assert_eq!(open.admit(Some(&caller), None), Ok(()));
    let with_token = gate(Some(&path), Demand::Open, Rate::CALLS);
    assert!(with_token.asks_for_credentials());
    assert_eq!(with_token.admit(Some(&caller), Some(b"Bearer word")), Ok(()));
    assert_eq!(with_token.admit(None, Some(b"Bearer word")), Ok(()));
    assert_eq!(with_token.admit(Some(&caller), None), Err(Refusal::Token));
    assert_eq!(with_token.admit(Some(&caller), Some(b"Bearer other")), Err(Refusal::Token));
    let with_both = gate(Some(&path), Demand::Private, Rate::CALLS);
    assert_eq!(with_both.admit(Some(&caller), Some(b"Bearer word")), Err(Refusal::Certificate));
    assert_eq!(with_both.admit(None, Some(b"Bearer word")), Err(Refusal::Certificate));
}

#[test]
fn one_peer_that_calls_too_often_does_not_slow_another() {
    let gate = gate(None, Demand::Open, Rate::new(3, Duration::from_secs(3600)));
    let (one, other) = (peer("10.0.0.1:5"), peer("10.0.0.2:5"));
    for _ in 0..3 {
        assert_eq!(gate.pace(Some(&one)), Ok(()));
    }
    let refused = gate.pace(Some(&peer("10.0.0.1:6"))).unwrap_err();
    assert!(matches!(refused, Refusal::TooOften { after } if after > Duration::from_secs(60)), "{refused:?}");
    assert_eq!(gate.pace(Some(&other)), Ok(()));
    // One machine has many addresses of IPv6.
    for host in 1..=3 {
        assert_eq!(gate.pace(Some(&peer(&format!("[2001:db8:1:2::{host}]:5")))), Ok(()));
    }
    assert!(gate.pace(Some(&peer("[2001:db8:1:2:ffff::4]:5"))).is_err());
    assert_eq!(gate.pace(Some(&peer("[2001:db8:1:3::1]:5"))), Ok(()));
    // An IPv4 address is the same peer when it comes through a socket of IPv6.
    assert!(gate.pace(Some(&peer("[::ffff:10.0.0.1]:5"))).is_err());
}

#[test]
fn a_flood_of_peers_is_forgotten_again() {
    let gate = gate(None, Demand::Open, Rate::new(1, Duration::from_nanos(1)));
    for number in 0..20_000_u32 {
        let address = IpAddr::V4(Ipv4Addr::from_bits(number));
        assert_eq!(gate.pace(Some(&door::peer_for_tests((address, 1).into()))), Ok(()));
    }
    assert!(gate.remembered_peers() < 5_000, "{}", gate.remembered_peers());
}

fn listen() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
}

const LIMITS: Limits = Limits { connections: 8, greeting: Duration::from_millis(300), first_bytes: 4 };

#[tokio::test]
async fn a_connection_that_does_not_begin_loses_its_place() {
    let listener = listen();
    let address = listener.local_addr().unwrap();
    let door = Door::open(listener, &Guard::none(), LIMITS).unwrap();
    for sent in [&b""[..], b"abc"] {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(sent).await.unwrap();
        let mut guest = door.next().await.greet().await.unwrap();
        let mut read = Vec::new();
        let error = guest.read_to_end(&mut read).await.unwrap_err();
        assert_eq!((error.kind(), read.as_slice()), (std::io::ErrorKind::TimedOut, sent));
    }
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"abcd").await.unwrap();
    let mut guest = door.next().await.greet().await.unwrap();
    guest.read_exact(&mut [0; 4]).await.unwrap();
    let quiet = tokio::time::timeout(LIMITS.greeting * 3, guest.read(&mut [0; 1])).await;
    assert!(quiet.is_err(), "one that has begun may be silent as far as the door goes");
}

#[tokio::test]
async fn nobody_has_more_than_half_of_the_places() {
    let listener = listen();
    let address = listener.local_addr().unwrap();
    let metrics = Metrics::new().unwrap();
    let registry = Registry::new();
    metrics.register(&registry).unwrap();
    let guards = Config::default().open(&metrics).unwrap();
    let door = Arc::new(Door::open(listener, &guards.grpc, LIMITS).unwrap());
    let mut held = Vec::new();
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(TcpStream::connect(address).await.unwrap());
        held.push(door.next().await);
    }
    let next = TaskTracker::new().spawn({
        let door = Arc::clone(&door);
        async move { door.next().await }
    });
    let mut fifth = TcpStream::connect(address).await.unwrap();
    assert_eq!(fifth.read(&mut [0; 1]).await.unwrap(), 0, "the fifth is let go");
    held.pop();
    let _sixth = TcpStream::connect(address).await.unwrap();
    tokio::time::timeout(PATIENCE, next).await.unwrap().unwrap();
    let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    assert!(text.contains("worker_refused_total{reason=\"connections\",server=\"grpc\"} 1"), "{text}");
}

/// For clients that are slow for no fault of theirs.
const RELAXED: Limits = Limits { connections: 8, greeting: PATIENCE, first_bytes: 0 };

struct Pki {
    folder: tempfile::TempDir,
    authority: Authority,
    files: ServerFiles,
}

fn pki() -> Pki {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let (certificate, key) = authority.issue("first").write(folder.path(), "server");
    let clients = folder.path().join("clients.pem");
    replace(&clients, &authority.pem);
    Pki { folder, authority, files: ServerFiles { certificate, key, client_authorities: Some(clients) } }
}

impl Pki {
    fn client(&self, identity: Option<(PathBuf, PathBuf)>) -> ClientTls {
        let authorities = self.folder.path().join("authority.pem");
        replace(&authorities, &self.authority.pem);
        let files =
            ClientFiles { authorities: Some(SecretFile::new("ORCHESTRATOR_TLS_CA", &authorities)), identity };
        ClientTls::open(&files, ServerName::try_from("localhost").unwrap()).unwrap()
    }
}

/// A server that answers each connection with whether its client is certified, and then repeats what it hears.
fn answer(door: Door) -> tokio::task::JoinHandle<()> {
    TaskTracker::new().spawn(async move {
        loop {
            let Some(mut guest) = door.next().await.greet().await else { continue };
            TaskTracker::new().spawn(async move {
                let certified = u8::from(guest.peer().is_certified());
                let _ = guest.write_all(&[certified]).await;
                let _ = guest.flush().await;
                let mut byte = [0];
                while guest.read_exact(&mut byte).await.is_ok() {
                    let _ = guest.write_all(&byte).await;
                    let _ = guest.flush().await;
                }
            });
        }
    })
}

type Connection = tokio_rustls::client::TlsStream<TcpStream>;

async fn connect(
    address: std::net::SocketAddr,
    tls: &ClientTls,
) -> std::io::Result<(Connection, Vec<u8>, bool)> {
    let (connector, server) = tls.connector();
    let mut stream = connector.connect(server, TcpStream::connect(address).await?).await?;
    let certified = stream.read_u8().await? == 1;
    let certificate = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    Ok((stream, certificate, certified))
}

#[tokio::test]
async fn certificates_change_and_connections_stay() {
    let pki = pki();
    let files = ServerFiles { client_authorities: None, ..pki.files.clone() };
    let tls = ServerTls::open(&files, Application::Http2, ClientCertificates::Demanded).unwrap();
    let listener = listen();
    let address = listener.local_addr().unwrap();
    let guard = Guard { tls: Some(tls), ..Guard::none() };
    let server = answer(Door::open(listener, &guard, RELAXED).unwrap());
    let client = pki.client(None);
    let (mut standing, first, certified) = connect(address, &client).await.unwrap();
    assert!(!certified);

    // The certificate comes before its key: in between the old pair serves.
    let second = pki.authority.issue("second");
    replace(&pki.files.certificate, &second.certificate);
    a_second_later().await;
    assert_eq!(connect(address, &client).await.unwrap().1, first);
    replace(&pki.files.key, &second.key);
    a_second_later().await;
    assert_ne!(connect(address, &client).await.unwrap().1, first, "the new certificate does not serve");
    standing.write_u8(7).await.unwrap();
    standing.flush().await.unwrap();
    assert_eq!(standing.read_u8().await.unwrap(), 7, "a connection that stands is left alone");
    server.abort();
}

#[tokio::test]
async fn only_certified_clients_come_in_where_that_is_demanded_and_authorities_change_too() {
    let pki = pki();
    let open = |clients| {
        let tls = ServerTls::open(&pki.files, Application::Http2, clients).unwrap();
        let listener = listen();
        let address = listener.local_addr().unwrap();
        let guard = Guard { tls: Some(tls), ..Guard::none() };
        (address, answer(Door::open(listener, &guard, RELAXED).unwrap()))
    };
    let (demanded, _server) = open(ClientCertificates::Demanded);
    let (offered, _other) = open(ClientCertificates::Offered);
    let anonymous = pki.client(None);
    let known = pki.client(Some(pki.authority.issue("known").write(pki.folder.path(), "known")));
    let stranger_authority = Authority::new();
    let stranger =
        pki.client(Some(stranger_authority.issue("stranger").write(pki.folder.path(), "stranger")));
    assert!(connect(demanded, &anonymous).await.is_err());
    assert!(connect(demanded, &stranger).await.is_err());
    assert!(connect(demanded, &known).await.unwrap().2);
    assert!(!connect(offered, &anonymous).await.unwrap().2);
    assert!(connect(offered, &known).await.unwrap().2);
    assert!(connect(offered, &stranger).await.is_err(), "a bad certificate is worse than none");

    replace(pki.files.client_authorities.as_ref().unwrap(), &stranger_authority.pem);
    a_second_later().await;
    connect(demanded, &stranger).await.expect("the stranger is known now");
    assert!(connect(demanded, &known).await.is_err(), "whom no authority certifies any more is out");
    // The client's own certificate changes as well.
    stranger_authority.issue("known").write(pki.folder.path(), "known");
    a_second_later().await;
    connect(demanded, &known).await.expect("the client shows its new certificate");
}

#[tokio::test]
async fn a_handshake_that_never_ends_costs_a_place_for_a_moment_only() {
    let pki = pki();
    let tls = ServerTls::open(&pki.files, Application::Http2, ClientCertificates::Offered).unwrap();
    let listener = listen();
    let address = listener.local_addr().unwrap();
    let guard = Guard { tls: Some(tls), ..Guard::none() };
    let door = Door::open(listener, &guard, Limits { connections: 2, ..LIMITS }).unwrap();
    let mut silent = std::net::TcpStream::connect(address).unwrap();
    silent.write_all(&[22, 3, 1]).unwrap();
    let began = Instant::now();
    assert!(door.next().await.greet().await.is_none());
    assert!(began.elapsed() >= LIMITS.greeting);
    let _server = answer(door);
    connect(address, &pki.client(None)).await.expect("others come in");
}

#[test]
fn files_that_do_not_fit_are_named() {
    let pki = pki();
    let other = pki.authority.issue("other").write(pki.folder.path(), "other");
    let open = |files: &ServerFiles| {
        ServerTls::open(files, Application::Http2, ClientCertificates::Demanded).unwrap_err().to_string()
    };
    let mismatch = open(&ServerFiles { key: other.1.clone(), ..pki.files.clone() });
    assert!(mismatch.starts_with("TLS_KEY: ") && mismatch.contains("TLS_CERT"), "{mismatch}");
    let swapped = open(&ServerFiles { certificate: other.1.clone(), ..pki.files.clone() });
    assert!(swapped.starts_with("TLS_CERT: ") && swapped.contains("there is none in it"), "{swapped}");
    let no_key = open(&ServerFiles { key: other.0.clone(), ..pki.files.clone() });
    assert!(no_key.starts_with("TLS_KEY: "), "{no_key}");
    let no_clients = open(&ServerFiles { client_authorities: Some(other.1), ..pki.files.clone() });
    assert!(no_clients.starts_with("TLS_CLIENT_CA: "), "{no_clients}");
}
