//! Wiring: binds everything that can fail, serves, drains, exits.

mod start;

use std::io;
use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use self::start::StartError;
use self::start::{Bound, Core, bind};
use crate::admin::{self, Sources};
use crate::cli::{Args, VERSION};
use crate::frontends::envoy::ext_authz;
use crate::frontends::mixer::Mixer;
use crate::grpc::budget::Budget;
use crate::grpc::callers::Callers;
use crate::grpc::calls::Calls;
use crate::grpc::health::{self, Health};
use crate::grpc::{Dispatcher, SERVICES, Services};
use crate::journal::{self, Fsync, Journal, Unfinished};
use crate::logging::duration;
use crate::metrics::{Export, Registry};
use crate::once::Once;
use crate::policy::Rules;
use crate::process::{self, Process};
use crate::render::Format;
use crate::server::{self, Connections, Limits};
use crate::shutdown;

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
            log::warn!("connections still open at the deadline, cut drain_timeout={}", duration(args.drain_timeout));
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
    let age = |age: Option<Duration>| age.map_or_else(|| "off".into(), duration);
    let switch = |is_on: bool| if is_on { "on" } else { "off" };
    let format = match args.format {
        Format::Text => "text",
        Format::Json => "json",
    };
    let fsync = match args.fsync {
        Fsync::Never => "never".into(),
        Fsync::Interval(interval) => format!("interval={}", duration(interval)),
        Fsync::Always => String::from("always"),
    };
    log::info!(
        "starting {VERSION} volume={} format={format} fsync={fsync} rotate_size={} rotate_age={} rotate_keep={} \
         max_volume_bytes={} max_connections={} max_connection_age={} max_series={} queue_timeout={} \
         drain_delay={} drain_timeout={} tls={} caller_tokens={} {}",
        args.volume.display(),
        size(args.rotate_size),
        age(args.rotate_age),
        args.rotate_keep,
        size(args.max_volume_bytes),
        args.max_connections,
        age(args.max_connection_age),
        args.max_series,
        duration(args.queue_timeout),
        duration(args.drain_delay),
        duration(args.drain_timeout),
        switch(args.tls_cert.is_some()),
        switch(args.caller_tokens_file.is_some()),
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
