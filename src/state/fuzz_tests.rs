//! Files of the state directory, whatever they hold.

use super::*;
use crate::fuzz_tests::each_input;

/// A file is a value or counts as absent. The next value replaces it, unless it is a file that arcssh did not write: such a
/// file stays as it is.
#[test]
fn a_file_of_any_content_is_a_value_or_absent_and_nothing_of_others_is_lost() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::at(home.path().join("arcssh")).unwrap();
    let key = Key::new(Kind::Relay, "public /subscriptions/s/…/web01 SSH 22");
    store.keep(&key, &7).unwrap();
    let file = store.path(&key).unwrap();
    let private = fs::metadata(&file).unwrap().permissions();
    let damaged = std::cell::Cell::new(0);
    each_input("store", |input| {
        // The user is warned of each damaged file, in the output of this test too: some are enough.
        if serde_json::from_slice::<Envelope<serde_json::Value>>(input).is_err() {
            damaged.set(damaged.get() + 1);
            if damaged.get() > 20 {
                return "damaged".into();
            }
        }
        fs::write(&file, input).unwrap();
        fs::set_permissions(&file, private.clone()).unwrap();
        let read = store.read::<serde_json::Value>(&key).unwrap();
        let shown = store.keys().len();
        let kept = store.keep(&key, &8).is_ok();
        match kept {
            true => assert_eq!(store.read::<u32>(&key).unwrap(), Some(8)),
            false => assert_eq!(fs::read(&file).unwrap(), input),
        }
        let _ = fs::remove_file(&file);
        format!("{:?} {shown} {kept}", read.map(|value| value.is_object()))
    });
}
