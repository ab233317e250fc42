//! Any bytes as a handler's `adapter_config`.
#![no_main]

use std::sync::LazyLock;

use mygrpcadapter::frontends::mixer::backend::validate;
use mygrpcadapter::frontends::mixer::config::{Any, Config, OWN_TYPE, read};
use mygrpcadapter::pb::google::protobuf;
use mygrpcadapter::pb::istio::mixer::adapter::model::v1beta1::ValidateRequest;
use mygrpcadapter::pb::mygrpcadapter::config::v1::Params;
use mygrpcadapter::volume::Volume;
use mygrpcadapter_fuzz::{assert_is_line, scratch};
use prost::Message;

static VOLUME: LazyLock<Volume> = LazyLock::new(|| Volume::open(&scratch("config")).expect("a volume"));

libfuzzer_sys::fuzz_target!(|message: &[u8]| {
    let mut any = Any::default();
    if any.merge(message).is_err() {
        return;
    }
    let config = read(any);
    match &config {
        Ok(Config::Own(params)) => {
            assert!(any.type_url.ends_with(OWN_TYPE.as_bytes()));
            assert_eq!(Params::decode(any.value).as_ref(), Ok(&**params));
        }
        Ok(Config::Foreign(first)) => assert!(first.is_empty() || any.type_url.ends_with(b"Params")),
        Err(refusal) => assert_is_line(&refusal.text),
    }
    let Ok(theirs) = protobuf::Any::decode(message) else { return };
    assert_eq!((theirs.type_url.as_bytes(), &*theirs.value), (any.type_url, any.value));

    let request = ValidateRequest { adapter_config: Some(theirs), ..ValidateRequest::default() };
    let status = validate(&request, Some(&*VOLUME)).status.expect("a status");
    assert_is_line(&status.message);
    let taken = config.is_ok_and(|config| match config.file_path() {
        b"" => true,
        path => VOLUME.resolve(path).is_ok(),
    });
    assert_eq!((status.code, status.message.is_empty()), if taken { (0, true) } else { (3, false) });
});
