//! Requests recorded from real Mixers: the file must hold the walkthrough's text.

use std::path::{Path, PathBuf};

use mygrpcadapter::pb::metric::HandleMetricRequest;
use prost::Message;

use crate::properties::reference;
use crate::support::message::METRIC;
use crate::support::{Adapter, INVALID_ARGUMENT, OK, Reply};

/// The recorded requests in a folder whose file names start with `prefix`.
pub fn recorded(folder: &str, prefix: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures").join(folder);
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "bin"))
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(prefix))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no {folder}/{prefix}*.bin");
    files
}

/// Sends each request and returns what each appended to `file`.
async fn replay(adapter: &Adapter, requests: &[PathBuf], file: &str) -> Vec<String> {
    let client = adapter.client().await;
    let mut added = Vec::new();
    for request in requests {
        let before = adapter.read(file).len();
        let reply = client.unary(METRIC, &std::fs::read(request).unwrap()).await.unwrap();
        assert_eq!(reply, Reply::default(), "{}", request.display());
        added.push(String::from_utf8(adapter.read(file)[before..].to_vec()).unwrap());
    }
    added
}

async fn must_become_what_is_expected(requests: &[PathBuf]) {
    let adapter = Adapter::start(&[]).await;
    for (request, text) in requests.iter().zip(replay(&adapter, requests, "out.txt").await) {
        let expected = std::fs::read_to_string(request.with_extension("expected")).unwrap();
        assert!(text == expected, "{}:\n{text}\nis not\n{expected}", request.display());
    }
    assert_eq!(adapter.files(), ["out.txt"]);
}

#[tokio::test]
async fn metrics_of_a_real_mixer_become_the_walkthroughs_text() {
    let requests = recorded("metric", "");
    assert_eq!(requests.len(), 15);
    must_become_what_is_expected(&requests).await;
}

#[tokio::test]
async fn odd_metrics_look_as_from_the_walkthroughs_adapter() {
    let mut requests = recorded("synthetic", "metric-");
    requests.retain(|path| path.with_extension("expected").exists());
    assert_eq!(requests.len(), 4);
    must_become_what_is_expected(&requests).await;
}

#[tokio::test]
async fn metrics_of_the_oldest_mixer_become_the_same_text() {
    let adapter = Adapter::start(&[]).await;
    let requests = recorded("by-version/1.0.9", "metric-");
    let texts = replay(&adapter, &requests, "out.txt").await;
    assert_eq!(
        texts[0],
        "HandleMetric invoked with:\n  Adapter config: &Params{FilePath:/volume/out.txt,}\n  \
         Instances: 'i1metric.instance.istio-system':\n  {\n\t\tValue = 1\n\t\t\
         Dimensions = map[response_code:200]\n  }\n"
    );
    for (request, text) in requests.iter().zip(&texts) {
        let decoded = HandleMetricRequest::decode(&*std::fs::read(request).unwrap()).unwrap();
        assert_eq!(*text, reference::text(&decoded, "/volume/out.txt"), "{}", request.display());
    }
}

#[tokio::test]
async fn a_handler_without_params_writes_to_the_default_file() {
    let text = "HandleMetric invoked with:\n  Adapter config: &Params{FilePath:,}\n  \
                Instances: 'c.instance.istio-system':\n  {\n\t\tValue = 1\n\t\tDimensions = map[]\n  }\n";
    let request = recorded("synthetic", "metric-no-config");
    for (args, file) in [
        (&[][..], "out.txt"),
        (&["--default-file", "other.txt"], "other.txt"),
        (&["--default-file=/volume/a/b.txt"], "a/b.txt"),
    ] {
        let adapter = Adapter::start(args).await;
        assert_eq!(replay(&adapter, &request, file).await, [text]);
        assert_eq!(adapter.files(), [file.split('/').next().unwrap()]);
    }
}

#[tokio::test]
async fn bytes_that_are_no_request_are_refused_and_nothing_is_written() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    for request in recorded("synthetic", "bad-") {
        let reply = client.unary(METRIC, &std::fs::read(&request).unwrap()).await.unwrap();
        assert_eq!(reply.status, INVALID_ARGUMENT, "{}", request.display());
        assert!(reply.message.starts_with("not a request of this template: "), "{}", reply.message);
    }
    assert!(adapter.files().is_empty());
    let good = std::fs::read(&recorded("metric", "001")[0]).unwrap();
    assert_eq!(client.unary(METRIC, &good).await.unwrap().status, OK);
}
