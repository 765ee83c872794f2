//! Detects that the relay is gone: pings, and missing pongs.
//!
//! No source says whether Azure Relay answers pings on data connections. A missing pong therefore counts only after the relay
//! has answered a ping on this connection.

use std::task::{Context, Poll};
use std::time::{Duration, Instant as SystemInstant, SystemTime};

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tracing::debug;

/// The time between two pings. Without traffic, the relay closes connections after about 2 or 4 minutes (aztunnel
/// `bridge.go`; Azure/azure-relay issue 33).
pub(crate) const PING_PERIOD: Duration = Duration::from_secs(30);
/// The number of consecutive unanswered pings after which the relay counts as gone. The last byte arrived 60 to 90 s before.
pub(crate) const MISSED_PINGS: u32 = 2;
/// The time limit for the first byte of the relay after this computer slept.
const AFTER_SLEEP: Duration = Duration::from_secs(10);
/// The difference between the wall clock and the process's clock that counts as sleep. It exceeds the jump of a clock that is
/// corrected.
const MIN_SLEEP: Duration = Duration::from_secs(20);

/// The next step of the bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pulse {
    /// Send a ping with this payload.
    Ping([u8; 8]),
    /// The relay is gone.
    Stopped,
}

/// The traffic from the relay since the last call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// Bytes have arrived.
    Received,
    /// No bytes have arrived, and all earlier bytes were read.
    None,
    /// The bridge did not read because the output is blocked, or a ping would wait behind input that the relay does not
    /// accept. Silence means nothing.
    Blocked,
}

/// The pings of one connection.
pub(crate) struct Liveness {
    ticks: Interval,
    clocks: Clocks,
    /// The number of the last ping, which is its payload. A pong without it is unsolicited: .NET sends empty pongs (dotnet/runtime, `ManagedWebSocket`, `IsUnsolicitedPongKeepAlive`).
    sent: u64,
    /// Whether the relay has answered a ping.
    has_answered: bool,
    /// Whether a ping was sent since the last bytes arrived.
    is_waiting: bool,
    missed: u32,
}

impl Liveness {
    /// Starts the timer. The first ping is due after [`PING_PERIOD`].
    pub(crate) fn new() -> Self {
        let mut ticks = interval_at(Instant::now() + PING_PERIOD, PING_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { ticks, clocks: Clocks::now(), sent: 0, has_answered: false, is_waiting: false, missed: 0 }
    }

    /// Processes the payload of a pong.
    pub(crate) fn pong(&mut self, payload: &[u8]) {
        let number = payload.try_into().map(u64::from_be_bytes);
        self.has_answered |= number.is_ok_and(|number| (1..=self.sent).contains(&number));
    }

    /// Returns the step that is due. Call this function after reading from the relay: a process that was stopped then finds
    /// the bytes that have arrived. Silence counts once per period, even if the process did not run for longer.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, traffic: Traffic) -> Poll<Pulse> {
        if traffic != Traffic::None {
            (self.is_waiting, self.missed) = (false, 0);
        }
        if self.clocks.have_slept(Clocks::now()) {
            return Poll::Ready(self.after_sleep(cx, traffic));
        }
        if self.ticks.poll_tick(cx).is_pending() {
            return Poll::Pending;
        }
        cx.waker().wake_by_ref();
        self.missed += u32::from(self.is_waiting && self.has_answered);
        Poll::Ready(if self.missed < MISSED_PINGS { self.ping(traffic) } else { Pulse::Stopped })
    }

    /// Sends a ping at once, because the network can have dropped the connection.
    fn after_sleep(&mut self, cx: &mut Context<'_>, traffic: Traffic) -> Pulse {
        debug!("this computer slept");
        self.ticks.reset_after(AFTER_SLEEP);
        cx.waker().wake_by_ref();
        self.missed = MISSED_PINGS - 1;
        self.ping(traffic)
    }

    fn ping(&mut self, traffic: Traffic) -> Pulse {
        self.is_waiting = traffic != Traffic::Blocked;
        self.sent += 1;
        Pulse::Ping(self.sent.to_be_bytes())
    }
}

/// The monotonic clock, which stops on Linux and macOS while the computer sleeps, and the wall clock.
struct Clocks {
    process: SystemInstant,
    wall: SystemTime,
}

impl Clocks {
    fn now() -> Self {
        Self { process: SystemInstant::now(), wall: SystemTime::now() }
    }

    /// Returns whether the computer has slept since the last call.
    fn have_slept(&mut self, now: Self) -> bool {
        let wall = now.wall.duration_since(self.wall).unwrap_or_default();
        let slept = wall.saturating_sub(now.process.duration_since(self.process)) > MIN_SLEEP;
        *self = now;
        slept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_is_detected_and_a_stopped_process_is_not_sleep() {
        let mut clocks = Clocks::now();
        let mut after = |process: u64, wall: u64| {
            let now = Clocks {
                process: clocks.process + Duration::from_secs(process),
                wall: clocks.wall + Duration::from_secs(wall),
            };
            clocks.have_slept(now)
        };
        assert!(!after(600, 600), "SIGSTOP");
        assert!(!after(30, 35), "the clock was corrected");
        assert!(after(30, 3600), "a closed lid");
        assert!(!after(30, 30), "a sleep is reported once");
        assert!(!after(3600, 30), "the clock was set back");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_sleep_a_ping_is_sent_at_once_with_a_short_time_limit() {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut liveness = Liveness::new();
        let Poll::Ready(Pulse::Ping(number)) = after_sleep(&mut liveness, &mut cx) else { panic!("no ping") };
        tokio::time::advance(AFTER_SLEEP).await;
        assert!(
            matches!(liveness.poll(&mut cx, Traffic::None), Poll::Ready(Pulse::Ping(_))),
            "never answered"
        );
        liveness.pong(&number);
        assert_eq!(liveness.poll(&mut cx, Traffic::Received), Poll::Pending);
        assert!(after_sleep(&mut liveness, &mut cx).is_ready());
        assert_eq!(liveness.poll(&mut cx, Traffic::None), Poll::Pending);
        tokio::time::advance(AFTER_SLEEP).await;
        assert_eq!(liveness.poll(&mut cx, Traffic::None), Poll::Ready(Pulse::Stopped));
    }

    fn after_sleep(liveness: &mut Liveness, cx: &mut Context<'_>) -> Poll<Pulse> {
        liveness.clocks.wall -= Duration::from_secs(3600);
        liveness.poll(cx, Traffic::None)
    }

    #[test]
    fn only_a_pong_that_repeats_a_ping_is_an_answer() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _inside = runtime.enter();
        let mut liveness = Liveness::new();
        liveness.pong(&[]);
        liveness.pong(&1_u64.to_be_bytes());
        assert!(!liveness.has_answered, "no ping was sent");
        liveness.ping(Traffic::None);
        liveness.pong(b"unasked");
        assert!(!liveness.has_answered);
        liveness.pong(&1_u64.to_be_bytes());
        assert!(liveness.has_answered);
    }
}
