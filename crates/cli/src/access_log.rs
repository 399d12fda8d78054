//! `--access-log` of `up` and `serve`.

use std::path::PathBuf;

use anyhow::Context as _;
use suijuris_api::access::Detail;
use suijuris_supervisor::access_log::{AccessLog, Place};

/// Where requests are told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct AccessLogArg {
    /// Write a JSON line for each request, answered or refused, to this file (`-`: standard output); at 64 MiB it becomes
    /// FILE.1. Header fields are never in it
    #[arg(long, value_name = "FILE")]
    access_log: Option<PathBuf>,
    /// Write queries too, which may hold secrets
    #[arg(long, requires = "access_log")]
    access_log_query: bool,
}

impl AccessLogArg {
    /// The log that is asked for, if one is.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn open(&self) -> anyhow::Result<AccessLog> {
        let Some(path) = &self.access_log else {
            return Ok(AccessLog::default());
        };
        let place = if path.as_os_str() == "-" {
            Place::Stdout
        } else {
            Place::File(std::path::absolute(path)?)
        };
        let detail = if self.access_log_query {
            Detail::Query
        } else {
            Detail::Path
        };
        AccessLog::open(place, detail).with_context(|| {
            format!(
                "the access log cannot be written to {}: name a file in a directory that is there, or `-`",
                path.display()
            )
        })
    }
}
