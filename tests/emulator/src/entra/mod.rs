//! Entra ID: the token endpoint for a service principal and a user, and the user's sign-in with a browser or a device
//! code.

mod assertion;
pub(crate) mod error;
pub(crate) mod fault;
mod principal;
mod scope;
pub(crate) mod sign_in;
pub(crate) mod ssh_certificate;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::clock::Clock;
use crate::encoding::{Parameters, is_one_of};
use crate::entra::assertion::{Assertions, JWT_BEARER};
use crate::entra::error::{EntraError, json_answer, unknown_application};
use crate::entra::fault::EntraFault;
use crate::entra::principal::Principal;
use crate::entra::scope::Scope;
use crate::entra::sign_in::{Decision, SignIn, SignIns};
use crate::entra::ssh_certificate::{CertificateSubject, SshCertificates};
use crate::fault_queue::FaultQueue;
use crate::journal::{Journal, Service, lock};
use crate::server::{Answer, Call, Handler};
use crate::throttle::Throttles;
use crate::token::TokenKey;

pub(crate) use crate::entra::scope::ARM_AUDIENCES;

/// The home tenant of user and service principal.
pub(crate) const TENANT: &str = "7e4a4700-0000-4000-8000-000000000001";
/// The tenant of the subscriptions, if it is not the home tenant.
pub(crate) const OTHER_TENANT: &str = "7e4a4700-0000-4000-8000-000000000002";
/// The domain of the home tenant, which can replace its ID in URLs.
const DOMAIN: &str = "arcssh.example";
/// The only registered confidential application.
pub(crate) const CLIENT_ID: &str = "c11e4700-0000-4000-8000-000000000001";
/// The object ID of the application's service principal, the `oid` of its tokens.
pub(crate) const OBJECT_ID: &str = "0b1ec700-0000-4000-8000-000000000001";

/// Azure CLI, a public client in every tenant (azure-cli-core `auth/constants.py`).
pub const AZURE_CLI: &str = "04b07795-8ddb-461a-bbee-02f9e1bf7b46";
/// A public client that is registered in the home tenant.
pub const PUBLIC_CLIENT: &str = "c11e4700-0000-4000-8000-000000000002";

/// The authentication context for which Azure requires multi-factor authentication (azure-cli-core, tests of
/// `_generate_login_command`).
pub(crate) const AUTHENTICATION_CONTEXT: &str = "p1";
/// The token of a job, for the OIDC services of pipelines.
pub const JOB_TOKEN: &str = "job-token";

/// The grant type of RFC 8628.
const DEVICE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// The initial settings of the service.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Host and port.
    pub(crate) authority: String,
    pub(crate) directory: PathBuf,
    pub(crate) certificate_lifetime: Duration,
    pub(crate) subscription_tenant: &'static str,
    pub(crate) clock: Clock,
    pub(crate) token_lifetime: Duration,
    pub(crate) user_principal_name: String,
    pub(crate) device_interval: Duration,
    pub(crate) device_decision: Decision,
}

/// The state of the service.
pub(crate) struct Entra {
    pub(crate) client_secret: String,
    pub(crate) throttles: Throttles<()>,
    pub(crate) sign_ins: SignIns,
    pub(crate) assertions: Assertions,
    pub(crate) ssh_certificates: SshCertificates,
    /// Host and port.
    pub(crate) authority: String,
    /// The tenant whose tokens ARM accepts.
    pub(crate) subscription_tenant: &'static str,
    clock: Clock,
    user_principal_name: String,
    token_key: TokenKey,
    token_lifetime: Mutex<Duration>,
    pub(crate) faults: FaultQueue<EntraFault>,
    journal: Arc<Journal>,
}

/// Claims of an access token.
pub(crate) struct Bearer {
    pub(crate) audience: String,
    pub(crate) expires: u64,
    pub(crate) tenant: String,
    /// The name of the user, or the ID of the application.
    pub(crate) name: String,
    pub(crate) object_id: String,
    /// Whether the token has the authentication context [`AUTHENTICATION_CONTEXT`].
    pub(crate) has_context: bool,
}

