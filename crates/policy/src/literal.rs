//! Values of extension literals: `decimal("1.5")`, `ip("10.0.0.0/8")`, `datetime("2026-11-23")`, `duration("5m")`.
//!
//! The validator has accepted the texts already. Times are evaluated by Cedar itself, so that its grammar holds.

use std::net::IpAddr;

use cedar_policy_core::ast::{Literal, RestrictedExpr, ValueKind};
use cedar_policy_core::evaluator::RestrictedEvaluator;
use cedar_policy_core::extensions::Extensions;
use suijuris_core::memory::Decimal;

/// Ten-thousandths.
pub(crate) fn decimal(text: &str) -> Option<i64> {
    text.parse::<Decimal>().ok().map(|decimal| decimal.0)
}

/// Address and prefix length, bits.
pub(crate) fn ip(text: &str) -> Option<(IpAddr, u8)> {
    let (addr, prefix) = match text.split_once('/') {
        Some((addr, prefix)) => (addr, Some(prefix.parse().ok()?)),
        None => (text, None),
    };
    let addr: IpAddr = addr.parse().ok()?;
    Some((addr, prefix.unwrap_or(if addr.is_ipv4() { 32 } else { 128 })))
}

/// Milliseconds of a `duration`, or since 1970 of a `datetime`.
pub(crate) fn milliseconds(name: &str, text: &str) -> Option<i64> {
    let literal = format!("{name}(\"{}\")", text.escape_debug());
    let source = match name {
        "datetime" => format!("{literal}.durationSince(datetime(\"1970-01-01\")).toMilliseconds()"),
        _ => format!("{literal}.toMilliseconds()"),
    };
    let expression: RestrictedExpr = source.parse().ok()?;
    let evaluator = RestrictedEvaluator::new(Extensions::all_available());
    match evaluator.interpret(expression.as_borrowed()).ok()?.value {
        ValueKind::Lit(Literal::Long(value)) => Some(value),
        _ => None,
    }
}
