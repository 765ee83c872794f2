//! Checks of the account, and of the way to Azure.

use crate::commands::doctor::checks::{
    Evaluation, Evaluator, blocked_by, failed, is_forbidden, is_unknown_provider, known, unreadable, warned,
};
use crate::commands::doctor::outcome::Outcome::{self, Failed, Passed, Unknown, Warned};
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
    pub(super) fn identity(&self) -> Evaluation {
        if known(&self.facts.probes.issuers)?.iter().any(|(_, issuer)| issuer.is_err()) {
            return Err(blocked_by(self.network_check()).into());
        }
        let token = match known(&self.facts.probes.token)? {
            Err(error) => {
                let diagnosis = error.diagnose();
                // A program such as az may hang: a sign-in of arcssh needs none.
                let hint = match diagnosis.code {
                    Code::TimedOut => Some(Hint::new("sign in: ", "arcssh login")),
                    _ => diagnosis.hint,
                };
                return Ok(Failed(Diagnosis { hint, ..diagnosis }));
            }
            Ok(token) => token,
        };
        let (name, tenant, source) = (token.account_name(), token.tenant(), token.source.title());
        let left = token.expires_on.saturating_sub(unix_now());
        let account = format!("{source}: {name} in the tenant {tenant}");
        Ok(if left < SHORT_LIFETIME {
            warned(&Finding::TokenExpires(&account))
        } else if name.is_empty() || tenant.is_empty() {
            Unknown(format!("{source}: the access token does not show its account and tenant"))
        } else {
            Passed(format!("{account}, token expires in {} min", left / 60))
        })
    }

    pub(super) fn clock(&self) -> Evaluation {
        self.in_azure()?;
        let Some(skew) = *known(&self.facts.probes.skew)? else {
            return Ok(Unknown("no response of Azure shows its clock".into()));
        };
        let difference = skew.abs();
        Ok(if difference <= SKEW_WARNED {
            Passed(format!("within {SKEW_WARNED} s of Azure's"))
        } else if difference <= SKEW_FAILED {
            warned(&Finding::ClockSkew(skew))
        } else {
            failed(&Finding::ClockSkew(skew))
        })
    }

    pub(super) fn subscription(&self) -> Evaluation {
        self.in_azure()?;
        if self.facts.name.is_none() {
            return Ok(match known(&self.facts.probes.subscriptions)? {
                Ok(0) => Warned(Error::from(SelectError::NoSubscription).diagnose()),
                Ok(count) => Passed(format!("{count} visible")),
                Err(error) => Failed(error.diagnose()),
            });
        }
        Ok(match known(&self.facts.probes.registration)? {
            Some(Ok(_)) => Passed(self.subscription_id()?),
            Some(Err(error)) if is_forbidden(error) => unreadable(error),
            Some(Err(error)) if is_unknown_provider(error) => Passed(self.subscription_id()?),
            Some(Err(error)) => Failed(error.diagnose()),
            None => blocked_by("machine"),
        })
    }

    fn subscription_id(&self) -> Evaluation<String> {
        let machine = known(&self.facts.probes.machine)?;
        Ok(machine.as_ref().map_or("exists".into(), |machine| machine.id.subscription.clone()))
    }

    pub(super) fn cloud(&self) -> Evaluation {
        Ok(Passed(self.facts.cloud.clone()))
    }

    pub(super) fn proxy(&self) -> Evaluation {
        Ok(passed_or_failed(&self.facts.proxy))
    }

    pub(super) fn roots(&self) -> Evaluation {
        Ok(passed_or_failed(&self.facts.roots))
    }

    /// Returns the check that fails if Azure is unreachable.
    pub(super) fn network_check(&self) -> &'static str {
        match (&self.facts.proxy, &self.facts.roots) {
            (Err(_), _) => "proxy",
            (_, Err(_)) => "root certificates",
            _ => "network",
        }
    }

    pub(super) fn network(&self) -> Evaluation {
        let cause = self.network_check();
        if cause != "network" {
            return Ok(blocked_by(cause));
        }
        let mut passed = Vec::new();
        for (service, issuer) in known(&self.facts.probes.issuers)? {
            match issuer {
                Ok(issuer) => passed.push(format!("{service}: {issuer}")),
                Err(error) => return Ok(Failed(error.diagnose())),
            }
        }
        Ok(Passed(passed.join("; ")))
    }
}

fn passed_or_failed(fact: &Result<String, Error>) -> Outcome {
    match fact {
        Ok(text) => Passed(text.clone()),
        Err(error) => Failed(error.diagnose()),
    }
}
