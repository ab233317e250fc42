//! Compiles `proto/` without `protoc`, and records the revision for `--version`.

use std::io::Result;
use std::path::Path;
use std::process::Command;

/// The definitions that the program or its tests use.
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

/// Removes the unwinding tables from the release binary, which aborts on panic.
fn leave_out_unwinding() {
    let set_to = |name: &str, value: &str| std::env::var(name).is_ok_and(|set| set == value);
    if !set_to("PROFILE", "release") || !set_to("CARGO_CFG_TARGET_ENV", "musl") {
        return;
    }
    // Read at run time, not by `env!`: the directory may have moved since.
    let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let script = Path::new(&here).join(".cargo/no-unwind.ld");
    println!("cargo:rerun-if-changed={}", script.display());
    // On x86_64 gcc links; elsewhere cargo calls the linker directly.
    let gcc = set_to("CARGO_CFG_TARGET_ARCH", "x86_64");
    for word in ["--no-eh-frame-hdr", "-T", &script.display().to_string()] {
        if gcc {
            // Not -Wl, which would split a path at its commas.
            println!("cargo:rustc-link-arg-bins=-Xlinker");
        }
        println!("cargo:rustc-link-arg-bins={word}");
    }
}

/// The commit: `REVISION` if set (an image build has no repository), else from git,
/// else `unknown`.
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
