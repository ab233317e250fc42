//! Clients that are permitted or refused.

use std::io::{Read, Write};

use mygrpcadapter::pb::grpc::health::v1::health_check_response::ServingStatus;
use tokio::io::AsyncReadExt;

use super::{MIXER, SHAPE, authorities, handshakes};
use crate::health::check;
use crate::process::{assert_refused, run};
use crate::support::authority::{Authority, BOTH, Identity, Secret, TLS12, Tls};
use crate::support::frames::PREFACE;
use crate::support::message::METRIC;
use crate::support::{Adapter, OK, Reply, Scratch, UNAUTHENTICATED, http, until};
use crate::tools::{assert_printed, probe};

/// Asserts that a client gets no answer, for a reason that its error names.
async fn assert_no_call(adapter: &Adapter, client: Tls, alert: &str) {
    let error = match client.client(adapter).await {
        Err(error) => error,
        Ok(client) => client.unary(METRIC, &SHAPE.message("refused")).await.unwrap_err(),
    };
    assert!(format!("{error:?}").contains(alert), "{alert}: {error:?}");
}

#[tokio::test]
async fn clients_of_both_versions_with_and_without_alpn_are_served() {
    let (servers, clients) = authorities();
    for mutual in [false, true] {
        let adapter = Secret::new(&servers.server(), &clients).start(mutual, &[]).await;
        let identity = mutual.then(|| clients.issue(&[MIXER], 2099));
        for versions in [BOTH, TLS12] {
            for protocols in [&["h2"][..], &["http/1.1", "h2"], &[]] {
                let tls = Tls::with(versions, &servers, identity.as_ref()).alpn(protocols);
                let client = tls.client(&adapter).await.unwrap();
                let reply = client.unary(METRIC, &SHAPE.message("a")).await.unwrap();
                assert_eq!(reply, Reply::default(), "{versions:?} {protocols:?}");
            }
        }
        assert_eq!(handshakes(&adapter, "ok"), 6.0);
        let written = SHAPE.names(&adapter.read(SHAPE.file));
        assert_eq!(written.len(), 6);
    }
}

#[tokio::test]
async fn a_resumed_session_is_for_clients_without_a_certificate_only() {
    let (servers, clients) = authorities();
    for (mutual, kind) in [(false, rustls::HandshakeKind::Resumed), (true, rustls::HandshakeKind::Full)] {
        let adapter = Secret::new(&servers.server(), &clients).start(mutual, &[]).await;
        let identity = mutual.then(|| clients.issue(&[MIXER], 2099));
        for versions in [BOTH, TLS12] {
            let tls = Tls::with(versions, &servers, identity.as_ref());
            let mut first = tls.stream(adapter.port).await.unwrap();
            // The settings of HTTP/2, and the ticket before them.
            first.read_exact(&mut [0; 9]).await.unwrap();
            let second = tls.stream(adapter.port).await.unwrap();
            assert_eq!(second.get_ref().1.handshake_kind(), Some(kind), "{versions:?}");
        }
    }
}

#[tokio::test]
async fn only_clients_with_a_certificate_and_a_permitted_name_may_call() {
    let (servers, clients) = authorities();
    let names = ["--tls-client-name", MIXER, "--tls-client-name=spiffe://cluster.local/ns/ops/*"];
    let names =
        [&names[..], &["--tls-client-name", "Envoy.example", "--tls-client-name", "gateway.*"]].concat();
    let adapter = Secret::new(&servers.server(), &clients).start(true, &names).await;
    let between = clients.beneath("between");
    let permitted = [
        clients.issue(&[MIXER], 2099),
        between.issue(&["spiffe://cluster.local/ns/ops/sa/a"], 2099),
        clients.issue(&["spiffe://other/x", "ENVOY.example"], 2099),
        clients.issue(&["gateway.example"], 2099),
    ];
    for identity in &permitted {
        for versions in [BOTH, TLS12] {
            let client = Tls::with(versions, &servers, Some(identity)).client(&adapter).await.unwrap();
            assert_eq!(client.unary(METRIC, &SHAPE.message("a")).await.unwrap(), Reply::default());
        }
    }
    let strangers = Authority::new("strangers");
    let refused: [(&str, &str, &str, Option<Identity>); 8] = [
        ("no_certificate", "CertificateRequired", "a client presents no certificate", None),
        ("unknown_issuer", "UnknownCA", "no CA in --tls-client-ca", Some(strangers.issue(&[MIXER], 2099))),
        ("expired", "CertificateExpired", "is not valid now", Some(clients.issue(&[MIXER], 2001))),
        (
            "name",
            "AccessDenied",
            "a permitted name",
            Some(clients.issue(&["spiffe://cluster.local/ns/a"], 2099)),
        ),
        ("name", "AccessDenied", "", Some(clients.issue(&[&format!("{MIXER}2")], 2099))),
        ("name", "AccessDenied", "", Some(clients.issue(&["a.gateway.example"], 2099))),
        // A DNS name is no URI.
        ("name", "AccessDenied", "", Some(clients.issue(&["spiffe.cluster.local"], 2099))),
        ("name", "AccessDenied", "", Some(clients.issue(&[], 2099))),
    ];
    for (outcome, alert, line, identity) in refused {
        for versions in [BOTH, TLS12] {
            let before = handshakes(&adapter, outcome);
            assert_no_call(&adapter, Tls::with(versions, &servers, identity.as_ref()), alert).await;
            assert_eq!(handshakes(&adapter, outcome), before + 1.0, "{outcome}");
        }
        if outcome != "name" {
            adapter.logged(line).await;
        }
    }
    let line = adapter.logged("no --tls-client-name permits").await;
    assert!(line.contains("names=\"spiffe://cluster.local/ns/a\""), "{line}");
    // A warning each, however often.
    let log = adapter.log();
    for line in
        ["a client presents no certificate", "no CA in --tls-client-ca", "is not valid now", "/ns/a\""]
    {
        assert_eq!(log.iter().filter(|logged| logged.contains(line)).count(), 1, "{line}\n{log:#?}");
    }
    assert_eq!(SHAPE.names(&adapter.read(SHAPE.file)).len(), 2 * permitted.len());
}

