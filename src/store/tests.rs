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
    let file = store.path(&key(), "json").unwrap();
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
    let file = store.path(&key(), "json").unwrap();
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
    fs::rename(store.path(&other, "json").unwrap(), store.path(&key(), "json").unwrap()).unwrap();
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
async fn a_lock_that_is_never_let_go_of_is_waited_for_with_a_bound() {
    let (_home, store) = store();
    let _held = store.try_lock(&key()).unwrap();
    let start = Instant::now();
    assert!(store.lock(&key()).await.is_none());
    assert!((PATIENCE..PATIENCE * 2).contains(&start.elapsed()));
}
