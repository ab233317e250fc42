//! Changes of keys, shutdown and handover: no valid check is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use mygrpcadapter::pb::grpc::health::v1::health_check_response::ServingStatus;
use rustix::process::Signal;

use super::served::{CHECK, SERVICE, asked, asking, authorizing, outcome};
use crate::handover::Caller;
use crate::health;
use crate::support::client::framed;
use crate::support::{Adapter, Client, Scratch, until};

const ALLOWED: i32 = 200;

/// Sends checks with a token until stopped; each must be allowed.
async fn always_let_in(client: Client, token: &'static str, stop: Arc<AtomicBool>) -> usize {
    let mut asked_for = 0;
    while !stop.load(Ordering::Relaxed) {
        assert_eq!(asked(&client, &asking(token)).await, (ALLOWED, "key".into()), "{token}");
        asked_for += 1;
    }
    asked_for
}

#[tokio::test]
async fn keys_are_rotated_and_no_request_is_refused() {
    let scratch = Scratch::new();
    let (file, next) = (scratch.path().join("keys"), scratch.path().join("next"));
    let put = |keys: &str| {
        std::fs::write(&next, keys).unwrap();
        std::fs::rename(&next, &file).unwrap();
    };
    put("old\n");
    let adapter = Adapter::start(&["--auth-keys-file", file.to_str().unwrap()]).await;
    let client = adapter.client().await;
    let status = async |token| asked(&client, &asking(token)).await.0;
    let ask = |token| {
        let stop = Arc::new(AtomicBool::new(false));
        (tokio::spawn(always_let_in(client.clone(), token, Arc::clone(&stop))), stop)
    };
    let (old, stop_old) = ask("old");
    assert_eq!(status("new").await, 403);
    put("old\nnew\n");
    while status("new").await != ALLOWED {}
    let (new, stop_new) = ask("new");
    stop_old.store(true, Ordering::Relaxed);
    assert!(old.await.unwrap() > 0);
    put("new\n");
    while status("old").await != 403 {}
    // An invalid keys file changes nothing.
    put("principal *\n");
    adapter.logged("cannot read the keys, the last ones hold").await;
    assert_eq!((status("new").await, status("old").await), (ALLOWED, 403));
    stop_new.store(true, Ordering::Relaxed);
    assert!(new.await.unwrap() > 0);
}

#[tokio::test]
async fn a_check_in_flight_is_answered_when_the_adapter_stops() {
    for length in [0, 1 << 20] {
        let mut adapter = authorizing("abc\n", &["--drain-timeout", "30s"]).await;
        let client = adapter.client().await;
        assert_eq!(health::check(&client, SERVICE).await, Ok(ServingStatus::Serving));
        let mut request = super::http(&[(super::served::TOKEN, "abc")]);
        request.body = "b".repeat(length);
        let body = framed(&super::check(Some(request), ""));
        let mut call = client.open(CHECK).await.unwrap();
        call.send(body.slice(..body.len() / 2), false).unwrap();
        until("it is in flight", || {
            (adapter.page().single("mygrpcadapter_requests_in_flight") == 1.0).then_some(())
        })
        .await;
        adapter.signal(Signal::TERM);
        until("it drains", || (adapter.page().single("mygrpcadapter_draining") == 1.0).then_some(())).await;
        call.send(body.slice(body.len() / 2..), true).unwrap();
        assert_eq!(outcome(&call.reply().await.unwrap()), (ALLOWED, "key".into()));
        drop(client);
        assert_eq!(adapter.exit().await, 0);
    }
}

/// Callers with a valid token, each on its own connections, until stopped.
struct Asking {
    tasks: tokio::task::JoinSet<usize>,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
}

impl Asking {
    fn start(port: u16, callers: usize) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..callers {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            tasks.spawn(async move {
                let mut caller = Caller::new(port);
                while !stop.load(Ordering::Relaxed) {
                    let reply = caller.call(CHECK, &asking("abc")).await;
                    assert_eq!(outcome(&reply), (ALLOWED, "key".into()));
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                caller.connects
            });
        }
        Self { tasks, stop, answered }
    }

    /// Waits for `count` further answers.
    async fn more(&mut self, count: usize) {
        let enough = self.answered.load(Ordering::Relaxed) + count;
        until("more answers", || (self.answered.load(Ordering::Relaxed) >= enough).then_some(())).await;
        assert!(self.tasks.try_join_next().is_none(), "a caller has ended");
    }
}

#[tokio::test]
async fn a_new_process_takes_over_the_port_and_nobody_is_refused() {
    let scratch = Scratch::new();
    let (volume, keys) = (scratch.dir("volume"), scratch.path().join("keys"));
    std::fs::write(&keys, "abc\n").unwrap();
    let args = ["--reuse-port", "--drain-delay", "300ms", "--auth-keys-file", keys.to_str().unwrap()];
    let args = [&args[..], &["--auth-audit-file", "audit.txt"]].concat();
    let mut old = Adapter::start_on(&volume, &args).await;
    let mut asking = Asking::start(old.port, 6);
    asking.more(100).await;
    for _ in 0..3 {
        let port = old.port.to_string();
        let new = Adapter::start_on(&volume, &[&[&*port], &args[..]].concat()).await;
        assert_eq!(new.port, old.port);
        asking.more(100).await;
        assert_eq!(old.stop().await, 0);
        asking.more(100).await;
        old = new;
    }
    asking.stop.store(true, Ordering::Relaxed);
    let connects = asking.tasks.join_all().await;
    assert!(connects.iter().all(|connects| *connects >= 2), "{connects:?}");
    let answered = asking.answered.load(Ordering::Relaxed);
    assert_eq!(old.stop().await, 0);
    let audit = String::from_utf8(old.read("audit.txt")).unwrap();
    assert_eq!(audit.lines().filter(|line| line.contains("verdict=allow reason=key")).count(), answered);
    assert_eq!(audit.lines().count(), answered);
}
