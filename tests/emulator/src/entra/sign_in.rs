//! Sign-in of the user: authorization endpoint, device codes and refresh tokens.
//!
//! Microsoft Learn, "OAuth 2.0 authorization code flow" and "OAuth 2.0 device authorization grant flow" on the Microsoft
//! identity platform. The authorization endpoint has no login page: it signs the user in at once, unless a test denies
//! it.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hyper::header::{HeaderValue, LOCATION};
use ring::digest;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::encoding::{Parameters, encode};
use crate::entra::error::{self, EntraError, escaped, html, invalid_grant, malformed, missing};
use crate::journal::lock;
use crate::server::Answer;

/// "Authorization codes are short lived, typically they expire after about 10 minutes" (code flow).
const CODE_LIFETIME: Duration = Duration::from_secs(600);
/// `expires_in` of a device code (device flow, the documented example).
const DEVICE_LIFETIME: Duration = Duration::from_secs(900);
/// The page for user codes (device flow).
const VERIFICATION_URI: &str = "https://microsoft.com/devicelogin";
/// The letters of user codes, without those that are easy to confuse.
const USER_CODE_LETTERS: &[u8; 24] = b"ABCDEFGHJKLMNPQRSTUVWXYZ";

/// The error with which Entra ID rejects refresh tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshRefusal {
    /// An administrator or a new password revoked them: `invalid_grant`, AADSTS50173.
    Revoked,
    /// The tokens were not used for 90 days: `invalid_grant`, AADSTS700082.
    Inactive,
    /// A policy requires a second factor: `interaction_required`, AADSTS50076. A new sign-in has it.
    SecondFactor,
}

/// A sign-in for which a client can redeem tokens.
#[derive(Clone, Debug)]
pub(crate) struct SignIn {
    pub(crate) client: String,
    pub(crate) tenant: &'static str,
    /// The scope of the request.
    pub(crate) scope: String,
    /// Whether the request contained claims, so that the user used a second factor.
    pub(crate) has_claims: bool,
}

/// All sign-ins and refresh tokens.
pub(crate) struct SignIns {
    /// The polling interval of device codes.
    interval: Duration,
    /// The user's decision on a new device code.
    initial_decision: Decision,
    codes: Mutex<HashMap<String, Code>>,
    devices: Mutex<Vec<Device>>,
    refresh_tokens: Mutex<HashMap<String, RefreshToken>>,
    denied: Mutex<usize>,
}

struct Code {
    sign_in: SignIn,
    redirect_uri: String,
    challenge: String,
    issued: Instant,
    redeemed: bool,
}

struct Device {
    sign_in: SignIn,
    device_code: String,
    user_code: String,
    polled: Option<Instant>,
    end: Instant,
    decision: Decision,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Pending,
    Approved,
    Declined,
    Expired,
    Redeemed,
}

struct RefreshToken {
    client: String,
    /// Whether the sign-in satisfied a claims challenge.
    has_claims: bool,
    rejection: Option<RefreshRefusal>,
}

impl SignIns {
    pub(crate) fn new(interval: Duration, initial_decision: Decision) -> Self {
        Self {
            interval,
            initial_decision,
            codes: Mutex::default(),
            devices: Mutex::default(),
            refresh_tokens: Mutex::default(),
            denied: Mutex::default(),
        }
    }

    /// Answers the next browser sign-in with `access_denied`.
    pub(crate) fn deny_next(&self) {
        *lock(&self.denied) += 1;
    }

    /// Answers a registered client at the authorization endpoint. The second value is the code, if one was issued.
    pub(crate) fn authorize(
        &self,
        sign_in: SignIn,
        query: &Parameters,
        now: u64,
    ) -> Result<(Answer, Option<String>), EntraError> {
        let field = |name| query.value(name).unwrap_or_default();
        let redirect_uri = redirect_uri(field("redirect_uri"))?;
        let state = query.value("state");
        let mode = field("response_mode");
        let outcome = self.issue_code(sign_in, query);
        let code = outcome.as_ref().ok().cloned();
        let mut answer = match outcome {
            Ok(code) => vec![("code", code), ("session_state", Uuid::new_v4().to_string())],
            Err(error) => {
                vec![("error", error.code.to_owned()), ("error_description", error.text(now))]
            }
        };
        answer.extend(state.map(|state| ("state", state.to_owned())));
        match mode {
            "" | "query" => Ok((redirect(redirect_uri, &answer), code)),
            "form_post" => Ok((form_post(redirect_uri, &answer), code)),
            other => Err(malformed(&format!("response_mode '{other}'"))),
        }
    }

