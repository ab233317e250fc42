//! Wiring: binds everything that can fail, serves, drains, exits.

use std::fmt;
use std::io;
use std::net::{IpAddr, TcpListener};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::admin::{self, Sources};
use crate::cli::{Args, VERSION};
use crate::frontends::counters::Counters;
use crate::frontends::envoy::ext_authz::audit::Audit;
use crate::frontends::envoy::ext_authz::{self, ExtAuthz};
use crate::frontends::envoy::files::Files;
use crate::frontends::envoy::log::Log;
use crate::frontends::mixer::Mixer;
use crate::grpc::budget::Budget;
use crate::grpc::callers::Callers;
use crate::grpc::calls::Calls;
use crate::grpc::health::{self, Health};
use crate::grpc::{Dispatcher, SERVICES, Services};
use crate::histogram::{self, Histogram};
use crate::journal::{self, Fsync, Journal, Unfinished};
use crate::metrics::{Export, Registry};
use crate::once::Once;
use crate::policy::{Policy, RuleFile, Rules};
use crate::process::{self, Process};
use crate::reload;
use crate::render::Format;
use crate::server::tls::{self, Tls};
use crate::server::{self, Connections, Limits};
use crate::shutdown::{self, Signals};
use crate::volume::pattern::Pattern;
use crate::volume::retention::Retention;
use crate::volume::{FilePath, Volume};

/// Limit on queued bytes, above which requests wait.
const QUEUE_BYTES: usize = 256 * 1024;

/// The duration of a write after which the volume counts as stalled.
const STALL: Duration = Duration::from_secs(5);

/// Why the adapter could not start; exit codes follow sysexits(3).
#[derive(Debug)]
pub enum StartError {
    /// The command line is wrong (64).
    Usage(String),
    /// A file of keys, tokens or certificates cannot be read (66).
    Keys(String),
    /// The port cannot be bound (69).
    Port(String),
    /// The system refuses a resource (71).
    System(String),
    /// The volume is not writable (73).
    Volume(String),
}

impl StartError {
    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => 64,
            Self::Keys(_) => 66,
            Self::Port(_) => 69,
            Self::System(_) => 71,
            Self::Volume(_) => 73,
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text)
            | Self::Keys(text)
            | Self::Port(text)
            | Self::System(text)
            | Self::Volume(text) => f.write_str(text),
        }
    }
}

/// An adapter that is ready to serve.
#[derive(Debug)]
struct Bound {
    listener: TcpListener,
    admin: Option<TcpListener>,
    tls: Option<Tls>,
    callers: Option<Callers>,
    files: reload::Files,
    core: Core,
    ext_authz: ext_authz::Service,
    signals: Signals,
}

/// The core that front ends use.
#[derive(Debug)]
struct Core {
    journal: Option<Arc<Journal>>,
    histogram: Arc<Histogram>,
    policy: Arc<Policy>,
    log: Arc<Log>,
    counters: Arc<Counters>,
}

/// Runs the adapter until a signal stops it. Logs these warnings once it has started.
pub fn run(args: Args, warnings: &[String]) -> Result<ExitCode, StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let runtime =
        runtime.map_err(|error| StartError::System(format!("cannot start the runtime: {error}")))?;
    runtime.block_on(async {
        let bound = bind(&args)?;
        say_what(&args, bound.core.policy.rules().as_deref());
        warnings.iter().for_each(|warning| log::warn!("{warning}"));
        Ok(serve(bound, &args).await)
    })
}

