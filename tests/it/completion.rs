//! Names of Azure at the tab key of bash, zsh and fish.

use std::fs;

use arcssh_emulator::Machine;

use crate::support::{ARCSSH, LIMIT, Lab, eventually, lab_with, run};
use crate::typing::Typing;

/// Tags whose values run a command in a shell that does not quote them, or that change the word in another way.
const HOSTILE: [&str; 16] = [
    "$(touch pwned)",
    "`touch pwned`",
    "a;touch pwned",
    "a|touch pwned",
    "a&touch pwned",
    "it's",
    "say \"hi\"",
    "two  words",
    "back\\slash",
    "a:b:c",
    "*",
    "~root",
    "!!",
    "a=b",
    "grün 机",
    "#x{a,b}<c>(d)[e]%f",
];

/// A lab whose list of machines arcssh has read.
fn listed() -> Lab {
    let w = lab_with(&["web01"], |builder| {
        let tagged = HOSTILE
            .iter()
            .enumerate()
            .fold(Machine::new("db01").resource_group("rg-db"), |machine, (number, value)| {
                machine.tag(&format!("k{number:02}"), value)
            });
        let unsafe_tags =
            [("k90", "line\nbreak"), ("k91", "\u{1b}]0;title\u{7}"), ("k92", "\u{202e}override")];
        builder.machine(unsafe_tags.into_iter().fold(tagged, |machine, (key, value)| machine.tag(key, value)))
    });
    run(w.command(ARCSSH).arg("list")).clean();
    for (shell, file) in [("bash", "bash"), ("zsh", "_arcssh"), ("fish", "fish")] {
        let script = run(w.command(ARCSSH).args(["completions", shell])).clean();
        fs::write(w.home().join(file), script).unwrap();
    }
    w
}

/// Types the beginning of each word, the tab key, and a command that shows the words. An interactive shell handles its input
/// in order.
#[track_caller]
fn type_in(w: &Lab, shell: &str, start: &str, show: &str) {
    let folder = std::path::Path::new(ARCSSH).parent().unwrap().display().to_string();
    let mut script = w.command("script");
    let path = format!("{folder}:{}", std::env::var("PATH").unwrap());
    script.env("LC_ALL", "C.UTF-8").env("PATH", path);
    let mut user = Typing::start(script, shell, (60, 150));
    user.press(&format!("{start}; echo rea''dy\r"));
    user.wait_for("ready");
    let tags = HOSTILE.iter().enumerate().map(|(number, value)| {
        (format!("arcssh list --tag k{number:02}="), format!("<--tag><k{number:02}={value}>"))
    });
    let others = [
        ("arcssh setup db", "<setup><db01>"),
        ("a setup db", "<a><setup><db01>"),
        ("arcssh warm -g rg-d", "<-g><rg-db>"),
        ("arcssh doctor rg-arc/", "<doctor><rg-arc/web01>"),
        ("arcssh ssh ada@db", "<ssh><ada@db01>"),
        ("arcssh rdp ada@corp@rg-arc/", "<rdp><ada@corp@rg-arc/web01>"),
        ("arcssh list --tag k9", "<--tag><k9>"),
    ];
    let others = others.map(|(typed, words)| (typed.to_owned(), words.to_owned()));
    for (number, (typed, words)) in tags.chain(others).enumerate() {
        user.press(&format!("{typed}\t"));
        // zsh completes nothing while there is more input.
        let is_completed = || user.screen().contains(&typed) && !user.screen().trim_end().ends_with(&typed);
        assert!(typed.ends_with("k9") || eventually(LIMIT, is_completed), "{shell}: {typed}");
        user.press(&format!("\u{1}{show} \u{5} ; echo number''{number}\r"));
        user.wait_for(&format!("number{number}"));
        assert!(user.screen().contains(&words), "{shell}: {words:?}:\n{}", user.screen());
        user.press("clear\r");
    }
    user.press("exit\r");
    user.end();
    assert!(!w.home().join("pwned").exists(), "{shell} ran a command in a tag");
}

#[test]
fn bash_inserts_each_name_as_one_word() {
    let show = "show() { printf '<%s>' \"$@\"; echo; }";
    let alias = "alias a=arcssh; complete -F _arcssh a";
    for (start, options) in [("", ""), ("shopt -s extglob nullglob; ", "-o posix")] {
        let shell = format!("bash --norc --noprofile {options} -i");
        type_in(&listed(), &shell, &format!("{start}PS1='$ '; source ./bash; {alias}; {show}"), "show");
    }
}

#[test]
fn zsh_inserts_each_name_as_one_word() {
    let show = "show() { printf '<%s>' \"$@\"; echo; }";
    let start = "PS1='$ '; bindkey -e; fpath=($PWD $fpath); autoload -Uz compinit; compinit -u -D";
    let wrapper = "a() arcssh \"$@\"; compdef _arcssh a";
    type_in(&listed(), "zsh -f -i", &format!("{start}; {wrapper}; {show}"), "show");
}

#[test]
fn fish_inserts_each_name_as_one_word() {
    let start = "source ./fish; alias a arcssh; function fish_prompt; echo '$ '; end; function show; printf '<%s>' $argv; echo; end";
    type_in(&listed(), "fish --no-config -i", start, "show");
}

#[test]
fn options_of_ssh_do_not_end_the_completion() {
    let w = listed();
    fs::create_dir(w.home().join("keys")).unwrap();
    for (line, expected) in [
        ("ssh -p 22 db", "db01"),
        ("ssh -L 80:localhost:80 -vN --entra db", "db01"),
        ("ssh -Al ada -i keys/a db", "db01"),
        ("--verbose ssh -o A=b --wait 3 ada@db", "ada@db01"),
        ("ssh ssh://db", "ssh://db01"),
        ("ssh -p 22 web01 --ent", "--entra"),
        ("ssh -i ke", "keys/"),
        ("ssh -vF ke", "keys/"),
        ("ssh -p ", ""),
        ("ssh -vl d", ""),
        ("ssh web01 d", ""),
        ("ssh -p 22 web01 d", ""),
        ("ssh web01 -- -l d", ""),
    ] {
        let line = format!("--line=arcssh {line}");
        let mut complete = w.command(ARCSSH);
        complete.args(["complete", "fish", &line]).current_dir(w.home());
        let shown = run(&mut complete).clean();
        let names: Vec<&str> = shown.lines().filter_map(|line| line.split('\t').next()).collect();
        let expected: Vec<&str> = if expected.is_empty() { vec![] } else { vec![expected] };
        assert_eq!(names, expected, "{line}");
    }
}

#[test]
fn names_are_forgotten_with_the_sign_in_and_with_the_cache() {
    for (command, is_known) in [("cache show", true), ("cache clear", false), ("logout", false)] {
        let w = listed();
        run(w.command(ARCSSH).args(command.split(' ')));
        let names = run(w.command(ARCSSH).args(["complete", "fish", "--current=db", "--", "setup"])).clean();
        assert_eq!(names.starts_with("db01\t"), is_known, "{command}: {names}");
    }
}

#[test]
fn completion_sends_no_request_and_prints_no_error() {
    let w = listed();
    let requests = w.emulator().requests().len();
    for words in
        [&["setup"][..], &["list", "--tag"], &["list", "-s"], &["warm", "-g"], &["last"], &["\u{7f}", "-"]]
    {
        for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
            run(w.command(ARCSSH).args(["complete", shell, "--current=", "--"]).args(words)).clean();
        }
    }
    assert_eq!(w.emulator().requests().len(), requests);
}
