//! The connection between a sender and a listener, with the faults that a test configures.
//!
//! Memory is bounded: one message in each direction and the buffers of the sockets. The bridge reads from one side only
//! when the other side accepts data.

use std::future::{pending, ready};
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};

use crate::relay::ConnectionState;
use crate::relay::fault::{RelayFault, Wire};
use crate::relay::observations::{Observations, SenderEnd};
use crate::relay::websocket::{self, Socket};

/// How long to wait for the peer's Close frame after a failed write.
const CLOSE_FRAME_WAIT: Duration = Duration::from_secs(2);

/// With coalescing, the pause of the listener after which an incomplete message is sent.
const COALESCE_PAUSE: Duration = Duration::from_millis(20);

/// Why a connection ends.
#[derive(Debug)]
enum End {
    Sender(SenderEnd),
    Listener,
    Deleted,
    /// A fault: the relay drops the sender's TCP connection.
    Cut,
    /// A fault: the relay sends nothing more to the sender.
    Silence,
    /// A fault: the relay sends this Close frame to the sender.
    Close(u16, String),
}

/// Copies messages between `sender` and `listener` until one of them or the relay closes the connection.
pub(crate) async fn join(
    sender: Socket,
    listener: Socket,
    fault: &RelayFault,
    mut state: watch::Receiver<ConnectionState>,
    observations: &Observations,
) {
    if let Some(wire) = &fault.wire {
        return send_wire(sender, listener, wire, observations).await;
    }
    let (mut sender_out, mut sender_in) = sender.split();
    let (mut listener_out, mut listener_in) = listener.split();
    let end = tokio::select! {
        end = sender_to_listener(&mut sender_in, &mut listener_out, fault, observations) => end,
        end = listener_to_sender(&mut listener_in, &mut sender_out, fault) => end,
        _ = state.wait_for(|state| *state == ConnectionState::Deleted) => End::Deleted,
        () = idle(fault.silent_after) => End::Silence,
    };
    let sender = sender_in.reunite(sender_out);
    let listener = listener_in.reunite(listener_out);
    if let (Ok(sender), Ok(listener)) = (sender, listener) {
        close_both(sender, listener, end, observations).await;
    }
}

/// Sends bytes that need not be frames, and records how the sender reacts.
async fn send_wire(mut sender: Socket, mut listener: Socket, wire: &Wire, observations: &Observations) {
    let sending = async {
        let stream = sender.get_mut();
        stream.write_all(&wire.first).await?;
        for _ in 0..wire.times {
            stream.write_all(&wire.then).await?;
        }
        stream.flush().await
    };
    if sending.await.is_err() {
        observations.record_end(SenderEnd::Dropped);
    } else {
        loop {
            if let Some(end) = observe(sender.next().await, observations) {
                observations.record_end(end);
                break;
            }
        }
    }
    websocket::close(&mut listener, SENDER_CLOSED).await;
}

const SENDER_CLOSED: (u16, &str) = (1001, "The sender client shut down the connection.");

/// Closes both sockets with the codes of the status tables in the protocol guide.
async fn close_both(mut sender: Socket, mut listener: Socket, end: End, observations: &Observations) {
    const DELETED: (u16, &str) = (1001, "The Hybrid Connection path has been deleted or disabled.");
    let sender_end = match end {
        End::Sender(end) => {
            // The sender has closed; the listener's answer does not change that.
            observations.record_end(end);
            tokio::join!(websocket::close(&mut listener, SENDER_CLOSED), websocket::drain(&mut sender));
            return;
        }
        End::Silence => {
            let stream = sender.get_mut();
            let mut discarded = [0; 4096];
            while stream.read(&mut discarded).await.is_ok_and(|length| length > 0) {}
            websocket::close(&mut listener, SENDER_CLOSED).await;
            return;
        }
        End::Cut => {
            drop(sender);
            websocket::close(&mut listener, SENDER_CLOSED).await;
            return;
        }
        End::Listener => {
            let close = websocket::close(&mut sender, (1000, "The listener shut down the socket."));
            tokio::join!(close, websocket::drain(&mut listener)).0
        }
        End::Deleted => {
            tokio::join!(websocket::close(&mut sender, DELETED), websocket::close(&mut listener, DELETED)).0
        }
        End::Close(code, reason) => {
            let close = websocket::close(&mut sender, (code, &reason));
            tokio::join!(close, websocket::close(&mut listener, SENDER_CLOSED)).0
        }
    };
    observations.record_end(sender_end);
}