/// The managed identity of a machine.
#[derive(Clone, Debug)]
pub(crate) struct ManagedIdentity {
    pub(crate) client_id: &'static str,
    pub(crate) object_id: &'static str,
    /// The resource ID of the machine, `xms_mirid` of its tokens.
    pub(crate) resource_id: String,
}

/// A valid request for tokens.
struct Grant {
    principal: Principal,
    client: String,
    tenant: &'static str,
    scope: Scope,
    /// Whether the sign-in satisfied a claims challenge.
    has_claims: bool,
}

impl Entra {
    pub(crate) fn new(settings: &Settings, journal: Arc<Journal>) -> Self {
        // Entra's generated secrets have this form. `~` is an unreserved character.
        let client_secret = format!("Q8~{}", Uuid::new_v4().simple());
        journal.record_secret(client_secret.as_str());
        Self {
            client_secret,
            throttles: Throttles::default(),
            sign_ins: SignIns::new(settings.device_interval, settings.device_decision),
            assertions: Assertions::new(&settings.directory, settings.clock),
            ssh_certificates: SshCertificates::new(&settings.directory, settings.certificate_lifetime),
            authority: settings.authority.clone(),
            subscription_tenant: settings.subscription_tenant,
            clock: settings.clock,
            user_principal_name: settings.user_principal_name.clone(),
            token_key: TokenKey::generate(),
            token_lifetime: Mutex::new(settings.token_lifetime),
            faults: FaultQueue::default(),
            journal,
        }
    }

    pub(crate) fn set_token_lifetime(&self, lifetime: Duration) {
        *lock(&self.token_lifetime) = lifetime;
    }

    /// Returns the claims of `token`, if this service issued it.
    pub(crate) fn bearer(&self, token: &str) -> Option<Bearer> {
        let claims = self.token_key.verify(token)?;
        let text = |name: &str| claims[name].as_str().map(str::to_owned);
        Some(Bearer {
            audience: text("aud")?,
            expires: claims["exp"].as_u64()?,
            tenant: text("tid")?,
            name: text("upn").or_else(|| text("appid"))?,
            object_id: text("oid")?,
            has_context: claims["acrs"]
                .as_array()
                .is_some_and(|all| all.contains(&AUTHENTICATION_CONTEXT.into())),
        })
    }

    /// The token endpoint.
    fn grant(&self, segment: &str, form: &Parameters) -> Result<Value, EntraError> {
        let tenant = self.tenant(segment)?;
        let grant = match form.value("grant_type").unwrap_or_default() {
            "client_credentials" => self.client_credentials(segment, tenant, form)?,
            "authorization_code" => self.redemption(tenant, form, SignIns::redeem_code)?,
            DEVICE_GRANT => self.redemption(tenant, form, SignIns::redeem_device)?,
            "refresh_token" => self.refresh(tenant, form)?,
            other => {
                let text = format!("The app requested an unsupported grant type '{other}'.");
                return Err(EntraError::new("unsupported_grant_type", 70003, text));
            }
        };
        self.tokens(&grant, form)
    }

    /// Microsoft Learn, "OAuth 2.0 client credentials flow on the Microsoft identity platform".
    fn client_credentials(
        &self,
        segment: &str,
        tenant: &'static str,
        form: &Parameters,
    ) -> Result<Grant, EntraError> {
        let field = |name| form.value(name).unwrap_or_default();
        if is_any_tenant(segment) {
            let text = "No tenant-identifying information found in either the request or implied by any provided \
                        credentials.";
            return Err(EntraError::new("invalid_request", 50059, text));
        }
        let client = field("client_id");
        if public_client(client).is_some() {
            return Err(needs_secret());
        }
        if !client.eq_ignore_ascii_case(CLIENT_ID) {
            return Err(unknown_application(client, tenant));
        }
        match form.value("client_assertion") {
            Some(assertion) => self.check_assertion(assertion, segment, field("client_assertion_type"))?,
            None => self.check_secret(client, field("client_secret"))?,
        }
        let scope = Scope::parse(field("scope"), &Principal::Application, tenant)?;
        let client = CLIENT_ID.to_owned();
        Ok(Grant { principal: Principal::Application, client, tenant, scope, has_claims: true })
    }

