//! One entry of an access log, read in one pass into a flat struct that borrows
//! from the message.

use super::address::Address;
use super::flags::Flags;
use super::keys::{common, connection, entry, google, metadata, request, response, tls};
use crate::protobuf::object::{Pair, Pairs, pair};
use crate::protobuf::wire::MAX_ENTRIES;
use crate::protobuf::wire::{Malformed, Reader};
use crate::record::{Instant, sort_pairs};

/// Which of the two messages an entry is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// An HTTPAccessLogEntry.
    #[default]
    Http,
    /// A TCPAccessLogEntry.
    Tcp,
}

/// Which of an entry's maps a pair belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Map {
    /// Logged request headers.
    RequestHeaders,
    /// Logged response headers.
    ResponseHeaders,
    /// Logged response trailers.
    ResponseTrailers,
    /// Custom tags.
    Tags,
    /// Objects of the filter state, each an Any.
    FilterState,
    /// Metadata of filters, each a Struct.
    Metadata,
}

/// How many maps there are.
const MAPS: usize = 6;

/// The AccessLogType of the entry that ends a request, and of one without a type.
const DOWNSTREAM_END: i32 = 6;
const NOT_SET: i32 = 0;

/// What is read of an entry. Texts are the sender's bytes; what was not sent is
/// empty, zero or `None`. Kept and filled anew for each entry, so that a message
/// allocates once.
#[derive(Debug, Default)]
pub struct Entry<'a> {
    /// Which message it is.
    pub kind: Kind,
    /// Where the client is, as far as proxies in front say.
    pub downstream_remote_address: Address<'a>,
    /// Where the client connected to.
    pub downstream_local_address: Address<'a>,
    /// The name that the client asked for in its TLS handshake.
    pub sni: &'a [u8],
    /// When it began.
    pub start_time: Option<Instant>,
    /// The host that was chosen.
    pub upstream_remote_address: Address<'a>,
    /// Where the connection to this host comes from.
    pub upstream_local_address: Address<'a>,
    /// The cluster that was chosen.
    pub upstream_cluster: &'a [u8],
    /// Why Envoy answered itself, or gave up.
    pub response_flags: Flags,
    /// Why the connection to the host failed.
    pub upstream_transport_failure_reason: &'a [u8],
    /// The route's name.
    pub route_name: &'a [u8],
    /// How long it took: none of an intermediate entry.
    pub duration: Option<Instant>,
    /// Why the connection was closed.
    pub connection_termination_details: &'a [u8],
    /// The request's or the connection's id: of a request the client's
    /// `x-request-id`, unsanitized.
    pub stream_id: &'a [u8],
    /// Whether more entries of the same request or connection follow.
    pub is_intermediate: bool,
    /// The occasion it was written on, an AccessLogType.
    pub access_log_type: i32,
    /// HTTP's version, an HTTPVersion.
    pub protocol: i32,
    /// The method, a RequestMethod: zero for one that Envoy doesn't know.
    pub method: i32,
    /// The `:authority` or `host`.
    pub authority: &'a [u8],
    /// The path with its query, as it was sent on.
    pub path: &'a [u8],
    /// The path before Envoy rewrote it.
    pub original_path: &'a [u8],
    /// The `user-agent`.
    pub user_agent: &'a [u8],
    /// The `x-forwarded-for`.
    pub forwarded_for: &'a [u8],
    /// The `x-request-id`, sanitized.
    pub request_id: &'a [u8],
    /// The status.
    pub response_code: u32,
    /// Where the response comes from, or why there is none.
    pub response_code_details: &'a [u8],
    /// Bytes of the request's body, or from the client.
    pub received_bytes: u64,
    /// Bytes of the response's body, or to the client.
    pub sent_bytes: u64,
    /// By map.
    pairs: [Pairs<'a>; MAPS],
    /// For the objects in this entry while they are rendered.
    pub(super) nested: Pairs<'a>,
}

impl<'a> Entry<'a> {
    /// Reads an entry in place of the one before it.
    ///
    /// # Errors
    ///
    /// The bytes are no protobuf message, or its maps have more than 32,768
    /// entries. What was read until then stays.
    pub fn read(&mut self, kind: Kind, message: &'a [u8]) -> Result<(), Malformed> {
        let (mut pairs, mut nested) = (std::mem::take(&mut self.pairs), std::mem::take(&mut self.nested));
        pairs.iter_mut().for_each(Pairs::clear);
        nested.clear();
        *self = Self { kind, pairs, nested, ..Self::default() };
        match kind {
            Kind::Http => self.http(message)?,
            Kind::Tcp => self.tcp(message)?,
        }
        for pairs in self.pairs.iter_mut().filter(|pairs| pairs.len() > 1) {
            sort_pairs(pairs, 0);
        }
        Ok(())
    }

    /// Whether any of its maps has a pair.
    pub fn has_pairs(&self) -> bool {
        self.pairs.iter().any(|pairs| !pairs.is_empty())
    }

    /// The pairs of a map: sorted by key, no key twice.
    pub fn pairs(&self, map: Map) -> &[Pair<'a>] {
        &self.pairs[map as usize]
    }

