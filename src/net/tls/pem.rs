//! Certificates in PEM format.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// Returns the certificates of a text (RFC 7468, section 5). Each new connection reads a bundle of about 140; the parser of
/// rustls, which is made for private keys too, takes eight times as long.
pub(super) fn certificates(text: &[u8]) -> Vec<CertificateDer<'static>> {
    let mut certificates = Vec::new();
    let mut body: Option<String> = None;
    for line in String::from_utf8_lossy(text).lines().map(str::trim) {
        if line == BEGIN {
            body = Some(String::new());
        } else if line == END {
            let der = body.take().and_then(|body| STANDARD.decode(body).ok());
            certificates.extend(der.map(CertificateDer::from));
        } else if let Some(body) = &mut body {
            body.push_str(line);
        }
    }
    certificates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_found_among_other_text() {
        let text = b"# \xe9\r\n-----BEGIN CERTIFICATE-----\r\nAQID\r\nBA==\r\n-----END CERTIFICATE-----\r\n
            -----BEGIN PRIVATE KEY-----\nBQYH\n-----END PRIVATE KEY-----
            -----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----
            -----BEGIN CERTIFICATE-----\nCAkK\n-----END CERTIFICATE-----
            -----BEGIN CERTIFICATE-----\nCwwN";
        assert_eq!(certificates(text), [&[1, 2, 3, 4][..], &[8, 9, 10]].map(CertificateDer::from_slice));
        assert!(certificates(b"").is_empty() && certificates(b"-----END CERTIFICATE-----").is_empty());
    }

    #[test]
    fn the_parser_of_rustls_finds_the_same_certificates() {
        use rustls::pki_types::pem::PemObject as _;
        for bundle in super::super::BUNDLES.iter().filter_map(|path| std::fs::read(path).ok()) {
            let others: Vec<CertificateDer<'_>> = CertificateDer::pem_slice_iter(&bundle).flatten().collect();
            assert_eq!(certificates(&bundle), others);
        }
    }
}
