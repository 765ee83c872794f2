//! Files of the state directory with any content.

use super::*;
use crate::tests::each_input;

/// Writing a value replaces the file, unless arcssh did not write it: such a file remains unchanged.
#[test]
fn a_file_of_any_content_is_a_value_or_absent_and_foreign_files_remain() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::at(home.path().join("arcssh")).unwrap();
    let key = Key::new(Kind::Relay, "public /subscriptions/s/…/web01 SSH 22");
    store.try_write(&key, &7).unwrap();
    let file = store.path(&key).unwrap();
    let private = fs::metadata(&file).unwrap().permissions();
    each_input("store", |input| {
        fs::write(&file, input).unwrap();
        fs::set_permissions(&file, private.clone()).unwrap();
        let value = store.read::<serde_json::Value>(&key).unwrap();
        let keys = store.keys().len();
        let is_written = store.try_write(&key, &8).is_ok();
        if is_written {
            assert_eq!(store.read::<u32>(&key).unwrap(), Some(8));
        } else {
            assert_eq!(fs::read(&file).unwrap(), input);
        }
        let _ = fs::remove_file(&file);
        format!("{:?} {keys} {is_written}", value.map(|value| value.is_object()))
    });
}