fn bind(args: &Args) -> Result<Bound, StartError> {
    let signals = Signals::register()
        .map_err(|error| StartError::System(format!("cannot register for signals: {error}")))?;
    if args.port != 0 && args.metrics_port == Some(args.port) && overlap(args.address, args.metrics_address) {
        let text = "--metrics-port: that is the port for gRPC; name another one, or off";
        return Err(StartError::Usage(text.into()));
    }
    let authorizing = args.auth().check().map_err(StartError::Usage)?;
    let tls = match tls::Settings::check(&args.tls()).map_err(StartError::Usage)? {
        Some(settings) => Some(Tls::open(settings).map_err(StartError::Keys)?),
        None => None,
    };
    let keys = args.auth_keys_file.as_deref().map(|path| read("keys", path, RuleFile::open)).transpose()?;
    let callers = callers(args, tls.is_some())?;
    let mut files = reload::Files::default();
    files.0.extend(keys.clone().map(|keys| Box::new(keys) as _));
    files.0.extend(callers.as_ref().map(Callers::files));
    files.0.extend(tls.as_ref().map(Tls::files));
    let pattern = Pattern::parse(&args.access_log);
    let pattern = pattern.map_err(|rule| StartError::Usage(format!("--access-log: {rule}")))?;
    let journal = match args.volume() {
        None => None,
        Some(_) => Some(Arc::new(open_journal(args, &pattern)?)),
    };
    let audit = audit(args, journal.as_ref())?;
    let listen = |address, port, remedy| listen(address, port, args.reuse_port, remedy);
    let listener = listen(args.address, args.port, "name another one")?;
    let remedy = "name another one with --metrics-port, or off";
    let admin = args.metrics_port.map(|port| listen(args.metrics_address, port, remedy)).transpose()?;
    let histogram = Arc::new(Histogram::new(histogram::Settings {
        buckets: args.buckets.0.clone(),
        max_series: args.max_series as usize,
        keep_query: args.keep_query,
    }));
    let log = Arc::new(Log::new(journal.clone(), Arc::clone(&histogram), Files::new(pattern)));
    let (policy, counters) = (Arc::new(Policy::new(keys)), Arc::<Counters>::default());
    let authorizer = ExtAuthz::new(authorizing, Arc::clone(&policy));
    let ext_authz = ext_authz::Service { authorizer, audit, counters: Arc::clone(&counters) };
    let core = Core { journal, histogram, policy, log, counters };
    Ok(Bound { listener, admin, tls, callers, files, core, ext_authz, signals })
}

fn read<T>(what: &str, path: &Path, open: impl FnOnce(&Path) -> io::Result<T>) -> Result<T, StartError> {
    open(path)
        .map_err(|error| StartError::Keys(format!("cannot read the {what} in {}: {error}", path.display())))
}

/// The tokens of callers. Without encryption anyone on the way could read them.
fn callers(args: &Args, has_tls: bool) -> Result<Option<Callers>, StartError> {
    let Some(path) = &args.caller_tokens_file else { return Ok(None) };
    if !has_tls && !args.caller_tokens_without_tls {
        let text = "--caller-tokens-file: tokens would travel in plaintext; add --tls-cert and --tls-key, or \
                    --caller-tokens-without-tls if something else encrypts, such as a sidecar";
        return Err(StartError::Usage(text.into()));
    }
    read("tokens", path, Callers::open).map(Some)
}

/// Whether two listeners with the same port would meet.
fn overlap(one: Option<IpAddr>, other: Option<IpAddr>) -> bool {
    one.zip(other).is_none_or(|(one, other)| one == other)
}

fn listen(
    address: Option<IpAddr>,
    port: u16,
    reuse_port: bool,
    remedy: &str,
) -> Result<TcpListener, StartError> {
    server::bind(address, port, reuse_port).map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => format!("; {remedy}"),
            io::ErrorKind::AddrNotAvailable => "; name an address of this machine".into(),
            io::ErrorKind::PermissionDenied => {
                format!("; {remedy}: ports below 1024 need CAP_NET_BIND_SERVICE")
            }
            _ => String::new(),
        };
        let on = address.map_or_else(String::new, |address| format!("{address} "));
        StartError::Port(format!("cannot listen on {on}port {port}: {error}{remedy}"))
    })
}

/// The destination of audit records of Envoy's checks.
fn audit(args: &Args, journal: Option<&Arc<Journal>>) -> Result<Option<Audit>, StartError> {
    let Some(path) = args.auth_audit_file.as_ref().filter(|path| !path.is_empty()) else { return Ok(None) };
    let Some(journal) = journal else {
        let text = "--auth-audit-file: --volume none leaves nowhere to write; name a volume, or no file";
        return Err(StartError::Usage(text.into()));
    };
    let to = journal.destination(path.as_bytes(), None);
    let to = to.map_err(|rule| StartError::Usage(format!("--auth-audit-file: {rule}")))?;
    Ok(Some(Audit { journal: Arc::clone(journal), to }))
}

