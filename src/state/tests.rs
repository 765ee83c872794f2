use std::os::unix::fs::PermissionsExt as _;

use tokio::time::Instant;

use super::*;

fn store() -> (tempfile::TempDir, Store) {
    let home = tempfile::tempdir().expect("a temporary directory");
    let store = Store::at(home.path().join("state/arcssh")).expect("a new directory");
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
fn a_written_value_is_read_until_it_is_removed() {
    let (_home, store) = store();
    assert_eq!(store.read::<u32>(&key()).unwrap(), None);
    store.try_write(&key(), &7).unwrap();
    store.try_write(&key(), &8).unwrap();
    assert_eq!(store.read::<u32>(&key()).unwrap(), Some(8));
    assert_eq!(store.keys(), [key()]);
    store.remove(&key());
    assert_eq!(store.read::<u32>(&key()).unwrap(), None);
}

#[test]
fn files_and_directory_are_private() {
    let (_home, store) = store();
    store.try_write(&key(), &7).unwrap();
    drop(store.try_lock(&key()).unwrap());
    let folder = store.folder().unwrap();
    assert_eq!(mode(folder), 0o700);
    for file in fs::read_dir(folder).unwrap() {
        assert_eq!(mode(&file.unwrap().path()), 0o600);
    }
}

#[test]
fn a_file_or_directory_that_others_can_read_is_an_error_with_its_mode() {
    let (_home, store) = store();
    store.try_write(&key(), &7).unwrap();
    let file = store.path(&key()).unwrap();
    set_mode(&file, 0o640);
    let error = store.read::<u32>(&key()).unwrap_err();
    assert!(error.to_string().ends_with(" (mode 0640)"), "{error}");
    let folder = store.folder().unwrap();
    set_mode(folder, 0o755);
    let error = Store::at(folder.to_owned()).unwrap_err();
    assert!(
        matches!(error, SystemError::InsecurePermissions { mode: 0o755, required: 0o700, .. }),
        "{error}"
    );
}

#[test]
fn damaged_files_and_other_versions_count_as_absent_and_are_replaced() {
    let (_home, store) = store();
    let file = store.path(&key()).unwrap();
    let cut = r#"{"version":1,"kind":"relay","subj"#;
    for text in ["", "{", cut, "\0\0\0", r#"{"version":2,"anything":true}"#, r#"{"version":1}"#] {
        fs::write(&file, text).unwrap();
        set_mode(&file, 0o600);
        assert_eq!(store.read::<u32>(&key()).unwrap(), None, "{text:.40}");
        assert_eq!(store.keys(), []);
        store.try_write(&key(), &7).unwrap();
        assert_eq!(store.read::<u32>(&key()).unwrap(), Some(7));
    }
}

#[test]
fn a_value_of_another_subject_is_not_read() {
    let (_home, store) = store();
    let other = Key::new(Kind::Relay, "another");
    store.try_write(&other, &7).unwrap();
    fs::rename(store.path(&other).unwrap(), store.path(&key()).unwrap()).unwrap();
    assert_eq!(store.read::<u32>(&key()).unwrap(), None);
}

#[test]
fn without_a_directory_the_store_is_empty() {
    let store = Store::at("/dev/null/arcssh".into()).unwrap();
    store.write(&key(), &7);
    assert_eq!(store.read::<u32>(&key()).unwrap(), None);
    assert!(
        store.try_write(&key(), &7).is_err() && store.try_lock(&key()).is_none() && store.folder().is_none()
    );
}

#[test]
fn clear_deletes_only_the_named_kinds() {
    let (_home, store) = store();
    let account = Key::new(Kind::Account, "ada@example.com");
    store.try_write(&account, &1).unwrap();
    store.try_write(&key(), &2).unwrap();
    assert_eq!(store.clear(|kind| [Kind::Relay, Kind::Token].contains(&kind)), [Kind::Relay]);
    assert_eq!(store.keys(), [account]);
}

/// On the real clock: a process that another test starts inherits the lock until it executes its program.
#[tokio::test]
async fn a_lock_is_acquired_when_it_is_released() {
    let (_home, store) = store();
    let held = store.lock(&key()).await.unwrap();
    assert!(store.try_lock(&key()).is_none());
    let release = async {
        tokio::task::yield_now().await;
        drop(held);
    };
    let key = key();
    let (locked, ()) = tokio::join!(store.lock(&key), release);
    assert!(locked.is_some());
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_lock_ends_at_the_time_limit() {
    let (_home, store) = store();
    let start = Instant::now();
    let _suspended = store.try_lock(&key()).unwrap();
    assert!(store.lock(&key()).await.is_none(), "another process holds the lock");
    assert!((LOCK_TIMEOUT..LOCK_TIMEOUT * 2).contains(&start.elapsed()));
}

#[test]
fn many_keys_share_few_lock_files() {
    let (_home, store) = store();
    let keys = (0..10_000).map(|number| Key::new(Kind::Relay, number.to_string()));
    // A process that another test starts can still hold a released lock.
    keys.for_each(|key| drop(store.try_lock(&key)));
    assert!(store.files().count() <= 4096);
}

#[test]
fn clear_deletes_unreadable_files_too() {
    let (_home, store) = store();
    for (subject, mode, text) in [("a", 0o644, "{}"), ("b", 0o600, "\0"), ("c", 0o600, r#"{"version":2}"#)] {
        let file = store.path(&Key::new(Kind::Account, subject)).unwrap();
        fs::write(&file, text).unwrap();
        set_mode(&file, mode);
    }
    assert_eq!(store.clear(|kind| kind == Kind::Relay), []);
    assert_eq!(store.clear(|kind| kind == Kind::Account), [Kind::Account; 3]);
    assert_eq!(store.files().count(), 0);
}

#[test]
fn expired_values_and_temporary_files_are_removed_and_a_sign_in_remains() {
    let (_home, store) = store();
    let account = Key::new(Kind::Account, "ada@example.com");
    let half_written = store.folder().unwrap().join(".arcssh-aB3dE5gH7jK9.tmp");
    let temp_dir = store.temp_dir().unwrap().keep();
    store.try_write(&account, &1).unwrap();
    store.try_write(&key(), &2).unwrap();
    fs::write(&half_written, "{").unwrap();
    KEY_FILES.iter().for_each(|file| fs::write(temp_dir.join(file), "secret").unwrap());
    let old = std::time::SystemTime::now() - MAX_LIFETIME - LOCK_TIMEOUT;
    for file in store.files() {
        File::open(file.path()).unwrap().set_modified(old).unwrap();
    }
    let young = Key::new(Kind::Relay, "young");
    let in_work = store.temp_dir().unwrap();
    store.try_write(&young, &3).unwrap();
    store.remove_expired();
    assert_eq!(store.keys(), [account, young]);
    assert!(!half_written.exists() && !temp_dir.exists() && in_work.path().exists());
    store.clear_temporary();
    assert!(!in_work.path().exists());
}

/// Names that resemble those of arcssh.
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

/// Calls each function that deletes files, 31 days later.
fn delete_all(store: &Store) {
    let old = std::time::SystemTime::now() - MAX_LIFETIME - LOCK_TIMEOUT;
    for path in store.files().map(|file| file.path()).filter(|path| !path.is_symlink()) {
        File::open(path).and_then(|file| file.set_modified(old)).expect("our own file");
    }
    store.remove_expired();
    store.clear(|_| true);
    store.clear_temporary();
}

#[test]
fn only_files_with_exact_names_of_arcssh_are_deleted() {
    let (_home, store) = store();
    let folder = store.folder().unwrap().to_owned();
    LIKE_OURS.iter().for_each(|name| fs::write(folder.join(name), "mine").unwrap());
    for directory in
        [".key-backups", ".arcssh-aB3dE5gH7jK0.tmp", "token-0123456789abcdef0123456789abcdef.json"]
    {
        fs::create_dir(folder.join(directory)).unwrap();
    }
    store.try_write(&key(), &1).unwrap();
    delete_all(&store);
    assert_eq!(store.files().count(), LIKE_OURS.len() + 3);
    assert!(store.keys().is_empty());
}

#[test]
fn foreign_content_under_a_name_of_arcssh_is_not_read_replaced_or_deleted() {
    let (_home, store) = store();
    let file = store.path(&key()).unwrap();
    for text in
        [r#"{"name":"mine","version":"1.0.0"}"#, "my own notes\n", "[1, 2, 3]", "null", "{ \"a\": 1 }"]
    {
        fs::write(&file, text).unwrap();
        set_mode(&file, 0o600);
        assert_eq!(store.read::<u32>(&key()).unwrap(), None, "{text}");
        assert!(store.try_write(&key(), &7).is_err(), "{text}");
        store.remove(&key());
        delete_all(&store);
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
    }
}

#[test]
fn links_are_not_followed_replaced_or_deleted() {
    let (home, store) = store();
    let folder = store.folder().unwrap().to_owned();
    let (mine, nowhere) = (home.path().join("mine"), home.path().join("nowhere"));
    let other = Key::new(Kind::Relay, "another");
    store.try_write(&other, &7).unwrap();
    fs::rename(store.path(&other).unwrap(), &mine).unwrap();
    let before = fs::read(&mine).unwrap();
    let links =
        [(other.file(), &mine), (other.lock_file(), &nowhere), (".arcssh-aB3dE5gH7jK9.tmp".into(), &mine)];
    for (name, target) in &links {
        std::os::unix::fs::symlink(target, folder.join(name)).unwrap();
    }
    let temp_dir = folder.join(".arcssh-aB3dE5gH7jK9.key");
    std::os::unix::fs::symlink(home.path(), &temp_dir).unwrap();
    assert_eq!(store.read::<u32>(&other).unwrap(), None);
    assert!(store.try_write(&other, &8).is_err() && store.try_lock(&other).is_none());
    store.remove(&other);
    delete_all(&store);
    assert_eq!((fs::read(&mine).unwrap(), nowhere.exists()), (before, false));
    assert!(temp_dir.is_symlink() && links.iter().all(|(name, _)| folder.join(name).is_symlink()));
}

#[test]
fn a_temporary_directory_with_a_foreign_file_remains() {
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
fn only_values_of_an_earlier_version_are_migrated() {
    let (home, old) = store();
    let named = old.folder().unwrap().to_owned();
    let account = Key::new(Kind::Account, "https://login.example/");
    old.try_write(&account, &1).unwrap();
    old.try_write(&key(), &2).unwrap();
    // A value under the name of another value, and a file that is not a value.
    let misnamed = named.join(Key::new(Kind::Token, "b").file());
    old.try_write(&Key::new(Kind::Token, "a"), &3).unwrap();
    fs::rename(named.join(Key::new(Kind::Token, "a").file()), &misnamed).unwrap();
    fs::write(named.join(Key::new(Kind::Token, "c").file()), "{}").unwrap();
    LIKE_OURS.iter().for_each(|name| fs::write(named.join(name), "mine").unwrap());
    let new = Store::at(home.path().join("new")).unwrap();
    new.try_write(&key(), &4).unwrap();
    new.migrate(&named);
    assert_eq!(new.read::<u32>(&account).unwrap(), Some(1));
    assert_eq!(new.read::<u32>(&key()).unwrap(), Some(4), "a newer value stays");
    assert_eq!((new.values().count(), old.files().count()), (2, LIKE_OURS.len() + 3));
    assert!(misnamed.exists());
}
