//! A path with placeholders, filled with values that a peer claims.
//!
//! A value cannot leave its path component or imitate one of our own names: `%` and two
//! hexadecimal digits replace every byte except letters, digits, `-`, `_`, and dots
//! that are not the first byte. Different values stay different.

/// Placeholder for the host name, which is the pod's name in Kubernetes.
pub(super) const HOSTNAME: &[u8] = b"{hostname}";
/// Stands for any value in a path.
pub(super) const ANY: u8 = 1;
/// The placeholders, in the order of [`Pattern::fill`]'s values. The volume also
/// replaces `{hostname}`.
const NAMES: [&[u8]; 3] = [b"log_name", b"namespace", b"pod"];
/// Replaces an empty value.
const ABSENT: &[u8] = b"-";
/// Replaces every value in the path of the common file.
const COMMON: &[u8] = b"overflow";

/// Values claimed by a peer: the log's name, its namespace, its pod.
pub type Values<'a> = [&'a [u8]; NAMES.len()];

/// A parsed path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// The text before each placeholder, and the index of its value.
    parts: Vec<(Box<[u8]>, usize)>,
    end: Box<[u8]>,
}

impl Pattern {
    /// Parses a path.
    ///
    /// # Errors
    ///
    /// An unknown placeholder; the text lists the known ones.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut parts, mut literal, mut rest) = (Vec::new(), Vec::new(), text.as_bytes());
        while let Some(at) = rest.iter().position(|byte| matches!(byte, b'{' | b'}')) {
            literal.extend_from_slice(&rest[..at]);
            rest = &rest[at..];
            if let Some(after) = rest.strip_prefix(HOSTNAME) {
                literal.extend_from_slice(HOSTNAME);
                rest = after;
                continue;
            }
            let placeholder = NAMES.iter().enumerate().find_map(|(index, name)| {
                let after = rest.strip_prefix(b"{")?.strip_prefix(*name)?.strip_prefix(b"}")?;
                Some((index, after))
            });
            let Some((index, after)) = placeholder else {
                return Err(String::from(
                    "between braces write log_name, namespace, pod or hostname, as in {namespace}/{pod}.log",
                ));
            };
            parts.push((std::mem::take(&mut literal).into(), index));
            rest = after;
        }
        literal.extend_from_slice(rest);
        Ok(Self { parts, end: literal.into() })
    }

    /// Whether it has placeholders, so that there may be several files.
    pub fn is_filled(&self) -> bool {
        !self.parts.is_empty()
    }

    /// The path with these values; the volume replaces `{hostname}`.
    pub fn fill(&self, values: Values) -> Vec<u8> {
        self.with(|path, index| escape(path, values[index]))
    }

    /// The path of the common file.
    pub fn common(&self) -> Vec<u8> {
        self.with(|path, _| path.extend_from_slice(COMMON))
    }

    /// The path with the output of `append` for each placeholder.
    pub(super) fn with(&self, append: impl Fn(&mut Vec<u8>, usize)) -> Vec<u8> {
        let mut path = Vec::new();
        for (literal, index) in &self.parts {
            path.extend_from_slice(literal);
            append(&mut path, *index);
        }
        path.extend_from_slice(&self.end);
        path
    }
}

fn escape(path: &mut Vec<u8>, value: &[u8]) {
    if value.is_empty() {
        path.extend_from_slice(ABSENT);
    }
    for (at, byte) in value.iter().enumerate() {
        let is_plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || *byte == b'.' && at > 0;
        if is_plain {
            path.push(*byte);
        } else {
            let digit = |digit: u8| b"0123456789ABCDEF"[usize::from(digit)];
            path.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
}

/// Whether a path matches one that contains [`ANY`].
pub(super) fn fits(all: &[u8], path: &[u8]) -> bool {
    match all {
        [] => path.is_empty(),
        [ANY, rest @ ..] => {
            let part = path.iter().take_while(|byte| **byte != b'/').count();
            (1..=part).any(|end| fits(rest, &path[end..]))
        }
        [byte, rest @ ..] => path.first() == Some(byte) && fits(rest, &path[1..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_and_nothing_leaves_its_part() {
        let pattern = Pattern::parse("logs/{namespace}/{hostname}-{pod}.{log_name}").unwrap();
        for (values, expected) in [
            ([&b"access"[..], b"shop", b"web-1.x_y"], "logs/shop/{hostname}-web-1.x_y.access"),
            ([b"", b"", b""], "logs/-/{hostname}--.-"),
            ([b"a/b", b"..", b"."], "logs/%2E./{hostname}-%2E.a%2Fb"),
            ([b"{hostname}", b"\0\n%", b"\xff"], "logs/%00%0A%25/{hostname}-%FF.%7Bhostname%7D"),
            ([b".mygrpcadapter.x", b"a b", b"A9"], "logs/a%20b/{hostname}-A9.%2Emygrpcadapter.x"),
        ] {
            assert_eq!(String::from_utf8(pattern.fill(values)).unwrap(), expected);
        }
        assert_eq!(pattern.common(), b"logs/overflow/{hostname}-overflow.overflow");
        assert!(pattern.is_filled());
    }

    #[test]
    fn a_plain_path_is_one_file() {
        let pattern = Pattern::parse("a/{hostname}.log").unwrap();
        assert!(!pattern.is_filled());
        assert_eq!(
            (pattern.fill([b"x"; 3]), pattern.common()),
            (b"a/{hostname}.log".to_vec(), b"a/{hostname}.log".to_vec())
        );
    }

    #[test]
    fn braces_around_anything_else_are_refused() {
        for text in ["{pods}", "{}", "{", "}", "a{pod", "{pod}}", "{{pod}", "{Pod}", "{host}"] {
            assert!(Pattern::parse(text).is_err(), "{text}");
        }
    }
}
