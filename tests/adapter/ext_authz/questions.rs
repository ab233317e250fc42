//! CheckRequests, recorded and constructed: their attributes and verdicts.

use std::borrow::Cow;
use std::collections::HashMap;

use mygrpcadapter::frontends::envoy::ext_authz::question::{Kind, Question};
use mygrpcadapter::frontends::envoy::ext_authz::settings::MAX_AUTH_HEADERS;
use mygrpcadapter::frontends::envoy::ext_authz::without_body::without_body;
use mygrpcadapter::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
use mygrpcadapter::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest, HeaderMap, HeaderValue};
use mygrpcadapter::policy::{Token, Verdict};
use proptest::collection::{hash_map, vec};
use proptest::option;
use proptest::prelude::*;
use prost::Message;

use super::{authorizer, check, headers, http};
use crate::captures::recorded;

pub const TOKEN: &str = "x-custom-token";
const AUTHORIZATION: &str = "authorization";
const SLEEP: &str = "spiffe://cluster.local/ns/default/sa/sleep";

fn names(names: &[&str]) -> Vec<Box<[u8]>> {
    names.iter().map(|name| name.as_bytes().into()).collect()
}

/// The attributes of a message, as decoded by an independent reader, prost.
fn reference<'a>(request: &'a CheckRequest, auth_headers: &[&str]) -> Question<'a> {
    let Some(attributes) = &request.attributes else {
        return Question { token: Token::Unsupported, ..Question::default() };
    };
    let principal = |peer: &'a Option<Peer>| peer.as_ref().map_or("", |peer| &peer.principal).as_bytes();
    let mut question = Question {
        source_principal: principal(&attributes.source),
        destination_principal: principal(&attributes.destination),
        ..Question::default()
    };
    let Some(http) = attributes.request.as_ref().and_then(|request| request.http.as_ref()) else {
        question.token = Token::Unsupported;
        question.host = attributes.destination.as_ref().map_or("", |peer| &peer.service).as_bytes();
        return question;
    };
    let pairs: Vec<(&str, &[u8])> = http
        .headers
        .iter()
        .map(|(name, value)| (&**name, value.as_bytes()))
        .chain(http.header_map.iter().flat_map(|map| &map.headers).map(|header| {
            let value = if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value };
            (&*header.key, value)
        }))
        .collect();
    let of = |name: &str| -> Vec<&'a [u8]> {
        pairs.iter().filter(|pair| pair.0.eq_ignore_ascii_case(name)).map(|pair| pair.1).collect()
    };
    question.kind = Kind::Http;
    question.method = http.method.as_bytes();
    question.host = http.host.as_bytes();
    question.path = http.path.split(['?', '#']).next().unwrap().as_bytes();
    question.request_id = of("x-request-id").last().copied().unwrap_or_default();
    let tokens = auth_headers.iter().map(|name| match &of(name)[..] {
        [] => Token::Absent,
        [value] if *name == AUTHORIZATION => Token::Given(bearer(value)),
        [value] => Token::Given(value),
        _ => Token::Repeated,
    });
    question.token = tokens.into_iter().find(|token| *token != Token::Absent).unwrap_or_default();
    question
}

fn bearer(value: &[u8]) -> &[u8] {
    let text = value.to_ascii_lowercase();
    match text.strip_prefix(b"bearer") {
        Some(b"") => b"",
        Some([b' ' | b'\t', ..]) => value["bearer".len()..].trim_ascii_start(),
        _ => value,
    }
}

/// The kept part of a message received in pieces.
fn in_pieces(message: &[u8], step: usize) -> Vec<u8> {
    let mut kept = without_body();
    message.chunks(step).for_each(|piece| assert!(kept.push(piece).is_ok()));
    kept.end().unwrap()
}

#[test]
fn checks_of_a_real_envoy_are_read_as_another_reader_has_them() {
    let recorded = recorded("envoy/ext-authz", "");
    assert_eq!(recorded.len(), 11);
    for path in recorded {
        let message = std::fs::read(&path).unwrap();
        let request = CheckRequest::decode(&*message).unwrap();
        for auth_headers in [&["x-ext-authz"][..], &["x-dup", "x-bin"], &[TOKEN, "user-agent"]] {
            let names = names(auth_headers);
            let question = Question::read(&message, &names).unwrap();
            assert_eq!(question, reference(&request, auth_headers), "{}", path.display());
            for step in [1, 7, 100] {
                let kept = in_pieces(&message, step);
                assert_eq!(Question::read(&kept, &names).unwrap(), question, "{} by {step}", path.display());
            }
        }
    }
}

