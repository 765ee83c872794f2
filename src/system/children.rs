//! Programs that a thread waits for. They end with arcssh: nothing can cancel the thread.
//!
//! Each program leads a process group, so that Ctrl-C does not end it before arcssh, which would then report its failure, and
//! so that its own child processes end too.

use std::collections::BTreeSet;
use std::io;
use std::process::{Child, Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The process groups that run; `None` after [`kill_all`].
static GROUPS: Mutex<Option<BTreeSet<u32>>> = Mutex::new(Some(BTreeSet::new()));

fn groups() -> MutexGuard<'static, Option<BTreeSet<u32>>> {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running program.
pub(crate) struct Running {
    pub(crate) child: Child,
    group: Group,
}

/// Removes a process group from the list on drop.
struct Group(u32);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(running) = groups().as_mut() {
            running.remove(&self.0);
        }
    }
}

/// Starts a program.
///
/// # Errors
/// The system does not start it.
pub(crate) fn spawn(command: &mut Command) -> io::Result<Running> {
    let mut groups = groups();
    let Some(running) = groups.as_mut() else {
        drop(groups);
        wait_for_exit()
    };
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(command, 0);
    let child = command.spawn()?;
    running.insert(child.id());
    Ok(Running { group: Group(child.id()), child })
}

impl Running {
    /// Waits for the end of the program, and returns its output. Does not return the output of a program that was killed
    /// because arcssh ends.
    pub(crate) fn output(self) -> io::Result<Output> {
        let Self { child, group } = self;
        let output = child.wait_with_output();
        drop(group);
        if groups().is_none() {
            wait_for_exit();
        }
        output
    }
}

impl Running {
    /// Kills the program and its own child processes, which may have its output open.
    pub(crate) fn kill(&mut self) {
        #[cfg(unix)]
        kill_group(self.group.0);
        let _ = self.child.kill();
    }
}

/// Another thread ends arcssh.
fn wait_for_exit() -> ! {
    loop {
        std::thread::park();
    }
}

/// Kills all programs, and starts no other.
#[cfg(unix)]
pub(crate) fn kill_all() {
    groups().take().into_iter().flatten().for_each(kill_group);
}

#[cfg(unix)]
fn kill_group(id: u32) {
    use rustix::process::{Pid, Signal, kill_process_group};
    if let Some(group) = Pid::from_raw(id.cast_signed()) {
        let _ = kill_process_group(group, Signal::KILL);
    }
}
