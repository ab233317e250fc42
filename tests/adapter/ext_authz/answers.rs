//! Verdicts as CheckResponses, and Envoy's handling of them.

use mygrpcadapter::frontends::envoy::ext_authz::answer::Answers;
use mygrpcadapter::frontends::envoy::ext_authz::settings::{Flags, OnError};
use mygrpcadapter::pb::envoy::service::auth::v3::check_response::HttpResponse;
use mygrpcadapter::pb::envoy::service::auth::v3::{CheckResponse, HeaderValueOption};
use mygrpcadapter::pb::google::protobuf::value::Kind;
use mygrpcadapter::policy::{Outcome, Verdict};
use proptest::option;
use proptest::prelude::*;
use prost::Message;

use super::{authorizer, captures, check, headers, http};

/// The status that Envoy sends to its client if the backend's would be 200; as in the
/// recordings in `responses/`.
pub(super) fn envoy_sends(answer: &CheckResponse) -> i32 {
    let denied = answer.status.as_ref().is_some_and(|status| status.code != 0);
    match &answer.http_response {
        Some(HttpResponse::DeniedResponse(response) | HttpResponse::ErrorResponse(response)) if denied => {
            response.status.as_ref().map_or(403, |status| status.code)
        }
        _ if denied => 403,
        Some(HttpResponse::OkResponse(response)) if response.headers.iter().any(has_controls) => 503,
        _ => 200,
    }
}

/// Whether a header's value contains control characters, which cannot be sent.
fn has_controls(option: &HeaderValueOption) -> bool {
    option.header.as_ref().is_some_and(|header| header.value.contains(char::is_control))
}

/// Whether a header of ours has an invalid name or value.
fn breaks(option: &HeaderValueOption) -> bool {
    let header = option.header.clone().unwrap_or_default();
    let name = header.key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    let value = header.value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    !name || !value || !header.raw_value.is_empty()
}

pub(super) fn decoded(answer: &[u8]) -> CheckResponse {
    CheckResponse::decode(answer).unwrap()
}

pub(super) fn reason(answer: &CheckResponse) -> &str {
    let fields = &answer.dynamic_metadata.as_ref().unwrap().fields;
    assert_eq!(fields.len(), 1);
    match fields["reason"].kind.as_ref().unwrap() {
        Kind::StringValue(text) => text,
        other => panic!("{other:?}"),
    }
}

/// The status, the headers and the body of a denial.
fn denial(answer: &CheckResponse) -> (i32, Vec<(&str, &str)>, &str) {
    let Some(HttpResponse::DeniedResponse(response)) = &answer.http_response else { panic!("{answer:?}") };
    let pairs = response.headers.iter().map(|option| {
        assert!(option.append.is_none() && option.append_action == 0);
        let header = option.header.as_ref().unwrap();
        (&*header.key, &*header.value)
    });
    (response.status.as_ref().unwrap().code, pairs.collect(), &response.body)
}

#[test]
fn what_envoy_makes_of_an_answer_is_what_was_recorded() {
    let mut seen = 0;
    for entry in std::fs::read_dir(captures().join("responses")).unwrap() {
        let path = entry.unwrap().path();
        let client = path.with_extension("client");
        if path.extension().is_none_or(|extension| extension != "bin") || !client.exists() {
            continue;
        }
        let client = std::fs::read_to_string(client).unwrap();
        let status: i32 = client.split(' ').nth(1).unwrap().parse().unwrap();
        assert_eq!(envoy_sends(&decoded(&std::fs::read(&path).unwrap())), status, "{}", path.display());
        seen += 1;
    }
    assert_eq!(seen, 32);
}

#[test]
fn without_flags_no_token_is_401_and_any_other_denial_403() {
    let answers = Answers::new(&Flags::default().check().unwrap());
    for verdict in Verdict::ALL {
        let answer = decoded(&answers.of(verdict));
        let expected = match verdict {
            Verdict::Key | Verdict::Principal => 200,
            Verdict::NoToken => 401,
            _ => 403,
        };
        assert_eq!(envoy_sends(&answer), expected, "{verdict:?}");
        assert_eq!(reason(&answer), verdict.reason());
        assert!(answer.status.is_some());
        if expected != 200 {
            assert_eq!(denial(&answer), (expected, vec![], ""));
        }
    }
    let failed = decoded(&answers.failed());
    assert_eq!((envoy_sends(&failed), reason(&failed)), (503, "error"));
}

