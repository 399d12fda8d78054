//! The routes of a daemon's control API: one table that the server answers by, that says what a token may do, and from which
//! the OpenAPI document is made. Routes of an object stand in it once; they are found below `/v1/objects/REF` and below
//! `/v1/classes/CLASS/instances/KEY`.

/// What a request must be allowed to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// Look: any token.
    Read,
    /// Ask for something: a token with the scope `operate`. What is done decide rules, and owners' signatures.
    Operate,
    /// Manage the daemon: its control socket alone.
    Socket,
}

/// What a route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each has its words in the table below")]
pub enum Operation {
    Daemon,
    OpenApi,
    ListObjects,
    AddObject,
    ListClasses,
    AddClass,
    ShowClass,
    AmendClass,
    RemoveClass,
    Events,
    ListTokens,
    CreateToken,
    RevokeToken,
    ShowObject,
    RemoveObject,
    State,
    Log,
    FollowLog,
    Why,
    WhatIf,
    Rejudge,
    Verify,
    Memory,
    WatchMemory,
    PatchMemory,
    Wake,
    Sleep,
    Amend,
    Terminate,
    Migrate,
    Fork,
    Offer,
    ShowReceived,
    ReceiveCapsule,
    ReceiveVolume,
    Arrive,
    ShowKey,
    FreeKey,
    ListMessages,
    RetryMessage,
    DropMessage,
    Send,
    ListApprovals,
    Approve,
}

/// A route.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// `GET`, `POST`, `PUT`, `PATCH` or `DELETE`.
    pub method: &'static str,
    /// Its path; `{name}` stands for one segment. Of an object's routes: what follows the object.
    pub path: &'static str,
    /// What it does.
    pub operation: Operation,
    /// Who may.
    pub needs: Needs,
    /// What it does, in a line.
    pub about: &'static str,
}

const fn route(
    method: &'static str,
    path: &'static str,
    operation: Operation,
    needs: Needs,
    about: &'static str,
) -> Route {
    Route {
        method,
        path,
        operation,
        needs,
        about,
    }
}

/// Routes of the daemon.
#[rustfmt::skip]
pub const DAEMON: &[Route] = &[
    route("GET", "/v1", Operation::Daemon, Needs::Read, "The daemon"),
    route("GET", "/v1/openapi.json", Operation::OpenApi, Needs::Read, "This API as an OpenAPI document"),
    route("GET", "/v1/objects", Operation::ListObjects, Needs::Read, "Objects, a page of them"),
    route("POST", "/v1/objects", Operation::AddObject, Needs::Socket, "Adds a single object"),
    route("GET", "/v1/classes", Operation::ListClasses, Needs::Read, "Classes"),
    route("POST", "/v1/classes", Operation::AddClass, Needs::Socket, "Adds a class"),
    route("GET", "/v1/classes/{class}", Operation::ShowClass, Needs::Read, "A class"),
    route("PUT", "/v1/classes/{class}", Operation::AmendClass, Needs::Operate, "Replaces a class's template, by its owners' signatures"),
    route("DELETE", "/v1/classes/{class}", Operation::RemoveClass, Needs::Socket, "Removes a class that has no instances"),
    route("GET", "/v1/classes/{class}/keys/{key}", Operation::ShowKey, Needs::Read, "Who has a key of a class, or had it"),
    route("POST", "/v1/classes/{class}/keys/{key}/free", Operation::FreeKey, Needs::Operate, "Frees the key of a removed instance, by an owner's signature"),
    route("POST", "/v1/receive", Operation::Offer, Needs::Operate, "Offers an object that would move here, by its owner's signature"),
    route("GET", "/v1/receive/{offered}", Operation::ShowReceived, Needs::Operate, "How much of an object that was offered is here"),
    route("PUT", "/v1/receive/{offered}/capsule", Operation::ReceiveCapsule, Needs::Operate, "The capsule of an object that was offered"),
    route("PUT", "/v1/receive/{offered}/volume", Operation::ReceiveVolume, Needs::Operate, "The packed volume of an object that was offered"),
    route("POST", "/v1/receive/{offered}/arrive", Operation::Arrive, Needs::Operate, "Verifies what came, and lets the object arrive"),
    route("GET", "/v1/events", Operation::Events, Needs::Read, "Events of all objects, as server-sent events"),
    route("GET", "/v1/tokens", Operation::ListTokens, Needs::Socket, "Tokens of this API"),
    route("POST", "/v1/tokens", Operation::CreateToken, Needs::Socket, "Makes a token; it is shown once"),
    route("DELETE", "/v1/tokens/{token}", Operation::RevokeToken, Needs::Socket, "Revokes a token; what it has open ends"),
];

