//! A stand-in for Mixer: sends recorded or generated requests to an adapter and
//! prints the answers.
//!
//! ```text
//! make replay
//! make replay ARGS="--report 'requestcount 1 response_code=200'"
//! make replay ARGS='--count 10000 --in-flight 64 tests/captures/metric/001.bin'
//! ```

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what it prints is what it is for")]

#[allow(dead_code, unreachable_pub, reason = "the tests, who share it, use more of it")]
#[path = "../../../tests/adapter/support/client.rs"]
mod client;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use argh::FromArgs;
use mygrpcadapter::grpc::calls::CODES;
use mygrpcadapter::pb::google::protobuf::Any;
use mygrpcadapter::pb::istio::mixer::adapter::model::v1beta1::CheckResult;
use mygrpcadapter::pb::istio::policy::v1beta1::{Value, value::Value as Kind};
use mygrpcadapter::pb::metric::{HandleMetricRequest, InstanceMsg};
use mygrpcadapter::pb::mygrpcadapter::config::v1::Params;
use prost::Message;
use tokio::task::JoinSet;

use crate::client::{Client, Reply};

/// Sends requests as Mixer does, and prints what comes back.
#[derive(Debug, FromArgs)]
#[argh(
    help_triggers("-h", "--help"),
    note = "Services: metric, logentry, authorization. The name of a recording or of its directory
begins with its service; gatewaymetric is a logentry.",
    error_code(1, "a request failed, or there was nothing to send")
)]
struct Args {
    /// the adapter's address (default: 127.0.0.1:8000)
    #[argh(option, arg_name = "ADDR", default = "String::from(\"127.0.0.1:8000\")")]
    to: String,

    /// the service of all recordings
    #[argh(option, arg_name = "NAME", from_str_fn(service))]
    service: Option<Service>,

    /// a metric to report: 'NAME VALUE KEY=VALUE ...'; may be given again
    #[argh(option, arg_name = "TEXT")]
    report: Vec<String>,

    /// the file_path of the handler that reports (default: none)
    #[argh(option, arg_name = "PATH", default = "String::new()")]
    file_path: String,

    /// how often to send everything (default: 1)
    #[argh(option, arg_name = "N", default = "1")]
    count: usize,

    /// connections at once (default: 1)
    #[argh(option, arg_name = "N", default = "1")]
    connections: usize,

    /// calls at once on each connection (default: 1)
    #[argh(option, arg_name = "N", default = "1")]
    in_flight: usize,

    /// recorded requests: files, or directories with *.bin in them
    #[argh(positional, arg_name = "FILE")]
    recordings: Vec<PathBuf>,
}

/// A Mixer service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    Metric,
    LogEntry,
    Authorization,
}

impl Service {
    fn path(self) -> &'static str {
        match self {
            Self::Metric => "/metric.HandleMetricService/HandleMetric",
            Self::LogEntry => "/logentry.HandleLogEntryService/HandleLogEntry",
            Self::Authorization => "/authorization.HandleAuthorizationService/HandleAuthorization",
        }
    }

    /// The service of a recording, from its file name or directory.
    fn of(recording: &Path) -> Option<Self> {
        let absolute = recording.canonicalize().ok()?;
        let names = [absolute.file_name(), absolute.parent().and_then(Path::file_name)];
        names.into_iter().flatten().find_map(|name| {
            let name = name.to_str()?;
            [("metric", Self::Metric), ("logentry", Self::LogEntry), ("gatewaymetric", Self::LogEntry)]
                .into_iter()
                .chain([("authorization", Self::Authorization)])
                .find_map(|(start, service)| name.starts_with(start).then_some(service))
        })
    }
}

fn service(name: &str) -> Result<Service, String> {
    match name {
        "metric" => Ok(Service::Metric),
        "logentry" | "gatewaymetric" => Ok(Service::LogEntry),
        "authorization" => Ok(Service::Authorization),
        _ => Err("write metric, logentry or authorization".into()),
    }
}

/// A request to send.
#[derive(Debug)]
struct Request {
    label: String,
    service: Service,
    message: Vec<u8>,
}