#[test]
fn a_denial_is_what_the_flags_say() {
    let flags = Flags {
        auth_missing_code: Some(403),
        auth_denied_code: Some(401),
        auth_denied_body: "<b>no</b>\n\0é".into(),
        auth_denied_content_type: Some("text/html; charset=utf-8".into()),
        auth_www_authenticate: Some("Bearer realm=\"x\"".into()),
        ..Flags::default()
    };
    let answers = Answers::new(&flags.clone().check().unwrap());
    let content_type = ("content-type", "text/html; charset=utf-8");
    let challenge = ("www-authenticate", "Bearer realm=\"x\"");
    let body = "<b>no</b>\n\0é";
    let answer = |verdict| decoded(&answers.of(verdict));
    assert_eq!(denial(&answer(Verdict::NoToken)), (403, vec![content_type], body));
    for verdict in [Verdict::WrongToken, Verdict::RepeatedToken, Verdict::NoRule, Verdict::NoKeys] {
        assert_eq!(denial(&answer(verdict)), (401, vec![challenge, content_type], body));
    }
    assert_eq!(denial(&decoded(&answers.failed())), (503, vec![content_type], body));
    let bodiless = Flags { auth_denied_body: String::new(), ..flags };
    let answers = Answers::new(&bodiless.check().unwrap());
    assert_eq!(denial(&decoded(&answers.of(Verdict::NoToken))), (403, vec![], ""));
}

#[test]
fn the_headers_with_tokens_are_taken_off_an_allowed_request_if_a_flag_says_so() {
    for (auth_remove_header, expected) in [(false, &[][..]), (true, &["authorization", "x-api-key"])] {
        let flags = Flags { auth_remove_header, ..headers(&["Authorization", "X-Api-Key"]) };
        let authorizer = authorizer("abc\n", flags);
        let message = check(Some(http(&[("x-api-key", "abc")])), "");
        let answer = decoded(&authorizer.check(&message).unwrap().answer);
        let Some(HttpResponse::OkResponse(response)) = &answer.http_response else { panic!("{answer:?}") };
        assert_eq!(response.headers_to_remove, expected);
        assert!(response.headers.is_empty() && response.response_headers_to_add.is_empty());
        assert_eq!((envoy_sends(&answer), reason(&answer)), (200, "key"));
    }
}

#[test]
fn where_there_is_no_verdict_the_operator_chose_what_is_sent() {
    let authorizer_with = |auth_on_error| authorizer("abc\n", Flags { auth_on_error, ..Flags::default() });
    let answer = authorizer_with(OnError::Deny).failed().unwrap();
    assert_eq!(envoy_sends(&decoded(&answer)), 503);
    assert_eq!(authorizer_with(OnError::Unavailable).failed(), None);
}

fn typed() -> impl Strategy<Value = String> {
    prop_oneof!["[a-zA-Z-]{1,8}", "[ -~]{0,12}", "[a-z\r\n\t\0\x1b\x7f :]{0,8}", any::<String>()]
}

prop_compose! {
    fn flags()(
        auth_header in prop::collection::vec(typed(), 0..3),
        auth_remove_header in any::<bool>(),
        auth_missing_code in option::of(prop_oneof![400..600_u16, any::<u16>()]),
        auth_denied_code in option::of(prop_oneof![400..600_u16, any::<u16>()]),
        auth_denied_body in typed(),
        auth_denied_content_type in option::of(typed()),
        auth_www_authenticate in option::of(typed()),
    ) -> Flags {
        Flags {
            auth_header, auth_remove_header, auth_missing_code, auth_denied_code, auth_denied_body,
            auth_denied_content_type, auth_www_authenticate, auth_on_error: OnError::Deny,
        }
    }
}

proptest! {
    #[test]
    fn no_flag_breaks_a_header_or_turns_a_denial_into_an_allow(flags in flags()) {
        let Ok(settings) = flags.check() else { return Ok(()) };
        let answers = Answers::new(&settings);
        let all = Verdict::ALL.map(|verdict| (verdict.outcome(), answers.of(verdict)));
        for (outcome, answer) in all.into_iter().chain([(Outcome::Deny, answers.failed())]) {
            let answer = decoded(&answer);
            let sent = envoy_sends(&answer);
            prop_assert_eq!(outcome == Outcome::Allow, sent == 200);
            prop_assert!(sent == 200 || (400..600).contains(&sent), "{}", sent);
            match &answer.http_response {
                Some(HttpResponse::DeniedResponse(response)) => {
                    prop_assert!(!response.headers.iter().any(breaks_but_for_tabs), "{:?}", response);
                }
                Some(HttpResponse::OkResponse(response)) => {
                    let removed = &response.headers_to_remove;
                    let legal = |name: &String| name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
                    prop_assert!(removed.iter().all(|name| !name.is_empty() && legal(name)), "{:?}", removed);
                }
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}

/// A tab is the only control character allowed in a header's value.
fn breaks_but_for_tabs(option: &HeaderValueOption) -> bool {
    let mut option = option.clone();
    if let Some(header) = &mut option.header {
        header.value = header.value.replace('\t', " ");
    }
    breaks(&option)
}