#[test]
fn checks_of_a_real_envoy_are_judged_by_token_or_principal() {
    let by_key = authorizer("allow\n1,2\n", headers(&["x-ext-authz", "x-dup"]));
    let by_principal = authorizer(&format!("principal {SLEEP}\n"), headers(&["x-ext-authz"]));
    let text = |bytes: &[u8]| String::from_utf8(bytes.into()).unwrap();
    let mut seen = Vec::new();
    for path in recorded("envoy/ext-authz", "") {
        let message = std::fs::read(&path).unwrap();
        let case = path.file_name().unwrap().to_str().unwrap()[..2].to_owned();
        let checked = by_key.check(&message).unwrap();
        let question = &checked.question;
        seen.push((
            case,
            format!("{} {} {}", text(question.method), text(question.host), text(question.path)),
            checked.verdict,
            by_principal.check(&message).unwrap().verdict,
        ));
    }
    let expected = [
        ("01", "GET 127.0.0.1:10081 /authz/ok/page", Verdict::Key, Verdict::WrongToken),
        ("02", "POST 127.0.0.1:10081 /authz/ok", Verdict::NoToken, Verdict::NoToken),
        ("04", "POST 127.0.0.1:10082 /authz/ok", Verdict::NoToken, Verdict::NoToken),
        ("05", "POST 127.0.0.1:10082 /authz/ok", Verdict::NoToken, Verdict::NoToken),
        ("08", "GET httpbin.default.svc:10087 /authz/ok", Verdict::NoToken, Verdict::Principal),
        ("10", "POST 127.0.0.1:10082 /test.Svc/Ok", Verdict::NoToken, Verdict::NoToken),
        ("11", "GET 127.0.0.1:10081 /authz/ok", Verdict::NoToken, Verdict::NoToken),
        ("13", "  ", Verdict::NoRule, Verdict::NoRule),
        ("14", " sni.example ", Verdict::NoRule, Verdict::Principal),
        ("16", "GET h /authz/ok/caf%E9", Verdict::NoToken, Verdict::NoToken),
        ("17", "GET httpbin.default.svc:10087 /authz/ok", Verdict::NoToken, Verdict::NoToken),
    ];
    let expected = expected.map(|(case, what, key, rule)| (case.to_owned(), what.to_owned(), key, rule));
    assert_eq!(seen, expected);
    let message = std::fs::read(&recorded("envoy/ext-authz", "01")[0]).unwrap();
    let id = by_key.check(&message).unwrap().question.request_id;
    assert_eq!(id, b"47c68f1c-57ef-43be-b5e7-8176b338a47f");
}

#[test]
fn a_header_that_came_twice_is_one_try() {
    let authorizer = authorizer("abc\ndef\na,b\n", headers(&[TOKEN, AUTHORIZATION]));
    let judged = |http: HttpRequest| authorizer.check(&check(Some(http), "")).unwrap().verdict;
    let packed = |pairs: &[(&str, &str)]| {
        let header = |pair: &(&str, &str)| HeaderValue {
            key: pair.0.into(),
            raw_value: pair.1.into(),
            ..HeaderValue::default()
        };
        HttpRequest {
            header_map: Some(HeaderMap { headers: pairs.iter().map(header).collect() }),
            ..HttpRequest::default()
        }
    };
    for (pairs, verdict) in [
        (&[(TOKEN, "abc")][..], Verdict::Key),
        (&[(TOKEN, "abc,def")], Verdict::WrongToken),
        (&[(TOKEN, "wrong,abc")], Verdict::WrongToken),
        (&[(TOKEN, "abc,")], Verdict::WrongToken),
        (&[(TOKEN, "abc, abc")], Verdict::WrongToken),
        (&[(TOKEN, "a,b")], Verdict::Key),
        (&[(TOKEN, "")], Verdict::NoToken),
        (&[], Verdict::NoToken),
        (&[("x-other", "abc")], Verdict::NoToken),
        (&[(AUTHORIZATION, "Bearer abc")], Verdict::Key),
        (&[(AUTHORIZATION, "bearer  abc")], Verdict::Key),
        (&[(AUTHORIZATION, "abc")], Verdict::Key),
        (&[(AUTHORIZATION, "Basic abc")], Verdict::WrongToken),
        (&[(AUTHORIZATION, "Bearer abc,Bearer def")], Verdict::WrongToken),
        (&[(AUTHORIZATION, "Bearer")], Verdict::NoToken),
        // The first header present counts.
        (&[(TOKEN, "wrong"), (AUTHORIZATION, "Bearer abc")], Verdict::WrongToken),
        (&[(AUTHORIZATION, "Bearer wrong"), (TOKEN, "abc")], Verdict::Key),
    ] {
        assert_eq!(judged(http(pairs)), verdict, "{pairs:?}");
        assert_eq!(judged(packed(pairs)), verdict, "{pairs:?} packed");
    }
    // In the packed encoding, repeats are separate entries.
    for (pairs, verdict) in [
        (&[(TOKEN, "abc"), (TOKEN, "abc")][..], Verdict::RepeatedToken),
        (&[(TOKEN, "wrong"), (TOKEN, "abc")], Verdict::RepeatedToken),
        (&[(TOKEN, ""), (TOKEN, "abc")], Verdict::RepeatedToken),
        (&[(TOKEN, "abc"), ("X-Custom-Token", "abc")], Verdict::RepeatedToken),
        (&[(TOKEN, "abc"), (AUTHORIZATION, "a"), (AUTHORIZATION, "b")], Verdict::Key),
        (&[(AUTHORIZATION, "Bearer abc"), (AUTHORIZATION, "Bearer abc")], Verdict::RepeatedToken),
    ] {
        assert_eq!(judged(packed(pairs)), verdict, "{pairs:?}");
    }
    // Both encodings in one message, which Envoy never sends.
    let both = HttpRequest { headers: http(&[(TOKEN, "abc")]).headers, ..packed(&[(TOKEN, "abc")]) };
    assert_eq!(judged(both), Verdict::RepeatedToken);
    let message = check(Some(http(&[(TOKEN, "abc")])), "");
    assert_eq!(authorizer.check(&message).unwrap().verdict, Verdict::Key);
    assert_eq!(authorizer.check(&[&*message, &*message].concat()).unwrap().verdict, Verdict::RepeatedToken);
}

