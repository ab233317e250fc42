//! Settings for answers: the flags, validated at start.

use http::{HeaderName, HeaderValue};

/// The header of the published walkthrough.
pub const DEFAULT_AUTH_HEADER: &str = "x-custom-token";
/// Limit on the number of headers with a token.
pub const MAX_AUTH_HEADERS: usize = 8;
/// Length limit of a denial's body and header values.
const MAX_TEXT: usize = 16 * 1024;

/// The answer without a verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// A denial (503), which overrides Envoy's `failOpen`.
    #[default]
    Deny,
    /// The status UNAVAILABLE: Envoy's `statusOnError` and `failOpen` decide.
    Unavailable,
}

/// Settings for answers. [`Flags::check`] has validated all values, so none can break a
/// header.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Headers with a token, in lower case; the first one present counts.
    pub(super) auth_headers: Vec<Box<[u8]>>,
    /// Whether to remove those headers from an allowed request.
    pub(super) remove_token: bool,
    /// The response to a denied request.
    pub(super) denied: Denied,
    /// The answer without a verdict.
    pub(super) on_error: OnError,
}

/// The response to a denied request.
#[derive(Clone, Debug)]
pub(super) struct Denied {
    pub(super) code_no_token: u16,
    pub(super) code: u16,
    pub(super) body: String,
    pub(super) content_type: Option<HeaderValue>,
    pub(super) www_authenticate: Option<HeaderValue>,
}

/// The flags as given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--auth-header NAME`, repeatable: headers with a token. Default:
    /// [`DEFAULT_AUTH_HEADER`].
    pub auth_header: Vec<String>,
    /// `--auth-remove-header`: remove them from an allowed request.
    pub auth_remove_header: bool,
    /// `--auth-missing-code CODE`: the HTTP status without a token (401).
    pub auth_missing_code: Option<u16>,
    /// `--auth-denied-code CODE`: the HTTP status of any other denial (403).
    pub auth_denied_code: Option<u16>,
    /// `--auth-denied-body TEXT`: the body of a denial (none).
    pub auth_denied_body: String,
    /// `--auth-denied-content-type TYPE`: the type of that body (Envoy's
    /// `text/plain`).
    pub auth_denied_content_type: Option<String>,
    /// `--auth-www-authenticate CHALLENGE`: the header of that name, sent with
    /// status 401 (none).
    pub auth_www_authenticate: Option<String>,
    /// `--auth-on-error deny|unavailable`: the answer without a verdict.
    pub auth_on_error: OnError,
}

impl Flags {
    /// Validates the flags. An error names the flag and the problem.
    pub fn check(self) -> Result<Settings, String> {
        if self.auth_denied_body.len() > MAX_TEXT {
            return Err(format!("--auth-denied-body: longer than {MAX_TEXT} bytes; send less"));
        }
        let denied = Denied {
            code_no_token: code("--auth-missing-code", self.auth_missing_code.unwrap_or(401))?,
            code: code("--auth-denied-code", self.auth_denied_code.unwrap_or(403))?,
            body: self.auth_denied_body,
            content_type: value("--auth-denied-content-type", self.auth_denied_content_type)?,
            www_authenticate: value("--auth-www-authenticate", self.auth_www_authenticate)?,
        };
        Ok(Settings {
            auth_headers: names(self.auth_header)?,
            remove_token: self.auth_remove_header,
            denied,
            on_error: self.auth_on_error,
        })
    }
}

/// Header names in lower case, without duplicates.
fn names(typed: Vec<String>) -> Result<Vec<Box<[u8]>>, String> {
    let mut names: Vec<Box<[u8]>> = Vec::new();
    for text in typed {
        let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| {
            format!("--auth-header: {text:?} is not the name of a header, as x-custom-token is")
        })?;
        let name = name.as_str().as_bytes();
        if !names.iter().any(|known| **known == *name) {
            names.push(name.into());
        }
    }
    if names.is_empty() {
        names.push(DEFAULT_AUTH_HEADER.as_bytes().into());
    }
    match names.len() {
        1..=MAX_AUTH_HEADERS => Ok(names),
        _ => Err(format!("--auth-header: more than {MAX_AUTH_HEADERS} of them; name fewer")),
    }
}

