//! Why TLS fails, as sentences. rustls and webpki name most causes only by identifiers of their source.

use std::net::IpAddr;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible, PeerMisbehaved};

use crate::net::tls::{TlsError, TrustError};
use crate::system::clock::format_time;
use crate::text::sanitize;

/// The texts with which rustls-platform-verifier begins its error if the system has no root certificates.
const NO_ROOTS: [&str; 2] = ["No CA certificates", "No system trust stores"];
/// The most names of a certificate in a message.
const MAX_NAMES: usize = 3;

impl From<&Error> for TlsError {
    fn from(error: &Error) -> Self {
        tracing::debug!(?error, "TLS failed");
        match error {
            Error::InvalidCertificate(error) => Self::of_certificate(error, None),
            Error::AlertReceived(alert) => of_alert(*alert),
            Error::PeerIncompatible(error) => Self::Incompatible(incompatible(error)),
            Error::PeerMisbehaved(error) => misbehaved(error),
            Error::InvalidMessage(error) => invalid_message(error),
            Error::PeerSentOversizedRecord => Self::NotTls,
            Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
                Self::Other("the other side sent a message in the wrong order".into())
            }
            Error::NoCertificatesPresented => Self::Incompatible("the other side has no certificate"),
            Error::DecryptError => Self::Other("a message was damaged on the way".into()),
            Error::NoApplicationProtocol => Self::Incompatible("the other side does not support HTTP/1.1"),
            Error::FailedToGetRandomBytes => Self::Other("the system does not provide random numbers".into()),
            Error::FailedToGetCurrentTime => Self::Other("the system does not provide the time".into()),
            Error::Other(other) => match other.0.downcast_ref::<TrustError>() {
                Some(error) => error.into(),
                None => Self::Other(sentence(&other.to_string()).unwrap_or(UNKNOWN).into()),
            },
            Error::General(text) if NO_ROOTS.iter().any(|start| text.starts_with(start)) => Self::NoRoots,
            Error::General(text) => Self::Other(sentence(text).unwrap_or(UNKNOWN).into()),
            _ => Self::Other(UNKNOWN.into()),
        }
    }
}

/// The cause of an error that rustls describes only for programmers; `-v` shows it.
const UNKNOWN: &str = "the TLS library reports an internal error";

impl From<&TrustError> for TlsError {
    fn from(error: &TrustError) -> Self {
        match error {
            TrustError::UnknownIssuer { issuer, unreadable } => {
                Self::UnknownIssuer { issuer: issuer.clone(), unreadable: unreadable.clone() }
            }
            TrustError::Invalid { issuer, error } => Self::of_certificate(error, issuer.clone()),
            #[cfg(not(any(windows, target_vendor = "apple")))]
            TrustError::NoRoots => Self::NoRoots,
            TrustError::Unreadable(unreadable) => Self::Unreadable(unreadable.clone()),
        }
    }
}

impl TlsError {
    fn of_certificate(error: &CertificateError, issuer: Option<String>) -> Self {
        let why = match error {
            CertificateError::Expired => return Self::Expired(None),
            CertificateError::ExpiredContext { not_after, .. } => {
                return Self::Expired(Some(not_after.as_secs()));
            }
            CertificateError::NotValidYet => return Self::NotYetValid(None),
            CertificateError::NotValidYetContext { not_before, .. } => {
                return Self::NotYetValid(Some(not_before.as_secs()));
            }
            CertificateError::UnknownIssuer => return Self::UnknownIssuer { issuer, unreadable: None },
            CertificateError::Other(other) => match other.0.downcast_ref::<TrustError>() {
                Some(error) => return error.into(),
                None => match of_verifier(&other.to_string()) {
                    Some(why) => why,
                    None => return Self::UnknownIssuer { issuer, unreadable: None },
                },
            },
            error => invalid(error),
        };
        Self::InvalidCertificate { why, issuer }
    }
}

