//! The HTTP client for ARM and Entra ID: retries, throttling, and the limit of a response. Independent of both
//! services.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::error::ErrorKind;
use azure_core::http::headers::{HeaderName, Headers, RETRY_AFTER, RETRY_AFTER_MS, X_MS_RETRY_AFTER_MS};
use azure_core::http::policies::{Policy, PolicyResult, get_retry_after};
use azure_core::http::{
    AsyncRawResponse, Body, ClientOptions, Context, ExponentialRetryOptions, HttpClient, RawResponse,
    Request, RetryOptions, StatusCode, Transport, Url,
};
use azure_core::time::{OffsetDateTime, parse_rfc7231};
use azure_core::{Error, Result};
use futures_util::{StreamExt, TryStreamExt};
use http_body_util::{BodyDataStream, Full};
use tokio::time::sleep;
use tracing::{debug, info};

use crate::net::error::{causes, root};
use crate::net::https::HttpsClient;
use crate::net::{HTTP_TIMEOUT, NetError};
use crate::state::{Key, Kind, Store};
use crate::system::clock::since_epoch;
use crate::system::timeout::with_timeout;

/// Retries of a request after 408, 429 and 5xx, and after a failed connection.
const MAX_RETRIES: u32 = 3;

/// The longest Retry-After that arcssh waits for. After a longer one the request fails: ssh and the programs that run
/// it have time limits of their own (Ansible: 10 s).
const RETRY_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest accepted throttle. Azure's are an hour at most; a clock that was set back makes one look longer.
const MAX_THROTTLE: Duration = Duration::from_secs(3600);

/// The longest accepted body, in bytes. Relay credentials and tokens take about 4 kB.
pub(crate) const MAX_BODY: usize = 4 * 1024 * 1024;

/// The header with the number of requests that a user may still send, and the header with the duration, `hh:mm:ss`,
/// after which that quota is reset. Resource Graph sends both in each response, and no Retry-After (azure-docs
/// `governance/resource-graph/concepts/guidance-for-throttled-requests.md`; Azure/azure-cli issue 31484).
const QUOTA_REMAINING: HeaderName = HeaderName::from_static("x-ms-user-quota-remaining");
const QUOTA_RESETS_AFTER: HeaderName = HeaderName::from_static("x-ms-user-quota-resets-after");

/// The HTTP client, and the state directory through which processes share a throttle.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) http: HttpsClient,
    pub(crate) store: Store,
}

/// A transport that reads a body up to a limit. azure_core's transport policy buffers the whole response before any
/// other policy sees it (typespec_client_core 1.1, `Pipeline::send`).
#[derive(Debug)]
pub(crate) struct Bounded {
    pub(crate) http: reqwest::Client,
    /// Returns the longest accepted body of the response to a request, in bytes.
    pub(crate) max_body: fn(&Request) -> usize,
}

#[async_trait]
impl HttpClient for Bounded {
    async fn execute_request(&self, request: &Request) -> Result<AsyncRawResponse> {
        let response = self.http.execute_request(request).await?;
        Ok(into_async(read(response, (self.max_body)(request)).await?))
    }
}

/// The transport to ARM and Entra ID. It reads a body up to a limit. azure_core repeats a request only after an
/// error of the kind `Connection` or `Io`.
#[derive(Debug)]
struct Https {
    http: HttpsClient,
    /// Returns the longest accepted body of the response to a request, in bytes.
    max_body: fn(&Request) -> usize,
}

#[async_trait]
impl HttpClient for Https {
    async fn execute_request(&self, request: &Request) -> Result<AsyncRawResponse> {
        let host = request.url().authority().to_owned();
        debug!("{} https://{host}{}", request.method(), request.url().path());
        let response = async {
            let (head, body) =
                self.http.send(to_http(request)?).await.map_err(connection_error)?.into_parts();
            let mut headers = Headers::new();
            for (name, value) in &head.headers {
                if let Ok(value) = value.to_str() {
                    // Several challenges can be in several lines (RFC 9110, section 5.3).
                    let first = headers.get_optional_str(&HeaderName::from(name.as_str().to_owned()));
                    let value = match first.filter(|_| *name == http::header::WWW_AUTHENTICATE) {
                        Some(first) => format!("{first}, {value}"),
                        None => value.to_owned(),
                    };
                    headers.insert(name.as_str().to_owned(), value);
                }
            }
            let host = host.clone();
            let broken = move |error| {
                let cause = format!("the body of the response is incomplete: {}", root(&error));
                connection_error(NetError::Unreachable { host: host.clone(), cause: cause.into() })
            };
            let body = Box::pin(BodyDataStream::new(body).map_err(broken));
            read(AsyncRawResponse::new(head.status.as_u16().into(), headers, body), (self.max_body)(request))
                .await
        };
        let timed_out = |after| connection_error(NetError::TimedOut { host: host.clone(), after });
        Ok(into_async(with_timeout(HTTP_TIMEOUT, response, timed_out).await?))
    }
}

