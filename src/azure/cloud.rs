//! Which Azure: where ARM and Entra ID answer, and for whom an ARM token must be made out.

use anyhow::{Context, Result, ensure};
use azure_core::http::Url;

use crate::azure::relay_host::RelaySuffixes;

/// The clouds with a name. Spelling as typed after `--cloud`; Azure CLI's names for them are accepted too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CloudName {
    /// Azure, the worldwide cloud; an empty ARCSSH_CLOUD means it too.
    #[value(help = "Azure global", aliases = ["AzureCloud", ""])]
    Public,
    /// Azure operated by 21Vianet.
    #[value(alias = "AzureChinaCloud")]
    China,
    /// Azure Government.
    #[value(name = "usgov", alias = "AzureUSGovernment")]
    UsGov,
}

/// ARM endpoint, audience of its tokens, and sign-in authority of each named cloud.
///
/// Source: azure-cli-core 2.91.0 `azure/cli/core/cloud.py`.
impl CloudName {
    fn endpoints(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Public => (
                "https://management.azure.com",
                "https://management.core.windows.net/",
                "https://login.microsoftonline.com",
            ),
            Self::China => (
                "https://management.chinacloudapi.cn",
                "https://management.core.chinacloudapi.cn/",
                "https://login.chinacloudapi.cn",
            ),
            Self::UsGov => (
                "https://management.usgovcloudapi.net",
                "https://management.core.usgovcloudapi.net/",
                "https://login.microsoftonline.us",
            ),
        }
    }
}

impl CloudName {
    /// The domain of the cloud's relays.
    ///
    /// Source: Microsoft Learn, "Azure Arc network requirements" (public, China); azure-sdk-for-python
    /// `azure-servicebus`, and Microsoft Learn, "Compare Azure Government and global Azure" (US Government).
    pub(crate) fn relay_suffix(self) -> &'static str {
        match self {
            Self::Public => "servicebus.windows.net",
            Self::China => "servicebus.chinacloudapi.cn",
            Self::UsGov => "servicebus.usgovcloudapi.net",
        }
    }

    /// The sign-in to Linux machines (azure-cli-extensions `ssh`, custom.py, `cloudtoscope`).
    fn ssh_scope(self) -> &'static str {
        match self {
            Self::Public => "https://pas.windows.net/CheckMyAccess/Linux/.default",
            Self::China => "https://pas.chinacloudapi.cn/CheckMyAccess/Linux/.default",
            Self::UsGov => "https://pasff.usgovcloudapi.net/CheckMyAccess/Linux/.default",
        }
    }
}

/// Endpoints that a user gives in place of a named cloud's.
#[derive(Clone, Debug, Default)]
pub(crate) struct Endpoints {
    /// ARM's address, `https://…`.
    pub(crate) arm_endpoint: Option<String>,
    /// The resource that an ARM token is asked for; the ARM endpoint itself where only that is given.
    pub(crate) arm_audience: Option<String>,
    /// Entra ID's address, `https://…`.
    pub(crate) authority_host: Option<String>,
    /// DNS suffixes of relays, accepted beside the cloud's own.
    pub(crate) relay_suffixes: Option<RelaySuffixes>,
}

/// One Azure cloud, ready to be talked to.
#[derive(Clone, Debug)]
pub(crate) struct Cloud {
    /// ARM's address.
    pub(crate) arm_endpoint: Url,
    /// The OAuth scope of an ARM token.
    pub(crate) arm_scope: String,
    /// The OAuth scope of an SSH certificate.
    pub(crate) ssh_scope: &'static str,
    /// Entra ID's address.
    pub(crate) authority_host: Url,
    /// Where its relays may be.
    pub(crate) relay_suffixes: RelaySuffixes,
}

