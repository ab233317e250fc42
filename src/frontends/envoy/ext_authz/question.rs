//! Reads a CheckRequest in place.
//!
//! The walk reads only the fields that a verdict and its record need, and skips the
//! others by their length: bodies, metadata, certificates. It continues after the
//! token, because a repeated token counts as none.

use records::protobuf::wire::{MAX_ENTRIES, Malformed, Reader, Tag, WireType};

use super::settings::MAX_AUTH_HEADERS;
use crate::policy::Token;

/// Field numbers of CheckRequest, AttributeContext and their messages.
pub(super) mod field {
    pub(in super::super) const ATTRIBUTES: i32 = 1;

    pub(in super::super) const SOURCE: i32 = 1;
    pub(in super::super) const DESTINATION: i32 = 2;
    pub(in super::super) const REQUEST: i32 = 4;

    pub(in super::super) const PEER_SERVICE: i32 = 2;
    pub(in super::super) const PEER_PRINCIPAL: i32 = 4;

    pub(in super::super) const REQUEST_HTTP: i32 = 2;

    pub(in super::super) const HTTP_METHOD: i32 = 2;
    pub(in super::super) const HTTP_HEADERS: i32 = 3;
    pub(in super::super) const HTTP_PATH: i32 = 4;
    pub(in super::super) const HTTP_HOST: i32 = 5;
    pub(in super::super) const HTTP_HEADER_MAP: i32 = 13;

    pub(in super::super) const HEADER_MAP_HEADERS: i32 = 1;

    /// In an entry of `headers` and in a HeaderValue.
    pub(in super::super) const HEADER_NAME: i32 = 1;
    pub(in super::super) const HEADER_VALUE: i32 = 2;
    pub(in super::super) const HEADER_RAW_VALUE: i32 = 3;
}

const REQUEST_ID: &[u8] = b"x-request-id";
const BEARER: &[u8] = b"bearer";

/// The subject of a check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// A TCP connection: the message has no HTTP request.
    #[default]
    Tcp,
    /// An HTTP request.
    Http,
}

/// The attributes of a check, borrowed from the message: raw bytes, usually UTF-8;
/// empty if absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Question<'a> {
    /// The subject.
    pub kind: Kind,
    /// The token, from the first configured header that is present.
    pub token: Token<'a>,
    /// The request's method.
    pub method: &'a [u8],
    /// The request's host; for a connection, the requested server name (SNI).
    pub host: &'a [u8],
    /// The request's path without query and fragment.
    pub path: &'a [u8],
    /// The peer's identity, authenticated by mTLS.
    pub source_principal: &'a [u8],
    /// The identity of the destination workload.
    pub destination_principal: &'a [u8],
    /// The request's `x-request-id`.
    pub request_id: &'a [u8],
}

impl<'a> Question<'a> {
    /// Reads a CheckRequest. `auth_headers` are the lower-case names of headers with a
    /// token; the first one present counts.
    pub fn read(message: &'a [u8], auth_headers: &[Box<[u8]>]) -> Result<Self, Malformed> {
        let mut walk = Walk::new(auth_headers);
        walk.message(message)?;
        Ok(walk.end())
    }

    /// The peer's identity, if any.
    pub fn principal(&self) -> Option<&'a [u8]> {
        (!self.source_principal.is_empty()).then_some(self.source_principal)
    }
}

/// The state of a walk. Repeated fields follow protobuf: messages merge, of other
/// fields the last one counts.
struct Walk<'a, 'h> {
    question: Question<'a>,
    sni: &'a [u8],
    auth_headers: &'h [Box<[u8]>],
    /// The token from the header at the same index.
    tokens: [Token<'a>; MAX_AUTH_HEADERS],
    headers: usize,
}

impl<'a, 'h> Walk<'a, 'h> {
    fn new(auth_headers: &'h [Box<[u8]>]) -> Self {
        let auth_headers = &auth_headers[..auth_headers.len().min(MAX_AUTH_HEADERS)];
        let tokens = [Token::Absent; MAX_AUTH_HEADERS];
        Self { question: Question::default(), sni: &[], auth_headers, tokens, headers: 0 }
    }

    fn end(self) -> Question<'a> {
        let mut question = self.question;
        match question.kind {
            Kind::Tcp => (question.token, question.host) = (Token::Unsupported, self.sni),
            Kind::Http => {
                let there = self.tokens.into_iter().find(|token| *token != Token::Absent);
                question.token = there.unwrap_or_default();
            }
        }
        question
    }

    fn message(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        fields(message, |reader, tag| match tag.field {
            field::ATTRIBUTES => self.attributes(content(reader, tag)?),
            _ => reader.skip(tag),
        })
    }

    fn attributes(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        fields(message, |reader, tag| match tag.field {
            field::SOURCE => peer(content(reader, tag)?, &mut self.question.source_principal, &mut &[][..]),
            field::DESTINATION => {
                peer(content(reader, tag)?, &mut self.question.destination_principal, &mut self.sni)
            }
            field::REQUEST => self.request(content(reader, tag)?),
            _ => reader.skip(tag),
        })
    }

    fn request(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        fields(message, |reader, tag| match tag.field {
            field::REQUEST_HTTP => self.http(content(reader, tag)?),
            _ => reader.skip(tag),
        })
    }

