//! Handlers and their params: every request carries its own.

use mygrpcadapter::pb::google::protobuf::Any;

use crate::support::message::{METRIC, OWN, Shape, WALKTHROUGH, assert_each_once, params, request};
use crate::support::{Adapter, INVALID_ARGUMENT, OK, Reply, Scratch};

#[tokio::test]
async fn interleaved_handlers_each_write_to_their_own_file() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    let shapes = ["a.txt", "b.txt", "dir/c.txt"].map(|file| Shape { file, padding: 50 });
    let names: Vec<String> = (0..300).map(|at| format!("n{at}")).collect();
    let calls: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(at, name)| {
            let (client, message) = (client.clone(), shapes[at % 3].message(name));
            tokio::spawn(async move { client.unary(METRIC, &message).await })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), Reply::default());
    }
    for (at, shape) in shapes.iter().enumerate() {
        let own: Vec<String> = names.iter().skip(at).step_by(3).cloned().collect();
        let written = shape.names(&adapter.read(shape.file));
        assert_eq!(written.len(), own.len(), "{}", shape.file);
        assert_each_once(&own, &written);
    }
}

#[tokio::test]
async fn a_changed_config_takes_effect_with_the_next_request() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    for (file, name) in [("a.txt", "1"), ("b.txt", "2"), ("a.txt", "3"), ("", "4"), ("b.txt", "5")] {
        let reply = client.unary(METRIC, &Shape { file, padding: 1 }.message(name)).await.unwrap();
        assert_eq!(reply.status, OK);
    }
    for (file, wanted, names) in
        [("a.txt", "a.txt", &["1", "3"][..]), ("b.txt", "b.txt", &["2", "5"]), ("", "out.txt", &["4"])]
    {
        assert_eq!(Shape { file, padding: 1 }.names(&adapter.read(wanted)), names, "{wanted}");
    }
}

#[tokio::test]
async fn params_of_our_own_type_and_of_any_package_name_the_file() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    for (type_url, file) in [
        (OWN, "own.txt"),
        (WALKTHROUGH, "walkthrough.txt"),
        ("example.com/prefix/some.package.Params", "some.txt"),
    ] {
        let message = request(Some(params(type_url, file.as_bytes())), "n");
        assert_eq!(client.unary(METRIC, &message).await.unwrap().status, OK, "{type_url}");
        let text = String::from_utf8(adapter.read(file)).unwrap();
        assert!(text.contains(&format!("&Params{{FilePath:{file},}}")), "{text}");
    }
}

#[tokio::test]
async fn params_without_a_value_are_the_defaults_whatever_their_type() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    for type_url in ["", OWN, WALKTHROUGH, "type.googleapis.com/some.Config"] {
        let any = Any { type_url: type_url.into(), value: Vec::new() };
        let reply = client.unary(METRIC, &request(Some(any), "n")).await.unwrap();
        assert_eq!(reply.status, OK, "{type_url}");
    }
    assert_eq!(client.unary(METRIC, &request(None, "n")).await.unwrap().status, OK);
    assert_eq!(adapter.files(), ["out.txt"]);
    assert_eq!(String::from_utf8(adapter.read("out.txt")).unwrap().matches("{FilePath:,}").count(), 5);
}

#[tokio::test]
async fn params_of_a_wrong_type_or_that_are_no_params_are_refused_with_a_reason() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    for (type_url, value, reason) in [
        ("type.googleapis.com/adapter.Config", &b"\x0a\x05a.txt"[..], "\"adapter.Config\" is not a Params"),
        ("", b"\x0a\x05a.txt", "is not a Params message"),
        (WALKTHROUGH, b"\x0a\x09a.txt", "cannot decode \"adapter.mygrpcadapter.config.Params\""),
        (WALKTHROUGH, b"\x08\x01", "cannot decode"),
        (OWN, b"\x0a\x09a.txt", "cannot decode \"mygrpcadapter.config.v1.Params\""),
        (OWN, b"\x0a\x01\xff", "cannot decode"),
    ] {
        let any = Any { type_url: type_url.into(), value: value.into() };
        let reply = client.unary(METRIC, &request(Some(any), "n")).await.unwrap();
        assert_eq!(reply.status, INVALID_ARGUMENT, "{type_url} {value:?}");
        assert!(reply.message.contains(reason), "{}", reply.message);
    }
    assert!(adapter.files().is_empty());
}

#[tokio::test]
async fn ten_thousand_configs_do_not_pile_up_open_files() {
    let scratch = Scratch::in_memory();
    let adapter = Adapter::start_on(scratch.path(), &[]).await;
    let client = adapter.client().await;
    let mut most = 0;
    for batch in 0..40 {
        let mut calls = Vec::new();
        for at in 0..250 {
            let file = format!("d{batch}/f{at}.txt");
            let message = request(Some(params(WALKTHROUGH, file.as_bytes())), "n");
            let client = client.clone();
            calls.push(tokio::spawn(async move { client.unary(METRIC, &message).await }));
        }
        for call in calls {
            assert_eq!(call.await.unwrap().unwrap(), Reply::default());
        }
        most = most.max(adapter.open_files());
    }
    assert!(most < 64, "{most} descriptors");
    assert_eq!(adapter.files().len(), 40);
    assert_eq!(std::fs::read_dir(adapter.volume.join("d39")).unwrap().count(), 250);
}
