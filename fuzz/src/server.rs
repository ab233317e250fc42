//! A whole adapter in this process, on loopback, kept from one input to the next.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mygrpcadapter::frontends::counters::Counters;
use mygrpcadapter::frontends::envoy::ext_authz::audit::Audit;
use mygrpcadapter::frontends::envoy::ext_authz::{self, ExtAuthz};
use mygrpcadapter::frontends::envoy::files::Files;
use mygrpcadapter::frontends::envoy::log::Log;
use mygrpcadapter::frontends::mixer::Mixer;
use mygrpcadapter::grpc::budget::Budget;
use mygrpcadapter::grpc::calls::Calls;
use mygrpcadapter::grpc::health::Health;
use mygrpcadapter::grpc::{Dispatcher, SERVICES, Services};
use mygrpcadapter::histogram::{self, Histogram};
use mygrpcadapter::journal::{self, Fsync, Journal};
use mygrpcadapter::once::Once;
use mygrpcadapter::policy::Policy;
use mygrpcadapter::render::Format;
use mygrpcadapter::server::{Limits, serve};
use mygrpcadapter::volume::Volume;
use mygrpcadapter::volume::pattern::Pattern;
use mygrpcadapter::volume::retention::Retention;
use tokio::runtime::Runtime;

use crate::scratch;

/// Calls after which the files that inputs have named are deleted.
const CALLS_PER_VOLUME: u32 = 500;
/// No write to memory takes as long.
const STALL: Duration = Duration::from_secs(60);

/// The adapter, and the runtime that both it and its clients live on.
#[derive(Debug)]
pub struct Server {
    /// Drives everything while something is blocked on.
    pub runtime: Runtime,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its volume.
    pub volume: PathBuf,
    calls: u32,
}

impl Server {
    /// Starts one.
    pub fn start(name: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        listener.set_nonblocking(true).expect("a socket that doesn't block");
        let address = listener.local_addr().expect("an address");
        let dir = scratch(name);
        let volume = Volume::open(&dir).expect("a volume");
        let retention = Retention { rotate_size: Some(64 * 1024), rotate_keep: 2, ..Retention::default() };
        let patience = Duration::from_secs(2);
        let settings = journal::Settings {
            default_file: volume.resolve(b"out.txt").expect("a path"),
            format: Format::Text,
            fsync: Fsync::Never,
            retention,
            capacity: 4 << 20,
            stall: STALL,
        };
        let journal = Journal::start(volume, settings).expect("a writer");
        let settings = histogram::Settings { buckets: vec![0.1, 1.0], max_series: 100, keep_query: false };
        let (journal, counters) = (Arc::new(journal), Arc::<Counters>::default());
        let policy = Arc::new(Policy::new(None));
        let histogram = Arc::new(Histogram::new(settings));
        let pattern = Pattern::parse("{log_name}/access.log").expect("a pattern");
        let log = Log::new(Some(Arc::clone(&journal)), Arc::clone(&histogram), Files::new(pattern));
        let mixer =
            Mixer::new(Some(Arc::clone(&journal)), histogram, Arc::clone(&policy), Arc::clone(&counters));
        let to = journal.destination(b"audit.txt", None).expect("a path");
        let settings = ext_authz::settings::Flags::default().check().expect("settings");
        let ext_authz = ext_authz::Service {
            authorizer: ExtAuthz::new(settings, policy),
            audit: Some(Audit { journal: Arc::clone(&journal), to }),
            counters: Arc::clone(&counters),
        };
        let health = Health::new(&SERVICES);
        let services = Arc::new(Services {
            mixer,
            log: Arc::new(log),
            ext_authz,
            counters,
            callers: None,
            calls: Arc::new(Calls::new(&SERVICES)),
            health: health.clone(),
            budget: Arc::new(Budget::new(patience, 64)),
            unknown: Once::default(),
        });
        let limits = Limits {
            open: Arc::default(),
            budget: Arc::clone(&services.budget),
            connections: 64,
            told: Arc::default(),
            connection_age: None,
            tls: None,
        };
        let dispatcher = move |connection| Dispatcher { services: Arc::clone(&services), connection };
        let states = health.states();
        runtime.spawn(async move {
            journal.deliver(|is_accepting| health.set_reports(is_accepting)).await;
        });
        runtime.spawn(async move {
            serve(listener, dispatcher, limits, states).await.expect("a server that serves")
        });
        Self { runtime, address, volume: dir, calls: 0 }
    }

    /// Empties the volume now and then: inputs name files anywhere in it.
    pub fn before_call(&mut self) {
        self.calls += 1;
        if self.calls.is_multiple_of(CALLS_PER_VOLUME) {
            empty(&self.volume);
        }
    }
}

fn empty(volume: &Path) {
    for entry in std::fs::read_dir(volume).expect("a volume").flatten() {
        let outcome = match entry.file_type() {
            Ok(kind) if kind.is_dir() => std::fs::remove_dir_all(entry.path()),
            _ => std::fs::remove_file(entry.path()),
        };
        outcome.expect("an empty volume");
    }
}
