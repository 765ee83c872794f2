//! The sign-in with a browser: Entra ID sends the authorization code to a port of this machine (RFC 8252, section 7.3).
//!
//! Protection against other users of the machine:
//! - arcssh listens on the port of both loopback addresses, so no other process receives the code.
//! - Entra ID accepts a code only with the verifier, which never leaves this process (PKCE, RFC 7636).
//! - arcssh accepts an authorization response only with the state of this sign-in. State and challenge are in the
//!   authorization URL, and every user can read the command line of a browser. arcssh therefore starts the browser with
//!   a link to itself and redirects to the URL. A file with mode 0600 would hide the URL too, but browsers in a sandbox
//!   (snap, Flatpak) cannot read one.
//! - Another user can read the link in the command line and open it first. arcssh rejects such a request by the owner
//!   of its socket. If the system shows no owner, the link works once, and a second request stops the sign-in.

mod loopback;

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::time::Duration;

use anyhow::Context as _;
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
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tracing::{debug, info};

use crate::azure::entra::{Rejection, address};
use crate::azure::login::browser::loopback::{Loopback, Peer};
use crate::azure::login::{LoginError, SIGN_IN_TIMEOUT, SignIn, SignedIn};

/// The longest request head and the longest body, in bytes. A code takes one or two thousand characters.
const MAX_REQUEST: usize = 64 * 1024;

/// The most open connections. Browsers open a few, some of them in advance and without a request.
const MAX_CONNECTIONS: usize = 128;

/// Time limit for a request head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Time limit for a connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// The pause after a failed `accept`, for example when no file descriptors are left.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// The sentences that the browser shows.
const RECEIVED: &str = "arcssh has received the response. Go back to the terminal: it shows the account. You can close this page.";
const REJECTED: &str =
    "You are not signed in. Go back to the terminal: it shows the reason. You can close this page.";
const UNEXPECTED: &str = "This is not a response to the sign-in of arcssh.";
const LINK_USED: &str =
    "This link works once, and was used before. arcssh has stopped the sign-in. Go back to the terminal.";

/// The error if the link for the browser was requested twice, and the system does not show by which users.
const OPENED_TWICE: &str =
    "the link for the browser was opened twice, so another user of this computer may know it";

impl SignIn<'_> {
    /// Signs in with a browser (authorization code with PKCE, RFC 7636). `open` gets the authorization URL, which only
    /// this user may see, and the link for the browser's command line. `pasted` returns the next line that the user types,
    /// which can be the address of the authorization response: a browser on another computer cannot open it.
    ///
    /// # Errors
    /// Entra ID or the user rejects the sign-in, or the time limit expires.
    pub(crate) async fn by_browser(
        &self,
        open: impl FnOnce(&Url, &str),
        pasted: impl AsyncFn() -> String,
        note: impl Fn(Problem),
    ) -> Result<SignedIn, LoginError> {
        let loopback = Loopback::bind().await.context("no port of the loopback interface is free")?;
        // The host must be `localhost`, with any port; Entra ID rejects 127.0.0.1 (MSAL Python, `application.py`).
        let redirect_uri = format!("http://localhost:{}", loopback.port());
        let state = random()?;
        let verifier = random()?;
        let path = format!("/{}", random()?);
        let url = self.authorization_url(&redirect_uri, &state, &verifier);
        open(&url, &format!("http://127.0.0.1:{}{path}", loopback.port()));
        let pending = Pending::new(loopback.port(), url, path, &state);
        let code = timeout(SIGN_IN_TIMEOUT, pending.wait(&loopback, pasted, note)).await;
        let code = code
            .ok()
            .with_context(|| format!("no response came within {} s", SIGN_IN_TIMEOUT.as_secs()))??;
        let scope = self.scope();
        let mut form = vec![
            ("grant_type", "authorization_code"),
            ("client_id", self.client_id),
            ("code", &code),
            ("code_verifier", &verifier),
            ("redirect_uri", &redirect_uri),
            ("scope", &scope),
        ];
        form.extend(self.claims());
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
            // With a login hint, Entra ID skips the account selection (Microsoft Learn, "OAuth 2.0 authorization code
            // flow").
            self.account.map_or(("prompt", "select_account"), |name| ("login_hint", name)),
        ]);
        url.query_pairs_mut().extend_pairs(self.claims());
        url
    }
}