/// An HTTP status that clients take for a denial.
fn code(flag: &str, code: u16) -> Result<u16, String> {
    match code {
        400..=599 => Ok(code),
        _ => Err(format!("{flag}: {code} is not an error; use 400 to 599")),
    }
}

/// A header value: visible ASCII, spaces and tabs.
fn value(flag: &str, typed: Option<String>) -> Result<Option<HeaderValue>, String> {
    let Some(text) = typed.filter(|text| !text.is_empty()) else { return Ok(None) };
    match HeaderValue::from_str(&text) {
        Ok(value) if text.len() <= MAX_TEXT && text.is_ascii() => Ok(Some(value)),
        _ => Err(format!(
            "{flag}: {text:?} cannot be the value of a header; use at most {MAX_TEXT} letters, digits and signs of ASCII"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_flags_the_header_is_the_walkthroughs_and_codes_are_401_and_403() {
        let settings = Flags::default().check().unwrap();
        assert_eq!(settings.auth_headers, [Box::from(&b"x-custom-token"[..])]);
        assert_eq!((settings.denied.code_no_token, settings.denied.code), (401, 403));
        assert_eq!((settings.remove_token, settings.on_error), (false, OnError::Deny));
    }

    #[test]
    fn names_of_headers_are_lower_case_and_each_is_there_once() {
        let auth_header = ["X-Api-Key", "authorization", "x-api-key"].map(String::from).into();
        let settings = Flags { auth_header, ..Flags::default() }.check().unwrap();
        assert_eq!(settings.auth_headers, [&b"x-api-key"[..], b"authorization"].map(Box::from));
    }

    #[test]
    fn what_cannot_be_in_a_header_is_refused_by_the_name_of_its_flag() {
        let header = |name: &str| Flags { auth_header: vec![name.into()], ..Flags::default() };
        let challenge = |text: &str| Flags { auth_www_authenticate: Some(text.into()), ..Flags::default() };
        let content = |text: &str| Flags { auth_denied_content_type: Some(text.into()), ..Flags::default() };
        let many = (0..=MAX_AUTH_HEADERS).map(|at| format!("x-{at}")).collect();
        for (flags, flag) in [
            (header(""), "--auth-header"),
            (header("a b"), "--auth-header"),
            (header(":path"), "--auth-header"),
            (header("a\r\nb"), "--auth-header"),
            (header("é"), "--auth-header"),
            (Flags { auth_header: many, ..Flags::default() }, "--auth-header"),
            (challenge("a\nb"), "--auth-www-authenticate"),
            (challenge("a\rb"), "--auth-www-authenticate"),
            (challenge("a\0b"), "--auth-www-authenticate"),
            (challenge("a\x7f"), "--auth-www-authenticate"),
            (challenge("a\x1b[1m"), "--auth-www-authenticate"),
            (challenge("é"), "--auth-www-authenticate"),
            (challenge(&"a".repeat(MAX_TEXT + 1)), "--auth-www-authenticate"),
            (content("text/html\r\nset-cookie: a=1"), "--auth-denied-content-type"),
            (Flags { auth_missing_code: Some(200), ..Flags::default() }, "--auth-missing-code"),
            (Flags { auth_denied_code: Some(600), ..Flags::default() }, "--auth-denied-code"),
            (Flags { auth_denied_code: Some(302), ..Flags::default() }, "--auth-denied-code"),
            (Flags { auth_denied_body: "a".repeat(MAX_TEXT + 1), ..Flags::default() }, "--auth-denied-body"),
        ] {
            let error = flags.clone().check().err();
            assert!(error.as_ref().is_some_and(|text| text.starts_with(flag)), "{flags:?}: {error:?}");
            assert!(!error.unwrap().contains(['\n', '\r', '\x1b', '\0']));
        }
    }
}
