use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn store() -> (tempfile::TempDir, Store) {
    let home = tempfile::tempdir().expect("a temporary folder");
    let store = Store::at(home.path().join("state/arcssh")).expect("a new folder");
    (home, store)
}

fn key() -> Key {
    Key::new(Kind::Relay, "public /subscriptions/s/…/web01 SSH 22")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("a file").permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("our own file");
}

#[test]
fn what_is_kept_is_read_back_and_forgotten() {
    let (_home, store) = store();
    assert_eq!(store.read::<u32>(&key()).unwrap(), None);
    store.keep(&key(), &7).unwrap();
    store.keep(&key(), &8).unwrap();
    assert_eq!(store.read::<u32>(&key()).unwrap(), Some(8));
    assert_eq!(store.keys(), [key()]);
    store.remove(&key());
    assert_eq!(store.read::<u32>(&key()).unwrap(), None);
}

#[test]
fn nobody_else_can_read_what_is_kept() {
    let (_home, store) = store();
    store.keep(&key(), &7).unwrap();
    drop(store.try_lock(&key()).unwrap());
    let folder = store.folder().unwrap();
    assert_eq!(mode(folder), 0o700);
    for file in fs::read_dir(folder).unwrap() {
        assert_eq!(mode(&file.unwrap().path()), 0o600);
    }
}

#[test]
fn what_others_can_read_is_refused_with_its_mode() {
    let (_home, store) = store();
    store.keep(&key(), &7).unwrap();
    let file = store.path(&key()).unwrap();
    set_mode(&file, 0o640);
    let error = store.read::<u32>(&key()).unwrap_err();
    assert!(error.to_string().ends_with("is open to other users (mode 0640)"), "{error}");
    let folder = store.folder().unwrap();
    set_mode(folder, 0o755);
    assert_eq!(Store::at(folder.to_owned()).unwrap_err().wanted, 0o700);
}

#[test]
fn a_damaged_file_and_one_of_another_form_count_as_absent_and_are_replaced() {
    let (_home, store) = store();
    let file = store.path(&key()).unwrap();
    let cut = r#"{"version":1,"kind":"relay","subj"#;
    for text in ["", "{", cut, "\0\0\0", r#"{"version":2,"anything":true}"#, r#"{"version":1}"#] {
        fs::write(&file, text).unwrap();
        set_mode(&file, 0o600);
        assert_eq!(store.read::<u32>(&key()).unwrap(), None, "{text:.40}");
        assert_eq!(store.keys(), []);
        store.keep(&key(), &7).unwrap();
        assert_eq!(store.read::<u32>(&key()).unwrap(), Some(7));
    }
}

#[test]
fn a_value_of_another_subject_is_not_taken_for_ones_own() {
    let (_home, store) = store();
    let other = Key::new(Kind::Relay, "another");
    store.keep(&other, &7).unwrap();
    fs::rename(store.path(&other).unwrap(), store.path(&key()).unwrap()).unwrap();
    assert_eq!(store.read::<u32>(&key()).unwrap(), None);
}

#[test]
fn a_folder_that_cannot_be_made_is_a_store_that_holds_nothing() {
    let store = Store::at("/dev/null/arcssh".into()).unwrap();
    store.write(&key(), &7);
    assert_eq!(store.read::<u32>(&key()).unwrap(), None);
    assert!(store.keep(&key(), &7).is_err() && store.try_lock(&key()).is_none() && store.folder().is_none());
}

#[test]
fn clearing_takes_the_kinds_that_are_named() {
    let (_home, store) = store();
    let account = Key::new(Kind::Account, "ada@example.com");
    store.keep(&account, &1).unwrap();
    store.keep(&key(), &2).unwrap();
    assert_eq!(store.clear(&[Kind::Relay, Kind::Token]), 1);
    assert_eq!(store.keys(), [account]);
}

/// By the real clock: a program that another test is about to start has the lock too, until it runs.
#[tokio::test]
async fn a_lock_is_waited_for_and_let_go_of() {
    let (_home, store) = store();
    let held = store.lock(&key()).await.unwrap();
    assert!(store.try_lock(&key()).is_none());
    let let_go = async {
        tokio::task::yield_now().await;
        drop(held);
    };
    let key = key();
    let (locked, ()) = tokio::join!(store.lock(&key), let_go);
    assert!(locked.is_some());
}

