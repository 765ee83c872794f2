//! Shared access signatures: signing, verification, and the relay's errors.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::clock;
use crate::encoding::{Parameters, decode, encode};
use crate::relay::error::RelayError;

/// The start of every token.
const SCHEME: &str = "SharedAccessSignature ";

/// The right of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AccessRight {
    Send,
    Listen,
}

/// A named key with one right: an "authorization rule" of the namespace.
#[derive(Clone, Debug)]
pub(crate) struct SasKey {
    pub(crate) name: String,
    pub(crate) key: String,
    pub(crate) right: AccessRight,
}

impl SasKey {
    /// Generates a key. Its name has the right and the date of today, as `sender20221003` (azure-powershell recorded
    /// session TestGetArcConfig.json).
    pub(crate) fn generate(right: AccessRight, now: u64) -> Self {
        let mut key = [0; 32];
        SystemRandom::new().fill(&mut key).expect("the system has random numbers");
        let role = if right == AccessRight::Send { "sender" } else { "listener" };
        let name = format!("{role}{}", clock::compact_date(now));
        Self { name, key: STANDARD.encode(key), right }
    }

    /// Signs a token for `resource` (`http://host/path/`) that expires at `expires` in Unix seconds.
    pub(crate) fn token(&self, resource: &str, expires: u64) -> String {
        let resource = encode(resource);
        let signature = encode(&STANDARD.encode(self.signature(&resource, &expires.to_string())));
        format!("{SCHEME}sr={resource}&sig={signature}&se={expires}&skn={}", self.name)
    }

    /// HMAC-SHA256 of the encoded resource, a line feed and the expiry, keyed with the *text* of the key
    /// (Microsoft Learn, "Service Bus access control with Shared Access Signatures").
    fn signature(&self, encoded_resource: &str, expires: &str) -> hmac::Tag {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.key.as_bytes());
        hmac::sign(&key, format!("{encoded_resource}\n{expires}").as_bytes())
    }

    fn verifies(&self, token: &Token) -> bool {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.key.as_bytes());
        let signed = format!("{}\n{}", token.encoded_resource, token.expires);
        let Ok(signature) = STANDARD.decode(&token.signature) else { return false };
        hmac::verify(&key, signed.as_bytes(), &signature).is_ok()
    }
}

/// A parsed token. The resource is still encoded, because the signature covers the encoded form.
struct Token {
    encoded_resource: String,
    signature: String,
    expires: String,
    key_name: String,
}

impl Token {
    fn parse(text: &str) -> Option<Self> {
        let fields = text.strip_prefix(SCHEME)?;
        let encoded_resource = fields.split('&').find_map(|field| field.strip_prefix("sr="))?.to_owned();
        let fields = Parameters::from_query(fields);
        let field = |name| fields.value(name).map(str::to_owned);
        Some(Self {
            encoded_resource,
            signature: field("sig")?,
            expires: field("se")?,
            key_name: field("skn")?,
        })
    }
}

/// Returns the signature of a token, raw and percent-encoded as in the token.
pub(crate) fn signature_encodings(token: &str) -> Option<[String; 2]> {
    let signature = Token::parse(token)?.signature;
    let encoded = encode(&signature);
    Some([signature, encoded])
}

/// The requirements that a token must meet.
pub(crate) struct Requirement<'a> {
    /// Hosts and ports of this namespace, in lower case.
    pub(crate) authorities: &'a [String],
    /// The requested path: the name of a hybrid connection, possibly with a suffix.
    pub(crate) path: &'a str,
    pub(crate) right: AccessRight,
    /// Unix time in seconds.
    pub(crate) now: u64,
}

/// Checks `token` and returns its expiry. The texts of the errors are those in public logs, except where a comment says
/// otherwise. No source has the order of the checks.
pub(crate) fn check(
    token: Option<&str>,
    keys: &[SasKey],
    requirement: &Requirement,
) -> Result<u64, RelayError> {
    // The protocol guide has the status of a missing or malformed token, 401, but no text.
    let token = token.ok_or_else(|| RelayError::new(401, "MissingToken: The request carries no token."))?;
    let malformed = || RelayError::new(401, "MalformedToken: The token is malformed.");
    let token = Token::parse(token).ok_or_else(malformed)?;
    let expires: u64 = token.expires.parse().map_err(|_| malformed())?;
    let invalid = || RelayError::new(401, "InvalidSignature: The token has an invalid signature.");
    let key = keys.iter().find(|key| key.name == token.key_name).ok_or_else(invalid)?;
    if !key.verifies(&token) {
        return Err(invalid());
    }
    if expires <= requirement.now {
        return Err(expired(expires));
    }
    if !covers(&decode(&token.encoded_resource), requirement) {
        let text = "InvalidAudience: The authorization header contains a token with a wrong audience.";
        return Err(RelayError::new(401, text));
    }
    if key.right != requirement.right {
        // The text is the protocol guide's description of this error.
        return Err(RelayError::new(
            403,
            "The security token is not valid for this path and for this action.",
        ));
    }
    Ok(expires)
}

