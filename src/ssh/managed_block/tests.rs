use std::process::Command;

use proptest::prelude::*;

use super::*;

const SECTIONS: &str = "# id a\nHost a\n    User ours\n    ProxyCommand arcssh proxy a\n\n# id b\nHost b B\n    Port 1\n    ProxyCommand arcssh proxy b\n\n# by name\nHost *.arc\n    ProxyCommand arcssh proxy --host %h\n";

fn our_block() -> String {
    block("{}", SECTIONS)
}

/// Configurations of users.
const ORIGINALS: [&str; 22] = [
    "",
    "\n",
    "\n\n\n",
    "\r\n",
    " ",
    "Host a",
    "Host a\n",
    "Host a\r\n\tPort 1\r\n",
    "Host a\r\n  Port 1\n  User u\r\n",
    "Host a\n  Port 1\r\n  User u",
    "Host a\r\n  Port 1",
    "\n\nHost a\n\n\n",
    "# a comment\n",
    "# a comment",
    "# one\n\n# two\n#\n",
    "\tHost\ta\n\t\tUser\tu\n",
    "\u{feff}",
    "\u{feff}Host a\n",
    "\u{feff}Host a\r\n  Port 1\r\n",
    "\u{feff}\u{feff}\r\n# twice\r\n",
    "User global\nHost *\n\u{c}\u{b}\0\u{1}Port 1\rHost\r",
    "# ümläut 机器 🦀\nHost ü\n",
];

#[test]
fn a_block_goes_before_everything_else() {
    assert_eq!(with_block("Host a\n", "block\n").unwrap(), "block\n\nHost a\n");
    assert_eq!(with_block("", "block\n").unwrap(), "block\n");
    assert_eq!(with_block("\u{feff}Host a\n", "block\n").unwrap(), "\u{feff}block\n\nHost a\n");
}

#[test]
fn removing_the_block_restores_every_byte() {
    for original in ORIGINALS {
        let with = with_block(original, &our_block()).unwrap();
        assert_eq!(without_block(&with).unwrap(), original, "{with:?}");
        let again =
            with_block(&with, &block("{\"all\":true}", "Host other\n  ProxyCommand arcssh proxy x\n"))
                .unwrap();
        assert_eq!(without_block(&again).unwrap(), original, "{again:?}");
    }
}

#[test]
fn removing_the_block_of_a_text_without_one_changes_nothing() {
    for original in ORIGINALS {
        assert_eq!(without_block(original).unwrap(), original);
    }
}

#[test]
fn writing_the_same_block_twice_changes_nothing() {
    for original in ORIGINALS {
        let once = with_block(original, &our_block()).unwrap();
        assert_eq!(with_block(&once, &our_block()).unwrap(), once);
    }
}

#[test]
fn a_block_gets_the_line_ends_of_the_file_and_options_are_read_from_either() {
    let with = with_block("Host a\r\n", &block("{\"user\":\"u\"}", SECTIONS)).unwrap();
    assert_eq!(with.matches('\n').count(), with.matches("\r\n").count());
    assert_eq!(options(&with).unwrap(), Some("{\"user\":\"u\"}"));
    let with = with_block("Host a\n", &block("{}", SECTIONS)).unwrap();
    assert!(!with.contains('\r'));
    assert_eq!(options(&with).unwrap(), Some("{}"));
}

#[test]
fn a_block_is_replaced_at_its_position() {
    for (before, after) in
        [("Host a\n", "Host b\n"), ("# x\r\n\r\n", "Host b"), ("\u{feff}#\n", ""), ("\n", "\n\n")]
    {
        let text = [before, &our_block(), after].concat();
        let new = block("{\"all\":true}", "Host c\n");
        let replaced = with_block(&text, &new).unwrap();
        assert!(replaced.starts_with(before) && replaced.ends_with(after), "{replaced:?}");
        assert_eq!(options(&replaced).unwrap(), Some("{\"all\":true}"));
        assert_eq!(without_block(&text).unwrap(), [before, after].concat());
    }
}

