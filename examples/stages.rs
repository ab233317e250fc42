//! What the stages of a report take, each on its own.
//!
//! `stages time ROUNDS MICROS MEMORY DISK BODY...`: in each round every stage of
//! every body runs for about MICROS; prints a line for each: body, stage,
//! requests at once, instances, bytes in, bytes out, and the median and the least
//! nanoseconds per request.
//!
//! `stages count STAGE COUNT BODY` runs one stage that writes no file COUNT times,
//! for a profiler.
//!
//! A BODY is `NAME:TEMPLATE:FILE`, an unframed request; MEMORY and DISK are
//! directories that files are written in. A file is emptied before each run, so
//! that a disk's figures are those of its file system, not of the device.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::Display;
use std::fs::File;
use std::hint::black_box;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mygrpcadapter::frontends::mixer::report::Report;
use mygrpcadapter::frontends::mixer::templates;
use mygrpcadapter::journal::{self, Destination, Fsync, Journal, Pending, Tally};
use mygrpcadapter::metrics::Counter;
use mygrpcadapter::render::Format;
use mygrpcadapter::template::Template;
use mygrpcadapter::volume::log_file::LogFile;
use mygrpcadapter::volume::retention::Retention;
use mygrpcadapter::volume::{FilePath, Volume};
use records::protobuf::walk;
use tokio::runtime::Runtime;

/// That of the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "usage: stages time ROUNDS MICROS MEMORY DISK BODY... | stages count STAGE COUNT BODY";
/// No run writes more than this to its file.
const MAX_WRITTEN: usize = 16 * 1024 * 1024;
/// How many requests a turn of the event loop brings: one, or a connection's 32.
const AT_ONCE: [usize; 2] = [1, 32];

fn main() -> io::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["time", rounds, micros, memory, disk, ref bodies @ ..] if !bodies.is_empty() => {
            let dirs = [Dir::open("memory", memory)?, Dir::open("disk", disk)?];
            let bodies = bodies.iter().map(|body| Body::read(body)).collect::<io::Result<Vec<_>>>()?;
            time(number(rounds)?, Duration::from_micros(number(micros)? as u64), &dirs, &bodies)
        }
        ["count", stage, count, body] => {
            let body = Body::read(body)?;
            let stage = body.stages(&[])?.into_iter().find(|one| one.name == stage);
            let mut stage = stage.ok_or_else(|| io::Error::other(USAGE))?;
            (stage.run)(number(count)?).map(drop)
        }
        _ => Err(io::Error::other(USAGE)),
    }
}

fn number(word: &str) -> io::Result<usize> {
    word.parse().map_err(io::Error::other)
}

/// Anything that says why, as an error.
fn because(reason: impl Display) -> io::Error {
    io::Error::other(reason.to_string())
}

/// A request of a template.
struct Body {
    name: String,
    template: &'static Template,
    message: Vec<u8>,
}

impl Body {
    fn read(word: &str) -> io::Result<Self> {
        let mut parts = word.splitn(3, ':');
        let (Some(name), Some(template), Some(file)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(io::Error::other(USAGE));
        };
        let template = match template {
            "metric" => &templates::METRIC,
            "logentry" => &templates::LOGENTRY,
            "authorization" => &templates::AUTHORIZATION,
            _ => return Err(because(format_args!("no template {template} here"))),
        };
        Ok(Self { name: name.into(), template, message: std::fs::read(file)? })
    }

