//! Addresses in Envoy's notation.

use super::keys::address;
use crate::protobuf::wire::{Malformed, Reader};
use crate::render::go;
use crate::word;

/// The member of the oneof.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Absent,
    Socket,
    Pipe,
    Internal,
}

/// One `envoy.config.core.v3.Address`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Address<'a> {
    kind: Kind,
    /// A socket's host, a pipe's path, or the name of an internal listener.
    host: &'a [u8],
    /// A socket's named port, or the endpoint id of an internal listener.
    name: &'a [u8],
    port: u32,
}

impl<'a> Address<'a> {
    /// Whether the address is absent.
    pub fn is_absent(&self) -> bool {
        self.kind == Kind::Absent
    }

    /// Merges a message into this address.
    pub(super) fn add(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(message);
        while let Some(field) = reader.field()? {
            match field.key {
                address::SOCKET => self.of(Kind::Socket).socket(field.bytes)?,
                address::PIPE => self.of(Kind::Pipe).pipe(field.bytes)?,
                address::INTERNAL => self.of(Kind::Internal).internal(field.bytes)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn of(&mut self, kind: Kind) -> &mut Self {
        if self.kind != kind {
            *self = Self { kind, ..Self::default() };
        }
        self
    }

    fn socket(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(message);
        while let Some(field) = reader.field()? {
            match field.key {
                address::SOCKET_HOST => self.host = field.bytes,
                address::SOCKET_PORT => {
                    (self.port, self.name) = (field.number as u32, &[]);
                }
                address::SOCKET_NAMED_PORT => self.name = field.bytes,
                _ => {}
            }
        }
        Ok(())
    }

    fn pipe(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(message);
        while let Some(path) = reader.next_of(address::PIPE_PATH)? {
            self.host = path;
        }
        Ok(())
    }

    fn internal(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(message);
        while let Some(field) = reader.rare_field()? {
            match field.key {
                address::INTERNAL_LISTENER => self.host = field.bytes,
                address::INTERNAL_ENDPOINT => self.name = field.bytes,
                _ => {}
            }
        }
        Ok(())
    }

    /// Appends `host:port`, `[host]:port`, a pipe's path, or
    /// `envoy://listener/endpoint`. `put` appends the parts that contain bytes of the
    /// sender.
    #[inline]
    pub(super) fn show(&self, out: &mut Vec<u8>, put: impl Fn(&mut Vec<u8>, &[u8])) {
        match self.kind {
            Kind::Absent => {}
            Kind::Pipe => put(out, self.host),
            Kind::Socket => {
                let bare = word::find(self.host, b':').is_none();
                if !bare {
                    out.push(b'[');
                }
                put(out, self.host);
                if !bare {
                    out.push(b']');
                }
                out.push(b':');
                match self.name {
                    b"" => go::int(out, self.port.into()),
                    name => put(out, name),
                }
            }
            Kind::Internal => {
                out.extend_from_slice(b"envoy://");
                put(out, self.host);
                out.push(b'/');
                put(out, self.name);
            }
        }
    }
}
