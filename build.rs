//! Compiles `proto/` without a `protoc`, and notes the revision for `--version`.

use std::io::Result;
use std::path::Path;
use std::process::Command;

/// The definitions whose types the program or its tests use.
const PROTOS: [&str; 14] = [
    "envoy/service/auth/v3/external_auth.proto",
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

    leave_out_unwinding();

    println!("cargo:rerun-if-env-changed=REVISION");
    println!("cargo:rustc-env=REVISION={}", revision());
    Ok(())
}

/// Leaves the tables for unwinding out of the release program, which aborts.
fn leave_out_unwinding() {
    let set_to = |name: &str, value: &str| std::env::var(name).is_ok_and(|set| set == value);
    if !set_to("PROFILE", "release") || !set_to("CARGO_CFG_TARGET_ENV", "musl") {
        return;
    }
    // Asked now, not when this was compiled: the directory may have moved since.
    let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let script = Path::new(&here).join(".cargo/no-unwind.ld");
    println!("cargo:rerun-if-changed={}", script.display());
    // On x86_64 gcc links, elsewhere the linker itself is called.
    let gcc = set_to("CARGO_CFG_TARGET_ARCH", "x86_64");
    for word in ["--no-eh-frame-hdr", "-T", &script.display().to_string()] {
        if gcc {
            // Not -Wl, which would split a path at its commas.
            println!("cargo:rustc-link-arg-bins=-Xlinker");
        }
        println!("cargo:rustc-link-arg-bins={word}");
    }
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
