//! The progress of work: what arcssh waits for, for how long, and its time limit. Work that takes less than a second prints
//! nothing.
//!
//! On a terminal, one line is rewritten each second and erased at the end. A terminal that cannot rewrite a line, or that shows
//! the log, gets a line after a second and then every fifteen. Elsewhere, a program reads the output: it gets a line each
//! minute, because CI services end a job that prints nothing for some minutes (Travis CI: ten, "Common Build Problems").

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::pin::Pin;
use std::time::Duration;

use console::Term;
use tokio::time::{Instant, interval_at};
use tracing::{Level, enabled};

use crate::system::timeout::with_timeout;
use crate::terminal::{TerminalError, tty};
use crate::text::{cut, grouped, sanitize, width};

/// The time before the first line on a terminal: a user notices a second without a response.
const DELAY: Duration = Duration::from_millis(900);
/// The time between two updates of the line on a terminal.
const UPDATE_INTERVAL: Duration = Duration::from_secs(1);
/// The time between two lines on a terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(15);
/// The time before each line elsewhere.
const SILENCE: Duration = Duration::from_secs(60);

/// Moves to the start of the line, and erases it (ECMA-48, CR and EL).
pub(crate) const ERASE: &str = "\r\u{1b}[K";

/// The output style.
#[derive(Clone, Copy, Debug)]
enum Form {
    /// One line that is rewritten.
    Rewritten,
    /// Several lines, on a terminal.
    Lines,
    /// Several lines, rarely.
    Sparse,
}

/// What arcssh waits for, in words. A narrow line leaves out the last ones.
#[derive(Clone, Debug, Default)]
pub(crate) struct Step {
    /// The words before the object.
    verb: &'static str,
    /// The words that each line has, as far as they fit.
    object: String,
    /// The object in fewer words, for a line that has no room for it.
    short: String,
    /// More words about the object, which a narrow line leaves out.
    details: Vec<String>,
    /// The names of several objects. A narrow line leaves out the last ones.
    names: Vec<String>,
}

impl Step {
    /// A step whose object follows "waiting for the".
    pub(crate) fn wait(object: impl Into<String>) -> Self {
        Self { verb: "waiting for the ", object: object.into(), ..Self::default() }
    }

    /// A step with several objects, of which some are left, such as "machines".
    pub(crate) fn left(left: usize, all: usize, objects: &str, names: Vec<String>) -> Self {
        let object = format!("{} of {} {objects}", grouped(left), grouped(all));
        Self { verb: "waiting for ", object, names, ..Self::default() }
    }

    /// A step that waits for a program, which has done a part of its work.
    pub(crate) fn program(name: &str, done: usize, all: usize) -> Self {
        let object = format!("{name}: {} of {}", grouped(done), grouped(all));
        Self { verb: "waiting for ", object, ..Self::default() }
    }

    /// Sets the object in fewer words.
    pub(crate) fn or(mut self, short: &str) -> Self {
        short.clone_into(&mut self.short);
        self
    }

    /// Adds words, with the space or comma before them.
    pub(crate) fn with(mut self, detail: impl Into<String>) -> Self {
        self.details.push(detail.into());
        self
    }

    /// Returns the object with all words about it.
    pub(crate) fn full_object(&self) -> String {
        format!("{}{}", self.object, self.details.concat())
    }

    /// Returns the step with the fewest words.
    fn short_text(&self) -> String {
        format!("{}{}", self.verb, if self.short.is_empty() { &self.object } else { &self.short })
    }

    /// Returns the step with all words, and with ever fewer.
    fn texts(&self) -> Vec<String> {
        let Self { verb, object, details, names, .. } = self;
        let start = format!("{verb}{object}");
        let mut texts: Vec<String> =
            (0..=details.len()).map(|count| format!("{start}{}", details[..count].concat())).collect();
        let full = texts.last().cloned().unwrap_or_default();
        texts.extend((1..names.len()).map(|count| format!("{full}: {}, …", names[..count].join(", "))));
        texts.extend((!names.is_empty()).then(|| format!("{full}: {}", names.join(", "))));
        texts.reverse();
        texts
    }
}

impl From<&str> for Step {
    fn from(object: &str) -> Self {
        Self::wait(object)
    }
}

impl From<String> for Step {
    fn from(object: String) -> Self {
        Self::wait(object)
    }
}

/// Shows the current step of work. The work updates it.
#[derive(Debug)]
pub(crate) struct Progress<W: Write = Term> {
    step: RefCell<Step>,
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
        let form = match (is_rewritable(&terminal), terminal.is_term()) {
            (true, _) => Form::Rewritten,
            (false, true) => Form::Lines,
            (false, false) => Form::Sparse,
        };
        Self::new(terminal, form, |terminal| Some(terminal.size_checked()?.1.into()))
    }
}

