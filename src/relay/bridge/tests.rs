//! The bridge between two in-memory pipes and a WebSocket server, on a paused clock.

use super::*;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, DuplexStream, ReadBuf, duplex};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use crate::relay::frame::{MAX_HEADER, MAX_PAYLOAD};
use crate::relay::liveness::PING_PERIOD;

const RELAY: &str = "azgn.servicebus.windows.net";

/// ssh's side, the relay's side, and the bridge between them.
struct Bridged {
    ssh_writes: DuplexStream,
    ssh_reads: DuplexStream,
    relay: WebSocketStream<DuplexStream>,
    bridge: JoinHandle<BridgeEnd>,
}

async fn bridged(pipe_size: usize, stop: impl Future<Output = BridgeEnd> + Send + 'static) -> Bridged {
    let (ssh_writes, input) = duplex(pipe_size);
    let (ssh_reads, output) = duplex(pipe_size);
    let (near, far) = duplex(pipe_size);
    let bridge = tokio::spawn(run(
        Upgraded { relay: RELAY.into(), stream: near, read_ahead: Vec::new() },
        input,
        output,
        stop,
    ));
    let relay = WebSocketStream::from_raw_socket(far, Role::Server, None).await;
    Bridged { ssh_writes, ssh_reads, relay, bridge }
}

async fn unstopped() -> Bridged {
    bridged(1 << 20, std::future::pending()).await
}

impl Bridged {
    async fn next(&mut self) -> Message {
        self.relay.next().await.expect("a message").expect("no error")
    }

    async fn close_with(&mut self, code: u16) {
        let frame = CloseFrame { code: code.into(), reason: "a reason".into() };
        self.relay.send(Message::Close(Some(frame))).await.unwrap();
    }

    async fn ssh_reads(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.ssh_reads.read_exact(&mut bytes).await.unwrap();
        bytes
    }
}

fn ping(number: u64) -> Message {
    Message::Ping(Bytes::copy_from_slice(&number.to_be_bytes()))
}

fn binary(bytes: &[u8]) -> Message {
    Message::Binary(Bytes::copy_from_slice(bytes))
}

#[tokio::test(start_paused = true)]
async fn bytes_pass_both_ways_in_binary_messages() {
    let mut b = unstopped().await;
    b.ssh_writes.write_all(b"SSH-2.0-client\r\n").await.unwrap();
    assert_eq!(b.next().await, binary(b"SSH-2.0-client\r\n"));
    b.relay.send(binary(b"SSH-2.0-server\r\n")).await.unwrap();
    assert_eq!(b.ssh_reads(16).await, b"SSH-2.0-server\r\n");
    b.relay.send(Message::text("text is bytes too")).await.unwrap();
    assert_eq!(b.ssh_reads(17).await, b"text is bytes too");
}

#[tokio::test(start_paused = true)]
async fn no_message_is_larger_than_64_kib_and_none_is_empty() {
    let mut b = unstopped().await;
    let sent: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    b.ssh_writes.write_all(&sent).await.unwrap();
    let mut received = Vec::new();
    while received.len() < sent.len() {
        let message = b.next().await.into_data();
        assert!((1..=MAX_PAYLOAD).contains(&message.len()), "{}", message.len());
        received.extend_from_slice(&message);
    }
    assert_eq!(received, sent);
}

/// A relay that sends nothing, accepts everything, and records the sizes of the writes.
struct Recorder(mpsc::UnboundedSender<usize>);

