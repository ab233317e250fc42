//! Measures start-up time: `spawn ROUNDS REQUEST ADAPTER [ARG]...`
//!
//! Each round spawns and reaps `/bin/true`, then spawns `ADAPTER PORT ARG...`,
//! connects in a tight loop until accepted, sends the framed gRPC message in the file
//! REQUEST to HandleMetric, waits for the reply and kills the adapter. Prints a line
//! for each: name, median and minimum, in microseconds. The loop has a CPU of its own,
//! and the spawned programs have another: on a shared one each waits for the other's
//! time slice. If other programs are busy, only the minimum is meaningful.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Time limit for a start.
const LIMIT: Duration = Duration::from_secs(10);

fn main() -> io::Result<()> {
    let mut words = std::env::args().skip(1);
    let (Some(rounds), Some(request), Some(adapter)) = (words.next(), words.next(), words.next()) else {
        return Err(io::Error::other("usage: spawn ROUNDS REQUEST ADAPTER [ARG]..."));
    };
    let rounds: usize = rounds.parse().map_err(io::Error::other)?;
    let call = call(&std::fs::read(request)?);
    let port = free_port()?;
    let mut adapter = Command::new(adapter);
    adapter.arg(port.to_string()).args(words).stdout(Stdio::null()).stderr(Stdio::null());
    let mut times = [const { Vec::new() }; 3];
    let [ours, theirs] = two_cpus()?;
    for _ in 0..rounds {
        sched_setaffinity(None, &theirs)?;
        let start = Instant::now();
        Command::new("/bin/true").status()?;
        times[0].push(start.elapsed());

        let start = Instant::now();
        let mut child = adapter.spawn()?;
        sched_setaffinity(None, &ours)?;
        let outcome = first_reply(&mut child, port, &call, start);
        child.kill()?;
        child.wait()?;
        let (connected, replied) = outcome?;
        times[1].push(connected);
        times[2].push(replied);
    }
    for (name, times) in ["true", "connected", "replied"].iter().zip(&mut times) {
        times.sort();
        let [middle, least] = [times[rounds / 2], times[0]].map(|time| time.as_secs_f64() * 1e6);
        writeln!(io::stdout(), "{name} {middle:.1} {least:.1}")?;
    }
    Ok(())
}

/// A CPU for the loop, and one for the spawned programs, which inherit the affinity of their parent.
fn two_cpus() -> io::Result<[CpuSet; 2]> {
    let allowed = sched_getaffinity(None)?;
    let mut cpus = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).map(|cpu| {
        let mut only = CpuSet::new();
        only.set(cpu);
        only
    });
    match (cpus.next(), cpus.next()) {
        (Some(first), Some(second)) => Ok([first, second]),
        _ => Err(io::Error::other("needs two CPUs: one is busy with connecting")),
    }
}

/// A free port outside the ephemeral range: connecting to a free ephemeral port can
/// connect a socket to itself.
fn free_port() -> io::Result<u16> {
    let any = (21_000..30_000).find(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok());
    any.ok_or_else(|| io::Error::other("no free port from 21000 to 30000"))
}

/// The times until the connection was accepted and until the answer was complete.
fn first_reply(
    child: &mut Child,
    port: u16,
    call: &[u8],
    start: Instant,
) -> io::Result<(Duration, Duration)> {
    let mut stream = loop {
        match TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
            Ok(stream) => break stream,
            Err(error) if start.elapsed() > LIMIT => return Err(error),
            Err(_) => {}
        }
        // Not at every attempt, to keep the loop fast.
        if start.elapsed() > LIMIT / 10
            && let Some(status) = child.try_wait()?
        {
            return Err(io::Error::other(format!("the adapter ended: {status}")));
        }
    };
    let connected = start.elapsed();
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(call)?;
    let mut replied = false;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let mut content = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut content)?;
        match (head[3], head[4] & 1, head[8]) {
            (0, _, 1) => replied = true,
            // Trailers without a preceding reply carry an error.
            (1, 1, 1) if replied => return Ok((connected, start.elapsed())),
            (1, 1, 1) => return Err(io::Error::other("the adapter answers with an error")),
            _ => {}
        }
    }
}

/// All bytes that a client sends for one call: preface, settings, headers, message.
fn call(message: &[u8]) -> Vec<u8> {
    let mut headers = vec![0x83, 0x86];
    // Literals without indexing: the name's index in the static table, or 0 and the
    // name.
    for (name, value) in [
        (&b"\x04"[..], &b"/metric.HandleMetricService/HandleMetric"[..]),
        (b"\x01", b"localhost"),
        (b"\x0f\x10", b"application/grpc"),
        (b"\x00\x02te", b"trailers"),
    ] {
        headers.extend_from_slice(name);
        headers.push(value.len() as u8);
        headers.extend_from_slice(value);
    }
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    for (kind, flags, stream, content) in [(4, 0, 0, &[][..]), (1, 4, 1, &headers), (0, 1, 1, message)] {
        bytes.extend_from_slice(&(content.len() as u32).to_be_bytes()[1..]);
        bytes.extend_from_slice(&[kind, flags, 0, 0, 0, stream]);
        bytes.extend_from_slice(content);
    }
    bytes
}
