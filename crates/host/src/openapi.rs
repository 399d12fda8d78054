//! The Machines API as an OpenAPI document: paths from the table of routes, the config from its types, other documents from the
//! short forms below. Not part of a build that ships: `cargo xtask openapi` runs it.
#![expect(clippy::indexing_slicing, reason = "members that are made where they are not")]

use serde_json::{Map, Value, json};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema as _, ToSchema};

use crate::api::routes::{Needs, Operation, ROUTES, Route};
use crate::config::MachineConfig;

/// Documents that are answered or sent: name, then members as `name:type`. Types are `s`, `i`, `n`, `b`, `o` (anything in an object),
/// a schema's name; `[…]` a list, `?` after a name: may be absent.
const DOCUMENTS: &[(&str, &str)] = &[
    ("Error", "error:s status?:s message?:s code?:s"),
    ("Ok", "ok:b"),
    ("Organization", "name:s slug:s internal_numeric_id:i"),
    (
        "App",
        "id:s internal_numeric_id:i name:s machine_count:i volume_count:i network:s status:s organization:Organization",
    ),
    ("Apps", "total_apps:i apps:[App]"),
    (
        "CreateApp",
        "app_name?:s name?:s org_slug?:s network?:s enable_subdomains?:b",
    ),
    ("CreatedApp", "id:s created_at:i"),
    ("CreateDeployToken", "expiry?:s"),
    ("Token", "token:s"),
    ("ImageRef", "registry:s repository:s tag:s digest:s labels:o"),
    (
        "Event",
        "id:s type:s status:s source:s timestamp:i request?:o message?:s",
    ),
    (
        "Machine",
        "id:s name:s state:s region:s image_ref:ImageRef instance_id:s version:s private_ip:s created_at:s updated_at:s config:o \
         events:[Event] checks:[o] host_status:s cordoned:b nonce?:s lease?:o",
    ),
    (
        "CreateMachine",
        "config:MachineConfig name?:s region?:s skip_launch?:b skip_service_registration?:b lease_ttl?:i min_secrets_version?:i \
         skip_secrets?:b",
    ),
    (
        "UpdateMachine",
        "config:MachineConfig current_version?:s name?:s region?:s skip_launch?:b skip_service_registration?:b lease_ttl?:i \
         min_secrets_version?:i skip_secrets?:b",
    ),
    ("Version", "version:s user_config:o"),
    ("Started", "previous_state:s migrated:b new_host:s"),
    ("Stop", "signal?:s timeout?:s"),
    ("Signal", "signal:s"),
    ("Waited", "ok:b state:s version:s event_id:s"),
    ("CreateLease", "ttl?:i description?:s"),
    ("Lease", "nonce:s expires_at:i owner:s description:s version:s"),
    ("LeaseAnswer", "status:s data:Lease"),
    ("UpdateMetadata", "metadata:o machine_version?:s updated_at?:s"),
    ("SetMetadata", "value:s updated_at?:s"),
    ("MetadataValue", "value:s"),
    ("Exec", "command?:[s] cmd?:s stdin?:s timeout?:i container?:s"),
    ("Executed", "exit_code:i exit_signal:i stdout:s stderr:s"),
    (
        "Process",
        "pid:i command:s directory:s cpu:i rss:i rtime:i stime:i listen_sockets:[o]",
    ),
    ("Memory", "limit_mb:i available_mb:i"),
    ("SetMemory", "limit_mb?:i"),
    ("ReclaimMemory", "amount_mb?:i"),
    ("Reclaimed", "actual_mb:i"),
    (
        "OrgMachine",
        "id:s name:s state:s region:s instance_id:s version:s private_ip:s app_name:s created_at:s updated_at:s config:o",
    ),
    // With `summary` some of it is not there.
    (
        "ListedMachine",
        "id:s name:s state:s region:s image_ref?:ImageRef instance_id:s version:s private_ip:s created_at:s updated_at:s config:o \
         events?:[Event] checks?:[o] host_status?:s cordoned?:b app_name?:s",
    ),
    (
        "OrgMachines",
        "machines:[OrgMachine] next_cursor:s last_machine_id:s last_updated_at:s error_regions:[s]",
    ),
    (
        "OrgVolumes",
        "volumes:[Volume] next_cursor:s last_volume_id:s last_updated_at:s error_regions:[s]",
    ),
    (
        "Volume",
        "id:s name:s state:s size_gb:i region:s zone:s encrypted:b attached_machine_id?:s attached_alloc_id?:s created_at:s blocks:i \
         block_size:i blocks_free:i blocks_avail:i bytes_total:i bytes_used:i fstype:s snapshot_retention:i auto_backup_enabled:b \
         host_status:s type:s app_name?:s updated_at?:s",
    ),
    (
        "CreateVolume",
        "name:s region?:s size_gb?:i encrypted?:b fstype?:s snapshot_retention?:i auto_backup_enabled?:b snapshot_id?:s \
         source_volume_id?:s",
    ),
    ("UpdateVolume", "snapshot_retention?:i auto_backup_enabled?:b"),
    ("ExtendVolume", "size_gb:i"),
    ("Extended", "volume:Volume needs_restart:b"),
    (
        "Snapshot",
        "id:s size:i volume_size:i digest:s created_at:s status:s retention_days:i Msg?:o",
    ),
    (
        "Secret",
        "name:s digest:s created_at:s updated_at:s value?:s version?:i Version?:i",
    ),
    ("Secrets", "secrets:[Secret] version?:i Version?:i"),
    ("UpdateSecrets", "values:o"),
    ("SetSecret", "value:s"),
    ("Deleted", "version:i Version:i"),
    (
        "SecretKey",
        "name:s type:s created_at:s updated_at:s public_key:[i] version?:i Version?:i",
    ),
    ("SecretKeys", "secret_keys:[SecretKey]"),
    ("SetKey", "value:[i] type?:s"),
    ("GenerateKey", "type?:s"),
    ("Encrypt", "plaintext:[i] associated_data?:[i]"),
    ("Encrypted", "ciphertext:[i]"),
    ("Decrypt", "ciphertext:[i] associated_data?:[i]"),
    ("Decrypted", "plaintext:[i]"),
    ("Sign", "plaintext:[i]"),
    ("Signed", "signature:[i]"),
    ("Verify", "plaintext:[i] signature:[i]"),
    (
        "Region",
        "code:s name:s geo_region:s latitude:n longitude:n gateway_available:b requires_paid_plan:b deprecated:b",
    ),
    ("Regions", "nearest:s regions:[Region]"),
    (
        "Place",
        "org_slug:s region?:s count?:i compute?:o volume_name?:s volume_size_bytes?:i weights?:o",
    ),
    ("Placement", "region:s count:i concurrency:i"),
    ("Placements", "regions:[Placement]"),
    (
        "AssignIp",
        "type?:s region?:s network?:s org_slug?:s service_name?:s",
    ),
    ("Ip", "ip:s region:s created_at:s shared:b service_name:s"),
    ("Ips", "ips:[Ip]"),
    ("AcmeCertificate", "hostname:s"),
    ("CustomCertificate", "hostname:s fullchain:s private_key:s"),
    (
        "Certificate",
        "hostname:s configured:b acme_requested:b certificates:[o] dns_provider:s status:s rate_limited_until:s dns_requirements:o \
         validation:o validation_errors:[o]",
    ),
    ("Certificates", "certificates:[o] next_cursor:s total_count:i"),
    ("Policy", "id:s name?:s selector:o rules:[o]"),
    ("CreatePolicy", "name?:s selector:o rules:[o]"),
    ("Tokens", "tokens:[o]"),
    ("Header", "header:s"),
    ("Authorize", "header:s access:o"),
    ("Authorized", "verified_token:o access:o"),
];

