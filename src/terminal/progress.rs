//! What is waited for, for how long, and until when: on a terminal one line that is rewritten each second and gone at the
//! end, elsewhere a line after two seconds, then every fifteen. A connection that comes at once says nothing.

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::time::Duration;

use anyhow::Result;
use console::Term;
use tokio::time::{Instant, interval_at};
use tracing::{Level, enabled};

use crate::system::timeout::with_timeout;
use crate::terminal::tty;
use crate::text::{cut, sanitize, width};

/// The first line comes after this time.
const FIRST: Duration = Duration::from_secs(2);
/// And one each time after that.
const EVERY: Duration = Duration::from_secs(15);
/// On a terminal the seconds are counted.
const SECOND: Duration = Duration::from_secs(1);

/// Back to the line's start, and whatever stands there deleted (ECMA-48, CR and EL).
const ERASED: &str = "\r\u{1b}[K";

/// How it is told.
#[derive(Clone, Copy, Debug)]
enum Form {
    /// A line each time.
    Lines,
    /// One line.
    Rewritten,
}

/// The present object of a wait, which the work under way changes as it goes.
#[derive(Debug)]
pub(crate) struct Progress<W: Write = Term> {
    object: RefCell<String>,
    /// When it comes, or is waited for no longer; none where that is not known.
    end: Cell<Option<Instant>>,
    out: RefCell<W>,
    form: Form,
    /// Its columns, which change as a user likes.
    columns: fn(&W) -> Option<usize>,
    /// Whether a line stands on the terminal.
    stands: Cell<bool>,
}

impl Default for Progress {
    fn default() -> Self {
        Self::on(Term::stderr())
    }
}

impl Progress {
    /// On the terminal that ssh's messages go to, also where ssh has turned our standard error away.
    pub(crate) fn behind_ssh() -> Self {
        Self::on(tty::ssh_terminal().unwrap_or_else(Term::stderr))
    }

    fn on(terminal: Term) -> Self {
        let form = form(&terminal);
        Self::new(terminal, form, |terminal| Some(terminal.size_checked()?.1.into()))
    }
}

/// A log on the terminal would run into a line that is rewritten; a terminal without a cursor has none to rewrite.
fn form(terminal: &Term) -> Form {
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    // The console of Windows takes escape sequences once it is asked to, which this question does.
    let deaf = cfg!(windows) && !terminal.features().colors_supported();
    let plain = dumb || deaf || !terminal.is_term() || enabled!(Level::INFO);
    if plain || terminal.size_checked().is_none() { Form::Lines } else { Form::Rewritten }
}

impl<W: Write> Progress<W> {
    fn new(out: W, form: Form, columns: fn(&W) -> Option<usize>) -> Self {
        let (object, end) = (RefCell::default(), Cell::default());
        Self { object, end, out: RefCell::new(out), form, columns, stands: Cell::default() }
    }

    /// From now on it is this that is waited for; it reads after "waiting for the".
    pub(crate) fn set(&self, object: String) {
        self.object.replace(object);
        self.end.set(None);
    }

    /// The same, of what is waited for no longer than `limit` from now.
    pub(crate) fn set_deadline(&self, object: String, limit: Duration) {
        self.object.replace(object);
        self.end.set(Some(Instant::now() + limit));
    }

    /// What is waited for now; it reads after "the".
    pub(crate) fn object(&self) -> String {
        self.object.borrow().clone()
    }

    /// Waits for a part of the work no longer than `limit`, and tells of it.
    ///
    /// # Errors
    /// [`TimedOut`].
    pub(crate) async fn run_with_timeout<T>(
        &self,
        limit: Duration,
        object: String,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.set_deadline(object.clone(), limit);
        with_timeout(limit, object, work).await
    }

    /// Tells of something that is done meanwhile.
    pub(crate) fn println(&self, text: &str) {
        self.erase();
        self.write(&format!("{}\n", sanitize(&format!("arcssh: {text}"))));
    }

    /// Does `work`, and tells what it waits for while it takes long.
    pub(crate) async fn run<T>(&self, work: impl Future<Output = T>) -> T {
        let every = match self.form {
            Form::Lines => EVERY,
            Form::Rewritten => SECOND,
        };
        let start = Instant::now();
        let mut lines = interval_at(start + FIRST, every);
        // Whoever stops waiting leaves no line either.
        let _erased = Erased(self);
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                now = lines.tick() => self.tell(start, now),
            }
        }
    }

    fn tell(&self, start: Instant, now: Instant) {
        let (object, so_far) = (sanitize(&self.object.borrow()), (now - start).as_secs());
        let end = self.end.get().map(|end| (end - start).as_secs_f32().round());
        let at_most = end.map_or(String::new(), |end| format!(", {end} s at most"));
        let time = format!("{so_far} s so far{at_most}");
        match self.form {
            Form::Lines => self.write(&format!("{}\n", line(&object, &time, usize::MAX))),
            Form::Rewritten => {
                self.stands.set(true);
                let columns = (self.columns)(&self.out.borrow()).unwrap_or(usize::MAX);
                self.write(&format!("{ERASED}{}", line(&object, &time, columns)));
            }
        }
    }

    fn erase(&self) {
        if self.stands.replace(false) {
            self.write(ERASED);
        }
    }

    /// A standard error that is gone is no reason to stop.
    fn write(&self, text: &str) {
        let mut out = self.out.borrow_mut();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

/// Erases the line when it is dropped.
struct Erased<'a, W: Write>(&'a Progress<W>);

