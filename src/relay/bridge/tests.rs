//! The bridge between two in-memory pipes and a WebSocket server, on a clock that stands still.

use super::*;
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

/// ssh's side, the relay's side, and the bridge at work between them.
struct Bridged {
    ssh_writes: DuplexStream,
    ssh_reads: DuplexStream,
    relay: WebSocketStream<DuplexStream>,
    bridge: JoinHandle<Ending>,
}

async fn bridged(pipe_size: usize, stop: impl Future<Output = Ending> + Send + 'static) -> Bridged {
    let (ssh_writes, input) = duplex(pipe_size);
    let (ssh_reads, output) = duplex(pipe_size);
    let (near, far) = duplex(pipe_size);
    let bridge = tokio::spawn(run(Upgraded { stream: near, beyond: Vec::new() }, input, output, stop));
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

#[tokio::test(start_paused = true)]
async fn messages_of_any_size_and_in_fragments_are_taken() {
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
async fn output_sent_after_ssh_closes_its_input_still_arrives() {
    let mut b = unstopped().await;
    b.ssh_writes.write_all(b"last words").await.unwrap();
    b.ssh_writes.shutdown().await.unwrap();
    assert_eq!(b.next().await, binary(b"last words"));
    for chunk in [b"slow ", b"answ", b"er"] as [&[u8]; 3] {
        tokio::time::advance(DRAIN_SILENCE - Duration::from_millis(100)).await;
        b.relay.send(binary(chunk)).await.unwrap();
        assert_eq!(b.ssh_reads(chunk.len()).await, chunk);
    }
    b.close_with(1000).await;
    assert!(matches!(b.bridge.await.unwrap(), Ending::Finished));
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_stays_silent_after_the_input_has_ended_is_left() {
    let mut b = unstopped().await;
    let start = Instant::now();
    b.ssh_writes.shutdown().await.unwrap();
    let Message::Close(Some(frame)) = b.next().await else { panic!("no Close frame") };
    assert_eq!(frame.code, CloseCode::Normal);
    assert_eq!(start.elapsed(), DRAIN_SILENCE);
    assert!(matches!(b.bridge.await.unwrap(), Ending::Finished));
}

#[tokio::test(start_paused = true)]
async fn the_first_ping_comes_after_a_period_and_then_one_each_period() {
    let mut b = unstopped().await;
    let start = Instant::now();
    for pings in 1..=3 {
        assert_eq!(b.next().await, Message::Ping(Bytes::new()));
        assert_eq!(start.elapsed(), PING_PERIOD * pings);
    }
}

#[tokio::test(start_paused = true)]
async fn a_ping_is_answered_while_nothing_else_moves() {
    let mut b = unstopped().await;
    b.relay.send(Message::Ping("are you there".into())).await.unwrap();
    assert_eq!(b.next().await, Message::Pong("are you there".into()));
}

#[tokio::test(start_paused = true)]
async fn everything_before_a_close_frame_is_delivered_and_the_peer_is_not_waited_for() {
    let mut b = bridged(1000, std::future::pending()).await;
    let all = vec![9_u8; 100_000];
    let far_side = async {
        b.relay.send(Message::Binary(all.clone().into())).await.unwrap();
        b.relay.send(Message::Close(None)).await.unwrap();
    };
    let mut received = Vec::new();
    let (_, read) = tokio::join!(far_side, b.ssh_reads.read_to_end(&mut received));
    assert_eq!(read.unwrap(), all.len());
    // The relay's side still stands: the bridge ended without it.
    assert!(matches!(b.bridge.await.unwrap(), Ending::Finished));
}

#[tokio::test(start_paused = true)]
async fn a_close_code_other_than_normal_is_a_break_that_keeps_its_reason() {
    for code in [1001, 1008, 1011, 4000] {
        let mut b = unstopped().await;
        b.close_with(code).await;
        let Ending::Broken(broken) = b.bridge.await.unwrap() else { panic!("{code} is a break") };
        assert_eq!(
            broken.to_string(),
            format!("the relay closed the connection with code {code} \"a reason\"")
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_break_after_ssh_has_closed_its_input_is_none() {
    let mut b = unstopped().await;
    b.close_with(1001).await;
    b.ssh_writes.shutdown().await.unwrap();
    assert!(matches!(b.bridge.await.unwrap(), Ending::Finished));

    let mut b = unstopped().await;
    b.ssh_writes.shutdown().await.unwrap();
    tokio::time::advance(Duration::from_secs(1)).await;
    drop(b.relay);
    assert!(matches!(b.bridge.await.unwrap(), Ending::Finished));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_ends_without_a_close_frame_is_lost() {
    let b = unstopped().await;
    drop(b.relay);
    let ending = b.bridge.await.unwrap();
    assert!(matches!(ending, Ending::Broken(Broken::Lost(_))), "{ending:?}");
}

#[tokio::test(start_paused = true)]
async fn a_close_frame_is_the_reason_even_where_writing_has_failed_before_it_is_read() {
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
    let ending =
        run(Upgraded { stream, beyond: Vec::new() }, input, tokio::io::sink(), std::future::pending()).await;
    let Ending::Broken(Broken::Closed(frame)) = ending else { panic!("{ending:?}") };
    assert_eq!((frame.code, frame.reason.as_str()), (CloseCode::Error, "fault"));
}

/// Reads well, and fails every write.
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
async fn input_is_not_read_while_the_relay_takes_nothing() {
    let mut b = bridged(1000, std::future::pending()).await;
    let block = vec![1_u8; 4 << 20];
    let taken = timeout(Duration::from_secs(20), b.ssh_writes.write_all(&block)).await;
    assert!(taken.is_err(), "4 MiB went somewhere though the relay reads nothing");
    // What the bridge holds is a few messages at the most; the rest waits at ssh.
    let mut held = 0;
    drop(b.ssh_writes);
    while let Some(Ok(Message::Binary(bytes))) = b.relay.next().await {
        held += bytes.len();
    }
    assert!(held <= 4 * MAX_PAYLOAD, "{held}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_of_output_does_not_hold_up_input() {
    let mut b = bridged(1000, std::future::pending()).await;
    let (mut sink, mut stream) = b.relay.split();
    let flood = tokio::spawn(async move { sink.send(Message::Binary(vec![2; 1 << 20].into())).await });
    b.ssh_writes.write_all(b"still moving").await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), binary(b"still moving"));
    assert!(!flood.is_finished(), "1 MiB went somewhere though ssh reads nothing");
}

#[tokio::test(start_paused = true)]
async fn an_output_that_nobody_reads_ends_the_bridge() {
    let mut b = unstopped().await;
    drop(b.ssh_reads);
    b.relay.send(binary(b"for nobody")).await.unwrap();
    assert!(matches!(b.bridge.await.unwrap(), Ending::Finished));
}

#[tokio::test(start_paused = true)]
async fn a_signal_lets_input_already_written_and_a_close_frame_through() {
    let (ask, asked) = tokio::sync::oneshot::channel::<()>();
    let stop = async {
        let _ = asked.await;
        Ending::Signal(15)
    };
    let mut b = bridged(1 << 20, stop).await;
    b.ssh_writes.write_all(b"goodbye").await.unwrap();
    ask.send(()).unwrap();
    assert_eq!(b.next().await, binary(b"goodbye"));
    assert!(matches!(b.next().await, Message::Close(Some(_))));
    assert!(matches!(b.bridge.await.unwrap(), Ending::Signal(15)));
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_takes_nothing_cannot_hold_up_the_end() {
    let b = bridged(16, async {
        sleep(Duration::from_secs(3)).await;
        Ending::Signal(1)
    });
    let mut b = b.await;
    let start = Instant::now();
    b.ssh_writes.write_all(b"more than fits").await.unwrap();
    assert!(matches!(b.bridge.await.unwrap(), Ending::Signal(1)));
    assert!(start.elapsed() <= Duration::from_secs(3) + FAREWELL);
}

#[tokio::test(start_paused = true)]
async fn a_reader_may_pause_for_long_after_the_input_has_ended() {
    let mut b = bridged(1000, std::future::pending()).await;
    b.ssh_writes.shutdown().await.unwrap();
    let all = vec![3_u8; 1 << 20];
    let (mut sink, _stream) = b.relay.split();
    let sent = all.clone();
    let send = tokio::spawn(async move {
        sink.send(Message::Binary(sent.into())).await.unwrap();
        sink.send(Message::Close(None)).await.unwrap();
    });
    sleep(DRAIN_SILENCE * 20).await;
    let mut received = Vec::new();
    b.ssh_reads.read_to_end(&mut received).await.unwrap();
    assert_eq!(received.len(), all.len());
    send.await.unwrap();
    assert!(matches!(b.bridge.await.unwrap(), Ending::Finished));
}

#[tokio::test(start_paused = true)]
async fn a_break_in_the_middle_of_an_answer_is_one_also_after_the_input_has_ended() {
    let mut b = unstopped().await;
    b.ssh_writes.shutdown().await.unwrap();
    sleep(Duration::from_secs(1)).await;
    b.relay.send(binary(b"the first half")).await.unwrap();
    assert_eq!(b.ssh_reads(14).await, b"the first half");
    drop(b.relay);
    assert!(matches!(b.bridge.await.unwrap(), Ending::Broken(Broken::Lost(_))));
}

#[tokio::test(start_paused = true)]
async fn an_output_that_fails_is_told() {
    let (near, far) = duplex(1 << 20);
    let mut relay = WebSocketStream::from_raw_socket(far, Role::Server, None).await;
    relay.send(binary(b"for a full disk")).await.unwrap();
    let upgraded = Upgraded { stream: near, beyond: Vec::new() };
    let (_ssh_writes, input) = duplex(64);
    let ending = run(upgraded, input, Full, std::future::pending()).await;
    assert!(matches!(ending, Ending::Broken(Broken::Output(_))), "{ending:?}");
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
async fn a_relay_that_pings_and_takes_no_pongs_fills_no_memory_and_loses_no_input() {
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
    assert!(pongs <= 2 * MAX_UNSENT, "{pongs} bytes of pongs were held");
    input.await.unwrap();
}