/// What an operation takes and gives: body, status and document of the answer (a list where it begins with `[`), parameters of the
/// query as in [`DOCUMENTS`].
fn documents(operation: Operation) -> (&'static str, u16, &'static str, &'static str) {
    use Operation as O;
    const LIST: &str = "include_deleted:b region:s state:s summary:b";
    const PAGE: &str = "include_deleted:b region:s state:s summary:b updated_after:s cursor:s limit:i";
    match operation {
        O::ListApps => ("", 200, "Apps", "org_slug:s app_role:s"),
        O::CreateApp => ("CreateApp", 201, "CreatedApp", ""),
        O::ShowApp => ("", 200, "App", ""),
        O::DeleteApp => ("", 202, "", "force:b"),
        O::DeployToken => ("CreateDeployToken", 200, "Token", ""),
        O::ListMachines => ("", 200, "[ListedMachine]", LIST),
        O::CreateMachine => ("CreateMachine", 200, "Machine", ""),
        O::ShowMachine => ("", 200, "Machine", "include_leases:b"),
        O::UpdateMachine => ("UpdateMachine", 200, "Machine", ""),
        O::DeleteMachine => ("", 200, "Ok", "force:b"),
        O::Events => ("", 200, "[Event]", "limit:i"),
        O::Versions => ("", 200, "[Version]", ""),
        O::Start => ("", 200, "Started", ""),
        O::Stop => ("Stop", 200, "Ok", ""),
        O::Suspend | O::Cordon | O::Uncordon | O::ReleaseLease => ("", 200, "Ok", ""),
        O::Restart => ("Stop", 200, "Ok", "timeout:s signal:s force_stop:b"),
        O::Signal => ("Signal", 200, "Ok", ""),
        O::Wait => (
            "",
            200,
            "Waited",
            "version:s instance_id:s from_event_id:s timeout:i state:s",
        ),
        O::ShowLease => ("", 200, "LeaseAnswer", ""),
        O::CreateLease => ("CreateLease", 201, "LeaseAnswer", ""),
        O::ShowMetadata => ("", 200, "o", ""),
        O::UpdateMetadata => ("UpdateMetadata", 204, "", ""),
        O::GetMetadata => ("", 200, "MetadataValue", ""),
        O::SetMetadata => ("SetMetadata", 204, "", ""),
        O::DeleteMetadata | O::ReleaseIp | O::DeleteCertificate | O::DeletePolicy => ("", 204, "", ""),
        O::Exec => ("Exec", 200, "Executed", ""),
        O::Processes => ("", 200, "[Process]", "sort_by:s order:s"),
        O::Memory => ("", 200, "Memory", ""),
        O::SetMemory => ("SetMemory", 200, "Memory", ""),
        O::ReclaimMemory => ("ReclaimMemory", 200, "Reclaimed", ""),
        O::OrgMachines => ("", 200, "OrgMachines", PAGE),
        O::OrgVolumes => ("", 200, "OrgVolumes", PAGE),
        O::ListVolumes => ("", 200, "[Volume]", "summary:b"),
        O::CreateVolume => ("CreateVolume", 200, "Volume", ""),
        O::ShowVolume | O::DeleteVolume => ("", 200, "Volume", ""),
        O::UpdateVolume => ("UpdateVolume", 200, "Volume", ""),
        O::ExtendVolume => ("ExtendVolume", 200, "Extended", ""),
        O::ListSnapshots => ("", 200, "[Snapshot]", ""),
        O::CreateSnapshot => ("", 200, "Snapshot", ""),
        O::ListSecrets => ("", 200, "Secrets", "min_version:s show_secrets:b"),
        O::UpdateSecrets => ("UpdateSecrets", 200, "Secrets", ""),
        O::ShowSecret => ("", 200, "Secret", "min_version:s show_secrets:b"),
        O::SetSecret => ("SetSecret", 201, "Secret", ""),
        O::DeleteSecret | O::DeleteKey => ("", 200, "Deleted", ""),
        O::ListKeys => ("", 200, "SecretKeys", "min_version:s types:s"),
        O::ShowKey => ("", 200, "SecretKey", "min_version:s"),
        O::SetKey => ("SetKey", 201, "SecretKey", ""),
        O::GenerateKey => ("GenerateKey", 201, "SecretKey", ""),
        O::Encrypt => ("Encrypt", 200, "Encrypted", "min_version:s"),
        O::Decrypt => ("Decrypt", 200, "Decrypted", "min_version:s"),
        O::Sign => ("Sign", 200, "Signed", "min_version:s"),
        O::Verify => ("Verify", 204, "", "min_version:s"),
        O::Regions => ("", 200, "Regions", ""),
        O::Placements => ("Place", 200, "Placements", ""),
        O::ListIps => ("", 200, "Ips", ""),
        O::AssignIp => ("AssignIp", 200, "Ip", ""),
        O::ListCertificates => ("", 200, "Certificates", "filter:s cursor:s limit:i"),
        O::AcmeCertificate => ("AcmeCertificate", 201, "Certificate", ""),
        O::CustomCertificate => ("CustomCertificate", 201, "Certificate", ""),
        O::ShowCertificate | O::CheckCertificate | O::DeleteAcme | O::DeleteCustom => {
            ("", 200, "Certificate", "")
        }
        O::ListPolicies => ("", 200, "[Policy]", ""),
        O::CreatePolicy => ("CreatePolicy", 201, "Policy", ""),
        O::CurrentTokens => ("", 200, "Tokens", ""),
        O::Authenticate => ("Header", 200, "[o]", ""),
        O::Authorize => ("Authorize", 200, "Authorized", ""),
        O::Logs => ("", 200, "", "follow:b"),
        O::Oidc | O::Kms => ("", 200, "o", ""),
    }
}

