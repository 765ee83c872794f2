//! A second dial in parallel with a first one that is late, within a budget.
//!
//! Azure Relay usually responds within a second. One dial in 10 to 40 takes 3 to 7 s, and some upgrades get no response (aztunnel
//! issues 115 and 142). A second dial then usually connects at once ("The Tail at Scale", Dean and Barroso, CACM 2013).
//!
//! A dial that is closed late may already have reached the machine's sshd, for which it counts as an unauthenticated connection
//! from localhost (sshd_config(5), `PerSourcePenalties`). The budget therefore limits second dials to 5 % of the connections,
//! even if every first dial is late, as with a slow agent or proxy.

use std::cell::Cell;
use std::pin::pin;
use std::thread;
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};
use tracing::info;

use crate::net::Step;
use crate::relay::handshake::ConnectError;
use crate::state::{Key, Kind, Store};

/// The silence after which a second dial starts. It begins with each step, so that a long round trip alone is not late.
const HEDGE_AFTER: Duration = Duration::from_secs(2);

/// The full budget, in twentieths of a dial. 20 second dials can run at once.
const FULL: i32 = 400;
/// The price of a second dial.
const PRICE: i32 = 20;
/// What a second dial costs in addition if it loses. The first dial was then slow for a reason that a second one does not
/// remove. The debt of the budget is never more than this.
const LOSS: i32 = 60;
/// The amount that each connection adds. One in 20 connections can have a second dial that wins, or one in 80 one that loses.
const INCOME: i32 = 1;

/// The budget of second dials of all processes. It is full if it has no file.
#[derive(Debug)]
pub(crate) struct HedgeBudget<'a> {
    store: &'a Store,
    /// The amount that the connection adds; less than 0 after a second dial that lost.
    income: Cell<i32>,
}

impl<'a> HedgeBudget<'a> {
    pub(crate) fn new(store: &'a Store) -> Self {
        Self { store, income: Cell::new(INCOME) }
    }

    /// Takes the price of a second dial, and returns whether the budget allows one. Waits for other processes that change the
    /// budget: if many connections are late at once, they must not take the same amount.
    async fn take(&self) -> bool {
        if self.store.folder().is_none() {
            return true;
        }
        let Some(_lock) = self.store.lock(&key()).await else { return false };
        let Ok(budget) = self.store.read::<i32>(&key()) else { return false };
        let left = budget.unwrap_or(FULL).min(FULL) - PRICE;
        left >= 0 && self.store.try_write(&key(), &left).is_ok()
    }

    /// Adds the income of an established connection, in the background.
    pub(crate) fn add(&self) {
        tokio::spawn(add(self.store.clone(), self.income.get()));
    }

    /// Pays for a second dial that failed, as the first one did.
    async fn lose(&self) {
        add(self.store.clone(), -LOSS).await;
        self.income.set(INCOME);
    }
}

/// Adds an amount. With a full budget, a connection without a second dial makes one failed stat(2).
async fn add(store: Store, amount: i32) {
    if amount > 0 && !matches!(store.read::<i32>(&key()), Ok(Some(_))) {
        return;
    }
    let Some(lock) = store.lock(&key()).await else { return };
    let (written, on_written) = oneshot::channel::<()>();
    // Writing waits for the disk. Without a thread, the budget gets no income.
    let write = thread::Builder::new().spawn(move || {
        match store.read(&key()).map(|budget| budget.unwrap_or(FULL).saturating_add(amount)) {
            Ok(FULL..) => store.remove(&key()),
            Ok(budget) => store.write(&key(), &budget.max(-LOSS)),
            Err(_) => {}
        }
        drop((lock, written));
    });
    if write.is_ok() {
        let _ = on_written.await;
    }
}

fn key() -> Key {
    Key::new(Kind::Hedge, "second connections to Azure Relay")
}

/// Dials, and a second time if the first dial is late. The first connection wins, and the other dial is closed. `limit` returns
/// the time limit of each step.
///
/// # Errors
/// Both dials failed. A response is the better explanation than silence.
pub(crate) async fn dial<T>(
    limit: impl Fn(Step) -> Duration,
    dial: impl AsyncFn(&dyn Fn(Step) -> Duration) -> Result<T, ConnectError>,
    allows_second: impl Fn() -> bool,
    budget: &HedgeBudget<'_>,
) -> Result<T, ConnectError> {
    let last_step = Cell::new(Instant::now());
    let timed = |step| {
        last_step.set(Instant::now());
        limit(step)
    };
    let mut first = pin!(dial(&timed));
    let may_start = async {
        late(&last_step, allows_second).await;
        budget.take().await
    };
    let may_start = tokio::select! {
        biased;
        result = &mut first => return result,
        may_start = may_start => may_start,
    };
    if !may_start {
        return first.await;
    }
    info!("no response for {} s; dialling a second time", HEDGE_AFTER.as_secs());
    budget.income.set(INCOME - LOSS);
    let won = |_: &T| budget.income.set(INCOME);
    let better = |one: ConnectError, other| if one.is_silence() { other } else { one };
    let result = match select(first, pin!(dial(&limit))).await {
        Either::Left((Err(error), second)) => second.await.inspect(won).map_err(|other| better(error, other)),
        Either::Right((Err(error), first)) => first.await.map_err(|other| better(other, error)),
        Either::Left((result, _)) => result,
        Either::Right((result, _)) => result.inspect(won),
    };
    if result.is_err() {
        budget.lose().await;
    }
    result
}

