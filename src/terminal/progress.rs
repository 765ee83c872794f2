//! The progress of work: what arcssh waits for, for how long, and its time limit. On a terminal, one line is rewritten each
//! second and erased at the end. Elsewhere, a line is printed after two seconds, then every fifteen. Fast work prints
//! nothing.

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::pin::Pin;
use std::time::Duration;

use console::Term;
use tokio::time::{Instant, interval_at};
use tracing::{Level, enabled};

use crate::system::timeout::with_timeout;
use crate::terminal::{TerminalError, tty};
use crate::text::{cut, sanitize, width};

/// The time before the first line.
const DELAY: Duration = Duration::from_secs(2);
/// The time between two lines.
const LINE_INTERVAL: Duration = Duration::from_secs(15);
/// The time between two updates of the line on a terminal.
const UPDATE_INTERVAL: Duration = Duration::from_secs(1);

/// Moves to the start of the line, and erases it (ECMA-48, CR and EL).
const ERASE: &str = "\r\u{1b}[K";

/// The output style.
#[derive(Clone, Copy, Debug)]
enum Form {
    /// Several lines.
    Lines,
    /// One line that is rewritten.
    Rewritten,
}

/// Shows the current step of work. The work updates it.
#[derive(Debug)]
pub(crate) struct Progress<W: Write = Term> {
    object: RefCell<String>,
    /// The time limit of the step.
    deadline: Cell<Option<Instant>>,
    out: RefCell<W>,
    form: Form,
    /// Returns the width of the terminal, which the user can change.
    columns: fn(&W) -> Option<usize>,
    /// Whether there is a line on the terminal.
    is_shown: Cell<bool>,
}

impl Default for Progress {
    fn default() -> Self {
        Self::on(Term::stderr())
    }
}

impl Progress {
    /// Uses the terminal of ssh's messages, even if ssh discards our standard error.
    pub(crate) fn for_proxy() -> Self {
        Self::on(tty::ssh_terminal().unwrap_or_else(Term::stderr))
    }

    fn on(terminal: Term) -> Self {
        let form = form(&terminal);
        Self::new(terminal, form, |terminal| Some(terminal.size_checked()?.1.into()))
    }
}

/// Returns the style for a terminal. A log would mix with a line that is rewritten, and a dumb terminal cannot rewrite one.
fn form(terminal: &Term) -> Form {
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    // On Windows, this call enables escape sequences.
    let unsupported = cfg!(windows) && !terminal.features().colors_supported();
    let plain = dumb || unsupported || !terminal.is_term() || enabled!(Level::INFO);
    if plain || terminal.size_checked().is_none() { Form::Lines } else { Form::Rewritten }
}

impl<W: Write> Progress<W> {
    fn new(out: W, form: Form, columns: fn(&W) -> Option<usize>) -> Self {
        Self {
            object: RefCell::default(),
            deadline: Cell::default(),
            out: RefCell::new(out),
            form,
            columns,
            is_shown: Cell::default(),
        }
    }

    /// Sets the step, as a text that follows "waiting for the".
    pub(crate) fn set(&self, object: String) {
        self.object.replace(object);
        self.deadline.set(None);
    }

    /// Sets the step and its time limit.
    pub(crate) fn set_deadline(&self, object: String, limit: Duration) {
        self.object.replace(object);
        self.deadline.set(Some(Instant::now() + limit));
    }

    /// Returns the current step, as a text that follows "the".
    pub(crate) fn object(&self) -> String {
        self.object.borrow().clone()
    }

    /// Runs a step with a time limit.
    ///
    /// # Errors
    /// [`TerminalError::TimedOut`]; those of `work`.
    pub(crate) async fn run_with_timeout<T, E: From<TerminalError>>(
        &self,
        limit: Duration,
        object: String,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        self.set_deadline(object.clone(), limit);
        let timed_out = |after| TerminalError::TimedOut { object, after }.into();
        with_timeout(limit, work, timed_out).await
    }

    /// Prints a message above the progress line.
    pub(crate) fn println(&self, text: &str) {
        self.erase();
        self.write(&format!("{}\n", sanitize(&format!("arcssh: {text}"))));
    }

    /// Runs `work` on the heap, and shows its progress if it takes long.
    pub(crate) fn run<T>(&self, work: impl Future<Output = T>) -> impl Future<Output = T> {
        self.run_boxed(Box::pin(work))
    }

    async fn run_boxed<T>(&self, mut work: Pin<Box<impl Future<Output = T>>>) -> T {
        let every = match self.form {
            Form::Lines => LINE_INTERVAL,
            Form::Rewritten => UPDATE_INTERVAL,
        };
        let start = Instant::now();
        let mut lines = interval_at(start + DELAY, every);
        let _eraser = Eraser(self);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                now = lines.tick() => self.show(start, now),
            }
        }
    }

    fn show(&self, start: Instant, now: Instant) {
        let object = sanitize(&self.object.borrow());
        let limit = self.deadline.get().map(|deadline| (deadline - start).as_secs_f32().round());
        let at_most = limit.map_or(String::new(), |limit| format!(", {limit} s at most"));
        let time = format!("{} s so far{at_most}", (now - start).as_secs());
        match self.form {
            Form::Lines => self.write(&format!("{}\n", line(&object, &time, usize::MAX))),
            Form::Rewritten => {
                self.is_shown.set(true);
                let columns = (self.columns)(&self.out.borrow()).unwrap_or(usize::MAX);
                self.write(&format!("{ERASE}{}", line(&object, &time, columns)));
            }
        }
    }

    fn erase(&self) {
        if self.is_shown.replace(false) {
            self.write(ERASE);
        }
    }

    /// Ignores a failed write.
    fn write(&self, text: &str) {
        let mut out = self.out.borrow_mut();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

/// Erases the progress line when it is dropped, also if the work is cancelled.
struct Eraser<'a, W: Write>(&'a Progress<W>);