/// Returns a phrase whose subject is the certificate.
fn invalid(error: &CertificateError) -> String {
    match error {
        CertificateError::BadEncoding => "is malformed".into(),
        CertificateError::Revoked => "was revoked".into(),
        CertificateError::UnhandledCriticalExtension => "has an extension that is not supported".into(),
        CertificateError::UnknownRevocationStatus => "may be revoked: its status is unknown".into(),
        CertificateError::ExpiredRevocationList => "may be revoked: the revocation list has expired".into(),
        CertificateError::ExpiredRevocationListContext { next_update, .. } => {
            format!(
                "may be revoked: the revocation list has expired at {}",
                format_time(next_update.as_secs())
            )
        }
        CertificateError::BadSignature => {
            "has a wrong signature, or one by an RSA key of less than 2048 bits".into()
        }
        CertificateError::UnsupportedSignatureAlgorithmContext { signature_algorithm_id, .. } => {
            format!("is signed with {}, which is not accepted", algorithm(signature_algorithm_id))
        }
        CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "is signed with an algorithm that does not fit the key of its authority".into()
        }
        CertificateError::NotValidForName => "is for another host".into(),
        CertificateError::NotValidForNameContext { presented, .. } => other_names(presented),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "is for another purpose than a server".into()
        }
        CertificateError::InvalidOcspResponse => "comes with an invalid OCSP response".into(),
        CertificateError::ApplicationVerificationFailure => "is rejected by this system".into(),
        // A deprecated variant has no details.
        _ => "is signed with an algorithm that is not accepted".into(),
    }
}

/// Names the hosts of a certificate. webpki writes a name as `DnsName("example.com")` or `IpAddress(192.0.2.1)`.
fn other_names(presented: &[String]) -> String {
    let name = |text: &String| {
        let (kind, name) = text.trim_end_matches(')').split_once('(')?;
        let name = sanitize(name.trim_matches('"'));
        let is_address = name.parse::<IpAddr>().is_ok();
        // Without its kind, such a name looks like the address of the host.
        Some(if kind == "DnsName" && is_address { format!("the DNS name {name}") } else { name })
            .filter(|name| !name.is_empty())
    };
    let mut names: Vec<String> = presented.iter().filter_map(name).take(MAX_NAMES).collect();
    if presented.len() > MAX_NAMES {
        names.push("others".into());
    }
    match &names[..] {
        [] => "names no host".into(),
        [one] => format!("is for {one}"),
        [first @ .., last] => format!("is for {} and {last}", first.join(", ")),
    }
}

/// Returns the name of a signature algorithm by its object identifier in DER (RFC 8017, appendix C; RFC 3279; RFC 5758;
/// RFC 8410).
fn algorithm(identifier: &[u8]) -> &'static str {
    const RSA: [u8; 8] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    const ECDSA: [u8; 6] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04];
    let Some([0x06, _, oid @ ..]) = Some(identifier) else { return "an unknown algorithm" };
    if let Some([number, ..]) = oid.strip_prefix(&RSA) {
        return match number {
            2 | 3 => "MD2",
            4 => "MD5",
            5 => "SHA-1",
            10 => "RSA-PSS of another kind",
            14 => "SHA-224",
            _ => "an RSA algorithm",
        };
    }
    match oid.strip_prefix(&ECDSA) {
        Some([1, ..]) => "SHA-1",
        Some([3, 1, ..]) => "SHA-224",
        Some(_) => "an ECDSA algorithm",
        None if oid.starts_with(&[0x2b, 0x65, 0x71]) => "Ed448",
        None if oid.starts_with(&[0x2a, 0x86, 0x48, 0xce, 0x38]) => "DSA",
        None => "an unknown algorithm",
    }
}

/// Returns the phrase for an error that rustls only passes on; `None` for an unknown authority.
fn of_verifier(text: &str) -> Option<String> {
    match windows_code(text) {
        // CERT_E_CHAINING, CERT_E_UNTRUSTEDTESTROOT, CERT_E_UNTRUSTEDCA
        Some(0x800b_010a | 0x800b_010d | 0x800b_0112) => None,
        Some(code) => Some(of_windows(code)),
        None => Some(of_webpki(text)),
    }
}

/// Returns the code in an error of Windows' verifier. The text before it is in the language of the system, or missing
/// (rustls-platform-verifier 0.7, `verification/windows.rs`).
fn windows_code(text: &str) -> Option<u32> {
    let (_, code) = text.strip_suffix(')')?.rsplit_once("(os error ")?;
    code.parse().ok().map(i32::cast_unsigned)
}

