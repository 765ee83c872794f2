//! The sign-in by browser: the authorization code comes back to a port of this machine.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use azure_core::http::Url;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tracing::debug;

use crate::azure::entra::{EntraRefusal, address};
use crate::azure::sign_in::{Account, PATIENCE, SignIn};

/// The longest request that is read. A code takes one or two thousand characters.
const MAX_REQUEST: usize = 64 * 1024;

/// How long a request on this machine may take to come whole.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

/// What the user reads in the browser at the end.
const DONE: &str = "Signed in. Go back to the terminal; this page can be closed.";
const REFUSED: &str = "Not signed in. Go back to the terminal, which says why; this page can be closed.";
const NOT_OURS: &str = "This is no answer to the sign-in that is under way.";

impl SignIn<'_> {
    /// Signs in with the browser that `open` shows the address to (authorization code with PKCE, RFC 7636).
    ///
    /// # Errors
    /// Entra ID or the user refuses, or nobody answers in time.
    pub(crate) async fn by_browser(&self, open: impl FnOnce(&Url)) -> Result<Account> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("no port is free for the answer")?;
        // Entra ID takes any port, if the host is "localhost" (MSAL, `application.py`).
        let redirect_uri = format!("http://localhost:{}", listener.local_addr()?.port());
        let (state, verifier) = (random()?, random()?);
        let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, verifier.as_bytes()));
        let mut url = address(&self.cloud.authority_host, self.tenant, "authorize");
        url.query_pairs_mut().extend_pairs([
            ("client_id", self.client_id),
            ("response_type", "code"),
            ("redirect_uri", &redirect_uri),
            ("scope", &self.scope()),
            ("state", &state),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
            ("prompt", "select_account"),
        ]);
        open(&url);
        let code = timeout(PATIENCE, answer(&listener, &state)).await;
        let code = code.with_context(|| format!("nobody signed in within {} s", PATIENCE.as_secs()))??;
        let form = [
            ("grant_type", "authorization_code"),
            ("client_id", self.client_id),
            ("code", &code),
            ("code_verifier", &verifier),
            ("redirect_uri", &redirect_uri),
            ("scope", &self.scope()),
        ];
        self.account(self.entra.post(self.tenant, "token", &form).await?)
    }
}

/// 32 bytes that nobody can guess, as text.
fn random() -> Result<String> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).ok().context("the system gives no randomness")?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// The code of the answer to our request. Whatever else comes to the port is turned away.
async fn answer(listener: &TcpListener, state: &str) -> Result<String> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        // Browsers open connections ahead, on which nothing may come.
        let fields = match timeout(REQUEST_TIMEOUT, request(&mut stream)).await {
            Ok(Ok(fields)) => fields,
            Ok(Err(error)) => {
                debug!("no answer: {error:#}");
                continue;
            }
            Err(_) => continue,
        };
        if fields.get("state").map(String::as_str) != Some(state) {
            page(&mut stream, "400 Bad Request", NOT_OURS).await;
            continue;
        }
        if let Some(code) = fields.get("code") {
            page(&mut stream, "200 OK", DONE).await;
            return Ok(code.clone());
        }
        page(&mut stream, "200 OK", REFUSED).await;
        let field = |name: &str| fields.get(name).map(String::as_str).unwrap_or_default();
        bail!(EntraRefusal::in_browser(field("error"), field("error_description")));
    }
}

/// The fields of a request, in its address or its body: Entra ID answers as a link, or as a form.
async fn request(stream: &mut TcpStream) -> Result<HashMap<String, String>> {
    let mut text = Vec::new();
    loop {
        ensure!(stream.read_buf(&mut text).await? > 0, "it broke off");
        ensure!(text.len() <= MAX_REQUEST, "it is too long");
        if let Some(fields) = parsed(&text)? {
            return Ok(fields);
        }
    }
}

/// The fields of a request, once it is whole.
fn parsed(text: &[u8]) -> Result<Option<HashMap<String, String>>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head) = request.parse(text)? else { return Ok(None) };
    let path = request.path.unwrap_or_default();
    let length = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length: usize = match length {
        Some(header) => std::str::from_utf8(header.value)?.trim().parse()?,
        None => 0,
    };
    let body = &text[head..];
    if body.len() < length {
        return Ok(None);
    }
    let query = path.split_once('?').map(|(_, query)| query).unwrap_or_default();
    let form = if request.method == Some("POST") { body } else { query.as_bytes() };
    Ok(Some(form_urlencoded::parse(form).into_owned().collect()))
}

/// Shows one sentence. A browser that is gone has nobody to read it.
async fn page(stream: &mut TcpStream, status: &str, sentence: &str) {
    let body = format!("<!doctype html><title>arcssh</title><p>{sentence}</p>\n");
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
         Referrer-Policy: no-referrer\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
    let _ = stream.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_once_it_is_whole_as_link_and_as_form() {
        let code = |text: &str| parsed(text.as_bytes()).unwrap().map(|fields| fields["code"].clone());
        assert_eq!(code("GET /?code=a%2Bb&state=s HTTP/1.1\r\nHost: localhost\r\n"), None);
        assert_eq!(code("GET /?code=a%2Bb&state=s HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap(), "a+b");
        let form = "POST / HTTP/1.1\r\ncontent-length: 14\r\n\r\ncode=c&state";
        assert_eq!(code(form), None);
        assert_eq!(code(&format!("{form}=s")).unwrap(), "c");
        assert!(parsed(b"\x16\x03\x01").is_err());
    }
}
