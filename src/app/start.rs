//! Binds and opens everything that can fail, before anything is served.

use std::fmt;
use std::io;
use std::net::{IpAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::cli::Args;
use crate::frontends::counters::Counters;
use crate::frontends::envoy::ext_authz::audit::Audit;
use crate::frontends::envoy::ext_authz::{self, ExtAuthz};
use crate::frontends::envoy::files::Files;
use crate::frontends::envoy::log::Log;
use crate::grpc::callers::Callers;
use crate::histogram::{self, Histogram};
use crate::journal::{self, Journal};
use crate::policy::{Policy, RuleFile};
use crate::reload;
use crate::server;
use crate::server::tls::{self, Tls};
use crate::shutdown::Signals;
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
pub(super) struct Bound {
    pub(super) listener: TcpListener,
    pub(super) admin: Option<TcpListener>,
    pub(super) tls: Option<Tls>,
    pub(super) callers: Option<Callers>,
    pub(super) files: reload::Files,
    pub(super) core: Core,
    pub(super) ext_authz: ext_authz::Service,
    pub(super) signals: Signals,
}

/// The core that front ends use.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) journal: Option<Arc<Journal>>,
    pub(super) histogram: Arc<Histogram>,
    pub(super) policy: Arc<Policy>,
    pub(super) log: Arc<Log>,
    pub(super) counters: Arc<Counters>,
}

pub(super) fn bind(args: &Args) -> Result<Bound, StartError> {
    let signals = Signals::register()
        .map_err(|error| StartError::System(format!("cannot register for signals: {error}")))?;
    if args.port != 0 && args.metrics_port == Some(args.port) && overlap(args.address, args.metrics_address) {
        let text = "--metrics-port: that is the port for gRPC; name another one, or off";
        return Err(StartError::Usage(text.into()));
    }
    let authorizing = args.auth().check().map_err(StartError::Usage)?;
    let tls = tls::Settings::check(&args.tls()).map_err(StartError::Usage)?;
    let tls = tls.map(Tls::open).transpose().map_err(StartError::Keys)?;
    let keys = args.auth_keys_file.as_deref().map(|path| read("keys", path, RuleFile::open)).transpose()?;
    let callers = callers(args, tls.is_some())?;
    let mut files = reload::Files::default();
    files.0.extend(keys.clone().map(|keys| Box::new(keys) as _));
    files.0.extend(callers.as_ref().map(Callers::files));
    files.0.extend(tls.as_ref().map(Tls::files));
    let pattern = Pattern::parse(&args.access_log);
    let pattern = pattern.map_err(|rule| StartError::Usage(format!("--access-log: {rule}")))?;
    let journal = args.volume().map(|volume| open_journal(volume, args, &pattern)).transpose()?.map(Arc::new);
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

fn open_journal(dir: &Path, args: &Args, access_log: &Pattern) -> Result<Journal, StartError> {
    let mut volume = Volume::open(dir).map_err(|error| {
        StartError::Volume(format!(
            "cannot write in the volume {}: {error}; {}",
            dir.display(),
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