/// Returns the phrase for a code of Windows (Microsoft Learn, "COM Error Codes (Security and Setup)").
fn of_windows(code: u32) -> String {
    let why = match code {
        // CERT_E_VALIDITYPERIODNESTING
        0x800b_0102 => "is valid for longer than its authority",
        // CERT_E_ROLE, TRUST_E_BASIC_CONSTRAINTS
        0x800b_0103 | 0x8009_6019 => "was issued by a certificate that is not an authority's",
        // CERT_E_PATHLENCONST
        0x800b_0104 => "has more authorities in its chain than they permit",
        // CERT_E_CRITICAL
        0x800b_0105 => "has an extension that is not supported",
        // CERT_E_PURPOSE
        0x800b_0106 => "is for another purpose than a server",
        // CERT_E_MALFORMED
        0x800b_0108 => "is malformed",
        // CERT_E_REVOKED
        0x800b_010c => "was revoked",
        // CERT_E_REVOCATION_FAILURE, CRYPT_E_NO_REVOCATION_CHECK, CRYPT_E_REVOCATION_OFFLINE
        0x800b_010e | 0x8009_2012 | 0x8009_2013 => "may be revoked: its status is unknown",
        // TRUST_E_EXPLICIT_DISTRUST
        0x800b_0111 => "is distrusted",
        // TRUST_E_CERT_SIGNATURE
        0x8009_6004 => "has a wrong signature",
        _ => return format!("is rejected by this system (Windows error 0x{code:08x})"),
    };
    why.into()
}

/// Returns the phrase for an error of webpki that rustls passes on, which is the name of a variant (rustls-webpki 0.103,
/// `Error`). The verifier of macOS writes a sentence instead.
fn of_webpki(text: &str) -> String {
    let name = text.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
    let why = match name {
        "CaUsedAsEndEntity" => "is an authority's own, not a server's",
        "EndEntityUsedAsCa" => "was issued by a certificate that is not an authority's",
        "CertDistrusted" => "is distrusted",
        "EmptyEkuExtension" => "names no purpose",
        "InvalidSerialNumber" => "has an invalid serial number",
        "NameConstraintViolation" => "is for a name that its authority may not certify",
        "PathLenConstraintViolated" => "has more authorities in its chain than they permit",
        "SignatureAlgorithmMismatch" => "names two different signature algorithms",
        "UnsupportedCertVersion" => "has an old format: it is not X.509 version 3",
        "UnsupportedCriticalExtension" => "has an extension that is not supported",
        "UnsupportedNameType" => "has a name of an unsupported kind",
        _ if name.starts_with("Maximum") => "has a chain that is too long",
        _ if is_identifier(name) => "is malformed",
        _ if text.contains("extensions") => "is for another purpose than a server",
        _ => match sentence(text) {
            Some(text) => return format!("is rejected by this system ({text})"),
            None => "is rejected by this system",
        },
    };
    why.into()
}

/// Returns whether the word is the name of a variant, such as `BadDer`.
fn is_identifier(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_uppercase())
        && word.chars().filter(char::is_ascii_uppercase).count() > 1
}

/// Returns a text that is written for users, not by `Debug`.
fn sentence(text: &str) -> Option<&str> {
    let first = text.split_whitespace().next()?;
    let is_debug =
        is_identifier(first) && first.len() > 4 || text.contains(['{', '"']) || text.contains("Some(");
    (text.contains(' ') && !is_debug).then_some(text)
}

