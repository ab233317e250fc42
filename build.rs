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

/// Links the release binary, which aborts on panic, without what only unwinding and backtraces need.
fn leave_out_unwinding() {
    if variable("PROFILE") != "release" || variable("CARGO_CFG_TARGET_ENV") != "musl" {
        return;
    }
    link_with(&["--no-eh-frame-hdr"]);
    link_with(&["-T", &script("no-unwind.ld")]);
    // It names functions of one compiler's library.
    if compiler_is_pinned() {
        link_with(&["-T", &script("no-symbolizer.ld")]);
    }
}

/// On x86_64 gcc links; elsewhere cargo calls the linker directly.
fn link_with(words: &[&str]) {
    for word in words {
        if variable("CARGO_CFG_TARGET_ARCH") == "x86_64" {
            // Not -Wl, which would split a path at its commas.
            println!("cargo:rustc-link-arg-bins=-Xlinker");
        }
        println!("cargo:rustc-link-arg-bins={word}");
    }
}

/// The path of a linker script.
fn script(name: &str) -> String {
    // Read at run time, not by `env!`: the directory may have moved since.
    let path = Path::new(&variable("CARGO_MANIFEST_DIR")).join(".cargo").join(name);
    println!("cargo:rerun-if-changed={}", path.display());
    path.display().to_string()
}

/// Whether the compiler is that of rust-toolchain.toml.
fn compiler_is_pinned() -> bool {
    println!("cargo:rerun-if-changed=rust-toolchain.toml");
    let file = Path::new(&variable("CARGO_MANIFEST_DIR")).join("rust-toolchain.toml");
    let pinned = std::fs::read_to_string(file).unwrap_or_default();
    let version = output(Command::new(variable("RUSTC")).arg("--version")).unwrap_or_default();
    version.split(' ').nth(1).is_some_and(|version| pinned.contains(&format!("\"{version}\"")))
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
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
    output(Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]))
        .unwrap_or_else(|| "unknown".into())
}

/// What a successful command prints.
fn output(command: &mut Command) -> Option<String> {
    let out = command.output().ok().filter(|out| out.status.success())?;
    Some(String::from_utf8(out.stdout).ok()?.trim().into())
}