impl<W: Write> Drop for Erased<'_, W> {
    fn drop(&mut self) {
        self.0.erase();
    }
}

/// What is told of an object. A line that went over the last column could not be rewritten: the end of the object gives
/// way, and on a narrow terminal all but its beginning and the seconds.
fn line(object: &str, time: &str, columns: usize) -> String {
    const LEAST: usize = 20;
    let seconds = time.split(" so far").next().unwrap_or_default();
    let length = width(object);
    let forms = [("arcssh: waiting for the ", time), ("arcssh: ", time), ("", seconds)];
    let room = |(start, end): (&str, &str)| columns.saturating_sub(start.len() + "; ".len() + end.len() + 1);
    let form = forms.into_iter().find(|form| room(*form) >= length.min(LEAST)).unwrap_or(("", seconds));
    let (start, end) = form;
    match room(form) {
        room if room >= length => format!("{start}{object}; {end}"),
        0 | 1 => end.to_owned(),
        room => format!("{start}{}…; {end}", cut(object, room - 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::sleep;

    fn wide(_: &Vec<u8>) -> Option<usize> {
        Some(80)
    }

    /// What is told while three seconds are waited for one answer and `rest` for another.
    async fn told(form: Form, rest: Duration) -> String {
        let waiting = Progress::new(Vec::new(), form, wide);
        let work = async {
            waiting.set("first answer".into());
            sleep(Duration::from_secs(3)).await;
            waiting.set_deadline("second".into(), Duration::from_secs(60));
            sleep(rest).await;
        };
        waiting.run(work).await;
        String::from_utf8(waiting.out.into_inner()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_comes_after_two_seconds_and_then_every_fifteen() {
        let told = told(Form::Lines, Duration::from_secs(30)).await;
        assert_eq!(
            told.lines().collect::<Vec<_>>(),
            [
                "arcssh: waiting for the first answer; 2 s so far",
                "arcssh: waiting for the second; 17 s so far, 63 s at most",
                "arcssh: waiting for the second; 32 s so far, 63 s at most",
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn on_a_terminal_one_line_is_rewritten_each_second_and_gone_at_the_end() {
        let told = told(Form::Rewritten, Duration::from_millis(1500)).await;
        assert_eq!(
            told.split(ERASED).collect::<Vec<_>>(),
            [
                "",
                "arcssh: waiting for the first answer; 2 s so far",
                "arcssh: waiting for the second; 3 s so far, 63 s at most",
                "arcssh: waiting for the second; 4 s so far, 63 s at most",
                "",
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_come_in_time_is_waited_for_no_longer() {
        let waiting = Progress::new(Vec::new(), Form::Lines, wide);
        let never =
            waiting.run_with_timeout(Duration::from_secs(20), "answer".into(), std::future::pending());
        let late: Result<()> = waiting.run(never).await;
        assert_eq!(late.unwrap_err().to_string(), "the answer did not come within 20 s");
        let told = String::from_utf8(waiting.out.into_inner()).unwrap();
        assert!(told.ends_with("arcssh: waiting for the answer; 17 s so far, 20 s at most\n"), "{told}");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_stops_waiting_leaves_no_line() {
        let waiting = Progress::new(Vec::new(), Form::Rewritten, wide);
        let stopped =
            tokio::time::timeout(Duration::from_millis(2500), waiting.run(std::future::pending::<()>()))
                .await;
        assert!(stopped.is_err());
        assert!(waiting.out.into_inner().ends_with(ERASED.as_bytes()));
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_is_done_at_once_says_nothing() {
        for form in [Form::Lines, Form::Rewritten] {
            let waiting = Progress::new(Vec::new(), form, wide);
            waiting.run(sleep(Duration::from_millis(1900))).await;
            assert!(waiting.out.into_inner().is_empty());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_terminal_that_becomes_narrow_is_told_less() {
        let columns = |out: &Vec<u8>| Some(if out.is_empty() { 80 } else { 40 });
        let waiting = Progress::new(Vec::new(), Form::Rewritten, columns);
        waiting.set_deadline("agent of web01 to listen".into(), Duration::from_secs(90));
        waiting.run(sleep(Duration::from_millis(3500))).await;
        let told = String::from_utf8(waiting.out.into_inner()).unwrap();
        let lines = [
            "arcssh: waiting for the agent of web01 to listen; 2 s so far, 90 s at most",
            "agent of web01 to listen; 3 s",
        ];
        assert_eq!(told.split(ERASED).collect::<Vec<_>>(), ["", lines[0], lines[1], ""]);
    }

    #[test]
    fn a_line_stays_within_the_terminal_and_keeps_what_is_waited_for_and_how_long() {
        let (object, time) = ("agent of web01 to listen (404 Not Found)", "17 s so far, 90 s at most");
        let told = |columns| line(object, time, columns);
        assert_eq!(told(92), format!("arcssh: waiting for the {object}; {time}"));
        assert_eq!(told(80), format!("arcssh: waiting for the agent of web01 to listen (4…; {time}"));
        assert_eq!(told(60), format!("arcssh: agent of web01 to liste…; {time}"));
        assert_eq!(told(40), "agent of web01 to listen (404 No…; 17 s");
        assert!((5..99).all(|columns| told(columns).chars().count() < columns));
        let wide = "agent of 机器机器机器机器机器机器 to listen";
        assert!((5..99).all(|columns| width(&line(wide, time, columns)) < columns));
    }
}
