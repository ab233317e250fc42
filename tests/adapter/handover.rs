//! Old connections and processes hand over to new ones without a failed call.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use tokio::task::JoinHandle;

use crate::support::client::framed;
use crate::support::frames::{DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, header_block};
use crate::support::message::{METRIC, Shape, assert_each_once};
use crate::support::{Adapter, Client, PATIENCE, Reply, Scratch, until};

const SHAPE: Shape = Shape { file: "out.txt", padding: 100 };

/// A client that behaves like grpc-go: one connection, replaced after a GOAWAY.
pub struct Caller {
    port: u16,
    client: Option<Client>,
    /// How often it has connected.
    pub connects: usize,
}

impl Caller {
    pub fn new(port: u16) -> Self {
        Self { port, client: None, connects: 0 }
    }

    /// Makes one call. Retries only if the server has not processed it.
    pub async fn call(&mut self, path: &str, message: &[u8]) -> Reply {
        loop {
            let client = match &self.client {
                Some(client) => client,
                None => {
                    self.connects += 1;
                    let address = ("127.0.0.1", self.port);
                    self.client.insert(Client::connect(address).await.expect("someone listens"))
                }
            };
            match client.unary(path, message).await {
                Ok(reply) => return reply,
                Err(error) => {
                    let of_h2 = error.get_ref().and_then(|error| error.downcast_ref::<h2::Error>());
                    let goes_away = of_h2.is_some_and(|error| error.is_go_away() && error.is_remote());
                    assert!(goes_away, "a call failed: {error:?}");
                    self.client = None;
                }
            }
        }
    }
}

/// Callers that run until stopped.
struct Callers {
    tasks: Vec<JoinHandle<(Vec<String>, usize)>>,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
}

impl Callers {
    /// `fresh` callers use a new connection for each call.
    fn start(port: u16, count: usize, fresh: bool) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let task = |caller: usize| {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            tokio::spawn(async move {
                let (mut names, mut caller_of) = (Vec::new(), Caller::new(port));
                while !stop.load(Ordering::Relaxed) {
                    let name = format!("{fresh}-{caller}-{}", names.len());
                    assert_eq!(caller_of.call(METRIC, &SHAPE.message(&name)).await, Reply::default());
                    names.push(name);
                    done.fetch_add(1, Ordering::Relaxed);
                    if fresh {
                        caller_of.client = None;
                    }
                }
                (names, caller_of.connects)
            })
        };
        let tasks = (0..count).map(task).collect();
        Self { tasks, stop, done }
    }

    /// Waits until this many more calls are done.
    async fn more(&self, calls: usize) {
        let enough = self.done.load(Ordering::Relaxed) + calls;
        until("more calls", || {
            let failed = self.tasks.iter().any(JoinHandle::is_finished);
            (failed || self.done.load(Ordering::Relaxed) >= enough).then_some(())
        })
        .await;
    }

    /// The acknowledged names, and the number of connections per caller.
    async fn stop(self) -> (Vec<String>, Vec<usize>) {
        self.stop.store(true, Ordering::Relaxed);
        let (mut names, mut connects) = (Vec::new(), Vec::new());
        for task in self.tasks {
            let (of_caller, connected) = task.await.expect("no call fails");
            names.extend(of_caller);
            connects.push(connected);
        }
        (names, connects)
    }
}

#[tokio::test]
async fn connections_beyond_the_age_get_a_goaway_and_nothing_is_lost() {
    let adapter = Adapter::start(&["--max-connection-age", "100ms"]).await;
    let callers = Callers::start(adapter.port, 6, false);
    let deadline = Instant::now() + PATIENCE;
    let started = Instant::now();
    while started.elapsed().as_millis() < 1200 {
        callers.more(100).await;
        assert!(Instant::now() < deadline);
    }
    let (acknowledged, connects) = callers.stop().await;
    assert!(connects.iter().all(|connects| *connects >= 3), "{connects:?}");
    let written = SHAPE.names(&adapter.read("out.txt"));
    assert_eq!(written.len(), acknowledged.len());
    assert_each_once(&acknowledged, &written);
}

#[tokio::test]
async fn a_call_that_is_open_when_its_connection_is_old_is_still_answered() {
    let adapter = Adapter::start(&["--max-connection-age", "100ms"]).await;
    let mut frames = Frames::greet(adapter.port);
    frames.send(HEADERS, END_HEADERS, 1, &header_block(METRIC));
    let body = framed(&SHAPE.message("slow"));
    frames.send(DATA, 0, 1, &body[..10]);
    // The first GOAWAY announces the shutdown; after its acknowledgement the second
    // names the last stream.
    let first = frames.await_frame(GOAWAY, |_| true);
    assert_eq!(first.payload[..8], [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    let last = frames.await_frame(GOAWAY, |_| true);
    assert_eq!(last.payload[..8], [0, 0, 0, 1, 0, 0, 0, 0]);
    frames.send(DATA, END_STREAM, 1, &body[10..]);
    frames.await_empty_reply(1);
    // Then it closes the connection.
    while frames.try_receive().is_ok() {}
    assert_eq!(SHAPE.names(&adapter.read("out.txt")), ["slow"]);
}

#[tokio::test]
async fn without_an_age_connections_stay() {
    let adapter = Adapter::start(&[]).await;
    let callers = Callers::start(adapter.port, 2, false);
    callers.more(500).await;
    let (_, connects) = callers.stop().await;
    assert_eq!(connects, [1, 1]);
}

#[tokio::test]
async fn a_new_process_takes_over_the_port_and_no_call_fails() {
    let scratch = Scratch::new();
    let volume = scratch.dir("volume");
    let args = ["--reuse-port", "--drain-delay", "300ms"];
    let mut old = Adapter::start_on(&volume, &args).await;
    let lasting = Callers::start(old.port, 4, false);
    let fresh = Callers::start(old.port, 2, true);
    lasting.more(100).await;
    for _ in 0..3 {
        let port = old.port.to_string();
        let words = [&[&*port], &args[..]].concat();
        let new = Adapter::start_on(&volume, &words).await;
        assert_eq!(new.port, old.port);
        fresh.more(50).await;
        assert_eq!(old.stop().await, 0);
        lasting.more(100).await;
        fresh.more(50).await;
        old = new;
    }
    let (mut acknowledged, connects) = lasting.stop().await;
    assert!(connects.iter().all(|connects| *connects >= 2), "{connects:?}");
    acknowledged.extend(fresh.stop().await.0);
    assert_eq!(old.stop().await, 0);
    let written = SHAPE.names(&old.read("out.txt"));
    assert_eq!(written.len(), acknowledged.len());
    assert_each_once(&acknowledged, &written);
}

#[tokio::test]
async fn without_reuse_port_a_second_process_is_refused_the_port() {
    for (first, second) in [(&[][..], &["--reuse-port"][..]), (&["--reuse-port"], &[])] {
        let adapter = Adapter::start(first).await;
        let port = adapter.port.to_string();
        let volume = adapter.volume.to_str().unwrap();
        let words = [&[&*port, "--volume", volume, "--metrics-port", "off"], second].concat();
        let output =
            std::process::Command::new(crate::support::program::PROGRAM).args(words).output().unwrap();
        assert_eq!(output.status.code(), Some(69));
        assert!(TcpStream::connect(("127.0.0.1", adapter.port)).is_ok());
    }
}
