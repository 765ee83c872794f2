//! The endpoints and token scopes of an Azure cloud.

use anyhow::{Context, Result, ensure};
use azure_core::http::Url;

use crate::azure::relay_host::RelaySuffixes;

/// A named cloud, spelled as after `--cloud`, or with Azure CLI's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CloudName {
    /// Azure, the worldwide cloud, also for an empty ARCSSH_CLOUD.
    #[value(help = "Azure, the worldwide cloud", aliases = ["AzureCloud", ""])]
    Public,
    /// Azure operated by 21Vianet.
    #[value(alias = "AzureChinaCloud")]
    China,
    /// Azure Government.
    #[value(name = "usgov", alias = "AzureUSGovernment")]
    UsGov,
}

impl CloudName {
    /// Returns ARM endpoint, audience of its tokens, and sign-in authority.
    ///
    /// Source: azure-cli-core 2.91.0 `azure/cli/core/cloud.py`.
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

    /// Returns the domain of the cloud's relays.
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

    /// Returns the scope of SSH certificates (azure-cli-extensions `ssh`, custom.py, `cloudtoscope`).
    fn ssh_scope(self) -> &'static str {
        match self {
            Self::Public => "https://pas.windows.net/CheckMyAccess/Linux/.default",
            Self::China => "https://pas.chinacloudapi.cn/CheckMyAccess/Linux/.default",
            Self::UsGov => "https://pasff.usgovcloudapi.net/CheckMyAccess/Linux/.default",
        }
    }
}

/// The user's endpoints, which replace those of a named cloud.
#[derive(Clone, Debug, Default)]
pub(crate) struct Endpoints {
    pub(crate) arm_endpoint: Option<String>,
    /// The resource of ARM tokens. Without it, the resource is `arm_endpoint`.
    pub(crate) arm_audience: Option<String>,
    /// Entra ID's URL.
    pub(crate) authority_host: Option<String>,
    /// DNS suffixes of relays, in addition to the cloud's own.
    pub(crate) relay_suffixes: Option<RelaySuffixes>,
}

/// The endpoints and scopes of one cloud.
#[derive(Clone, Debug)]
pub(crate) struct Cloud {
    pub(crate) arm_endpoint: Url,
    /// The OAuth scope of an ARM token.
    pub(crate) arm_scope: String,
    /// The OAuth scope of an SSH certificate.
    pub(crate) ssh_scope: &'static str,
    /// Entra ID's URL.
    pub(crate) authority_host: Url,
    pub(crate) relay_suffixes: RelaySuffixes,
}

impl Cloud {
    /// Returns a named cloud with the user's endpoints.
    ///
    /// # Errors
    /// An endpoint is not an `https://` URL: arcssh never sends a bearer token over plain HTTP.
    pub(crate) fn new(name: CloudName, custom: &Endpoints) -> Result<Self> {
        let (arm, audience, authority) = name.endpoints();
        let audience = match (&custom.arm_audience, &custom.arm_endpoint) {
            (Some(audience), _) => audience,
            (None, Some(endpoint)) => endpoint.trim_end_matches('/'),
            (None, None) => audience,
        };
        Ok(Self {
            arm_endpoint: https(custom.arm_endpoint.as_deref().unwrap_or(arm), "ARCSSH_ARM_ENDPOINT")?,
            // The slash is doubled if the resource ends in one, as in Azure CLI; Entra ID expects this.
            arm_scope: format!("{audience}/.default"),
            ssh_scope: name.ssh_scope(),
            authority_host: https(
                custom.authority_host.as_deref().unwrap_or(authority),
                "AZURE_AUTHORITY_HOST",
            )?,
            relay_suffixes: RelaySuffixes::new(&[name.relay_suffix()], custom.relay_suffixes.as_ref()),
        })
    }
}

fn https(text: &str, setting: &str) -> Result<Url> {
    // Some environments set AZURE_AUTHORITY_HOST to a host name without a scheme.
    let url = if text.contains("://") { Url::parse(text) } else { Url::parse(&format!("https://{text}")) };
    let url = url.with_context(|| format!("{setting}={text} is not a URL"))?;
    ensure!(url.scheme() == "https" && url.has_host(), "{setting}={text} is not an https:// URL");
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(
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
    fn a_named_cloud_has_azure_clis_scope() {
        let cloud = Cloud::new(CloudName::Public, &Endpoints::default()).unwrap();
        assert_eq!(cloud.arm_scope, "https://management.core.windows.net//.default");
        assert_eq!(cloud.arm_endpoint.as_str(), "https://management.azure.com/");
        let cloud = Cloud::new(CloudName::UsGov, &Endpoints::default()).unwrap();
        assert_eq!(cloud.authority_host.as_str(), "https://login.microsoftonline.us/");
    }

    /// azure-cli-extensions `ssh`, custom.py, `cloudtoscope`.
    #[test]
    fn each_cloud_has_its_ssh_certificate_scope() {
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
    fn custom_endpoints_replace_the_named_clouds() {
        let stack = endpoints(Some("https://management.local.azurestack.external/"), None, None);
        let cloud = Cloud::new(CloudName::Public, &stack).unwrap();
        assert_eq!(cloud.arm_scope, "https://management.local.azurestack.external/.default");
        let both = endpoints(
            Some("https://[::1]:8443"),
            Some("https://management.azure.com"),
            Some("login.example"),
        );
        let cloud = Cloud::new(CloudName::China, &both).unwrap();
        assert_eq!(cloud.arm_scope, "https://management.azure.com/.default");
        assert_eq!(cloud.arm_endpoint.as_str(), "https://[::1]:8443/");
        assert_eq!(cloud.authority_host.as_str(), "https://login.example/");
    }

    #[test]
    fn an_http_endpoint_is_rejected_with_the_name_of_its_setting() {
        let error =
            Cloud::new(CloudName::Public, &endpoints(Some("http://127.0.0.1:1"), None, None)).unwrap_err();
        assert_eq!(error.to_string(), "ARCSSH_ARM_ENDPOINT=http://127.0.0.1:1 is not an https:// URL");
        let error = Cloud::new(CloudName::Public, &endpoints(None, None, Some("https://"))).unwrap_err();
        assert_eq!(error.to_string(), "AZURE_AUTHORITY_HOST=https:// is not a URL");
    }
}
