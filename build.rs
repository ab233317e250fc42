//! Compiles `proto/` without a `protoc`, and notes the revision for `--version`.

use std::io::Result;
use std::path::Path;
use std::process::Command;

/// The definitions whose types the program or its tests use.
const PROTOS: [&str; 13] = [
    "grpc/health/v1/health.proto",
    "google/rpc/status.proto",
    "mixer/adapter/model/v1beta1/check.proto",
    "mixer/adapter/model/v1beta1/infrastructure_backend.proto",
    "mixer/template/authorization.proto",
    "mixer/template/checknothing.proto",
    "mixer/template/edge.proto",
    "mixer/template/logentry.proto",
    "mixer/template/metric.proto",
    "mixer/template/reportnothing.proto",
    "mixer/template/tracespan.proto",
    "mygrpcadapter/config/v1/params.proto",
    "policy/v1beta1/http_response.proto",
];

fn main() -> Result<()> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(PROTOS, ["proto"]).map_err(std::io::Error::other)?;
    prost_build::Config::new().compile_well_known_types().include_file("protos.rs").compile_fds(files)?;

    println!("cargo:rerun-if-env-changed=REVISION");
    println!("cargo:rustc-env=REVISION={}", revision());
    Ok(())
}

/// The commit this is built from: `REVISION` where the build has no repository
/// (an image), else what git says, else `unknown`.
fn revision() -> String {
    if let Some(given) = std::env::var("REVISION").ok().filter(|r| !r.is_empty()) {
        return given;
    }
    for watched in [".git/HEAD", ".git/logs/HEAD"] {
        if Path::new(watched).exists() {
            println!("cargo:rerun-if-changed={watched}");
        }
    }
    Command::new("git")
        .args(["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"])
        .output()
        .ok()
        .filter(|out| out.status.success())
        .and_then(|out| String::from_utf8(out.stdout).ok())
        .map_or_else(|| "unknown".into(), |text| text.trim().into())
}
