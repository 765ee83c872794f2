//! Numbers and strings in the encoding of SSH (RFC 4251 section 5).

use std::fmt;

/// The bytes are not in the encoding of SSH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it is not in the encoding of SSH")
    }
}

/// The bytes that remain to be read.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The number of remaining bytes.
    pub(crate) fn left(&self) -> usize {
        self.0.len()
    }

    /// `byte`.
    pub(crate) fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    /// `boolean`: everything but 0 is true.
    pub(crate) fn boolean(&mut self) -> Result<bool, Malformed> {
        Ok(self.byte()? != 0)
    }

    /// `uint32`.
    pub(crate) fn uint32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(*self.array()?))
    }

    /// `uint64`.
    pub(crate) fn uint64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(*self.array()?))
    }

    /// `string`.
    pub(crate) fn string(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.uint32()?.try_into().map_err(|_| Malformed)?;
        let (string, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(string)
    }

    /// `string` in UTF-8.
    pub(crate) fn text(&mut self) -> Result<&'a str, Malformed> {
        str::from_utf8(self.string()?).map_err(|_| Malformed)
    }

    /// Positive `mpint` without leading zeros.
    pub(crate) fn positive(&mut self) -> Result<&'a [u8], Malformed> {
        let number = self.string()?;
        if number.first().is_some_and(|first| first & 0x80 != 0) {
            return Err(Malformed); // negative
        }
        let start = number.iter().position(|byte| *byte != 0).ok_or(Malformed)?;
        Ok(&number[start..])
    }

    /// Fails if bytes remain.
    pub(crate) fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }

    fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], Malformed> {
        let (array, rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = rest;
        Ok(array)
    }
}

/// Appends a `string`.
pub(crate) fn put_string(to: &mut Vec<u8>, string: &[u8]) {
    let length = u32::try_from(string.len()).expect("strings of arcssh are far shorter than 4 GiB");
    to.extend_from_slice(&length.to_be_bytes());
    to.extend_from_slice(string);
}

/// Appends a positive `mpint` from its bytes without leading zeros.
pub(crate) fn put_positive(to: &mut Vec<u8>, number: &[u8]) {
    let sign: &[u8] = if number.first().is_some_and(|first| first & 0x80 != 0) { &[0] } else { &[] };
    put_string(to, &[sign, number].concat());
}
