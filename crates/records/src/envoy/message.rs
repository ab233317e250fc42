//! A `StreamAccessLogsMessage`: its identifier, and the bytes of each entry.

use super::entry::Kind;
use super::identifier::Identifier;
use super::keys::stream;
use crate::protobuf::wire::{Malformed, Reader};

/// One message of a stream, with only its top-level fields parsed.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    whole: Reader<'a>,
    /// The entries' kind, and a reader from their first list on.
    entries: Option<(Kind, Reader<'a>)>,
    identified: bool,
}

impl<'a> Message<'a> {
    /// Reads the top-level fields.
    ///
    /// Lists of both kinds are members of one oneof. The last list wins, merged with
    /// those of the same kind directly before it.
    ///
    /// # Errors
    ///
    /// The bytes are not a protobuf message.
    pub fn read(message: &'a [u8]) -> Result<Self, Malformed> {
        let whole = Reader::new(message);
        let (mut reader, mut entries, mut identified) = (whole, None, false);
        loop {
            let before = reader;
            let Some(key) = reader.key()? else { break };
            match key {
                stream::IDENTIFIER => identified = true,
                stream::HTTP_LOGS => from(&mut entries, Kind::Http, before),
                stream::TCP_LOGS => from(&mut entries, Kind::Tcp, before),
                _ => {}
            }
            reader.skip_key(key)?;
        }
        Ok(Self { whole, entries, identified })
    }

    /// Whether it has the sender's identifier, as the first message of each stream
    /// does.
    pub fn is_identified(&self) -> bool {
        self.identified
    }

    /// The sender of the stream.
    ///
    /// # Errors
    ///
    /// The identifier is not a protobuf message.
    pub fn identifier(&self) -> Result<Identifier, Malformed> {
        let mut reader = self.whole;
        Identifier::of_stream(std::iter::from_fn(|| reader.next_of(stream::IDENTIFIER).transpose()))
    }

    /// The encoded entries, in order.
    pub fn entries(&self) -> Entries<'a> {
        let (kind, groups) = self.entries.unwrap_or((Kind::Http, Reader::new(&[])));
        Entries { kind, groups, group: Reader::new(&[]) }
    }
}

fn from<'a>(entries: &mut Option<(Kind, Reader<'a>)>, kind: Kind, start: Reader<'a>) {
    if entries.is_none_or(|(before, _)| before != kind) {
        *entries = Some((kind, start));
    }
}

/// The remaining entries of a message. It may be kept until there is room for more
/// lines.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    kind: Kind,
    groups: Reader<'a>,
    group: Reader<'a>,
}

impl<'a> Entries<'a> {
    /// The kind of all entries.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    fn next_entry(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        let list = match self.kind {
            Kind::Http => stream::HTTP_LOGS,
            Kind::Tcp => stream::TCP_LOGS,
        };
        loop {
            if let Some(entry) = self.group.next_of(stream::LOG_ENTRY)? {
                return Ok(Some(entry));
            }
            let Some(group) = self.groups.next_of(list)? else { return Ok(None) };
            self.group = Reader::new(group);
        }
    }
}

impl<'a> Iterator for Entries<'a> {
    /// An entry's kind and bytes. An error concerns the list, not an entry, and ends
    /// the iteration.
    type Item = Result<(Kind, &'a [u8]), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.next_entry();
        if entry.is_err() {
            (self.groups, self.group) = (Reader::new(&[]), Reader::new(&[]));
        }
        entry.map(|entry| Some((self.kind, entry?))).transpose()
    }
}
