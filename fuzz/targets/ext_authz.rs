//! Any bytes as a check of Envoy's, whole and in pieces: who is allowed, and what
//! the record shows. The first byte is the length of a piece.
#![no_main]

use std::sync::{Arc, LazyLock};

use mygrpcadapter::frontends::envoy::ext_authz::audit::{self, MAX_RECORD};
use mygrpcadapter::frontends::envoy::ext_authz::settings::Flags;
use mygrpcadapter::frontends::envoy::ext_authz::without_body::{MAX_KEPT, without_body};
use mygrpcadapter::frontends::envoy::ext_authz::{Checked, ExtAuthz};
use mygrpcadapter::pb::envoy::service::auth::v3::CheckRequest;
use mygrpcadapter::policy::{Outcome, Policy, RuleFile, Verdict};
use mygrpcadapter::render::Format;
use mygrpcadapter_fuzz::{json, scratch};
use prost::Message;

const KEY: &[u8] = b"allow";
const PREFIX: &[u8] = b"spiffe://cluster.local/ns/default/sa/c";

static AUTHORIZER: LazyLock<ExtAuthz> = LazyLock::new(|| {
    let path = scratch("ext_authz").join("keys");
    std::fs::write(&path, [KEY, b"\nprincipal ", PREFIX, b"*\n"].concat()).expect("a file of keys");
    let file = RuleFile::open(&path).expect("keys");
    let auth_header = ["x-ext-authz", "authorization"].map(String::from).into();
    let settings = Flags { auth_header, ..Flags::default() }.check().expect("settings");
    ExtAuthz::new(settings, Arc::new(Policy::new(Some(file))))
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((step, message)) = input.split_first() else { return };
    let whole = AUTHORIZER.check(message);
    if let Ok(checked) = &whole {
        assert_earned(message, checked);
        assert_recorded(checked);
    }
    // As prost writes it: what it reads may hold a map of any wire type.
    if let Ok(request) = CheckRequest::decode(message) {
        let canonical = request.encode_to_vec();
        let question = AUTHORIZER.check(&canonical).expect("what prost writes is read").question;
        let request = request.attributes.and_then(|attributes| attributes.request);
        let method = request.and_then(|request| request.http).map(|http| http.method);
        assert_eq!(question.method, method.unwrap_or_default().as_bytes());
    }
    let mut kept = without_body();
    let pushed = message.chunks(usize::from(*step) + 1).try_for_each(|piece| kept.push(piece).map(drop));
    let Ok(kept) = pushed.and_then(|()| kept.end()) else { return };
    assert!(kept.len() <= message.len().min(MAX_KEPT));
    match (AUTHORIZER.check(&kept), whole) {
        (Ok(kept), Ok(whole)) => assert_eq!((kept.question, kept.verdict), (whole.question, whole.verdict)),
        (kept, whole) => assert!(kept.is_err() && whole.is_err()),
    }
});

/// Nobody is allowed without a key or a principal in the message.
fn assert_earned(message: &[u8], checked: &Checked) {
    let contains = |part: &[u8]| message.windows(part.len()).any(|window| window == part);
    match checked.verdict {
        Verdict::Key => assert!(contains(KEY)),
        Verdict::Principal => assert!(contains(PREFIX)),
        verdict => assert_eq!(verdict.outcome(), Outcome::Deny),
    }
}

/// A record is one line, within its bound.
fn assert_recorded(checked: &Checked) {
    let (mut text, mut line) = (Vec::new(), Vec::new());
    audit::render(&mut text, Format::Text, &checked.question, checked.verdict);
    audit::render(&mut line, Format::Json, &checked.question, checked.verdict);
    assert!(text.len() <= MAX_RECORD && line.len() <= MAX_RECORD);
    let text = text.strip_suffix(b"\n").expect("a line");
    assert!(text.iter().all(|byte| matches!(byte, b' '..=b'~')), "{}", text.escape_ascii());
    let line = line.strip_suffix(b"\n").expect("a line");
    json::object(line).unwrap_or_else(|what| panic!("{what}: {}", line.escape_ascii()));
}