    /// Issues a code, unless the request is invalid or the user denies it.
    fn issue_code(&self, sign_in: SignIn, query: &Parameters) -> Result<String, EntraError> {
        let field = |name| query.value(name).unwrap_or_default();
        if field("response_type") != "code" {
            return Err(EntraError::new(
                "unsupported_response_type",
                70005,
                "The response type is not 'code'.",
            ));
        }
        // Entra recommends S256 and accepts requests without a challenge; RFC 8252 requires it of native applications.
        if field("code_challenge_method") != "S256" || field("code_challenge").len() != 43 {
            return Err(malformed("code_challenge is not one of S256"));
        }
        let mut denied = lock(&self.denied);
        if *denied > 0 {
            *denied -= 1;
            return Err(EntraError::new(
                "access_denied",
                65004,
                "User declined to consent to access the app.",
            ));
        }
        let (code, issued) = (secret("1.AX", 64), Instant::now());
        let (redirect_uri, challenge) =
            (field("redirect_uri").to_owned(), field("code_challenge").to_owned());
        let entry = Code { sign_in, redirect_uri, challenge, issued, redeemed: false };
        lock(&self.codes).insert(code.clone(), entry);
        Ok(code)
    }

    /// `grant_type=authorization_code`.
    pub(crate) fn redeem_code(&self, client: &str, form: &Parameters) -> Result<SignIn, EntraError> {
        let field = |name: &str| form.value(name).ok_or_else(|| missing(name));
        let mut codes = lock(&self.codes);
        let code = codes.get_mut(field("code")?).ok_or_else(|| invalid_grant("the code"))?;
        if code.redeemed {
            let text = "OAuth2 Authorization code was already redeemed, please retry with a new valid code or use an \
                        existing refresh token.";
            return Err(EntraError::new("invalid_grant", 54005, text));
        }
        if code.issued.elapsed() >= CODE_LIFETIME {
            return Err(EntraError::new(
                "invalid_grant",
                70008,
                "The provided authorization code is expired.",
            ));
        }
        if !code.sign_in.client.eq_ignore_ascii_case(client) {
            return Err(invalid_grant("the code was issued to another client"));
        }
        if field("redirect_uri")? != code.redirect_uri {
            let text = "The reply address does not match the reply address provided when requesting \
                        Authorization code.";
            return Err(EntraError::new("invalid_client", 500_112, text));
        }
        let verifier = digest::digest(&digest::SHA256, field("code_verifier")?.as_bytes());
        if URL_SAFE_NO_PAD.encode(verifier) != code.challenge {
            let text =
                "The Code_Verifier does not match the code_challenge supplied in the authorization request.";
            return Err(EntraError::new("invalid_grant", 501_481, text));
        }
        code.redeemed = true;
        Ok(code.sign_in.clone())
    }

    /// Answers at the device authorization endpoint. The second value is the device code.
    pub(crate) fn begin_device(&self, sign_in: SignIn) -> (Value, String) {
        let (device_code, user_code) = (secret("DAQ", 96), user_code());
        let text = format!(
            "To sign in, use a web browser to open the page {VERIFICATION_URI} and enter the code {user_code} to \
             authenticate."
        );
        let body = json!({
            "user_code": user_code, "device_code": device_code, "verification_uri": VERIFICATION_URI,
            "expires_in": DEVICE_LIFETIME.as_secs(), "interval": self.interval.as_secs(), "message": text,
        });
        lock(&self.devices).push(Device {
            sign_in,
            device_code: device_code.clone(),
            user_code,
            polled: None,
            end: Instant::now() + DEVICE_LIFETIME,
            decision: self.initial_decision,
        });
        (body, device_code)
    }

    pub(crate) fn pending_devices(&self) -> Vec<String> {
        let devices = lock(&self.devices);
        let pending = devices.iter().filter(|device| device.decision == Decision::Pending);
        pending.map(|device| device.user_code.clone()).collect()
    }

    /// Records the user's decision. Returns whether the user code exists.
    pub(crate) fn decide(&self, user_code: &str, decision: Decision) -> bool {
        let mut devices = lock(&self.devices);
        let found = devices.iter_mut().find(|device| device.user_code.eq_ignore_ascii_case(user_code));
        found.map(|device| device.decision = decision).is_some()
    }

    /// `grant_type=urn:ietf:params:oauth:grant-type:device_code`: one poll.
    pub(crate) fn redeem_device(&self, client: &str, form: &Parameters) -> Result<SignIn, EntraError> {
        let code = form.value("device_code").ok_or_else(|| missing("device_code"))?;
        let mut devices = lock(&self.devices);
        let device = devices
            .iter_mut()
            .find(|device| device.device_code == code && device.sign_in.client.eq_ignore_ascii_case(client));
        let unknown = || EntraError::new("bad_verification_code", 70018, "The device code is not valid.");
        let device = device.ok_or_else(unknown)?;
        let early = device.polled.replace(Instant::now()).is_some_and(|at| at.elapsed() < self.interval);
        if device.end <= Instant::now() {
            device.decision = Decision::Expired;
        }
        match device.decision {
            Decision::Expired => Err(EntraError::new("expired_token", 70019, "The device code has expired.")),
            // RFC 8628, section 3.5. No source has the number.
            _ if early => Err(EntraError::new("slow_down", 70016, "The device code is polled too often.")),
            Decision::Pending => {
                let text = "OAuth 2.0 device flow error. Authorization is pending. Continue polling.";
                Err(EntraError::new("authorization_pending", 70016, text))
            }
            // The code is in Microsoft Learn, "device authorization grant". No source has the number.
            Decision::Declined => {
                let text = "User declined to consent to access the app.";
                Err(EntraError::new("authorization_declined", 65004, text))
            }
            Decision::Redeemed => Err(invalid_grant("the device code was already redeemed")),
            Decision::Approved => {
                device.decision = Decision::Redeemed;
                Ok(device.sign_in.clone())
            }
        }
    }