fn open_journal(args: &Args, access_log: &Pattern) -> Result<Journal, StartError> {
    let mut volume = Volume::open(&args.volume).map_err(|error| {
        StartError::Volume(format!(
            "cannot write in the volume {}: {error}; {}",
            args.volume.display(),
            advice(&error)
        ))
    })?;
    let default_file = volume.resolve(args.default_file.as_bytes());
    let default_file = default_file.map_err(|rule| StartError::Usage(format!("--default-file: {rule}")))?;
    let held = volume.hold_lines(access_log);
    held.map_err(|rule| StartError::Usage(format!("--access-log: {rule}")))?;
    Journal::start(volume, settings(args, default_file))
        .map_err(|error| StartError::System(format!("cannot start the writer: {error}")))
}

/// A remedy for a volume that is not writable.
fn advice(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied {
        "let the adapter's group write there: fsGroup, or on a hostPath volume chgrp and chmod g+w"
    } else {
        "mount one there or name another with --volume"
    }
}

fn settings(args: &Args, default_file: FilePath) -> journal::Settings {
    let retention = Retention {
        rotate_size: args.rotate_size,
        rotate_age: args.rotate_age,
        rotate_keep: args.rotate_keep,
        max_volume_bytes: args.max_volume_bytes,
    };
    journal::Settings {
        default_file,
        format: args.format,
        fsync: args.fsync,
        retention,
        capacity: QUEUE_BYTES,
        stall: STALL,
    }
}

async fn serve(bound: Bound, args: &Args) -> ExitCode {
    let Bound { listener, admin, tls, callers, files, core, ext_authz, mut signals } = bound;
    process::take_descriptors(args.max_connections);
    let health = Health::new(&SERVICES);
    let budget = Arc::new(Budget::new(args.queue_timeout, args.max_connections as usize));
    let (loads, closed, journal) = (Arc::clone(&budget), Arc::clone(&budget), core.journal.clone());
    tokio::spawn(async move {
        loads.give_back_after_loads(|| journal.iter().for_each(|journal| journal.free_spare())).await
    });
    say_where(&listener, admin.as_ref());
    start_delivering(core.journal.clone(), &health);
    let services = Arc::new(services(&core, ext_authz, callers, health.clone(), budget));
    let open = Arc::new(Connections::default());
    if let Some(admin) = admin {
        let mut registry = registry(&core, &services, &open);
        registry.add(Arc::new(files));
        if let Some(tls) = &tls {
            registry.add(Arc::new(tls.clone()));
        }
        let health = health.clone();
        tokio::spawn(admin::serve(admin, Sources { registry, health }));
    }
    let dispatcher = move |connection| Dispatcher { services: Arc::clone(&services), connection };
    let limits = Limits {
        open,
        budget: closed,
        connections: args.max_connections,
        told: Arc::default(),
        connection_age: args.max_connection_age,
        tls,
    };
    let mut states = health.states();
    let overdue = async {
        health::closing(&mut states).await;
        tokio::time::sleep(args.drain_timeout).await;
    };
    let served = async {
        server::serve(listener, dispatcher, limits, health.states()).await?;
        core.log.settled().await;
        io::Result::Ok(())
    };
    tokio::select! {
        outcome = served => {
            if let Err(error) = outcome {
                log::error!("cannot serve error={error}");
                return ExitCode::from(71);
            }
        }
        () = overdue => {
            log::warn!("connections still open at the deadline, cut drain_timeout={:?}", args.drain_timeout);
        }
        code = shutdown::drain(&mut signals, &health, args.drain_delay) => return ExitCode::from(code),
    }
    finish(&core, args.drain_timeout).await
}

