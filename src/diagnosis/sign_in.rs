//! A sign-in that Entra ID rejects: hints by the cause, which Entra ID names by a number (Microsoft Learn, "Microsoft Entra
//! authentication and authorization error codes").

use crate::diagnosis::Hint;

/// For AADSTS90002, "tenant not found", and AADSTS900023, "not a valid tenant".
pub(super) const CHECK_TENANT: &str = "check the tenant in --tenant, and AZURE_TENANT_ID if you set it; to see the tenant of your account, run: arcssh account";

/// The way of a sign-in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Browser,
    DeviceCode,
}

/// A policy requires a managed device, or rejects its platform or the flow. All numbers that begin with 530 are of
/// Conditional Access.
const DEVICE: [&str; 5] = ["50005", "50097", "50129", "50155", "50187"];
/// A policy requires multi-factor authentication, or a newer sign-in.
const MULTI_FACTOR: [&str; 8] = ["50072", "50074", "50076", "50078", "50079", "50158", "70043", "70044"];
/// The device code has expired, was used before, or is wrong.
const CODE: [&str; 3] = ["70018", "70019", "70020"];
/// An administrator has not given consent to the application, or the user may not give it.
const CONSENT: [&str; 6] = ["65001", "90094", "90093", "90095", "65005", "900941"];
/// The account is not assigned to the application.
const ASSIGNMENT: [&str; 1] = ["50105"];
/// The account does not belong to the tenant.
const ACCOUNT: [&str; 6] = ["50020", "50034", "90072", "50177", "51004", "500208"];
/// The tenant does not exist, or the request names none.
const TENANT: [&str; 5] = ["90002", "900023", "50059", "50128", "90019"];
/// The tenant does not have the application, or has disabled it.
const APPLICATION: [&str; 6] = ["700016", "7000112", "650052", "650057", "500011", "50194"];
/// The application accepts no sign-in of this kind.
const PUBLIC_CLIENT: [&str; 5] = ["7000218", "50011", "700030", "9002326", "9002327"];
/// The account is disabled or locked, or its password has expired.
const LOCKED: [&str; 6] = ["50053", "50055", "50057", "50144", "50173", "50131"];

/// Returns the numbers of the errors in a text of Entra ID.
fn numbers(text: &str) -> impl Iterator<Item = &str> {
    text.split("AADSTS")
        .skip(1)
        .map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default())
}

/// Returns whether a text of Entra ID names one of these errors.
pub(super) fn names(text: &str, expected: &[&str]) -> bool {
    numbers(text).any(|number| expected.contains(&number))
}

/// Returns whether a policy rejects the device or the way of the sign-in.
pub(super) fn is_device_rejected(text: &str) -> bool {
    numbers(text).any(|number| number.starts_with("530") || DEVICE.contains(&number))
}

/// Returns the hint for a rejected sign-in; `None` if the text names no cause that the user can remove.
pub(super) fn hint(text: &str, flow: Flow) -> Option<Hint> {
    const MANAGED: &str =
        "on a computer that the organization manages, run az login, and add --credential azure-cli to arcssh";
    let is = |expected: &[&str]| names(text, expected);
    let hint = if is_device_rejected(text) {
        match flow {
            Flow::Browser => MANAGED.into(),
            Flow::DeviceCode => {
                format!("run the same command without --device-code; if a policy rejects this too, {MANAGED}")
            }
        }
    } else if is(&CODE) {
        "run the same command again, and enter the new code before it expires".into()
    } else if is(&MULTI_FACTOR) {
        match flow {
            Flow::Browser => {
                "run the same command again, and complete the multi-factor authentication".into()
            }
            Flow::DeviceCode => {
                "run the same command without --device-code, and complete the multi-factor authentication"
                    .into()
            }
        }
    } else if is(&CONSENT) {
        "ask an administrator of the tenant to grant consent to the application; or select another one with --client-id".into()
    } else if is(&ASSIGNMENT) {
        "ask an administrator of the tenant to assign the account to the application".into()
    } else if is(&ACCOUNT) {
        "sign in with an account of the tenant, or name the account's own tenant with --tenant; a guest must be invited first".into()
    } else if is(&TENANT) {
        CHECK_TENANT.into()
    } else if is(&APPLICATION) {
        "check --client-id, --scope and --tenant: the tenant does not have this application, or has disabled it".into()
    } else if is(&PUBLIC_CLIENT) {
        "check --client-id: the application must allow public client flows, and have the redirect URI http://localhost".into()
    } else if is(&LOCKED) {
        "ask an administrator of the tenant to unlock the account, or to reset its password".into()
    } else {
        return None;
    };
    Some(Hint::from(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A part of each hint.
    const CASES: [(&str, &str, &str); 20] = [
        ("53003", "az login", "without --device-code; if a policy rejects this too"),
        ("53000", "az login", "without --device-code"),
        ("530032", "--credential azure-cli", "without --device-code"),
        ("50005", "az login", "without --device-code"),
        ("50097", "az login", "without --device-code"),
        ("70019", "before it expires", "before it expires"),
        ("70020", "before it expires", "before it expires"),
        ("70018", "new code", "new code"),
        ("50076", "multi-factor", "without --device-code"),
        ("50079", "multi-factor", "without --device-code"),
        ("90094", "consent", "consent"),
        ("65001", "consent", "consent"),
        ("50105", "assign the account", "assign the account"),
        ("50020", "own tenant", "own tenant"),
        ("50034", "own tenant", "own tenant"),
        ("90002", "--tenant", "--tenant"),
        ("700016", "--client-id", "--client-id"),
        ("7000218", "public client", "public client"),
        ("50011", "redirect URI", "redirect URI"),
        ("50057", "unlock", "unlock"),
    ];

    #[test]
    fn a_rejected_sign_in_gets_the_hint_for_its_cause_and_its_flow() {
        for (number, browser, device_code) in CASES {
            let text = format!("AADSTS{number}: The text of Entra ID. Trace ID: 1");
            for (flow, expected) in [(Flow::Browser, browser), (Flow::DeviceCode, device_code)] {
                let hint = hint(&text, flow).unwrap_or_else(|| panic!("{number} has no hint"));
                assert!(hint.text.contains(expected), "{number}: {}", hint.text);
                let names_own_flow = hint.text.contains("add --device-code");
                assert!(!names_own_flow, "{number}: {}", hint.text);
            }
        }
        for text in ["AADSTS65004: declined", "access_denied", "AADSTS: no number", ""] {
            assert_eq!(hint(text, Flow::DeviceCode), None, "{text}");
        }
    }
}