/// The outcome of a request as a line of text, and whether it was a success.
type Outcome = (bool, String);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args: Args = argh::from_env();
    match run(args).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(reason) => {
            eprintln!("mixer: {reason}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<bool, String> {
    let Args { to, service, report, file_path, count, connections, in_flight, recordings } = args;
    let mut requests = Vec::new();
    for text in &report {
        let message = made_up(text, &file_path)?;
        requests.push(Request { label: format!("report {text:?}"), service: Service::Metric, message });
    }
    for path in &recordings {
        recorded(path, service, &mut requests)?;
    }
    let total = requests.len() * count;
    if total == 0 {
        return Err("nothing to send; name a recording or a --report (see --help)".into());
    }
    let (requests, next) = (Arc::new(requests), Arc::new(AtomicUsize::new(0)));
    let mut senders = JoinSet::new();
    for _ in 0..connections.max(1) {
        let client =
            Client::connect(&*to).await.map_err(|error| format!("cannot connect to {to}: {error}"))?;
        for _ in 0..in_flight.max(1) {
            senders.spawn(send(client.clone(), Arc::clone(&requests), Arc::clone(&next), total));
        }
    }
    let mut outcomes: BTreeMap<(usize, Outcome), usize> = BTreeMap::new();
    while let Some(of_one) = senders.join_next().await {
        for (outcome, times) in of_one.map_err(|error| error.to_string())? {
            *outcomes.entry(outcome).or_default() += times;
        }
    }
    let mut failed = 0;
    for ((at, (good, line)), times) in &outcomes {
        let times_over = if *times > 1 { format!(" ({times} times)") } else { String::new() };
        println!("{}: {line}{times_over}", requests[*at].label);
        failed += if *good { 0 } else { *times };
    }
    println!("{total} sent, {} OK, {failed} failed", total - failed);
    Ok(failed == 0)
}

/// Sends requests until none are left.
async fn send(
    client: Client,
    requests: Arc<Vec<Request>>,
    next: Arc<AtomicUsize>,
    total: usize,
) -> BTreeMap<(usize, Outcome), usize> {
    let mut outcomes = BTreeMap::new();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= total {
            return outcomes;
        }
        let at = number % requests.len();
        let Request { service, message, .. } = &requests[at];
        let outcome = match client.unary(service.path(), message).await {
            Ok(reply) => shown(*service, &reply),
            Err(error) => (false, format!("no answer: {error}")),
        };
        *outcomes.entry((at, outcome)).or_default() += 1;
    }
}

fn shown(service: Service, reply: &Reply) -> Outcome {
    let name = code_name(reply.status);
    if reply.status != 0 {
        return (false, format!("{name} {}", reply.message));
    }
    if service != Service::Authorization {
        return (true, name);
    }
    let Ok(CheckResult { status, valid_duration, valid_use_count }) = CheckResult::decode(&*reply.body)
    else {
        return (false, "OK, but the reply is no CheckResult".into());
    };
    let (status, duration) = (status.unwrap_or_default(), valid_duration.unwrap_or_default());
    let verdict = code_name(status.code.try_into().unwrap_or(u32::MAX));
    let validity = format!("for {}.{:09}s and {valid_use_count} uses", duration.seconds, duration.nanos);
    (true, format!("{name}: {verdict} {:?} {validity}", status.message))
}

fn code_name(code: u32) -> String {
    CODES.get(code as usize).map_or_else(|| format!("code {code}"), |name| (*name).into())
}

/// Reads a recording, or all recordings in a directory.
fn recorded(path: &Path, given: Option<Service>, requests: &mut Vec<Request>) -> Result<(), String> {
    let unreadable = |error| format!("cannot read {}: {error}", path.display());
    if path.is_dir() {
        let entries: Result<Vec<_>, _> = path.read_dir().map_err(unreadable)?.collect();
        let mut files: Vec<_> = entries.map_err(unreadable)?.iter().map(std::fs::DirEntry::path).collect();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "bin"));
        files.sort();
        return files.iter().try_for_each(|file| recorded(file, given, requests));
    }
    let message = std::fs::read(path).map_err(unreadable)?;
    let service = given.or_else(|| Service::of(path));
    let service = service.ok_or_else(|| format!("which service is {} for? say --service", path.display()))?;
    requests.push(Request { label: path.display().to_string(), service, message });
    Ok(())
}

/// A report from `NAME VALUE KEY=VALUE ...`.
fn made_up(text: &str, file_path: &str) -> Result<Vec<u8>, String> {
    let mut words = text.split_whitespace();
    let (Some(name), Some(number)) = (words.next(), words.next()) else {
        return Err(format!("--report {text:?}: write a name and a value"));
    };
    // The instance name that Mixer derives from the operator's.
    let name = if name.contains('.') { name.into() } else { format!("{name}.instance.istio-system") };
    let mut instance = InstanceMsg { name, value: Some(value(number)), ..InstanceMsg::default() };
    for word in words {
        let Some((key, held)) = word.split_once('=') else {
            return Err(format!("--report {text:?}: {word:?} is no KEY=VALUE"));
        };
        instance.dimensions.insert(key.into(), value(held));
    }
    let params = Params { file_path: file_path.into(), ..Default::default() };
    let type_url = "type.googleapis.com/mygrpcadapter.config.v1.Params".into();
    let adapter_config = Some(Any { type_url, value: params.encode_to_vec() });
    Ok(HandleMetricRequest { instances: vec![instance], adapter_config, ..Default::default() }
        .encode_to_vec())
}

/// A number or a boolean if it parses as one, else a string.
fn value(text: &str) -> Value {
    let kind = match (text.parse(), text.parse(), text.parse()) {
        (Ok(number), _, _) => Kind::Int64Value(number),
        (_, Ok(number), _) => Kind::DoubleValue(number),
        (_, _, Ok(truth)) => Kind::BoolValue(truth),
        _ => Kind::StringValue(text.into()),
    };
    Value { value: Some(kind) }
}
