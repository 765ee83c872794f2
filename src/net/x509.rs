//! Fields of an X.509 certificate (RFC 5280, section 4.1): for messages, and to compare certificates of one file.

/// Tags of DER (ITU-T X.690) in a certificate.
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_IDENTIFIER: u8 = 0x06;
const BIT_STRING: u8 = 0x03;
const VERSION: u8 = 0xa0;
/// The object identifiers 2.5.4.3 and 2.5.4.10 (RFC 5280, appendix A.1).
const COMMON_NAME: [u8; 3] = [0x55, 0x04, 0x03];
const ORGANIZATION: [u8; 3] = [0x55, 0x04, 0x0a];

/// Returns the common name of a certificate's issuer, or its organization.
pub(crate) fn issuer(certificate: &[u8]) -> Option<String> {
    let (name, _) = tagged(SEQUENCE, issuer_and_rest(certificate)?)?;
    attribute(name, COMMON_NAME).or_else(|| attribute(name, ORGANIZATION))
}

/// Fields of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fields<'a> {
    pub(crate) issuer: &'a [u8],
    pub(crate) subject: &'a [u8],
    /// The key in the form of its algorithm, such as `RSAPublicKey` (RFC 3279, section 2.3.1).
    pub(crate) public_key: &'a [u8],
}

/// Returns fields of a certificate.
pub(crate) fn fields(certificate: &[u8]) -> Option<Fields<'_>> {
    let (issuer, rest) = tagged(SEQUENCE, issuer_and_rest(certificate)?)?;
    let (_validity, rest) = tagged(SEQUENCE, rest)?;
    let (subject, rest) = tagged(SEQUENCE, rest)?;
    let (key_info, _) = tagged(SEQUENCE, rest)?;
    let (_algorithm, key) = tagged(SEQUENCE, key_info)?;
    // The first byte is the number of unused bits.
    let public_key = tagged(BIT_STRING, key)?.0.strip_prefix(&[0])?;
    Some(Fields { issuer, subject, public_key })
}

fn issuer_and_rest(certificate: &[u8]) -> Option<&[u8]> {
    let (certificate, _) = tagged(SEQUENCE, certificate)?;
    let (to_be_signed, _) = tagged(SEQUENCE, certificate)?;
    let rest = tagged(VERSION, to_be_signed).map_or(to_be_signed, |(_, rest)| rest);
    let (_serial_number, _, rest) = value(rest)?;
    let (_algorithm, rest) = tagged(SEQUENCE, rest)?;
    Some(rest)
}

/// Returns one attribute of a name, which is a sequence of sets of pairs: identifier and text.
fn attribute(mut name: &[u8], identifier: [u8; 3]) -> Option<String> {
    while let Some((set, rest)) = tagged(SET, name) {
        let (pair, _) = tagged(SEQUENCE, set)?;
        let (other, text) = tagged(OBJECT_IDENTIFIER, pair)?;
        if other == identifier {
            return value(text).map(|(_, text, _)| String::from_utf8_lossy(text).into_owned());
        }
        name = rest;
    }
    None
}

/// Returns the first value, which must have this tag, and the rest.
fn tagged(tag: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    value(bytes).filter(|(other, ..)| *other == tag).map(|(_, value, rest)| (value, rest))
}

/// Returns the tag and the bytes of the first value, and the rest. The number of its digits precedes a length above 127.
fn value(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f).min(4))?;
        (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
    };
    let (value, rest) = rest.split_at_checked(length)?;
    Some((tag, value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let value = parts.concat();
        let length = u8::try_from(value.len()).unwrap();
        if length < 0x80 {
            [&[tag, length], &value[..]].concat()
        } else {
            [&[tag, 0x81, length], &value[..]].concat()
        }
    }

    fn name_part(identifier: [u8; 3], text: &str) -> Vec<u8> {
        let pair = tlv(SEQUENCE, &[&tlv(OBJECT_IDENTIFIER, &[&identifier]), &tlv(0x0c, &[text.as_bytes()])]);
        tlv(SET, &[&pair])
    }

    /// The start of a certificate: version, serial number, algorithm, issuer.
    fn certificate(version: &[u8], parts: &[Vec<u8>]) -> Vec<u8> {
        let name = tlv(SEQUENCE, &parts.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let serial_number = tlv(0x02, &[&[7; 20]]);
        tlv(SEQUENCE, &[&tlv(SEQUENCE, &[version, &serial_number, &tlv(SEQUENCE, &[]), &name, &[0; 40]])])
    }

    #[test]
    fn the_issuer_is_a_common_name_or_an_organization() {
        let organization = name_part(ORGANIZATION, "Example Inspection");
        let parts = [organization.clone(), name_part(COMMON_NAME, "Example Root")];
        let version = tlv(VERSION, &[&tlv(0x02, &[&[2]])]);
        assert_eq!(issuer(&certificate(&version, &parts)).as_deref(), Some("Example Root"));
        assert_eq!(issuer(&certificate(&[], &parts)).as_deref(), Some("Example Root"));
        assert_eq!(issuer(&certificate(&version, &[organization])).as_deref(), Some("Example Inspection"));
        assert_eq!(issuer(&certificate(&version, &[])), None);
    }

    proptest! {
        #[test]
        fn invalid_certificates_cause_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = (issuer(&bytes), fields(&bytes));
        }
    }
}