/// Returns whether a line can be rewritten. A log would mix with it, and a dumb terminal cannot rewrite one.
pub(crate) fn is_rewritable(terminal: &Term) -> bool {
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    // On Windows, this call enables escape sequences.
    let unsupported = cfg!(windows) && !terminal.features().colors_supported();
    let plain = dumb || unsupported || !terminal.is_term() || enabled!(Level::INFO);
    !plain && terminal.size_checked().is_some()
}

impl<W: Write> Progress<W> {
    fn new(out: W, form: Form, columns: fn(&W) -> Option<usize>) -> Self {
        Self {
            step: RefCell::default(),
            deadline: Cell::default(),
            out: RefCell::new(out),
            form,
            columns,
            is_shown: Cell::default(),
        }
    }

    /// Sets the step.
    pub(crate) fn set(&self, step: Step) {
        self.step.replace(step);
        self.deadline.set(None);
    }

    /// Sets the step and its time limit.
    pub(crate) fn set_deadline(&self, step: Step, limit: Duration) {
        self.step.replace(step);
        self.deadline.set(Some(Instant::now() + limit));
    }

    /// Returns the object of the current step, as a text that follows "the".
    pub(crate) fn object(&self) -> String {
        self.step.borrow().full_object()
    }

    /// Runs a step with a time limit.
    ///
    /// # Errors
    /// [`TerminalError::TimedOut`]; those of `work`.
    pub(crate) async fn run_with_timeout<T, E: From<TerminalError>>(
        &self,
        limit: Duration,
        step: Step,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let object = step.full_object();
        self.set_deadline(step, limit);
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
        let (delay, every) = match self.form {
            Form::Rewritten => (DELAY, UPDATE_INTERVAL),
            Form::Lines => (DELAY, LINE_INTERVAL),
            Form::Sparse => (SILENCE, SILENCE),
        };
        let start = Instant::now();
        let mut lines = interval_at(start + delay, every);
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
        let seconds = |time: Duration| format!("{:.0} s", time.as_secs_f32());
        let limit = self.deadline.get().map(|deadline| seconds(deadline - start));
        let texts = self.step.borrow().texts().iter().map(|text| sanitize(text)).collect::<Vec<_>>();
        let short = self.step.borrow().short_text();
        let line = |columns| line(&texts, &short, &seconds(now - start), limit.as_deref(), columns);
        if let Form::Rewritten = self.form {
            self.is_shown.set(true);
            let columns = (self.columns)(&self.out.borrow()).unwrap_or(usize::MAX);
            self.write(&format!("{ERASE}{}", line(columns)));
        } else {
            self.write(&format!("{}\n", line(usize::MAX)));
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

/// Returns a line that fits into `columns`, because a wrapped line cannot be rewritten. `texts` are the step with ever fewer
/// words. A narrow line leaves out the limit, then these words, and then the name of arcssh. The last resort is the `short`
/// text, whose end may be cut off.
fn line(texts: &[String], short: &str, elapsed: &str, limit: Option<&str>, columns: usize) -> String {
    let so_far = format!("; {elapsed} so far");
    let with_limit = limit.map(|limit| format!("{so_far}, {limit} at most"));
    let seconds = format!("; {elapsed}");
    let ends: Vec<&str> = with_limit.as_deref().into_iter().chain([so_far.as_str(), &seconds]).collect();
    let lines = ["arcssh: ", ""].into_iter().flat_map(|start| {
        let ends = &ends;
        texts.iter().flat_map(move |text| ends.iter().map(move |end| format!("{start}{text}{end}")))
    });
    let cut_off = || match columns.saturating_sub(width(&seconds) + 2) {
        0..MIN_TEXT => elapsed.to_owned(),
        room if width(short) <= room => format!("{short}{seconds}"),
        room => format!("{}…{seconds}", cut(short, room).trim_end()),
    };
    lines.into_iter().find(|line| width(line) < columns).unwrap_or_else(cut_off)
}

/// The fewest columns of a text that is cut off.
const MIN_TEXT: usize = 12;

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
    async fn a_terminal_without_rewriting_gets_a_line_after_a_second_and_then_every_fifteen() {
        let output = output(Form::Lines, Duration::from_secs(30)).await;
        assert_eq!(
            output.lines().collect::<Vec<_>>(),
            [
                "arcssh: waiting for the first answer; 1 s so far",
                "arcssh: waiting for the second; 16 s so far, 63 s at most",
                "arcssh: waiting for the second; 31 s so far, 63 s at most",
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_terminal_a_line_is_printed_each_minute() {
        let output = output(Form::Sparse, Duration::from_secs(120)).await;
        assert_eq!(
            output.lines().collect::<Vec<_>>(),
            [
                "arcssh: waiting for the second; 60 s so far, 63 s at most",
                "arcssh: waiting for the second; 120 s so far, 63 s at most",
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
                "arcssh: waiting for the first answer; 1 s so far",
                "arcssh: waiting for the first answer; 2 s so far",
                "arcssh: waiting for the first answer; 3 s so far",
                "arcssh: waiting for the second; 4 s so far, 63 s at most",
                "",
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_ends_at_its_time_limit() {
        let progress = Progress::new(Vec::new(), Form::Lines, wide);
        let step = Step::wait("answer").with(" of web01");
        let never = progress.run_with_timeout(Duration::from_secs(20), step, std::future::pending());
        let late: Result<(), TerminalError> = progress.run(never).await;
        assert_eq!(late.unwrap_err().to_string(), "timed out after 20 s waiting for the answer of web01");
        let output = String::from_utf8(progress.out.into_inner()).unwrap();
        assert!(
            output.ends_with("arcssh: waiting for the answer of web01; 16 s so far, 20 s at most\n"),
            "{output}"
        );
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
        for form in [Form::Rewritten, Form::Lines, Form::Sparse] {
            let progress = Progress::new(Vec::new(), form, wide);
            progress.run(sleep(Duration::from_millis(800))).await;
            assert!(progress.out.into_inner().is_empty());
        }
    }

    fn agent() -> Step {
        Step::wait("agent of web01").with(", which is not connected yet")
    }

    #[tokio::test(start_paused = true)]
    async fn a_terminal_that_becomes_narrow_has_a_shorter_line() {
        let columns = |out: &Vec<u8>| Some(if out.is_empty() { 100 } else { 40 });
        let progress = Progress::new(Vec::new(), Form::Rewritten, columns);
        progress.set_deadline(agent(), Duration::from_secs(90));
        progress.run(sleep(Duration::from_millis(2500))).await;
        let output = String::from_utf8(progress.out.into_inner()).unwrap();
        let lines = [
            "arcssh: waiting for the agent of web01, which is not connected yet; 1 s so far, 90 s at most",
            "waiting for the agent of web01; 2 s",
        ];
        assert_eq!(output.split(ERASE).collect::<Vec<_>>(), ["", lines[0], lines[1], ""]);
    }

    #[test]
    fn a_narrow_line_leaves_out_what_matters_least() {
        let fitted =
            |step: &Step, columns| line(&step.texts(), &step.short_text(), "17 s", Some("90 s"), columns);
        let names = ["srv1 (Disconnected)", "srv2", "srv3"].map(Into::into);
        let left = Step::left(3, 2000, "machines", names.into());
        let program = Step::program("ssh", 312, 2000).with(" kinds of host entries");
        let long = Step::wait("agent of web-production-01").or("agent");
        for (step, columns, expected) in [
            (
                agent(),
                94,
                "arcssh: waiting for the agent of web01, which is not connected yet; 17 s so far, 90 s at most",
            ),
            (agent(), 93, "arcssh: waiting for the agent of web01, which is not connected yet; 17 s so far"),
            (agent(), 60, "arcssh: waiting for the agent of web01; 17 s so far"),
            (agent(), 40, "waiting for the agent of web01; 17 s"),
            (agent(), 30, "waiting for the agent…; 17 s"),
            (agent(), 18, "17 s"),
            (long, 40, "waiting for the agent; 17 s"),
            (
                left.clone(),
                99,
                "arcssh: waiting for 3 of 2,000 machines: srv1 (Disconnected), srv2, srv3; 17 s so far",
            ),
            (left.clone(), 76, "arcssh: waiting for 3 of 2,000 machines: srv1 (Disconnected), srv2, …; 17 s"),
            (left.clone(), 60, "arcssh: waiting for 3 of 2,000 machines; 17 s so far"),
            (left, 40, "waiting for 3 of 2,000 machines; 17 s"),
            (program, 40, "waiting for ssh: 312 of 2,000; 17 s"),
        ] {
            assert_eq!(fitted(&step, columns), expected);
        }
        let wide = Step::wait("agent of 机器机器机器机器机器机器");
        assert!((5..99).all(|columns| width(&fitted(&wide, columns)) < columns));
    }
}