async fn sender_to_listener(
    sender: &mut SplitStream<Socket>,
    listener: &mut SplitSink<Socket, Message>,
    fault: &RelayFault,
    observations: &Observations,
) -> End {
    if fault.blocked_reader || fault.silent_after_upgrade {
        return pending().await;
    }
    let mut unflushed = false;
    loop {
        let message = tokio::select! {
            biased;
            message = sender.next() => message,
            () = ready(()), if unflushed => {
                unflushed = false;
                if listener.flush().await.is_err() {
                    return after_failed_write(End::Listener).await;
                }
                continue;
            }
            () = idle(fault.idle_limit) => return End::Cut,
        };
        match message {
            Some(Ok(data @ (Message::Binary(_) | Message::Text(_)))) => {
                let length = data.len() as u64;
                if listener.feed(data).await.is_err() {
                    return after_failed_write(End::Listener).await;
                }
                unflushed = true;
                throttle(fault.read_rate, length).await;
            }
            other => {
                if let Some(end) = observe(other, observations) {
                    // Data that the sender sent before it closed still goes to the listener.
                    let _ = listener.flush().await;
                    return End::Sender(end);
                }
            }
        }
    }
}

/// Records a message that is not data. Pings and pongs are hop-by-hop; tungstenite answers the pings.
fn observe(message: Option<Result<Message, Error>>, observations: &Observations) -> Option<SenderEnd> {
    match message {
        Some(Ok(Message::Ping(payload))) => observations.record_ping(&payload),
        Some(Ok(Message::Pong(payload))) => observations.record_pong(&payload),
        Some(Ok(Message::Close(frame))) => {
            return Some(SenderEnd::Closed(frame.map(|frame| frame.code.into())));
        }
        Some(Err(_)) | None => return Some(SenderEnd::Dropped),
        Some(Ok(_)) => {}
    }
    None
}

/// Waits after a failed write: a Close frame on the reading side has the actual reason.
async fn after_failed_write(end: End) -> End {
    sleep(CLOSE_FRAME_WAIT).await;
    end
}

async fn idle(limit: Option<Duration>) {
    match limit {
        Some(limit) => sleep(limit).await,
        None => pending().await,
    }
}

async fn throttle(bytes_per_second: Option<u64>, bytes: u64) {
    if let Some(rate) = bytes_per_second {
        sleep(Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64)).await;
    }
}

async fn listener_to_sender(
    listener: &mut SplitStream<Socket>,
    sender: &mut SplitSink<Socket, Message>,
    fault: &RelayFault,
) -> End {
    if fault.silent_after_upgrade {
        return pending().await;
    }
    let mut delivery = Delivery { sender, fault, sent: 0, collected: Vec::new(), unflushed: false };
    match delivery.deliver_all(listener).await {
        Ok(()) => delivery.finish().await,
        Err(end) => end,
    }
}

/// The direction to the sender, to which most faults apply.
struct Delivery<'a> {
    sender: &'a mut SplitSink<Socket, Message>,
    fault: &'a RelayFault,
    /// Bytes of data sent to the sender.
    sent: u64,
    /// With coalescing: the incomplete message.
    collected: Vec<u8>,
    unflushed: bool,
}

