//! The sign-in by browser: Entra ID sends the authorization code to a port of this machine (RFC 8252, section 7.3).
//!
//! What protects it from other users of the machine:
//! - arcssh holds the port on both loopback addresses, so no other process gets the code;
//! - a code is of use only with the verifier, which stays in this process (PKCE, RFC 7636);
//! - an answer counts only with the state of this sign-in. State and challenge are in the authorization URL, and every user
//!   can read the command line of a browser. The browser is therefore started with a link to arcssh, which redirects to
//!   the URL. A file with mode 0600 would hide it as well, but browsers in a sandbox (snap, Flatpak) cannot read one.
//!   Another user who reads the link in the command line and opens it first is turned away by the owner of their socket.
//!   Where the system shows no owner, the link works once, and a second request ends the sign-in.

mod loopback;

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::time::Duration;

use anyhow::{Context, Error, Result};
use azure_core::http::Url;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, LOCATION, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tracing::{debug, info};

use crate::azure::entra::{EntraError, address};
use crate::azure::login::browser::loopback::{Loopback, Peer};
use crate::azure::login::{SIGN_IN_TIMEOUT, SignIn, SignedIn};

/// The longest request head and the longest body, in bytes. A code takes one or two thousand characters.
const MAX_REQUEST: usize = 64 * 1024;

/// How many connections are open at a time. Browsers open a handful, some of them ahead and silent.
const MAX_CONNECTIONS: usize = 128;

/// How long a connection may stay silent before its request is complete.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection may last in all.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// The pause after a connection that the system could not give, for want of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// What the user reads in the browser.
const RECEIVED: &str =
    "arcssh has the answer. Go back to the terminal: it shows the account. You can close this page.";
const REFUSED: &str =
    "You are not signed in. Go back to the terminal: it shows the reason. You can close this page.";
const NOT_OURS: &str = "This is no answer to the sign-in that arcssh waits for.";
const LINK_USED: &str =
    "This link works once, and it was used before. arcssh has stopped the sign-in: go back to the terminal.";

/// The link for the browser was requested twice, where the system does not show by which users.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the link for the browser was opened twice, so another user of this machine may know it")]
struct LinkUsed;

impl SignIn<'_> {
    /// Signs in with a browser (authorization code with PKCE, RFC 7636). `open` gets the authorization URL, which only
    /// this user may see, and the link to start a browser with.
    ///
    /// # Errors
    /// Entra ID or the user refuses, or no answer comes in time.
    pub(crate) async fn by_browser(&self, open: impl FnOnce(&Url, &str)) -> Result<SignedIn> {
        let loopback = Loopback::bind().await.context("no port of the loopback interface is free")?;
        // The host must be `localhost`, with any port; Entra ID rejects 127.0.0.1 (MSAL Python, `application.py`).
        let redirect_uri = format!("http://localhost:{}", loopback.port());
        let (state, verifier, path) = (random()?, random()?, format!("/{}", random()?));
        let url = self.authorization_url(&redirect_uri, &state, &verifier);
        open(&url, &format!("http://127.0.0.1:{}{path}", loopback.port()));
        let pending = Pending::new(loopback.port(), url, path, &state);
        let code = timeout(SIGN_IN_TIMEOUT, pending.answer(&loopback)).await;
        let code =
            code.with_context(|| format!("no answer came within {} s", SIGN_IN_TIMEOUT.as_secs()))??;
        let form = [
            ("grant_type", "authorization_code"),
            ("client_id", self.client_id),
            ("code", &code),
            ("code_verifier", &verifier),
            ("redirect_uri", &redirect_uri),
            ("scope", &self.scope()),
        ];
        self.signed_in(self.entra.post(self.tenant, "token", &form).await?)
    }

    fn authorization_url(&self, redirect_uri: &str, state: &str, verifier: &str) -> Url {
        let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, verifier.as_bytes()));
        let mut url = address(&self.cloud.authority_host, self.tenant, "authorize");
        url.query_pairs_mut().extend_pairs([
            ("client_id", self.client_id),
            ("response_type", "code"),
            ("redirect_uri", redirect_uri),
            ("scope", &self.scope()),
            ("state", state),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
            // A named account needs no choice (Microsoft Learn, "OAuth 2.0 authorization code flow").
            self.account.map_or(("prompt", "select_account"), |name| ("login_hint", name)),
        ]);
        url
    }
}

/// 32 bytes from the system's random source, as text.
fn random() -> Result<String> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).ok().context("the system gives no randomness")?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

type Page = Response<Full<Bytes>>;