#[test]
fn a_block_without_a_final_line_end_is_replaced_and_removed() {
    let text = format!("Host a\n{}", our_block().trim_end());
    assert_eq!(without_block(&text).unwrap(), "Host a\n");
    assert_eq!(with_block(&text, &our_block()).unwrap(), format!("Host a\n{}", our_block()));
}

#[track_caller]
fn fails(text: &str, error: &str) {
    assert_eq!(find(text).unwrap_err().to_string(), error);
    assert_eq!(options(text).unwrap_err().to_string(), error);
    assert_eq!(with_block(text, &our_block()).unwrap_err().to_string(), error);
    assert_eq!(without_block(text).unwrap_err().to_string(), error);
}

#[test]
fn lines_that_arcssh_did_not_write_move_below_the_block() {
    let foreign = |block: &str, expected: &str| {
        assert_eq!(foreign_lines(block), expected, "{block}");
        let text = format!("# mine\n{block}\nCompression yes\n");
        let with = with_block(&text, &our_block()).unwrap();
        let rest = format!("{}{expected}", our_block());
        assert!(
            with.starts_with(&format!("# mine\n{rest}")) && with.ends_with("\nCompression yes\n"),
            "{with}"
        );
        assert!(effective(&with, "a").contains("\ncompression yes\n"), "{with}");
        assert_eq!(with_block(&with, &our_block()).unwrap(), with);
        assert!(without_block(&text).unwrap().contains(expected));
    };
    let begin = "# >>> arcssh >>> block 2: x\n# options {}\n\n";
    let entry =
        "# /subscriptions/s\nHost a\n    HostName a\n    ProxyCommand \"/my arcssh\" proxy a --port %p\n";
    // An earlier version ended the block with an open section, to which programs add the user's settings.
    let closing = "# End of the arcssh host entries. The settings below apply to all hosts.\nHost *\n";
    let end = "# <<< arcssh <<<\n";
    foreign(&format!("{begin}{entry}{closing}{end}"), "");
    foreign(
        &format!("{begin}{entry}{closing}    include d/*\n    serveraliveinterval 33\n{end}"),
        "Host *\n    include d/*\n    serveraliveinterval 33\n",
    );
    // The npm package ssh-config inserts a section above the first one, below its comment.
    let inserted = entry.replace("Host a\n", "Host new\n    HostName new.example.com\n\nHost a\n");
    foreign(&format!("{begin}{inserted}{closing}{end}"), "Host new\n    HostName new.example.com\n");
    foreign(
        &format!("{begin}{entry}    LocalForward 1 b:2\n{closing}{end}"),
        "Host a\n    LocalForward 1 b:2\n",
    );
    foreign(&format!("{begin}Include first\n{entry}{end}"), "Include first\n");
    foreign(
        &format!("{begin}{entry}# why\nMatch user x\n  Port 3\n{closing}{end}"),
        "# why\nMatch user x\n  Port 3\n",
    );
    // Without an option of the user, no entry has such a line.
    let added =
        "    User me\n    Port 3\n    IdentityFile ~/a\n    ForwardAgent yes\n    ControlMaster auto\n";
    let keeps = |options: &str, expected: &str| {
        let begin = begin.replace("{}", options);
        let expected = if expected.is_empty() { String::new() } else { format!("Host a\n{expected}") };
        foreign(&format!("{begin}{entry}{added}{closing}{end}"), &expected);
    };
    keeps(r#"{"selections":[]}"#, added);
    keeps(r#"{"named":[{"machine":"a","user":"u"}],"selections":[]}"#, &added.replace("    User me\n", ""));
    keeps(
        r#"{"selections":[{"all":true,"port":2,"identity":"b"}]}"#,
        "    User me\n    ForwardAgent yes\n    ControlMaster auto\n",
    );
    keeps(
        r#"{"selections":[],"wildcard":{"pattern":"*.arc","entra":"agent"}}"#,
        "    Port 3\n    ControlMaster auto\n",
    );
    // Format 1 had other options.
    keeps(r#"{"all":true}"#, "");
    // A user's template may contain any line.
    let begin = begin.replace("{}", "{\"template\":\"t\"}");
    foreign(&format!("{begin}Host a\n  Compression no\n{closing}{end}"), "");
}

#[test]
fn host_entries_are_found_without_the_closing_section() {
    // Programs omit an empty section when they write the file.
    let block = our_block().replace("# End of the arcssh host entries.\nHost *\n", "");
    assert_eq!(host_entries(&block).len(), 3, "{block}");
}

#[test]
fn match_lines_are_below_all_host_entries() {
    let entry = |name: &str| {
        format!(
            "# id\nMatch originalhost {name},{name}2 exec \"arcssh cert\"\nHost {name} {name}2\n    ProxyCommand arcssh proxy a\n"
        )
    };
    let entries = [entry("a"), "Host b\n    ProxyCommand arcssh proxy b\n".into(), entry("c")];
    let block = self::block("{}", &entries.join("\n"));
    assert!(block.find("\nMatch ") > block.find("\nHost c"), "{block}");
    assert!(!block[block.find("\nMatch ").unwrap()..].contains("\nHost c"), "{block}");
    assert_eq!(foreign_lines(&block), "");
    // An earlier version wrote each line above its host entry.
    let earlier = block.replace(&block[block.find("# id").unwrap()..], &entries.join("\n"));
    for block in [block, earlier] {
        let found: Vec<String> =
            host_entries(&block).iter().map(|text| format!("{}\n", text.trim_end())).collect();
        assert_eq!(found, entries, "{block}");
    }
}

#[test]
fn unmatched_markers_are_an_error_with_the_line() {
    let begin = "# >>> arcssh >>> block 1: kept\n";
    let end = "# <<< arcssh <<<\n";
    fails(&format!("Host a\n{begin}Host b\n"), "line 2 begins a managed block that no line ends");
    fails(&format!("\n\n{end}"), "line 3 ends a managed block that no line begins");
    fails(&format!("{begin}{begin}{end}"), "line 2 begins a managed block inside the block of line 1");
    fails(
        &format!("{begin}{end}\r\nHost x\r\n{begin}{end}"),
        "line 5 begins a second managed block; the first one begins at line 1",
    );
    fails(&format!("{begin}{end}{end}"), "line 3 ends a managed block that no line begins");
    fails(&format!("{end}{begin}"), "line 1 ends a managed block that no line begins");
}

#[test]
fn a_block_of_a_later_format_is_an_error_with_the_line() {
    let why = "line 2 begins a managed block of format 3, which this version does not know";
    fails("\n# >>> arcssh >>> block 3: kept by a later one\n# <<< arcssh <<<\n", why);
    let why = "line 1 begins a managed block of format 10, which this version does not know";
    fails("\u{feff}# >>> arcssh >>> block 10: kept\r\n# <<< arcssh <<<\r\n", why);
}

#[test]
fn a_comment_that_resembles_a_marker_is_not_one() {
    let comments = [
        "  # >>> arcssh >>> block 1: indented\n",
        "\t# <<< arcssh <<<\n",
        "# <<< arcssh <<< and more\n",
        "## >>> arcssh >>> block 1:\n",
        "# see \"# <<< arcssh <<<\"\n",
        "Host # >>> arcssh >>> block 1:\n",
        "# >>> ARCSSH >>> block 1:\n",
        "#<<< arcssh <<<\n",
    ];
    for comment in comments {
        assert_eq!(find(comment).unwrap(), None, "{comment:?}");
        let with = with_block(comment, &our_block()).unwrap();
        assert_eq!(without_block(&with).unwrap(), comment);
    }
}

#[test]
fn a_value_that_resembles_a_placeholder_is_not_replaced() {
    let text = block("{\"user\":\"{host_entries}\"}", "Host {options}\n");
    assert_eq!(options(&text).unwrap(), Some("{\"user\":\"{host_entries}\"}"));
    assert_eq!(text.lines().count(), block("{}", "Host a\n").lines().count());
    assert!(text.contains("Host {options}\n"));
}

#[test]
fn the_host_entries_of_a_block_are_found_with_the_comments_above_them() {
    let block = our_block();
    assert_eq!(
        host_entries(&block),
        [
            "# id a\nHost a\n    User ours\n    ProxyCommand arcssh proxy a\n\n",
            "# id b\nHost b B\n    Port 1\n    ProxyCommand arcssh proxy b\n\n",
            "# by name\nHost *.arc\n    ProxyCommand arcssh proxy --host %h\n",
        ]
    );
    assert!(host_entries("").is_empty() && host_entries("# nothing\n").is_empty());
    assert!(host_entries(&self::block("{}", "")).is_empty(), "the last `Host *` is not a host entry");
}

#[test]
fn options_before_the_first_host_still_apply_to_every_host() {
    let original = "Compression yes\nServerAliveInterval 17\n\nHost a\n    LogLevel ERROR\n";
    let with = with_block(original, &our_block()).unwrap();
    for host in ["a", "b", "B", "x.arc", "unrelated"] {
        let values = effective(&with, host);
        for line in ["compression yes", "serveraliveinterval 17"] {
            assert!(values.lines().any(|l| l == line), "{host}: {line}");
        }
        let ours = effective(&our_block(), host);
        let expected =
            if host == "a" { "user ours" } else { ours.lines().find(|l| l.starts_with("user ")).unwrap() };
        assert!(values.lines().any(|line| line == expected), "{host}: {expected}");
    }
}

/// The output of `ssh -G` for a host.
fn effective(text: &str, host: &str) -> String {
    let file = NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    let output = Command::new("ssh").arg("-G").arg("-F").arg(file.path()).arg(host).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Texts that contain markers, line ends and arbitrary characters.
fn users_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("\n".to_owned()),
        Just("\r\n".to_owned()),
        Just("\r".to_owned()),
        Just("\u{feff}".to_owned()),
        Just("# >>> arcssh >>> block 1: kept\n".to_owned()),
        Just("# <<< arcssh <<<\n".to_owned()),
        Just(" # <<< arcssh <<<".to_owned()),
        Just("# options {}\n".to_owned()),
        Just("Host a\n".to_owned()),
        Just("# comment".to_owned()),
        ".*",
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

#[test]
fn bytes_outside_of_utf_8_are_restored() {
    for bytes in
        [&b"# caf\xe9\n"[..], b"\xff\xfe\x80", "# \u{10ff80} \u{10ffff} \u{10ff7f}\n".as_bytes(), b"\xc3"]
    {
        assert_eq!(encoded(&decoded(bytes)), bytes);
    }
    assert_eq!(decoded("# ümläut 机器 🦀".as_bytes()), "# ümläut 机器 🦀");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn bytes_outside_of_the_block_do_not_change(text in users_text(), host_entries in "(Host [a-z]{1,5}\n( +Port [1-9]\n)?  ProxyCommand arcssh proxy x\n){0,3}") {
        let new = block("{}", &host_entries);
        match find(&text).ok() {
            // With unmatched markers, every edit fails.
            None => prop_assert!(with_block(&text, &new).is_err() && without_block(&text).is_err()),
            Some(None) => {
                let with = with_block(&text, &new).unwrap();
                prop_assert!(with.ends_with(text.trim_start_matches(BYTE_ORDER_MARK)));
                prop_assert_eq!(with_block(&with, &new).unwrap(), with.clone());
                prop_assert_eq!(without_block(&with).unwrap(), text);
            }
            Some(Some(range)) => {
                let with = with_block(&text, &new).unwrap();
                prop_assert!(with.starts_with(&text[..range.start]) && with.ends_with(&text[range.end..]));
                prop_assert_eq!(with_block(&with, &new).unwrap(), with);
            }
        }
    }

    #[test]
    fn any_bytes_are_restored(bytes in any::<Vec<u8>>()) {
        prop_assert_eq!(encoded(&decoded(&bytes)), bytes);
    }

    #[test]
    fn no_text_causes_a_panic(text in any::<String>()) {
        let _ = (find(&text), options(&text), with_block(&text, "block\n"), without_block(&text), host_entries(&text));
    }
}
