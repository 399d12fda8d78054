//! The same seven rules for `wake` and for `admit`, in each language.

/// In Cedar.
pub(crate) const CEDAR: &str = r#"
@id("ready") permit(principal, action == Action::"wake", resource)
when { resource.memory.status == "ready" && resource.memory.budget > 0 && resource.fresh.consent };
@id("urgent") permit(principal, action == Action::"wake", resource)
when { resource.memory.jobs.contains("urgent") && resource.memory.priority >= 5 };
@id("timer") permit(principal, action == Action::"wake", resource)
when { context.trigger.kind == "timer" && resource.memory.enabled };
@id("owner") permit(principal, action == Action::"wake", resource)
when { context.trigger.kind == "manual" && resource.memory.owner == context.host.id };
@id("spent") forbid(principal, action == Action::"wake", resource)
when { resource.memory.spent >= resource.memory.budget };
@id("abroad") forbid(principal, action == Action::"wake", resource)
unless { resource.memory.region == context.host.region };
@id("suspended") forbid(principal, action == Action::"wake", resource)
when { resource.memory.plan == "suspended" };

@id("public") permit(principal, action == Action::"admit", resource)
when { resource.memory.enabled && context.request.method == "GET" && context.request.path like "/public/*" };
@id("readers") permit(principal, action == Action::"admit", resource)
when { principal.authenticated && principal.scopes.contains("read") && ["GET", "HEAD"].contains(context.request.method) };
@id("writers") permit(principal, action == Action::"admit", resource)
when { principal.authenticated && principal.scopes.contains("write") && resource.fresh.consent };
@id("self") permit(principal, action == Action::"admit", resource)
when { principal.authenticated && principal has subject && principal.subject == resource.memory.owner };
@id("closed") forbid(principal, action == Action::"admit", resource)
when { resource.memory.status == "closed" };
@id("broke") forbid(principal, action == Action::"admit", resource)
when { resource.memory.spent >= resource.memory.budget && context.request.method != "GET" };
@id("large") forbid(principal, action == Action::"admit", resource)
when { context.request has content_length && context.request.content_length > 1048576 };
"#;

/// In CEL, permits and forbids of `wake`.
pub(crate) const CEL_WAKE: (&[&str], &[&str]) = (
    &[
        r#"memory.status == "ready" && memory.budget > 0 && fresh.consent"#,
        r#""urgent" in memory.jobs && memory.priority >= 5"#,
        r#"trigger.kind == "timer" && memory.enabled"#,
        r#"trigger.kind == "manual" && memory.owner == host.id"#,
    ],
    &[
        "memory.spent >= memory.budget",
        "!(memory.region == host.region)",
        r#"memory.plan == "suspended""#,
    ],
);

/// In CEL, permits and forbids of `admit`.
pub(crate) const CEL_ADMIT: (&[&str], &[&str]) = (
    &[
        r#"memory.enabled && request.method == "GET" && request.path.startsWith("/public/")"#,
        r#"principal.authenticated && "read" in principal.scopes && request.method in ["GET", "HEAD"]"#,
        r#"principal.authenticated && "write" in principal.scopes && fresh.consent"#,
        "principal.authenticated && has(principal.subject) && principal.subject == memory.owner",
    ],
    &[
        r#"memory.status == "closed""#,
        r#"memory.spent >= memory.budget && request.method != "GET""#,
        "has(request.content_length) && request.content_length > 1048576",
    ],
);

/// In Rego.
pub(crate) const REGO: &str = r#"
package s
import rego.v1

permit_wake contains "ready" if { input.memory.status == "ready"; input.memory.budget > 0; input.fresh.consent }
permit_wake contains "urgent" if { "urgent" in input.memory.jobs; input.memory.priority >= 5 }
permit_wake contains "timer" if { input.trigger.kind == "timer"; input.memory.enabled }
permit_wake contains "owner" if { input.trigger.kind == "manual"; input.memory.owner == input.host.id }
forbid_wake contains "spent" if { input.memory.spent >= input.memory.budget }
forbid_wake contains "abroad" if { not input.memory.region == input.host.region }
forbid_wake contains "suspended" if { input.memory.plan == "suspended" }
default wake := false
wake if { count(permit_wake) > 0; count(forbid_wake) == 0 }

permit_admit contains "public" if { input.memory.enabled; input.request.method == "GET"; startswith(input.request.path, "/public/") }
permit_admit contains "readers" if { input.principal.authenticated; "read" in input.principal.scopes; input.request.method in {"GET", "HEAD"} }
permit_admit contains "writers" if { input.principal.authenticated; "write" in input.principal.scopes; input.fresh.consent }
permit_admit contains "self" if { input.principal.authenticated; input.principal.subject == input.memory.owner }
forbid_admit contains "closed" if { input.memory.status == "closed" }
forbid_admit contains "broke" if { input.memory.spent >= input.memory.budget; input.request.method != "GET" }
forbid_admit contains "large" if { input.request.content_length > 1048576 }
default admit := false
admit if { count(permit_admit) > 0; count(forbid_admit) == 0 }
"#;