    /// What a map has for a key.
    pub fn lookup(&self, map: Map, key: &[u8]) -> Option<&'a [u8]> {
        self.pairs(map).iter().find(|pair| pair.0 == key).map(|pair| pair.1)
    }

    /// Whether it ends an HTTP request: the one entry of a request that counts.
    /// Connections, what an upstream request adds, and types that are not known
    /// don't.
    pub fn ends_request(&self) -> bool {
        let ends = match self.access_log_type {
            DOWNSTREAM_END => true,
            // Of an Envoy that knows no types.
            NOT_SET => !self.is_intermediate,
            _ => false,
        };
        ends && self.kind == Kind::Http
    }

    fn http(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(message);
        while let Some(field) = reader.field()? {
            match field.key {
                entry::COMMON => self.common(field.bytes)?,
                entry::PROTOCOL => self.protocol = field.number as i32,
                entry::REQUEST => self.request(field.bytes)?,
                entry::RESPONSE => self.response(field.bytes)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn tcp(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(message);
        while let Some(field) = reader.field()? {
            match field.key {
                entry::COMMON => self.common(field.bytes)?,
                entry::CONNECTION => self.connection(field.bytes)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn common(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(message);
        while let Some(field) = reader.field()? {
            match field.key {
                common::DOWNSTREAM_REMOTE_ADDRESS => self.downstream_remote_address.add(field.bytes)?,
                common::DOWNSTREAM_LOCAL_ADDRESS => self.downstream_local_address.add(field.bytes)?,
                common::TLS_PROPERTIES => self.tls(field.bytes)?,
                common::START_TIME => instant(&mut self.start_time, field.bytes)?,
                common::UPSTREAM_REMOTE_ADDRESS => self.upstream_remote_address.add(field.bytes)?,
                common::UPSTREAM_LOCAL_ADDRESS => self.upstream_local_address.add(field.bytes)?,
                common::UPSTREAM_CLUSTER => self.upstream_cluster = field.bytes,
                common::RESPONSE_FLAGS => self.response_flags.add(field.bytes)?,
                common::METADATA => self.metadata(field.bytes)?,
                common::UPSTREAM_TRANSPORT_FAILURE_REASON => {
                    self.upstream_transport_failure_reason = field.bytes;
                }
                common::ROUTE_NAME => self.route_name = field.bytes,
                common::FILTER_STATE_OBJECTS => self.push(Map::FilterState, field.bytes)?,
                common::CUSTOM_TAGS => self.push(Map::Tags, field.bytes)?,
                common::DURATION => instant(&mut self.duration, field.bytes)?,
                common::CONNECTION_TERMINATION_DETAILS => {
                    self.connection_termination_details = field.bytes;
                }
                common::STREAM_ID => self.stream_id = field.bytes,
                common::INTERMEDIATE_LOG_ENTRY => self.is_intermediate = field.number != 0,
                common::ACCESS_LOG_TYPE => self.access_log_type = field.number as i32,
                _ => {}
            }
        }
        Ok(())
    }

    fn tls(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(message);
        while let Some(name) = reader.next_of(tls::SNI_HOSTNAME)? {
            self.sni = name;
        }
        Ok(())
    }

    fn metadata(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(message);
        while let Some(of_filter) = reader.next_of(metadata::FILTER_METADATA)? {
            self.push(Map::Metadata, of_filter)?;
        }
        Ok(())
    }

    fn request(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(message);
        while let Some(field) = reader.field()? {
            match field.key {
                request::METHOD => self.method = field.number as i32,
                request::AUTHORITY => self.authority = field.bytes,
                request::PATH => self.path = field.bytes,
                request::USER_AGENT => self.user_agent = field.bytes,
                request::FORWARDED_FOR => self.forwarded_for = field.bytes,
                request::REQUEST_ID => self.request_id = field.bytes,
                request::ORIGINAL_PATH => self.original_path = field.bytes,
                request::BODY_BYTES => self.received_bytes = field.number,
                request::HEADERS => self.push(Map::RequestHeaders, field.bytes)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn response(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(message);
        while let Some(field) = reader.field()? {
            match field.key {
                response::CODE => self.code(field.bytes)?,
                response::BODY_BYTES => self.sent_bytes = field.number,
                response::HEADERS => self.push(Map::ResponseHeaders, field.bytes)?,
                response::TRAILERS => self.push(Map::ResponseTrailers, field.bytes)?,
                response::CODE_DETAILS => self.response_code_details = field.bytes,
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads a UInt32Value.
    fn code(&mut self, message: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(message);
        while let Some(field) = reader.field()? {
            if field.key == google::WRAPPED_NUMBER {
                self.response_code = field.number as u32;
            }
        }
        Ok(())
    }

    fn connection(&mut self, message: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(message);
        while let Some(field) = reader.field()? {
            match field.key {
                connection::RECEIVED_BYTES => self.received_bytes = field.number,
                connection::SENT_BYTES => self.sent_bytes = field.number,
                _ => {}
            }
        }
        Ok(())
    }

    fn push(&mut self, map: Map, message: &'a [u8]) -> Result<(), Malformed> {
        if self.pairs.iter().map(Vec::len).sum::<usize>() >= MAX_ENTRIES {
            return Err(Malformed::Entries);
        }
        let (key, value) = pair(message)?;
        self.pairs[map as usize].push((key, value));
        Ok(())
    }
}

/// Reads a Timestamp or a Duration on top of what is known.
fn instant(known: &mut Option<Instant>, message: &[u8]) -> Result<(), Malformed> {
    let held = known.get_or_insert_default();
    let mut reader = Reader::new(message);
    while let Some(field) = reader.field()? {
        match field.key {
            google::SECONDS => held.seconds = field.number as i64,
            google::NANOS => held.nanos = field.number as i32,
            _ => {}
        }
    }
    Ok(())
}
