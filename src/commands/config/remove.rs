//! Sections taken out of the block, without asking Azure.

use std::collections::BTreeSet;

use anyhow::{Result, bail, ensure};

use crate::azure::hybrid_compute::{Machine, MachineRef};
use crate::azure::resource_id::ResourceId;
use crate::commands::config::options::Options;
use crate::commands::config::{own_block, plan};
use crate::machines::AmbiguousName;
use crate::ssh::{effective_config, managed_block};

/// The text without the block if `leaving` is empty, else with a block without those machines; without the block too
/// when nothing is left in it.
pub(super) fn without(leaving: &BTreeSet<String>, old: &str) -> Result<String> {
    if leaving.is_empty() {
        return managed_block::without_block(old);
    }
    let block = own_block(old)?.replace("\r\n", "\n");
    ensure!(!block.is_empty(), "there is no arcssh block");
    let mut options = Options::of(old)?;
    let ranges = managed_block::sections(&block).into_iter();
    let mut sections: Vec<String> = ranges.map(|range| format!("{}\n", block[range].trim_end())).collect();
    for name in leaving {
        let section = sections.remove(position(&sections, name)?);
        options.exclude(resource_id(&section), &patterns(&section), name)?;
    }
    if options.is_empty() {
        return managed_block::without_block(old);
    }
    managed_block::with_block(old, &managed_block::block(&options.line()?, &sections.join("\n")))
}

/// The one section that `name` means: by what may be typed for its host, or by the machine.
fn position(sections: &[String], name: &str) -> Result<usize> {
    let typed = |section: &String| patterns(section).iter().any(|pattern| pattern.eq_ignore_ascii_case(name));
    let parsed = name.parse::<MachineRef>().ok();
    let meant = |section: &String| {
        let machine = resource_id(section).map(Machine::from_id);
        machine.zip(parsed.as_ref()).is_some_and(|(machine, name)| name.matches(&machine))
    };
    let all = |is: &dyn Fn(&String) -> bool| -> Vec<usize> {
        (0..sections.len()).filter(|at| is(&sections[*at])).collect()
    };
    let found = Some(all(&typed)).filter(|found| !found.is_empty()).unwrap_or_else(|| all(&meant));
    match found[..] {
        [at] => Ok(at),
        [] => bail!("{name} is not in the arcssh block"),
        _ => {
            let candidate = |at: usize| patterns(&sections[at]).into_iter().next().unwrap_or_default();
            bail!(AmbiguousName {
                name: name.to_owned(),
                candidates: found.into_iter().map(candidate).collect()
            })
        }
    }
}

fn patterns(section: &str) -> Vec<String> {
    effective_config::sections(section).into_iter().flat_map(|(patterns, _)| patterns).collect()
}

/// The machine that a section reaches, as its lines name it.
fn resource_id(section: &str) -> Option<ResourceId> {
    plan::machine(section)?.parse().ok()
}
