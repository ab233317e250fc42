//! Keys and principals in a file, one per line, such as a mounted Secret.
//!
//! ```text
//! a-key
//! another-key
//! # a comment
//! principal spiffe://cluster.local/ns/default/sa/sleep
//! principal spiffe://cluster.local/ns/ops/*
//! ```

use std::fmt;
use std::io;
use std::path::Path;

use super::name::{Name, SPIFFE};
use crate::reload::{Reloaded, unmarked};

/// Size limit of the file, in bytes.
const MAX_FILE: u64 = 64 * 1024;

/// The first word of a line that names a principal.
const PRINCIPAL: &[u8] = b"principal";

/// The rules of a file.
#[derive(Default)]
pub struct Rules {
    keys: Vec<Box<[u8]>>,
    principals: Vec<Name>,
    /// For the log: whoever has a key that begins with `#` sees why it is refused.
    comments: usize,
}

/// Never shows a key.
impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The numbers of rules, for the log.
impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "keys={} principals={}", self.keys.len(), self.principals.len())?;
        if self.comments > 0 { write!(f, " comments={}", self.comments) } else { Ok(()) }
    }
}

impl Rules {
    /// Parses rules, one per line. Surrounding white space is trimmed; empty lines and
    /// those that begin with `#` are skipped. `principal NAME` names a principal, exact
    /// or up to a final `*`; any other line is a key. A line that looks like a mistyped
    /// principal, or a key with a comment, is an error with its line number: as a key
    /// it would be easy to guess, or not the one that was meant.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let mut rules = Self::default();
        for (at, line) in text.split(|byte| *byte == b'\n').enumerate() {
            // Files that are joined have a mark at each former beginning.
            rules.add(unmarked(line).trim_ascii()).map_err(|error| format!("line {}: {error}", at + 1))?;
        }
        Ok(rules)
    }

    fn add(&mut self, line: &[u8]) -> Result<(), &'static str> {
        match line {
            [] => {}
            [b'#', ..] => self.comments += 1,
            _ if names_a_principal(line) => self.principals.push(principal(line).ok_or(
                "a principal is written `principal spiffe://DOMAIN/PATH`, with `*` only at its end",
            )?),
            _ => {
                check_key(line)?;
                self.keys.push(line.into());
            }
        }
        Ok(())
    }

    /// The keys, in line order.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.keys.iter().map(|key| &**key)
    }

    /// Whether there are any principals.
    pub fn has_principals(&self) -> bool {
        !self.principals.is_empty()
    }

    /// Whether a rule allows this principal.
    pub fn allow(&self, principal: &[u8]) -> bool {
        self.principals.iter().any(|rule| rule.allows(principal))
    }
}

/// Whether a line seems meant as a principal, well-formed or not.
fn names_a_principal(line: &[u8]) -> bool {
    let first = line.split(u8::is_ascii_whitespace).next().unwrap_or_default();
    first.eq_ignore_ascii_case(PRINCIPAL) || line.windows(SPIFFE.len()).any(|part| part == SPIFFE)
}

/// Refuses what is not the key that was meant.
fn check_key(line: &[u8]) -> Result<(), &'static str> {
    if line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        return Err(
            "a control character, which no header carries; save the file as UTF-8, with a key per line",
        );
    }
    if line.windows(2).any(|pair| pair[0].is_ascii_whitespace() && pair[1] == b'#') {
        return Err("a # after white space; write a comment on a line of its own");
    }
    Ok(())
}

fn principal(line: &[u8]) -> Option<Name> {
    let rest = line.strip_prefix(PRINCIPAL)?;
    let name = rest.trim_ascii_start();
    Name::spiffe(name).filter(|_| name.len() < rest.len())
}

/// A file of rules, reloaded when it changes.
pub type RuleFile = Reloaded<Rules>;

