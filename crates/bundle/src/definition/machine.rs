//! `[workload.limits]` and `[[workload.mounts]]`: what a workload may use up, and what of its host it sees.

use suijuris_core::manifest::{HostMount, UseLimits};
use toml::de::DeValue;

use crate::fault::code;
use crate::section::Section;

/// Units of sizes, each 1,024 times the one before.
const UNITS: [(&str, u32); 4] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];

pub(super) fn limits(workload: &mut Section<'_>) -> UseLimits {
    let Some(mut section) = workload.section("limits") else {
        return UseLimits::default();
    };
    let limits = UseLimits {
        memory: size(&mut section, "memory"),
        cpu: processors(&mut section),
        processes: section.integer("processes").map(|found| found.value),
        open_files: section.integer("open_files").map(|found| found.value),
        disk: size(&mut section, "disk"),
    };
    section.finish();
    limits
}

/// A number of bytes, or a text such as `512MiB`.
fn size(section: &mut Section<'_>, key: &'static str) -> Option<u64> {
    let is_number = section
        .value(key)
        .is_some_and(|value| matches!(value.get_ref(), DeValue::Integer(_)));
    if is_number {
        return section.integer(key).map(|found| found.value);
    }
    let text = section.text(key)?;
    let bytes = bytes(text.value);
    if bytes.is_none() {
        let message = format!("`{}` is no size", section.name_of(key));
        let help = "write a number of bytes, or one with KiB, MiB, GiB or TiB as in \"512MiB\"";
        section.faults().error(code::BAD_VALUE, &text.span, message, help);
    }
    bytes
}

fn bytes(text: &str) -> Option<u64> {
    let (number, shift) = UNITS
        .iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)))?;
    let number: u64 = number.trim_end().parse().ok()?;
    number.checked_mul(1 << shift)
}

/// Processors, up to three places behind the point.
fn processors(section: &mut Section<'_>) -> Option<u32> {
    let value = section.value("cpu")?;
    let text = match value.get_ref() {
        DeValue::Integer(number) => number.as_str().to_owned(),
        DeValue::Float(number) => number.as_str().to_owned(),
        _ => String::new(),
    };
    let thousandths = thousandths(&text);
    if thousandths.is_none() {
        let message = format!("`{}` is no number of processors", section.name_of("cpu"));
        let help = "write a number such as 2 or 0.5, with at most three places behind the point";
        section
            .faults()
            .error(code::BAD_VALUE, &value.span(), message, help);
    }
    thousandths
}

fn thousandths(text: &str) -> Option<u32> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |text: &str| text.len() <= 6 && text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !is_number(whole) || part.len() > 3 || !is_number(part) {
        return None;
    }
    let whole: u32 = whole.parse().ok()?;
    let part: u32 = format!("{part:0<3}").parse().ok()?;
    whole.checked_mul(1_000)?.checked_add(part)
}

pub(super) fn mounts(workload: &mut Section<'_>) -> Vec<HostMount> {
    let sections = workload.sections("mounts");
    sections.into_iter().filter_map(mount).collect()
}

/// A relative `from` is one beside `object.toml`.
fn mount(mut section: Section<'_>) -> Option<HostMount> {
    let from = section.text("from").map(|from| from.value.to_owned());
    if !section.has("from") {
        section.missing("from", "write from = \"/directory/of/the/host\"");
    }
    let to = section.text("to").map(|to| to.value.to_owned());
    let write = section.flag("write").unwrap_or(false);
    let span = section.span();
    let from = from.map(|from| match from.starts_with(['/', '{']) {
        true => from,
        false => format!("{{object}}/{}", from.trim_start_matches("./")),
    });
    let mount = from.map(|from| HostMount {
        to: to.unwrap_or_else(|| from.clone()),
        from,
        write,
    });
    if let Some(unsound) = mount.as_ref().filter(|mount| !mount.is_sound()) {
        section.faults().error(
            code::BAD_VALUE,
            &span,
            format!("`{}` cannot be shown at `{}`", unsound.from, unsound.to),
            "name absolute paths without `.` and `..`; `from` may be one beside object.toml, and then needs a `to`",
        );
        return None;
    }
    section.finish();
    mount
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_processors_are_read_exactly_or_not_at_all() {
        assert_eq!(bytes("512MiB"), Some(512 << 20));
        assert_eq!(bytes("3 GiB"), Some(3 << 30));
        for wrong in ["512", "512MB", "-1MiB", "1.5GiB", "", "99999999999TiB"] {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
        assert_eq!(thousandths("2"), Some(2_000));
        assert_eq!(thousandths("0.25"), Some(250));
        for wrong in ["", ".5", "-1", "1.0001", "inf", "1e3"] {
            assert_eq!(thousandths(wrong), None, "{wrong}");
        }
    }
}
