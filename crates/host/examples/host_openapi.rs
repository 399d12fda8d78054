//! Prints the OpenAPI document of the Machines API; `cargo xtask openapi` keeps it in `docs/machines-openapi.json`.

use std::io::Write as _;

fn main() -> std::io::Result<()> {
    let document = suijuris_host::openapi::document().map_err(std::io::Error::other)?;
    let text = serde_json::to_string_pretty(&document)?;
    std::io::stdout().write_all(format!("{text}\n").as_bytes())
}
