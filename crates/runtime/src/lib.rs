//! suijuris-init: the object's runtime inside its machine.
