//! Credentials: each source of a token, the order of the sources, and the error of each.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use arcssh_emulator::{ArmCall, ArmFault, EntraFault, JOB_TOKEN, Service};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use crate::support::{ARCSSH, Lab, Limited, Run, eventually, finish, lab, lab_with, run, script, terminal};

const SIGN_IN: &str = "arcssh: hint: sign in: arcssh login";
const SERVICE_PRINCIPAL: &str = "arcssh: hint: check AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET, or unset them and run: arcssh login";

// Programs.

#[test]
fn without_an_account_the_hint_is_to_sign_in() {
    let w = lab(&["web01"]);
    let run = run(anonymous(&w, &mut w.proxy("web01")));
    let why = "arcssh: cannot connect to web01: no account is signed in: arcssh found no service principal, no managed identity, and no sign-in of arcssh, Azure CLI, Azure Developer CLI or Azure PowerShell";
    run.failed(3, &[why, SIGN_IN]);
    assert!(w.emulator().requests_to(Service::Arm).is_empty());
}

#[test]
fn azure_cli_does_not_read_the_input_of_ssh() {
    let w = lab(&["web01"]);
    azure_cli(&w, &azure_cli_script(&w));
    let run = run(anonymous(&w, w.ssh().args(["web01", "echo reached"])));
    assert_eq!(run.clean(), "reached\n");
    let read = fs::read(w.home().join("read-by-az")).unwrap();
    assert_eq!(read, b"", "Azure CLI read from ssh's connection");
}

