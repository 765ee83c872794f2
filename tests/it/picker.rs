//! The list from which a user picks a machine if the command line names none.

use crate::support::{ARCSSH, Lab, lab, on_a_terminal, run};
use crate::typing::Typing;

const SIZE: (u16, u16) = (16, 70);
/// Shows whether the terminal has its usual modes.
const MODES: &str =
    "stty -a | grep -o -- '[^ ]*icanon' | head -1; stty -a | grep -o -- '[^ ]*isig' | head -1";

fn start(w: &Lab, words: &str) -> Typing {
    let command = format!("{ARCSSH} {words}; echo status=$?; {MODES}");
    Typing::start(w.command("script"), &command, SIZE)
}

#[test]
fn a_typed_filter_and_enter_pick_a_machine() {
    let w = lab(&["web01", "web02", "db01"]);
    let mut user = start(&w, "setup --dry-run");
    user.wait_for("3 of 3 machines");
    assert!(user.screen().contains("> db01  "), "{}", user.screen());
    user.press("eb2");
    user.wait_for("1 of 3 machines");
    user.press("\r");
    let (_, screen) = user.end();
    assert!(screen.contains("to do this without the list, run: arcssh setup rg-arc/web02"), "{screen}");
    assert!(screen.contains("status=0\nicanon\nisig"), "{screen}");
    assert!(!screen.contains("Filter:") && !screen.contains("web01"), "the list is gone: {screen}");
}

#[test]
fn tab_marks_several_machines() {
    let w = lab(&["web01", "web02", "db01"]);
    let mut user = start(&w, "setup --dry-run");
    user.wait_for("3 of 3 machines");
    user.press("\t\t\r");
    let (_, screen) = user.end();
    let words: Vec<&str> = screen.split_whitespace().collect();
    assert!(words.join(" ").contains("arcssh setup rg-arc/db01 rg-arc/web01"), "{screen}");
}

#[test]
fn escape_and_ctrl_c_and_a_signal_leave_a_clean_terminal() {
    let w = lab(&["web01", "web02"]);
    for (key, status) in
        [("\u{1b}", 130), ("\u{3}", 130), ("\u{4}", 130), ("\u{1b}\u{4}", 130), ("\u{1b}\u{1b}", 130)]
    {
        let mut user = start(&w, "warm");
        user.wait_for("2 of 2 machines");
        user.press(key);
        // The end of the keyboard is one more key, Ctrl-D.
        user.wait_for("isig");
        let (_, screen) = user.end();
        assert_eq!(screen.trim(), format!("status={status}\nicanon\nisig"), "{key:?}");
    }
    let command = format!("sh -c 'echo pid=$$; exec {ARCSSH} warm'; echo status=$?; {MODES}");
    let user = Typing::start(w.command("script"), &command, SIZE);
    user.wait_for("2 of 2 machines");
    let screen = user.screen();
    let pid = screen.split("pid=").nth(1).and_then(|rest| rest.lines().next()).unwrap();
    run(w.command("kill").args(["-TERM", pid.trim()])).clean();
    let (_, screen) = user.end();
    assert!(screen.contains("status=143\nicanon\nisig"), "{screen}");
}

#[test]
fn names_fit_a_narrow_terminal_and_colours_are_optional() {
    let w = lab(&["a-machine-with-a-long-name-01", "a-machine-with-a-long-name-02"]);
    let mut script = w.command("script");
    script.env("NO_COLOR", "1");
    let mut user = Typing::start(script, &format!("{ARCSSH} warm"), (8, 20));
    user.wait_for("Filter:");
    let screen = user.screen();
    assert_eq!(screen.lines().count(), 4, "{screen}");
    assert!(!String::from_utf8_lossy(&user.bytes()).contains("\u{1b}[1m"), "NO_COLOR");
    assert!(["e-01\n", "e-02\n"].iter().all(|end| screen.contains(end)), "{screen}");
    user.press("\u{3}");
    user.end();
}

#[test]
fn the_line_with_the_keys_is_complete_on_a_narrow_terminal() {
    let w = lab(&["web01", "web02"]);
    for (columns, expected) in [
        (60, "  2 of 2 machines: Enter picks, Tab marks, Esc quits\n"),
        (45, "  2 of 2: Enter picks, Tab marks, Esc quits\n"),
        (40, "  Enter picks, Tab marks, Esc quits\n"),
        (20, "  2 of 2\n"),
    ] {
        let mut user = Typing::start(w.command("script"), &format!("{ARCSSH} warm"), (8, columns));
        user.wait_for("Filter:");
        let screen = user.screen();
        assert!(screen.contains(expected), "{columns}: {screen}");
        user.press("\u{3}");
        user.end();
    }
}

#[test]
fn without_a_capable_terminal_a_machine_is_required() {
    let w = lab(&["web01"]);
    let command = format!("TERM=dumb {ARCSSH} warm; {ARCSSH} warm </dev/null; {ARCSSH} warm 2>&1 | cat");
    let (_, shown) = on_a_terminal(w.command("script"), &command);
    assert_eq!(shown.matches("arcssh: no machine was given").count(), 3, "{shown}");
}
