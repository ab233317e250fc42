//! Senders of reports to all handlers and of authorization checks.

use std::net::Ipv4Addr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mygrpcadapter::pb::authorization::{HandleAuthorizationRequest, InstanceMsg, SubjectMsg};
use mygrpcadapter::pb::istio::mixer::adapter::model::v1beta1::CheckResult;
use mygrpcadapter::pb::istio::policy::v1beta1::{Value, value::Value as Kind};
use mygrpcadapter::pb::mygrpcadapter::config::v1::Params;
use prost::Message;
use tokio::sync::Mutex;

use crate::account::Outcome;
use crate::client::Client;
use crate::random::Random;
use crate::records::own;
use crate::shared::Shared;

const METRIC: &str = "/metric.HandleMetricService/HandleMetric";
const AUTHORIZE: &str = "/authorization.HandleAuthorizationService/HandleAuthorization";
const CONNECTIONS: usize = 4;
const SENDERS: usize = 6;
/// A sender's longest pause.
const PAUSE: u64 = 20;
const OK: u32 = 0;
const PERMISSION_DENIED: i32 = 7;

// grpc-go's back-off: at once after a lost connection, then after one second, each
// time 1.6 times longer, varied by a fifth, up to two minutes. Here a second is 20
// ms, so that a kill costs only a moment.
const FIRST: Duration = Duration::from_millis(20);
const FACTOR: f64 = 1.6;
const LONGEST: Duration = Duration::from_millis(2400);

/// A connection, reopened when it is lost.
#[derive(Debug)]
struct Channel {
    port: u16,
    shared: Arc<Shared>,
    state: Mutex<(Option<Client>, u64, Random)>,
}

impl Channel {
    /// The current client, with its number.
    async fn client(&self) -> (Client, u64) {
        let mut state = self.state.lock().await;
        let mut pause = FIRST;
        loop {
            if let (Some(client), number, _) = &*state {
                return (client.clone(), *number);
            }
            let attempt = Client::connect((Ipv4Addr::LOCALHOST, self.port));
            match tokio::time::timeout(Duration::from_secs(20), attempt).await {
                Ok(Ok(client)) => {
                    self.shared.tally("connections made");
                    state.0 = Some(client);
                    state.1 += 1;
                }
                _ => {
                    self.shared.tally("connections refused");
                    let jitter = 0.8 + state.2.below(4001) as f64 / 10_000.0;
                    tokio::time::sleep(pause.mul_f64(jitter)).await;
                    pause = pause.mul_f64(FACTOR).min(LONGEST);
                }
            }
        }
    }

    /// Records that the client with this number has lost its connection.
    async fn lost(&self, number: u64) {
        let mut state = self.state.lock().await;
        if state.1 == number {
            state.0 = None;
        }
    }
}

/// Sends for the duration of the soak.
pub(crate) async fn run(port: u16, shared: Arc<Shared>, mut random: Random) {
    let tasks = tokio::task::LocalSet::new();
    for _ in 0..CONNECTIONS {
        let state = Mutex::new((None, 0, random.split()));
        let channel = Rc::new(Channel { port, shared: Arc::clone(&shared), state });
        for _ in 0..SENDERS {
            tasks.spawn_local(report(Rc::clone(&channel), Arc::clone(&shared), random.split()));
        }
        tasks.spawn_local(authorize(channel, Arc::clone(&shared), random.split()));
    }
    crate::hostile::spawn(&tasks, port, &shared, &mut random);
    tasks.await;
}

async fn report(channel: Rc<Channel>, shared: Arc<Shared>, mut random: Random) {
    while !shared.has_ended() {
        tokio::time::sleep(random.millis(0, PAUSE)).await;
        if shared.is_held() {
            continue;
        }
        let (client, number) = channel.client().await;
        if !shared.depart() {
            continue;
        }
        let request = shared.account().begin();
        let outcome = match client.unary(METRIC, &request.message()).await {
            Ok(reply) if reply.status == OK => Outcome::Acknowledged,
            Ok(reply) => {
                shared.tally(refusal(reply.status));
                Outcome::Refused
            }
            Err(_) => Outcome::Unanswered,
        };
        shared.account().end(request, outcome);
        shared.arrive();
        if outcome == Outcome::Unanswered {
            channel.lost(number).await;
        }
    }
}

fn refusal(status: u32) -> &'static str {
    match status {
        8 => "requests refused: RESOURCE_EXHAUSTED",
        14 => "requests refused: UNAVAILABLE",
        _ => "requests refused: another code",
    }
}

/// Sends checks; verdicts must be right in any state of the volume.
async fn authorize(channel: Rc<Channel>, shared: Arc<Shared>, mut random: Random) {
    while !shared.has_ended() {
        tokio::time::sleep(random.millis(0, 5 * PAUSE)).await;
        let right = random.once_in(2);
        let message = check(if right { "open" } else { "closed" });
        let (client, number) = channel.client().await;
        let asked = Instant::now();
        match client.unary(AUTHORIZE, &message).await {
            Ok(reply) => {
                shared.verdict_took(asked.elapsed());
                let result = CheckResult::decode(&*reply.body).ok().and_then(|result| result.status);
                let code = result.map(|status| status.code);
                let expected = if right { OK as i32 } else { PERMISSION_DENIED };
                if reply.status == OK && code == Some(expected) {
                    shared.tally("verdicts");
                } else {
                    shared.violated(format!("a wrong verdict: {code:?} and not {expected}, {reply:?}"));
                }
            }
            Err(_) => channel.lost(number).await,
        }
    }
}

fn check(token: &str) -> Vec<u8> {
    let token = Value { value: Some(Kind::StringValue(token.into())) };
    let properties = [("custom_token_header".into(), token)].into();
    let subject = Some(SubjectMsg { properties, ..SubjectMsg::default() });
    let instance = Some(InstanceMsg { subject, ..InstanceMsg::default() });
    let params = Params { auth_key: "open".into(), ..Params::default() };
    HandleAuthorizationRequest { instance, adapter_config: Some(own(&params)), dedup_id: "1".into() }
        .encode_to_vec()
}