#[test]
fn a_token_that_is_not_utf_8_is_compared_as_it_is() {
    let authorizer = authorizer("caf!\n", headers(&[]));
    for (raw, verdict) in [(&b"caf!"[..], Verdict::Key), (b"caf\xe9", Verdict::WrongToken)] {
        let header = HeaderValue { key: TOKEN.into(), raw_value: raw.into(), ..HeaderValue::default() };
        let header_map = Some(HeaderMap { headers: vec![header] });
        let http = HttpRequest { header_map, ..HttpRequest::default() };
        assert_eq!(authorizer.check(&check(Some(http), "")).unwrap().verdict, verdict);
    }
}

#[test]
fn a_principal_is_the_sources_and_nobody_elses() {
    let authorizer = authorizer("principal spiffe://d/*\n", headers(&[]));
    for (principal, verdict) in [
        ("spiffe://d/source", Verdict::Principal),
        ("spiffe://other/source", Verdict::NoRule),
        ("", Verdict::NoRule),
    ] {
        // The rule would match the destination's principal.
        let message = check(None, principal);
        assert_eq!(authorizer.check(&message).unwrap().verdict, verdict, "{principal}");
    }
    // The client's own claims in headers do not count.
    let xfcc = "By=spiffe://d/x;URI=spiffe://d/source";
    let http = http(&[("x-forwarded-client-cert", xfcc), ("principal", "spiffe://d/source")]);
    assert_eq!(authorizer.check(&check(Some(http), "")).unwrap().verdict, Verdict::NoToken);
}

#[test]
fn a_body_changes_neither_the_verdict_nor_what_is_kept() {
    let authorizer = authorizer("abc\n", headers(&[]));
    let kept = [0, 1, 1 << 20, 3 << 20].map(|length| {
        // A body that is itself an encoded check, with another token.
        let body = check(Some(http(&[(TOKEN, "wrong")])), "spiffe://d/other");
        let body = body.iter().copied().cycle().take(length).collect();
        let packed = HeaderValue { key: TOKEN.into(), value: "abc".into(), ..HeaderValue::default() };
        let header_map = Some(HeaderMap { headers: vec![packed] });
        let message = check(Some(HttpRequest { raw_body: body, header_map, ..http(&[]) }), "");
        assert_eq!(authorizer.check(&message).unwrap().verdict, Verdict::Key);
        let kept = in_pieces(&message, 16 * 1024);
        let checked = authorizer.check(&kept).unwrap();
        assert_eq!((checked.verdict, checked.question.path), (Verdict::Key, &b"/p"[..]));
        kept.len()
    });
    // The enclosing lengths take more bytes for a larger body.
    assert!(kept.iter().all(|length| length.abs_diff(kept[0]) < 10), "{kept:?}");
}