    /// All that can be measured of it.
    fn stages<'a>(&'a self, dirs: &'a [Dir]) -> io::Result<Vec<Stage<'a>>> {
        let report = self.report()?;
        let (text, json) = (self.rendered(Format::Text)?, self.rendered(Format::Json)?);
        let stage = |name: String, at_once, bytes_out, run| Stage {
            body: self,
            name,
            at_once,
            instances: report.instances,
            bytes_out,
            run,
        };
        let mut stages = vec![
            stage("read".into(), 1, 0, self.reads()),
            stage("walk".into(), 1, 0, self.walks()),
            stage("text".into(), 1, text.len(), self.renders(Format::Text)?),
            stage("json".into(), 1, json.len(), self.renders(Format::Json)?),
        ];
        // Nothing is written of an authorization unless its handler asks for it.
        if self.template.name != "authorization" {
            for (dir, at_once) in dirs.iter().flat_map(|dir| AT_ONCE.map(|at_once| (dir, at_once))) {
                let name = |what| format!("{what}-{at_once}-{}", dir.name);
                stages.push(stage(name("append"), at_once, text.len(), dir.appends(&text, at_once)?));
                stages.push(stage(name("journal"), at_once, text.len(), dir.journals(&text, at_once)?));
            }
        }
        Ok(stages)
    }

    fn report(&self) -> io::Result<Report<'_>> {
        Report::read(&self.message).map_err(|refusal| because(format_args!("{}: {refusal:?}", self.name)))
    }

    fn rendered(&self, format: Format) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        let rendered = self.report()?.render(self.template, format, &mut out, |_| {});
        rendered.map_err(|refusal| because(format_args!("{}: {refusal:?}", self.name)))?;
        Ok(out)
    }

    /// Its config, and how many instances it has.
    fn reads(&self) -> Run<'_> {
        timed(|| _ = black_box(Report::read(black_box(&self.message))))
    }

    /// Each instance to a record that is looked at.
    fn walks(&self) -> Run<'_> {
        timed(|| {
            let whole = walk::instances(black_box(&self.message), self.template, &mut |record, _| {
                black_box(record);
                true
            });
            _ = black_box(whole);
        })
    }

    /// The same, and the record to bytes.
    fn renders(&self, format: Format) -> io::Result<Run<'_>> {
        let (report, mut out) = (self.report()?, Vec::new());
        Ok(timed(move || {
            out.clear();
            _ = black_box(report.render(self.template, format, &mut out, |_| {}));
            black_box(&out);
        }))
    }
}

/// Something to measure: does it so often, and says how long it took.
type Run<'a> = Box<dyn FnMut(usize) -> io::Result<Duration> + 'a>;

fn timed<'a>(mut once: impl FnMut() + 'a) -> Run<'a> {
    Box::new(move |count| {
        let start = Instant::now();
        (0..count).for_each(|_| once());
        Ok(start.elapsed())
    })
}

/// One stage of one body.
struct Stage<'a> {
    body: &'a Body,
    name: String,
    at_once: usize,
    instances: usize,
    bytes_out: usize,
    run: Run<'a>,
}

impl Stage<'_> {
    /// How often it has to run to take `time`. Warms it up, too.
    fn fitting(&mut self, time: Duration) -> io::Result<usize> {
        let written = if self.name.contains('-') { self.bytes_out * self.at_once } else { 0 };
        let most = MAX_WRITTEN / written.max(1);
        let mut count = 1;
        loop {
            let taken = (self.run)(count)?;
            if taken >= time / 4 || count >= most {
                let fitting = count as f64 * time.as_secs_f64() / taken.as_secs_f64().max(1e-9);
                return Ok((fitting as usize).clamp(1, most.max(1)));
            }
            count *= 2;
        }
    }

    /// Nanoseconds per request.
    fn sample(&mut self, count: usize) -> io::Result<f64> {
        Ok((self.run)(count)?.as_secs_f64() * 1e9 / (count * self.at_once) as f64)
    }
}

/// Runs all stages in turns, so that whatever disturbs meets them alike.
fn time(rounds: usize, each: Duration, dirs: &[Dir], bodies: &[Body]) -> io::Result<()> {
    let mut stages = Vec::new();
    for body in bodies {
        for mut stage in body.stages(dirs)? {
            let count = stage.fitting(each)?;
            stages.push((stage, count, Vec::with_capacity(rounds)));
        }
    }
    for _ in 0..rounds {
        for (stage, count, times) in &mut stages {
            times.push(stage.sample(*count)?);
        }
    }
    for (stage, _, times) in &mut stages {
        times.sort_by(f64::total_cmp);
        let (Some(median), Some(least)) = (times.get(rounds / 2), times.first()) else { continue };
        let Stage { body: Body { name: body, message, .. }, name, at_once, instances, bytes_out, .. } = stage;
        let bytes_in = message.len();
        writeln!(
            io::stdout(),
            "{body} {name} {at_once} {instances} {bytes_in} {bytes_out} {median:.1} {least:.1}"
        )?;
    }
    Ok(())
}

