//! Arbitrary bytes as a check: no panic, no allow without a key or a principal, and
//! nothing unexpected in a record.

use std::sync::LazyLock;

use mygrpcadapter::frontends::envoy::ext_authz::ExtAuthz;
use mygrpcadapter::frontends::envoy::ext_authz::audit::{self, MAX_RECORD};
use mygrpcadapter::frontends::envoy::ext_authz::question::{Kind, Question};
use mygrpcadapter::frontends::envoy::ext_authz::without_body::{MAX_KEPT, without_body};
use mygrpcadapter::policy::{Outcome, Token, Verdict};
use mygrpcadapter::render::Format;
use proptest::collection::vec;
use proptest::prelude::*;

use super::questions::TOKEN;
use super::{authorizer, check, headers, http};
use crate::captures::recorded;

const KEY: &str = "open-s3same";
const RULE: &str = "spiffe://d/ns/allowed/*";

static AUTHORIZER: LazyLock<ExtAuthz> =
    LazyLock::new(|| authorizer(&format!("{KEY}\nprincipal {RULE}\n"), headers(&[TOKEN])));

/// Recorded checks, and an allowed one.
fn seeds() -> Vec<Vec<u8>> {
    let recorded = recorded("envoy/ext-authz", "").into_iter().map(|path| std::fs::read(path).unwrap());
    let allowed = [check(Some(http(&[(TOKEN, KEY), ("x-request-id", "1")])), "spiffe://d/ns/allowed/x")];
    recorded.chain(allowed).collect()
}

/// A check with some bytes changed, removed or duplicated.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), any::<u8>());
    (prop::sample::select(seeds()), vec(change, 0..6), any::<prop::sample::Index>(), 0..4_u8).prop_map(
        |(mut message, changes, at, how)| {
            for (at, byte) in changes {
                let at = at.index(message.len());
                message[at] = byte;
            }
            let at = at.index(message.len());
            match how {
                0 => message.truncate(at),
                1 => message.extend_from_within(at..),
                2 => drop(message.remove(at)),
                _ => {}
            }
            message
        },
    )
}

fn contains(message: &[u8], part: &[u8]) -> bool {
    message.windows(part.len()).any(|window| window == part)
}

/// Judges a message, whole and in pieces, and checks its record.
fn must_be_harmless(message: &[u8], step: usize) {
    let whole = AUTHORIZER.check(message);
    if let Ok(checked) = &whole {
        match checked.verdict {
            Verdict::Key => assert!(contains(message, KEY.as_bytes())),
            Verdict::Principal => assert!(contains(message, RULE.trim_end_matches('*').as_bytes())),
            verdict => assert_eq!(verdict.outcome(), Outcome::Deny),
        }
        for format in [Format::Text, Format::Json] {
            must_be_a_record(format, &checked.question, checked.verdict);
        }
    }
    let mut kept = without_body();
    let taken = message.chunks(step).try_for_each(|piece| kept.push(piece).map(drop));
    let Ok(kept) = taken.and_then(|()| kept.end()) else { return };
    assert!(kept.len() <= message.len().min(MAX_KEPT));
    match (AUTHORIZER.check(&kept), whole) {
        (Ok(kept), Ok(whole)) => assert_eq!((kept.question, kept.verdict), (whole.question, whole.verdict)),
        (Err(_), Err(_)) => {}
        (kept, whole) => panic!("{kept:?} {whole:?}"),
    }
}

fn must_be_a_record(format: Format, question: &Question, verdict: Verdict) {
    let mut out = Vec::new();
    audit::render(&mut out, format, question, verdict);
    assert!(out.len() <= MAX_RECORD);
    let text = std::str::from_utf8(&out).unwrap();
    let line = text.strip_suffix('\n').unwrap();
    assert!(!line.chars().any(|letter| letter.is_ascii_control() && letter != '\x7f'), "{line:?}");
    if format == Format::Text {
        assert!(line.is_ascii() && !line.contains('\x7f'));
        return;
    }
    let object: serde_json::Value = serde_json::from_str(line).unwrap();
    let object = object.as_object().unwrap();
    assert_eq!((&object["reason"], object.len()), (&verdict.reason().into(), 11));
    let kind = if question.kind == Kind::Http { "http" } else { "tcp" };
    assert_eq!((&object["kind"], &object["verdict"]), (&kind.into(), &verdict.outcome().label().into()));
    for (name, value) in [
        ("method", question.method),
        ("host", question.host),
        ("path", question.path),
        ("source_principal", question.source_principal),
        ("destination_principal", question.destination_principal),
        ("request_id", question.request_id),
    ] {
        match object[name].as_str() {
            None => assert!(object[name].is_null() && value.is_empty(), "{name}"),
            Some(shown) => assert_eq!(shown, String::from_utf8_lossy(value), "{name}"),
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_harmless(message in vec(any::<u8>(), 0..300), step in 1..300_usize) {
        must_be_harmless(&message, step);
    }

    #[test]
    fn a_damaged_check_is_harmless(message in damaged(), step in 1..300_usize) {
        must_be_harmless(&message, step);
    }

    #[test]
    fn a_token_is_never_in_a_record(token in "[g-z]{12}", name in "x-[a-f]{1,4}|x-request-id|authorization") {
        let message = check(Some(http(&[(&name, &format!("Bearer {token}")), ("x-other", "o")])), "");
        let authorizer = authorizer("abc\n", headers(&[&name]));
        let checked = authorizer.check(&message).unwrap();
        prop_assert_eq!(checked.verdict, Verdict::WrongToken);
        let mut out = format!("{:?}", checked).into_bytes();
        for format in [Format::Text, Format::Json] {
            audit::render(&mut out, format, &checked.question, checked.verdict);
        }
        prop_assert!(!contains(&out, token.as_bytes()));
    }
}

#[test]
fn what_is_no_check_is_denied_or_refused() {
    let open = authorizer(&format!("{KEY}\n"), headers(&[]));
    for (message, verdict) in [
        (&b""[..], Some(Verdict::NoRule)),
        (b"\x0a\x00", Some(Verdict::NoRule)),
        // A request without HTTP, and one with an empty HTTP request.
        (b"\x0a\x02\x22\x00", Some(Verdict::NoRule)),
        (b"\x0a\x04\x22\x02\x12\x00", Some(Verdict::NoToken)),
        // Unknown fields, including a group.
        (b"\x0a\x06\x73\x08\x01\x74\x22\x00", Some(Verdict::NoRule)),
        (b"\x0a", None),
        (b"\x0a\x05", None),
        (b"\x08\x01", None),
        (b"\x0a\x02\x20\x01", None),
        (b"\x0a\x04\x22\x02\x10\x01", None),
        (b"\x00", None),
        (b"\x0c", None),
    ] {
        let outcome = open.check(message).ok().map(|checked| checked.verdict);
        assert_eq!(outcome, verdict, "{}", message.escape_ascii());
    }
    let closed = authorizer("", headers(&[]));
    let message = check(Some(http(&[(TOKEN, "")])), "spiffe://d/x");
    let checked = closed.check(&message).unwrap();
    assert_eq!((checked.verdict, checked.question.token), (Verdict::NoKeys, Token::Given(b"")));
}