/// A sign-in whose answer has not come.
struct Pending {
    /// The values of a Host header that mean this port. A web page on the internet can point a name of its own at the
    /// loopback (DNS rebinding); its requests carry that name.
    hosts: [String; 3],
    url: Url,
    path: String,
    /// The digest of the state: comparing it takes the same time wherever a guess goes wrong.
    state: Vec<u8>,
    link_used: Cell<bool>,
    outcome: RefCell<Option<Result<String>>>,
}

impl Pending {
    fn new(port: u16, url: Url, path: String, state: &str) -> Self {
        let hosts = ["localhost", "127.0.0.1", "[::1]"].map(|host| format!("{host}:{port}"));
        let (link_used, outcome) = (Cell::new(false), RefCell::new(None));
        Self { hosts, url, path, state: hash(state), link_used, outcome }
    }

    /// Serves connections until one of them brings the answer; the code.
    async fn answer(&self, loopback: &Loopback) -> Result<String> {
        let mut connections = FuturesUnordered::new();
        loop {
            tokio::select! {
                accepted = loopback.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                    Ok(stream) => connections.push(self.serve(stream)),
                    Err(error) => {
                        debug!("no connection: {error}");
                        sleep(ACCEPT_AGAIN).await;
                    }
                },
                Some(()) = connections.next() => {
                    if let Some(outcome) = self.outcome.take() {
                        return outcome;
                    }
                }
            }
        }
    }

    /// Serves one request. The connection of another user is closed unread.
    async fn serve(&self, stream: TcpStream) {
        let peer = Peer::of(&stream);
        if peer == Peer::ForeignEntry {
            info!("closed a connection of another user");
            return;
        }
        let service = service_fn(async |request| Ok::<_, Infallible>(self.respond(peer, request).await));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_header_size(MAX_REQUEST)
            .max_buf_size(MAX_REQUEST)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        if let Ok(Err(error)) = timeout(CONNECTION_TIMEOUT, connection).await {
            debug!("a connection broke: {error}");
        }
    }

    async fn respond(&self, peer: Peer, request: Request<Incoming>) -> Page {
        let is_elsewhere = |target: &Authority| !self.is_ours(target.as_str());
        // The host of the request's target outranks the header (RFC 9112, section 3.2.2).
        if !self.is_addressed(request.headers()) || request.uri().authority().is_some_and(is_elsewhere) {
            return page(StatusCode::BAD_REQUEST, NOT_OURS);
        }
        let is_link = request.uri().path() == self.path;
        if !is_link && request.uri().path() != "/" {
            return page(StatusCode::NOT_FOUND, NOT_OURS);
        }
        match *request.method() {
            Method::GET if is_link => self.redirect(peer),
            Method::GET => self.take(request.uri().query().unwrap_or_default().as_bytes()),
            Method::POST if !is_link => self.take_form(request).await,
            // Programs that open links ask first what is there. It changes nothing.
            Method::HEAD => page(StatusCode::OK, ""),
            _ => {
                let mut page = page(StatusCode::METHOD_NOT_ALLOWED, NOT_OURS);
                page.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
                page
            }
        }
    }

    fn is_addressed(&self, headers: &HeaderMap) -> bool {
        let mut hosts = headers.get_all(HOST).iter();
        let (host, second) = (hosts.next().and_then(|host| host.to_str().ok()), hosts.next());
        second.is_none() && host.is_some_and(|host| self.is_ours(host))
    }

    fn is_ours(&self, host: &str) -> bool {
        self.hosts.iter().any(|ours| ours.eq_ignore_ascii_case(host))
    }

    /// Sends the browser on to Entra ID.
    fn redirect(&self, peer: Peer) -> Page {
        if peer == Peer::Unknown && self.link_used.replace(true) {
            self.end(Err(LinkUsed.into()));
            return page(StatusCode::GONE, LINK_USED);
        }
        let mut page = page(StatusCode::FOUND, "");
        if let Ok(location) = HeaderValue::from_str(self.url.as_str()) {
            page.headers_mut().insert(LOCATION, location);
        }
        page
    }

    /// Takes an answer that came as a form (OAuth 2.0 Form Post Response Mode).
    async fn take_form(&self, request: Request<Incoming>) -> Page {
        let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return page(StatusCode::UNSUPPORTED_MEDIA_TYPE, NOT_OURS);
        }
        match Limited::new(request.into_body(), MAX_REQUEST).collect().await {
            Ok(body) => self.take(&body.to_bytes()),
            Err(error) => {
                debug!("no form: {error}");
                page(StatusCode::PAYLOAD_TOO_LARGE, NOT_OURS)
            }
        }
    }

    /// Takes the fields of an answer. Without the state of this sign-in nothing in them counts, an error neither.
    fn take(&self, fields: &[u8]) -> Page {
        let fields: Vec<(String, String)> = form_urlencoded::parse(fields).into_owned().collect();
        let field = |name| only(&fields, name).filter(|value| !value.is_empty());
        if field("state").is_none_or(|state| hash(state) != self.state) {
            return page(StatusCode::BAD_REQUEST, NOT_OURS);
        }
        match (field("code"), field("error")) {
            (Some(code), None) => {
                self.end(Ok(code.to_owned()));
                page(StatusCode::OK, RECEIVED)
            }
            (None, Some(error)) => {
                let description = field("error_description").unwrap_or_default();
                self.end(Err(EntraError::in_browser(&self.url, error, description).into()));
                page(StatusCode::OK, REFUSED)
            }
            _ => page(StatusCode::BAD_REQUEST, NOT_OURS),
        }
    }

    /// Ends the sign-in. The first answer counts.
    fn end(&self, outcome: Result<String, Error>) {
        self.outcome.borrow_mut().get_or_insert(outcome);
    }
}