fn connection_error(error: NetError) -> Error {
    let kind = if error.is_transient() { ErrorKind::Connection } else { ErrorKind::Other };
    Error::with_error(kind, error, "the connection failed")
}

fn to_http(request: &Request) -> Result<http::Request<Full<azure_core::Bytes>>> {
    let Body::Bytes(body) = request.body() else {
        return Err(Error::with_message(ErrorKind::Other, "the body is a stream"));
    };
    let mut http = http::Request::builder().method(request.method().as_str()).uri(request.url().as_str());
    http = http.header(http::header::ACCEPT, "*/*");
    for (name, value) in request.headers().iter() {
        http = http.header(name.as_str(), value.as_str());
    }
    http.body(Full::new(body.clone())).map_err(|error| Error::new(ErrorKind::Other, error))
}

/// A failure that passes through azure_core's pipeline.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// A response that arcssh does not wait out.
    #[error("the response has the status {}", response.status())]
    Status {
        /// The URL of the request.
        url: Url,
        response: RawResponse,
    },
    /// A response longer than this number of bytes.
    #[error("the response is longer than {} MiB", .0 / 1024 / 1024)]
    TooLong(usize),
}

impl HttpError {
    fn status(url: &Url, response: RawResponse) -> Error {
        Error::new(ErrorKind::Other, Self::Status { url: url.clone(), response })
    }

    /// Returns the failure in an error of the pipeline. The retry policy wraps the error of a policy below it.
    pub(crate) fn find(error: &Error) -> Option<&Self> {
        causes(error).find_map(|cause| cause.downcast_ref())
    }
}

/// Returns the options of a pipeline to `service`, with the limit of a response to each request.
pub(crate) fn client_options(
    client: Client,
    service: &Url,
    max_body: fn(&Request) -> usize,
) -> ClientOptions {
    let Client { http, store } = client;
    let throttle = SharedThrottle { store, service: service.authority().to_owned() };
    let retry =
        RetryOptions::exponential(ExponentialRetryOptions { max_retries: MAX_RETRIES, ..Default::default() });
    ClientOptions {
        transport: Some(Transport::new(Arc::new(Https { http, max_body }))),
        retry,
        per_try_policies: vec![Arc::new(throttle), Arc::new(StopRetrying)],
        ..Default::default()
    }
}

/// Stops the retry policy after a Retry-After longer than [`RETRY_TIMEOUT`].
#[derive(Debug)]
struct StopRetrying;

#[async_trait]
impl Policy for StopRetrying {
    async fn send(&self, ctx: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        let response = next[0].send(ctx, request, &next[1..]).await?.try_into_raw_response().await?;
        let is_too_long = retry_after(response.headers()).is_some_and(|wait| wait > RETRY_TIMEOUT);
        if is_too_long && !response.status().is_success() {
            return Err(HttpError::status(request.url(), response));
        }
        Ok(into_async(response))
    }
}

/// Delays the requests of all processes until the time that a response to one of them has set: a 429, or the last
/// response within a quota. A quota applies only to the requests below the same two segments of the path, such as
/// `/providers/Microsoft.ResourceGraph`.
#[derive(Debug)]
struct SharedThrottle {
    store: Store,
    /// The host of the service, with its port unless that is 443.
    service: String,
}

#[async_trait]
impl Policy for SharedThrottle {
    async fn send(&self, ctx: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        let quota = self.quota(request.url());
        while let Some((wait, key)) = self.wait(&quota) {
            if wait > RETRY_TIMEOUT {
                return Err(HttpError::status(request.url(), too_many_requests(wait)));
            }
            info!("waiting {:.1} s: {} limits the request rate", wait.as_secs_f32(), key.name);
            sleep(wait).await;
        }
        let response = next[0].send(ctx, request, &next[1..]).await?;
        let (status, headers) = (response.status(), response.headers());
        if status == StatusCode::TooManyRequests || is_quota_used_up(headers) {
            let reset = quota_reset(headers);
            let key = if reset.is_some() { quota } else { self.all() };
            if let Some(wait) = retry_after(headers).or(reset) {
                self.store.write(&key, &(since_epoch() + wait));
            }
        }
        Ok(response)
    }
}

