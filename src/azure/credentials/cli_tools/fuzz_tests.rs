//! Arbitrary output of Azure CLI and PowerShell.

use super::*;
use crate::tests::each_input;

#[test]
fn the_output_of_a_program_is_a_token_or_an_error() {
    each_input("programs", |input| {
        let output = |stdout: &[u8], stderr: &[u8]| Output {
            status: std::process::ExitStatus::default(),
            stdout: stdout.to_vec(),
            stderr: stderr.to_vec(),
        };
        let stdout = SecretOutput(output(input, b""));
        assert!(input.ends_with(stdout.json()));
        let message = error_message(&output(b"", input));
        assert!(!message.is_empty() && message.trim() == message);
        let token = serde_json::from_slice::<TokenResponse>(stdout.json()).map(TokenResponse::token);
        let powershell = serde_json::from_slice::<PowerShellToken>(stdout.json());
        let powershell =
            powershell.map(|token| OffsetDateTime::from_unix_timestamp(token.expires_on).is_ok());
        format!("{} {powershell:?}", token.is_ok())
    });
}