/// Returns 32 random bytes in base64.
fn random() -> Result<String, LoginError> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).ok().context("the system does not provide random numbers")?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

type Page = Response<Full<Bytes>>;

/// Why an authorization response does not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The browser uses TLS for this port.
    Https(u16),
    /// The user typed something else than the address of the response.
    NotTheResponse,
}

/// The first byte of a ClientHello, and an alert that the protocol version is not supported (RFC 8446, sections 5.1 and 6.2).
const HANDSHAKE: u8 = 0x16;
const PROTOCOL_VERSION: [u8; 7] = [0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x46];

/// A sign-in that waits for the authorization response.
struct Pending {
    /// The accepted values of a Host header. The name of a web page on the internet can resolve to the loopback address
    /// (DNS rebinding); requests of that page contain its name.
    hosts: [String; 3],
    /// The authorization URL.
    url: Url,
    /// The path of the link.
    path: String,
    /// The digest of the state, so that the time of a comparison reveals nothing about it.
    state: Vec<u8>,
    link_used: Cell<bool>,
    /// Whether the browser uses TLS.
    uses_https: Cell<bool>,
    outcome: RefCell<Option<Result<String, LoginError>>>,
}

impl Pending {
    fn new(port: u16, url: Url, path: String, state: &str) -> Self {
        let hosts = ["localhost", "127.0.0.1", "[::1]"].map(|host| format!("{host}:{port}"));
        Self {
            hosts,
            url,
            path,
            state: hash(state),
            link_used: Cell::new(false),
            uses_https: Cell::new(false),
            outcome: RefCell::new(None),
        }
    }

