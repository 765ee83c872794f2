//! The rules that every request to ARM and to Entra ID keeps: how often it is repeated, how long it is waited for, how
//! much of an answer is read. Knows neither service.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use azure_core::error::ErrorKind;
use azure_core::http::headers::{HeaderName, Headers, RETRY_AFTER, RETRY_AFTER_MS, X_MS_RETRY_AFTER_MS};
use azure_core::http::policies::{Policy, PolicyResult, get_retry_after};
use azure_core::http::{
    AsyncRawResponse, ClientOptions, Context, ExponentialRetryOptions, HttpClient, RawResponse, Request,
    RetryOptions, StatusCode, Transport, Url,
};
use azure_core::time::{OffsetDateTime, parse_rfc7231};
use azure_core::{Error, Result};
use futures_util::StreamExt;
use tokio::time::sleep;
use tracing::info;

use crate::net::tls;
use crate::state::{Key, Kind, Store};

/// Retries of one request after the first try: 429, 408 and 5xx answers, and connections that broke.
const MAX_RETRIES: u32 = 3;

/// The longest Retry-After that is waited out. Beyond it the user is told, since ssh and its callers stop waiting
/// long before (Ansible after 10 s).
const RETRY_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest limit that is believed: Azure's are counted by the hour at most, and a clock may have been set back.
const LONGEST_LIMIT: Duration = Duration::from_secs(3600);

/// The most of an answer's body that is read. Relay credentials take about 4 kB, a page of machines 1 or 2 MB.
const MAX_BODY: usize = 4 * 1024 * 1024;

/// What requests go through: connections, and the store in which all processes leave what a service told them.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    /// The connections.
    pub(crate) http: reqwest::Client,
    /// The store.
    pub(crate) store: Store,
}

/// The transport of a pipeline: it reads a body within [`MAX_BODY`]. azure_core's pipeline tells its transport policy to
/// buffer the whole answer, before any other policy sees it (typespec_client_core 1.1, `Pipeline::send`).
#[derive(Debug)]
pub(crate) struct Bounded(pub(crate) reqwest::Client);

#[async_trait]
impl HttpClient for Bounded {
    async fn execute_request(&self, request: &Request) -> Result<AsyncRawResponse> {
        Ok(into_async(read(self.0.execute_request(request).await?).await?))
    }
}

/// Makes an error of an answer from a URL that is no success.
pub(crate) type Refuse = fn(&Url, &RawResponse) -> Error;

/// The options of a pipeline to `service` that keeps the rules; `refusal` is what its error answers are told as.
pub(crate) fn client_options(client: Client, service: &Url, refusal: Refuse) -> ClientOptions {
    let Client { http, store } = client;
    let limit = SharedThrottle { store, key: Key::new(Kind::Throttle, service.authority()), refusal };
    let retry =
        RetryOptions::exponential(ExponentialRetryOptions { max_retries: MAX_RETRIES, ..Default::default() });
    ClientOptions {
        transport: Some(Transport::new(Arc::new(Bounded(http)))),
        retry,
        per_try_policies: vec![Arc::new(limit), Arc::new(StopRetrying { refusal })],
        ..Default::default()
    }
}

/// Keeps the retry policy from repeating what cannot change soon: a certificate that is not trusted, and a
/// Retry-After longer than anybody waits.
#[derive(Debug)]
struct StopRetrying {
    refusal: Refuse,
}

#[async_trait]
impl Policy for StopRetrying {
    async fn send(&self, ctx: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        let response = match next[0].send(ctx, request, &next[1..]).await {
            Err(error) if causes(&error).any(|cause| tls::error_in(cause).is_some()) => {
                return Err(Error::with_error(ErrorKind::Other, error, "the TLS connection was refused"));
            }
            result => result?,
        };
        let response = response.try_into_raw_response().await?;
        let long = retry_after(response.headers()).is_some_and(|wait| wait > RETRY_TIMEOUT);
        if long && !response.status().is_success() {
            return Err((self.refusal)(request.url(), &response));
        }
        Ok(into_async(response))
    }
}

/// Keeps all processes from asking a service before the time that it has told one of them.
#[derive(Debug)]
struct SharedThrottle {
    store: Store,
    key: Key,
    refusal: Refuse,
}

#[async_trait]
impl Policy for SharedThrottle {
    async fn send(&self, ctx: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        while let Some(wait) = self.wait() {
            if wait > RETRY_TIMEOUT {
                return Err((self.refusal)(request.url(), &too_many(wait)));
            }
            info!("{} has asked for a pause of {:.1} s", self.key.name, wait.as_secs_f32());
            sleep(wait).await;
        }
        let response = next[0].send(ctx, request, &next[1..]).await?;
        if let (StatusCode::TooManyRequests, Some(wait)) =
            (response.status(), retry_after(response.headers()))
        {
            self.store.write(&self.key, &(now() + wait));
        }
        Ok(response)
    }
}

impl SharedThrottle {
    /// How long to wait; nothing where there is no limit, or one that no service means.
    fn wait(&self) -> Option<Duration> {
        let until: Duration = self.store.read(&self.key).ok()??;
        until.checked_sub(now()).filter(|wait| !wait.is_zero() && *wait <= LONGEST_LIMIT)
    }
}

/// Since the Unix epoch.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// What a service that was asked too early would answer.
fn too_many(wait: Duration) -> RawResponse {
    let mut headers = Headers::new();
    headers.insert(RETRY_AFTER, (wait.as_secs() + 1).to_string());
    RawResponse::from_bytes(StatusCode::TooManyRequests, headers, Vec::new())
}