#[test]
fn ten_thousand_headers_are_read_and_ten_million_bytes_of_them_are_not() {
    let authorizer = authorizer("abc\n", headers(&[]));
    let many = |count: usize| {
        let mut headers: HashMap<String, String> =
            (0..count).map(|at| (format!("x-{at}"), "v".repeat(20))).collect();
        headers.insert(TOKEN.into(), "abc".into());
        check(Some(HttpRequest { headers, ..HttpRequest::default() }), "")
    };
    assert_eq!(authorizer.check(&many(10_000)).unwrap().verdict, Verdict::Key);
    assert_eq!(authorizer.check(&many(40_000)).unwrap_err().to_string(), "more than 32768 map entries");
    let long = HttpRequest { path: "/".repeat(1 << 20), ..http(&[(TOKEN, "abc")]) };
    let message = check(Some(long), "");
    assert_eq!(authorizer.check(&message).unwrap().verdict, Verdict::Key);
    assert!(without_body().push(&message).is_err());
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z/?#:]{0,12}", "\\PC{0,20}", any::<String>()]
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(TOKEN.to_owned()),
        Just("X-Custom-Token".to_owned()),
        Just(AUTHORIZATION.to_owned()),
        Just("x-request-id".to_owned()),
        text()
    ]
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![text(), "(Bearer|bearer|BEARER)[ \t]{0,2}[a-z]{0,3}"]
}

fn peer() -> impl Strategy<Value = Peer> {
    (text(), text(), hash_map(text(), text(), 0..2), text()).prop_map(
        |(service, principal, labels, certificate)| Peer { service, labels, principal, certificate },
    )
}

prop_compose! {
    fn header_map()(headers in vec((name(), text(), vec(any::<u8>(), 0..5)), 0..5)) -> HeaderMap {
        let header = |(key, value, raw_value)| HeaderValue { key, value, raw_value };
        HeaderMap { headers: headers.into_iter().map(header).collect() }
    }
}

prop_compose! {
    fn http_request()(
        id in text(), method in text(), path in text(), host in text(), body in text(),
        size in any::<i64>(),
        headers in hash_map(name(), value(), 0..5),
        raw_body in vec(any::<u8>(), 0..300),
        header_map in option::of(header_map()),
    ) -> HttpRequest {
        HttpRequest { id, method, path, host, body, size, headers, raw_body, header_map, ..Default::default() }
    }
}

prop_compose! {
    fn request()(
        source in option::of(peer()),
        destination in option::of(peer()),
        http in option::of(option::of(http_request())),
        context_extensions in hash_map(text(), text(), 0..2),
    ) -> CheckRequest {
        let request = http.map(|http| Request { http });
        let attributes = AttributeContext { source, destination, request, context_extensions };
        CheckRequest { attributes: Some(attributes) }
    }
}

proptest! {
    #[test]
    fn any_check_is_read_as_another_reader_has_it(request in request(), step in 1..400_usize) {
        let message = request.encode_to_vec();
        for auth_headers in [&[TOKEN][..], &[AUTHORIZATION, TOKEN], &["x-request-id"], &[]] {
            let names = names(auth_headers);
            let mut question = Question::read(&message, &names).unwrap();
            let mut expected = reference(&request, auth_headers);
            if auth_headers == ["x-request-id"] {
                // A token header is not used for any other attribute.
                prop_assert_eq!(question.request_id, b"");
                expected.request_id = b"";
            }
            prop_assert_eq!(question, expected);
            let kept = in_pieces(&message, step);
            let again = Question::read(&kept, &names).unwrap();
            prop_assert_eq!(again, question);
            question.token = Token::Absent;
        }
    }

    #[test]
    fn a_check_in_two_parts_is_one_check(first in request(), second in request()) {
        let parts = [first, second].map(|request| request.encode_to_vec()).concat();
        let whole = CheckRequest::decode(&*parts).unwrap();
        let names = names(&[TOKEN]);
        let question = Question::read(&parts, &names).unwrap();
        let mut expected = reference(&whole, &[TOKEN]);
        // If both have the same map entry, the last one counts, but a repeated token
        // counts as none. Of request ids in both encodings, the last one in the message
        // counts.
        if question.token == Token::Repeated {
            expected.token = Token::Repeated;
        }
        expected.request_id = question.request_id;
        prop_assert_eq!(question, expected);
        let kept = in_pieces(&parts, 11);
        prop_assert_eq!(Question::read(&kept, &names).unwrap(), question);
    }
}

#[test]
fn more_headers_than_there_is_room_for_are_not_looked_at() {
    let many: Vec<String> = (0..=MAX_AUTH_HEADERS).map(|at| format!("x-{at}")).collect();
    let many: Vec<Cow<str>> = many.iter().map(|name| name.as_str().into()).collect();
    let names: Vec<Box<[u8]>> = many.iter().map(|name| name.as_bytes().into()).collect();
    let message = check(Some(http(&[(&many[MAX_AUTH_HEADERS], "abc")])), "");
    assert_eq!(Question::read(&message, &names).unwrap().token, Token::Absent);
}
