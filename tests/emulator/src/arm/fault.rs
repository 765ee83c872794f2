//! Answers of Azure Resource Manager that a test configures.

use std::time::Duration;

use serde_json::json;

use crate::arm::path::Target;
use crate::arm::reply::Reply;

/// The calls that a fault applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArmCall {
    /// `POST …/endpoints/default/listCredentials`.
    ListCredentials,
    /// All methods of `…/endpoints` and `…/endpoints/default`.
    Endpoint,
    /// All methods of `…/serviceConfigurations`.
    ServiceConfiguration,
    /// One machine or the list of its extensions.
    Machine,
    /// One extension of a machine.
    Extension,
    /// The state of an asynchronous operation.
    OperationStatus,
    /// Lists of machines or resources of a subscription or a resource group.
    List,
    /// `GET /subscriptions`.
    Subscriptions,
    /// `POST /providers/Microsoft.ResourceGraph/resources`.
    ResourceGraph,
    /// The state and registration of a resource provider.
    Provider,
    /// The account's permissions on a machine.
    Permissions,
    /// Every call.
    Any,
}

impl ArmCall {
    pub(crate) fn of(target: &Target) -> Self {
        match target {
            Target::ListCredentials(_) => Self::ListCredentials,
            Target::Endpoints(_) | Target::Endpoint(_) => Self::Endpoint,
            Target::ServiceConfigurations(_) | Target::ServiceConfiguration(..) => Self::ServiceConfiguration,
            Target::Machine(_) | Target::Extensions(_) => Self::Machine,
            Target::Extension(..) => Self::Extension,
            Target::OperationStatus(..) => Self::OperationStatus,
            Target::Machines(_) | Target::Resources(_) => Self::List,
            Target::Subscriptions => Self::Subscriptions,
            Target::ResourceGraph => Self::ResourceGraph,
            Target::Provider(_) | Target::Register(_) => Self::Provider,
            Target::Permissions(_) => Self::Permissions,
            Target::AcquirePolicyToken | Target::Unknown => Self::Any,
        }
    }

    /// Returns whether a fault of this kind applies to `call`.
    pub(crate) fn includes(self, call: Self) -> bool {
        self == Self::Any || self == call
    }
}

/// An answer that replaces the usual one. By default it applies to the next [`ArmCall::ListCredentials`].
#[derive(Clone, Debug)]
pub struct ArmFault {
    pub(crate) call: ArmCall,
    status: u16,
    content_type: String,
    body: String,
    headers: Vec<(String, String)>,
    delay: Duration,
    pub(crate) times: usize,
}

impl ArmFault {
    /// An error in ARM's envelope.
    pub fn new(status: u16, code: &str, message: &str) -> Self {
        let body = json!({ "error": { "code": code, "message": message } });
        Self::raw(status, "application/json; charset=utf-8", &body.to_string())
    }

    /// Any body, such as the error page of a gateway.
    pub fn raw(status: u16, content_type: &str, body: &str) -> Self {
        Self {
            call: ArmCall::ListCredentials,
            status,
            content_type: content_type.to_owned(),
            body: body.to_owned(),
            headers: Vec::new(),
            delay: Duration::ZERO,
            times: 1,
        }
    }

    /// Applies to `call`.
    pub fn on(self, call: ArmCall) -> Self {
        Self { call, ..self }
    }

    /// Adds a header, such as `Retry-After` or `WWW-Authenticate`.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Delays the answer by `delay`.
    pub fn after(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    /// Applies to the next `requests` requests instead of one.
    pub fn times(self, requests: usize) -> Self {
        Self { times: requests, ..self }
    }

    /// Returns the answer after the delay.
    pub(crate) async fn reply(&self) -> Reply {
        tokio::time::sleep(self.delay).await;
        let reply = Reply::text(self.status, &self.content_type, &self.body);
        self.headers.iter().fold(reply, |reply, (name, value)| reply.line(name, value))
    }
}