fn services(
    core: &Core,
    ext_authz: ext_authz::Service,
    callers: Option<Callers>,
    health: Health,
    budget: Arc<Budget>,
) -> Services {
    let Core { journal, histogram, policy, log, counters } = core;
    let counters = Arc::clone(counters);
    let mixer = Mixer::new(journal.clone(), Arc::clone(histogram), Arc::clone(policy), Arc::clone(&counters));
    let (log, calls) = (Arc::clone(log), Arc::new(Calls::new(&SERVICES)));
    Services { mixer, log, ext_authz, counters, health, callers, calls, budget, unknown: Once::default() }
}

/// All metrics, in page order.
fn registry(core: &Core, services: &Services, open: &Arc<Connections>) -> Registry {
    let journal: Arc<dyn Export> = match &core.journal {
        Some(journal) => Arc::clone(journal) as _,
        None => Arc::new(journal::Counters::default()),
    };
    let mut registry = Registry::default();
    registry.add(Arc::clone(&services.calls) as _);
    registry.add(Arc::clone(&services.budget) as _);
    registry.add(Arc::clone(open) as _);
    registry.add(services.mixer.instances());
    registry.add(Arc::clone(&services.counters) as _);
    registry.add(Arc::clone(&services.log) as _);
    registry.add(journal);
    registry.add(Arc::new(services.health.clone()));
    registry.add(Arc::new(Process::starting()));
    registry.add(Arc::clone(&core.histogram) as _);
    registry
}

fn start_delivering(journal: Option<Arc<Journal>>, health: &Health) {
    let Some(journal) = journal else { return };
    let health = health.clone();
    tokio::spawn(async move { journal.deliver(|is_accepting| health.set_reports(is_accepting)).await });
}

/// Logs the version and the settings that matter most, without a secret.
fn say_what(args: &Args, rules: Option<&Rules>) {
    let size = |bytes: Option<u64>| bytes.map_or_else(|| "off".into(), |bytes| bytes.to_string());
    let age = |age: Option<Duration>| age.map_or_else(|| "off".into(), |age| format!("{age:?}"));
    let format = match args.format {
        Format::Text => "text",
        Format::Json => "json",
    };
    let fsync = match args.fsync {
        Fsync::Never => "never".into(),
        Fsync::Interval(interval) => format!("interval={interval:?}"),
        Fsync::Always => String::from("always"),
    };
    log::info!(
        "starting {VERSION} volume={} format={format} fsync={fsync} rotate_size={} rotate_age={} rotate_keep={} \
         max_volume_bytes={} max_connections={} max_connection_age={} max_series={} queue_timeout={:?} \
         drain_delay={:?} drain_timeout={:?} {}",
        args.volume.display(),
        size(args.rotate_size),
        age(args.rotate_age),
        args.rotate_keep,
        size(args.max_volume_bytes),
        args.max_connections,
        age(args.max_connection_age),
        args.max_series,
        args.queue_timeout,
        args.drain_delay,
        args.drain_timeout,
        rules.map_or_else(|| "keys=none".into(), Rules::to_string),
    );
}

fn say_where(listener: &TcpListener, admin: Option<&TcpListener>) {
    for (listener, what) in [(Some(listener), ""), (admin, "metrics ")] {
        match listener.map(TcpListener::local_addr) {
            Some(Ok(address)) => log::info!("{what}listening on \"{address}\""),
            Some(Err(error)) => {
                log::warn!("{what}listening on an address the system can't name error={error}")
            }
            None => {}
        }
    }
}

/// Writes queued records and syncs files.
async fn finish(core: &Core, drain_timeout: Duration) -> ExitCode {
    let dropped = core.log.end().await;
    if dropped > 0 {
        log::error!("access logs are dropped, the volume did not take them entries={dropped}");
    }
    let deadline = Instant::now() + drain_timeout.max(Duration::from_millis(500));
    let left = core.journal.as_ref().map_or_else(Unfinished::default, |journal| journal.close(deadline));
    if left.bytes > 0 {
        log::error!("the volume did not take what was queued, unacknowledged bytes={}", left.bytes);
    }
    if left.files > 0 {
        log::error!("acknowledged reports may not be on disk files={}", left.files);
    }
    if dropped > 0 || left != Unfinished::default() {
        return ExitCode::from(74);
    }
    log::info!("stopped");
    ExitCode::SUCCESS
}
