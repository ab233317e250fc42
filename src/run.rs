//! All of it put together: bind what can fail, serve, drain, end.

use std::fmt;
use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use crate::admission::Admission;
use crate::cli::Args;
use crate::counters::Counters;
use crate::health::{self, Health, Service};
use crate::mixer::{self, Mixer};
use crate::server::{self, Limits};
use crate::service::Adapter;
use crate::shutdown::{self, Signals};
use crate::sink::{Settings, Sink};
use crate::volume::Volume;
use crate::volume::retention::Retention;

/// Bytes that wait for the writer before requests have to wait themselves.
const QUEUE_BYTES: usize = 4 * 1024 * 1024;

/// How long a write may take before the volume counts as stalled.
const STALL: Duration = Duration::from_secs(5);

/// The health service can be asked after itself.
const HEALTH: Service = Service { name: "grpc.health.v1.Health", needs_volume: false };

/// Why nothing is served; sysexits(3) gave the numbers.
#[derive(Debug)]
pub enum StartError {
    /// The command line is wrong (64).
    Usage(String),
    /// The port can't be had (69).
    Port(String),
    /// The system refuses something it never should (71).
    System(String),
    /// The volume can't be written to (73).
    Volume(String),
}

impl StartError {
    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => 64,
            Self::Port(_) => 69,
            Self::System(_) => 71,
            Self::Volume(_) => 73,
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::Port(text) | Self::System(text) | Self::Volume(text) => {
                f.write_str(text)
            }
        }
    }
}

/// Everything that can fail, done: what is left is to serve.
#[derive(Debug)]
struct Bound {
    listener: TcpListener,
    mixer: Arc<Mixer>,
    signals: Signals,
}

/// Runs the adapter until a signal ends it.
pub fn run(args: Args) -> Result<ExitCode, StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let runtime =
        runtime.map_err(|error| StartError::System(format!("cannot start the runtime: {error}")))?;
    runtime.block_on(async {
        let volume = open_volume(&args.volume)?;
        let default_file = volume.resolve(args.default_file.as_bytes());
        let default_file =
            default_file.map_err(|rule| StartError::Usage(format!("--default-file: {rule}")))?;
        let signals = Signals::register()
            .map_err(|error| StartError::System(format!("cannot register for signals: {error}")))?;
        let listener = server::bind(args.port, args.reuse_port)
            .map_err(|error| StartError::Port(format!("cannot listen on port {}: {error}", args.port)))?;
        let counters = Arc::new(Counters::default());
        let sink = Sink::start(volume.clone(), settings(&args), counters)
            .map_err(|error| StartError::System(format!("cannot start the writer: {error}")))?;
        let mixer = Arc::new(Mixer {
            sink,
            volume,
            default_file,
            format: args.format,
            queue_timeout: args.queue_timeout,
            sessions: AtomicU64::new(0),
        });
        Ok(serve(Bound { listener, mixer, signals }, &args).await)
    })
}

fn settings(args: &Args) -> Settings {
    let retention = Retention {
        rotate_size: args.rotate_size,
        rotate_age: args.rotate_age,
        rotate_keep: args.rotate_keep,
        max_volume_bytes: args.max_volume_bytes,
    };
    Settings { fsync: args.fsync, retention, capacity: QUEUE_BYTES, stall: STALL }
}

fn open_volume(dir: &std::path::Path) -> Result<Volume, StartError> {
    Volume::open(dir).map_err(|error| {
        StartError::Volume(format!(
            "cannot write in the volume {}: {error}; mount one there or name another with --volume",
            dir.display()
        ))
    })
}

async fn serve(bound: Bound, args: &Args) -> ExitCode {
    let (drain_delay, drain_timeout) = (args.drain_delay, args.drain_timeout);
    let Bound { listener, mixer, mut signals } = bound;
    let health = Health::new(mixer::SERVICES.into_iter().chain([HEALTH]));
    let admission = Admission::new(args.queue_timeout);
    let adapter = Adapter { mixer: Arc::clone(&mixer), health: health.clone(), admission };
    let (delivering, told) = (Arc::clone(&mixer), health.clone());
    tokio::spawn(async move { mixer::deliver(&delivering, &told, STALL).await });
    let limits = Limits { connections: args.max_connections, connection_age: args.max_connection_age };
    match listener.local_addr() {
        Ok(address) => log::info!("listening on \"{address}\""),
        Err(error) => log::warn!("listening on an address the system can't name error={error}"),
    }
    let mut states = health.states();
    let overdue = async {
        health::closing(&mut states).await;
        tokio::time::sleep(drain_timeout).await;
    };
    let started = Instant::now();
    tokio::select! {
        outcome = server::serve(listener, adapter, limits, health.states()) => {
            if let Err(error) = outcome {
                log::error!("cannot serve error={error}");
                return ExitCode::from(71);
            }
        }
        () = overdue => log::warn!("connections still open at the deadline, cut drain_timeout={drain_timeout:?}"),
        code = shutdown::drain(&mut signals, &health, drain_delay) => return ExitCode::from(code),
    }
    let deadline = Instant::now() + drain_timeout.max(Duration::from_millis(500));
    let unwritten = mixer.sink.close(deadline);
    if unwritten > 0 {
        log::error!("the volume did not take what was queued, unacknowledged bytes={unwritten}");
        return ExitCode::from(74);
    }
    log::info!("stopped after={:?}", started.elapsed());
    ExitCode::SUCCESS
}