/// The schema of a short form's type.
fn schema(short: &str) -> Value {
    match short {
        "s" => json!({ "type": "string" }),
        "i" => json!({ "type": "integer" }),
        "n" => json!({ "type": "number" }),
        "b" => json!({ "type": "boolean" }),
        "o" => json!({ "type": "object" }),
        list if list.starts_with('[') => {
            let of = list.trim_start_matches('[').trim_end_matches(']');
            json!({ "type": "array", "items": schema(of) })
        }
        name => json!({ "$ref": format!("#/components/schemas/{name}") }),
    }
}

fn members(short: &str) -> impl Iterator<Item = (&str, bool, Value)> {
    short.split_whitespace().filter_map(|member| {
        let (name, of) = member.split_once(':')?;
        let required = !name.ends_with('?');
        Some((name.trim_end_matches('?'), required, schema(of)))
    })
}

fn document_schema(short: &str) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for (name, is_required, mut schema) in members(short) {
        if is_required {
            required.push(name.to_owned());
        } else if let Some(of) = schema.get("type").cloned() {
            // Absent and null are the same.
            schema["type"] = json!([of, "null"]);
        }
        properties.insert(name.to_owned(), schema);
    }
    json!({ "type": "object", "required": required, "properties": properties })
}

fn config_schemas() -> Result<Map<String, Value>, String> {
    let mut found: Vec<(String, RefOr<Schema>)> = vec![("MachineConfig".to_owned(), MachineConfig::schema())];
    MachineConfig::schemas(&mut found);
    let value = |(name, schema)| {
        Ok((
            name,
            serde_json::to_value(schema).map_err(|error| error.to_string())?,
        ))
    };
    found.into_iter().map(value).collect()
}

