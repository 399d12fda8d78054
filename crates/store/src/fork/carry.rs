//! What a child knows of its parent's memory.

use suijuris_core::codec;
use suijuris_core::memory::{Change, Field, Memory, Name, Value, Write};

/// Encoded size of one change at most, bytes; half of what a record may hold.
const CHANGE_BYTES: usize = 1 << 20;

/// What is written into a child's memory, and what is not.
pub(super) struct Carry {
    /// Changes for one record each.
    pub(super) changes: Vec<Change>,
    /// Fields that the parent had written and the child does not get.
    pub(super) left_out: Vec<Name>,
}

/// Carries over what was written in `parent`: fields of the same name whose value the child's field takes, `secrets` only
/// where they are asked for. A field with `fresh_for` is not carried: a write makes it as fresh as new, and its age would
/// be lost.
pub(super) fn carry(parent: &Memory, child: &Memory, secrets: bool) -> Result<Carry, codec::Error> {
    let mut carry = Carry {
        changes: Vec::new(),
        left_out: Vec::new(),
    };
    let (mut change, mut bytes) = (Change::new(), 0);
    for (name, _, cell) in parent.iter().filter(|(_, _, cell)| cell.as_of.is_some()) {
        let write = cell.value.clone().map_or(Write::Unset, Write::Set);
        let single: Change = [(name.clone(), write.clone())].into();
        let field = child
            .schema()
            .position(name.as_str())
            .and_then(|at| child.schema().at(at));
        let takes = |(_, field): (&Name, &Field)| {
            let secret = matches!(cell.value, Some(Value::Commitment(_)));
            field.fresh_for.is_none() && (secrets || !secret) && child.check(&single).is_ok()
        };
        if !field.is_some_and(takes) {
            carry.left_out.push(name.clone());
            continue;
        }
        let size = codec::encode(&single)?.len();
        if bytes + size > CHANGE_BYTES && !change.is_empty() {
            carry.changes.push(std::mem::take(&mut change));
            bytes = 0;
        }
        change.insert(name.clone(), write);
        bytes += size;
    }
    if !change.is_empty() {
        carry.changes.push(change);
    }
    Ok(carry)
}