impl AsyncRead for Recorder {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Recorder {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.send(bytes.len()).unwrap();
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn frames_are_written_together_while_there_is_more_input() {
    const FRAME: usize = MAX_HEADER + MAX_PAYLOAD;
    for (frames, expected) in [(1, vec![FRAME]), (2, vec![2 * FRAME]), (5, vec![2 * FRAME, 2 * FRAME, FRAME])]
    {
        let (recorder, mut writes) = mpsc::unbounded_channel();
        let upgraded = Upgraded { relay: RELAY.into(), stream: Recorder(recorder), read_ahead: Vec::new() };
        let (mut ssh_writes, input) = duplex(1 << 20);
        ssh_writes.write_all(&vec![0; frames * MAX_PAYLOAD]).await.unwrap();
        let bridge = tokio::spawn(run(upgraded, input, tokio::io::sink(), std::future::pending()));
        for size in expected {
            assert_eq!(writes.recv().await, Some(size), "{frames} frames");
        }
        drop(ssh_writes);
        assert!(matches!(bridge.await.unwrap(), BridgeEnd::Finished));
    }
}

#[tokio::test(start_paused = true)]
async fn messages_of_any_size_and_in_fragments_are_delivered() {
    let mut b = bridged(64 * 1024, std::future::pending()).await;
    let large = vec![7_u8; 20 << 20];
    let fragments = [
        Frame::message("one ", OpCode::Data(Data::Binary), false),
        Frame::ping("in between"),
        Frame::message("two ", OpCode::Data(Data::Continue), false),
        Frame::message("three", OpCode::Data(Data::Continue), true),
    ];
    let send = async {
        b.relay.send(Message::Binary(large.clone().into())).await.unwrap();
        for fragment in fragments {
            b.relay.send(Message::Frame(fragment)).await.unwrap();
        }
    };
    let mut received = vec![0; large.len() + 13];
    let (_, read) = tokio::join!(send, b.ssh_reads.read_exact(&mut received));
    read.unwrap();
    assert!(received.starts_with(&large) && received.ends_with(b"one two three"));
    assert_eq!(b.next().await, Message::Pong("in between".into()));
}

#[tokio::test(start_paused = true)]
async fn output_after_the_end_of_input_is_delivered() {
    let mut b = unstopped().await;
    b.ssh_writes.write_all(b"last words").await.unwrap();
    b.ssh_writes.shutdown().await.unwrap();
    assert_eq!(b.next().await, binary(b"last words"));
    for chunk in [b"slow ", b"answ", b"er"] as [&[u8]; 3] {
        tokio::time::advance(DRAIN_TIMEOUT - Duration::from_millis(100)).await;
        b.relay.send(binary(chunk)).await.unwrap();
        assert_eq!(b.ssh_reads(chunk.len()).await, chunk);
    }
    b.close_with(1000).await;
    assert!(matches!(b.bridge.await.unwrap(), BridgeEnd::Finished));
}

#[tokio::test(start_paused = true)]
async fn the_bridge_ends_if_the_relay_is_silent_after_the_end_of_input() {
    let mut b = unstopped().await;
    let start = Instant::now();
    b.ssh_writes.shutdown().await.unwrap();
    let Message::Close(Some(frame)) = b.next().await else { panic!("no Close frame") };
    assert_eq!(frame.code, CloseCode::Normal);
    assert_eq!(start.elapsed(), DRAIN_TIMEOUT);
    assert!(matches!(b.bridge.await.unwrap(), BridgeEnd::Finished));
}

#[tokio::test(start_paused = true)]
async fn a_ping_is_sent_in_each_period() {
    let mut b = unstopped().await;
    let start = Instant::now();
    for pings in 1..=3 {
        assert_eq!(b.next().await, ping(pings.into()));
        assert_eq!(start.elapsed(), PING_PERIOD * pings);
    }
}

#[tokio::test(start_paused = true)]
async fn a_ping_is_answered_on_an_idle_connection() {
    let mut b = unstopped().await;
    b.relay.send(Message::Ping("are you there".into())).await.unwrap();
    assert_eq!(b.next().await, Message::Pong("are you there".into()));
}

#[tokio::test(start_paused = true)]
async fn data_before_a_close_frame_is_delivered_and_the_bridge_does_not_wait_for_the_relay() {
    let mut b = bridged(1000, std::future::pending()).await;
    let all = vec![9_u8; 100_000];
    let far_side = async {
        b.relay.send(Message::Binary(all.clone().into())).await.unwrap();
        b.relay.send(Message::Close(None)).await.unwrap();
    };
    let mut received = Vec::new();
    let (_, read) = tokio::join!(far_side, b.ssh_reads.read_to_end(&mut received));
    assert_eq!(read.unwrap(), all.len());
    // The relay's side is still open.
    assert!(matches!(b.bridge.await.unwrap(), BridgeEnd::Finished));
}

#[tokio::test(start_paused = true)]
async fn a_close_code_other_than_normal_is_an_error_with_its_reason() {
    for code in [1001, 1008, 1011, 4000] {
        let mut b = unstopped().await;
        b.close_with(code).await;
        let BridgeEnd::Broken(broken) = b.bridge.await.unwrap() else { panic!("{code} is an error") };
        assert_eq!(
            broken.to_string(),
            format!("the relay closed the connection with code {code} \"a reason\"")
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_after_the_end_of_input_is_not_an_error() {
    let mut b = unstopped().await;
    b.close_with(1001).await;
    b.ssh_writes.shutdown().await.unwrap();
    assert!(matches!(b.bridge.await.unwrap(), BridgeEnd::Finished));

    let mut b = unstopped().await;
    b.ssh_writes.shutdown().await.unwrap();
    tokio::time::advance(Duration::from_secs(1)).await;
    drop(b.relay);
    assert!(matches!(b.bridge.await.unwrap(), BridgeEnd::Finished));
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_close_frame_is_lost() {
    let b = unstopped().await;
    drop(b.relay);
    let ending = b.bridge.await.unwrap();
    assert!(matches!(ending, BridgeEnd::Broken(BridgeError::Lost(_))), "{ending:?}");
}

#[tokio::test(start_paused = true)]
async fn a_close_frame_takes_precedence_over_an_earlier_write_error() {
    let (far, near) = duplex(1 << 20);
    let mut relay = WebSocketStream::from_raw_socket(far, Role::Server, None).await;
    relay.send(Message::Ping("answering this fails".into())).await.unwrap();
    relay
        .send(Message::Close(Some(CloseFrame { code: CloseCode::Error, reason: "fault".into() })))
        .await
        .unwrap();
    let stream = Unwritable(near);
    let (mut ssh_writes, input) = duplex(64);
    ssh_writes.write_all(b"sending this fails").await.unwrap();
    let ending = run(
        Upgraded { relay: RELAY.into(), stream, read_ahead: Vec::new() },
        input,
        tokio::io::sink(),
        std::future::pending(),
    )
    .await;
    let BridgeEnd::Broken(BridgeError::Closed(close)) = ending else { panic!("{ending:?}") };
    assert_eq!(close.to_string(), "with code 1011 \"fault\"");
}

/// A stream on which reading works and each write fails.
struct Unwritable(DuplexStream);

impl AsyncRead for Unwritable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Unwritable {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }
}

#[tokio::test(start_paused = true)]
async fn input_is_not_read_while_the_relay_is_blocked() {
    let mut b = bridged(1000, std::future::pending()).await;
    let block = vec![1_u8; 4 << 20];
    let taken = timeout(Duration::from_secs(20), b.ssh_writes.write_all(&block)).await;
    assert!(taken.is_err(), "the bridge read 4 MiB although the relay reads nothing");
    // The bridge buffers a few messages. The rest waits in ssh.
    let mut held = 0;
    drop(b.ssh_writes);
    while let Some(Ok(Message::Binary(bytes))) = b.relay.next().await {
        held += bytes.len();
    }
    assert!(held <= 4 * MAX_PAYLOAD, "{held}");
}

#[tokio::test(start_paused = true)]
async fn a_blocked_output_does_not_block_input() {
    let mut b = bridged(1000, std::future::pending()).await;
    let (mut sink, mut stream) = b.relay.split();
    let flood = tokio::spawn(async move { sink.send(Message::Binary(vec![2; 1 << 20].into())).await });
    b.ssh_writes.write_all(b"still moving").await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), binary(b"still moving"));
    assert!(!flood.is_finished(), "the bridge read 1 MiB although ssh reads nothing");
}

#[tokio::test(start_paused = true)]
async fn a_closed_output_ends_the_bridge() {
    let mut b = unstopped().await;
    drop(b.ssh_reads);
    b.relay.send(binary(b"unread")).await.unwrap();
    assert!(matches!(b.bridge.await.unwrap(), BridgeEnd::Finished));
}

#[tokio::test(start_paused = true)]
async fn after_a_signal_written_input_and_a_close_frame_are_sent() {
    let (ask, asked) = tokio::sync::oneshot::channel::<()>();
    let stop = async {
        let _ = asked.await;
        BridgeEnd::Signal(15)
    };
    let mut b = bridged(1 << 20, stop).await;
    b.ssh_writes.write_all(b"goodbye").await.unwrap();
    ask.send(()).unwrap();
    assert_eq!(b.next().await, binary(b"goodbye"));
    assert!(matches!(b.next().await, Message::Close(Some(_))));
    assert!(matches!(b.bridge.await.unwrap(), BridgeEnd::Signal(15)));
}

#[tokio::test(start_paused = true)]
async fn a_blocked_relay_does_not_delay_the_end() {
    let b = bridged(16, async {
        sleep(Duration::from_secs(3)).await;
        BridgeEnd::Signal(1)
    });
    let mut b = b.await;
    let start = Instant::now();
    b.ssh_writes.write_all(b"more than fits").await.unwrap();
    assert!(matches!(b.bridge.await.unwrap(), BridgeEnd::Signal(1)));
    assert!(start.elapsed() <= Duration::from_secs(3) + CLOSE_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn a_reader_can_pause_for_long_after_the_end_of_input() {
    let mut b = bridged(1000, std::future::pending()).await;
    b.ssh_writes.shutdown().await.unwrap();
    let all = vec![3_u8; 1 << 20];
    let (mut sink, _stream) = b.relay.split();
    let sent = all.clone();
    let send = tokio::spawn(async move {
        sink.send(Message::Binary(sent.into())).await.unwrap();
        sink.send(Message::Close(None)).await.unwrap();
    });
    sleep(DRAIN_TIMEOUT * 20).await;
    let mut received = Vec::new();
    b.ssh_reads.read_to_end(&mut received).await.unwrap();
    assert_eq!(received.len(), all.len());
    send.await.unwrap();
    assert!(matches!(b.bridge.await.unwrap(), BridgeEnd::Finished));
}

#[tokio::test(start_paused = true)]
async fn a_connection_lost_within_output_is_an_error_also_after_the_end_of_input() {
    let mut b = unstopped().await;
    b.ssh_writes.shutdown().await.unwrap();
    sleep(Duration::from_secs(1)).await;
    b.relay.send(binary(b"the first half")).await.unwrap();
    assert_eq!(b.ssh_reads(14).await, b"the first half");
    drop(b.relay);
    assert!(matches!(b.bridge.await.unwrap(), BridgeEnd::Broken(BridgeError::Lost(_))));
}

#[tokio::test(start_paused = true)]
async fn a_failed_output_is_an_error() {
    let (near, far) = duplex(1 << 20);
    let mut relay = WebSocketStream::from_raw_socket(far, Role::Server, None).await;
    relay.send(binary(b"for a full disk")).await.unwrap();
    let upgraded = Upgraded { relay: RELAY.into(), stream: near, read_ahead: Vec::new() };
    let (_ssh_writes, input) = duplex(64);
    let ending = run(upgraded, input, Full, std::future::pending()).await;
    assert!(matches!(ending, BridgeEnd::Broken(BridgeError::Output(_))), "{ending:?}");
}

/// An output on a full disk.
struct Full;

impl AsyncWrite for Full {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::StorageFull.into()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_pings_and_reads_no_pongs_uses_no_memory_and_loses_no_input() {
    let mut b = bridged(2000, std::future::pending()).await;
    let (mut pings, mut messages) = b.relay.split();
    let flood = tokio::spawn(async move {
        for _ in 0..20_000 {
            pings.send(Message::Ping(Bytes::from_static(&[b'p'; 120]))).await.unwrap();
        }
        pings
    });
    let input = tokio::spawn(async move {
        b.ssh_writes.write_all(&vec![5; 900_000]).await.unwrap();
        b.ssh_writes
    });
    let _pings = flood.await.unwrap();
    let (mut received, mut pongs) = (0, 0);
    while received < 900_000 {
        match messages.next().await.unwrap().unwrap() {
            Message::Binary(bytes) => received += bytes.len(),
            Message::Pong(payload) => pongs += payload.len(),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(received, 900_000);
    assert!(pongs <= 8 * MAX_PAYLOAD, "{pongs} bytes of pongs are buffered");
    input.await.unwrap();
}

/// A relay that sends nothing, and on which writing fails with `error` after some writes.
struct DeadEnd {
    error: io::ErrorKind,
    /// The number of writes that still succeed.
    writes_left: usize,
}

impl AsyncRead for DeadEnd {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for DeadEnd {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.writes_left {
            0 => Poll::Ready(Err(self.error.into())),
            _ => {
                self.writes_left -= 1;
                Poll::Ready(Ok(bytes.len()))
            }
        }
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_write_ends_the_session_in_limited_time_if_the_relay_is_silent() {
    for error in [io::ErrorKind::ConnectionReset, io::ErrorKind::TimedOut, io::ErrorKind::OutOfMemory] {
        for input_ends in [false, true] {
            let (mut ssh_writes, input) = duplex(1 << 20);
            ssh_writes.write_all(b"lost").await.unwrap();
            if input_ends {
                ssh_writes.shutdown().await.unwrap();
            }
            let stream = DeadEnd { error, writes_left: 0 };
            let upgraded = Upgraded { relay: RELAY.into(), stream, read_ahead: Vec::new() };
            let start = Instant::now();
            let ending = run(upgraded, input, tokio::io::sink(), std::future::pending()).await;
            let BridgeEnd::Broken(BridgeError::NotSent(cause)) = ending else { panic!("{ending:?}") };
            assert_eq!(cause.kind(), error);
            assert!(start.elapsed() <= CLOSE_FRAME_TIMEOUT + CLOSE_TIMEOUT, "{:?}", start.elapsed());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_write_of_a_control_frame_after_all_input_is_not_an_error() {
    let (mut ssh_writes, input) = duplex(1 << 20);
    ssh_writes.write_all(b"sent").await.unwrap();
    ssh_writes.shutdown().await.unwrap();
    let stream = DeadEnd { error: io::ErrorKind::BrokenPipe, writes_left: 1 };
    let upgraded = Upgraded { relay: RELAY.into(), stream, read_ahead: vec![0x89, 0] };
    let ending = run(upgraded, input, tokio::io::sink(), std::future::pending()).await;
    assert!(matches!(ending, BridgeEnd::Finished), "{ending:?}");
}

#[tokio::test(start_paused = true)]
async fn input_is_not_read_after_a_failed_write() {
    let (mut ssh_writes, input) = duplex(MAX_PAYLOAD);
    let stream = DeadEnd { error: io::ErrorKind::BrokenPipe, writes_left: 1 };
    let upgraded = Upgraded { relay: RELAY.into(), stream, read_ahead: Vec::new() };
    let bridge = tokio::spawn(run(upgraded, input, tokio::io::sink(), std::future::pending()));
    let block = vec![0; 10 * MAX_PAYLOAD];
    let taken = timeout(CLOSE_FRAME_TIMEOUT / 2, ssh_writes.write_all(&block)).await;
    assert!(taken.is_err(), "the bridge read input");
    assert!(matches!(bridge.await.unwrap(), BridgeEnd::Broken(BridgeError::NotSent(_))));
}

#[tokio::test(start_paused = true)]
async fn missing_pongs_end_the_session_if_the_relay_has_answered_before() {
    let mut b = unstopped().await;
    assert_eq!(b.next().await, ping(1));
    // tungstenite answers a ping when it is polled.
    assert_eq!(b.next().await, ping(2));
    let start = Instant::now();
    let ending = b.bridge.await.unwrap();
    assert!(matches!(ending, BridgeEnd::Broken(BridgeError::Silent)), "{ending:?}");
    assert!(start.elapsed() <= PING_PERIOD * 3, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn input_does_not_prolong_a_dead_connection() {
    let mut b = unstopped().await;
    assert_eq!(b.next().await, ping(1));
    assert_eq!(b.next().await, ping(2));
    let mut keys = b.ssh_writes;
    let typing = tokio::spawn(async move {
        while keys.write_all(b"x").await.is_ok() {
            sleep(Duration::from_secs(2)).await;
        }
    });
    assert!(matches!(b.bridge.await.unwrap(), BridgeEnd::Broken(BridgeError::Silent)));
    typing.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn missing_pongs_mean_nothing_if_the_relay_has_never_answered() {
    let mut b = bridged(1 << 20, std::future::pending()).await;
    sleep(PING_PERIOD * 100).await;
    b.relay.send(Message::Pong(Bytes::new())).await.unwrap(); // unasked, as .NET sends them
    sleep(PING_PERIOD * 100).await;
    b.relay.send(binary(b"alive")).await.unwrap();
    assert_eq!(b.ssh_reads(5).await, b"alive");
    assert!(!b.bridge.is_finished());
}

#[tokio::test(start_paused = true)]
async fn any_bytes_prove_that_the_relay_is_alive() {
    let mut b = unstopped().await;
    assert_eq!(b.next().await, ping(1));
    assert_eq!(b.next().await, ping(2));
    for _ in 0..20 {
        sleep(PING_PERIOD).await;
        b.relay.send(binary(b"output")).await.unwrap();
        assert_eq!(b.ssh_reads(6).await, b"output");
    }
    assert!(!b.bridge.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_stopped_process_does_not_end_a_healthy_session() {
    let mut b = unstopped().await;
    assert_eq!(b.next().await, ping(1));
    let relay = tokio::spawn(async move { while b.relay.next().await.is_some() {} });
    for _ in 0..3 {
        tokio::time::advance(Duration::from_secs(600)).await; // nothing runs meanwhile
        sleep(PING_PERIOD * 4).await;
    }
    assert!(!b.bridge.is_finished());
    drop(b.ssh_writes);
    assert!(matches!(b.bridge.await.unwrap(), BridgeEnd::Finished));
    relay.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_reader_can_pause_for_long_if_the_relay_answers_pings() {
    let mut b = bridged(1000, std::future::pending()).await;
    assert_eq!(b.next().await, ping(1));
    assert_eq!(b.next().await, ping(2));
    let (mut sink, mut stream) = b.relay.split();
    let send = tokio::spawn(async move { sink.send(Message::Binary(vec![3; 100_000].into())).await });
    let relay = tokio::spawn(async move { while let Some(Ok(_)) = stream.next().await {} });
    sleep(PING_PERIOD * 20).await;
    let mut received = vec![0; 100_000];
    b.ssh_reads.read_exact(&mut received).await.unwrap();
    send.await.unwrap().unwrap();
    assert!(!b.bridge.is_finished());
    relay.abort();
}

/// Returns the end of the bridge, the output and the code of its Close frame after these bytes of the relay.
async fn answer_to(bytes: &[u8]) -> (BridgeEnd, Vec<u8>, Option<u16>) {
    let (mut relay, near) = duplex(1 << 20);
    let (mut ssh_reads, output) = duplex(1 << 20);
    let (_ssh_writes, input) = duplex(64);
    relay.write_all(bytes).await.unwrap();
    let upgraded = Upgraded { relay: RELAY.into(), stream: near, read_ahead: Vec::new() };
    let ending = run(upgraded, input, output, std::future::pending()).await;
    let mut received = Vec::new();
    ssh_reads.read_to_end(&mut received).await.unwrap();
    let mut sent = Vec::new();
    relay.read_to_end(&mut sent).await.unwrap();
    let [0x88, length, key @ ..] = &sent[..] else { panic!("{sent:02x?} is not a Close frame") };
    assert_eq!(usize::from(length & 0x7f) + 6, sent.len());
    let code = (sent.len() == 8).then(|| u16::from_be_bytes([key[4] ^ key[0], key[5] ^ key[1]]));
    (ending, received, code)
}

#[tokio::test(start_paused = true)]
async fn a_close_frame_is_reported_and_answered_with_its_code() {
    let cases: [(&[u8], Option<u16>, Option<&str>); 9] = [
        (&[0x88, 0], None, None),
        (&[0x88, 2, 0x03, 0xe8], Some(1000), None),
        (&[0x88, 4, 0x03, 0xe9, b'a', b'b'], Some(1001), Some("with code 1001 \"ab\"")),
        (&[0x88, 1, 0x03], Some(1002), Some("with half a code (0x03)")),
        (&[0x88, 2, 0x03, 0xe7], Some(1002), Some("with code 999 \"\"")),
        (&[0x88, 2, 0x03, 0xee], Some(1002), Some("with code 1006 \"\"")),
        (&[0x88, 2, 0x03, 0xf6], Some(1014), Some("with code 1014 \"\"")),
        (&[0x88, 2, 0x13, 0x88], Some(1002), Some("with code 5000 \"\"")),
        (&[0x88, 3, 0x03, 0xf3, 0xff], Some(1007), Some("with code 1011 \"\u{fffd}\"")),
    ];
    for (close, code, text) in cases {
        let bytes = [&[0x82, 5][..], b"exact", close].concat();
        let (ending, received, answer) = answer_to(&bytes).await;
        assert_eq!((received.as_slice(), answer), (&b"exact"[..], code), "{close:02x?}");
        match (ending, text) {
            (BridgeEnd::Finished, None) => {}
            (BridgeEnd::Broken(BridgeError::Closed(close)), Some(text)) => {
                assert_eq!(close.to_string(), text)
            }
            (ending, _) => panic!("{close:02x?}: {ending:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_violation_is_reported_and_answered_with_1002_after_the_bytes_before_it() {
    for breach in [&[0xc2, 0][..], &[0x83, 0], &[0x82, 0x80], &[0x80, 0], &[0x89, 126], &[0x82, 126, 0, 1]] {
        let bytes = [&[0x82, 5][..], b"exact", breach, &[0; 200]].concat();
        let (ending, received, answer) = answer_to(&bytes).await;
        assert!(
            matches!(ending, BridgeEnd::Broken(BridgeError::Violation { ref relay, .. }) if relay == RELAY),
            "{breach:02x?}: {ending:?}"
        );
        assert_eq!((received.as_slice(), answer), (&b"exact"[..], Some(1002)), "{breach:02x?}");
    }
}

/// An input that fails after the first bytes.
struct Failing(&'static [u8]);

impl AsyncRead for Failing {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match std::mem::take(&mut self.0) {
            [] => Poll::Ready(Err(io::Error::from_raw_os_error(5))),
            bytes => {
                buffer.put_slice(bytes);
                Poll::Ready(Ok(()))
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_input_is_reported_and_the_bytes_before_it_are_sent() {
    let (near, far) = duplex(1 << 20);
    let mut relay = WebSocketStream::from_raw_socket(far, Role::Server, None).await;
    let upgraded = Upgraded { relay: RELAY.into(), stream: near, read_ahead: Vec::new() };
    let ending = run(upgraded, Failing(b"before"), tokio::io::sink(), std::future::pending()).await;
    assert!(matches!(ending, BridgeEnd::Broken(BridgeError::Input(_))), "{ending:?}");
    assert_eq!(relay.next().await.unwrap().unwrap(), binary(b"before"));
    assert!(matches!(relay.next().await.unwrap().unwrap(), Message::Close(Some(_))));
}

#[tokio::test(start_paused = true)]
async fn a_frame_without_an_end_is_delivered() {
    let (mut relay, near) = duplex(64 * 1024);
    let (mut ssh_reads, output) = duplex(64 * 1024);
    let (_ssh_writes, input) = duplex(64);
    let bridge = tokio::spawn(run(
        Upgraded { relay: RELAY.into(), stream: near, read_ahead: Vec::new() },
        input,
        output,
        std::future::pending(),
    ));
    relay.write_all(&[&[0x82, 127][..], &i64::MAX.to_be_bytes()].concat()).await.unwrap();
    let block = vec![8; 1 << 20];
    let mut received = vec![0; block.len()];
    for _ in 0..20 {
        let (sent, read) = tokio::join!(relay.write_all(&block), ssh_reads.read_exact(&mut received));
        sent.unwrap();
        read.unwrap();
    }
    drop(relay);
    assert!(matches!(bridge.await.unwrap(), BridgeEnd::Broken(BridgeError::Lost(_))));
}

#[tokio::test(start_paused = true)]
async fn many_empty_fragments_do_not_block_input() {
    let (mut ssh_writes, input) = duplex(1 << 20);
    let (mut relay, near) = duplex(1 << 20);
    let upgraded = Upgraded { relay: RELAY.into(), stream: near, read_ahead: Vec::new() };
    let bridge = tokio::spawn(run(upgraded, input, tokio::io::sink(), std::future::pending()));
    relay.write_all(&[0x02, 0]).await.unwrap();
    ssh_writes.write_all(b"still moving").await.unwrap();
    let mut answer = vec![0; 6 + 12];
    let (mut read, mut write) = tokio::io::split(relay);
    let flood = tokio::spawn(async move { while write.write_all(&[0; 65536]).await.is_ok() {} });
    read.read_exact(&mut answer).await.unwrap();
    assert!(!bridge.is_finished());
    bridge.abort();
    flood.abort();
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_closes_before_the_first_input_is_reported_to_ssh_only() {
    for (input, is_reported) in
        [(&b"SSH-2.0-client\r\n"[..], true), (b"GET / HTTP/1.1\r\n", false), (b"", false)]
    {
        let mut b = unstopped().await;
        b.close_with(1000).await;
        tokio::time::sleep(FIRST_INPUT_TIMEOUT / 2).await;
        b.ssh_writes.write_all(input).await.unwrap();
        let end = b.bridge.await.unwrap();
        let answer = b.relay.next().await.unwrap().unwrap();
        assert!(matches!(answer, Message::Close(_)), "{input:?}: {answer:?}");
        let reported = matches!(end, BridgeEnd::Broken(BridgeError::NotSsh(NotSsh::Closed)));
        assert_eq!(reported, is_reported, "{input:?}: {end:?}");
    }
}