/// Routes of an object.
#[rustfmt::skip]
pub const OBJECT: &[Route] = &[
    route("GET", "", Operation::ShowObject, Needs::Read, "The object as this daemon serves it"),
    route("GET", "/state", Operation::State, Needs::Read, "The object as it stands: identity, history, memory"),
    route("GET", "/log", Operation::Log, Needs::Read, "Its records, a page of them"),
    route("GET", "/log/follow", Operation::FollowLog, Needs::Read, "Its records as they are made, as server-sent events"),
    route("GET", "/why/{which}", Operation::Why, Needs::Read, "A recorded decision explained, and made again"),
    route("POST", "/what-if", Operation::WhatIf, Needs::Read, "What it would decide; nothing is recorded"),
    route("POST", "/what-if/rules", Operation::Rejudge, Needs::Read, "What it decided, under another definition; nothing is recorded"),
    route("GET", "/verify", Operation::Verify, Needs::Read, "Verifies its whole history"),
    route("GET", "/memory", Operation::Memory, Needs::Read, "Its memory"),
    route("GET", "/memory/watch", Operation::WatchMemory, Needs::Read, "Fields as they are written, as server-sent events"),
    route("PATCH", "/memory", Operation::PatchMemory, Needs::Operate, "Writes memory; `expect` compares before it sets"),
    route("POST", "/wake", Operation::Wake, Needs::Operate, "Asks it to wake"),
    route("POST", "/sleep", Operation::Sleep, Needs::Operate, "Asks it to sleep"),
    route("POST", "/amend", Operation::Amend, Needs::Operate, "Proposes a new definition, by its owners' signatures"),
    route("POST", "/terminate", Operation::Terminate, Needs::Operate, "Ends it for good, by its owners' signatures"),
    route("POST", "/remove", Operation::RemoveObject, Needs::Socket, "Takes it out, by its rules: into a capsule, unless it is forgotten"),
    route("POST", "/migrate", Operation::Migrate, Needs::Socket, "Moves it, by its rules"),
    route("POST", "/fork", Operation::Fork, Needs::Socket, "Makes a child with the memory of its suspended machine, by its rules and its owners' signatures"),
    route("GET", "/messages", Operation::ListMessages, Needs::Read, "Messages that wait for it"),
    route("POST", "/messages/{key}/retry", Operation::RetryMessage, Needs::Operate, "Delivers a message again that was set aside"),
    route("DELETE", "/messages/{key}", Operation::DropMessage, Needs::Operate, "Takes a message that waits out for good"),
    route("POST", "/messages", Operation::Send, Needs::Operate, "Sends it a message"),
    route("GET", "/approvals", Operation::ListApprovals, Needs::Read, "Owners' approvals that wait for the others"),
    route("POST", "/approvals", Operation::Approve, Needs::Operate, "Hands in an owner's approval of an amendment"),
];

/// What objects' routes follow.
pub const OBJECT_PREFIXES: [&str; 2] = ["/v1/objects/{object}", "/v1/classes/{class}/instances/{key}"];

