//! The endpoints and token scopes of an Azure cloud.

use anyhow::{Context, Result, ensure};
use azure_core::http::Url;
use clap::ValueEnum as _;

use crate::azure::relay_host::RelaySuffixes;
use crate::text::unquoted;

/// A named cloud, spelled as after `--cloud`, or with Azure CLI's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CloudName {
    /// Azure, the worldwide cloud; also for an empty ARCSSH_CLOUD.
    #[value(help = "Azure global", aliases = ["AzureCloud", ""])]
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

    /// Returns Azure CLI's name of the cloud (azure-cli-core, `cloud.py`).
    pub(crate) fn in_azure_cli(self) -> &'static str {
        match self {
            Self::Public => "AzureCloud",
            Self::China => "AzureChinaCloud",
            Self::UsGov => "AzureUSGovernment",
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

impl Endpoints {
    /// Returns whether the user names a service of the cloud.
    pub(crate) fn are_set(&self) -> bool {
        given(&self.arm_endpoint).is_some() || given(&self.authority_host).is_some()
    }
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
    /// Returns the name of the cloud; `None` if an endpoint is the user's own.
    pub(crate) fn name(&self) -> Option<CloudName> {
        let has = |url: &Url, other: &str| Url::parse(other).is_ok_and(|other| *url == other);
        CloudName::value_variants().iter().copied().find(|name| {
            let (arm, _, authority) = name.endpoints();
            has(&self.arm_endpoint, arm) && has(&self.authority_host, authority)
        })
    }

    /// Returns a named cloud with the user's endpoints.
    ///
    /// # Errors
    /// An endpoint is not an `https://` URL: arcssh never sends a bearer token over plain HTTP.
    pub(crate) fn new(name: CloudName, custom: &Endpoints) -> Result<Self> {
        let (arm, audience, authority) = name.endpoints();
        let audience = match (given(&custom.arm_audience), given(&custom.arm_endpoint)) {
            (Some(audience), _) => audience,
            (None, Some(endpoint)) => endpoint.trim_end_matches('/'),
            (None, None) => audience,
        };
        Ok(Self {
            arm_endpoint: https(given(&custom.arm_endpoint).unwrap_or(arm), "ARCSSH_ARM_ENDPOINT")?,
            // The slash is doubled if the resource ends in one, as in Azure CLI; Entra ID expects this.
            arm_scope: format!("{audience}/.default"),
            ssh_scope: name.ssh_scope(),
            authority_host: https(
                given(&custom.authority_host).unwrap_or(authority),
                "AZURE_AUTHORITY_HOST",
            )?,
            relay_suffixes: RelaySuffixes::new(&[name.relay_suffix()], custom.relay_suffixes.as_ref()),
        })
    }
}

/// Returns a setting, if it is not empty.
fn given(value: &Option<String>) -> Option<&str> {
    value.as_deref().map(unquoted).filter(|text| !text.is_empty())
}

fn https(text: &str, setting: &str) -> Result<Url> {
    ensure!(
        !text.contains('@'),
        "{setting} contains a user name, which the address of a service cannot have"
    );
    // Some environments set AZURE_AUTHORITY_HOST to a host name without a scheme.
    let url = if text.contains("://") { Url::parse(text) } else { Url::parse(&format!("https://{text}")) };
    let url = url.with_context(|| format!("{setting}={text} is not a URL"))?;
    let is_address = url.query().is_none() && url.fragment().is_none() && url.port() != Some(0);
    ensure!(
        url.scheme() == "https" && url.has_host() && is_address,
        "{setting}={text} is not an https:// URL"
    );
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
        assert_eq!(cloud.name(), Some(CloudName::UsGov));
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
        assert_eq!(cloud.name(), None);
    }

    #[test]
    fn an_http_endpoint_is_rejected_with_the_name_of_its_setting() {
        let error =
            Cloud::new(CloudName::Public, &endpoints(Some("http://127.0.0.1:1"), None, None)).unwrap_err();
        assert_eq!(error.to_string(), "ARCSSH_ARM_ENDPOINT=http://127.0.0.1:1 is not an https:// URL");
        let error = Cloud::new(CloudName::Public, &endpoints(None, None, Some("https://"))).unwrap_err();
        assert_eq!(error.to_string(), "AZURE_AUTHORITY_HOST=https:// is not a URL");
        for unusable in
            ["https://a.example?b", "https://a.example#b", "https://a.example:70000", "https://a b"]
        {
            let error = Cloud::new(CloudName::Public, &endpoints(Some(unusable), None, None)).unwrap_err();
            assert!(
                error.to_string().starts_with(&format!("ARCSSH_ARM_ENDPOINT={unusable} is not ")),
                "{error}"
            );
        }
        let user = endpoints(None, None, Some("https://ada:secret@login.example"));
        let error = Cloud::new(CloudName::Public, &user).unwrap_err();
        assert_eq!(
            format!("{error:#}"),
            "AZURE_AUTHORITY_HOST contains a user name, which the address of a service cannot have"
        );
    }

    #[test]
    fn blanks_and_quotes_around_an_endpoint_are_removed() {
        let quoted = endpoints(Some(" \"https://arm.example/\" "), Some("'https://arm.example'"), Some(" "));
        let cloud = Cloud::new(CloudName::Public, &quoted).unwrap();
        assert_eq!(cloud.arm_endpoint.as_str(), "https://arm.example/");
        assert_eq!(cloud.arm_scope, "https://arm.example/.default");
        assert_eq!(cloud.authority_host.as_str(), "https://login.microsoftonline.com/");
    }

    #[test]
    fn an_empty_endpoint_is_none_of_the_users_own() {
        let empty = endpoints(Some(""), None, Some(" "));
        assert!(!empty.are_set());
        assert_eq!(Cloud::new(CloudName::Public, &empty).unwrap().name(), Some(CloudName::Public));
        assert!(endpoints(None, None, Some("https://login.example")).are_set());
    }
}