    /// Issues a refresh token. Earlier ones stay valid: "Refresh tokens aren't revoked when used to acquire new access
    /// tokens" (Microsoft Learn, "Refresh tokens in the Microsoft identity platform").
    pub(crate) fn refresh_token(&self, client: &str, has_claims: bool) -> String {
        let token = secret("1.AX0A", 400);
        let entry = RefreshToken { client: client.to_owned(), has_claims, rejection: None };
        lock(&self.refresh_tokens).insert(token.clone(), entry);
        token
    }

    /// Rejects all refresh tokens issued so far.
    pub(crate) fn refuse_refresh_tokens(&self, rejection: RefreshRefusal) {
        lock(&self.refresh_tokens).values_mut().for_each(|token| token.rejection = Some(rejection));
    }

    /// `grant_type=refresh_token`. A token is bound to its client and user, not to a tenant or a resource. Requested claims
    /// need a sign-in that had them. Returns whether it had.
    pub(crate) fn check_refresh_token(&self, client: &str, form: &Parameters) -> Result<bool, EntraError> {
        let token = form.value("refresh_token").ok_or_else(|| missing("refresh_token"))?;
        let tokens = lock(&self.refresh_tokens);
        let known = tokens.get(token).filter(|token| token.client.eq_ignore_ascii_case(client));
        let known = known.ok_or_else(|| invalid_grant("the refresh token"))?;
        match known.rejection {
            None if form.value("claims").is_some() && !known.has_claims => {
                Err(RefreshRefusal::SecondFactor.error())
            }
            None => Ok(known.has_claims),
            Some(rejection) => Err(rejection.error()),
        }
    }
}

impl RefreshRefusal {
    fn error(self) -> EntraError {
        match self {
            Self::Revoked => {
                let text = "The provided grant has expired due to it being revoked, a fresh auth token is needed. The \
                            user might have changed or reset their password.";
                EntraError::new("invalid_grant", 50173, text).suberror("bad_token")
            }
            Self::Inactive => {
                let text = "The refresh token has expired due to inactivity. The token was inactive for 90.00:00:00.";
                EntraError::new("invalid_grant", 700_082, text).suberror("bad_token")
            }
            Self::SecondFactor => {
                let text = "Due to a configuration change made by your administrator, or because you moved to a new \
                            location, you must use multi-factor authentication to access the resource.";
                EntraError::new("interaction_required", 50076, text).suberror("basic_action")
            }
        }
    }
}

/// Checks the redirect URI. Both public clients have `http://localhost`, with any port; 127.0.0.1 is rejected (MSAL
/// application.py).
fn redirect_uri(uri: &str) -> Result<&str, EntraError> {
    let rest = uri.strip_prefix("http://localhost").map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    let registered = match rest.map(|rest| rest.strip_prefix(':').unwrap_or(rest)) {
        Some("") => true,
        Some(port) => port.parse::<u16>().is_ok(),
        None => false,
    };
    let text =
        || format!("The redirect URI '{uri}' specified in the request does not match the redirect URIs.");
    if registered { Ok(uri) } else { Err(EntraError::new("invalid_request", 50011, text())) }
}

fn redirect(uri: &str, fields: &[(&str, String)]) -> Answer {
    let query: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
    let mut answer = error::html(302, "");
    if let Ok(location) = HeaderValue::try_from(format!("{uri}?{}", query.join("&"))) {
        answer.headers_mut().insert(LOCATION, location);
    }
    answer
}

/// A page whose form the browser posts without user action (OAuth 2.0 Form Post Response Mode).
fn form_post(uri: &str, fields: &[(&str, String)]) -> Answer {
    let input = |(name, value): &(&str, String)| {
        format!("<input type=\"hidden\" name=\"{name}\" value=\"{}\" />", escaped(value))
    };
    let inputs: String = fields.iter().map(input).collect();
    html(
        200,
        &format!(
            "<html><head><title>Working...</title></head><body><form method=\"POST\" name=\"hiddenform\" \
             action=\"{}\">{inputs}<noscript><input type=\"submit\" value=\"Submit\" /></noscript></form>\
             <script language=\"javascript\">document.forms[0].submit();</script></body></html>",
            escaped(uri)
        ),
    )
}

/// Random text with the start of Entra's codes and tokens.
fn secret(start: &str, bytes: usize) -> String {
    format!("{start}{}", URL_SAFE_NO_PAD.encode(random(bytes)))
}

fn user_code() -> String {
    random(9)
        .iter()
        .map(|byte| USER_CODE_LETTERS[usize::from(*byte) % USER_CODE_LETTERS.len()] as char)
        .collect()
}

fn random(bytes: usize) -> Vec<u8> {
    let mut random = vec![0; bytes];
    SystemRandom::new().fill(&mut random).expect("the system has random numbers");
    random
}
