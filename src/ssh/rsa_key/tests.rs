//! ssh-keygen and ring check the keys and signatures.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command as Program;

use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA512, RsaParameters};
use tempfile::TempDir;

use super::*;

fn keygen(arguments: &[&str], file: &Path) -> String {
    let output = Program::new("ssh-keygen").args(arguments).arg("-f").arg(file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Generates a key, and writes it to the file `key` in a directory.
async fn generated() -> (TempDir, KeyPair) {
    let folder = tempfile::tempdir().unwrap();
    let pem = Pem::generate(tempfile::tempdir_in(folder.path()).unwrap()).await.unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "the temporary directory remains");
    let file = folder.path().join("key");
    fs::write(&file, pem.text()).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    (folder, KeyPair::from_pem(&pem).unwrap())
}

#[tokio::test]
async fn ssh_and_arcssh_read_the_same_public_key() {
    let (folder, key) = generated().await;
    let file = folder.path().join("key");
    let public = keygen(&["-y"], &file);
    assert_eq!(PublicKey::from_text(&public).unwrap(), *key.public());
    assert_eq!(PublicKey::from_text(&key.public().to_line()).unwrap(), *key.public());
    assert!(keygen(&["-l"], &file).starts_with(&format!("3072 {} ", fingerprint(&key.public().blob()))));
}

#[tokio::test]
async fn signatures_follow_rfc_8332() {
    let (_folder, key) = generated().await;
    let algorithms: [(SignatureAlgorithm, &str, &RsaParameters); 2] = [
        (SignatureAlgorithm::Sha256, "rsa-sha2-256", &RSA_PKCS1_2048_8192_SHA256),
        (SignatureAlgorithm::Sha512, "rsa-sha2-512", &RSA_PKCS1_2048_8192_SHA512),
    ];
    for (algorithm, name, parameters) in algorithms {
        let blob = key.sign(b"data", algorithm).unwrap();
        let mut signature = Reader::new(&blob);
        assert_eq!(signature.text().unwrap(), name);
        let components = PublicKeyComponents { n: &key.public().n, e: &key.public().e };
        components.verify(parameters, b"data", signature.string().unwrap()).unwrap();
        signature.end().unwrap();
    }
}

#[tokio::test]
async fn debug_output_and_errors_contain_no_private_key() {
    let (folder, key) = generated().await;
    let file = folder.path().join("key");
    let pem = fs::read_to_string(&file).unwrap();
    let debug = format!("{key:?}");
    assert_eq!(debug, format!("KeyPair {{ public: {:?}, .. }}", key.public()));
    assert!(!format!("{:?}", Pem(pem.as_str().into())).contains(&pem[100..140]));
    let damaged = pem.replacen('\n', "\n!", 2);
    let error = format!("{:?}", KeyPair::from_pem(&Pem(damaged.into())).unwrap_err());
    for line in pem.lines().filter(|line| line.len() == 64) {
        assert!(!error.contains(line), "{error}");
    }
}

#[test]
fn an_invalid_private_key_is_an_error_with_the_reason() {
    for (text, why) in [
        ("", "it is not PKCS#1 in PEM"),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n",
            "not a private key of 2048",
        ),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n-----END RSA PRIVATE KEY-----",
            "encrypted",
        ),
    ] {
        let error = format!("{:#}", KeyPair::from_pem(&Pem(text.into())).unwrap_err());
        assert!(error.contains(why), "{error}");
    }
}

/// The example of RFC 7515 appendix A.2. Its modulus has the highest bit set, so that SSH adds a leading zero.
#[test]
fn a_jwk_has_no_leading_zeros_and_no_padding_and_its_hash_as_key_id() {
    const N: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-\
        yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQO\
        S-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2et\
        hFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
    let n = URL_SAFE_NO_PAD.decode(N).unwrap();
    let key = PublicKey::from_blob(&PublicKey { e: vec![1, 0, 1], n }.blob()).unwrap();
    let jwk = key.jwk();
    assert_eq!((jwk.n.as_str(), jwk.e.as_str(), jwk.kty), (N, "AQAB", "RSA"));
    let hash = digest(&SHA256, format!("{N}AQAB").as_bytes());
    assert_eq!(STANDARD.encode(hash), STANDARD.encode(from_hex(&jwk.kid)));
    assert!(jwk.kid.len() == 64 && jwk.kid == jwk.kid.to_lowercase());
    let json = serde_json::to_string(&jwk).unwrap();
    assert_eq!(json, format!(r#"{{"kty":"RSA","n":"{N}","e":"AQAB","kid":"{}"}}"#, jwk.kid));
}

fn from_hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn an_rsa_public_key_is_read_and_other_files_are_errors_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    keygen(&["-q", "-t", "rsa", "-b", "2048", "-N", "", "-C", "a comment"], &file("rsa"));
    keygen(&["-q", "-t", "ed25519", "-N", ""], &file("ed"));
    keygen(&["-q", "-t", "ecdsa", "-N", ""], &file("ec"));
    fs::write(file("text"), "hello").unwrap();
    fs::write(file("cut"), "ssh-rsa AAAAB3NzaC1yc2EAAAADAQAB").unwrap();
    let key = PublicKey::read(&file("rsa.pub")).unwrap();
    let line = fs::read(file("rsa.pub")).unwrap();
    let commented = [b"# of J\xf6rg\r\n\r\n", &line[..line.len() - 1], b" J\xf6rg\r\n"].concat();
    fs::write(file("commented.pub"), commented).unwrap();
    assert_eq!(PublicKey::read(&file("commented.pub")).unwrap(), key);
    for (name, why) in [
        ("rsa", "it is a private key; its public key is in the file that ends in .pub"),
        ("ed.pub", "its type is ssh-ed25519, and Entra ID certifies only ssh-rsa"),
        ("ec.pub", "its type is ecdsa-sha2-nistp256, and Entra ID certifies only ssh-rsa"),
        ("text", "it contains no OpenSSH public key"),
        ("cut", "it is not in the encoding of SSH"),
        ("none", "cannot read"),
    ] {
        let error = format!("{:#}", PublicKey::read(&file(name)).unwrap_err());
        assert!(error.contains(why), "{name}: {error}");
    }
}
