//! Frames against RFC 6455, and against an encoder and decoder of other authors.

use super::*;

use proptest::prelude::*;
use tokio_tungstenite::tungstenite::protocol::frame::FrameSocket;

/// Payload, control frames and the violation.
pub(super) type Decoded = (Vec<u8>, Vec<(Opcode, Vec<u8>)>, Option<Violation>);

pub(super) fn decode(bytes: &[u8], step: usize) -> Decoded {
    let (mut decoder, mut data, mut control) = (Decoder::default(), Vec::new(), Vec::new());
    let (mut start, mut end) = (0, 0);
    while end < bytes.len() {
        end = bytes.len().min(end + step);
        loop {
            match decoder.decode(&bytes[start..end]) {
                Err(violation) => return (data, control, Some(violation)),
                Ok(None) => break,
                Ok(Some(Piece { opcode, header, payload })) => {
                    let body = &bytes[start + header..start + header + payload];
                    match opcode {
                        Opcode::Data => data.extend_from_slice(body),
                        opcode => control.push((opcode, body.to_vec())),
                    }
                    start += header + payload;
                }
            }
        }
        assert!(end - start < MAX_CONTROL + 14, "{} bytes are collected", end - start);
    }
    (data, control, None)
}

/// Returns a frame of a server.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        length @ ..126 => frame.push(length as u8),
        length @ ..65536 => frame.extend([&[126][..], &(length as u16).to_be_bytes()].concat()),
        length => frame.extend([&[127][..], &(length as u64).to_be_bytes()].concat()),
    }
    frame.extend_from_slice(payload);
    frame
}

#[test]
fn each_violation_is_reported_before_the_payload_arrives() {
    let long_control = [vec![0x89, 126], 126_u16.to_be_bytes().to_vec()].concat();
    let huge_control = [vec![0x8a, 127], u64::from(u32::MAX).to_be_bytes().to_vec()].concat();
    let cases: [(&[u8], Violation); 20] = [
        (&[0xc2], Violation::ReservedBits),
        (&[0xa2], Violation::ReservedBits),
        (&[0x92], Violation::ReservedBits),
        (&[0x83], Violation::ReservedOpcode(3)),
        (&[0x87], Violation::ReservedOpcode(7)),
        (&[0x8b], Violation::ReservedOpcode(11)),
        (&[0x8f], Violation::ReservedOpcode(15)),
        (&[0x82, 0x80], Violation::Masked),
        (&[0x88, 0x82], Violation::Masked),
        (&[0x82, 126, 0, 125], Violation::Length),
        (&[0x82, 127, 0, 0, 0, 0, 0, 0, 255, 255], Violation::Length),
        (&[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0], Violation::Length),
        (&[0x89, 126, 0, 5], Violation::Length),
        (&[0x09], Violation::FragmentedControl),
        (&[0x08], Violation::FragmentedControl),
        (&long_control, Violation::LongControl(126)),
        (&huge_control, Violation::LongControl(u32::MAX.into())),
        (&[0x80, 0], Violation::NothingToContinue),
        (&[0x00, 0], Violation::NothingToContinue),
        (&[0x02, 0, 0x82, 0], Violation::UnfinishedMessage),
    ];
    for (bytes, violation) in cases {
        for step in [1, bytes.len()] {
            assert_eq!(decode(bytes, step).2, Some(violation), "{bytes:02x?}");
        }
    }
}

#[test]
fn data_before_a_violation_is_delivered() {
    let bytes = [frame(0x82, b"exact"), frame(0xf2, b"never")].concat();
    assert_eq!(decode(&bytes, 3), (b"exact".to_vec(), vec![], Some(Violation::ReservedBits)));
}

#[test]
fn text_and_continuations_are_data_and_control_frames_can_come_between() {
    let bytes = [
        frame(0x01, b"t\xff"),
        frame(0x89, b"ping"),
        frame(0x00, b""),
        frame(0x80, b"xt"),
        frame(0x82, &[7; 70_000]),
        frame(0x8a, &[1; 125]),
        frame(0x88, &[0x03, 0xe8]),
    ]
    .concat();
    for step in [1, 2, 1000, bytes.len()] {
        let (data, control, violation) = decode(&bytes, step);
        assert_eq!((data.len(), &data[..4], violation), (70_004, &b"t\xffxt"[..], None));
        assert_eq!(
            control,
            [
                (Opcode::Ping, b"ping".to_vec()),
                (Opcode::Pong, vec![1; 125]),
                (Opcode::Close, vec![0x03, 0xe8])
            ]
        );
    }
}

