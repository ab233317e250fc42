//! A path with placeholders, filled in with what a peer says of itself.
//!
//! A value stays within its part of the path and makes up no name of ours: what is
//! neither a letter, a digit, `-`, `_` nor a dot behind other bytes becomes `%` and
//! two digits. So two values are never one.

/// What stands for the name of this machine: its pod, in Kubernetes.
pub(super) const HOSTNAME: &[u8] = b"{hostname}";
/// In a path that stands for all that a pattern can become, a value.
pub(super) const ANY: u8 = 1;
/// What may stand between braces, in the order of a [`Pattern::fill`]'s values.
/// `{hostname}` may, too: it is the volume's.
const NAMES: [&[u8]; 3] = [b"log_name", b"namespace", b"pod"];
/// In the place of a value that is empty.
const ABSENT: &[u8] = b"-";
/// In the place of every value in the path of the common file.
const COMMON: &[u8] = b"overflow";

/// What a peer says of itself: the log's name, its namespace, its pod.
pub type Values<'a> = [&'a [u8]; NAMES.len()];

/// A path, read once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// What stands before each placeholder, and whose value belongs there.
    parts: Vec<(Box<[u8]>, usize)>,
    end: Box<[u8]>,
}

impl Pattern {
    /// Reads a path.
    ///
    /// # Errors
    ///
    /// What stands between braces is no placeholder; the text says which there are.
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

    /// Whether it has placeholders, so that there may be more than one file.
    pub fn is_filled(&self) -> bool {
        !self.parts.is_empty()
    }

    /// The path with these values; `{hostname}` is left to the volume.
    pub fn fill(&self, values: Values) -> Vec<u8> {
        self.with(|path, index| escape(path, values[index]))
    }

    /// The path of the common file.
    pub fn common(&self) -> Vec<u8> {
        self.with(|path, _| path.extend_from_slice(COMMON))
    }

    /// The path with what `append` adds for each placeholder.
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

/// Whether a path is one of those that another, with [`ANY`] in it, stands for.
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