impl RuleFile {
    /// Reads the rules. An error gives the reason and none of the file's content.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::of("keys", path, |_| Ok(()))
    }

    /// Reads the tokens of callers: rules that are keys.
    pub fn tokens(path: &Path) -> io::Result<Self> {
        Self::of("tokens", path, |rules| {
            if rules.has_principals() { Err("a line names a principal, not a token".into()) } else { Ok(()) }
        })
    }

    /// Warns of a file without a rule, at each reading.
    fn of(
        what: &'static str,
        path: &Path,
        check: impl Fn(&Rules) -> Result<(), String> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let named = path.to_path_buf();
        Self::read(what, vec![path.into()], MAX_FILE, move |contents| {
            let rules = Rules::parse(&contents.concat())?;
            check(&rules)?;
            if rules.keys.is_empty() && rules.principals.is_empty() {
                log::warn!(
                    "the file of {what} has none and allows nobody; add a line path={} {rules}",
                    named.display()
                );
            }
            Ok(rules)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn keys(rules: &Rules) -> Vec<String> {
        rules.keys().map(|key| key.escape_ascii().to_string()).collect()
    }

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("mygrpcadapter-rules-{name}-{}", std::process::id()))
    }

    #[test]
    fn a_line_is_a_key_unless_it_names_a_principal() {
        let rules = Rules::parse(b"one\r\n\n two words \n\tprincipal \t spiffe://d/a \nprincipality\nspiffe")
            .unwrap();
        assert_eq!(keys(&rules), ["one", "two words", "principality", "spiffe"]);
        assert_eq!(rules.principals.len(), 1);
        assert!(rules.allow(b"spiffe://d/a") && !rules.allow(b"spiffe://d/b") && !rules.allow(b""));
        assert!(Rules::parse(b"principal spiffe://*").unwrap().allow(b"spiffe://any/thing"));
        assert!(!Rules::parse(b"principal spiffe://*").unwrap().allow(b"CN=any"));
    }

    #[test]
    fn a_mistyped_principal_never_becomes_a_key() {
        for line in [
            "principal",
            "principal *",
            "principal cluster.local/ns/default/sa/sleep",
            "principal spiffe://",
            "principal spiffe://d/*/sa/x",
            "principal spiffe://d/**",
            "principal spiffe://d/a spiffe://d/b",
            "principal spiffe://d/a # a comment",
            "principal: spiffe://d/a",
            "principal=spiffe://d/a",
            "principals spiffe://d/a",
            "principalspiffe://d/a",
            "Principal spiffe://d/a",
            "spiffe://d/a",
            "principal spiffe://d/é",
        ] {
            let outcome = Rules::parse(format!("key\n\n{line}\nkey2").as_bytes());
            match outcome {
                Err(error) => assert!(error.starts_with("line 3: "), "{line}: {error}"),
                Ok(rules) => panic!("{line}: {rules:?}"),
            }
        }
    }

    #[test]
    fn a_comment_and_a_byte_order_mark_are_no_part_of_a_key() {
        let text = "\u{feff}# of team A\r\none\r\n #\r\n\t# principal spiffe://d/b\n\u{feff}two#\n\u{feff}principal spiffe://d/a\n\u{feff}\n";
        let rules = Rules::parse(text.as_bytes()).unwrap();
        assert_eq!(keys(&rules), ["one", "two#"]);
        assert!(rules.allow(b"spiffe://d/a") && !rules.allow(b"spiffe://d/b"));
        assert_eq!(rules.to_string(), "keys=2 principals=1 comments=3");
    }

    #[test]
    fn a_line_that_no_caller_can_send_is_an_error_without_its_content() {
        let utf_16: Vec<u8> = "\u{feff}one\r\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for (text, part) in [
            (&utf_16[..], "line 1: a control character"),
            (b"\none\x1b\n", "line 2: a control character"),
            (b"\none\rtwo\n", "line 2: a control character"),
            (b"one # of team A\n", "line 1: a # after white space"),
            (b"\n\none\t#\n", "line 3: a # after white space"),
        ] {
            match Rules::parse(text) {
                Err(error) => assert!(error.contains(part) && !error.contains("one"), "{error}"),
                Ok(rules) => panic!("{}: {rules:?}", text.escape_ascii()),
            }
        }
    }

    #[test]
    fn a_changed_file_is_read_again_and_an_unreadable_one_is_not_missed() {
        let path = scratch("changes");
        std::fs::write(&path, "one\r\n\n two \nthree").unwrap();
        let file = RuleFile::open(&path).unwrap();
        assert_eq!(keys(&file.current()), ["one", "two", "three"]);
        for (text, expected) in [("four\n", ["four"]), ("principal typo\n", ["four"]), ("five\n", ["five"])] {
            std::fs::write(&path, text).unwrap();
            file.age();
            assert_eq!(keys(&file.current()), expected, "{text}");
        }
        std::fs::remove_file(&path).unwrap();
        file.age();
        assert_eq!(keys(&file.current()), ["five"]);
        assert!(!format!("{file:?}").contains("five"));
    }
}
