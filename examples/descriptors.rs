//! Generates the resources that Mixer needs from `proto/`: the `adapter` resources
//! with the layout of a handler's params, and the `template` resources with the
//! layout of requests. Each layout is a base64 `FileDescriptorSet`.
//!
//! `cargo run --example descriptors [DIR]`; DIR defaults to `manifests`.

use std::error::Error;
use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::encoding::{decode_varint, encode_varint};
use protox::Compiler;

const TEMPLATES: [&str; 7] =
    ["authorization", "checknothing", "edge", "logentry", "metric", "reportnothing", "tracespan"];

/// The adapter resources: file, name, templates. The walkthroughs add their templates
/// to the first.
const ADAPTERS: [(&str, &str, &str); 2] = [
    ("base/adapter.yaml", "mygrpcadapter", "[]"),
    ("components/gatewaymetric/adapter-gatewaymetric.yaml", "gatewaymetric", "[logentry]"),
];

/// Two options needed to compile a template; Mixer ignores them.
const COMPILE_TIME: [&str; 2] =
    ["google/protobuf/descriptor.proto", "mixer/adapter/model/v1beta1/extensions.proto"];

// descriptor.proto: FileDescriptorSet.file, FileDescriptorProto.name and .dependency.
const FILE: u64 = 1;
const NAME: u64 = 1;
const DEPENDENCY: u64 = 3;
const LENGTH_DELIMITED: u64 = 2;

const HEADER: &str = "# Generated from proto/ by `make manifests`: change it there.\n";

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let directory = std::env::args_os().nth(1).unwrap_or_else(|| "manifests".into());
    let directory = Path::new(&directory);
    for name in TEMPLATES {
        let set = descriptors(&format!("mixer/template/{name}.proto"))?;
        write(&directory.join(format!("templates/{name}.yaml")), &template(name, &set))?;
    }
    let params = descriptors("mygrpcadapter/config/v1/params.proto")?;
    for (file, name, templates) in ADAPTERS {
        write(&directory.join(file), &adapter(name, templates, &params))?;
    }
    Ok(())
}

fn template(name: &str, set: &[u8]) -> String {
    format!(
        "{HEADER}apiVersion: config.istio.io/v1alpha2\nkind: template\nmetadata:\n  name: {name}\n  \
         namespace: istio-system\nspec:\n  descriptor: {}\n",
        STANDARD.encode(set)
    )
}

fn adapter(name: &str, templates: &str, params: &[u8]) -> String {
    format!(
        "{HEADER}apiVersion: config.istio.io/v1alpha2\nkind: adapter\nmetadata:\n  name: {name}\n  \
         namespace: istio-system\nspec:\n  description: Reports to files and to a histogram, checks to a verdict.\n  \
         templates: {templates}\n  config: {}\n",
        STANDARD.encode(params)
    )
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()).into())
}

/// The descriptor set of one file and its imports, without comments. The compiler's
/// bytes are used as they are: decoding them into types would drop the two options by
/// which Mixer recognizes a template.
fn descriptors(file: &str) -> Result<Vec<u8>> {
    let mut compiler = Compiler::new(["proto"])?;
    compiler.include_source_info(false).include_imports(true).open_file(file)?;
    let mut lean = Vec::new();
    for file in fields(&compiler.encode_file_descriptor_set())? {
        let parts = fields(file.content)?;
        if parts.iter().any(|part| part.number == NAME && is_compile_time(part)) {
            continue;
        }
        let kept = parts.iter().filter(|part| part.number != DEPENDENCY || !is_compile_time(part));
        let content = kept.map(|part| part.whole).collect::<Vec<_>>().concat();
        encode_varint(FILE << 3 | LENGTH_DELIMITED, &mut lean);
        encode_varint(content.len() as u64, &mut lean);
        lean.extend_from_slice(&content);
    }
    Ok(lean)
}

/// One encoded field: its number, its content, and all of its bytes.
struct Field<'a> {
    number: u64,
    content: &'a [u8],
    whole: &'a [u8],
}

fn is_compile_time(name: &Field) -> bool {
    COMPILE_TIME.iter().any(|path| path.as_bytes() == name.content)
}

/// The fields of a message with only length-delimited fields, such as a set, or a
/// file without public imports.
fn fields(mut message: &[u8]) -> Result<Vec<Field<'_>>> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let start = message;
        let key = decode_varint(&mut message)?;
        let length = usize::try_from(decode_varint(&mut message)?)?;
        let Some((content, rest)) = message.split_at_checked(length).filter(|_| key & 7 == LENGTH_DELIMITED)
        else {
            return Err("a descriptor has a field of an unexpected kind".into());
        };
        message = rest;
        fields.push(Field { number: key >> 3, content, whole: &start[..start.len() - rest.len()] });
    }
    Ok(fields)
}