/// Returns the error for an alert (RFC 8446, section 6.2; RFC 5246, section 7.2.2).
fn of_alert(alert: AlertDescription) -> TlsError {
    use AlertDescription as Alert;
    // A server sends the same alert if it has no certificate with a key that the client accepts (RFC 8446, section 4.4.2.2);
    // these are the keys of the provider (rustls 0.23, `crypto::ring::SUPPORTED_SIG_ALGS`).
    const NOTHING_IN_COMMON: &str = "the other side accepts neither TLS 1.3 nor the ciphers of TLS 1.2 with forward secrecy, or its certificate has a key other than RSA, ECDSA P-256, ECDSA P-384 or Ed25519";
    match alert {
        Alert::HandshakeFailure | Alert::InsufficientSecurity | Alert::MissingExtension => {
            TlsError::Incompatible(NOTHING_IN_COMMON)
        }
        Alert::ProtocolVersion | Alert::InappropriateFallback => {
            TlsError::Incompatible("the other side accepts neither TLS 1.3 nor TLS 1.2")
        }
        Alert::NoApplicationProtocol => TlsError::Incompatible("the other side does not support HTTP/1.1"),
        Alert::CertificateRequired | Alert::BadCertificate | Alert::NoCertificate => {
            TlsError::Rejected("the other side requires a certificate of this computer")
        }
        Alert::UnrecognisedName => TlsError::Rejected("the other side does not know this host name"),
        Alert::AccessDenied => TlsError::Rejected("the other side denies access"),
        Alert::InternalError => TlsError::Rejected("the other side reports an internal error"),
        Alert::UserCanceled | Alert::CloseNotify => {
            TlsError::Interrupted("the other side closed the connection".into())
        }
        Alert::UnexpectedMessage
        | Alert::DecodeError
        | Alert::IllegalParameter
        | Alert::UnsupportedExtension => {
            TlsError::Rejected("the other side does not understand the TLS handshake")
        }
        Alert::BadRecordMac | Alert::DecryptError | Alert::DecryptionFailed | Alert::RecordOverflow => {
            TlsError::Rejected("a message was damaged on the way to the other side")
        }
        Alert::UnknownCA
        | Alert::UnsupportedCertificate
        | Alert::CertificateUnknown
        | Alert::CertificateExpired
        | Alert::CertificateRevoked
        | Alert::CertificateUnobtainable
        | Alert::BadCertificateStatusResponse
        | Alert::BadCertificateHashValue => TlsError::Rejected("the other side rejects a certificate"),
        _ => TlsError::Rejected("the other side rejects the TLS handshake"),
    }
}

fn incompatible(error: &PeerIncompatible) -> &'static str {
    match error {
        PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
        | PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled
        | PeerIncompatible::SupportedVersionsExtensionRequired => {
            "the other side supports neither TLS 1.3 nor TLS 1.2"
        }
        PeerIncompatible::NoCipherSuitesInCommon => "the two sides have no cipher in common",
        PeerIncompatible::NoKxGroupsInCommon
        | PeerIncompatible::NamedGroupsExtensionRequired
        | PeerIncompatible::KeyShareExtensionRequired => "the two sides have no key exchange in common",
        PeerIncompatible::NoSignatureSchemesInCommon
        | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon
        | PeerIncompatible::SignatureAlgorithmsExtensionRequired => {
            "the two sides have no signature algorithm in common"
        }
        _ => "the other side requires another variant of TLS",
    }
}

fn misbehaved(error: &PeerMisbehaved) -> TlsError {
    use PeerMisbehaved as Misbehaved;
    match error {
        Misbehaved::AttemptedDowngradeToTls12WhenTls13IsSupported => {
            TlsError::Incompatible("a device on the way lowers the TLS version")
        }
        Misbehaved::SelectedUnofferedCipherSuite
        | Misbehaved::SelectedUnusableCipherSuiteForVersion
        | Misbehaved::SelectedUnofferedKxGroup
        | Misbehaved::SelectedUnofferedCompression
        | Misbehaved::SelectedUnofferedApplicationProtocol
        | Misbehaved::SignedKxWithWrongAlgorithm
        | Misbehaved::SignedHandshakeWithUnadvertisedSigScheme => {
            TlsError::Incompatible("the other side selects an algorithm that arcssh does not offer")
        }
        _ => TlsError::Other("the other side violates the TLS protocol".into()),
    }
}