#[tokio::test(start_paused = true)]
async fn those_that_one_keeps_waiting_take_turns_without_it_and_wait_with_a_bound() {
    let (_home, store) = store();
    let start = Instant::now();
    let _stands_still = store.try_lock(&key()).unwrap();
    let next = store.lock(&key()).await;
    assert!(next.is_some() && (LOCK_TIMEOUT..LOCK_TIMEOUT * 2).contains(&start.elapsed()));
    let start = Instant::now();
    assert!(store.lock(&key()).await.is_none(), "while the next works nobody else does");
    let bound = LOCK_TIMEOUT + LONG_LOCK_TIMEOUT;
    assert!((bound..bound + LOCK_TIMEOUT).contains(&start.elapsed()));
}

/// By the real clock, as above.
#[tokio::test]
async fn those_that_wait_for_the_second_lock_hear_of_the_first_too() {
    let (_home, store) = store();
    let first = store.try_lock(&key()).unwrap();
    let _second = store.turn(&key(), &[SECOND], LOCK_TIMEOUT).await.unwrap();
    let let_go = async {
        tokio::task::yield_now().await;
        drop(first);
    };
    let key = key();
    let (locked, ()) = tokio::join!(store.turn(&key, &["", SECOND], LONG_LOCK_TIMEOUT), let_go);
    assert!(locked.is_some());
}

#[test]
fn locks_stay_few_however_many_keys_there_are() {
    let (_home, store) = store();
    let keys = (0..10_000).map(|number| Key::new(Kind::Relay, number.to_string()));
    // One that has just been let go of may still be held by a child that another test starts.
    keys.for_each(|key| drop(store.try_lock(&key)));
    assert!(store.files().count() <= 4096);
}