    fn check_assertion(&self, assertion: &str, segment: &str, kind: &str) -> Result<(), EntraError> {
        if kind != JWT_BEARER {
            return Err(error::malformed("client_assertion_type"));
        }
        self.journal.record_secret(assertion);
        self.assertions.check(assertion, &format!("https://{}/{segment}/oauth2/v2.0/token", self.authority))
    }

    /// The OIDC services of pipelines: GitHub Actions (actions/toolkit, `packages/core/src/oidc-utils.ts`) and Azure
    /// Pipelines (azure_identity 1.0, `azure_pipelines_credential.rs`). [`JOB_TOKEN`] authenticates the job.
    fn oidc(&self, issuer: &str, call: &Call) -> Answer {
        let query = |name, value| call.query.value(name) == Some(value);
        let name = match (&call.method, issuer) {
            (&Method::GET, "github") if query("audience", assertion::AUDIENCE) => "value",
            (&Method::POST, "pipelines")
                if query("api-version", "7.1") && query("serviceConnectionId", "connection") =>
            {
                "oidcToken"
            }
            _ => return json_answer(400, &json!({ "message": "bad request" })),
        };
        if call.header("authorization") != Some(&format!("Bearer {JOB_TOKEN}")) {
            let is_page = issuer == "pipelines" && call.header("x-tfs-fedauthredirect") != Some("Suppress");
            return json_answer(if is_page { 302 } else { 401 }, &json!({ "message": "unauthorized" }));
        }
        let token = self.assertions.sign_federated();
        self.journal.record_secret(token.as_str());
        json_answer(200, &json!({ name: token }))
    }

    /// Writes a federated token to a file.
    pub(crate) fn federated_token(&self) -> anyhow::Result<PathBuf> {
        let (file, token) = self.assertions.federated_token()?;
        self.journal.record_secret(token);
        Ok(file)
    }

    fn check_secret(&self, client: &str, secret: &str) -> Result<(), EntraError> {
        if secret == self.client_secret {
            return Ok(());
        }
        let text = format!(
            "Invalid client secret provided. Ensure the secret being sent in the request is the client secret \
             value, not the client secret ID, for a secret added to app '{client}'."
        );
        Err(EntraError::new("invalid_client", 7_000_215, text))
    }

    /// Redeems a sign-in with `redeem`. The scope is that of the request, or else that of the sign-in.
    fn redemption(
        &self,
        tenant: &'static str,
        form: &Parameters,
        redeem: impl Fn(&SignIns, &str, &Parameters) -> Result<SignIn, EntraError>,
    ) -> Result<Grant, EntraError> {
        let client = registered(form, tenant)?;
        let sign_in = redeem(&self.sign_ins, client, form)?;
        if sign_in.tenant != tenant {
            return Err(error::invalid_grant("it was issued in another tenant"));
        }
        let scope = form.value("scope").unwrap_or(&sign_in.scope);
        let scope = Scope::parse(scope, &Principal::User, tenant)?;
        let has_claims = sign_in.has_claims;
        Ok(Grant { principal: Principal::User, client: client.to_owned(), tenant, scope, has_claims })
    }

    fn refresh(&self, tenant: &'static str, form: &Parameters) -> Result<Grant, EntraError> {
        let client = registered(form, tenant)?;
        let has_claims = self.sign_ins.check_refresh_token(client, form)?;
        let scope = Scope::parse(form.value("scope").unwrap_or_default(), &Principal::User, tenant)?;
        Ok(Grant { principal: Principal::User, client: client.to_owned(), tenant, scope, has_claims })
    }

    fn tokens(&self, grant: &Grant, form: &Parameters) -> Result<Value, EntraError> {
        let lifetime = lock(&self.token_lifetime).as_secs();
        let mut answer = json!({
            "token_type": "Bearer", "expires_in": lifetime, "ext_expires_in": lifetime,
            "access_token": self.access_token(grant, form, lifetime),
        });
        if grant.principal == Principal::User {
            self.add_users_tokens(&mut answer, grant, form);
        }
        if form.value("token_type") == Some("ssh-cert") {
            let lifetime = self.ssh_certificates.lifetime.as_secs().saturating_sub(1);
            answer["token_type"] = "ssh-cert".into();
            answer["access_token"] = self.ssh_certificate(grant, form)?.into();
            (answer["expires_in"], answer["ext_expires_in"]) = (lifetime.into(), lifetime.into());
        }
        Ok(answer)
    }

