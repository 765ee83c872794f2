//! Frames of any relay.

use super::tests::decode;
use super::*;
use crate::tests::{each_input, is_plain};
use crate::text::sanitize;

#[test]
fn frames_in_steps_of_any_size_are_the_same_and_a_close_frame_is_printable() {
    each_input("frames", |input| {
        let whole = decode(input, input.len().max(1));
        assert_eq!(decode(input, 1), whole);
        for (opcode, payload) in &whole.1 {
            assert!(payload.len() <= MAX_CONTROL);
            if *opcode == Opcode::Close {
                let close = PeerClose::parse(payload);
                assert!(is_plain(&sanitize(&close.to_string())));
                assert!(close.reply().is_none_or(is_sendable));
            }
        }
        let kinds: String = whole.1.iter().take(4).map(|(opcode, _)| format!("{opcode:?} ")).collect();
        format!("{} {kinds} {:?}", whole.0.is_empty(), whole.2)
    });
}

#[test]
fn a_sent_frame_contains_the_masked_payload() {
    each_input("frames", |input| {
        let mut frame = [&[0; MAX_HEADER][..], input].concat();
        let key = [1, 2, 3, 250];
        let length = seal(&mut frame, Opcode::Data, key);
        let header = length - input.len();
        assert_eq!((frame[0], frame[1] & 0x80, &frame[header - 4..header]), (0x82, 0x80, &key[..]));
        mask(&mut frame[header..length], key);
        assert_eq!(&frame[header..length], input);
        format!("{header}")
    });
}
