//! Which calls, and with which arguments.

mod ear;
mod keeper;

use std::collections::BTreeMap;

use seccompiler::SeccompCmpOp::{MaskedEq, Ne};
use seccompiler::{BackendError, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};

use super::Process;

/// The calls, each with its rules, of which one has to be met. A call without rules is free.
pub(super) type Calls = BTreeMap<libc::c_long, Vec<SeccompRule>>;

/// The calls of a process.
pub(super) fn of(process: Process) -> Result<Calls, BackendError> {
    match process {
        Process::Ear => ear::calls(),
        Process::Keeper => keeper::calls(),
    }
}

/// A condition on an argument, by its index: a descriptor, a length or flags, of which the kernel looks at 32 bits.
type Condition = (u8, SeccompCmpOp, libc::c_int);

/// All these conditions.
fn rule(conditions: &[Condition]) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.iter().map(of_32_bits).collect::<Result<_, _>>()?)
}

/// All these conditions, and a pointer that is not null.
fn rule_with_pointer(argument: u8, conditions: &[Condition]) -> Result<SeccompRule, BackendError> {
    let pointer = SeccompCondition::new(argument, SeccompCmpArgLen::Qword, Ne, 0);
    SeccompRule::new(conditions.iter().map(of_32_bits).chain([pointer]).collect::<Result<_, _>>()?)
}

fn of_32_bits((argument, operator, value): &Condition) -> Result<SeccompCondition, BackendError> {
    let value = u64::from(value.cast_unsigned());
    SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, operator.clone(), value)
}

/// No flag of `unwanted` is set.
fn without(argument: u8, unwanted: libc::c_int) -> Condition {
    (argument, MaskedEq(u64::from(unwanted.cast_unsigned())), 0)
}

/// All flags of `wanted` are set.
fn with(argument: u8, wanted: libc::c_int) -> Condition {
    (argument, MaskedEq(u64::from(wanted.cast_unsigned())), wanted)
}