impl Cloud {
    /// A named cloud, with single endpoints replaced where the user gave others.
    ///
    /// # Errors
    /// An endpoint is no `https://` URL: a bearer token never travels in the clear.
    pub(crate) fn new(name: CloudName, given: &Endpoints) -> Result<Self> {
        let (arm, audience, authority) = name.endpoints();
        let audience = match (&given.arm_audience, &given.arm_endpoint) {
            (Some(audience), _) => audience,
            (None, Some(endpoint)) => endpoint.trim_end_matches('/'),
            (None, None) => audience,
        };
        Ok(Self {
            arm_endpoint: https(given.arm_endpoint.as_deref().unwrap_or(arm), "ARCSSH_ARM_ENDPOINT")?,
            // Azure CLI appends to the resource as it stands, which doubles a trailing slash; Entra ID expects just that.
            arm_scope: format!("{audience}/.default"),
            ssh_scope: name.ssh_scope(),
            authority_host: https(
                given.authority_host.as_deref().unwrap_or(authority),
                "AZURE_AUTHORITY_HOST",
            )?,
            relay_suffixes: RelaySuffixes::new(&[name.relay_suffix()], given.relay_suffixes.as_ref()),
        })
    }
}

fn https(text: &str, setting: &str) -> Result<Url> {
    // AZURE_AUTHORITY_HOST is also found as a bare host name in the field.
    let url = if text.contains("://") { Url::parse(text) } else { Url::parse(&format!("https://{text}")) };
    let url = url.with_context(|| format!("{setting}={text} is not a URL"))?;
    ensure!(url.scheme() == "https" && url.has_host(), "{setting}={text} is not an https:// URL");
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(
        arm_endpoint: Option<&str>,
        arm_audience: Option<&str>,
        authority_host: Option<&str>,
    ) -> Endpoints {
        Endpoints {
            arm_endpoint: arm_endpoint.map(Into::into),
            arm_audience: arm_audience.map(Into::into),
            authority_host: authority_host.map(Into::into),
            relay_suffixes: None,
        }
    }

    #[test]
    fn a_named_cloud_has_the_scope_that_azure_cli_asks_for() {
        let cloud = Cloud::new(CloudName::Public, &Endpoints::default()).unwrap();
        assert_eq!(cloud.arm_scope, "https://management.core.windows.net//.default");
        assert_eq!(cloud.arm_endpoint.as_str(), "https://management.azure.com/");
        let cloud = Cloud::new(CloudName::UsGov, &Endpoints::default()).unwrap();
        assert_eq!(cloud.authority_host.as_str(), "https://login.microsoftonline.us/");
    }

    /// azure-cli-extensions `ssh`, custom.py, `cloudtoscope`.
    #[test]
    fn a_certificate_is_asked_for_in_the_scope_of_its_cloud() {
        for (name, host) in [
            (CloudName::Public, "pas.windows.net"),
            (CloudName::China, "pas.chinacloudapi.cn"),
            (CloudName::UsGov, "pasff.usgovcloudapi.net"),
        ] {
            let cloud = Cloud::new(name, &Endpoints::default()).unwrap();
            assert_eq!(cloud.ssh_scope, format!("https://{host}/CheckMyAccess/Linux/.default"));
        }
    }

    #[test]
    fn given_endpoints_replace_the_named_clouds() {
        let stack = given(Some("https://management.local.azurestack.external/"), None, None);
        let cloud = Cloud::new(CloudName::Public, &stack).unwrap();
        assert_eq!(cloud.arm_scope, "https://management.local.azurestack.external/.default");
        let both =
            given(Some("https://[::1]:8443"), Some("https://management.azure.com"), Some("login.example"));
        let cloud = Cloud::new(CloudName::China, &both).unwrap();
        assert_eq!(cloud.arm_scope, "https://management.azure.com/.default");
        assert_eq!(cloud.arm_endpoint.as_str(), "https://[::1]:8443/");
        assert_eq!(cloud.authority_host.as_str(), "https://login.example/");
    }

    #[test]
    fn an_endpoint_in_the_clear_is_refused_by_the_name_of_its_setting() {
        let error =
            Cloud::new(CloudName::Public, &given(Some("http://127.0.0.1:1"), None, None)).unwrap_err();
        assert_eq!(error.to_string(), "ARCSSH_ARM_ENDPOINT=http://127.0.0.1:1 is not an https:// URL");
        let error = Cloud::new(CloudName::Public, &given(None, None, Some("https://"))).unwrap_err();
        assert_eq!(error.to_string(), "AZURE_AUTHORITY_HOST=https:// is not a URL");
    }
}