/// The text is from azure-sdk-for-go's live tests. No source has the format of the time.
pub(crate) fn expired(expires: u64) -> RelayError {
    let time = clock::timestamp(expires);
    RelayError::new(401, &format!("ExpiredToken: The token is expired. Expiration time: {time}"))
}

/// Returns whether `resource` covers the requested path. A resource covers its path and all paths below it; `/` is the
/// whole namespace.
fn covers(resource: &str, requirement: &Requirement) -> bool {
    let resource = resource.to_ascii_lowercase();
    let Some((_scheme, address)) = resource.split_once("://") else { return false };
    let (authority, entity) = address.split_once('/').unwrap_or((address, ""));
    let entity = entity.trim_end_matches('/');
    let path = requirement.path.to_ascii_lowercase();
    let below = path.strip_prefix(entity).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    requirement.authorities.iter().any(|known| known == authority) && (entity.is_empty() || below)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "microsoft.hybridcompute/machines/3cf2/1664908286977728256/v2";

    fn key() -> SasKey {
        SasKey { name: "sender20221003".into(), key: "c2VjcmV0".into(), right: AccessRight::Send }
    }

    fn checked(token: &str, authority: &str, path: &str, right: AccessRight) -> Result<u64, (u16, String)> {
        let requirement =
            Requirement { authorities: &[authority.to_owned()], path, right, now: 1_700_000_000 };
        check(Some(token), &[key()], &requirement).map_err(|rejection| (rejection.status, rejection.text))
    }

    fn resource() -> String {
        format!("http://127.0.0.1:5671/{NAME}/")
    }

    #[test]
    fn a_signature_matches_a_vector_computed_with_openssl() {
        // printf 'http%%3A%%2F%%2Fns.servicebus.windows.net%%2Fhyco%%2F\n1664912486' |
        //   openssl dgst -sha256 -hmac c2VjcmV0 -binary | base64
        let token = key().token("http://ns.servicebus.windows.net/hyco/", 1_664_912_486);
        assert_eq!(
            token,
            "SharedAccessSignature sr=http%3A%2F%2Fns.servicebus.windows.net%2Fhyco%2F&sig=XqUtrdrX78oBE4l57YHS3yCT51eoEwTcAOIQWM9PsI4%3D&se=1664912486&skn=sender20221003"
        );
    }

    #[test]
    fn a_valid_token_is_accepted_for_its_path_and_below() {
        let token = key().token(&resource(), 4_000_000_000);
        assert_eq!(checked(&token, "127.0.0.1:5671", NAME, AccessRight::Send), Ok(4_000_000_000));
        assert!(checked(&token, "127.0.0.1:5671", &format!("{NAME}/suffix"), AccessRight::Send).is_ok());
    }

    #[test]
    fn each_defect_of_a_token_has_its_own_error() {
        let answer =
            |token: &str, authority, path, right| checked(token, authority, path, right).unwrap_err();
        let good = key().token(&resource(), 4_000_000_000);
        let here = "127.0.0.1:5671";
        let (status, text) = answer(&good.replace("sig=", "sig=A"), here, NAME, AccessRight::Send);
        assert_eq!((status, text.as_str()), (401, "InvalidSignature: The token has an invalid signature."));
        let (status, text) = answer(&good, here, "another", AccessRight::Send);
        assert!(status == 401 && text.starts_with("InvalidAudience: "), "{text}");
        let (status, text) = answer(&good, "elsewhere:1", NAME, AccessRight::Send);
        assert!(status == 401 && text.starts_with("InvalidAudience: "), "{text}");
        let (status, text) = answer(&key().token(&resource(), 1_600_000_000), here, NAME, AccessRight::Send);
        assert!(status == 401 && text.starts_with("ExpiredToken: "), "{text}");
        assert_eq!(answer("SharedAccessSignature sr=x", here, NAME, AccessRight::Send).0, 401);
        assert_eq!(answer(&good, here, NAME, AccessRight::Listen).0, 403);
    }
}
