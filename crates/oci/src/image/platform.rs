//! Which of an image's variants runs here.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An operating system and a processor, in the words of image-spec (those of Go).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, …
    pub architecture: String,
    /// `v7`, `v8`, …; empty where there is nothing to tell apart.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl Platform {
    /// Linux on an architecture without variants.
    #[must_use]
    pub fn linux(architecture: &str) -> Self {
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: String::new(),
        }
    }

    /// Linux on the processor that this program was built for.
    #[must_use]
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "x86" => ("386", ""),
            "aarch64" => ("arm64", "v8"),
            "arm" => ("arm", "v7"),
            "powerpc64" if cfg!(target_endian = "little") => ("ppc64le", ""),
            "loongarch64" => ("loong64", ""),
            other => (other, ""),
        };
        Self {
            variant: variant.to_owned(),
            ..Self::linux(architecture)
        }
    }

    /// How well `offered` runs here, less is better; none where it does not.
    ///
    /// Processors of 32-bit ARM run what is made for older ones; for all others, what names no variant is what runs
    /// everywhere, and is preferred to what may need more than is here.
    #[must_use]
    pub(crate) fn fits(&self, offered: &Self) -> Option<u32> {
        if self.os != offered.os || self.architecture != offered.architecture {
            return None;
        }
        let level = |variant: &str| {
            variant
                .strip_prefix('v')
                .and_then(|level| level.parse::<u32>().ok())
        };
        if self.architecture == "arm" {
            let ours = level(&self.variant).unwrap_or(7);
            // Without a variant it means v7, by the rules of containerd.
            return ours.checked_sub(level(&offered.variant).unwrap_or(7));
        }
        match (offered.variant.as_str(), self.variant.as_str()) {
            (offered, ours) if offered == ours => Some(0),
            ("", _) | ("v8", "") if self.architecture == "arm64" => Some(0),
            ("", _) => Some(1),
            ("v1", "") if self.architecture == "amd64" => Some(0),
            _ => None,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() {
            Ok(())
        } else {
            write!(f, "/{}", self.variant)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ours: &str, offered: &str, expect: Option<u32>) {
        let read = |text: &str| {
            let mut parts = text.split('/').map(str::to_owned);
            let mut next = || parts.next().unwrap_or_default();
            Platform {
                os: next(),
                architecture: next(),
                variant: next(),
            }
        };
        assert_eq!(read(ours).fits(&read(offered)), expect, "{offered} on {ours}");
    }

    #[test]
    fn what_runs_here_is_told_from_what_does_not() {
        check("linux/amd64", "linux/amd64", Some(0));
        check("linux/amd64", "linux/amd64/v1", Some(0));
        check("linux/amd64", "linux/amd64/v3", None);
        check("linux/amd64", "linux/arm64", None);
        check("linux/amd64", "windows/amd64", None);
        check("linux/amd64", "unknown/unknown", None);
        check("linux/arm64/v8", "linux/arm64", Some(0));
        check("linux/arm64/v8", "linux/arm64/v8", Some(0));
        check("linux/arm64", "linux/arm64/v8", Some(0));
        check("linux/arm64/v8", "linux/arm64/v9", None);
        check("linux/arm/v7", "linux/arm/v7", Some(0));
        check("linux/arm/v7", "linux/arm/v6", Some(1));
        check("linux/arm/v6", "linux/arm/v7", None);
        assert_eq!(Platform::host().fits(&Platform::host()), Some(0));
    }
}