async fn read(response: AsyncRawResponse) -> Result<RawResponse> {
    let (status, mut headers, mut stream) = response.deconstruct();
    count_from_date(&mut headers);
    let mut body = Vec::new();
    while let Some(chunk) = stream.next().await {
        body.extend_from_slice(&chunk?);
        if body.len() > MAX_BODY {
            return Err(Error::new(ErrorKind::Other, TooLong));
        }
    }
    Ok(RawResponse::from_bytes(status, headers, body))
}

/// A response for the policies above, from one that was read.
pub(crate) fn into_async(response: RawResponse) -> AsyncRawResponse {
    let (status, headers, body) = response.deconstruct();
    AsyncRawResponse::from_bytes(status, headers, azure_core::Bytes::from(body))
}

/// An answer longer than [`MAX_BODY`].
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("it is longer than {} MiB", MAX_BODY / 1024 / 1024)]
pub(crate) struct TooLong;

/// When to come back, as azure_core's retry policy reads it.
pub(crate) fn retry_after(headers: &Headers) -> Option<Duration> {
    let names = [X_MS_RETRY_AFTER_MS, RETRY_AFTER_MS, RETRY_AFTER];
    get_retry_after(headers, OffsetDateTime::now_utc, &names)?.try_into().ok()
}

/// Makes a date to come back at the seconds until then by the server's own clock: ours may differ by an hour.
fn count_from_date(headers: &mut Headers) {
    let until = headers.get_optional_str(&RETRY_AFTER).and_then(|text| parse_rfc7231(text).ok());
    if let Some((until, now)) = until.zip(date(headers)) {
        let until = u64::try_from(until.unix_timestamp()).unwrap_or_default();
        headers.insert(RETRY_AFTER, until.saturating_sub(now).to_string());
    }
}

/// When an answer was given by the server's own clock, in seconds of Unix time (RFC 9110, IMF-fixdate).
pub(crate) fn date(headers: &Headers) -> Option<u64> {
    let date = headers.get_optional_str(&HeaderName::from_static("date"))?;
    parse_rfc7231(date).ok()?.unix_timestamp().try_into().ok()
}

/// An error and what caused it, outermost first.
pub(crate) fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_in_each_form_and_the_most_exact_first() {
        let wait = |headers: &[(&'static str, &'static str)]| {
            let mut all = Headers::new();
            headers.iter().for_each(|(name, value)| all.insert(*name, *value));
            retry_after(&all)
        };
        assert_eq!(wait(&[("retry-after", "7")]), Some(Duration::from_secs(7)));
        assert_eq!(
            wait(&[("retry-after", "7"), ("retry-after-ms", "250")]),
            Some(Duration::from_millis(250))
        );
        assert_eq!(
            wait(&[("retry-after-ms", "1"), ("x-ms-retry-after-ms", "2")]),
            Some(Duration::from_millis(2))
        );
        assert!(wait(&[("retry-after", "Wed, 01 Jan 2200 00:00:00 GMT")]).unwrap() > RETRY_TIMEOUT);
        assert_eq!(wait(&[("retry-after", "soon")]), None);
        assert_eq!(wait(&[("retry-after", "-1")]), None);
    }

    #[tokio::test]
    async fn a_date_to_come_back_at_counts_from_the_servers_clock() {
        let mut headers = Headers::new();
        headers.insert("date", "Wed, 01 Jan 2200 00:00:00 GMT");
        headers.insert("retry-after", "Wed, 01 Jan 2200 00:00:07 GMT");
        let response = AsyncRawResponse::from_bytes(StatusCode::TooManyRequests, headers, "");
        let response = read(response).await.unwrap();
        assert_eq!(retry_after(response.headers()), Some(Duration::from_secs(7)));
    }

    #[tokio::test]
    async fn an_answer_without_end_is_not_read_to_its_end() {
        let chunk = || Ok(azure_core::Bytes::from_static(&[b'a'; 65536]));
        let endless = futures_util::stream::repeat_with(chunk);
        let response = AsyncRawResponse::new(StatusCode::Ok, Headers::new(), Box::pin(endless));
        let error = read(response).await.unwrap_err();
        assert!(causes(&error).any(|cause| cause.is::<TooLong>()), "{error}");
    }

    /// The server writes as long as the client reads, and counts.
    #[tokio::test]
    async fn a_pipeline_takes_no_answer_whole_that_is_longer_than_its_bound() {
        use std::io::{Read as _, Write as _};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url: Url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // A client that reads no more ends the count, also before it has closed the connection.
            stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
            std::iter::from_fn(|| stream.write(&[b' '; 65536]).ok()).sum::<usize>()
        });
        let http = crate::net::Net::new().local_http_client(Duration::from_secs(10)).unwrap();
        let options =
            ClientOptions { transport: Some(Transport::new(Arc::new(Bounded(http)))), ..Default::default() };
        let pipeline = azure_core::http::Pipeline::new(None, None, options, vec![], vec![], None);
        let mut request = Request::new(url, azure_core::http::Method::Get);
        let error = pipeline.send(&Context::new(), &mut request, None).await.unwrap_err();
        assert!(causes(&error).any(|cause| cause.is::<TooLong>()), "{error}");
        drop(pipeline);
        // The sockets' buffers hold some megabytes beyond the bound.
        assert!(server.join().unwrap() < 8 * MAX_BODY);
    }
}
