//! `suijuris serve`: thousands of objects in one process. Its parts: what is on disk ([`catalog`]), which objects run
//! ([`roster`]), which a request means ([`resolver`]), founding on first use, the public sockets ([`front`]) and
//! what connections pass before the objects ([`edge`]).

pub mod api;
mod archiving;
pub mod catalog;
mod class_entry;
pub mod edge;
pub mod entry;
pub mod feed;
mod forking;
mod founding;
pub mod front;
mod keeper;
mod leaving;
mod moving;
pub mod packing;
pub mod ports;
pub mod receiving;
pub mod resolver;
pub mod roster;
mod stream;

pub use class_entry::ClassEntry;
