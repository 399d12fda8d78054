//! The objects of one host: an actor for each, services for all.
//!
//! It decides nothing for an object: dormant, the object's own rules are asked at its door; awake, the runtime in its
//! machine decides. It knows no vehicle's insides ([`suijuris_vehicle::Driver`]) and no terminal ([`events::EventSink`]).
//! Who calls: `suijuris up` with one object, `suijuris serve` with many.

pub mod access_log;
pub mod actor;
mod at_door;
pub mod capability;
pub mod connection;
pub mod control;
pub mod destinations;
mod egress;
pub mod events;
pub mod history;
pub mod image;
mod image_disk;
mod inbox;
pub mod limits;
mod machine;
pub mod machine_notes;
pub mod messages;
pub mod output_logs;
pub mod paths;
mod rotated_file;
mod runtime_in_image;
pub mod serve;
pub mod services;
pub mod volume;

pub use actor::{ActorError, Ended, Input, ObjectActor, ObjectHandle, Resting};
pub use machine::Front;
pub use runtime_in_image::{NotStatic, Placed};
pub use services::{RuntimeProgram, Services};