#[tokio::test]
async fn a_chain_of_more_than_four_intermediates_is_refused_before_it_is_verified() {
    let (servers, clients) = authorities();
    let adapter = Secret::new(&servers.server(), &clients).start(true, &[]).await;
    let fourth = (1..4).fold(clients.beneath("0"), |ca, at| ca.beneath(&at.to_string()));
    let client = Tls::new(&servers, Some(&fourth.issue(&[MIXER], 2099))).client(&adapter).await.unwrap();
    assert_eq!(client.unary(METRIC, &SHAPE.message("a")).await.unwrap(), Reply::default());
    let longer = fourth.beneath("4").issue(&[MIXER], 2099);
    assert_no_call(&adapter, Tls::new(&servers, Some(&longer)), "HandshakeFailure").await;
    let line = adapter.logged("a client's certificate is not accepted").await;
    assert!(line.contains("with a short chain") && line.contains("more than 4"), "{line}");
    assert_eq!(handshakes(&adapter, "certificate"), 1.0);
}

#[tokio::test]
async fn clients_that_cannot_be_served_are_told_apart() {
    let (servers, clients) = authorities();
    let adapter = Secret::new(&servers.server(), &clients).start(false, &[]).await;
    assert_no_call(&adapter, Tls::new(&servers, None).alpn(&["http/1.1"]), "NoApplicationProtocol").await;
    adapter.logged("a client does not offer HTTP/2").await;
    // It trusts another CA.
    assert_no_call(&adapter, Tls::new(&clients, None), "UnknownIssuer").await;
    adapter.logged("a client refuses our certificate").await;
    let raw = |bytes: &[u8]| {
        let mut stream = http::connect(adapter.port);
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer
    };
    raw(PREFACE);
    adapter.logged("a client speaks plaintext to the TLS port").await;
    // A ClientHello of TLS 1.1, with one cipher suite, and the alert that answers it.
    let mut hello = vec![22, 3, 1, 0, 45, 1, 0, 0, 41, 3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x13, 1, 0]);
    assert_eq!(raw(&hello)[..6], [21, 3, 3, 0, 2, 2]);
    adapter.logged("it needs 1.2 or 1.3").await;
    raw(&[22, 3, 1, 0, 5, 99, 99, 99, 99, 99]);
    raw(b"");
    for outcome in ["alpn", "refused_by_peer", "plaintext", "incompatible", "invalid"] {
        assert_eq!(handshakes(&adapter, outcome), 1.0, "{outcome}");
    }
    drop(http::connect(adapter.port));
    until("the end is counted", || (handshakes(&adapter, "closed") == 1.0).then_some(())).await;
    // HTTP/1 within TLS, without ALPN.
    let mut stream = Tls::new(&servers, None).alpn(&[]).stream(adapter.port).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"POST /a HTTP/1.1\r\n\r\n").await.unwrap();
    adapter.logged("a peer speaks HTTP/1 on the gRPC port").await;
}

#[tokio::test]
async fn a_probe_of_the_port_names_the_one_to_ask() {
    let (servers, clients) = authorities();
    let adapter = Secret::new(&servers.server(), &clients).start(true, &[]).await;
    assert_printed(
        &probe(adapter.port, "", &[]).await,
        1,
        b"",
        "it speaks TLS; ask the metrics port: probe --http",
    );
}

#[tokio::test]
async fn tokens_need_no_other_flag_with_tls() {
    let (servers, clients) = authorities();
    let scratch = Scratch::new();
    let path = scratch.path().join("tokens");
    std::fs::write(&path, "one\n").unwrap();
    let words = ["--caller-tokens-file", path.to_str().unwrap()];
    let adapter = Secret::new(&servers.server(), &clients).start(false, &words).await;
    let client = Tls::new(&servers, None).client(&adapter).await.unwrap();
    for (token, status) in [("Bearer one", OK), ("Bearer two", UNAUTHENTICATED)] {
        let headers = [("authorization", token)];
        assert_eq!(client.unary_with(METRIC, &headers, &SHAPE.message("a")).await.unwrap().status, status);
    }
    assert_eq!(check(&client, "").await, Ok(ServingStatus::Serving));
}

#[test]
fn flags_that_do_not_fit_together_are_64() {
    for (words, part) in [
        (&["--tls-cert", "/a"][..], "both --tls-cert and --tls-key"),
        (&["--tls-key", "/a"], "both --tls-cert and --tls-key"),
        (&["--tls-client-ca", "/a"], "both --tls-cert and --tls-key"),
        (&["--tls-cert=/a", "--tls-key=/a", "--tls-client-name=a"], "needs --tls-client-ca"),
        (&["--tls-cert=/a", "--tls-key=/a", "--tls-client-ca=/a", "--tls-client-name=*"], "with `*` only"),
    ] {
        assert_refused(&run(&[&["0", "--volume", "none"], words].concat()), 64, part);
    }
    let version = String::from_utf8(run(&["--version"]).stdout).unwrap();
    assert!(version.ends_with(", tls)\n"), "{version}");
}
