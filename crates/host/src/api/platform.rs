//! Regions of this host, and where machines would go.

use serde::Deserialize;
use serde_json::{Value, json};

use super::call::{Answer, Call};
use super::error::ApiError;
use crate::config::Guest;

/// Regions that Fly has: code, name, part of the world, latitude, longitude.
const KNOWN: [(&str, &str, &str, f64, f64); 18] = [
    ("ams", "Amsterdam, Netherlands", "europe", 52.37, 4.9),
    ("arn", "Stockholm, Sweden", "europe", 59.33, 18.07),
    ("bom", "Mumbai, India", "asia_pacific", 19.08, 72.88),
    ("cdg", "Paris, France", "europe", 48.86, 2.35),
    ("dfw", "Dallas, Texas (US)", "north_america", 32.78, -96.8),
    ("ewr", "Secaucus, NJ (US)", "north_america", 40.79, -74.06),
    ("fra", "Frankfurt, Germany", "europe", 50.11, 8.68),
    ("gru", "Sao Paulo, Brazil", "south_america", -23.55, -46.63),
    ("iad", "Ashburn, Virginia (US)", "north_america", 39.04, -77.49),
    ("jnb", "Johannesburg, South Africa", "africa", -26.2, 28.05),
    (
        "lax",
        "Los Angeles, California (US)",
        "north_america",
        34.05,
        -118.24,
    ),
    ("lhr", "London, United Kingdom", "europe", 51.51, -0.13),
    ("nrt", "Tokyo, Japan", "asia_pacific", 35.68, 139.69),
    ("ord", "Chicago, Illinois (US)", "north_america", 41.88, -87.63),
    ("sin", "Singapore, Singapore", "asia_pacific", 1.35, 103.82),
    (
        "sjc",
        "San Jose, California (US)",
        "north_america",
        37.34,
        -121.89,
    ),
    ("syd", "Sydney, Australia", "asia_pacific", -33.87, 151.21),
    ("yyz", "Toronto, Canada", "north_america", 43.65, -79.38),
];

/// Whether a text names a part of the world.
pub(super) fn is_alias(text: &str) -> bool {
    matches!(text, "apac" | "eu" | "na" | "sa" | "us" | "usa")
}

/// Whether a region is in a part of the world.
pub(super) fn is_in(code: &str, alias: &str) -> bool {
    let part = KNOWN.iter().find(|(known, ..)| *known == code);
    part.is_some_and(|(_, name, part, ..)| match alias {
        "apac" => *part == "asia_pacific",
        "eu" => *part == "europe",
        "na" => *part == "north_america",
        "sa" => *part == "south_america",
        _ => name.ends_with("(US)"),
    })
}

fn shown(code: &str) -> Value {
    let known = KNOWN.iter().find(|(known, ..)| *known == code);
    let (_, name, part, latitude, longitude) = known.copied().unwrap_or((code, code, "", 0.0, 0.0));
    json!({
        "code": code, "name": name, "geo_region": part, "latitude": latitude, "longitude": longitude, "gateway_available": false,
        "requires_paid_plan": false, "deprecated": false,
    })
}

pub(super) fn regions(call: &Call) -> Result<Answer, ApiError> {
    let regions = &call.host().options.regions;
    let rows: Vec<Value> = regions.iter().map(|code| shown(code)).collect();
    Ok(Answer::ok(json!({ "nearest": regions.first(), "regions": rows })))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Asked {
    org_slug: Option<String>,
    region: Option<String>,
    count: Option<u64>,
    compute: Option<Guest>,
}

pub(super) fn placements(call: &Call) -> Result<Answer, ApiError> {
    let asked: Asked = call.body()?;
    let org = asked
        .org_slug
        .ok_or_else(|| ApiError::invalid("org_slug is missing"))?;
    call.org(&org)?;
    let regions: Vec<String> = asked
        .region
        .iter()
        .flat_map(|text| text.split(','))
        .map(str::to_owned)
        .collect();
    let region = super::machines::region(call, &regions)?;
    let memory_mb = asked.compute.unwrap_or_default().memory_mb.max(1);
    let room = call.host().shared.capacity.free_mb() / memory_mb;
    let count = asked.count.unwrap_or(1);
    if count > room {
        let text =
            format!("no capacity: {room} such machines fit on this host; ask for fewer or smaller ones");
        return Err(ApiError::new(http::StatusCode::BAD_REQUEST, text).with_code("insufficient_capacity"));
    }
    Ok(Answer::ok(
        json!({ "regions": [{"region": region, "count": count, "concurrency": count}] }),
    ))
}
