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
    for text in
        ["", "{", "null", r#"{"version":2,"anything":true}"#, r#"{"version":1}"#, &"[".repeat(100_000)]
    {
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
    assert!(next.is_some() && (PATIENCE..PATIENCE * 2).contains(&start.elapsed()));
    let start = Instant::now();
    assert!(store.lock(&key()).await.is_none(), "while the next works nobody else does");
    let bound = PATIENCE + LONG_PATIENCE;
    assert!((bound..bound + PATIENCE).contains(&start.elapsed()));
}

/// By the real clock, as above.
#[tokio::test]
async fn those_that_wait_for_the_second_lock_hear_of_the_first_too() {
    let (_home, store) = store();
    let first = store.try_lock(&key()).unwrap();
    let _second = store.turn(&key(), &[SECOND], PATIENCE).await.unwrap();
    let let_go = async {
        tokio::task::yield_now().await;
        drop(first);
    };
    let key = key();
    let (locked, ()) = tokio::join!(store.turn(&key, &["", SECOND], LONG_PATIENCE), let_go);
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
    let half_written = store.folder().unwrap().join("new-x");
    let room = store.room().unwrap().keep();
    store.keep(&account, &1).unwrap();
    store.keep(&key(), &2).unwrap();
    fs::write(&half_written, "{").unwrap();
    fs::write(room.join("key"), "secret").unwrap();
    let old = SystemTime::now() - LONGEST_LIFE - PATIENCE;
    for file in store.files() {
        File::open(file.path()).unwrap().set_modified(old).unwrap();
    }
    let young = Key::new(Kind::Relay, "young");
    let in_work = store.room().unwrap();
    store.keep(&young, &3).unwrap();
    store.sweep();
    assert_eq!(store.keys(), [account, young]);
    assert!(!half_written.exists() && !room.exists() && in_work.path().exists());
    store.clear_half_made();
    assert!(!in_work.path().exists());
}