fn operation(route: &Route) -> Value {
    let (body, status, answer, query) = documents(route.operation);
    let in_path = route
        .path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let text = json!({ "type": "string", "minLength": 1 });
    let mut parameters: Vec<Value> = in_path
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": text}))
        .collect();
    parameters.extend(
        members(query).map(
            |(name, _, schema)| json!({"name": name, "in": "query", "required": false, "schema": schema}),
        ),
    );
    let needs = match route.needs {
        Needs::Read => "Any token.",
        Needs::Write => "A token of full access.",
        Needs::Exec => "A token of full access, or one to run commands.",
    };
    let mut done = json!({ "description": "Done, or answered" });
    if !answer.is_empty() {
        done["content"] = json!({ "application/json": {"schema": schema(answer)} });
    }
    let mut operation = json!({
        "operationId": format!("{:?}{}", route.operation, if route.method == "PUT" && status == 200 { "ByPut" } else { "" }),
        "summary": route.about,
        "description": needs,
        "parameters": parameters,
        "responses": { status.to_string(): done, "default": {"$ref": "#/components/responses/Error"} },
    });
    if matches!(route.operation, Operation::UpdateMetadata) {
        operation["operationId"] = json!(format!(
            "UpdateMetadata{}",
            if route.method == "PUT" { "ByPut" } else { "" }
        ));
    }
    if !body.is_empty() {
        operation["requestBody"] =
            json!({ "required": true, "content": {"application/json": {"schema": schema(body)}} });
    }
    operation
}

