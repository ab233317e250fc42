//! Receives a CheckRequest without the parts that no verdict needs: the body of the
//! request it describes, metadata, and unknown fields.

use super::question::field;
use crate::frontends::envoy::partial::{Action, Partial, Rules};

/// Limit on the kept bytes: several times Envoy's limit on headers.
pub const MAX_KEPT: usize = 512 * 1024;

static RULES: Rules = Rules { action, max_kept: MAX_KEPT, keeps_malformed: false };

/// A CheckRequest of which nothing was received.
pub fn without_body() -> Partial {
    Partial::new(&RULES)
}

/// The treatment of a field in a message at this depth.
fn action(depth: usize, number: i32) -> Action {
    match (depth, number) {
        (0, field::ATTRIBUTES) | (1, field::REQUEST) | (2, field::REQUEST_HTTP) => Action::Enter,
        (1, field::SOURCE | field::DESTINATION)
        | (3, field::HTTP_METHOD | field::HTTP_HEADERS | field::HTTP_PATH)
        | (3, field::HTTP_HOST | field::HTTP_HEADER_MAP) => Action::Keep,
        _ => Action::Drop,
    }
}

#[cfg(test)]
mod tests {
    use records::protobuf::wire::Malformed;

    use super::*;
    use crate::frontends::envoy::partial::USUAL;

    fn message(field: u8, content: &[u8]) -> Vec<u8> {
        let length = content.len();
        assert!(length < 1 << 14);
        let mut out = vec![field << 3 | 2, length as u8 | 0x80, (length >> 7) as u8];
        out.extend_from_slice(content);
        out
    }

    fn request(http: &[u8]) -> Vec<u8> {
        message(1, &[message(4, &message(2, http)), message(11, &[9; 300]), message(1, b"\x0a\x00")].concat())
    }

    fn kept(bytes: &[u8], step: usize) -> Result<Vec<u8>, Malformed> {
        let mut message = without_body();
        for piece in bytes.chunks(step) {
            message.push(piece)?;
        }
        message.end()
    }

    #[test]
    fn a_body_is_left_out_and_all_else_stays() {
        let before = [message(2, b"GET"), message(4, b"/path")].concat();
        let header_map = message(13, &message(1, &[message(1, b"a"), message(3, b"b")].concat()));
        for body in [0, 1, 200, 5_000] {
            let body = vec![0xff; body];
            let http = [&*before, &message(11, &body), b"\x48\x80\x01", &message(12, &body), &header_map];
            let bytes = request(&http.concat());
            for step in [1, 2, 3, 100, 100_000] {
                let kept = kept(&bytes, step).unwrap();
                let http = message(2, &[&*before, &header_map].concat());
                let expected = message(1, &[message(4, &http), message(1, b"\x0a\x00")].concat());
                assert_eq!(kept, expected, "{} in steps of {step}", body.len());
            }
        }
    }

    #[test]
    fn a_message_that_is_cut_is_an_error_wherever_it_is_cut() {
        let bytes = request(&[message(2, b"GET"), message(11, b"body")].concat());
        for end in 1..bytes.len() {
            assert_eq!(kept(&bytes[..end], 7), Err(Malformed::Truncated), "{end}");
        }
        assert_eq!(kept(b"", 1), Ok(Vec::new()));
    }

    #[test]
    fn a_field_does_not_reach_beyond_its_message() {
        for bytes in [
            &b"\x0a\x02\x22\x05\x12\x03abc"[..],
            b"\x0a\x02\x22\x01\x12\x00",
            b"\x0a\x01\x22\x00",
            b"\x0a\x04\x22\x02\x12\x05abcde",
            b"\x0a\x02\x0a\x7f",
        ] {
            assert_eq!(kept(bytes, 1), Err(Malformed::Truncated), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn what_is_kept_takes_the_same_memory_however_large_the_body() {
        let before = message(2, b"GET");
        for body in [0, 100, 10_000, 16_000] {
            let mut kept = without_body();
            let taken = kept.push(&request(&[&*before, &message(11, &vec![b'b'; body])].concat())).unwrap();
            assert_eq!(taken, USUAL[0], "{body}");
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let header = message(3, &[b'a'; 8_000]);
        let mut message = without_body();
        let length = MAX_KEPT as u64 * 2;
        let varint = |value: u64| -> Vec<u8> {
            (0..5).map(|at| (value >> (7 * at)) as u8 & 0x7f | if at < 4 { 0x80 } else { 0 }).collect()
        };
        for (tag, less) in [(0x0a, 0), (0x22, 6), (0x12, 12)] {
            message.push(&[tag]).unwrap();
            message.push(&varint(length - less)).unwrap();
        }
        let outcome = (0..length / 8_000).try_for_each(|_| message.push(&header).map(drop));
        assert_eq!(outcome, Err(Malformed::Length));
        assert!(message.push(&[]).unwrap() <= MAX_KEPT);
    }
}
