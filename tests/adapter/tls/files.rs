//! Certificates and keys on disk, and their rotation.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rcgen::KeyPair;

use super::{MIXER, SHAPE, authorities, handshakes};
use crate::process::{assert_refused, run};
use crate::support::authority::{Authority, Identity, SERVER, Secret, Tls, pem};
use crate::support::message::{METRIC, assert_each_once};
use crate::support::namespace::lacks;
use crate::support::{Adapter, Reply, until};

const EXPIRY: &str = "mygrpcadapter_tls_certificate_expiry_timestamp_seconds";

fn expiry(adapter: &Adapter, certificate: &str) -> Option<f64> {
    adapter.page().find(EXPIRY, &[("certificate", certificate)])
}

fn is_stale(adapter: &Adapter) -> bool {
    adapter.page().value("mygrpcadapter_reload_failed", &[("files", "certificates")]) == 1.0
}

/// The certificate that a client is shown.
async fn shown(adapter: &Adapter, tls: &Tls) -> Vec<u8> {
    let stream = tls.stream(adapter.port).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

/// Clients that connect, make two calls and close, over and over, and one that keeps
/// its connection.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(adapter: &Adapter, tls: &Tls) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let tasks = (0..4).map(|number| {
            let (stop, done, tls, port) = (Arc::clone(&stop), Arc::clone(&done), tls.clone(), adapter.port);
            tokio::spawn(async move {
                let (mut names, mut kept) = (Vec::new(), None);
                while !stop.load(Ordering::Relaxed) {
                    let client = match kept.take() {
                        Some(client) => client,
                        None => crate::support::Client::over(tls.stream(port).await.unwrap()).await.unwrap(),
                    };
                    for _ in 0..2 {
                        let name = format!("{number}-{}", names.len());
                        let reply = client.unary(METRIC, &SHAPE.message(&name)).await.unwrap();
                        assert_eq!(reply, Reply::default());
                        names.push(name);
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                    kept = (number == 0).then_some(client);
                }
                names
            })
        });
        Self { tasks: tasks.collect(), stop, done }
    }

    /// Waits until each client has made more calls.
    async fn goes_on(&self) {
        let before = self.done.load(Ordering::Relaxed);
        until("the load goes on", || (self.done.load(Ordering::Relaxed) > before + 20).then_some(())).await;
    }

    async fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut names = Vec::new();
        for task in self.tasks {
            names.extend(task.await.unwrap());
        }
        names
    }
}

#[tokio::test]
async fn a_rotation_under_load_fails_no_call() {
    let (servers, clients) = authorities();
    let new_clients = Authority::new("new clients");
    let secret = Secret::new(&servers.issue(&[SERVER], 2040), &clients);
    let mut adapter = secret.start(true, &[]).await;
    adapter.logged("serving TLS expires=2040-12-31T00:00:00Z client_ca_expires=").await;
    let old = Tls::new(&servers, Some(&clients.issue(&[MIXER], 2099)));
    let load = Load::start(&adapter, &old);
    load.goes_on().await;
    for year in [2041, 2042, 2043] {
        let server = servers.issue(&[SERVER], year);
        // One after the other, and calls between: the pair does not match for a while.
        secret.write("tls.crt", &pem("CERTIFICATE", &server.chain));
        until("the pair does not match", || is_stale(&adapter).then_some(())).await;
        load.goes_on().await;
        secret.write("tls.key", &pem("PRIVATE KEY", &[&server.key]));
        until("the pair is read", || (!is_stale(&adapter)).then_some(())).await;
        assert_eq!(shown(&adapter, &old).await, server.chain[0].as_ref());
        load.goes_on().await;
    }
    adapter.logged("read the certificates again path=").await;
    assert_eq!(expiry(&adapter, "server"), Some(2_335_132_800.0));
    // Both CAs, then the new one.
    let new = Tls::new(&servers, Some(&new_clients.issue(&[MIXER], 2099)));
    secret.write("ca.crt", &pem("CERTIFICATE", &[&clients.certificate, &new_clients.certificate]));
    let mut reply = None;
    while reply.is_none() {
        if let Ok(client) = new.client(&adapter).await {
            reply = client.unary(METRIC, &SHAPE.message("new")).await.ok();
        }
    }
    load.goes_on().await;
    let mut names = load.end().await;
    names.push("new".into());
    assert_each_once(&names, &SHAPE.names(&adapter.read(SHAPE.file)));
    assert_eq!(handshakes(&adapter, "closed"), 0.0);
    assert_eq!(adapter.stop().await, 0);
}

