//! The secp384r1 key share of the first ClientHello, which is ready when the TCP connection is.
//!
//! ring needs half a millisecond for the key pair, more than for all of a handshake with X25519.

use std::sync::{Mutex, OnceLock, PoisonError};

use rustls::crypto::ring::kx_group::SECP384R1;
use rustls::crypto::{ActiveKeyExchange, SupportedKxGroup};
use rustls::{Error, NamedGroup};

/// secp384r1 with a first key pair from another thread. It is used once.
#[derive(Debug)]
pub(super) struct EarlySecp384r1;

static FIRST: OnceLock<Mutex<Option<Box<dyn ActiveKeyExchange>>>> = OnceLock::new();

/// Generates the first key pair. A connection that starts meanwhile waits for it.
pub(super) fn generate() {
    FIRST.get_or_init(|| Mutex::new(SECP384R1.start().ok()));
}

impl SupportedKxGroup for EarlySecp384r1 {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        generate();
        let first = FIRST.get().and_then(|first| first.lock().unwrap_or_else(PoisonError::into_inner).take());
        first.map_or_else(|| SECP384R1.start(), Ok)
    }

    fn name(&self) -> NamedGroup {
        SECP384R1.name()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_handshake_has_a_key_pair_of_its_own() {
        let shares: Vec<Vec<u8>> =
            (0..3).map(|_| EarlySecp384r1.start().unwrap().pub_key().to_vec()).collect();
        assert!(shares.iter().all(|share| share.len() == 97));
        assert!(shares[0] != shares[1] && shares[1] != shares[2] && shares[0] != shares[2]);
        assert_eq!(EarlySecp384r1.start().unwrap().group(), NamedGroup::secp384r1);
    }
}
