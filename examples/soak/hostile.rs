//! Hostile and broken peers.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use crate::client::{Client, framed};
use crate::random::Random;
use crate::shared::Shared;

const METRIC: &str = "/metric.HandleMetricService/HandleMetric";
const PEERS: usize = 8;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The duration of one attack.
const ACT: Duration = Duration::from_secs(3);
const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// Starts them on the port.
pub(crate) fn spawn(tasks: &LocalSet, port: u16, shared: &Arc<Shared>, random: &mut Random) {
    for _ in 0..PEERS {
        let (shared, mut random) = (Arc::clone(shared), random.split());
        tasks.spawn_local(async move {
            while !shared.has_ended() {
                tokio::time::sleep(random.millis(10, 400)).await;
                let act = act(port, &shared, &mut random);
                // Fails while the adapter is down.
                let _ = tokio::time::timeout(ACT, act).await;
            }
        });
    }
}

async fn act(port: u16, shared: &Shared, random: &mut Random) -> io::Result<()> {
    let raw = || TcpStream::connect((Ipv4Addr::LOCALHOST, port));
    match random.below(8) {
        0 => {
            let mut stream = raw().await?;
            shared.tally("hostile: garbage");
            stream.write_all(&random.bytes(4000)).await?;
            drain(stream).await
        }
        1 => {
            let mut stream = raw().await?;
            shared.tally("hostile: garbage after the preface");
            stream.write_all(PREFACE).await?;
            stream.write_all(&random.bytes(4000)).await?;
            drain(stream).await
        }
        2 => {
            let mut stream = raw().await?;
            shared.tally("hostile: half-open");
            stream.write_all(&PREFACE[..random.below(24) as usize]).await?;
            tokio::time::sleep(random.millis(100, 2500)).await;
            Ok(())
        }
        3 => {
            let mut stream = raw().await?;
            shared.tally("hostile: oversized frame");
            stream.write_all(PREFACE).await?;
            stream.write_all(&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]).await?;
            stream.write_all(&[0; 100_000]).await?;
            drain(stream).await
        }
        4 => {
            let client = Client::connect((Ipv4Addr::LOCALHOST, port)).await?;
            shared.tally("hostile: oversized message");
            let status = client.unary(METRIC, &vec![0; MAX_MESSAGE + 1]).await?.status;
            if status == 0 {
                shared.violated("a message of more than 4 MiB is acknowledged".into());
            }
            Ok(())
        }
        5 => {
            let client = Client::connect((Ipv4Addr::LOCALHOST, port)).await?;
            shared.tally("hostile: rapid reset");
            for _ in 0..random.below(300) {
                client.open(METRIC).await?.cancel();
            }
            Ok(())
        }
        6 => {
            let client = Client::connect((Ipv4Addr::LOCALHOST, port)).await?;
            shared.tally("hostile: gone in the middle of a message");
            let message = framed(&[0; 1000]);
            let part = random.below(1000) as usize;
            client.open(METRIC).await?.send(message.slice(..part), false)
        }
        _ => gone_before_the_answer(port, shared).await,
    }
}

/// A real report whose sender closes before the answer.
async fn gone_before_the_answer(port: u16, shared: &Shared) -> io::Result<()> {
    let client = Client::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let mut call = client.open(METRIC).await?;
    if !shared.depart() {
        return Ok(());
    }
    shared.tally("hostile: gone before the answer");
    let request = shared.account().begin();
    let outcome = call.send(framed(&request.message()), true);
    tokio::task::yield_now().await;
    shared.arrive();
    outcome
}

async fn drain(mut stream: TcpStream) -> io::Result<()> {
    let mut sink = [0; 4096];
    while stream.read(&mut sink).await? > 0 {}
    Ok(())
}