#[test]
fn each_program_is_called_with_tenant_and_audience() {
    let w = lab(&["web01"]);
    let token = token(&w);
    let expiry = "$(date -u -d '+1 hour' +%Y-%m-%dT%H:%M:%SZ)";
    let cases = [
        (
            "az",
            "Azure CLI",
            format!(
                r#"printf '{{"accessToken":"{token}","tokenType":"Bearer","expires_on":%s}}' "$(date -d '+1 hour' +%s)""#
            ),
        ),
        (
            "azd",
            "Azure Developer CLI",
            format!(r#"printf '{{"token":"{token}","expiresOn":"%s"}}' "{expiry}""#),
        ),
        (
            "pwsh",
            "Azure PowerShell",
            format!(r#"printf '{{"token":"{token}","expiresOn":%s}}' "$(date -d '+1 hour' +%s)""#),
        ),
    ];
    for (program, title, output_script) in cases {
        let bin = w.home().join(program);
        add_program(&bin, program, &format!("echo \"$@\" > \"$HOME/arguments\"\n{output_script}"));
        let account = || {
            let mut account = w.arcssh(&["account", "--tenant", "contoso.example"]);
            anonymous(&w, &mut account)
                .env("PATH", &bin)
                .env("ARCSSH_STATE_DIR", w.home().join(format!("state-{program}")));
            run(&mut account).clean()
        };
        let output = account();
        let lines: Vec<(&str, &str)> = output.lines().map(|line| line.split_once(' ').unwrap()).collect();
        assert_eq!(lines[0], ("source", &*format!("  {title}")));
        assert_eq!(lines[1], ("account", " application c11e4700-0000-4000-8000-000000000001"));
        assert_eq!(lines[2], ("tenant", "  7e4a4700-0000-4000-8000-000000000001"));
        assert!(lines[3].0 == "expires" && lines[3].1.ends_with(" minutes"), "{output}");
        let arguments = fs::read_to_string(w.home().join("arguments")).unwrap();
        let arguments =
            if program == "pwsh" { decode(arguments.split_whitespace().last().unwrap()) } else { arguments };
        assert!(arguments.contains("contoso.example"), "{arguments}");
        assert!(arguments.contains(&audience(&w)), "{arguments}");
        // A cached token needs no program.
        fs::remove_file(bin.join(program)).unwrap();
        let without_minutes = |output: &str| output.rsplit_once(", in ").map(|(rest, _)| rest.to_owned());
        assert_eq!(without_minutes(&account()), without_minutes(&output));
    }
}

#[test]
fn an_error_of_a_program_ends_the_search() {
    let cases = [
        (
            "az",
            "echo 'AADSTS70043: The refresh token has expired.' >&2; echo 'Interactive authentication is needed. Please run:' >&2; echo 'az login' >&2; exit 1",
            "cannot get a token of Azure CLI: AADSTS70043: The refresh token has expired. Interactive authentication is needed. Please run: az login",
            "arcssh: hint: sign in again: az login; or: arcssh login",
        ),
        (
            "az",
            r#"printf '{"accessToken":"a\\r\\nX: y"}'"#,
            "cannot get a token of Azure CLI: its output is not a token",
            "arcssh: hint: update Azure CLI; or select another credential source with --credential or ARCSSH_CREDENTIAL",
        ),
        (
            "az",
            r#"echo '{"accessToken":""}'"#,
            "cannot get a token of Azure CLI: its output is not a token",
            "arcssh: hint: update Azure CLI; or select another credential source with --credential or ARCSSH_CREDENTIAL",
        ),
        (
            "az",
            r#"printf 'WARNING: x\nERROR: The command failed with an unexpected error. Here is the traceback:\nTraceback (most recent call last):\n  File "a.py", line 1\nPermissionError: [Errno 13] /home/a/.azure/config\nTo check existing issues, please visit: https://github.com/Azure/azure-cli/issues\n' >&2; exit 1"#,
            "cannot get a token of Azure CLI: PermissionError: [Errno 13] /home/a/.azure/config",
            "arcssh: hint: to check Azure CLI, run: az account get-access-token; or sign in without Azure CLI: arcssh login",
        ),
        (
            "az",
            "echo \"ERROR: Please ensure you have network connection. Error detail: HTTPSConnectionPool(host='login.microsoftonline.com', port=443): Max retries exceeded with url: /x/oauth2/v2.0/token\" >&2; exit 1",
            "cannot get a token of Azure CLI: ERROR: Please ensure you have network connection. Error detail: HTTPSConnectionPool(host='login.microsoftonline.com', port=443): Max retries exceeded with url: /x/oauth2/v2.0/token",
            "arcssh: hint: check the network of this computer; if it requires a proxy, run: export HTTPS_PROXY=http://PROXY:PORT",
        ),
        (
            "azd",
            "echo 'ERROR: failed to load the configuration' >&2; exit 1",
            "cannot get a token of Azure Developer CLI: ERROR: failed to load the configuration",
            "arcssh: hint: to check Azure Developer CLI, run: azd auth token; or sign in without Azure Developer CLI: arcssh login",
        ),
        (
            "az",
            "echo 'ERROR: AADSTS700024: Client assertion is not within its valid time range.' >&2; exit 1",
            "cannot get a token of Azure CLI: ERROR: AADSTS700024: Client assertion is not within its valid time range.",
            "arcssh: hint: check the clock of this computer; or sign in again: az login; or: arcssh login",
        ),
        (
            "azd",
            r#"echo '{"type":"consoleMessage","data":{"message":"a new version"}} {"error":"fetching token: reauthentication required"}' >&2; exit 1"#,
            "cannot get a token of Azure Developer CLI: fetching token: reauthentication required",
            "arcssh: hint: sign in again: azd auth login; or: arcssh login",
        ),
        (
            "pwsh",
            "echo nothing",
            "cannot get a token of Azure PowerShell: its output is not a token",
            "arcssh: hint: update Azure PowerShell; or select another credential source with --credential or ARCSSH_CREDENTIAL",
        ),
    ];
    let w = lab(&["web01"]);
    for (number, (program, body, why, hint)) in cases.into_iter().enumerate() {
        let bin = w.home().join(number.to_string());
        add_program(&bin, program, body);
        if program != "pwsh" {
            add_program(&bin, "pwsh", "touch \"$HOME/calls\"");
        }
        let run = run(anonymous(&w, &mut w.proxy("web01")).env("PATH", &bin));
        run.failed(3, &[&format!("arcssh: cannot connect to web01: {why}"), hint]);
        assert!(!w.home().join("calls").exists(), "arcssh tried other sources after {program}");
    }
}

const AZ_SIGNED_OUT: &str = "echo \"ERROR: Please run 'az login' to setup account.\" >&2; exit 1";
const AZD_SIGNED_OUT: &str = r#"echo '{"type":"consoleMessage","data":{"message":"ERROR: fetching token: not logged in, run `azd auth login` to login"}}' >&2; exit 1"#;
const PWSH_SIGNED_OUT: &str = "echo 'Run Connect-AzAccount to login.' >&2; exit 1";

#[test]
fn a_program_without_a_signed_in_account_is_skipped_and_reported_at_the_end() {
    let w = lab(&["web01"]);
    let cases = [
        (
            "az",
            AZ_SIGNED_OUT,
            "Azure CLI is unavailable: ERROR: Please run 'az login' to setup account.",
            " or az login",
        ),
        (
            "az",
            "echo 'ERROR: No subscription found. Run '\"'\"'az account set'\"'\"' to select a subscription.' >&2; exit 1",
            "Azure CLI is unavailable: ERROR: No subscription found. Run 'az account set' to select a subscription.",
            " or az login",
        ),
        (
            "az",
            "exit 127",
            "Azure CLI is unavailable: az cannot be started: exit status: 127",
            "; or repair or remove Azure CLI",
        ),
        (
            "azd",
            AZD_SIGNED_OUT,
            "Azure Developer CLI is unavailable: ERROR: fetching token: not logged in, run `azd auth login` to login",
            " or azd auth login",
        ),
        (
            "pwsh",
            PWSH_SIGNED_OUT,
            "Azure PowerShell is unavailable: Run Connect-AzAccount to login.",
            " or Connect-AzAccount",
        ),
    ];
    for (number, (program, body, why, hint)) in cases.into_iter().enumerate() {
        let bin = w.home().join(number.to_string());
        add_program(&bin, program, body);
        let why = format!("arcssh: cannot connect to web01: no account is signed in: {why}");
        let hint = format!("{SIGN_IN}{hint}");
        run(anonymous(&w, &mut w.proxy("web01")).env("PATH", &bin)).failed(3, &[&why, &hint]);
        add_program(&bin, "pwsh", &powershell_script(&w));
        let account = run(anonymous(&w, &mut w.arcssh(&["account"])).env("PATH", &bin)).clean();
        assert!(account.starts_with("source   Azure PowerShell\n"), "{program}: {account}");
        w.clear_cache();
    }
    let named =
        run(anonymous(&w, &mut w.arcssh(&["account", "--credential", "az"])).env("PATH", w.home().join("0")));
    let why = "arcssh: the credential source azure-cli is unavailable: ERROR: Please run 'az login' to setup account.";
    named.failed(3, &[why, "arcssh: hint: sign in again: az login; or: arcssh login"]);
}

#[test]
fn the_reasons_of_all_programs_are_listed() {
    let w = lab(&["web01"]);
    for (program, body) in [("az", AZ_SIGNED_OUT), ("azd", AZD_SIGNED_OUT), ("pwsh", PWSH_SIGNED_OUT)] {
        add_program(&bin(&w), program, body);
    }
    let why = "arcssh: no account is signed in: Azure CLI is unavailable: ERROR: Please run 'az login' to setup account.; Azure Developer CLI is unavailable: ERROR: fetching token: not logged in, run `azd auth login` to login; Azure PowerShell is unavailable: Run Connect-AzAccount to login.";
    let hint = "arcssh: hint: sign in: arcssh login, az login, azd auth login or Connect-AzAccount";
    run(anonymous(&w, &mut w.arcssh(&["account"]))).failed(3, &[why, hint]);
    // A file that the system cannot execute.
    script(&bin(&w), "az", "#!/nonexistent/interpreter\n");
    let failed = run(anonymous(&w, &mut w.arcssh(&["account"])));
    let why = "arcssh: no account is signed in: Azure CLI is unavailable: az cannot be started: No such file or directory (os error 2); ";
    assert!(failed.arcssh_lines()[0].starts_with(why), "{}", failed.stderr);
}

#[test]
fn the_token_of_a_program_is_found_among_other_output() {
    let w = lab(&["web01"]);
    let token = token(&w);
    let az = format!("{{\n  \"accessToken\": \"{token}\",\n  \"expires_on\": 4102444800\n}}");
    let azd = format!("{{\"token\":\"{token}\",\"expiresOn\":\"2099-01-01T00:00:00Z\"}}");
    let pwsh = format!("{{\"token\":\"{token}\",\"expiresOn\":4102444800}}");
    let surroundings = [
        ("", "\u{1b}[0m"),
        ("\u{1b}[32m", "\u{1b}[0m\n\u{1b}]0;title\u{7}"),
        ("\u{feff}Welcome to {HOST}: {\"a\": 1}\r\n", "\r\nWARNING: { bye }"),
        ("{\"type\":\"consoleMessage\",\"data\":{\"message\":\"new\"}}\n", "\n{\"token\":\"x\"}"),
    ];
    for (program, json) in [("az", az), ("azd", azd), ("pwsh", pwsh)] {
        for (number, (before, after)) in surroundings.into_iter().enumerate() {
            let bin = w.home().join(format!("{program}{number}"));
            add_program(&bin, program, &format!("cat <<'END'\n{before}{json}{after}\nEND"));
            let mut list = w.arcssh(&["list"]);
            anonymous(&w, &mut list).env("PATH", &bin).env("ARCSSH_STATE_DIR", bin.join("state"));
            assert!(run(&mut list).clean().contains("web01"), "{program} {before:?} {after:?}");
        }
    }
}

#[test]
fn a_program_that_is_not_on_path_is_found_in_a_usual_directory() {
    let w = lab(&["web01"]);
    add_program(&w.home().join(".local/bin"), "az", &azure_cli_script(&w));
    let account = run(anonymous(&w, &mut w.arcssh(&["account"]))).clean();
    assert!(account.starts_with("source   Azure CLI\n"), "{account}");
}

/// azure-cli-core before 2.76, `_profile.py`.
#[test]
fn a_managed_identity_of_azure_cli_is_used_in_its_own_tenant() {
    let w = lab(&["web01"]);
    let refusal = "case \"$*\" in *--tenant*) echo \"ERROR: Tenant shouldn't be specified for managed identity account\" >&2; exit 1;; esac";
    azure_cli(&w, &format!("{refusal}\n{}", azure_cli_script(&w)));
    let own = value(&w, "AZURE_TENANT_ID");
    let account = |tenant: &str| run(anonymous(&w, &mut w.arcssh(&["account", "--tenant", tenant])));
    assert!(account(&own.to_uppercase()).clean().starts_with("source   Azure CLI\n"));
    let other = "00000000-0000-4000-8000-000000000009";
    let why = format!(
        "arcssh: cannot get a token of Azure CLI: the managed identity is in the tenant \"{own}\", and gets no token of the tenant \"{other}\""
    );
    account(other).failed(3, &[&why, &format!("{SIGN_IN} --tenant {other}")]);
}

/// Azure CLI prints the expiry as Unix time since 2.54. Older versions print only local time without a zone.
#[test]
fn all_token_formats_of_azure_cli_are_accepted() {
    let w = lab(&["web01"]);
    let token = token(&w);
    let local =
        r#""expiresOn":"2026-08-20 13:50:47.114324","subscription":"s","tenant":"t","tokenType":"Bearer""#;
    let cases = [
        format!(r#"{{"accessToken":"{token}",{local}}}"#),
        format!(r#"{{"accessToken":"{token}","expires_on":"4102444800",{local}}}"#),
        format!(r#"{{"accessToken":"{token}"}}"#),
        format!("\u{feff}A notice in two\nlines.\n{{\"accessToken\":\"{token}\",{local}}}"),
    ];
    for (number, output_script) in cases.into_iter().enumerate() {
        let bin = w.home().join(number.to_string());
        add_program(&bin, "az", &format!("cat <<'END'\n{output_script}\nEND"));
        let mut list = w.arcssh(&["list"]);
        anonymous(&w, &mut list).env("PATH", &bin).env("ARCSSH_STATE_DIR", bin.join("state"));
        assert!(run(&mut list).clean().contains("web01"), "{output_script}");
    }
}

/// RFC 6749, section 5.1, recommends `expires_in`. Old endpoints write it as text.
#[test]
fn all_token_formats_of_entra_id_are_accepted() {
    let w = lab(&["web01"]);
    let token = token(&w);
    for rest in [
        r#""token_type":"Bearer","expires_in":"3599","ext_expires_in":"3599","expires_on":"4102444800""#,
        r#""token_type":"bearer","expires_in":3599.0,"ext_expires_in":null"#,
        r#""scope":null"#,
        r#""expires_in":1000000000000000"#,
        r#""expires_in":18446744073709551615"#,
    ] {
        run(&mut w.arcssh(&["cache", "clear"]));
        let answer = format!(r#"{{"access_token":"{token}",{rest}}}"#);
        w.emulator().entra_fault(EntraFault::raw(200, "application/json", &answer));
        assert!(run(&mut w.arcssh(&["list"])).clean().contains("web01"), "{rest}");
    }
}

#[test]
fn waiting_processes_share_one_failed_call_of_a_program() {
    let w = lab(&["web01"]);
    let body = "echo call >> \"$HOME/calls\"; until [ -e \"$HOME/go\" ]; do sleep 0.1; done
        echo \"ERROR: Please run 'az login' to setup account.\" >&2; exit 1";
    azure_cli(&w, body);
    // The first progress line shows that a process waits.
    let proxy = || {
        let command = format!("exec {ARCSSH} proxy {} --port {}", w.id(), w.sshd().port());
        let mut proxy = terminal(w.command("script"), &command);
        anonymous(&w, &mut proxy);
        proxy.env("TERM", "dumb").stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()
    };
    let calls = || fs::read_to_string(w.home().join("calls")).unwrap_or_default().lines().count();
    let mut proxies: Vec<Child> = (0..10).map(|_| proxy()).collect();
    for proxy in &mut proxies {
        let mut line = [0; 24];
        Limited(proxy.stdout.as_mut().unwrap()).read_exact(&mut line).unwrap();
        assert_eq!(&line, b"arcssh: waiting for the ");
    }
    fs::write(w.home().join("go"), "").unwrap();
    for proxy in proxies {
        let run = finish(proxy);
        let run = Run { stderr: String::from_utf8_lossy(&run.stdout).replace('\r', ""), ..run };
        let why = "no account is signed in: Azure CLI is unavailable: ERROR: Please run 'az login' to setup account.";
        let lines = run.arcssh_lines();
        assert!(run.code == Some(3) && lines[0].ends_with(why), "{run:?}");
        assert_eq!(lines[1], format!("{SIGN_IN} or az login"));
    }
    assert_eq!(calls(), 1);
    finish(proxy());
    assert_eq!(calls(), 2);
}

#[test]
fn powershell_without_its_module_is_skipped() {
    let w = lab(&["web01"]);
    add_program(&bin(&w), "pwsh", "exit 42");
    let run = run(anonymous(&w, &mut w.arcssh(&["account", "-v"])));
    assert_eq!((run.code, run.stdout.len()), (Some(3), 0));
    assert!(
        run.stderr.contains("skipping Azure PowerShell: Azure PowerShell is not installed"),
        "{}",
        run.stderr
    );
    assert_eq!(run.arcssh_lines().last(), Some(&SIGN_IN));
}

#[test]
fn the_log_lists_each_skipped_source_with_the_reason() {
    let w = lab(&["web01"]);
    azure_cli(&w, &azure_cli_script(&w));
    let run = run(anonymous(&w, &mut w.arcssh(&["account", "-v"])));
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let output: Vec<&str> = run
        .stderr
        .lines()
        .filter_map(|line| line.split_once("credentials: "))
        .map(|(_, output)| output)
        .collect();
    let expected = [
        "trying the service principal",
        "skipping the service principal: neither AZURE_CLIENT_SECRET nor AZURE_CLIENT_CERTIFICATE_PATH is set",
        "trying the workload identity",
        "skipping the workload identity: AZURE_FEDERATED_TOKEN_FILE is not set, and there is no OIDC service of a pipeline",
        "trying the sign-in of arcssh",
        "skipping the sign-in of arcssh: no account is signed in to arcssh",
        "trying Azure CLI",
    ];
    assert_eq!(&output[..expected.len()], expected, "{}", run.stderr);
    assert!(output[expected.len()].starts_with("a token of Azure CLI"), "{output:?}");
}

// A chosen source.

#[test]
fn a_chosen_source_is_the_only_one_tried() {
    let w = lab(&["web01"]);
    azure_cli(&w, &azure_cli_script(&w));
    let source =
        |command: &mut Command| run(command.env("PATH", bin(&w))).clean().lines().next().unwrap().to_owned();
    assert_eq!(source(&mut w.arcssh(&["account"])), "source   the service principal");
    assert_eq!(source(&mut w.arcssh(&["account", "--credential", "az"])), "source   Azure CLI");
    assert_eq!(source(w.arcssh(&["account"]).env("ARCSSH_CREDENTIAL", "Azure-CLI")), "source   Azure CLI");
    assert_eq!(source(w.arcssh(&["account"]).env("ARCSSH_CREDENTIAL", "")), "source   the service principal");
}

#[test]
fn an_unavailable_chosen_source_gets_a_hint() {
    let w = lab(&["web01"]);
    let cases = [
        (
            "environment",
            "the credential source environment is unavailable: neither AZURE_CLIENT_SECRET nor AZURE_CLIENT_CERTIFICATE_PATH is set",
            "set AZURE_TENANT_ID, AZURE_CLIENT_ID, and AZURE_CLIENT_SECRET or AZURE_CLIENT_CERTIFICATE_PATH",
        ),
        (
            "workload-identity",
            "the credential source workload-identity is unavailable: AZURE_FEDERATED_TOKEN_FILE is not set, and there is no OIDC service of a pipeline",
            "set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_FEDERATED_TOKEN_FILE; in GitHub Actions, set the first two, and grant the job the permission id-token: write",
        ),
        (
            "arcssh",
            "the credential source arcssh is unavailable: no account is signed in to arcssh",
            "sign in: arcssh login",
        ),
        (
            "azure-cli",
            "the credential source azure-cli is unavailable: az is not on the PATH of this process, and not in a usual directory",
            "install Azure CLI, or add its directory to PATH",
        ),
        (
            "azd",
            "the credential source azure-developer-cli is unavailable: azd is not on the PATH of this process, and not in a usual directory",
            "install Azure Developer CLI, or add its directory to PATH",
        ),
        (
            "pwsh",
            "the credential source azure-powershell is unavailable: pwsh is not on the PATH of this process, and not in a usual directory",
            "install Azure PowerShell, or add its directory to PATH",
        ),
    ];
    for (name, why, hint) in cases {
        let run = run(anonymous(&w, w.proxy("web01").args(["--credential", name])));
        run.failed(
            3,
            &[&format!("arcssh: cannot connect to web01: {why}"), &format!("arcssh: hint: {hint}")],
        );
    }
    let unknown = run(w.proxy("web01").args(["--credential", "unknown"]));
    assert_eq!(unknown.code, Some(2), "{}", unknown.stderr);
}

#[test]
fn azure_token_credentials_selects_the_sources_that_are_tried() {
    let w = lab(&["web01"]);
    azure_cli(&w, &azure_cli_script(&w));
    let account = |value: &str, arguments: &[&str]| {
        w.clear_cache();
        let mut account = w.arcssh(&[&["account"], arguments].concat());
        run(account.env("PATH", bin(&w)).env("AZURE_TOKEN_CREDENTIALS", value))
    };
    for (value, arguments, title) in [
        ("dev", &[][..], "Azure CLI"),
        (" DEV ", &[], "Azure CLI"),
        ("AzureCLICredential", &[], "Azure CLI"),
        ("azureclicredential", &[], "Azure CLI"),
        ("prod", &[], "the service principal"),
        ("EnvironmentCredential", &[], "the service principal"),
        ("", &[], "the service principal"),
        ("AzureCliCredential", &["--credential", "environment"], "the service principal"),
        ("AzureCliCredential", &["--credential", "any"], "the service principal"),
        ("unknown", &["--credential", "environment"], "the service principal"),
    ] {
        let output = account(value, arguments).clean();
        assert!(output.starts_with(&format!("source   {title}\n")), "{value} {arguments:?}: {output}");
    }
    let why = "arcssh: the credential source azure-powershell is unavailable: pwsh is not on the PATH of this process, and not in a usual directory";
    assert_eq!(account("AzurePowerShellCredential", &[]).arcssh_lines()[0], why);
    let hint = "arcssh: hint: set AZURE_TOKEN_CREDENTIALS to dev, prod, EnvironmentCredential, WorkloadIdentityCredential, ManagedIdentityCredential, AzureCliCredential, AzureDeveloperCliCredential or AzurePowerShellCredential, or select a source with --credential";
    for value in ["unknown", "VisualStudioCodeCredential", "dev,prod"] {
        let why = format!("arcssh: AZURE_TOKEN_CREDENTIALS={value:?} names no credential source of arcssh");
        account(value, &[]).failed(3, &[&why, hint]);
    }
    // Only the reasons of the selected sources.
    let mut production = w.arcssh(&["account"]);
    for variable in ["AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_TENANT_ID"] {
        production.env_remove(variable);
    }
    let production = run(production.env("PATH", bin(&w)).env("AZURE_TOKEN_CREDENTIALS", "prod"));
    let start = "arcssh: no account is signed in: the service principal is unavailable: ";
    assert!(production.stderr.starts_with(start) && production.code == Some(3), "{}", production.stderr);
    assert!(!production.stderr.contains("arcssh login"), "{}", production.stderr);
    // The token of another selection is not used.
    let before = run(w.arcssh(&["account"]).env("PATH", bin(&w))).clean();
    assert!(before.starts_with("source   the service principal\n"));
    let mut after = w.arcssh(&["account"]);
    let after = run(after.env("PATH", bin(&w)).env("AZURE_TOKEN_CREDENTIALS", "dev")).clean();
    assert!(after.starts_with("source   Azure CLI\n"), "{after}");
}

// Service principals.

/// A file or a store of secrets adds a line break to its value.
#[test]
fn blanks_and_line_breaks_around_a_variable_do_not_count() {
    let w = lab(&["web01"]);
    let names = ["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"];
    for (before, after) in [("", "\n"), ("", "\r\n"), (" ", "\t "), ("\u{feff}", "\n\n")] {
        w.clear_cache();
        let mut account = w.arcssh(&["account"]);
        account.envs(names.map(|name| (name, format!("{before}{}{after}", value(&w, name)))));
        assert!(run(&mut account).clean().starts_with("source   the service principal\n"));
    }
    w.clear_cache();
    let mut account = w.arcssh(&["account"]);
    let (certificate, token) = (w.emulator().client_certificate(), w.emulator().federated_token());
    account.env("AZURE_CLIENT_SECRET", " \n").env("AZURE_TOKEN_CREDENTIALS", " \n");
    account.env("AZURE_CLIENT_CERTIFICATE_PATH", format!("{}\n", certificate.display()));
    assert!(run(&mut account).clean().starts_with("source   the service principal\n"));
    w.clear_cache();
    account.env_remove("AZURE_CLIENT_CERTIFICATE_PATH");
    account.env("AZURE_FEDERATED_TOKEN_FILE", format!("{}\r\n", token.display()));
    assert!(run(&mut account).clean().starts_with("source   the workload identity\n"));
    account.env("AZURE_FEDERATED_TOKEN_FILE", "").env("AZURE_CLIENT_SECRET", "wrong\n");
    let rejected = run(&mut account);
    assert!(rejected.stderr.contains("(application c11e4700-0000-4000-8000-000000000001): AADSTS"));
}

#[test]
fn a_certificate_works_with_both_key_formats() {
    let w = lab(&["web01"]);
    let certificate = w.emulator().client_certificate();
    let shell = "openssl pkey -in \"$0\" -traditional > pkcs1.pem; openssl x509 -in \"$0\" >> pkcs1.pem";
    run(w.command("bash").args(["-euc", shell]).arg(&certificate)).clean();
    for (number, file) in [certificate, w.home().join("pkcs1.pem")].into_iter().enumerate() {
        let mut account = w.arcssh(&["account", "-vvv"]);
        account.env("AZURE_CLIENT_CERTIFICATE_PATH", file).env_remove("AZURE_CLIENT_SECRET");
        account.env("ARCSSH_STATE_DIR", w.home().join(format!("state-{number}")));
        let shown = run(account.env("RUST_LOG", "trace"));
        assert_eq!(shown.code, Some(0), "{}", shown.stderr);
        let request = w.emulator().requests_to(Service::Entra).pop().unwrap();
        let form = fields(&request.body);
        let assertion = &form.iter().find(|(name, _)| name == "client_assertion").unwrap().1;
        assert!(!shown.stderr.contains(assertion), "the log contains the assertion");
    }
}

/// azidentity for Go, `environment_credential.go`: applications that accept certificates by subject and issuer.
#[test]
fn the_certificate_of_the_key_is_sent_whatever_else_the_file_contains() {
    let w = lab(&["web01"]);
    let certificate = w.emulator().client_certificate();
    let shell = r#"openssl pkey -in "$0" > key.pem; openssl x509 -in "$0" > leaf.pem
        openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=authority -days 2 2>/dev/null
        cat ca.pem leaf.pem key.pem > ca-first.pem; cat key.pem ca.pem leaf.pem > key-first.pem
        printf '\357\273\277' > bom.pem; cat leaf.pem >> bom.pem; printf '\357\273\277' >> bom.pem; cat key.pem >> bom.pem
        sed 's/$/\r/' ca-first.pem > crlf.pem
        printf '\377\376' > utf16.pem; iconv -t UTF-16LE ca-first.pem >> utf16.pem
        openssl pkcs12 -export -in leaf.pem -inkey key.pem -certfile ca.pem -passout pass: -out all.pfx
        openssl pkcs12 -in all.pfx -passin pass: -nodes > bag.pem
        cat ca.pem key.pem > other.pem"#;
    run(w.command("bash").args(["-euc", shell]).arg(&certificate)).clean();
    let account = |file: &str, send_chain: &str| {
        w.clear_cache();
        let mut account = w.arcssh(&["account"]);
        account.env("AZURE_CLIENT_CERTIFICATE_PATH", w.home().join(file)).env_remove("AZURE_CLIENT_SECRET");
        run(account.env("AZURE_CLIENT_SEND_CERTIFICATE_CHAIN", send_chain))
    };
    let header = || {
        let form = fields(&w.emulator().requests_to(Service::Entra).pop().unwrap().body);
        let assertion = form.into_iter().find(|(name, _)| name == "client_assertion").unwrap().1;
        let header = URL_SAFE_NO_PAD.decode(assertion.split('.').next().unwrap()).unwrap();
        serde_json::from_slice::<serde_json::Value>(&header).unwrap()
    };
    let leaf = fs::read_to_string(w.home().join("leaf.pem")).unwrap();
    let leaf: String = leaf.lines().filter(|line| !line.starts_with("-----")).collect();
    for file in ["ca-first.pem", "key-first.pem", "bom.pem", "crlf.pem", "utf16.pem", "bag.pem"] {
        assert!(account(file, "").clean().starts_with("source   the service principal\n"), "{file}");
        assert!(header()["x5c"].is_null());
        for value in ["true", "1", "TRUE"] {
            account(file, value).clean();
            assert_eq!(header()["x5c"], serde_json::json!([leaf]), "{file}");
        }
    }
    let requests = w.emulator().requests_to(Service::Entra).len();
    let home = w.home().display().to_string();
    let why = format!(
        "arcssh: the certificate {home}/other.pem cannot be used: the key belongs to none of its certificates"
    );
    let hint = "arcssh: hint: name a PEM file with an RSA key without a password, and its certificate";
    account("other.pem", "").failed(3, &[&why, hint]);
    let why = "arcssh: AZURE_CLIENT_SEND_CERTIFICATE_CHAIN=\"yes\" cannot be used: it is not true or false";
    let hint = "arcssh: hint: set AZURE_CLIENT_SEND_CERTIFICATE_CHAIN to true or false, or unset AZURE_CLIENT_SEND_CERTIFICATE_CHAIN";
    account("bom.pem", "yes").failed(3, &[why, hint]);
    assert_eq!(w.emulator().requests_to(Service::Entra).len(), requests);
}

#[test]
fn an_unusable_certificate_gets_a_hint() {
    let w = lab(&["web01"]);
    let shell = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -subj /CN=arcssh -days 2 2>/dev/null
        openssl pkcs12 -export -in cert.pem -inkey key.pem -passout pass: -out cert.pfx
        openssl pkcs8 -topk8 -in key.pem -passout pass:secret -out locked.key; cat cert.pem locked.key > locked.pem
        openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt > ec.key; cat cert.pem ec.key > ec.pem";
    run(w.command("bash").args(["-euc", shell])).clean();
    const PEM_HINT: &str = "name a PEM file with an RSA key without a password, and its certificate";
    let home = w.home().display().to_string();
    let pkcs12 = format!("openssl pkcs12 -in {home}/cert.pfx -out {home}/cert.pfx.pem -nodes");
    let unlocked = format!(
        "openssl pkey -in {home}/locked.pem -out {home}/locked.pem.pem && openssl x509 -in {home}/locked.pem >> {home}/locked.pem.pem"
    );
    let cases = [
        ("cert.pfx", "the file is not in PEM format", format!("convert it, and name the new file: {pkcs12}")),
        (
            "locked.pem",
            "the key has a password",
            format!("remove the password, and name the new file: {unlocked}"),
        ),
        ("cert.pem", "the file contains no private key", PEM_HINT.into()),
        ("key.pem", "the file contains no certificate", PEM_HINT.into()),
        ("ec.pem", "its key is not an RSA key, and arcssh requires one", PEM_HINT.into()),
    ];
    let proxy = |file: &str| {
        let mut proxy = w.proxy("web01");
        proxy.env("AZURE_CLIENT_CERTIFICATE_PATH", w.home().join(file)).env_remove("AZURE_CLIENT_SECRET");
        run(&mut proxy)
    };
    for (file, why, hint) in cases {
        let why =
            format!("arcssh: cannot connect to web01: the certificate {home}/{file} cannot be used: {why}");
        proxy(file).failed(3, &[&why, &format!("arcssh: hint: {hint}")]);
    }
    let why = format!(
        "arcssh: cannot connect to web01: cannot get a token of the service principal (application c11e4700-0000-4000-8000-000000000001): cannot read the certificate {home}/none: No such file or directory (os error 2)"
    );
    let hint = "arcssh: hint: check AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_CERTIFICATE_PATH, or unset them and run: arcssh login";
    proxy("none").failed(3, &[&why, hint]);
    assert!(w.emulator().requests_to(Service::Entra).is_empty());
    // The commands of the hints. Options replace the password prompts.
    let commands =
        [pkcs12.replace("-in", "-passin pass: -in"), unlocked.replace("pkey", "pkey -passin pass:secret")];
    for (command, file) in commands.iter().zip(["cert.pfx.pem", "locked.pem.pem"]) {
        assert_eq!(run(w.command("sh").args(["-c", command])).code, Some(0), "{command}");
        let output = proxy(file).stderr;
        assert!(output.contains("AADSTS"), "Entra ID rejects the converted certificate: {output}");
        let mode = fs::metadata(w.home().join(file)).unwrap().permissions().mode() & 0o077;
        assert_eq!(mode, 0, "{command}");
    }
}

#[test]
fn a_federated_token_is_sent_to_entra_id() {
    let w = lab(&["web01"]);
    let file = w.emulator().federated_token();
    let federated = fs::read_to_string(&file).unwrap();
    let account = || {
        let mut account = w.arcssh(&["account", "-vvv"]);
        account
            .env("AZURE_FEDERATED_TOKEN_FILE", &file)
            .env_remove("AZURE_CLIENT_SECRET")
            .env("RUST_LOG", "trace");
        account
    };
    let shown = run(&mut account());
    assert_eq!(shown.code, Some(0), "{}", shown.stderr);
    assert!(String::from_utf8(shown.stdout).unwrap().starts_with("source   the workload identity\n"));
    assert!(!shown.stderr.contains(federated.trim()), "the log contains the token");
    for missing in ["AZURE_TENANT_ID", "AZURE_CLIENT_ID"] {
        let run = run(account().env_remove(missing));
        assert_eq!(
            run.arcssh_lines()[0],
            format!("arcssh: AZURE_FEDERATED_TOKEN_FILE is set, but {missing} is not")
        );
    }
}

/// GitHub Actions and Azure Pipelines issue a token for a few minutes.
#[test]
fn each_access_token_of_a_pipeline_is_requested_with_a_new_token_of_its_issuer() {
    let w = lab(&["web01"]);
    let (authority, client, tenant) =
        (value(&w, "AZURE_AUTHORITY_HOST"), value(&w, "AZURE_CLIENT_ID"), value(&w, "AZURE_TENANT_ID"));
    let github = |token: &str| {
        let mut account = w.arcssh(&["account", "-vvv"]);
        account.env_remove("AZURE_CLIENT_SECRET").env("RUST_LOG", "trace");
        account.env("ACTIONS_ID_TOKEN_REQUEST_URL", format!("{authority}oidc/github?api-version=2.0"));
        account.env("ACTIONS_ID_TOKEN_REQUEST_TOKEN", token);
        account
    };
    let pipelines = |token: &str| {
        let mut account = w.arcssh(&["account", "-vvv"]);
        for name in ["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"] {
            account.env_remove(name);
        }
        account.env("RUST_LOG", "trace").env("SYSTEM_ACCESSTOKEN", token);
        account.env("SYSTEM_OIDCREQUESTURI", format!("{authority}oidc/pipelines"));
        account.env("AZURESUBSCRIPTION_CLIENT_ID", &client).env("AZURESUBSCRIPTION_TENANT_ID", &tenant);
        account.env("AZURESUBSCRIPTION_SERVICE_CONNECTION_ID", "connection");
        account
    };
    let mut assertions = std::collections::HashSet::new();
    for job in [&github as &dyn Fn(&str) -> Command, &pipelines] {
        for _ in 0..2 {
            w.clear_cache();
            let shown = run(&mut job(JOB_TOKEN));
            assert_eq!(shown.code, Some(0), "{}", shown.stderr);
            assert!(String::from_utf8(shown.stdout).unwrap().starts_with("source   the workload identity\n"));
            let request = w.emulator().requests_to(Service::Entra).pop().unwrap();
            let form = fields(&request.body);
            let assertion = form.into_iter().find(|(name, _)| name == "client_assertion").unwrap().1;
            assert!(!shown.stderr.contains(&assertion) && !shown.stderr.contains(JOB_TOKEN));
            assert!(assertions.insert(assertion), "the token of the issuer was used twice");
        }
    }
    w.clear_cache();
    let rejected = run(&mut github("other"));
    let [why, hint] = rejected.arcssh_lines()[..] else { panic!("{}", rejected.stderr) };
    let start = "arcssh: cannot get a token of the workload identity";
    assert!(why.starts_with(start) && why.ends_with("GitHub Actions issued no OIDC token (401)"), "{why}");
    assert_eq!(hint, "arcssh: hint: grant the job the permission id-token: write");
    let rejected = run(&mut pipelines("other"));
    assert!(rejected.arcssh_lines()[0].ends_with("Azure Pipelines issued no OIDC token (401)"));
    let why = "arcssh: ACTIONS_ID_TOKEN_REQUEST_URL=\"http://127.0.0.1:1/\" cannot be used: it is not an https:// URL";
    let plain = run(github(JOB_TOKEN).env("ACTIONS_ID_TOKEN_REQUEST_URL", "http://127.0.0.1:1/"));
    assert_eq!(plain.arcssh_lines()[0], why);
    // A job that has no application at Azure.
    let other = run(github(JOB_TOKEN).env_remove("AZURE_CLIENT_ID").env("PATH", bin(&w)));
    assert_eq!(other.arcssh_lines().last(), Some(&SIGN_IN));
}

#[test]
fn an_incomplete_job_of_a_pipeline_is_explained() {
    let w = lab(&["web01"]);
    let url = ("SYSTEM_OIDCREQUESTURI", "https://127.0.0.1:1/oidc");
    let connection = ("AZURESUBSCRIPTION_SERVICE_CONNECTION_ID", "connection");
    let token = "add to env of the step: SYSTEM_ACCESSTOKEN: $(System.AccessToken)";
    let no_token = "this job of Azure Pipelines has no SYSTEM_ACCESSTOKEN";
    for (variables, why, fix) in [
        (&[url, connection][..], no_token, token),
        (&[url, connection, ("SYSTEM_ACCESSTOKEN", "$(System.AccessToken)")], no_token, token),
        (
            &[url, ("SYSTEM_ACCESSTOKEN", JOB_TOKEN)],
            "this job of Azure Pipelines has no AZURESUBSCRIPTION_SERVICE_CONNECTION_ID",
            "set AZURESUBSCRIPTION_SERVICE_CONNECTION_ID to the ID of the service connection",
        ),
        (
            &[("GITHUB_ACTIONS", "true")],
            "this job of GitHub Actions has no ACTIONS_ID_TOKEN_REQUEST_URL",
            "grant the job the permission id-token: write",
        ),
    ] {
        let account = |arguments: &[&str]| {
            let mut account = w.arcssh(&[&["account"], arguments].concat());
            account.env_remove("AZURE_CLIENT_SECRET").env("PATH", bin(&w)).envs(variables.iter().copied());
            account
        };
        let any = format!("arcssh: no account is signed in: the workload identity is unavailable: {why}");
        run(&mut account(&[])).failed(3, &[&any, &format!("{SIGN_IN}; or {fix}")]);
        let named = format!("arcssh: the credential source workload-identity is unavailable: {why}");
        let one = run(&mut account(&["--credential", "workload-identity"]));
        one.failed(3, &[&named, &format!("arcssh: hint: {fix}")]);
        let other = run(account(&[]).env_remove("AZURE_CLIENT_ID"));
        assert_eq!(other.arcssh_lines().last(), Some(&SIGN_IN), "the job may not use Azure");
    }
}

#[test]
fn a_rejected_federated_token_ends_the_search() {
    let w = lab(&["web01"]);
    let proxy = |file: &Path| {
        let mut proxy = w.proxy("web01");
        run(proxy.env("AZURE_FEDERATED_TOKEN_FILE", file).env_remove("AZURE_CLIENT_SECRET"))
    };
    let hint = "arcssh: hint: check AZURE_TENANT_ID, AZURE_CLIENT_ID and the federated credentials of the application";
    let refusal =
        EntraFault::new(401, "invalid_client", 700_213, "No matching federated identity record found.");
    w.emulator().entra_fault(refusal);
    let refused = proxy(&w.emulator().federated_token());
    refused.failed(3, &["arcssh: cannot connect to web01: Entra ID rejected the workload identity (application c11e4700-0000-4000-8000-000000000001): AADSTS700213: No matching federated identity record found. Trace ID: … Correlation ID: … Timestamp: …", hint]);
    // A shell's redirection appends a line break.
    let with_line_break = w.home().join("shells");
    fs::write(&with_line_break, fs::read_to_string(w.emulator().federated_token()).unwrap() + "\n").unwrap();
    let mut list = w.arcssh(&["list"]);
    list.env("AZURE_FEDERATED_TOKEN_FILE", with_line_break).env_remove("AZURE_CLIENT_SECRET");
    assert!(run(&mut list).clean().contains("web01"));
    let none = w.home().join("none");
    let why = format!(
        "arcssh: cannot connect to web01: cannot get a token of the workload identity (application c11e4700-0000-4000-8000-000000000001): AZURE_FEDERATED_TOKEN_FILE={0} cannot be used: No such file or directory (os error 2)",
        none.display()
    );
    proxy(&none).failed(3, &[&why, hint]);
}

/// The file of a job can contain a token that has expired, and this computer's clock dates the assertion of a certificate.
#[test]
fn an_assertion_outside_of_its_validity_gets_a_hint_for_its_cause() {
    let w = lab(&["web01"]);
    let file = w.home().join("token");
    let rejected = |variable: &str, path: &Path| {
        let text = "Client assertion is not within its valid time range.";
        w.emulator().entra_fault(EntraFault::new(401, "invalid_client", 700_024, text));
        let mut account = w.arcssh(&["account"]);
        let rejected = run(account.env(variable, path).env_remove("AZURE_CLIENT_SECRET"));
        assert_eq!(rejected.code, Some(3), "{}", rejected.stderr);
        rejected.arcssh_lines()[1].to_owned()
    };
    let clock = "arcssh: hint: check the clock of this computer";
    for (expiry, hint) in [
        (
            1_000_000_000_u64,
            &*format!(
                "arcssh: hint: renew the token in {}: it expired at 2001-09-09T01:46:40Z, and the program that writes it must replace it earlier",
                file.display()
            ),
        ),
        (4_102_444_800, clock),
    ] {
        fs::write(&file, format!("h.{}.s", URL_SAFE_NO_PAD.encode(format!("{{\"exp\":{expiry}}}")))).unwrap();
        assert_eq!(rejected("AZURE_FEDERATED_TOKEN_FILE", &file), hint);
    }
    assert_eq!(rejected("AZURE_CLIENT_CERTIFICATE_PATH", &w.emulator().client_certificate()), clock);
}

// Cached tokens.

#[test]
fn a_token_is_cached_until_shortly_before_its_expiry() {
    let w = lab(&["web01"]);
    let calls = || w.emulator().requests_to(Service::Entra).len();
    let account = || run(&mut w.arcssh(&["account"])).clean();
    account();
    account();
    assert_eq!(calls(), 1);
    w.emulator().set_token_lifetime(Duration::from_secs(2));
    run(&mut w.arcssh(&["logout"])).stderr_is("arcssh: no account was signed in\n");
    account();
    assert_eq!(calls(), 2);
    assert!(
        eventually(Duration::from_secs(5), || {
            account();
            calls() > 2
        }),
        "an expiring token is still used"
    );
}

#[test]
fn a_changed_account_of_azure_cli_or_azd_is_detected() {
    let w = lab(&["web01"]);
    azure_cli(&w, &format!("echo call >> \"$HOME/calls\"\n{}", azure_cli_script(&w)));
    let calls = || fs::read_to_string(w.home().join("calls")).unwrap().lines().count();
    let account = || run(anonymous(&w, &mut w.arcssh(&["account"]))).clean();
    account();
    for (number, file) in [".azure/azureProfile.json", ".azd/auth.json"].into_iter().enumerate() {
        account();
        assert_eq!(calls(), number + 1);
        let file = w.home().join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "{}").unwrap();
        account();
        assert_eq!(calls(), number + 2);
    }
}

#[test]
fn a_cached_token_that_arm_rejects_is_replaced_once() {
    let w = lab(&["web01"]);
    run(&mut w.arcssh(&["account"])).clean();
    let refusal =
        || ArmFault::new(401, "ExpiredAuthenticationToken", "The access token expiry UTC time is earlier.");
    w.emulator().arm_fault(refusal());
    assert_eq!(w.ssh_run(&["web01", "echo reached"]).clean(), "reached\n");
    assert_eq!(w.emulator().requests_to(Service::Entra).len(), 2);
    w.emulator().arm_fault(refusal().times(2));
    let failed = run(&mut w.arcssh(&["proxy", &w.id(), "--service", "wac"]));
    failed.failed(3, &["arcssh: cannot connect to web01: Azure rejected the access token of the service principal (application c11e4700-0000-4000-8000-000000000001) (ExpiredAuthenticationToken: The access token expiry UTC time is earlier.)", SERVICE_PRINCIPAL]);
    assert_eq!(w.emulator().requests_to(Service::Entra).len(), 3);
}

#[test]
fn a_missing_permission_names_the_account_and_the_other_accounts() {
    let w = lab(&["web01"]);
    azure_cli(&w, &azure_cli_script(&w));
    let refused = || {
        let message = "The client 'x' with object id 'oid' does not have authorization to perform action 'Microsoft.HybridConnectivity/endpoints/listCredentials/action' over scope '/s' or the scope is invalid.";
        w.emulator().arm_fault(ArmFault::new(403, "AuthorizationFailed", message));
        let refused = run(w.proxy("web01").env("PATH", bin(&w)));
        assert_eq!(refused.code, Some(4), "{}", refused.stderr);
        refused.arcssh_lines().iter().map(|line| (*line).to_owned()).collect::<Vec<_>>()
    };
    let why = "arcssh: cannot connect to web01: the service principal (application c11e4700-0000-4000-8000-000000000001) has no permission to connect to the machine (403 AuthorizationFailed)";
    // Azure CLI without an account, and with one. It writes a byte order mark.
    let profile = w.home().join(".azure/azureProfile.json");
    fs::create_dir_all(profile.parent().unwrap()).unwrap();
    fs::write(&profile, "\u{feff}{\"subscriptions\": []}").unwrap();
    let lines = refused();
    assert_eq!(lines[0], why);
    assert!(lines[1].starts_with("arcssh: hint: ask an owner of the machine to run: az role"), "{lines:?}");
    fs::write(&profile, "\u{feff}{\"subscriptions\": [{\"id\": \"s\"}]}").unwrap();
    let lines = refused();
    let hint = "arcssh: hint: to use another account, add --credential azure-cli; or ask an owner of the machine to run: az role";
    assert!(lines[0] == why && lines[1].starts_with(hint), "{lines:?}");
}

// The cloud of Azure CLI.

#[test]
fn the_cloud_of_azure_cli_is_used_if_azure_cli_is_the_selected_source() {
    let w = lab(&["web01"]);
    let token = token(&w);
    azure_cli(&w, &format!("echo \"$*\" > \"$HOME/arguments\"; echo '{{\"accessToken\":\"{token}\"}}'"));
    let config = w.home().join(".azure/config");
    let set_cloud = |name: &str| {
        fs::create_dir_all(config.parent().unwrap()).unwrap();
        fs::write(&config, format!("[core]\nname = x\n\n[cloud]\nname = {name}\n")).unwrap();
    };
    let account = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut account = w.arcssh(&[&["account"], arguments].concat());
        anonymous(&w, &mut account).envs(variables.iter().copied());
        for name in ["ARCSSH_ARM_ENDPOINT", "ARCSSH_ARM_AUDIENCE", "AZURE_AUTHORITY_HOST"] {
            account.env_remove(name);
        }
        run(&mut account)
    };
    let named: &[&str] = &["--credential", "azure-cli"];
    let us_government = "https://management.core.usgovcloudapi.net//.default";
    set_cloud("AzureUSGovernment");
    for (arguments, variables, scope) in [
        (named, &[][..], us_government),
        (&[], &[("ARCSSH_CREDENTIAL", "az")], us_government),
        (&[], &[("AZURE_TOKEN_CREDENTIALS", "AzureCliCredential")], us_government),
        (
            named,
            &[("AZURE_CLOUD_NAME", "AzureChinaCloud")],
            "https://management.core.chinacloudapi.cn//.default",
        ),
        (named, &[("ARCSSH_CLOUD", "public")], "https://management.core.windows.net//.default"),
        (&[], &[], "https://management.core.windows.net//.default"),
    ] {
        let _ = fs::remove_file(w.home().join("arguments"));
        account(arguments, variables).clean();
        let called = fs::read_to_string(w.home().join("arguments")).unwrap();
        assert!(called.contains(scope), "{arguments:?} {variables:?}: {called}");
        w.clear_cache();
    }
    set_cloud("Stack");
    let unknown = account(named, &[]);
    let why = "arcssh: Azure CLI uses the cloud Stack, which arcssh does not know: add --cloud, or set ARCSSH_ARM_ENDPOINT and AZURE_AUTHORITY_HOST to its endpoints";
    assert_eq!(unknown.arcssh_lines()[0], why);
}

#[test]
fn an_error_of_azure_cli_in_another_cloud_names_both_clouds() {
    let w = lab(&["web01"]);
    azure_cli(&w, "echo 'ERROR: AADSTS500011: The resource principal was not found.' >&2; exit 1");
    let account = |cloud: &str, arguments: &[&str]| {
        let mut account = w.arcssh(&[&["account"], arguments].concat());
        anonymous(&w, &mut account).env("AZURE_CLOUD_NAME", cloud);
        run(account.env_remove("ARCSSH_ARM_ENDPOINT").env_remove("AZURE_AUTHORITY_HOST"))
    };
    let start = "arcssh: cannot get a token of Azure CLI: it uses the cloud";
    let end = "(ERROR: AADSTS500011: The resource principal was not found.)";
    account("AzureUSGovernment", &[]).failed(
        3,
        &[
            &format!("{start} AzureUSGovernment, and arcssh the cloud AzureCloud {end}"),
            "arcssh: hint: add --cloud usgov; or change the cloud of Azure CLI: az cloud set --name AzureCloud",
        ],
    );
    account("Stack", &["--credential", "az", "--cloud", "china"]).failed(
        3,
        &[
            &format!("{start} Stack, and arcssh the cloud AzureChinaCloud {end}"),
            "arcssh: hint: change the cloud of Azure CLI: az cloud set --name AzureChinaCloud",
        ],
    );
}

// The tenant.

#[test]
fn a_machine_in_another_tenant_needs_one_more_token() {
    let w = lab(&["web01"]);
    let other = "0ther000-0000-4000-8000-000000000002";
    azure_cli(&w, &format!("echo \"$*\" >> \"$HOME/calls\"\n{}", azure_cli_script(&w)));
    let refusal = || {
        let challenge = format!(
            "Bearer error_description=\"The \\\"authorization_uri=https://login.windows.net/wrong\\\" is wrong.\", authorization_uri=\"https://login.windows.net/{other}\", error=\"invalid_token\""
        );
        ArmFault::new(401, "InvalidAuthenticationTokenTenant", "The access token is from the wrong issuer.")
            .header("WWW-Authenticate", &challenge)
    };
    w.emulator().arm_fault(refusal());
    let reached = run(anonymous(&w, w.ssh().args(["web01", "echo reached"])));
    assert_eq!(reached.clean(), "reached\n");
    let calls = fs::read_to_string(w.home().join("calls")).unwrap();
    let calls: Vec<&str> = calls.lines().collect();
    assert_eq!(calls.len(), 2, "{calls:?}");
    assert!(!calls[0].contains("--tenant") && calls[1].ends_with(&format!("--tenant {other}")), "{calls:?}");
    // A second such error is not retried.
    w.emulator().arm_fault(refusal().times(2));
    let failed = run(anonymous(&w, w.proxy("web01").env("ARCSSH_STATE_DIR", w.home().join("other"))));
    failed.failed(3, &["arcssh: cannot connect to web01: Azure rejected the access token of the account of Azure CLI (application c11e4700-0000-4000-8000-000000000001) (InvalidAuthenticationTokenTenant: The access token is from the wrong issuer.)", &format!("arcssh: hint: sign in again: az login --tenant {other}; or: arcssh login --tenant {other}")]);
    // A source without access to that tenant reports its own error.
    w.emulator().arm_fault(refusal());
    let refused = run(w.proxy("web01").env("ARCSSH_STATE_DIR", w.home().join("third")));
    let [why, _] = refused.arcssh_lines()[..] else { panic!("{}", refused.stderr) };
    let start = format!(
        "arcssh: cannot connect to web01: Entra ID rejected the service principal (application c11e4700-0000-4000-8000-000000000001) in the machine's tenant {other}: AADSTS90002: "
    );
    assert!(why.starts_with(&start), "{why}");
    assert_eq!(refused.code, Some(3));
}

#[test]
fn an_account_without_subscriptions_gets_a_tenant_hint() {
    let w = lab_with(&["web01"], |builder| builder.home_tenant_differs());
    let (why, hint) = (
        "the account sees no subscription",
        "check account and tenant: arcssh account; to use another tenant, add --tenant TENANT, or run: arcssh login --tenant TENANT",
    );
    for command in [&["list"][..], &["setup", "web01"], &["warm", "--all"]] {
        run(&mut w.arcssh(command)).failed(5, &[&format!("arcssh: {why}"), &format!("arcssh: hint: {hint}")]);
    }
    let examined = run(&mut w.arcssh(&["doctor"])).clean();
    assert!(examined.contains(why) && examined.contains(hint), "{examined}");
    let tenant = w.emulator().subscription_tenant();
    assert!(run(&mut w.arcssh(&["list", "--tenant", tenant])).clean().contains("web01"));
}

#[test]
fn a_machine_in_a_third_tenant_needs_another_token() {
    let w = lab(&["web01"]);
    azure_cli(&w, &format!("echo \"$*\" >> \"$HOME/calls\"\n{}", azure_cli_script(&w)));
    let calls = [(ArmCall::ResourceGraph, "second.example"), (ArmCall::ListCredentials, "third.example")];
    for (call, tenant) in calls {
        let challenge = format!("Bearer authorization_uri=\"https://login.windows.net/{tenant}\"");
        let refusal = ArmFault::new(401, "InvalidAuthenticationTokenTenant", "The wrong issuer.");
        w.emulator().arm_fault(refusal.on(call).header("WWW-Authenticate", &challenge));
    }
    let port = w.emulator().machine("web01").ssh_port().unwrap().to_string();
    let warmed = run(anonymous(&w, &mut w.arcssh(&["warm", "web01", "--port", &port])));
    assert_eq!(warmed.clean(), "1 of 1 machines are ready\n");
    let calls = fs::read_to_string(w.home().join("calls")).unwrap();
    let tenants: Vec<_> =
        calls.lines().map(|line| line.split_once("--tenant ").map(|(_, tenant)| tenant)).collect();
    assert_eq!(tenants, [None, Some("second.example"), Some("third.example")]);
}

#[test]
fn a_tenant_is_an_id_or_a_domain() {
    let w = lab(&["web01"]);
    for tenant in ["", "a b", "x/../y", "$(id)"] {
        let run = run(&mut w.arcssh(&["account", "--tenant", tenant]));
        assert_eq!((run.code, run.stdout.len()), (Some(2), 0), "{tenant}: {}", run.stderr);
    }
}

// Replacements of programs.

/// Removes the service principal, and every program outside of [`bin`] from PATH.
fn anonymous<'a>(w: &Lab, command: &'a mut Command) -> &'a mut Command {
    let program = command.get_program().to_owned();
    let path = bin(w).display().to_string();
    let path = if program == *ARCSSH { path } else { format!("{path}:/usr/bin:/bin") };
    ["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"]
        .iter()
        .fold(command.env("PATH", path), |command, name| command.env_remove(name))
}

fn bin(w: &Lab) -> PathBuf {
    w.home().join("bin")
}

/// A script that replaces a program.
fn add_program(bin: &Path, name: &str, body: &str) {
    script(bin, name, &format!("#!/bin/sh\nPATH=/usr/bin:/bin\n{body}\n"));
}

fn azure_cli(w: &Lab, body: &str) {
    add_program(&bin(w), "az", body);
}

/// A script that saves its standard input, and prints a token of the emulator's Entra ID in Azure CLI's format.
fn azure_cli_script(w: &Lab) -> String {
    format!(
        r#"cat > "$HOME/read-by-az"
{}
expires=$(($(date +%s) + 3600))
printf '{{"accessToken":"%s","expiresOn":"%s","expires_on":%s,"subscription":"s","tenant":"t","tokenType":"Bearer"}}\n' \
    "$token" "$(date -d @$expires '+%Y-%m-%d %H:%M:%S.000000')" $expires"#,
        token_by_curl(w)
    )
}

/// A script that prints a token in the format of arcssh's own script for PowerShell.
fn powershell_script(w: &Lab) -> String {
    let token = token(w);
    format!(r#"printf '{{"token":"{token}","expiresOn":%s}}' "$(date -d '+1 hour' +%s)""#)
}

/// A shell script that assigns a token of the service principal to `$token`.
fn token_by_curl(w: &Lab) -> String {
    let [secret, client, tenant, authority] =
        ["AZURE_CLIENT_SECRET", "AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_AUTHORITY_HOST"]
            .map(|name| value(w, name));
    format!(
        r#"token=$(curl -sS --cacert "$SSL_CERT_FILE" -d grant_type=client_credentials -d client_id={client} \
    --data-urlencode 'client_secret={secret}' -d scope={}/.default \
    {authority}{tenant}/oauth2/v2.0/token | sed 's/.*"access_token":"\([^"]*\)".*/\1/')"#,
        audience(w)
    )
}

fn token(w: &Lab) -> String {
    let shell = format!("{}\nprintf %s \"$token\"", token_by_curl(w));
    run(w.command("sh").args(["-c", &shell])).clean()
}

fn value(w: &Lab, name: &str) -> String {
    w.emulator().environment().into_iter().find(|(key, _)| key == name).unwrap().1
}

fn audience(w: &Lab) -> String {
    value(w, "ARCSSH_ARM_AUDIENCE")
}

/// Decodes an argument of PowerShell's `-EncodedCommand`.
fn decode(word: &str) -> String {
    let bytes = STANDARD.decode(word).unwrap();
    let units: Vec<u16> = bytes.chunks(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    String::from_utf16(&units).unwrap()
}

fn fields(form: &str) -> Vec<(String, String)> {
    form_urlencoded::parse(form.as_bytes()).into_owned().collect()
}

impl Run {
    /// Asserts success with this standard error.
    #[track_caller]
    fn stderr_is(&self, text: &str) {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), text));
    }
}
