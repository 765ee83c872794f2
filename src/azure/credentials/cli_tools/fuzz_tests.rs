//! Arbitrary output of Azure CLI and PowerShell.

use super::*;
use crate::tests::each_input;

#[test]
fn the_output_of_a_program_is_a_token_or_an_error() {
    each_input("programs", |input| {
        let output =
            Output { status: std::process::ExitStatus::default(), stdout: vec![], stderr: input.to_vec() };
        let message = error_message(&output);
        assert!(!message.is_empty() && !message.contains('\u{1b}'));
        let token = json::<TokenResponse>(input).map(TokenResponse::token);
        let powershell = json::<PowerShellToken>(input);
        let powershell =
            powershell.map(|token| OffsetDateTime::from_unix_timestamp(token.expires_on).is_ok());
        format!("{} {powershell:?}", token.is_some())
    });
}