/// The document.
///
/// # Errors
/// A schema of the config has no JSON.
pub fn document() -> Result<Value, String> {
    let mut paths = Map::new();
    for route in ROUTES {
        let item = paths
            .entry(format!("/v1{}", route.path))
            .or_insert_with(|| json!({}));
        item[route.method.to_ascii_lowercase()] = operation(route);
    }
    let mut schemas = config_schemas()?;
    for (name, short) in DOCUMENTS {
        schemas.insert((*name).to_owned(), document_schema(short));
    }
    schemas.sort_keys();
    Ok(json!({
        "openapi": "3.1.0",
        "info": {
            "title": "suijuris host",
            "description": "The Machines API of a host. docs/host.md says what of it is other than Fly's.",
            "version": "1",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "`suijuris host token create`"}},
            "responses": {"Error": {
                "description": "What is wrong, and what to do",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
            }},
        },
        "security": [{"token": []}],
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_leads_to_a_schema_and_no_two_operations_share_an_id() {
        let document = document().unwrap();
        let text = document.to_string();
        for part in text.split("\"#/components/schemas/").skip(1) {
            let name = part.split('"').next().unwrap();
            assert!(document["components"]["schemas"].get(name).is_some(), "{name}");
        }
        let ids: Vec<&str> = text
            .split("\"operationId\":\"")
            .skip(1)
            .map(|part| part.split('"').next().unwrap())
            .collect();
        let distinct: std::collections::BTreeSet<&str> = ids.iter().copied().collect();
        assert_eq!((ids.len(), distinct.len()), (ROUTES.len(), ROUTES.len()));
    }
    /// What Fly's document has, in our own form.
    const REFERENCE: &str = include_str!("openapi/reference.txt");

    #[test]
    fn every_operation_and_member_of_flys_api_is_here_or_left_out_with_a_reason() {
        let document = document().unwrap();
        let lines = |kind: &'static str| {
            REFERENCE
                .lines()
                .filter_map(move |line| line.strip_prefix(kind)?.strip_prefix(' '))
        };
        for line in lines("operation") {
            let (method, path) = line.split_once(' ').unwrap();
            let known = ROUTES
                .iter()
                .any(|route| route.method == method && route.path == path);
            assert!(known, "{line}");
        }
        let reasons: Vec<&str> = lines("other")
            .map(|line| line.split_once(": ").expect("a reason").0)
            .collect();
        let mut used = 0;
        for line in lines("answer") {
            let mut words = line.split(' ');
            let name = words.next().unwrap();
            let ours = &document["components"]["schemas"][name]["properties"];
            for member in words {
                let differs = reasons.contains(&format!("{name} {member}").as_str());
                used += usize::from(differs);
                assert!(ours.get(member).is_some() != differs, "{name} {member}");
            }
        }
        assert_eq!(used, reasons.len(), "a reason for what is not different");
        let beyond: Vec<&str> = ROUTES
            .iter()
            .filter(|route| lines("operation").all(|line| line != format!("{} {}", route.method, route.path)))
            .map(|route| route.path)
            .collect();
        let policies = ["/apps/{app_name}/network_policies"; 2];
        let expected = [
            "/apps/{app_name}/machines/{machine_id}",
            "/apps/{app_name}/machines/{machine_id}/logs",
            policies[0],
            policies[1],
            "/apps/{app_name}/network_policies/{id}",
        ];
        assert_eq!(beyond, expected, "what clients use and Fly's document has not");
    }
}