impl Delivery<'_> {
    /// Delivers messages until the listener closes.
    async fn deliver_all(&mut self, listener: &mut SplitStream<Socket>) -> Result<(), End> {
        self.end_at_limit().await?;
        let mut pings = self.fault.ping_every.map(|every| {
            let mut pings = interval_at(Instant::now() + every, every);
            pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
            pings
        });
        let tick = async |pings: &mut Option<tokio::time::Interval>| match pings {
            Some(pings) => drop(pings.tick().await),
            None => pending().await,
        };
        loop {
            let delay = if self.fault.coalesce.is_some() { COALESCE_PAUSE } else { Duration::ZERO };
            tokio::select! {
                biased;
                () = tick(&mut pings) => self.ping().await?,
                message = listener.next() => match message {
                    Some(Ok(data @ (Message::Binary(_) | Message::Text(_)))) => self.deliver(data).await?,
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(()),
                    Some(Ok(_)) => {}
                },
                () = pause(delay), if self.unflushed => self.flush().await?,
            }
        }
    }

    async fn ping(&mut self) -> Result<(), End> {
        let ping = Message::Ping(Bytes::from_static(b"relay"));
        self.write(ping).await?;
        self.push().await
    }

    /// Delivers one message, or its part up to the limit.
    async fn deliver(&mut self, message: Message) -> Result<(), End> {
        let left = self.limit().map_or(u64::MAX, |limit| limit.saturating_sub(self.sent));
        let message = if (message.len() as u64) < left {
            message
        } else {
            Message::Binary(message.into_data().slice(..left as usize))
        };
        self.sent += message.len() as u64;
        match self.fault.coalesce {
            Some(size) => self.collect(&message.into_data(), size).await?,
            None => self.send(message).await?,
        }
        self.end_at_limit().await
    }

    /// The number of bytes after which a fault ends the connection.
    fn limit(&self) -> Option<u64> {
        self.fault.cut_after.or(self.fault.close_after.as_ref().map(|(bytes, ..)| *bytes))
    }

    /// Ends the connection at the limit.
    async fn end_at_limit(&mut self) -> Result<(), End> {
        if self.limit().is_none_or(|limit| self.sent < limit) {
            return Ok(());
        }
        self.flush().await?;
        match &self.fault.close_after {
            Some((_, code, reason)) => Err(End::Close(*code, reason.clone())),
            None => Err(End::Cut),
        }
    }

    async fn collect(&mut self, data: &[u8], size: usize) -> Result<(), End> {
        self.collected.extend_from_slice(data);
        self.unflushed = true;
        if self.collected.len() >= size { self.send_collected().await } else { Ok(()) }
    }

    async fn send_collected(&mut self) -> Result<(), End> {
        match std::mem::take(&mut self.collected) {
            none if none.is_empty() => Ok(()),
            collected => self.send(Message::binary(collected)).await,
        }
    }

    async fn send(&mut self, message: Message) -> Result<(), End> {
        match self.fault.fragment {
            Some(size) if message.len() > size => self.send_fragments(message, size).await,
            _ => self.write(message).await,
        }
    }

    /// RFC 6455, 5.4: the first frame has the type, the last has FIN, and control frames may come between them.
    async fn send_fragments(&mut self, message: Message, size: usize) -> Result<(), End> {
        let mut kind = if message.is_text() { Data::Text } else { Data::Binary };
        let mut data = message.into_data();
        while !data.is_empty() {
            let piece = data.split_to(size.min(data.len()));
            let frame = Frame::message(piece, OpCode::Data(kind), data.is_empty());
            self.write(Message::Frame(frame)).await?;
            if kind != Data::Continue {
                self.ping().await?;
            }
            kind = Data::Continue;
        }
        Ok(())
    }

    async fn write(&mut self, message: Message) -> Result<(), End> {
        self.unflushed = true;
        match self.sender.feed(message).await {
            Ok(()) => Ok(()),
            Err(_) => Err(after_failed_write(End::Sender(SenderEnd::Dropped)).await),
        }
    }

    async fn flush(&mut self) -> Result<(), End> {
        self.send_collected().await?;
        self.unflushed = false;
        self.push().await
    }

    /// Flushes the socket.
    async fn push(&mut self) -> Result<(), End> {
        match self.sender.flush().await {
            Ok(()) => Ok(()),
            Err(_) => Err(after_failed_write(End::Sender(SenderEnd::Dropped)).await),
        }
    }

    /// Sends the remaining data when the listener has closed. The Close frame follows.
    async fn finish(&mut self) -> End {
        match self.flush().await {
            Ok(()) => End::Listener,
            Err(end) => end,
        }
    }
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}