    /// Serves connections until one of them, or the user, delivers the authorization response, and returns the code.
    async fn wait(
        &self,
        loopback: &Loopback,
        pasted: impl AsyncFn() -> String,
        note: impl Fn(Problem),
    ) -> Result<String, LoginError> {
        let mut connections = FuturesUnordered::new();
        let mut https = Some(Problem::Https(loopback.port()));
        loop {
            tokio::select! {
                accepted = loopback.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                    Ok(stream) => connections.push(self.serve(stream)),
                    Err(error) => {
                        debug!("cannot accept a connection: {error}");
                        sleep(ACCEPT_RETRY_DELAY).await;
                    }
                },
                Some(()) = connections.next() => {
                    if let Some(problem) = https.take_if(|_| self.uses_https.get()) {
                        note(problem);
                    }
                }
                line = pasted() => {
                    if !line.trim().is_empty() && self.receive(query(&line)).status() != StatusCode::OK {
                        note(Problem::NotTheResponse);
                    }
                }
            }
            if let Some(outcome) = self.outcome.take() {
                return outcome;
            }
        }
    }

    /// Serves one request. Closes a connection of another user without reading it.
    async fn serve(&self, mut stream: TcpStream) {
        let peer = Peer::of(&stream);
        if peer == Peer::OtherUser {
            info!("closed a connection of another user");
            return;
        }
        let mut first = [0];
        let Ok(Ok(_)) = timeout(HEAD_TIMEOUT, stream.peek(&mut first)).await else { return };
        if first == [HANDSHAKE] {
            info!("a browser uses TLS for the redirect URI");
            self.uses_https.set(true);
            let _ = stream.write_all(&PROTOCOL_VERSION).await;
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
            debug!("a connection failed: {error}");
        }
    }

    async fn respond(&self, peer: Peer, request: Request<Incoming>) -> Page {
        let is_other = |target: &Authority| !self.is_accepted_host(target.as_str());
        // A host in the request target overrides the Host header (RFC 9112, section 3.2.2).
        if !self.has_accepted_host(request.headers()) || request.uri().authority().is_some_and(is_other) {
            return page(StatusCode::BAD_REQUEST, UNEXPECTED);
        }
        let is_link = request.uri().path() == self.path;
        if !is_link && request.uri().path() != "/" {
            return page(StatusCode::NOT_FOUND, UNEXPECTED);
        }
        match *request.method() {
            Method::GET if is_link => self.redirect(peer),
            Method::GET => self.receive(request.uri().query().unwrap_or_default().as_bytes()),
            Method::POST if !is_link => self.receive_form(request).await,
            // Programs that open links may send this first. It does not use up the link.
            Method::HEAD => page(StatusCode::OK, ""),
            _ => {
                let mut page = page(StatusCode::METHOD_NOT_ALLOWED, UNEXPECTED);
                page.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
                page
            }
        }
    }

    fn has_accepted_host(&self, headers: &HeaderMap) -> bool {
        let mut hosts = headers.get_all(HOST).iter();
        let first = hosts.next().and_then(|host| host.to_str().ok());
        hosts.next().is_none() && first.is_some_and(|host| self.is_accepted_host(host))
    }

    fn is_accepted_host(&self, host: &str) -> bool {
        self.hosts.iter().any(|accepted| accepted.eq_ignore_ascii_case(host))
    }

    /// Redirects the browser to Entra ID.
    fn redirect(&self, peer: Peer) -> Page {
        if peer == Peer::Unknown && self.link_used.replace(true) {
            self.finish(Err(LoginError::Failed(OPENED_TWICE.into())));
            return page(StatusCode::GONE, LINK_USED);
        }
        let mut page = page(StatusCode::FOUND, "");
        if let Ok(location) = HeaderValue::from_str(self.url.as_str()) {
            page.headers_mut().insert(LOCATION, location);
        }
        page
    }

    /// Receives an authorization response in a form (OAuth 2.0 Form Post Response Mode).
    async fn receive_form(&self, request: Request<Incoming>) -> Page {
        let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return page(StatusCode::UNSUPPORTED_MEDIA_TYPE, UNEXPECTED);
        }
        match Limited::new(request.into_body(), MAX_REQUEST).collect().await {
            Ok(body) => self.receive(&body.to_bytes()),
            Err(error) => {
                debug!("cannot read a form: {error}");
                page(StatusCode::PAYLOAD_TOO_LARGE, UNEXPECTED)
            }
        }
    }

    /// Receives the fields of an authorization response. Rejects all of them, also an error, without the state of this
    /// sign-in.
    fn receive(&self, fields: &[u8]) -> Page {
        let fields: Vec<(String, String)> = form_urlencoded::parse(fields).into_owned().collect();
        let field = |name| single(&fields, name).filter(|value| !value.is_empty());
        if field("state").is_none_or(|state| hash(state) != self.state) {
            return page(StatusCode::BAD_REQUEST, UNEXPECTED);
        }
        match (field("code"), field("error")) {
            (Some(code), None) => {
                self.finish(Ok(code.to_owned()));
                page(StatusCode::OK, RECEIVED)
            }
            (None, Some(error)) => {
                let description = field("error_description").unwrap_or_default();
                self.finish(Err(LoginError::Rejected(Rejection::in_browser(&self.url, error, description))));
                page(StatusCode::OK, REJECTED)
            }
            _ => page(StatusCode::BAD_REQUEST, UNEXPECTED),
        }
    }

    /// Finishes the sign-in with the first outcome.
    fn finish(&self, outcome: Result<String, LoginError>) {
        self.outcome.borrow_mut().get_or_insert(outcome);
    }
}

/// Returns the fields of an address that the user typed, which can be in quotes or incomplete.
fn query(line: &str) -> &[u8] {
    let line = line.trim().trim_matches(['"', '\'', '<', '>']);
    let (_, query) = line.split_once('?').unwrap_or(("", line));
    query.split('#').next().unwrap_or_default().as_bytes()
}

