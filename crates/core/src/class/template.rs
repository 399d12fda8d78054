//! Deciding whether an instance is founded: the rule `instantiate`, asked of the template.
//!
//! There is no instance yet. What rules see as `resource` is the instance as it would be born: memory at its defaults,
//! nothing in its lineage, its class and key; its id is that of the class, since its own follows from the record that
//! this decision goes into.

use std::sync::Arc;

use super::{ClassId, Instantiation, Key, Membership};
use crate::bundle::Bundle;
use crate::decide::{self, Rules, Subject, Verdict};
use crate::governance::{Action, Lineage};
use crate::id::ObjectId;
use crate::inputs::{Founding, Inputs};
use crate::lineage::{Decision, Phase};
use crate::memory::Memory;

/// A class, as decisions look at it.
#[derive(Debug, Clone, Copy)]
pub struct Template<'a> {
    /// The class.
    pub id: ClassId,
    /// Name for people, which its instances have too.
    pub name: &'a str,
    /// Its rules.
    pub rules: &'a Rules,
    /// Memory as its instances are born with it.
    pub memory: &'a Memory,
}

impl Template<'_> {
    fn subject<'a>(&'a self, instance: &'a Membership, inputs: &Inputs) -> Subject<'a> {
        Subject {
            object: ObjectId::from_digest(*self.id.digest()),
            name: self.name,
            phase: Phase::Dormant,
            lineage: Lineage {
                born: inputs.now.at,
                ..Lineage::default()
            },
            memory: self.memory,
            instance: Some(instance),
            in_force: self.rules.bundle,
            bundle: self.rules.bundle,
            program: &self.rules.program,
            vocabulary: &self.rules.vocabulary,
        }
    }

    /// Makes the decision in an inception again; equal to the recorded one if that was made by these rules.
    #[must_use]
    pub fn replay(&self, recorded: &Instantiation) -> Decision {
        let instance = Membership::new(recorded.id, recorded.key.clone());
        let inputs = recorded.decision.inputs.clone();
        decide::evaluate(self.subject(&instance, &inputs), Action::Instantiate, inputs)
    }
}

/// Answers a proposal to found the instance `key`, of which there are as many as `founding` says; where the class is full,
/// it is refused whatever the rules say. That the class can have this key, [`super::Keys`] has said.
#[must_use]
pub fn instantiate(template: &Template<'_>, key: &Key, founding: Founding, inputs: Inputs) -> Verdict {
    let instance = Membership::new(template.id, key.clone());
    let inputs = Inputs {
        founding: Some(founding),
        ..inputs
    };
    decide::instantiate(template.subject(&instance, &inputs), inputs)
}

/// Why an inception that names a class does not fit the bundle that it names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InstanceError {
    /// The bundle is that of a single object.
    #[error("its bundle is not a class")]
    NoClass,
    /// The class cannot have its key.
    #[error("its class cannot have its key")]
    Key(#[from] super::KeyError),
    /// More instances than the class says.
    #[error("its decision allows {0} instances, its class another number")]
    Bound(u64),
    /// The rules say otherwise.
    #[error("the rules of its class do not give the decision that created it")]
    Decision,
}

impl Instantiation {
    /// Holds this to the bundle that the inception names: its class has such keys, and its rules, asked again, give this
    /// decision. `name` is the object's. That class, key and counts were as stated, nobody can see from here.
    ///
    /// # Errors
    /// The first [`InstanceError`].
    pub fn check(&self, name: &str, bundle: &Bundle) -> Result<(), InstanceError> {
        let class = bundle.manifest.class.as_ref().ok_or(InstanceError::NoClass)?;
        class.key.check(&self.key)?;
        let bound = self
            .decision
            .inputs
            .founding
            .map_or(0, |founding| founding.max_instances);
        if bound != class.max_instances {
            return Err(InstanceError::Bound(bound));
        }
        if self.replay(name, bundle) == self.decision {
            Ok(())
        } else {
            Err(InstanceError::Decision)
        }
    }

    /// Makes the decision again by the rules of `bundle`, which the inception of the object called `name` names.
    #[must_use]
    pub fn replay(&self, name: &str, bundle: &Bundle) -> Decision {
        let memory = Memory::new(Arc::clone(bundle.schema()));
        let template = Template {
            id: self.id,
            name,
            rules: &bundle.rules,
            memory: &memory,
        };
        template.replay(self)
    }
}
