//! The program as a process: command line, exit codes, addresses.

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use crate::support::message::{AUTHORIZATION, METRIC, Shape};
use crate::support::namespace::{Namespace, lacks, skip};
use crate::support::program::PROGRAM;
use crate::support::{Adapter, Client, OK, PATIENCE, Scratch};

pub fn run(words: &[&str]) -> Output {
    Command::new(PROGRAM).args(words).env_remove("RUST_LOG").output().unwrap()
}

/// Asserts an exit code, and one line on stderr that contains `part`.
pub fn assert_refused(output: &Output, code: i32, part: &str) {
    let error = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert!(output.stdout.is_empty());
    assert!(error.starts_with("mygrpcadapter: ") && error.contains(part), "{error}");
    assert_eq!((error.matches('\n').count(), error.ends_with('\n')), (1, true), "{error}");
}

#[test]
fn a_wrong_command_line_is_64() {
    let scratch = Scratch::new();
    let volume = scratch.path().to_str().unwrap();
    for (words, part) in [
        (&["--nonsense"][..], "--nonsense"),
        (&["65536"], "65536"),
        (&["http"], "http"),
        (&["8000", "8001"], "8001"),
        (&["--volume"], "--volume"),
        (&["--drain-delay", "5"], "500ms"),
        (&["--drain-timeout=soon"], "500ms"),
        (&["--version=1"], "1"),
        (&["0", "--volume", volume, "--default-file", "../out.txt"], "--default-file"),
        (&["0", "--volume", volume, "--default-file=/etc/passwd"], "outside the volume"),
    ] {
        assert_refused(&run(words), 64, part);
    }
}

#[cfg(not(feature = "tls"))]
#[test]
fn a_build_without_tls_says_so() {
    for flag in ["--tls-cert", "--tls-key", "--tls-client-ca", "--tls-client-name"] {
        let output = run(&["0", "--volume", "none", flag, "/a"]);
        assert_refused(&output, 64, &format!("{flag}: this build has no TLS; use the image"));
    }
}

#[tokio::test]
async fn each_port_is_bound_to_its_address() {
    let words = ["--address", "127.0.0.2", "--metrics-port", "0", "--metrics-address", "127.0.0.3"];
    let adapter = Adapter::start(&words).await;
    assert!(adapter.address.starts_with("127.0.0.2:"), "{}", adapter.address);
    let reaches = |host: &str, port: u16| TcpStream::connect((host, port)).is_ok();
    let metrics_port = adapter.metrics_port.unwrap();
    for (host, expected) in
        [("127.0.0.1", [false, false]), ("127.0.0.2", [true, false]), ("127.0.0.3", [false, true])]
    {
        assert_eq!([reaches(host, adapter.port), reaches(host, metrics_port)], expected, "{host}");
    }
}

#[test]
fn an_address_of_another_machine_is_69() {
    for flag in ["--address", "--metrics-address"] {
        // Of a network for documentation.
        let output = run(&["0", "--volume", "none", "--metrics-port", "0", flag, "192.0.2.1"]);
        assert_refused(&output, 69, "cannot listen on 192.0.2.1 port 0: ");
    }
}

#[test]
fn a_wrong_variable_is_64_and_named() {
    for (name, value, part) in [
        ("MYGRPCADAPTER_DRAIN_DELAY", "5", "500ms"),
        ("MYGRPCADAPTER_PORT", "70000", "0 to 65535"),
        ("MYGRPCADAPTER_ACCESS_LOG", "{x}", "between braces"),
        ("MYGRPCADAPTER_AUTH_DENIED_CODE", "200", "is not an error"),
    ] {
        let output = Command::new(PROGRAM).args(["--volume", "none"]).env(name, value).output().unwrap();
        assert_refused(&output, 64, part);
        assert_refused(&output, 64, name);
    }
}

