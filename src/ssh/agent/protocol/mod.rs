//! The protocol of an agent for one certificate (draft-ietf-sshm-ssh-agent; OpenSSH's PROTOCOL.agent), from one message
//! to its answer. An unknown message fails, and the agent signs logins only.

use crate::ssh::certificate::Certificate;
use crate::ssh::rsa_key::{KeyPair, SignatureAlgorithm};
use crate::ssh::wire::{Malformed, Reader, put_string};

/// Message numbers (draft-ietf-sshm-ssh-agent, "Message numbers").
const FAILURE: u8 = 5;
const SUCCESS: u8 = 6;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
const EXTENSION: u8 = 27;
/// Flags of a request to sign. Without a flag, the request is for SHA-1.
const RSA_SHA2_256: u32 = 2;
const RSA_SHA2_512: u32 = 4;
/// The extension by which ssh, since 8.9, names the connection that a socket is for (PROTOCOL.agent section 1).
const SESSION_BIND: &[u8] = b"session-bind@openssh.com";
/// SSH_MSG_USERAUTH_REQUEST (RFC 4252 section 6), and the methods whose requests are signed (RFC 4252 section 7 and
/// OpenSSH's PROTOCOL section 3.1).
const USERAUTH_REQUEST: u8 = 50;
const PUBLICKEY: &[u8] = b"publickey";
const PUBLICKEY_HOSTBOUND: &[u8] = b"publickey-hostbound-v00@openssh.com";

/// The answer is SSH_AGENT_FAILURE.
struct Failure;

impl From<Malformed> for Failure {
    fn from(_: Malformed) -> Self {
        Self
    }
}

/// The connection that a client authenticates, as far as it has named it.
#[derive(Default)]
pub(super) enum Session {
    /// The client has named none: ssh before 8.9, or another program.
    #[default]
    Unknown,
    /// The connection with this session ID.
    Bound(Vec<u8>),
    /// The socket is forwarded to another machine, which sends the requests.
    Forwarded,
}

impl Session {
    fn is_forwarded(&self) -> bool {
        matches!(self, Self::Forwarded)
    }

    /// Applies a binding. Its signature needs no check, because a binding only restricts the client.
    fn bind(&mut self, mut message: Reader<'_>) -> Result<(), Failure> {
        let (_host_key, id, _signature) = (message.string()?, message.string()?, message.string()?);
        let forwarded = message.boolean()?;
        message.end()?;
        match self {
            _ if forwarded => *self = Self::Forwarded,
            Self::Unknown => *self = Self::Bound(id.to_vec()),
            Self::Bound(_) => return Err(Failure),
            Self::Forwarded => {}
        }
        Ok(())
    }

    fn allows(&self, id: &[u8]) -> bool {
        match self {
            Self::Unknown => true,
            Self::Bound(bound) => bound == id,
            Self::Forwarded => false,
        }
    }
}

/// The key and certificate of the agent.
pub(super) struct Identity {
    key: KeyPair,
    certificate: Certificate,
}

impl Identity {
    pub(super) fn new(key: KeyPair, certificate: Certificate) -> Self {
        Self { key, certificate }
    }

    /// Returns the answer with its length. Message and answer begin with their numbers.
    pub(super) fn answer(&self, session: &mut Session, message: &[u8]) -> Vec<u8> {
        let answer = self.answer_to(session, Reader::new(message)).unwrap_or_else(|Failure| vec![FAILURE]);
        let mut framed = Vec::new();
        put_string(&mut framed, &answer);
        framed
    }

    fn answer_to(&self, session: &mut Session, mut message: Reader<'_>) -> Result<Vec<u8>, Failure> {
        match message.byte()? {
            REQUEST_IDENTITIES => {
                message.end()?;
                Ok(self.identities(session))
            }
            SIGN_REQUEST => self.signature(session, message),
            EXTENSION if message.string()? == SESSION_BIND => {
                session.bind(message)?;
                Ok(vec![SUCCESS])
            }
            _ => Err(Failure),
        }
    }

    /// Lists the certificate, never the plain key. Another machine gets an empty list.
    fn identities(&self, session: &Session) -> Vec<u8> {
        let mut answer = vec![IDENTITIES_ANSWER];
        let count = if session.is_forwarded() { 0_u32 } else { 1 };
        answer.extend_from_slice(&count.to_be_bytes());
        if count > 0 {
            put_string(&mut answer, self.certificate.blob());
            put_string(&mut answer, b"arcssh");
        }
        answer
    }

    fn signature(&self, session: &Session, mut message: Reader<'_>) -> Result<Vec<u8>, Failure> {
        let (identity, data, flags) = (message.string()?, message.string()?, message.uint32()?);
        message.end()?;
        if identity != self.certificate.blob() || !self.is_login(session, data)? {
            return Err(Failure);
        }
        let signature = self.key.sign(data, algorithm(flags)?).ok_or(Failure)?;
        let mut answer = vec![SIGN_RESPONSE];
        put_string(&mut answer, &signature);
        Ok(answer)
    }

    /// Returns whether the data is a request to log in to the server of this session with the certificate.
    fn is_login(&self, session: &Session, data: &[u8]) -> Result<bool, Malformed> {
        let mut data = Reader::new(data);
        let (id, number) = (data.string()?, data.byte()?);
        let (_user, service, method) = (data.string()?, data.string()?, data.string()?);
        let signed = data.byte()? == 1; // RFC 4251 section 5: applications store no other value than 1 for true
        let (_algorithm, identity) = (data.string()?, data.string()?);
        if method == PUBLICKEY_HOSTBOUND {
            data.string()?;
        }
        data.end()?;
        let is_publickey = number == USERAUTH_REQUEST
            && service == b"ssh-connection"
            && [PUBLICKEY, PUBLICKEY_HOSTBOUND].contains(&method);
        Ok(is_publickey && signed && identity == self.certificate.blob() && session.allows(id))
    }
}

fn algorithm(flags: u32) -> Result<SignatureAlgorithm, Failure> {
    match flags {
        flags if flags & RSA_SHA2_256 != 0 => Ok(SignatureAlgorithm::Sha256),
        flags if flags & RSA_SHA2_512 != 0 => Ok(SignatureAlgorithm::Sha512),
        _ => Err(Failure),
    }
}

#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod tests;