#[test]
fn what_cannot_be_read_is_cleared_too() {
    let (_home, store) = store();
    for (subject, mode, text) in [("a", 0o644, "{}"), ("b", 0o600, "\0"), ("c", 0o600, r#"{"version":2}"#)] {
        let file = store.path(&Key::new(Kind::Account, subject)).unwrap();
        fs::write(&file, text).unwrap();
        set_mode(&file, mode);
    }
    assert_eq!((store.clear(&[Kind::Relay]), store.clear(&[Kind::Account])), (0, 3));
    assert_eq!(store.files().count(), 0);
}

#[test]
fn what_is_of_no_use_any_more_is_swept_away_and_a_sign_in_is_not() {
    let (_home, store) = store();
    let account = Key::new(Kind::Account, "ada@example.com");
    let half_written = store.folder().unwrap().join(".arcssh-aB3dE5gH7jK9.tmp");
    let temp_dir = store.temp_dir().unwrap().keep();
    store.keep(&account, &1).unwrap();
    store.keep(&key(), &2).unwrap();
    fs::write(&half_written, "{").unwrap();
    MADE.iter().for_each(|file| fs::write(temp_dir.join(file), "secret").unwrap());
    let old = std::time::SystemTime::now() - MAX_LIFETIME - LOCK_TIMEOUT;
    for file in store.files() {
        File::open(file.path()).unwrap().set_modified(old).unwrap();
    }
    let young = Key::new(Kind::Relay, "young");
    let in_work = store.temp_dir().unwrap();
    store.keep(&young, &3).unwrap();
    store.remove_expired();
    assert_eq!(store.keys(), [account, young]);
    assert!(!half_written.exists() && !temp_dir.exists() && in_work.path().exists());
    store.clear_temporary();
    assert!(!in_work.path().exists());
}

/// Names that are like arcssh's and are not.
const LIKE_OURS: [&str; 12] = [
    "package.json",
    "new-report.txt",
    "new-report",
    "token-foo.json",
    "relay-0123.json",
    "token-0123456789ABCDEF0123456789ABCDEF.json",
    "token-0123456789abcdef0123456789abcdef.json.bak",
    "tokens-0123456789abcdef0123456789abcdef.json",
    ".arcssh-short.tmp",
    ".arcssh-aB3dE5gH7jK9.key.tmp",
    ".arcssh-aB3dE5gH7jK-.tmp",
    "relay-abc.lock.json",
];

/// Does all that deletes, as if 31 days had gone by.
fn delete_all(store: &Store) {
    let old = std::time::SystemTime::now() - MAX_LIFETIME - LOCK_TIMEOUT;
    for path in store.files().map(|file| file.path()).filter(|path| !path.is_symlink()) {
        File::open(path).and_then(|file| file.set_modified(old)).expect("our own file");
    }
    store.remove_expired();
    store.clear(&Kind::ALL);
    store.clear_temporary();
}

#[test]
fn only_files_with_the_exact_names_that_arcssh_gives_are_deleted() {
    let (_home, store) = store();
    let folder = store.folder().unwrap().to_owned();
    LIKE_OURS.iter().for_each(|name| fs::write(folder.join(name), "mine").unwrap());
    for directory in
        [".key-backups", ".arcssh-aB3dE5gH7jK0.tmp", "token-0123456789abcdef0123456789abcdef.json"]
    {
        fs::create_dir(folder.join(directory)).unwrap();
    }
    store.keep(&key(), &1).unwrap();
    delete_all(&store);
    assert_eq!(store.files().count(), LIKE_OURS.len() + 3);
    assert!(store.keys().is_empty());
}

#[test]
fn a_file_with_a_name_of_arcssh_and_another_content_is_neither_read_nor_replaced_nor_deleted() {
    let (_home, store) = store();
    let file = store.path(&key()).unwrap();
    for text in
        [r#"{"name":"mine","version":"1.0.0"}"#, "my own notes\n", "[1, 2, 3]", "null", "{ \"a\": 1 }"]
    {
        fs::write(&file, text).unwrap();
        set_mode(&file, 0o600);
        assert_eq!(store.read::<u32>(&key()).unwrap(), None, "{text}");
        assert!(store.keep(&key(), &7).is_err(), "{text}");
        store.remove(&key());
        delete_all(&store);
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
    }
}

#[test]
fn links_are_neither_followed_nor_replaced_nor_deleted() {
    let (home, store) = store();
    let folder = store.folder().unwrap().to_owned();
    let (mine, nowhere) = (home.path().join("mine"), home.path().join("nowhere"));
    let other = Key::new(Kind::Relay, "another");
    store.keep(&other, &7).unwrap();
    fs::rename(store.path(&other).unwrap(), &mine).unwrap();
    let before = fs::read(&mine).unwrap();
    let links =
        [(other.file(), &mine), (other.lock_file(""), &nowhere), (".arcssh-aB3dE5gH7jK9.tmp".into(), &mine)];
    for (name, target) in &links {
        std::os::unix::fs::symlink(target, folder.join(name)).unwrap();
    }
    let temp_dir = folder.join(".arcssh-aB3dE5gH7jK9.key");
    std::os::unix::fs::symlink(home.path(), &temp_dir).unwrap();
    assert_eq!(store.read::<u32>(&other).unwrap(), None);
    assert!(store.keep(&other, &8).is_err() && store.try_lock(&other).is_none());
    store.remove(&other);
    delete_all(&store);
    assert_eq!((fs::read(&mine).unwrap(), nowhere.exists()), (before, false));
    assert!(temp_dir.is_symlink() && links.iter().all(|(name, _)| folder.join(name).is_symlink()));
}

#[test]
fn a_directory_in_which_a_key_was_made_stays_while_anything_else_is_in_it() {
    let (_home, store) = store();
    let temp_dir = store.temp_dir().unwrap().keep();
    for file in ["key", "mine"] {
        fs::write(temp_dir.join(file), "").unwrap();
    }
    store.clear_temporary();
    assert_eq!(fs::read_dir(&temp_dir).unwrap().count(), 2);
    fs::remove_file(temp_dir.join("mine")).unwrap();
    store.clear_temporary();
    assert!(!temp_dir.exists());
}

#[test]
fn values_of_an_earlier_version_are_moved_and_nothing_else_is() {
    let (home, old) = store();
    let named = old.folder().unwrap().to_owned();
    let account = Key::new(Kind::Account, "https://login.example/");
    old.keep(&account, &1).unwrap();
    old.keep(&key(), &2).unwrap();
    // A value under the name of another, and what is no value.
    let misnamed = named.join(Key::new(Kind::Token, "b").file());
    old.keep(&Key::new(Kind::Token, "a"), &3).unwrap();
    fs::rename(named.join(Key::new(Kind::Token, "a").file()), &misnamed).unwrap();
    fs::write(named.join(Key::new(Kind::Token, "c").file()), "{}").unwrap();
    LIKE_OURS.iter().for_each(|name| fs::write(named.join(name), "mine").unwrap());
    let new = Store::at(home.path().join("new")).unwrap();
    new.keep(&key(), &4).unwrap();
    new.take_over(&named);
    assert_eq!(new.read::<u32>(&account).unwrap(), Some(1));
    assert_eq!(new.read::<u32>(&key()).unwrap(), Some(4), "a newer value stays");
    assert_eq!((new.values().count(), old.files().count()), (2, LIKE_OURS.len() + 3));
    assert!(misnamed.exists());
}