fn hash(text: &str) -> Vec<u8> {
    digest(&SHA256, text.as_bytes()).as_ref().to_vec()
}

/// The value of a field that is there once.
fn only<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let mut values = fields.iter().filter(|(field, _)| field == name).map(|(_, value)| value.as_str());
    values.next().filter(|_| values.next().is_none())
}

/// A page with one sentence.
fn page(status: StatusCode, sentence: &str) -> Page {
    let body = format!("<!doctype html><meta charset=\"utf-8\"><title>arcssh</title><p>{sentence}</p>\n");
    let mut page = Response::new(Full::new(Bytes::from(body)));
    *page.status_mut() = status;
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        // The link must not reach Entra ID.
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    for (name, value) in headers {
        page.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending() -> Pending {
        let url = "https://login.example/t/oauth2/v2.0/authorize?state=s".parse().unwrap();
        Pending::new(8400, url, "/link".into(), "s")
    }

    #[test]
    fn an_answer_counts_with_the_state_and_one_code_or_one_error() {
        let pending = pending();
        let ignored = [
            "",
            "code=c",
            "code=c&state=",
            "code=c&state=x",
            "code=c&state=s&state=s",
            "code=c&code=d&state=s",
            "state=s",
            "code=&state=s",
            "error=access_denied",
            "error=access_denied&state=x",
        ];
        for fields in ignored {
            assert_eq!(pending.take(fields.as_bytes()).status(), StatusCode::BAD_REQUEST, "{fields}");
            assert!(pending.outcome.borrow().is_none(), "{fields}");
        }
        assert_eq!(pending.take(b"code=a%2Bb&state=s&session_state=1").status(), StatusCode::OK);
        pending.take(b"error=access_denied&state=s");
        assert_eq!(pending.outcome.take().unwrap().unwrap(), "a+b");
        pending.take(b"error=access_denied&error_description=AADSTS65004:%20No.&state=s");
        let refusal = pending.outcome.take().unwrap().unwrap_err();
        assert_eq!(refusal.downcast_ref::<EntraError>().unwrap().description, "AADSTS65004: No.");
    }

    #[test]
    fn a_request_for_another_host_is_not_addressed_to_the_sign_in() {
        let is_addressed = |hosts: &[&str]| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(HOST, host.parse().unwrap());
            }
            pending().is_addressed(&headers)
        };
        for host in ["localhost:8400", "LocalHost:8400", "127.0.0.1:8400", "[::1]:8400"] {
            assert!(is_addressed(&[host]), "{host}");
        }
        for host in ["localhost", "localhost:80", "evil.example:8400", "127.0.0.1.evil.example:8400", ""] {
            assert!(!is_addressed(&[host]), "{host}");
        }
        assert!(!is_addressed(&[]) && !is_addressed(&["localhost:8400", "localhost:8400"]));
    }

    #[test]
    fn a_link_that_users_unknown_open_twice_ends_the_sign_in() {
        let pending = pending();
        for _ in 0..2 {
            assert_eq!(pending.redirect(Peer::Trusted).status(), StatusCode::FOUND);
        }
        let first = pending.redirect(Peer::Unknown);
        assert_eq!(first.status(), StatusCode::FOUND);
        assert_eq!(first.headers()[LOCATION], pending.url.as_str());
        assert!(pending.outcome.borrow().is_none());
        assert_eq!(pending.redirect(Peer::Unknown).status(), StatusCode::GONE);
        assert!(pending.outcome.take().unwrap().unwrap_err().is::<LinkUsed>());
    }
}
