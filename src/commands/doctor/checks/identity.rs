//! Checks of the account, and of the way to Azure.

use crate::azure::resource_id::ResourceId;
use crate::commands::doctor::checks::{
    Evaluator, blocked_by, failed, is_forbidden, is_unknown_provider, warned,
};
use crate::commands::doctor::report::Outcome::{self, Failed, Passed, Skipped, Warned};
use crate::diagnosis::code::Code;
use crate::diagnosis::finding::Finding;
use crate::diagnosis::{Diagnosis, Error, Hint};
use crate::machines::SelectError;
use crate::system::clock::unix_now;

/// By how many seconds clocks may differ before arcssh warns, and before Entra ID rejects assertions (Microsoft Learn,
/// "Microsoft identity platform certificate credentials": minutes).
const SKEW_WARNED: i64 = 60;
const SKEW_FAILED: i64 = 300;
/// The seconds of a token's lifetime below which arcssh warns.
const SHORT_LIFETIME: u64 = 60;

impl Evaluator {
    pub(super) fn identity(&self) -> Outcome {
        let token = match &self.facts.azure.token {
            None => return blocked_by(self.network_check()),
            Some(Err(error)) => {
                let diagnosis = error.diagnose();
                // A program such as az may hang: a sign-in of arcssh needs none.
                let hint = match diagnosis.code {
                    Code::TimedOut => Some(Hint::new("sign in: ", "arcssh login")),
                    _ => diagnosis.hint,
                };
                return Failed(Diagnosis { hint, ..diagnosis });
            }
            Some(Ok(token)) => token,
        };
        let (name, tenant) = (token.account_name(), token.tenant());
        let left = token.expires_on.saturating_sub(unix_now());
        let account = format!("{}: {name} in the tenant {tenant}", token.source.title());
        if left < SHORT_LIFETIME {
            return warned(&Finding::TokenExpires(&account));
        }
        Passed(format!("{account}, token expires in {} min", left / 60))
    }

    pub(super) fn clock(&self) -> Outcome {
        let Some(skew) = self.facts.azure.skew else {
            return self.in_azure().err().unwrap_or(Skipped("no response of Azure shows its clock".into()));
        };
        let difference = skew.abs();
        if difference <= SKEW_WARNED {
            Passed(format!("within {SKEW_WARNED} s of Azure's"))
        } else if difference <= SKEW_FAILED {
            warned(&Finding::ClockSkew(skew))
        } else {
            failed(&Finding::ClockSkew(skew))
        }
    }

    pub(super) fn subscription(&self) -> Outcome {
        if let Err(skipped) = self.in_azure() {
            return skipped;
        }
        match (&self.facts.azure.subscriptions, &self.facts.azure.registration) {
            (Some(Ok(0)), _) => Warned(Error::from(SelectError::NoSubscription).diagnose()),
            (Some(Ok(count)), _) => Passed(format!("{count} visible")),
            (Some(Err(error)), _) => Failed(error.diagnose()),
            (None, Some(Ok(_))) => Passed(self.subscription_id()),
            (None, Some(Err(error))) if is_forbidden(error) => {
                Passed(format!("{} (not readable with your role)", self.subscription_id()))
            }
            (None, Some(Err(error))) if is_unknown_provider(error) => Passed(self.subscription_id()),
            (None, Some(Err(error))) => Failed(error.diagnose()),
            (None, None) => blocked_by("machine"),
        }
    }

    fn subscription_id(&self) -> String {
        self.machine().map_or("exists".into(), |ResourceId { subscription, .. }| subscription)
    }

    pub(super) fn cloud(&self) -> Outcome {
        Passed(self.facts.cloud.clone())
    }

    pub(super) fn proxy(&self) -> Outcome {
        passed_or_failed(&self.facts.proxy)
    }

    pub(super) fn roots(&self) -> Outcome {
        passed_or_failed(&self.facts.roots)
    }

    /// Returns the check that fails if Azure is unreachable.
    pub(super) fn network_check(&self) -> &'static str {
        match (&self.facts.proxy, &self.facts.roots) {
            (Err(_), _) => "proxy",
            (_, Err(_)) => "root certificates",
            _ => "network",
        }
    }

    pub(super) fn network(&self) -> Outcome {
        let cause = self.network_check();
        if cause != "network" {
            return blocked_by(cause);
        }
        let mut passed = Vec::new();
        for (service, issuer) in &self.facts.issuers {
            match issuer {
                Ok(issuer) => passed.push(format!("{service}: {issuer}")),
                Err(error) => return Failed(error.diagnose()),
            }
        }
        Passed(passed.join("; "))
    }
}

fn passed_or_failed(fact: &Result<String, Error>) -> Outcome {
    match fact {
        Ok(text) => Passed(text.clone()),
        Err(error) => Failed(error.diagnose()),
    }
}