/// Waits until a dial has completed no step for [`HEDGE_AFTER`], and a second one may start.
async fn late(last_step: &Cell<Instant>, allows_second: impl Fn() -> bool) {
    let mut from = last_step.get();
    loop {
        sleep_until(from + HEDGE_AFTER).await;
        from = match last_step.get() {
            last if last > from => last,
            _ if allows_second() => return,
            _ => Instant::now(),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use futures_util::FutureExt as _;
    use tokio::io::{AsyncReadExt as _, DuplexStream, duplex};
    use tokio::time::sleep;

    use super::*;
    use crate::relay::handshake::Rejection;
    use crate::system::timeout::with_timeout;

    /// The time limit of a step.
    const LIMIT: Duration = Duration::from_secs(10);

    fn store() -> (tempfile::TempDir, Store) {
        let home = tempfile::tempdir().unwrap();
        let store = Store::at(home.path().join("state")).unwrap();
        (home, store)
    }

    fn rejected(status: u16) -> ConnectError {
        Rejection::new("azgn.servicebus.windows.net", status, "").into()
    }

    /// The relay's end of each dial.
    type Ends = RefCell<Vec<DuplexStream>>;

    /// A dial whose steps take these milliseconds. The last one ends with this status: 101, or 0 for silence.
    struct Script(&'static [u64], u16);

    /// Dials the relay: the first dial follows the first script, and so on. Returns the stream's number, and the seconds.
    async fn run(
        scripts: &[Script],
        allows_second: impl Fn() -> bool,
        budget: &HedgeBudget<'_>,
        ends: &Ends,
    ) -> (Result<(usize, DuplexStream), ConnectError>, u64) {
        let start = Instant::now();
        let one = async |limit: &dyn Fn(Step) -> Duration| {
            let (stream, end) = duplex(64);
            let number = ends.borrow().len();
            ends.borrow_mut().push(end);
            let Script(steps, status) = &scripts[number];
            for step in *steps {
                let wait = sleep(Duration::from_millis(*step)).map(Ok);
                with_timeout(limit(Step::Direct), wait, ConnectError::TimedOut).await?;
            }
            match status {
                0 => with_timeout(limit(Step::Onward), std::future::pending(), ConnectError::TimedOut).await,
                101 => Ok((number, stream)),
                status => Err(rejected(*status)),
            }
        };
        let result = dial(|_| LIMIT, one, allows_second, budget).await;
        (result, start.elapsed().as_secs())
    }

    /// Returns the numbers of the dials that were closed.
    fn closed(ends: &Ends) -> Vec<usize> {
        let mut ends = ends.borrow_mut();
        let is_closed = |end: &mut DuplexStream| matches!(end.read(&mut [0]).now_or_never(), Some(Ok(0)));
        ends.iter_mut().enumerate().filter_map(|(number, end)| is_closed(end).then_some(number)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_dial_that_makes_progress_has_no_second_one() {
        let (_home, store) = store();
        for steps in [[1900, 1900, 1900], [0, 0, 1990]] {
            let (budget, ends) = (HedgeBudget::new(&store), Ends::default());
            let steps: &'static [u64] = steps.to_vec().leak();
            let (result, _) = run(&[Script(steps, 101)], || true, &budget, &ends).await;
            assert_eq!((result.unwrap().0, ends.borrow().len()), (0, 1));
        }
        assert!(store.keys().is_empty(), "the budget is full");
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_dial_replaces_a_silent_one_which_is_closed_at_once() {
        let (_home, store) = store();
        let (budget, ends) = (HedgeBudget::new(&store), Ends::default());
        let scripts = [Script(&[100, 100], 0), Script(&[400], 101)];
        let (result, seconds) = run(&scripts, || true, &budget, &ends).await;
        let (number, _stream) = result.unwrap();
        assert_eq!((number, seconds, ends.borrow().len()), (1, 2, 2));
        assert_eq!(closed(&ends), [0]);
        assert_eq!((store.read(&key()).unwrap(), budget.income.get()), (Some(FULL - PRICE), INCOME));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_dial_can_still_win() {
        let (_home, store) = store();
        let (budget, ends) = (HedgeBudget::new(&store), Ends::default());
        let scripts = [Script(&[2500], 101), Script(&[], 0)];
        let (result, _) = run(&scripts, || true, &budget, &ends).await;
        let (number, _stream) = result.unwrap();
        assert_eq!((number, ends.borrow().len(), budget.income.get()), (0, 2, INCOME - LOSS));
        assert_eq!(closed(&ends), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rejection_starts_no_second_dial_and_ends_only_its_own() {
        let (_home, store) = store();
        let cases: [(&[Script], Result<usize, &str>, usize); 6] = [
            (&[Script(&[1900], 404)], Err("404"), 1),
            (&[Script(&[3000], 503), Script(&[2000], 101)], Ok(1), 2),
            (&[Script(&[4000], 101), Script(&[1000], 503)], Ok(0), 2),
            (&[Script(&[], 0), Script(&[5000], 401)], Err("401"), 2),
            (&[Script(&[3000], 401), Script(&[], 0)], Err("401"), 2),
            (&[Script(&[], 0), Script(&[], 0)], Err("within 10 s"), 2),
        ];
        for (scripts, expected, dials) in cases {
            let (budget, ends) = (HedgeBudget::new(&store), Ends::default());
            let (result, seconds) = run(scripts, || true, &budget, &ends).await;
            match (&result, expected) {
                (Ok((number, _)), Ok(expected)) => assert_eq!(*number, expected),
                (Err(error), Err(text)) => assert!(error.to_string().contains(text), "{error}"),
                (result, expected) => panic!("{result:?} instead of {expected:?}"),
            }
            assert_eq!(ends.borrow().len(), dials, "{expected:?}");
            let (left, is_second) = (store.read(&key()).unwrap(), dials == 2);
            let cost = if result.is_err() { PRICE + LOSS } else { PRICE };
            assert_eq!(left, is_second.then_some(FULL - cost), "{expected:?}");
            assert!(seconds <= 12, "{seconds} s");
            store.remove(&key());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_dial_waits_until_it_is_allowed() {
        let (_home, store) = store();
        let (budget, ends) = (HedgeBudget::new(&store), Ends::default());
        let start = Instant::now();
        let scripts = [Script(&[5000], 0), Script(&[], 101)];
        let is_accepted = || start.elapsed() >= Duration::from_secs(5);
        let (result, seconds) = run(&scripts, is_accepted, &budget, &ends).await;
        assert_eq!((result.unwrap().0, seconds), (1, 7));
        let ends = Ends::default();
        let (result, _) = run(&[Script(&[9000], 101)], || false, &budget, &ends).await;
        assert_eq!((result.unwrap().0, ends.borrow().len()), (0, 1));
    }

    /// Returns the number of second dials of 400 connections that are all late, in groups that start at the same time.
    async fn second_dials(income: i32, at_once: usize) -> usize {
        let (_home, store) = store();
        let mut second_dials = 0;
        for _ in 0..400 / at_once {
            let mut started = 0;
            for _ in 0..at_once {
                started += usize::from(HedgeBudget::new(&store).take().await);
            }
            for number in 0..at_once {
                add(store.clone(), if number < started { income } else { INCOME }).await;
            }
            second_dials += started;
        }
        second_dials
    }

    #[tokio::test]
    async fn second_dials_stay_within_the_budget_if_every_dial_is_late() {
        for (at_once, burst) in [(1, 5), (10, 10), (40, 20), (100, 20)] {
            let (lost, won) =
                (second_dials(INCOME - LOSS, at_once).await, second_dials(INCOME, at_once).await);
            // The limit of the debt makes some losses of a group cheaper.
            assert!((5..=burst + 400 / 60).contains(&lost), "{at_once} at once: {lost}");
            assert!((20..=20 + 400 / 20).contains(&won), "{at_once} at once: {won}");
        }
    }

    #[tokio::test]
    async fn the_file_of_a_budget_exists_until_it_is_full() {
        let (_home, store) = store();
        add(store.clone(), INCOME).await;
        assert!(store.keys().is_empty());
        assert!(HedgeBudget::new(&store).take().await);
        add(store.clone(), PRICE - 1).await;
        assert_eq!(store.read(&key()).unwrap(), Some(FULL - 1));
        add(store.clone(), INCOME).await;
        assert!(store.keys().is_empty());
        add(store.clone(), INCOME - LOSS).await;
        assert_eq!(store.read(&key()).unwrap(), Some(FULL + INCOME - LOSS));
    }

    #[tokio::test(start_paused = true)]
    async fn a_dial_goes_on_while_another_process_changes_the_budget() {
        let (_home, store) = store();
        let lock = store.try_lock(&key()).unwrap();
        let (budget, ends) = (HedgeBudget::new(&store), Ends::default());
        let (result, _) = run(&[Script(&[9000], 101)], || true, &budget, &ends).await;
        assert_eq!((result.unwrap().0, ends.borrow().len()), (0, 1));
        let unlock = async {
            sleep(Duration::from_secs(5)).await;
            drop(lock);
        };
        let (ends, scripts) = (Ends::default(), [Script(&[9000], 0), Script(&[], 101)]);
        let ((result, _), ()) = tokio::join!(run(&scripts, || true, &budget, &ends), unlock);
        assert_eq!((result.unwrap().0, ends.borrow().len()), (1, 2));
    }

    #[tokio::test]
    async fn a_budget_without_the_price_allows_no_second_dial() {
        let (_home, store) = store();
        store.try_write(&key(), &(PRICE - 1)).unwrap();
        assert!(!HedgeBudget::new(&store).take().await);
        assert_eq!(store.read(&key()).unwrap(), Some(PRICE - 1));
        assert!(HedgeBudget::new(&Store::disabled()).take().await);
    }
}