fn hash(text: &str) -> Vec<u8> {
    digest(&SHA256, text.as_bytes()).as_ref().to_vec()
}

/// Returns the value of a field; `None` for a repeated field.
fn single<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let mut values = fields.iter().filter(|(field, _)| field == name).map(|(_, value)| value.as_str());
    values.next().filter(|_| values.next().is_none())
}

/// Returns a page with one sentence.
fn page(status: StatusCode, sentence: &str) -> Page {
    let body = format!("<!doctype html><meta charset=\"utf-8\"><title>arcssh</title><p>{sentence}</p>\n");
    let mut page = Response::new(Full::new(Bytes::from(body)));
    *page.status_mut() = status;
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        // Without it, the browser sends the link to Entra ID.
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
    fn a_response_needs_the_state_and_one_code_or_one_error() {
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
            assert_eq!(pending.receive(fields.as_bytes()).status(), StatusCode::BAD_REQUEST, "{fields}");
            assert!(pending.outcome.borrow().is_none(), "{fields}");
        }
        assert_eq!(pending.receive(b"code=a%2Bb&state=s&session_state=1").status(), StatusCode::OK);
        pending.receive(b"error=access_denied&state=s");
        assert_eq!(pending.outcome.take().unwrap().unwrap(), "a+b");
        pending.receive(b"error=access_denied&error_description=AADSTS65004:%20No.&state=s");
        let error = pending.outcome.take().unwrap().unwrap_err();
        assert!(
            matches!(error, LoginError::Rejected(Rejection { description, .. }) if description == "AADSTS65004: No.")
        );
    }

    #[test]
    fn an_address_that_the_user_pastes_needs_the_state() {
        let pasted = |line: &str| {
            let pending = pending();
            let status = pending.receive(query(line)).status();
            (status, pending.outcome.take().and_then(Result::ok))
        };
        let received = (StatusCode::OK, Some("a+b".to_owned()));
        for line in [
            "http://localhost:8400/?code=a%2Bb&state=s&session_state=1",
            " \"http://localhost:8400/?code=a%2Bb&state=s#\" \n",
            "<https://localhost:8400?state=s&code=a%2Bb>",
            "code=a%2Bb&state=s",
        ] {
            assert_eq!(pasted(line), received, "{line}");
        }
        for line in
            ["a+b", "http://localhost:8400/?code=a%2Bb", "http://localhost:8400/?code=a&state=x", "?", "yes"]
        {
            assert_eq!(pasted(line), (StatusCode::BAD_REQUEST, None), "{line}");
        }
    }

    #[test]
    fn requests_for_another_host_are_rejected() {
        let is_accepted = |hosts: &[&str]| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(HOST, host.parse().unwrap());
            }
            pending().has_accepted_host(&headers)
        };
        for host in ["localhost:8400", "LocalHost:8400", "127.0.0.1:8400", "[::1]:8400"] {
            assert!(is_accepted(&[host]), "{host}");
        }
        for host in ["localhost", "localhost:80", "evil.example:8400", "127.0.0.1.evil.example:8400", ""] {
            assert!(!is_accepted(&[host]), "{host}");
        }
        assert!(!is_accepted(&[]) && !is_accepted(&["localhost:8400", "localhost:8400"]));
    }

    #[test]
    fn a_link_that_unknown_users_open_twice_stops_the_sign_in() {
        let pending = pending();
        for _ in 0..2 {
            assert_eq!(pending.redirect(Peer::Trusted).status(), StatusCode::FOUND);
        }
        let first = pending.redirect(Peer::Unknown);
        assert_eq!(first.status(), StatusCode::FOUND);
        assert_eq!(first.headers()[LOCATION], pending.url.as_str());
        assert!(pending.outcome.borrow().is_none());
        assert_eq!(pending.redirect(Peer::Unknown).status(), StatusCode::GONE);
        assert_eq!(pending.outcome.take().unwrap().unwrap_err().to_string(), OPENED_TWICE);
    }
}