#[test]
fn a_taken_port_is_69() {
    let taken = TcpListener::bind("[::]:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = run(&[&port, "--volume", "none"]);
    assert_refused(&output, 69, &format!("cannot listen on port {port}: "));
    let output = run(&["0", "--volume", "none", "--metrics-port", &port]);
    assert_refused(&output, 69, &format!("cannot listen on port {port}: "));
    assert_refused(&output, 69, "name another one with --metrics-port, or off");
}

#[test]
fn one_port_for_both_is_64_whether_or_not_it_may_be_shared() {
    for words in [&["1234", "--metrics-port=1234"][..], &["1234", "--metrics-port=1234", "--reuse-port"]] {
        assert_refused(
            &run(&[words, &["--volume=none"]].concat()),
            64,
            "--metrics-port: that is the port for gRPC",
        );
    }
}

/// The variables of a cluster with Services mygrpcadapter and mygrpcadapter-metrics.
const LINKS: [&str; 6] = [
    "MYGRPCADAPTER_PORT=tcp://10.0.0.1:8000",
    "MYGRPCADAPTER_SERVICE_HOST=10.0.0.1",
    "MYGRPCADAPTER_SERVICE_PORT_GRPC=8000",
    "MYGRPCADAPTER_PORT_8000_TCP_PORT=8000",
    "MYGRPCADAPTER_METRICS_PORT=tcp://10.0.0.2:9145",
    "MYGRPCADAPTER_METRICS_SERVICE_HOST=10.0.0.2",
];

#[tokio::test]
async fn options_come_from_the_environment_too_and_a_clusters_variables_do_not_matter() {
    let scratch = Scratch::new();
    let keys = scratch.path().join("keys");
    std::fs::write(&keys, "one\ntwo\nprincipal spiffe://d/a\n").unwrap();
    let own = [
        "MYGRPCADAPTER_DEFAULT_FILE=from-environment.txt",
        "MYGRPCADAPTER_ROTATE_KEEP=3",
        "MYGRPCADAPTER_FSNC=always",
        "MYGRPCADAPTER_FSYNC=always",
        &format!("MYGRPCADAPTER_AUTH_KEYS_FILE={}", keys.display()),
    ];
    let volume = scratch.dir("volume");
    let wrapper = [&["env"], &LINKS[..], &own].concat();
    let adapter = Adapter::start_by(&wrapper, &volume, &["--fsync=never", "--format=JSON"]).await;
    let shape = Shape { file: "", padding: 1 };
    assert_eq!(adapter.client().await.unary(METRIC, &shape.message("n")).await.unwrap().status, OK);
    assert_eq!(adapter.files(), ["from-environment.txt"]);
    let log = adapter.log();
    let start = log.iter().find(|line| line.contains("info starting mygrpcadapter ")).unwrap();
    let settings =
        format!(" volume={} format=json fsync=never rotate_size=off rotate_age=off", volume.display());
    let durations = " queue_timeout=2s drain_delay=0s drain_timeout=5s ";
    for part in [&*settings, durations, " rotate_keep=3 ", " max_connections=1024 ", " keys=2 principals=1"] {
        assert!(start.contains(part), "{part} is missing in {start}");
    }
    let warnings: Vec<_> = log.iter().filter_map(|line| Some(line.split_once(" warn ")?.1)).collect();
    assert_eq!(
        warnings,
        [
            "MYGRPCADAPTER_FSNC names no option and is ignored, see --help",
            "MYGRPCADAPTER_ROTATE_KEEP has no effect without --rotate-size or --rotate-age"
        ]
    );
}

#[tokio::test]
async fn an_empty_file_of_keys_is_a_warning_at_the_start_and_later() {
    let scratch = Scratch::new();
    let keys = scratch.path().join("keys");
    std::fs::write(&keys, "# key\n").unwrap();
    let adapter = Adapter::start(&["--auth-keys-file", keys.to_str().unwrap()]).await;
    let warning =
        format!("warn the file of keys has none and allows nobody; add a line path={}", keys.display());
    adapter.logged(&warning).await;
    adapter.logged("drain_timeout=5s tls=off caller_tokens=off keys=0 principals=0 comments=1").await;
    let client = adapter.client().await;
    for text in ["key", ""] {
        std::fs::write(&keys, text).unwrap();
        // The file is checked once a second, on a request.
        let read =
            format!("read the keys again path={} keys={} principals=0", keys.display(), text.len() / 3);
        checks_until(&adapter, &client, &read).await;
    }
    assert_eq!(adapter.log().iter().filter(|line| line.contains(&warning)).count(), 2);
}

/// Sends checks until a line is logged.
async fn checks_until(adapter: &Adapter, client: &Client, line: &str) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !adapter.log().iter().any(|logged| logged.contains(line)) {
        assert!(std::time::Instant::now() < deadline, "no line with {line:?}");
        assert_eq!(client.unary(AUTHORIZATION, b"").await.unwrap().status, OK);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[test]
fn an_empty_path_is_64() {
    for option in
        ["--volume", "--auth-keys-file", "--caller-tokens-file", "--tls-cert", "--tls-key", "--tls-client-ca"]
    {
        assert_refused(&run(&["0", option, ""]), 64, &format!("'{option}' with value '': write a path"));
    }
}

#[test]
fn what_to_do_about_a_file_of_keys_that_cannot_be_read_is_said() {
    let output = run(&["0", "--volume=none", "--auth-keys-file=/nowhere"]);
    assert_refused(&output, 66, "cannot read the keys in /nowhere: No such file");
    assert_refused(&output, 66, "; mount it there, or name another");
}

#[test]
fn a_volume_that_is_missing_or_a_file_is_73() {
    let scratch = Scratch::new();
    let (missing, file) = (scratch.path().join("missing"), scratch.path().join("file"));
    std::fs::write(&file, "").unwrap();
    for volume in [&missing, &file] {
        let volume = volume.to_str().unwrap();
        let output = run(&["0", "--volume", volume]);
        assert_refused(&output, 73, &format!("cannot write in the volume {volume}: "));
    }
}

#[test]
fn a_volume_that_we_may_not_write_in_is_73() {
    let scratch = Scratch::new();
    let volume = scratch.dir("volume");
    std::fs::set_permissions(&volume, std::fs::Permissions::from_mode(0o555)).unwrap();
    // Without capabilities permissions apply to root, too.
    let words =
        ["--bounding-set=-all", "--inh-caps=-all", PROGRAM, "0", "--volume", volume.to_str().unwrap()];
    let (mut direct, mut without) = (Command::new(PROGRAM), Command::new("setpriv"));
    let command =
        if rustix::process::geteuid().is_root() { without.args(words) } else { direct.args(&words[3..]) };
    let output = command.output().unwrap();
    assert_refused(&output, 73, "Permission denied");
    assert_refused(&output, 73, "chgrp and chmod g+w");
}

#[test]
fn help_and_version_go_to_stdout() {
    for words in [&["--help"][..], &["-h"], &["help"], &["8000", "--help"]] {
        let output = run(words);
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{words:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.starts_with("Usage: mygrpcadapter [OPTIONS] [PORT]\n"), "{text}");
        for part in ["--volume", "--default-file", "--drain-timeout", "73"] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
    }
    for word in ["--version", "-V"] {
        let output = run(&[word]);
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.starts_with(concat!("mygrpcadapter ", env!("CARGO_PKG_VERSION"), " (")), "{text}");
        assert_eq!((text.lines().count(), text.ends_with(")\n")), (1, true));
    }
}

#[tokio::test]
async fn values_may_follow_their_flag_or_be_joined_to_it() {
    for words in [&["--default-file", "a=b.txt"][..], &["--default-file=a=b.txt"]] {
        let adapter = Adapter::start(words).await;
        let shape = Shape { file: "", padding: 1 };
        let reply = adapter.client().await.unary(METRIC, &shape.message("n")).await.unwrap();
        assert_eq!(reply.status, OK);
        assert_eq!(adapter.files(), ["a=b.txt"]);
    }
}

/// Installs a seccomp filter without IPv6, then executes its arguments.
const WITHOUT_IPV6: &str = r#"
import ctypes, os, platform, struct, sys
AF_INET6, EAFNOSUPPORT = 10, 97
SOCKET = {"x86_64": 41, "aarch64": 198}[platform.machine()]
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
program = b"".join(struct.pack("HBBI", *step) for step in [
    (LOAD, 0, 0, 0), (EQUAL, 0, 3, SOCKET),
    (LOAD, 0, 0, 16), (EQUAL, 0, 1, AF_INET6),
    (RETURN, 0, 0, 0x00050000 | EAFNOSUPPORT), (RETURN, 0, 0, 0x7fff0000),
])
code = ctypes.create_string_buffer(program, len(program))
filter = ctypes.create_string_buffer(struct.pack("HP", len(program) // 8, ctypes.addressof(code)))
prctl = ctypes.CDLL(None, use_errno=True).prctl
prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
NO_NEW_PRIVILEGES, SECCOMP = 38, 22
if prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) or prctl(SECCOMP, 2, ctypes.addressof(filter), 0, 0):
    sys.exit(os.strerror(ctypes.get_errno()))
os.execv(sys.argv[1], sys.argv[1:])
"#;

#[tokio::test]
async fn on_a_kernel_without_ipv6_it_listens_on_ipv4() {
    let filter = ["python3", "-c", WITHOUT_IPV6];
    let probe = Command::new(filter[0]).args(&filter[1..]).arg("/bin/true").output();
    match probe {
        Ok(output) if output.status.success() => {}
        Ok(output) => return skip(&format!("no filter: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(_) => return skip("there is no python3"),
    }
    let scratch = Scratch::new();
    let mut adapter = Adapter::start_by(&filter, scratch.path(), &[]).await;
    assert!(adapter.address.starts_with("0.0.0.0:"), "{}", adapter.address);
    let shape = Shape { file: "out.txt", padding: 1 };
    let reply = adapter.client().await.unary(METRIC, &shape.message("n")).await.unwrap();
    assert_eq!(reply.status, OK);
    assert_eq!(adapter.stop().await, 0);
}

#[test]
fn in_a_network_with_ipv6_disabled_it_answers_on_ipv4() {
    if lacks("ip") {
        return;
    }
    let Some(namespace) = Namespace::new("--net") else { return };
    let disable = "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6 && ip link set lo up";
    namespace.run(&["sh", "-c", disable]);
    // A thread's sockets belong to the thread's network namespace.
    std::thread::scope(|scope| {
        let within = scope.spawn(|| {
            use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
            let network = namespace.network();
            let (network, kind) = (std::os::fd::AsFd::as_fd(&network), LinkNameSpaceType::Network);
            move_into_link_name_space(network, Some(kind)).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let adapter = Adapter::start(&[]).await;
                let client = Client::connect(("127.0.0.1", adapter.port)).await.unwrap();
                let shape = Shape { file: "out.txt", padding: 1 };
                assert_eq!(client.unary(METRIC, &shape.message("n")).await.unwrap().status, OK);
            });
        });
        within.join().unwrap();
    });
}
