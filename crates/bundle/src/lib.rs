//! Authoring: object.toml and governance.cedar into a bundle; templates.
