//! Certificates of a fleet, clients that trust it, and TLS in front of an orchestrator that speaks plain text.
#![allow(unreachable_pub, reason = "part of a test binary")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tensorfleet_worker::wire::worker_pb;
use tensorfleet_worker::wire::worker_pb::worker_service_client::WorkerServiceClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::rustls;
use tonic::Code;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::certificates::{Authority, Issued, replace};
use crate::support::spawn;

/// Certificates of a fleet, in a folder.
pub struct Fleet {
    pub folder: tempfile::TempDir,
    pub authority: Authority,
}

impl Fleet {
    pub fn new() -> Self {
        let fleet = Self { folder: tempfile::tempdir().unwrap(), authority: Authority::new() };
        replace(&fleet.path("ca.pem"), &fleet.authority.pem);
        fleet
    }

    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Issues a certificate and writes it as NAME.pem and NAME.key.
    pub fn issue(&self, name: &str) -> Issued {
        let issued = self.authority.issue(name);
        issued.write(self.folder.path(), name);
        issued
    }

    /// A channel that trusts this fleet alone.
    pub async fn channel(&self, address: SocketAddr, identity: Option<&Issued>) -> Result<Channel, Code> {
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&self.authority.pem));
        if let Some(Issued { certificate, key }) = identity {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        let endpoint = Endpoint::from_shared(format!("https://localhost:{}", address.port())).unwrap();
        let channel = endpoint.tls_config(tls).unwrap().connect().await.map_err(|_| Code::Unavailable)?;
        // A server says only after the handshake of TLS 1.3 what it thinks of a client's certificate.
        match WorkerServiceClient::new(channel.clone()).get_status(worker_pb::GetStatusRequest {}).await {
            Ok(_) => Ok(channel),
            Err(status) => Err(status.code()),
        }
    }

    /// GET over TLS: status code, or 0 where no connection came about.
    pub async fn get(&self, address: SocketAddr, path: &str, identity: Option<&Issued>) -> u16 {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.pem.as_bytes()).unwrap()).unwrap();
        let builder =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots);
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some(Issued { certificate, key }) => {
                let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
                builder
                    .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
                    .unwrap()
            }
        };
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let Ok(mut stream) = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await
        else {
            return 0;
        };
        let head = format!("GET {path} HTTP/1.0\r\nHost: w\r\n\r\n");
        if stream.write_all(head.as_bytes()).await.is_err() {
            return 0;
        }
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
    }
}

/// TLS in front of an orchestrator that speaks plain text; counts connections, and ends all of them when told.
pub struct Terminator {
    pub address: SocketAddr,
    pub accepted: Arc<AtomicUsize>,
    pub server: tokio::task::JoinHandle<()>,
}

pub async fn terminate_tls(
    fleet: &Fleet,
    identity: &Issued,
    behind: SocketAddr,
    at: SocketAddr,
) -> Terminator {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(fleet.authority.pem.as_bytes()).unwrap()).unwrap();
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(at).unwrap();
    let listener = socket.listen(64).unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = Arc::new(AtomicUsize::new(0));
    let server = spawn({
        let accepted = Arc::clone(&accepted);
        async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, accepted) = (acceptor.clone(), Arc::clone(&accepted));
                connections.spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    accepted.fetch_add(1, Ordering::SeqCst);
                    let mut orchestrator = tokio::net::TcpStream::connect(behind).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut orchestrator).await;
                });
            }
        }
    });
    Terminator { address, accepted, server }
}