    /// No source has the principal in an application's certificate; the ID of the application is an assumption.
    fn ssh_certificate(&self, grant: &Grant, form: &Parameters) -> Result<String, EntraError> {
        if !grant.scope.is_for_ssh() {
            return Err(error::malformed(
                "an SSH certificate needs the scope of the sign-in to Linux machines",
            ));
        }
        let principal = match grant.principal {
            Principal::User => self.user_principal_name.as_str(),
            Principal::Application => CLIENT_ID,
        };
        let object_id = grant.principal.object_id(grant.tenant);
        let subject = CertificateSubject { principal, object_id, tenant: grant.tenant };
        self.ssh_certificates.issue(form, &subject, self.clock.unix_seconds())
    }

    fn add_users_tokens(&self, answer: &mut Value, grant: &Grant, form: &Parameters) {
        answer["scope"] = grant.scope.text.as_str().into();
        if grant.scope.wants_refresh_token() {
            let token = self.sign_ins.refresh_token(&grant.client, grant.has_claims);
            self.journal.record_secret(token.as_str());
            answer["refresh_token"] = token.into();
            // Azure CLI belongs to a family of clients (MSAL token_cache.py, `family_id`).
            if grant.client.eq_ignore_ascii_case(AZURE_CLI) {
                answer["foci"] = "1".into();
            }
        }
        if grant.scope.wants_id_token() {
            let claims = principal::id_claims(&grant.client, grant.tenant, &self.user_principal_name);
            answer["id_token"] = self.signed(claims, grant.tenant, 3600).into();
        }
        if form.value("client_info") == Some("1") {
            answer["client_info"] = principal::client_info().into();
        }
    }

    /// A token has an authentication context only if the request contains its claim (Microsoft Learn, "Developer guide to
    /// Conditional Access authentication context").
    fn access_token(&self, grant: &Grant, form: &Parameters, lifetime: u64) -> String {
        let Grant { principal, client, tenant, scope, has_claims } = grant;
        let mut claims = principal.claims(client, tenant, &self.user_principal_name);
        let requested = form.value("claims").and_then(|json| serde_json::from_str::<Value>(json).ok());
        if let Some(requested) = requested.filter(|_| *has_claims) {
            claims["acrs"] = requested["access_token"]["acrs"]["values"].clone();
        }
        claims["aud"] = scope.audience.as_str().into();
        claims["ver"] = "1.0".into();
        claims["uti"] = Uuid::new_v4().simple().to_string().into();
        self.signed(claims, tenant, lifetime)
    }

    fn signed(&self, mut claims: Value, tenant: &str, lifetime: u64) -> String {
        let now = self.clock.unix_seconds();
        claims["iss"] = format!("https://sts.windows.net/{tenant}/").into();
        for (name, time) in [("iat", now), ("nbf", now), ("exp", now + lifetime)] {
            claims[name] = time.into();
        }
        let token = self.token_key.sign(&claims);
        self.journal.record_secret(token.as_str());
        token
    }

    /// Issues a token for a managed identity. Returns it with its lifetime in seconds. Managed identities have no SSH
    /// certificates: their endpoints have no parameter for a key.
    pub(crate) fn managed_identity_token(
        &self,
        identity: &ManagedIdentity,
        resource: &str,
    ) -> Result<(String, u64), EntraError> {
        let lifetime = lock(&self.token_lifetime).as_secs();
        let scope =
            Scope::parse(&format!("{resource}/.default"), &Principal::Application, self.subscription_tenant)?;
        let object_id = identity.object_id;
        let claims = json!({
            "aud": scope.audience, "appid": identity.client_id, "oid": object_id, "sub": object_id,
            "tid": self.subscription_tenant,
            "idtyp": "app", "ver": "1.0", "xms_mirid": identity.resource_id,
            "uti": Uuid::new_v4().simple().to_string(),
        });
        Ok((self.signed(claims, self.subscription_tenant, lifetime), lifetime))
    }