#[tokio::test]
async fn a_byte_order_mark_and_other_line_ends_do_not_matter() {
    let (servers, clients) = authorities();
    let secret = Secret::new(&servers.server(), &clients);
    for file in ["tls.crt", "tls.key", "ca.crt"] {
        let text = std::fs::read_to_string(secret.path(file)).unwrap();
        secret.write(file, &format!("\u{feff}{}", text.replace('\n', "\r\n")));
    }
    let adapter = secret.start(true, &[]).await;
    let tls = Tls::new(&servers, Some(&clients.issue(&[MIXER], 2099)));
    let client = tls.client(&adapter).await.unwrap();
    assert_eq!(client.unary(METRIC, &SHAPE.message("n")).await.unwrap(), Reply::default());
}

#[tokio::test]
async fn a_broken_file_keeps_the_last_certificate_and_says_why() {
    let (servers, clients) = authorities();
    let server = servers.server();
    let secret = Secret::new(&server, &clients);
    let adapter = secret.start(true, &[]).await;
    let tls = Tls::new(&servers, Some(&clients.issue(&[MIXER], 2099)));
    let other = servers.server();
    let broken = [
        ("tls.crt", String::new(), "no certificate in the file"),
        ("tls.crt", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n".into(), "not PEM"),
        ("tls.crt", pem("CERTIFICATE", &[b"abc"]), "an invalid certificate"),
        ("tls.key", pem("PRIVATE KEY", &[&other.key]), "--tls-key is not the key of"),
        ("tls.key", pem("ENCRYPTED PRIVATE KEY", &[&server.key]), "the key is encrypted"),
        ("tls.key", pem("PRIVATE KEY", &[b"abc"]), "--tls-key: "),
        ("ca.crt", "nothing".into(), "--tls-client-ca: no certificate"),
        ("ca.crt", "a".repeat(1 << 21), "larger than 1024 KiB"),
    ];
    for (file, text, line) in broken {
        let good = std::fs::read_to_string(secret.path(file)).unwrap();
        secret.write(file, &text);
        until(line, || is_stale(&adapter).then_some(())).await;
        let logged = adapter.logged(line).await;
        assert!(logged.contains("cannot read the certificates, the last ones hold"), "{logged}");
        assert_eq!(shown(&adapter, &tls).await, server.chain[0].as_ref());
        secret.write(file, &good);
        until("it is good again", || (!is_stale(&adapter)).then_some(())).await;
    }
    let (log, key) = (adapter.log().join("\n"), pem("", &[&server.key]));
    assert!(!log.contains(key.lines().nth(1).unwrap()), "{log}");
}

#[tokio::test]
async fn the_end_of_the_first_certificate_and_of_the_last_ca_is_a_metric() {
    let (servers, clients) = authorities();
    let between = servers.beneath("between");
    let secret = Secret::new(&between.issue(&[SERVER], 2030), &clients);
    let adapter = secret.start(false, &[]).await;
    assert_eq!((expiry(&adapter, "server"), expiry(&adapter, "client_ca")), (Some(1_924_905_600.0), None));
    let adapter = secret.start(true, &[]).await;
    // rcgen's CAs last until the year 4096.
    assert_eq!(expiry(&adapter, "client_ca"), Some(67_090_118_400.0));
    // One has expired already: it is served, and the clients refuse it.
    let secret = Secret::new(&servers.issue(&[SERVER], 2001), &clients);
    let adapter = secret.start(false, &[]).await;
    assert_eq!(expiry(&adapter, "server"), Some(1_009_756_800.0));
    adapter.logged("the server's certificate has expired, renew it expires=2001-12-31T00:00:00Z").await;
    assert!(Tls::new(&servers, None).stream(adapter.port).await.is_err());
    adapter.logged("a client refuses our certificate").await;
}

#[test]
fn files_that_are_missing_or_broken_at_start_are_66() {
    let (servers, clients) = authorities();
    let secret = Secret::new(&servers.server(), &clients);
    let [cert, key, ca] = ["tls.crt", "tls.key", "ca.crt"].map(|name| secret.path(name));
    let [cert, key, ca] = [&cert, &key, &ca].map(|path| path.to_str().unwrap());
    for (words, part) in [
        (["/nowhere", key, ca], "/nowhere: No such file"),
        ([cert, "/nowhere", ca], "/nowhere: No such file"),
        ([key, key, ca], "--tls-cert: no certificate in the file"),
        ([cert, cert, ca], "--tls-key: no private key in the file"),
        ([ca, key, ca], "--tls-key is not the key of the first certificate"),
        ([cert, key, key], "--tls-client-ca: no certificate in the file"),
    ] {
        let [cert, key, ca] = words;
        let words = ["0", "--volume", "none", "--tls-cert", cert, "--tls-key", key, "--tls-client-ca", ca];
        let output = run(&words);
        assert_refused(&output, 66, "cannot read the certificates: ");
        assert_refused(&output, 66, part);
    }
}

/// A key of openssl's in this form, and as a key pair.
fn openssl_key(algorithm: &[&str], traditional: bool) -> (String, KeyPair) {
    let openssl = |words: &[&str], input: &str| {
        let mut command = Command::new("openssl");
        command.args(words).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{words:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let pkcs8 = openssl(&[&["genpkey", "-algorithm"], algorithm].concat(), "");
    let form = match traditional {
        true => openssl(&["pkey", "-traditional"], &pkcs8),
        false => pkcs8.clone(),
    };
    let body: String = pkcs8.lines().filter(|line| !line.starts_with('-')).collect();
    let der = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, body).unwrap();
    (form, KeyPair::try_from(der).unwrap())
}

#[tokio::test]
async fn keys_of_each_form_are_read() {
    if lacks("openssl") {
        return;
    }
    let (servers, clients) = authorities();
    let secret = Secret::new(&servers.server(), &clients);
    for (algorithm, traditional, label) in [
        (&["RSA", "-pkeyopt", "rsa_keygen_bits:2048"][..], false, "-----BEGIN PRIVATE KEY"),
        (&["RSA", "-pkeyopt", "rsa_keygen_bits:2048"], true, "-----BEGIN RSA PRIVATE KEY"),
        (&["EC", "-pkeyopt", "ec_paramgen_curve:P-256"], false, "-----BEGIN PRIVATE KEY"),
        (&["EC", "-pkeyopt", "ec_paramgen_curve:P-256"], true, "-----BEGIN EC PRIVATE KEY"),
        (&["EC", "-pkeyopt", "ec_paramgen_curve:P-384"], true, "-----BEGIN EC PRIVATE KEY"),
        (&["ED25519"], false, "-----BEGIN PRIVATE KEY"),
    ] {
        let (text, key) = openssl_key(algorithm, traditional);
        assert!(text.starts_with(label), "{text}");
        let Identity { chain, .. } = servers.issue_for(&key, &[SERVER], 2099);
        secret.write("tls.crt", &pem("CERTIFICATE", &chain));
        secret.write("tls.key", &text);
        let adapter = secret.start(false, &[]).await;
        assert_eq!(shown(&adapter, &Tls::new(&servers, None)).await, chain[0].as_ref(), "{algorithm:?}");
    }
}
