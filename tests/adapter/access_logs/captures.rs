//! Every recorded message: its lines in the file, and its requests in the histogram.

use records::render::Format;

use super::{ACCESS_LOG, EXPORT, send_all};
use crate::envoy_records::captures::cases;
use crate::envoy_records::{exported, lines, observations};
use crate::support::{Adapter, Reply};

const SECONDS: &str = "http_request_seconds_histogram";

#[tokio::test]
async fn every_recorded_stream_is_written_in_both_formats() {
    for (format, name) in [(Format::Text, "text"), (Format::Json, "json")] {
        let adapter = Adapter::start(&["--format", name, "--metrics-port", "0"]).await;
        let (mut expected, mut counts) = (Vec::new(), [0.0, 0.0]);
        for (kind, folder) in ["als-http", "als-tcp"].into_iter().enumerate() {
            for case in cases(folder) {
                assert_eq!(send_all(&adapter, &case.messages).await, Reply::default(), "{}", case.name);
                let lines = lines(&case.messages, format);
                counts[kind] += lines.len() as f64;
                expected.extend(lines.concat());
            }
        }
        assert_eq!(adapter.read(ACCESS_LOG).escape_ascii().to_string(), expected.escape_ascii().to_string());
        let page = adapter.page();
        for (kind, count) in ["http", "tcp"].into_iter().zip(counts) {
            assert_eq!(page.of("mygrpcadapter_access_log_entries_total", "kind", kind), count);
        }
        assert_eq!(page.total("mygrpcadapter_access_log_skipped_total"), 0.0);
        assert_eq!(adapter.files(), [ACCESS_LOG]);
    }
}

#[tokio::test]
async fn every_recorded_export_is_written_in_both_formats() {
    for (format, name) in [(Format::Text, "text"), (Format::Json, "json")] {
        let adapter = Adapter::start(&["--format", name]).await;
        let client = adapter.client().await;
        let mut expected = Vec::new();
        for case in cases("otlp-logs") {
            let reply = client.unary(EXPORT, &case.messages[0]).await.unwrap();
            assert_eq!(reply, Reply::default(), "{}", case.name);
            expected.extend(exported(&case.messages[0], format, usize::MAX).unwrap().1);
        }
        assert_eq!(adapter.read(ACCESS_LOG).escape_ascii().to_string(), expected.escape_ascii().to_string());
    }
}

#[tokio::test]
async fn the_ends_of_requests_are_observed_once_with_a_volume_and_without() {
    for volume in [&["--metrics-port", "0"][..], &["--metrics-port", "0", "--volume", "none"]] {
        let adapter = Adapter::start(volume).await;
        let (mut count, mut sum) = (0, 0.0);
        for case in cases("als-http").into_iter().chain(cases("als-tcp")) {
            assert_eq!(send_all(&adapter, &case.messages).await, Reply::default(), "{}", case.name);
            let observed = observations(&case.messages);
            count += observed.len();
            sum += observed.iter().map(|observed| observed.4).sum::<f64>();
        }
        let page = adapter.page();
        assert_eq!(page.total(&format!("{SECONDS}_count")), count as f64);
        assert!((page.total(&format!("{SECONDS}_sum")) - sum).abs() < 1e-6);
        let get = [
            ("endpoint", "/test"),
            ("fullurl", "/ok"),
            ("host", "httpbin.default"),
            ("method", "GET"),
            ("status", "200"),
        ];
        assert!(page.find(&format!("{SECONDS}_count"), &get).is_some());
    }
}