/// A directory to write in, with a journal of its own.
struct Dir {
    name: &'static str,
    volume: Volume,
    journal: Arc<Journal>,
    counter: Arc<Counter>,
    runtime: Runtime,
}

impl Dir {
    fn open(name: &'static str, dir: &str) -> io::Result<Self> {
        let volume = Volume::open(Path::new(dir))?;
        // As the program has them.
        let settings = journal::Settings {
            default_file: volume.resolve(b"out.txt").map_err(because)?,
            format: Format::Text,
            fsync: Fsync::Never,
            retention: Retention::default(),
            capacity: 256 * 1024,
            stall: Duration::from_secs(5),
        };
        let journal = Arc::new(Journal::start(volume.clone(), settings)?);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let delivering = Arc::clone(&journal);
        runtime.spawn(async move { delivering.deliver(|_| {}).await });
        Ok(Self { name, volume, journal, counter: Arc::default(), runtime })
    }

    fn file(&self, name: &str) -> io::Result<FilePath> {
        self.volume.resolve(name.as_bytes()).map_err(because)
    }

    /// The one write of a batch.
    fn appends(&self, text: &[u8], at_once: usize) -> io::Result<Run<'_>> {
        let path = self.file("append.txt")?;
        let opened = LogFile::open(&self.volume, &path);
        let mut file = opened.map_err(|error| because(format_args!("{error:?}")))?;
        let (bytes, ends) = (text.repeat(at_once), (1..=at_once).map(|n| n * text.len()).collect::<Vec<_>>());
        Ok(Box::new(move |count| {
            empty(&self.volume.full_path(&path))?;
            let start = Instant::now();
            for _ in 0..count {
                file.append(black_box(&bytes), &ends).outcome?;
            }
            Ok(start.elapsed())
        }))
    }

    /// From the first append to the last outcome, there and back between two threads.
    fn journals(&self, text: &[u8], at_once: usize) -> io::Result<Run<'_>> {
        let (path, text) = (self.file("journal.txt")?, text.to_vec());
        let to = self.journal.destination(b"journal.txt", None).map_err(because)?;
        // Makes the file.
        self.runtime.block_on(self.send(&to, &text, 1))?;
        Ok(Box::new(move |count| {
            empty(&self.volume.full_path(&path))?;
            let start = Instant::now();
            self.runtime.block_on(async {
                for _ in 0..count {
                    self.send(&to, &text, at_once).await?;
                }
                Ok(start.elapsed())
            })
        }))
    }

    /// Adds requests as the program does, and waits for their outcomes.
    async fn send(&self, to: &Destination, text: &[u8], requests: usize) -> io::Result<()> {
        let mut pending = VecDeque::new();
        for _ in 0..requests {
            while !self.journal.has_room(text.len()) {
                written(&mut pending).await?;
            }
            let render = |out: &mut Vec<u8>| {
                out.extend_from_slice(black_box(text));
                Ok::<_, Infallible>(())
            };
            let room = self.journal.room(text.len()).await.map_err(|failure| because(failure.text))?;
            let tally = Tally { counter: Arc::clone(&self.counter), count: 1 };
            pending.push_back(self.journal.append(room, to, tally, render).map_err(because)?);
        }
        while !pending.is_empty() {
            written(&mut pending).await?;
        }
        Ok(())
    }
}

/// Waits for the outcome of the first request of those that wait.
async fn written(pending: &mut VecDeque<Pending<'_>>) -> io::Result<()> {
    match pending.pop_front() {
        Some(first) => first.written().await.map_err(|failure| because(failure.text)),
        None => Ok(()),
    }
}

fn empty(file: &Path) -> io::Result<()> {
    File::options().write(true).open(file)?.set_len(0)
}