impl SharedThrottle {
    /// Returns the key for all requests to the service.
    fn all(&self) -> Key {
        Key::new(Kind::Throttle, self.service.as_str())
    }

    /// Returns the key for the requests that share a quota.
    fn quota(&self, url: &Url) -> Key {
        let path: Vec<&str> = url.path_segments().into_iter().flatten().take(2).collect();
        Key::new(Kind::Throttle, format!("{}/{}", self.service, path.join("/")))
    }

    /// Returns the longer delay of the two keys that apply to a request.
    fn wait(&self, quota: &Key) -> Option<(Duration, Key)> {
        let wait = |key: Key| {
            let until: Duration = self.store.read(&key).ok()??;
            let wait = until.checked_sub(since_epoch())?;
            (!wait.is_zero() && wait <= MAX_THROTTLE).then_some((wait, key))
        };
        [self.all(), quota.clone()].into_iter().filter_map(wait).max_by_key(|(wait, _)| *wait)
    }
}

/// Returns the response that an early request would get.
fn too_many_requests(wait: Duration) -> RawResponse {
    let mut headers = Headers::new();
    headers.insert(RETRY_AFTER, (wait.as_secs() + 1).to_string());
    RawResponse::from_bytes(StatusCode::TooManyRequests, headers, Vec::new())
}

async fn read(response: AsyncRawResponse, max_body: usize) -> Result<RawResponse> {
    let (status, mut headers, mut stream) = response.deconstruct();
    date_to_seconds(&mut headers);
    if status == StatusCode::TooManyRequests {
        quota_to_seconds(&mut headers);
    }
    let mut body = Vec::new();
    while let Some(chunk) = stream.next().await {
        body.extend_from_slice(&chunk?);
        if body.len() > max_body {
            return Err(Error::new(ErrorKind::Other, HttpError::TooLong(max_body)));
        }
    }
    Ok(RawResponse::from_bytes(status, headers, body))
}

/// Returns a buffered response for the policies above.
pub(crate) fn into_async(response: RawResponse) -> AsyncRawResponse {
    let (status, headers, body) = response.deconstruct();
    AsyncRawResponse::from_bytes(status, headers, azure_core::Bytes::from(body))
}

/// Returns the Retry-After of a response, as azure_core's retry policy reads it.
pub(crate) fn retry_after(headers: &Headers) -> Option<Duration> {
    let names = [X_MS_RETRY_AFTER_MS, RETRY_AFTER_MS, RETRY_AFTER];
    get_retry_after(headers, OffsetDateTime::now_utc, &names)?.try_into().ok()
}

/// Converts a Retry-After date to seconds by the server's clock, since this machine's clock may differ.
fn date_to_seconds(headers: &mut Headers) {
    let until = headers.get_optional_str(&RETRY_AFTER).and_then(|text| parse_rfc7231(text).ok());
    if let Some((until, now)) = until.zip(date(headers)) {
        let until = u64::try_from(until.unix_timestamp()).unwrap_or_default();
        headers.insert(RETRY_AFTER, until.saturating_sub(now).to_string());
    }
}

/// Adds the Retry-After that the header of a quota implies, in which form azure_core's retry policy reads it.
fn quota_to_seconds(headers: &mut Headers) {
    if let Some(wait) = quota_reset(headers).filter(|_| retry_after(headers).is_none()) {
        headers.insert(RETRY_AFTER, wait.as_secs().to_string());
    }
}

/// Returns whether the user may send no other request until the quota is reset.
fn is_quota_used_up(headers: &Headers) -> bool {
    headers.get_optional_str(&QUOTA_REMAINING).is_some_and(|text| text.trim() == "0")
}

/// Returns the time until the quota is reset, `hh:mm:ss` with an optional fraction, in whole seconds and at least one.
fn quota_reset(headers: &Headers) -> Option<Duration> {
    let text = headers.get_optional_str(&QUOTA_RESETS_AFTER)?.trim();
    let (time, fraction) = text.split_once('.').unwrap_or((text, ""));
    let numbers: Option<Vec<u64>> = time.split(':').map(|part| part.parse().ok()).collect();
    let [hours @ 0..1000, minutes @ 0..60, seconds @ 0..60] = numbers?[..] else { return None };
    let up = u64::from(fraction.bytes().any(|digit| digit != b'0'));
    Some(Duration::from_secs((hours * 3600 + minutes * 60 + seconds + up).max(1)))
}