impl<W: Write> Drop for Eraser<'_, W> {
    fn drop(&mut self) {
        self.0.erase();
    }
}

/// Returns a line that fits into `columns`, because a wrapped line cannot be rewritten. If necessary, it cuts off the end of
/// the object, and on a narrow terminal everything but the start of the object and the seconds.
fn line(object: &str, time: &str, columns: usize) -> String {
    const MIN_OBJECT: usize = 20;
    let seconds = time.split(" so far").next().unwrap_or_default();
    let length = width(object);
    let forms = [("arcssh: waiting for the ", time), ("arcssh: ", time), ("", seconds)];
    let room = |(start, end): (&str, &str)| columns.saturating_sub(start.len() + "; ".len() + end.len() + 1);
    let form = forms.into_iter().find(|form| room(*form) >= length.min(MIN_OBJECT)).unwrap_or(("", seconds));
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

    /// Returns the output while work waits three seconds for one answer and `rest` for another.
    async fn output(form: Form, rest: Duration) -> String {
        let progress = Progress::new(Vec::new(), form, wide);
        let work = async {
            progress.set("first answer".into());
            sleep(Duration::from_secs(3)).await;
            progress.set_deadline("second".into(), Duration::from_secs(60));
            sleep(rest).await;
        };
        progress.run(work).await;
        String::from_utf8(progress.out.into_inner()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_is_printed_after_two_seconds_and_then_every_fifteen() {
        let output = output(Form::Lines, Duration::from_secs(30)).await;
        assert_eq!(
            output.lines().collect::<Vec<_>>(),
            [
                "arcssh: waiting for the first answer; 2 s so far",
                "arcssh: waiting for the second; 17 s so far, 63 s at most",
                "arcssh: waiting for the second; 32 s so far, 63 s at most",
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn on_a_terminal_one_line_is_rewritten_each_second_and_erased_at_the_end() {
        let output = output(Form::Rewritten, Duration::from_millis(1500)).await;
        assert_eq!(
            output.split(ERASE).collect::<Vec<_>>(),
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
    async fn a_step_ends_at_its_time_limit() {
        let progress = Progress::new(Vec::new(), Form::Lines, wide);
        let never =
            progress.run_with_timeout(Duration::from_secs(20), "answer".into(), std::future::pending());
        let late: Result<(), TerminalError> = progress.run(never).await;
        assert_eq!(late.unwrap_err().to_string(), "timed out after 20 s waiting for the answer");
        let output = String::from_utf8(progress.out.into_inner()).unwrap();
        assert!(output.ends_with("arcssh: waiting for the answer; 17 s so far, 20 s at most\n"), "{output}");
    }

    #[tokio::test(start_paused = true)]
    async fn cancelled_work_leaves_no_line() {
        let progress = Progress::new(Vec::new(), Form::Rewritten, wide);
        let stopped =
            tokio::time::timeout(Duration::from_millis(2500), progress.run(std::future::pending::<()>()))
                .await;
        assert!(stopped.is_err());
        assert!(progress.out.into_inner().ends_with(ERASE.as_bytes()));
    }

    #[tokio::test(start_paused = true)]
    async fn fast_work_prints_nothing() {
        for form in [Form::Lines, Form::Rewritten] {
            let progress = Progress::new(Vec::new(), form, wide);
            progress.run(sleep(Duration::from_millis(1900))).await;
            assert!(progress.out.into_inner().is_empty());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_terminal_that_becomes_narrow_has_a_shorter_line() {
        let columns = |out: &Vec<u8>| Some(if out.is_empty() { 80 } else { 40 });
        let progress = Progress::new(Vec::new(), Form::Rewritten, columns);
        progress.set_deadline("agent of web01 to listen".into(), Duration::from_secs(90));
        progress.run(sleep(Duration::from_millis(3500))).await;
        let output = String::from_utf8(progress.out.into_inner()).unwrap();
        let lines = [
            "arcssh: waiting for the agent of web01 to listen; 2 s so far, 90 s at most",
            "agent of web01 to listen; 3 s",
        ];
        assert_eq!(output.split(ERASE).collect::<Vec<_>>(), ["", lines[0], lines[1], ""]);
    }

    #[test]
    fn a_line_fits_and_has_the_start_of_the_object_and_the_seconds() {
        let (object, time) = ("agent of web01 to listen (404 Not Found)", "17 s so far, 90 s at most");
        let fitted = |columns| line(object, time, columns);
        assert_eq!(fitted(92), format!("arcssh: waiting for the {object}; {time}"));
        assert_eq!(fitted(80), format!("arcssh: waiting for the agent of web01 to listen (4…; {time}"));
        assert_eq!(fitted(60), format!("arcssh: agent of web01 to liste…; {time}"));
        assert_eq!(fitted(40), "agent of web01 to listen (404 No…; 17 s");
        assert!((5..99).all(|columns| fitted(columns).chars().count() < columns));
        let wide = "agent of 机器机器机器机器机器机器 to listen";
        assert!((5..99).all(|columns| width(&line(wide, time, columns)) < columns));
    }
}