/// The first bytes of another protocol look like a record of an unknown type, version or size.
fn invalid_message(error: &InvalidMessage) -> TlsError {
    match error {
        InvalidMessage::InvalidContentType
        | InvalidMessage::UnknownProtocolVersion
        | InvalidMessage::MessageTooLarge
        | InvalidMessage::InvalidEmptyPayload => TlsError::NotTls,
        InvalidMessage::UnsupportedKeyExchangeAlgorithm(_) | InvalidMessage::UnsupportedCurveType => {
            TlsError::Incompatible("the other side selects a key exchange that is not supported")
        }
        _ => TlsError::Other("the other side sent a malformed TLS message".into()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::OtherError;
    use rustls::pki_types::{ServerName, UnixTime};

    use super::*;

    /// A text that `Debug` wrote has an identifier of several words, or the punctuation of a structure.
    fn is_readable(text: &str) -> bool {
        let inner =
            |word: &str| word.chars().skip(1).any(char::is_uppercase) && word.chars().any(char::is_lowercase);
        let known = ["Ed448"];
        !text.contains(['{', '}', '"', '_'])
            && !text.contains("::")
            && text.split([' ', '(', ')', ',', ':']).all(|word| !inner(word) || known.contains(&word))
    }

    fn other(text: &'static str) -> OtherError {
        OtherError(Arc::from(Box::<dyn std::error::Error + Send + Sync>::from(text)))
    }

    #[test]
    #[expect(deprecated, reason = "verifiers of other systems return these variants")]
    fn each_certificate_error_is_a_sentence() {
        let (time, later) = (UnixTime::since_unix_epoch(std::time::Duration::from_secs(1)), 2);
        let later = UnixTime::since_unix_epoch(std::time::Duration::from_secs(later));
        let sha1 = vec![6, 9, 42, 134, 72, 134, 247, 13, 1, 1, 5, 5, 0];
        let cases = [
            (CertificateError::BadEncoding, "is malformed"),
            (CertificateError::Revoked, "was revoked"),
            (CertificateError::UnhandledCriticalExtension, "extension that is not supported"),
            (CertificateError::UnknownRevocationStatus, "status is unknown"),
            (CertificateError::ExpiredRevocationList, "revocation list"),
            (
                CertificateError::ExpiredRevocationListContext { time: later, next_update: time },
                "1970-01-01T00:00:01Z",
            ),
            (CertificateError::BadSignature, "wrong signature"),
            (CertificateError::UnsupportedSignatureAlgorithm, "not accepted"),
            (
                CertificateError::UnsupportedSignatureAlgorithmContext {
                    signature_algorithm_id: sha1.clone(),
                    supported_algorithms: Vec::new(),
                },
                "is signed with SHA-1, which is not accepted",
            ),
            (
                CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
                    signature_algorithm_id: sha1,
                    public_key_algorithm_id: Vec::new(),
                },
                "does not fit the key",
            ),
            (CertificateError::NotValidForName, "another host"),
            (
                CertificateError::NotValidForNameContext {
                    expected: ServerName::try_from("a.example").unwrap(),
                    presented: vec![r#"DnsName("b.example")"#.into(), "IpAddress(192.0.2.1)".into()],
                },
                "is for b.example and 192.0.2.1",
            ),
            (CertificateError::InvalidPurpose, "another purpose"),
            (
                CertificateError::InvalidPurposeContext {
                    required: rustls::ExtendedKeyPurpose::ServerAuth,
                    presented: vec![rustls::ExtendedKeyPurpose::ClientAuth],
                },
                "another purpose",
            ),
            (CertificateError::InvalidOcspResponse, "OCSP"),
            (CertificateError::ApplicationVerificationFailure, "rejected by this system"),
            (CertificateError::Other(other("CaUsedAsEndEntity")), "is an authority's own"),
            (CertificateError::Other(other("UnsupportedCertVersion")), "X.509 version 3"),
            (CertificateError::Other(other("NameConstraintViolation")), "may not certify"),
            (CertificateError::Other(other("MaximumPathDepthExceeded")), "chain that is too long"),
            (CertificateError::Other(other("TrailingData(Certificate)")), "is malformed"),
            (CertificateError::Other(other("certificate had invalid extensions")), "another purpose"),
            (
                CertificateError::Other(other("the chain is not trusted here")),
                "is rejected by this system (the chain is not trusted here)",
            ),
            (CertificateError::Other(other("Die Sperrfunktion … (os error -2146885613)")), "may be revoked"),
            (
                CertificateError::Other(other(
                    "A certificate was explicitly revoked. (os error -2146762484)",
                )),
                "was revoked",
            ),
            (
                CertificateError::Other(other(
                    "OS Error -2146893816 (FormatMessageW() returned error 317) (os error -2146893816)",
                )),
                "is rejected by this system (Windows error 0x80090008)",
            ),
            (CertificateError::Other(other("Thing { a: 1 }")), "rejected by this system"),
        ];
        for (error, expected) in cases {
            let error = Error::InvalidCertificate(error);
            let TlsError::InvalidCertificate { why, .. } = TlsError::from(&error) else {
                panic!("{error:?}")
            };
            assert!(why.contains(expected) && is_readable(&why), "{error:?}: {why}");
        }
        let chaining =
            "A certificate chain could not be built to a trusted root authority. (os error -2146762486)";
        let error = Error::InvalidCertificate(CertificateError::Other(other(chaining)));
        assert!(matches!(TlsError::from(&error), TlsError::UnknownIssuer { .. }));
        let many: Vec<String> = (0..9).map(|n| format!("DnsName(\"{n}.example\")")).collect();
        assert_eq!(other_names(&many), "is for 0.example, 1.example, 2.example and others");
        let unusual = [r#"DnsName("127.0.0.1")"#, r#"DnsName("")"#].map(str::to_owned);
        assert_eq!(other_names(&unusual), "is for the DNS name 127.0.0.1");
        assert_eq!(other_names(&unusual[1..]), "names no host");
        assert_eq!(other_names(&[]), "names no host");
        for (oid, name) in [(4_u8, "MD5"), (14, "SHA-224"), (10, "RSA-PSS of another kind")] {
            assert_eq!(algorithm(&[6, 9, 42, 134, 72, 134, 247, 13, 1, 1, oid, 5, 0]), name);
        }
        assert_eq!(algorithm(&[]), "an unknown algorithm");
    }

    /// Every alert that exists or that another library could send.
    #[test]
    fn each_alert_is_a_sentence() {
        for number in 0..=255 {
            let error = TlsError::from(&Error::AlertReceived(AlertDescription::from(number)));
            assert!(is_readable(&error.to_string()), "{number}: {error}");
        }
        let alert = |number: u8| TlsError::from(&Error::AlertReceived(AlertDescription::from(number)));
        assert!(matches!(alert(40), TlsError::Incompatible(text) if text.contains("forward secrecy")));
        assert!(matches!(alert(70), TlsError::Incompatible(text) if text.contains("TLS 1.2")));
        assert!(
            matches!(alert(116), TlsError::Rejected(text) if text.contains("certificate of this computer"))
        );
    }

    #[test]
    fn each_error_of_the_protocol_is_a_sentence() {
        use rustls::{ContentType, HandshakeType};
        let errors = [
            Error::InappropriateMessage { expect_types: vec![], got_type: ContentType::Alert },
            Error::InappropriateHandshakeMessage { expect_types: vec![], got_type: HandshakeType::Finished },
            Error::NoCertificatesPresented,
            Error::UnsupportedNameType,
            Error::DecryptError,
            Error::EncryptError,
            Error::HandshakeNotComplete,
            Error::PeerSentOversizedRecord,
            Error::NoApplicationProtocol,
            Error::BadMaxFragmentSize,
            Error::FailedToGetCurrentTime,
            Error::FailedToGetRandomBytes,
            Error::General("failed to call native verifier: Os { code: 5 }".into()),
            Error::Other(other("BadThing")),
            InvalidMessage::InvalidContentType.into(),
            InvalidMessage::MissingData("ServerHello").into(),
            InvalidMessage::UnexpectedMessage("X").into(),
            PeerMisbehaved::SelectedUnofferedCipherSuite.into(),
            PeerMisbehaved::IllegalMiddleboxChangeCipherSpec.into(),
            PeerMisbehaved::AttemptedDowngradeToTls12WhenTls13IsSupported.into(),
            PeerIncompatible::ServerDoesNotSupportTls12Or13.into(),
            PeerIncompatible::NoKxGroupsInCommon.into(),
            PeerIncompatible::ExtendedMasterSecretExtensionRequired.into(),
            Error::InvalidCertRevocationList(rustls::CertRevocationListError::BadSignature),
        ];
        for error in errors {
            let text = TlsError::from(&error).to_string();
            assert!(is_readable(&text), "{error:?}: {text}");
        }
        let text = "the system denies access to its trust store";
        assert_eq!(TlsError::from(&Error::General(text.into())).to_string(), text);
        assert!(matches!(TlsError::from(&Error::from(InvalidMessage::InvalidContentType)), TlsError::NotTls));
    }
}
