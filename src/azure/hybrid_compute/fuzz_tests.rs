//! Arbitrary pages of machines.

use super::*;
use crate::tests::{each_input, is_plain};

#[test]
fn every_listed_machine_has_an_id_and_a_vm_id_that_ssh_takes_literally() {
    each_input("machines", |input| {
        let listed = serde_json::from_slice::<Page<Row>>(input).map(|page| page.value);
        let graph = serde_json::from_slice::<GraphPage>(input).map(|page| page.data);
        let rows: Vec<Row> = listed.into_iter().chain(graph).flatten().collect();
        let machines: Vec<&Machine> = rows.iter().filter_map(|Row(machine)| machine.as_ref()).collect();
        for &machine in &machines {
            assert_eq!(machine.id.to_string().parse::<ResourceId>().as_ref(), Ok(&machine.id));
            let vm_id = machine.vm_id.as_deref().unwrap_or("x");
            assert!(is_plain(vm_id) && !vm_id.contains(['%', ' ', '"', '*', '?', '!']), "{vm_id:?}");
            let name: MachineRef = machine.id.name.parse().unwrap();
            assert!(name.matches(machine));
        }
        format!("{} {}", "x".repeat(rows.len().min(3)), "y".repeat(machines.len().min(3)))
    });
}
