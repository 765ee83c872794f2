//! What Azure CLI and PowerShell print, warnings before it included.

use super::*;
use crate::fuzz_tests::each_input;

#[test]
fn what_a_program_prints_is_a_token_or_an_error() {
    each_input("programs", |input| {
        let output = |stdout: &[u8], stderr: &[u8]| Output {
            status: std::process::ExitStatus::default(),
            stdout: stdout.to_vec(),
            stderr: stderr.to_vec(),
        };
        let printed = Printed(output(input, b""));
        assert!(input.ends_with(printed.json()));
        let said = said(&output(b"", input));
        assert!(!said.is_empty() && said.trim() == said);
        let given = serde_json::from_slice::<TokenResponse>(printed.json()).map(TokenResponse::token);
        let found = serde_json::from_slice::<PowerShellToken>(printed.json());
        let found = found.map(|found| OffsetDateTime::from_unix_timestamp(found.expires_on).is_ok());
        format!("{} {found:?}", given.is_ok())
    });
}