/// Returns the server's time of a response, in seconds of Unix time (RFC 9110, IMF-fixdate).
pub(crate) fn date(headers: &Headers) -> Option<u64> {
    let date = headers.get_optional_str(&HeaderName::from_static("date"))?;
    parse_rfc7231(date).ok()?.unix_timestamp().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_precise_form_of_retry_after_is_used() {
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
    async fn a_retry_after_date_is_relative_to_the_servers_clock() {
        let mut headers = Headers::new();
        headers.insert("date", "Wed, 01 Jan 2200 00:00:00 GMT");
        headers.insert("retry-after", "Wed, 01 Jan 2200 00:00:07 GMT");
        let response = AsyncRawResponse::from_bytes(StatusCode::TooManyRequests, headers, "");
        let response = read(response, MAX_BODY).await.unwrap();
        assert_eq!(retry_after(response.headers()), Some(Duration::from_secs(7)));
    }

    #[tokio::test]
    async fn a_throttled_response_can_have_a_quota_instead_of_a_retry_after() {
        for (status, resets_after, own, seconds) in [
            (StatusCode::TooManyRequests, "00:00:05", None, Some(5)),
            (StatusCode::TooManyRequests, "00:00:00", None, Some(1)),
            (StatusCode::TooManyRequests, "00:01:04.0000001", None, Some(65)),
            (StatusCode::TooManyRequests, "01:00:00", Some("7"), Some(7)),
            (StatusCode::TooManyRequests, "soon", None, None),
            (StatusCode::TooManyRequests, "5", None, None),
            (StatusCode::TooManyRequests, "00:61:00", None, None),
            (StatusCode::TooManyRequests, "99999999999999999999:00:00", None, None),
            (StatusCode::TooManyRequests, "18446744073709551615:00:00", None, None),
            (StatusCode::Ok, "00:00:05", None, None),
        ] {
            let mut headers = Headers::new();
            headers.insert(QUOTA_RESETS_AFTER, resets_after);
            own.into_iter().for_each(|own: &str| headers.insert(RETRY_AFTER, own));
            let response = read(AsyncRawResponse::from_bytes(status, headers, ""), MAX_BODY).await.unwrap();
            assert_eq!(retry_after(response.headers()), seconds.map(Duration::from_secs), "{resets_after}");
        }
    }

    #[tokio::test]
    async fn an_endless_response_is_rejected() {
        let chunk = || Ok(azure_core::Bytes::from_static(&[b'a'; 65536]));
        let endless = futures_util::stream::repeat_with(chunk);
        let response = AsyncRawResponse::new(StatusCode::Ok, Headers::new(), Box::pin(endless));
        let error = read(response, MAX_BODY).await.unwrap_err();
        assert!(matches!(HttpError::find(&error), Some(HttpError::TooLong(MAX_BODY))), "{error}");
    }

    /// The server writes as long as the client reads, and counts the bytes.
    #[tokio::test]
    async fn a_pipeline_stops_reading_at_the_body_limit() {
        use std::io::{Read as _, Write as _};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url: Url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // The count ends when the client stops reading, even with an open connection.
            stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
            std::iter::from_fn(|| stream.write(&[b' '; 65536]).ok()).sum::<usize>()
        });
        let http = crate::net::Net::unchecked().local_http_client(Duration::from_secs(10)).unwrap();
        let transport = Bounded { http, max_body: |_| MAX_BODY };
        let options =
            ClientOptions { transport: Some(Transport::new(Arc::new(transport))), ..Default::default() };
        let pipeline = azure_core::http::Pipeline::new(None, None, options, vec![], vec![], None);
        let mut request = Request::new(url, azure_core::http::Method::Get);
        let error = pipeline.send(&Context::new(), &mut request, None).await.unwrap_err();
        assert!(matches!(HttpError::find(&error), Some(HttpError::TooLong(MAX_BODY))), "{error}");
        drop(pipeline);
        // The sockets' buffers hold some megabytes beyond the limit.
        assert!(server.join().unwrap() < 8 * MAX_BODY);
    }
}
