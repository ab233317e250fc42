//! Certificates, and clients that speak TLS.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Adapter, Client, Scratch};

/// The name in the server's certificates.
pub const SERVER: &str = "adapter.test";
pub const BOTH: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];
pub const TLS12: &[&SupportedProtocolVersion] = &[&version::TLS12];

/// A CA, perhaps beneath another.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub certificate: CertificateDer<'static>,
    /// The CAs between it and its root, itself first.
    chain: Vec<CertificateDer<'static>>,
}

/// A certificate with its chain, and its key.
#[derive(Clone, Debug)]
pub struct Identity {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: Vec<u8>,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let (params, key) = (ca(name), KeyPair::generate().unwrap());
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), certificate, chain: Vec::new() }
    }

    /// A CA that this one has issued.
    pub fn beneath(&self, name: &str) -> Self {
        let (params, key) = (ca(name), KeyPair::generate().unwrap());
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let chain = [&[certificate.clone()][..], &self.chain].concat();
        Self { issuer: Issuer::new(params, key), certificate, chain }
    }

    /// Issues a certificate, with URIs and DNS names, until the end of a year.
    pub fn issue(&self, names: &[&str], year: i32) -> Identity {
        self.issue_for(&KeyPair::generate().unwrap(), names, year)
    }

    /// Issues a certificate for a key.
    pub fn issue_for(&self, key: &KeyPair, names: &[&str], year: i32) -> Identity {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = names
            .iter()
            .map(|name| match name.contains("://") {
                true => SanType::URI((*name).try_into().unwrap()),
                false => SanType::DnsName((*name).try_into().unwrap()),
            })
            .collect();
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(year, 12, 31);
        let certificate = params.signed_by(key, &self.issuer).unwrap().der().clone();
        Identity { chain: [&[certificate][..], &self.chain].concat(), key: key.serialize_der() }
    }

    /// A server's certificate.
    pub fn server(&self) -> Identity {
        self.issue(&[SERVER], 2099)
    }
}

fn ca(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params
}

/// Objects as PEM.
pub fn pem(label: &str, objects: &[impl AsRef<[u8]>]) -> String {
    let encode = |object: &[u8]| base64::engine::general_purpose::STANDARD.encode(object);
    let one = |object: &[u8]| format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", encode(object));
    objects.iter().map(|object| one(object.as_ref())).collect()
}

/// The files of a mounted Secret.
#[derive(Debug)]
pub struct Secret {
    scratch: Scratch,
}

impl Secret {
    pub fn new(server: &Identity, client_ca: &Authority) -> Self {
        let secret = Self { scratch: Scratch::new() };
        secret.write("tls.crt", &pem("CERTIFICATE", &server.chain));
        secret.write("tls.key", &pem("PRIVATE KEY", &[&server.key]));
        secret.write("ca.crt", &pem("CERTIFICATE", &[&client_ca.certificate]));
        secret
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        // As a whole, as a Secret's files change.
        let new = self.path(".new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.path(name)).unwrap();
    }

    /// Starts an adapter with this Secret; `mutual` requires client certificates.
    pub async fn start(&self, mutual: bool, args: &[&str]) -> Adapter {
        let [cert, key, ca] = ["tls.crt", "tls.key", "ca.crt"].map(|name| self.path(name));
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let (cert, key, ca) = (text(&cert), text(&key), text(&ca));
        let mut words = vec!["--metrics-port", "0", "--tls-cert", &cert, "--tls-key", &key];
        if mutual {
            words.extend(["--tls-client-ca", &ca]);
        }
        words.extend(args);
        Adapter::start(&words).await
    }
}

/// How a client connects.
#[derive(Clone, Debug)]
pub struct Tls {
    config: ClientConfig,
}

impl Tls {
    /// Trusts a server's CA, and presents a certificate if it has one.
    pub fn new(ca: &Authority, identity: Option<&Identity>) -> Self {
        Self::with(BOTH, ca, identity)
    }

    pub fn with(
        versions: &[&'static SupportedProtocolVersion],
        ca: &Authority,
        identity: Option<&Identity>,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(ca.certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let builder = builder.with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(Identity { chain, key }) => {
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.clone()));
                builder.with_client_auth_cert(chain.clone(), key).unwrap()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Self { config }
    }

    /// With these protocols in its ALPN.
    pub fn alpn(mut self, protocols: &[&str]) -> Self {
        self.config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        self
    }

    /// A connection without HTTP/2.
    pub async fn stream(&self, port: u16) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(SERVER).unwrap();
        TlsConnector::from(Arc::new(self.config.clone())).connect(name, stream).await
    }

    pub async fn client(&self, adapter: &Adapter) -> io::Result<Client> {
        Client::over(self.stream(adapter.port).await?).await
    }
}