/// What a request's path leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found<'p> {
    /// A route of the daemon, and the segments that its `{name}`s stand for.
    Daemon(Operation, Needs, Vec<&'p str>),
    /// A route of an object: its id, its name, or class and key; and the rest as before.
    Object(Operation, Needs, Named<'p>, Vec<&'p str>),
    /// There is such a path, for these methods.
    Methods(Vec<&'static str>),
    /// There is none.
    Nothing,
}

/// How an object is named, not decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named<'p> {
    /// By name or id.
    One(&'p str),
    /// By class and key.
    Instance(&'p str, &'p str),
}

/// The route of a request; `path` as it came, without the query.
#[must_use]
pub fn find<'p>(method: &str, path: &'p str) -> Found<'p> {
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let mut methods = Vec::new();
    for route in DAEMON {
        let Some(named) = fits(route.path, &segments) else {
            continue;
        };
        if route.method == method {
            return Found::Daemon(route.operation, route.needs, named);
        }
        methods.push(route.method);
    }
    let (object, rest) = match segments.as_slice() {
        ["v1", "objects", object, rest @ ..] if !object.is_empty() => (Named::One(object), rest),
        ["v1", "classes", class, "instances", key, rest @ ..] if !class.is_empty() && !key.is_empty() => {
            (Named::Instance(class, key), rest)
        }
        _ => (Named::One(""), [].as_slice()),
    };
    if object != Named::One("") {
        for route in OBJECT {
            let Some(named) = fits(route.path, rest) else {
                continue;
            };
            if route.method == method {
                return Found::Object(route.operation, route.needs, object, named);
            }
            methods.push(route.method);
        }
    }
    if methods.is_empty() {
        Found::Nothing
    } else {
        Found::Methods(methods)
    }
}

/// The segments that a template's `{name}`s stand for, where the path has its form.
fn fits<'p>(template: &str, segments: &[&'p str]) -> Option<Vec<&'p str>> {
    let parts: Vec<&str> = template.split('/').skip(1).collect();
    if parts.len() != segments.len() {
        return None;
    }
    let mut named = Vec::new();
    for (part, segment) in parts.iter().zip(segments) {
        if part.starts_with('{') {
            (!segment.is_empty()).then_some(())?;
            named.push(*segment);
        } else if part != segment {
            return None;
        }
    }
    Some(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_to_one_route_or_to_none() {
        let log = Found::Object(Operation::Log, Needs::Read, Named::One("hello"), vec![]);
        assert_eq!(find("GET", "/v1/objects/hello/log"), log);
        let why = Found::Object(Operation::Why, Needs::Read, Named::Instance("t", "a"), vec!["12"]);
        assert_eq!(find("GET", "/v1/classes/t/instances/a/why/12"), why);
        let class = Found::Daemon(Operation::AmendClass, Needs::Operate, vec!["t"]);
        assert_eq!(find("PUT", "/v1/classes/t"), class);
        assert_eq!(find("PUT", "/v1/objects"), Found::Methods(vec!["GET", "POST"]));
        assert_eq!(
            find("POST", "/v1/objects/x/memory"),
            Found::Methods(vec!["GET", "PATCH"])
        );
        for path in [
            "",
            "/",
            "/v1/",
            "/v2",
            "/v1/objects/",
            "/v1/objects//log",
            "/v1/objects/x/why/",
            "/v1/../v1",
            "/v1/classes//instances/x",
        ] {
            assert_eq!(find("GET", path), Found::Nothing, "{path}");
        }
    }

    #[test]
    fn whatever_changes_something_needs_more_than_looking() {
        let harmless = [Operation::WhatIf, Operation::Rejudge];
        for route in DAEMON.iter().chain(OBJECT) {
            let looks = route.method == "GET" || harmless.contains(&route.operation);
            assert!(
                looks || route.needs > Needs::Read,
                "{} {}",
                route.method,
                route.path
            );
        }
    }
}
