//! Any bytes as a handler's `file_path`: the result stays in the volume.
#![no_main]

use std::os::unix::ffi::OsStrExt;
use std::sync::LazyLock;

use mygrpcadapter::volume::Volume;
use mygrpcadapter::volume::rotated::is_numbered;
use mygrpcadapter_fuzz::{assert_is_line, scratch};

static VOLUME: LazyLock<Volume> = LazyLock::new(|| Volume::open(&scratch("path")).expect("a volume"));

libfuzzer_sys::fuzz_target!(|text: &[u8]| {
    let path = match VOLUME.resolve(text) {
        Ok(path) => path,
        Err(rule) => return assert_is_line(&rule),
    };
    assert!(path.to_string().bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()));
    let bytes = path.as_path().as_os_str().as_bytes();
    for part in bytes.split(|byte| *byte == b'/') {
        assert!(!matches!(part, b"" | b"." | b"..") && part.len() <= 255 && !part.contains(&0));
        assert!(!part.starts_with(b".mygrpcadapter."));
    }
    assert!(!is_numbered(bytes), "retention would delete it");
    assert!(VOLUME.full_path(&path).starts_with(VOLUME.dir()));
    if !bytes.windows(10).any(|window| window == b"{hostname}") && bytes.len() <= 1024 {
        assert_eq!(VOLUME.resolve(bytes), Ok(path));
    }
});
