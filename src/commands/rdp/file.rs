//! An .rdp file, which names a remote desktop for a client (Microsoft Learn, "Supported RDP properties").

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::ssh::SshError;
use crate::system::files;

/// The property with the address, and the start of its value in each file of arcssh.
const ADDRESS: &str = "full address:s:";
const LOOPBACK: &str = "127.0.0.1:";

/// Returns the content of a file. A value ends at the end of its line, so that a line break would add another property.
///
/// # Errors
/// The name of the user contains a control character.
pub(super) fn content(address: SocketAddr, user: Option<&str>) -> Result<Vec<u8>> {
    let mut text = format!("{ADDRESS}{address}\r\n");
    if let Some(user) = user {
        let is_line = !user.contains(|c: char| c.is_control() || "\u{2028}\u{2029}".contains(c));
        ensure!(is_line, "the user {user:?} cannot be in an .rdp file: it contains a control character");
        text += &format!("username:s:{user}\r\n");
    }
    Ok(if text.is_ascii() { text.into_bytes() } else { utf16(&text) })
}

/// Returns a text in UTF-16 with a byte order mark. mstsc reads it, and another text in the code page of the system.
fn utf16(text: &str) -> Vec<u8> {
    std::iter::once(0xfeff).chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect()
}

/// Writes a file that only this user can read. Replaces only an earlier file of arcssh.
///
/// # Errors
/// [`SshError::NotOurs`]; the file cannot be written.
pub(super) fn write(path: &Path, content: &[u8]) -> Result<(), SshError> {
    // The target of a link may be missing, and arcssh creates no links.
    let is_absent = fs::symlink_metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound);
    let is_ours = || files::read(path, files::MAX_TEXT).is_ok_and(|bytes| is_ours(&bytes));
    if !is_absent && (path.is_symlink() || !is_ours()) {
        return Err(SshError::NotOurs(path.to_owned()));
    }
    Ok(files::replace(path, content).with_context(|| format!("cannot write {}", path.display()))?)
}

/// Returns whether a content is one of [`content`].
fn is_ours(bytes: &[u8]) -> bool {
    let start = format!("{ADDRESS}{LOOPBACK}");
    bytes.starts_with(start.as_bytes()) || bytes.starts_with(&utf16(&start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_adds_a_property() {
        let address = SocketAddr::from(([127, 0, 0, 1], 53211));
        let file = |user| content(address, user).map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(file(None).unwrap(), "full address:s:127.0.0.1:53211\r\n");
        assert_eq!(
            file(Some("CORP\\ada:s:1")).unwrap(),
            "full address:s:127.0.0.1:53211\r\nusername:s:CORP\\ada:s:1\r\n"
        );
        for user in ["a\nalternate shell:s:x", "a\r\nb", "\rb", "a\u{85}b", "a\u{2028}b", "a\0b", "a\u{b}b"] {
            let error = file(Some(user)).unwrap_err().to_string();
            assert!(error.contains("control character") && !error.contains(['\n', '\r']), "{error}");
        }
        let bytes = content(address, Some("jörg")).unwrap();
        assert_eq!(bytes[..4], [0xff, 0xfe, b'f', 0]);
        assert!(bytes.ends_with(&[b'g', 0, b'\r', 0, b'\n', 0]));
    }

    #[test]
    fn only_a_file_of_arcssh_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("web01.rdp");
        let new = content(SocketAddr::from(([127, 0, 0, 1], 1)), None).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], 2));
        for content in [content(address, Some("jörg")).unwrap(), new.clone()] {
            write(&path, &content).unwrap();
            write(&path, &content).unwrap();
        }
        #[cfg(unix)]
        for target in ["web01.rdp", "missing"] {
            let link = folder.path().join("link");
            std::os::unix::fs::symlink(target, &link).unwrap();
            assert!(matches!(write(&link, &new), Err(SshError::NotOurs(_))), "{target}");
            assert!(link.is_symlink());
            fs::remove_file(&link).unwrap();
        }
        for other in
            ["", "full address:s:win.example.com\r\n", "screen mode id:i:2\r\nfull address:s:127.0.0.1:1\r\n"]
        {
            std::fs::write(&path, other).unwrap();
            assert!(matches!(write(&path, &new), Err(SshError::NotOurs(_))), "{other}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), other);
        }
    }
}