    /// Returns the tenant of the first segment of a path. User and application have the home tenant [`TENANT`].
    fn tenant(&self, segment: &str) -> Result<&'static str, EntraError> {
        if is_one_of(&[TENANT, DOMAIN], segment) || is_any_tenant(segment) {
            return Ok(TENANT);
        }
        if self.subscription_tenant.eq_ignore_ascii_case(segment) {
            return Ok(self.subscription_tenant);
        }
        let text =
            format!("Tenant '{segment}' not found. Check to make sure you have the correct tenant ID.");
        Err(EntraError::new("invalid_request", 90002, text))
    }

    fn device_code(&self, segment: &str, form: &Parameters) -> Result<Value, EntraError> {
        let tenant = self.tenant(segment)?;
        let client = registered(form, tenant)?.to_owned();
        let scope = form.value("scope").unwrap_or_default().to_owned();
        Scope::parse(&scope, &Principal::User, tenant)?;
        let has_claims = form.value("claims").is_some();
        let (body, device_code) = self.sign_ins.begin_device(SignIn { client, tenant, scope, has_claims });
        self.journal.record_secret(device_code);
        Ok(body)
    }

    fn authorize(&self, segment: &str, query: &Parameters) -> Result<Answer, EntraError> {
        let tenant = self.tenant(segment)?;
        let client = registered(query, tenant)?.to_owned();
        let scope = query.value("scope").unwrap_or_default().to_owned();
        Scope::parse(&scope, &Principal::User, tenant)?;
        let sign_in = SignIn { client, tenant, scope, has_claims: query.value("claims").is_some() };
        let (answer, code) = self.sign_ins.authorize(sign_in, query, self.clock.unix_seconds())?;
        self.journal.record_secret(code.unwrap_or_default());
        Ok(answer)
    }
}

/// Returns whether `segment` means the home tenant of the user.
fn is_any_tenant(segment: &str) -> bool {
    ["organizations", "common"].contains(&segment)
}

/// Returns the public client of a request.
fn registered<'a>(parameters: &'a Parameters, tenant: &str) -> Result<&'a str, EntraError> {
    let client = parameters.value("client_id").ok_or_else(|| error::missing("client_id"))?;
    if client.eq_ignore_ascii_case(CLIENT_ID) {
        return Err(needs_secret());
    }
    public_client(client).ok_or_else(|| unknown_application(client, tenant))
}

fn public_client(client: &str) -> Option<&str> {
    is_one_of(&[AZURE_CLI, PUBLIC_CLIENT], client).then_some(client)
}

fn needs_secret() -> EntraError {
    let text =
        "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.";
    EntraError::new("invalid_client", 7_000_218, text)
}

impl Handler for Entra {
    const SERVICE: Service = Service::Entra;

    fn clock(&self) -> Clock {
        self.clock
    }

    async fn answer(self: Arc<Self>, call: Call) -> Answer {
        let now = self.clock.unix_seconds();
        let segments: Vec<&str> = call.path.trim_start_matches('/').split('/').collect();
        let form = || Parameters::from_form(&String::from_utf8_lossy(&call.body));
        let result = match (&call.method, segments.as_slice()) {
            (&Method::POST, [tenant, "oauth2", "v2.0", "token"]) => {
                if let Some(seconds) = self.throttles.retry_after(|()| true) {
                    return error::throttled(seconds, now);
                }
                if let Some(fault) = self.faults.next(|_| true) {
                    return fault.answer().await;
                }
                self.grant(tenant, &form())
            }
            (&Method::POST, [tenant, "oauth2", "v2.0", "devicecode"]) => self.device_code(tenant, &form()),
            (&Method::GET, [tenant, "oauth2", "v2.0", "authorize"]) => {
                let query = Parameters::from_form(call.raw_query());
                return self.authorize(tenant, &query).unwrap_or_else(|error| error.page(now));
            }
            (_, ["oidc", issuer]) => return self.oidc(issuer, &call),
            _ => return error::html(404, ""),
        };
        result.map_or_else(|error| error.answer(now), |body| json_answer(200, &body))
    }
}
