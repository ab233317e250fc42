//! The sender of a stream: a few names from its identifier. The rest is skipped, such
//! as 61 kB of names of Envoy's extensions.

use super::any;
use super::keys::{identifier, node};
use crate::protobuf::object::pair;
use crate::protobuf::wire::{Malformed, Reader};
use crate::render::json;

/// Limit on the kept bytes of each name.
pub const MAX_NAME: usize = 512;

/// The names of a sender: at most 512 bytes each, 16 kB in all. Unknown names are
/// empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identifier {
    log_name: Box<[u8]>,
    node: Box<[u8]>,
    pod: Box<[u8]>,
    namespace: Box<[u8]>,
    /// These names as members of a JSON line.
    members: Box<[u8]>,
}

/// The names, borrowed from a message.
#[derive(Debug, Default)]
pub(crate) struct Names<'a> {
    pub(crate) log_name: &'a [u8],
    pub(crate) node: &'a [u8],
    pub(crate) pod: &'a [u8],
    pub(crate) namespace: &'a [u8],
}

impl Identifier {
    /// Reads the identifiers of a message; later ones merge into earlier ones.
    pub(super) fn of_stream<'a>(
        parts: impl Iterator<Item = Result<&'a [u8], Malformed>>,
    ) -> Result<Self, Malformed> {
        let mut names = Names::default();
        for part in parts {
            of_identifier(&mut names, part?)?;
        }
        Ok(Self::new(&names))
    }

    /// Copies names. A missing pod or namespace is derived from the node's id.
    pub(crate) fn new(names: &Names) -> Self {
        let (of_id, namespace_of_id) = pod_of_node(names.node);
        let pod = if names.pod.is_empty() { of_id } else { names.pod };
        let namespace = if names.namespace.is_empty() { namespace_of_id } else { names.namespace };
        let [log_name, node, pod, namespace] = [names.log_name, names.node, pod, namespace].map(cut);
        let mut members = Vec::new();
        for (name, value) in [("log_name", log_name), ("node", node), ("pod", pod), ("namespace", namespace)]
        {
            members.extend_from_slice(b",\"");
            members.extend_from_slice(name.as_bytes());
            members.extend_from_slice(b"\":");
            json::string_or_null(&mut members, value);
        }
        let [log_name, node, pod, namespace] = [log_name, node, pod, namespace].map(Box::from);
        Self { log_name, node, pod, namespace, members: members.into() }
    }

    /// The log's name; for Istio's providers, `logName`.
    pub fn log_name(&self) -> &[u8] {
        &self.log_name
    }

    /// The node's id; for Istio's sidecars, `sidecar~IP~POD.NAMESPACE~DOMAIN`.
    pub fn node(&self) -> &[u8] {
        &self.node
    }

    /// The sender's pod.
    pub fn pod(&self) -> &[u8] {
        &self.pod
    }

    /// The pod's namespace.
    pub fn namespace(&self) -> &[u8] {
        &self.namespace
    }

    /// The bytes of these names in each JSON line.
    pub fn shared(&self) -> usize {
        self.members().len()
    }

    /// The names as members of a JSON object, each preceded by a comma.
    pub(super) fn members(&self) -> &[u8] {
        match &*self.members {
            b"" => b",\"log_name\":null,\"node\":null,\"pod\":null,\"namespace\":null",
            members => members,
        }
    }
}

fn of_identifier<'a>(names: &mut Names<'a>, message: &'a [u8]) -> Result<(), Malformed> {
    let mut reader = Reader::new(message);
    while let Some(field) = reader.rare_field()? {
        match field.key {
            identifier::NODE => of_node(names, field.bytes)?,
            identifier::LOG_NAME => names.log_name = field.bytes,
            _ => {}
        }
    }
    Ok(())
}

fn of_node<'a>(names: &mut Names<'a>, message: &'a [u8]) -> Result<(), Malformed> {
    let mut reader = Reader::new(message);
    while let Some(field) = reader.rare_field()? {
        match field.key {
            node::ID => names.node = field.bytes,
            node::METADATA => of_metadata(names, field.bytes)?,
            _ => {}
        }
    }
    Ok(())
}

fn of_metadata<'a>(names: &mut Names<'a>, message: &'a [u8]) -> Result<(), Malformed> {
    let mut reader = Reader::new(message);
    while let Some(field) = reader.next_of(any::FIELDS)? {
        let (key, value) = pair(field)?;
        match key {
            b"NAME" => names.pod = any::text(value).unwrap_or_default(),
            b"NAMESPACE" => names.namespace = any::text(value).unwrap_or_default(),
            _ => {}
        }
    }
    Ok(())
}

/// The pod and the namespace from `TYPE~IP~POD.NAMESPACE~DOMAIN`; empty in any other
/// id.
fn pod_of_node(id: &[u8]) -> (&[u8], &[u8]) {
    let mut parts = id.split(|byte| *byte == b'~');
    let (Some(name), Some(_), None) = (parts.nth(2), parts.next(), parts.next()) else { return (&[], &[]) };
    match name.iter().rposition(|byte| *byte == b'.') {
        Some(dot) => (&name[..dot], &name[dot + 1..]),
        None => (name, &[]),
    }
}

fn cut(name: &[u8]) -> &[u8] {
    &name[..name.len().min(MAX_NAME)]
}
