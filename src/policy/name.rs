//! A permitted name: exact, or up to a final `*`.

/// The start of a SPIFFE id.
pub const SPIFFE: &[u8] = b"spiffe://";

/// A permitted name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// This name.
    Exact(Box<[u8]>),
    /// Any name that starts with this.
    StartsWith(Box<[u8]>),
}

impl Name {
    /// Parses a name of visible ASCII characters with `*` only at its end; `None` for
    /// anything else.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (name, is_wild) = text.strip_suffix(b"*").map_or((text, false), |prefix| (prefix, true));
        if text.is_empty() || name.iter().any(|byte| *byte == b'*' || !byte.is_ascii_graphic()) {
            return None;
        }
        Some(if is_wild { Self::StartsWith(name.into()) } else { Self::Exact(name.into()) })
    }

    /// Parses a SPIFFE id in the same manner; `None` for anything else.
    pub fn spiffe(text: &[u8]) -> Option<Self> {
        Self::parse(text).filter(|_| text.starts_with(SPIFFE) && text != SPIFFE)
    }

    /// Whether it permits this name.
    pub fn allows(&self, name: &[u8]) -> bool {
        match self {
            Self::Exact(known) => name == &**known,
            Self::StartsWith(prefix) => name.starts_with(prefix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_exact_or_open_at_its_end() {
        for (text, name, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a", "", false),
            ("a*", "a", true),
            ("a*", "ab", true),
            ("a*", "b", false),
            ("*", "", true),
        ] {
            let parsed = Name::parse(text.as_bytes()).unwrap();
            assert_eq!(parsed.allows(name.as_bytes()), expected, "{text} {name}");
        }
        for text in ["", "**", "*a", "a*b", "a b", "a\n", "\u{e9}"] {
            assert_eq!(Name::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_spiffe_id_has_a_domain_or_is_open() {
        for (text, expected) in
            [("spiffe://d/a", true), ("spiffe://*", true), ("spiffe://", false), ("d/a", false), ("*", false)]
        {
            assert_eq!(Name::spiffe(text.as_bytes()).is_some(), expected, "{text}");
        }
    }
}
