//! The cloud of Azure CLI.

use crate::azure::credentials::cli_tools::file;
use crate::azure::credentials::service_principal::variable;
use crate::system::files::{MAX_TEXT, read_text};

/// Returns the name of the cloud that Azure CLI uses, if one was set: `AZURE_CLOUD_NAME`, else the option `name` in the
/// section `cloud` of its configuration (azure-cli-core, `cloud.py`, `get_active_cloud_name`; knack, `config.py`).
pub(crate) fn azure_cli_cloud() -> Option<String> {
    variable("AZURE_CLOUD_NAME").ok().flatten().or_else(|| {
        let config = file("AZURE_CONFIG_DIR", ".azure", "config")?;
        cloud_name(&read_text(&config, MAX_TEXT).ok()?)
    })
}

/// Returns the name in a configuration (Python, `configparser`).
fn cloud_name(config: &str) -> Option<String> {
    let mut section = "";
    let mut name = None;
    for line in config.trim_start_matches('\u{feff}').lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[') {
            section = header.split(']').next().unwrap_or_default();
        } else if let Some((key, value)) = line.split_once(['=', ':'])
            && section == "cloud"
            && key.trim().eq_ignore_ascii_case("name")
        {
            name = Some(value.trim().to_owned()).filter(|value| !value.is_empty());
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cloud_is_the_name_in_its_section() {
        let name = |config: &str| cloud_name(config);
        let file = "\u{feff}[core]\r\nname = x\r\n# [cloud]\r\n[cloud]\r\nName : AzureUSGovernment\r\n[defaults]\r\nname = y\r\n";
        assert_eq!(name(file).as_deref(), Some("AzureUSGovernment"));
        assert_eq!(name("[cloud]\nname=AzureChinaCloud").as_deref(), Some("AzureChinaCloud"));
        for config in ["", "name = x", "[cloud]\n; name = x\nname =\nnames = x", "[Cloud]\nname = x"] {
            assert_eq!(name(config), None, "{config}");
        }
    }
}