#[test]
fn a_frame_with_a_length_of_63_bits_is_delivered_as_it_arrives() {
    let mut decoder = Decoder::default();
    let mut bytes = [vec![0x82, 127], i64::MAX.to_be_bytes().to_vec(), vec![9; 100]].concat();
    let first = decoder.decode(&bytes).unwrap().unwrap();
    assert_eq!(first, Piece { opcode: Opcode::Data, header: 10, payload: 100 });
    bytes.truncate(50);
    let next = decoder.decode(&bytes).unwrap().unwrap();
    assert_eq!(next, Piece { opcode: Opcode::Data, header: 0, payload: 50 });
    assert_eq!(decoder.decode(&[]), Ok(None));
}

#[test]
fn close_frames_are_parsed_and_answered_according_to_the_protocol() {
    let body = |code: u16, reason: &[u8]| [&code.to_be_bytes()[..], reason].concat();
    let cases: &[(Vec<u8>, &str, Option<u16>)] = &[
        (vec![], "without a code", None),
        (vec![3], "with half a code (0x03)", Some(1002)),
        (body(1000, b"bye"), "with code 1000 \"bye\"", Some(1000)),
        (body(1001, b""), "with code 1001 \"\"", Some(1001)),
        (body(1011, "für".as_bytes()), "with code 1011 \"für\"", Some(1011)),
        (body(1011, b"f\xfcr"), "with code 1011 \"f\u{fffd}r\"", Some(1007)),
        (body(1000, b"\xff"), "with code 1000 \"\u{fffd}\"", Some(1007)),
        (body(1011, b"a\n\x1b[0m"), "with code 1011 \"a\\n\\u{1b}[0m\"", Some(1011)),
    ];
    for (payload, text, reply) in cases {
        let close = PeerClose::parse(payload);
        assert_eq!((close.to_string().as_str(), close.reply()), (*text, *reply));
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
        let close = PeerClose::parse(&body(code, b"why"));
        assert_eq!(close.to_string(), format!("with code {code} \"why\""));
        assert_eq!((close.reply(), close.is_normal()), (Some(1002), false), "{code}");
    }
    for code in [1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999] {
        let close = PeerClose::parse(&body(code, b""));
        assert_eq!((close.reply(), close.is_normal()), (Some(code), false), "{code}");
    }
}

/// Returns a frame as arcssh sends it.
fn sealed(payload: &[u8], opcode: Opcode, key: [u8; 4]) -> Vec<u8> {
    let mut frame = [&[0; MAX_HEADER], payload].concat();
    let length = seal(&mut frame, opcode, key);
    frame.truncate(length);
    frame
}

#[test]
fn a_sent_frame_has_the_shortest_header() {
    for (payload, header) in [(0, 6), (125, 6), (126, 8), (MAX_PAYLOAD, 8)] {
        let frame = sealed(&vec![0; payload], Opcode::Data, [1, 2, 3, 4]);
        assert_eq!(frame.len(), header + payload);
        assert_eq!(frame[header - 4..header], [1, 2, 3, 4]);
    }
    assert_eq!(sealed(&[5; MAX_PAYLOAD], Opcode::Data, [0; 4]).len(), 65_536);
}

proptest! {
    /// Masking a frame again with its key restores it (RFC 6455, section 5.3). tungstenite reads the header.
    #[test]
    fn another_decoder_reads_a_sent_frame(payload in proptest::collection::vec(any::<u8>(), 0..1000), key: [u8; 4]) {
        let bytes = sealed(&payload, Opcode::Data, key);
        let frame = FrameSocket::new(std::io::Cursor::new(bytes)).read(None).unwrap().unwrap();
        prop_assert_eq!(frame.header().mask, Some(key));
        prop_assert!(frame.header().is_final);
        let masked = frame.into_payload();
        let unmasked: Vec<u8> = masked.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
        prop_assert_eq!(unmasked, payload);
    }

    #[test]
    fn fragments_in_steps_of_any_size_are_the_same_bytes(
        fragments in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..8),
        step in 1_usize..400,
    ) {
        let last = fragments.len() - 1;
        let first = |index: usize| (u8::from(index == 0) * 2) | (u8::from(index == last) << 7);
        let bytes: Vec<u8> = fragments.iter().enumerate().flat_map(|(index, body)| frame(first(index), body)).collect();
        let (data, control, violation) = decode(&bytes, step);
        prop_assert_eq!((data, control, violation), (fragments.concat(), vec![], None));
    }

    /// Hostile bytes cause no panic, and the decoder buffers no more than a control frame.
    #[test]
    fn any_bytes_are_frames_or_a_violation(bytes in proptest::collection::vec(any::<u8>(), 0..2000), step in 1_usize..50) {
        decode(&bytes, step);
    }
}
