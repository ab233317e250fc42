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

/// The compiler of `rust-toolchain.toml`, which the build of the image does not have.
const LAYOUT_IS_FOR: &str = "1.95.0";

fn main() -> Result<()> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(PROTOS, ["proto"]).map_err(std::io::Error::other)?;
    prost_build::Config::new().compile_well_known_types().include_file("protos.rs").compile_fds(files)?;

    leave_out_unwinding();

    println!("cargo:rerun-if-env-changed=REVISION");
    println!("cargo:rustc-env=REVISION={}", revision());
    Ok(())
}

/// Lays out the release binary, which aborts on panic, without what only unwinding and backtraces need. The
/// script names functions of one compiler's library; another compiler's binary is larger.
fn leave_out_unwinding() {
    let release = variable("PROFILE") == "release" && variable("CARGO_CFG_TARGET_ENV") == "musl";
    if !release || !compiler_is_known() {
        return;
    }
    // Read at run time, not by `env!`: the directory may have moved since.
    let script = Path::new(&variable("CARGO_MANIFEST_DIR")).join(".cargo/layout.ld");
    println!("cargo:rerun-if-changed={}", script.display());
    for word in ["--no-eh-frame-hdr", "-T", &script.display().to_string()] {
        println!("cargo:rustc-link-arg-bins={word}");
    }
}

/// Whether the compiler is the one that the layout is for.
fn compiler_is_known() -> bool {
    let version = output(Command::new(variable("RUSTC")).arg("--version")).unwrap_or_default();
    let known = version.split(' ').nth(1) == Some(LAYOUT_IS_FOR);
    if !known {
        println!(
            "cargo:warning=.cargo/layout.ld is for rustc {LAYOUT_IS_FOR}: without it the binary is larger"
        );
    }
    known
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
    // Not beneath .git in a worktree of the repository.
    for name in ["HEAD", "logs/HEAD"] {
        let watched = output(Command::new("git").args(["rev-parse", "--git-path", name])).unwrap_or_default();
        if Path::new(&watched).exists() {
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