    fn http(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        self.question.kind = Kind::Http;
        fields(message, |reader, tag| {
            match tag.field {
                field::HTTP_METHOD => self.question.method = content(reader, tag)?,
                field::HTTP_HEADERS => self.header(content(reader, tag)?)?,
                field::HTTP_PATH => self.question.path = without_query(content(reader, tag)?),
                field::HTTP_HOST => self.question.host = content(reader, tag)?,
                field::HTTP_HEADER_MAP => self.header_map(content(reader, tag)?)?,
                _ => reader.skip(tag)?,
            }
            Ok(())
        })
    }

    fn header_map(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        fields(message, |reader, tag| match tag.field {
            field::HEADER_MAP_HEADERS => self.header(content(reader, tag)?),
            _ => reader.skip(tag),
        })
    }

    /// An entry of `headers`, or a HeaderValue, whose `raw_value` takes precedence over
    /// `value`.
    fn header(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        let (mut name, mut value, mut raw_value) = (&[][..], &[][..], &[][..]);
        fields(message, |reader, tag| {
            match tag.field {
                field::HEADER_NAME => name = content(reader, tag)?,
                field::HEADER_VALUE => value = content(reader, tag)?,
                field::HEADER_RAW_VALUE => raw_value = content(reader, tag)?,
                _ => reader.skip(tag)?,
            }
            Ok(())
        })?;
        self.headers += 1;
        if self.headers > MAX_ENTRIES {
            return Err(Malformed::Entries);
        }
        self.take(name, if raw_value.is_empty() { value } else { raw_value });
        Ok(())
    }

    /// A header with a token is used for nothing else.
    fn take(&mut self, name: &[u8], value: &'a [u8]) {
        let mut names = self.auth_headers.iter().zip(&mut self.tokens);
        if let Some((_, token)) = names.find(|(header, _)| name.eq_ignore_ascii_case(header)) {
            *token = match token {
                Token::Absent => Token::Given(without_scheme(name, value)),
                _ => Token::Repeated,
            };
        } else if name.eq_ignore_ascii_case(REQUEST_ID) {
            self.question.request_id = value;
        }
    }
}

/// The principal and the service of a Peer.
fn peer<'a>(message: &'a [u8], principal: &mut &'a [u8], service: &mut &'a [u8]) -> Result<(), Malformed> {
    fields(message, |reader, tag| {
        match tag.field {
            field::PEER_SERVICE => *service = content(reader, tag)?,
            field::PEER_PRINCIPAL => *principal = content(reader, tag)?,
            _ => reader.skip(tag)?,
        }
        Ok(())
    })
}

/// Passes every field of a message to `see`.
fn fields<'a>(
    message: &'a [u8],
    mut each: impl FnMut(&mut Reader<'a>, Tag) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let mut reader = Reader::new(message);
    while let Some(tag) = reader.tag()? {
        each(&mut reader, tag)?;
    }
    Ok(())
}

/// The content of a length-delimited field.
fn content<'a>(reader: &mut Reader<'a>, tag: Tag) -> Result<&'a [u8], Malformed> {
    tag.expect(WireType::Bytes)?;
    reader.bytes()
}

fn without_query(path: &[u8]) -> &[u8] {
    path.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default()
}

/// `abc` of `Bearer abc` in the header `authorization`; otherwise the whole value is
/// the token.
fn without_scheme<'a>(header: &[u8], value: &'a [u8]) -> &'a [u8] {
    if !header.eq_ignore_ascii_case(b"authorization") {
        return value;
    }
    match value.split_at_checked(BEARER.len()) {
        Some((scheme, [])) if scheme.eq_ignore_ascii_case(BEARER) => &[],
        Some((scheme, rest @ [b' ' | b'\t', ..])) if scheme.eq_ignore_ascii_case(BEARER) => {
            rest.trim_ascii_start()
        }
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_bearer_is_taken_off_authorization_and_nothing_else() {
        for (header, value, token) in [
            ("authorization", "Bearer abc", "abc"),
            ("Authorization", "bearer abc", "abc"),
            ("authorization", "BEARER \t abc", "abc"),
            ("authorization", "Bearer", ""),
            ("authorization", "Bearer ", ""),
            ("authorization", "Bearerabc", "Bearerabc"),
            ("authorization", "Bearer\u{a0}abc", "Bearer\u{a0}abc"),
            ("authorization", "Basic abc", "Basic abc"),
            ("authorization", "abc", "abc"),
            ("authorization", "", ""),
            ("authorization", "Bearer Bearer abc", "Bearer abc"),
            ("authorization", "Bearer abc,Bearer def", "abc,Bearer def"),
            ("x-custom-token", "Bearer abc", "Bearer abc"),
        ] {
            let shown = without_scheme(header.as_bytes(), value.as_bytes());
            assert_eq!(
                shown.escape_ascii().to_string(),
                token.as_bytes().escape_ascii().to_string(),
                "{value}"
            );
        }
    }

    #[test]
    fn a_path_ends_before_its_query() {
        for (path, shown) in [
            ("/a/b?c=d", "/a/b"),
            ("/a#b?c", "/a"),
            ("/?", "/"),
            ("?token=abc", ""),
            ("", ""),
            ("/a%3Fb", "/a%3Fb"),
            ("*", "*"),
        ] {
            assert_eq!(without_query(path.as_bytes()), shown.as_bytes(), "{path}");
        }
    }
}
