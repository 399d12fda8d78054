//! Which object a request means: by its host, its path, or a header. Pure: names in, names out.
//!
//! | Address | Means |
//! |---|---|
//! | `KEY.CLASS.DOMAIN` | the instance of a class |
//! | `NAME.DOMAIN`, `ID.DOMAIN` | an object by its name or id |
//! | `/o/CLASS/KEY/…`, `/o/NAME/…` on any other host | the same, by path |

use suijuris_core::ObjectId;

/// What a request is addressed to, as far as its words say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address<'a> {
    /// A key of a class, not checked yet.
    Instance {
        /// Name of the class.
        class: &'a str,
        /// The key as it was written.
        key: &'a str,
        /// Prefix of the path that stands for it, where the path said it.
        prefix: Option<&'a str>,
    },
    /// An object by name.
    Named {
        /// The name.
        name: &'a str,
        /// As above.
        prefix: Option<&'a str>,
    },
    /// An object by id.
    Id(ObjectId),
    /// A host or path that names nothing.
    Nothing,
}

/// Prefix of addresses by path.
const BY_PATH: &str = "/o/";

/// Labels of the host below `domain`, if it is below.
fn below<'a>(host: &'a str, domain: &str) -> Option<&'a str> {
    host.strip_suffix(domain)?
        .strip_suffix('.')
        .filter(|rest| !rest.is_empty())
}

/// What a request for `path` on the canonical `host` is addressed to; `is_class` knows the classes there are.
#[must_use]
pub fn address<'a>(
    host: &'a str,
    path: &'a str,
    domain: &str,
    is_class: impl Fn(&str) -> bool,
) -> Address<'a> {
    if let Some(labels) = below(host, domain) {
        return match labels.rsplit_once('.') {
            Some((key, class)) => Address::Instance {
                class,
                key,
                prefix: None,
            },
            None => match labels.parse() {
                Ok(id) => Address::Id(id),
                Err(_name) => Address::Named {
                    name: labels,
                    prefix: None,
                },
            },
        };
    }
    by_path(path, is_class)
}

fn by_path<'a>(path: &'a str, is_class: impl Fn(&str) -> bool) -> Address<'a> {
    let Some(rest) = path.strip_prefix(BY_PATH) else {
        return Address::Nothing;
    };
    let (first, after) = rest.split_once('/').unwrap_or((rest, ""));
    if first.is_empty() {
        return Address::Nothing;
    }
    let prefix = |len: usize| path.get(..BY_PATH.len() + len);
    if is_class(first) {
        let key = after.split_once('/').map_or(after, |(key, _)| key);
        return Address::Instance {
            class: first,
            key,
            prefix: prefix(first.len() + 1 + key.len()),
        };
    }
    match first.parse() {
        Ok(id) => Address::Id(id),
        Err(_name) => Address::Named {
            name: first,
            prefix: prefix(first.len()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<'a>(host: &'a str, path: &'a str) -> Address<'a> {
        address(host, path, "localhost", |class| class == "tenant")
    }

    #[test]
    fn hosts_and_paths_name_objects() {
        let by_host = Address::Instance {
            class: "tenant",
            key: "acme",
            prefix: None,
        };
        assert_eq!(of("acme.tenant.localhost", "/o/other/x/"), by_host);
        let by_path = Address::Instance {
            class: "tenant",
            key: "acme",
            prefix: Some("/o/tenant/acme"),
        };
        assert_eq!(of("127.0.0.1", "/o/tenant/acme/x?y"), by_path);
        assert_eq!(of("localhost", "/o/tenant/acme"), by_path);
        let named = |prefix| Address::Named {
            name: "hello",
            prefix,
        };
        assert_eq!(of("hello.localhost", "/"), named(None));
        assert_eq!(of("127.0.0.1", "/o/hello/a/b"), named(Some("/o/hello")));
    }

    #[test]
    fn what_names_nothing_is_nothing() {
        for (host, path) in [
            ("127.0.0.1", "/"),
            ("localhost", "/o/"),
            ("localhost", "/other/tenant/acme"),
            ("example.org", "/index"),
            ("tenant.localhost.evil", "/"),
            ("xlocalhost", "/"),
        ] {
            assert_eq!(of(host, path), Address::Nothing, "{host} {path}");
        }
    }

    #[test]
    fn a_key_may_be_empty_or_strange_and_is_not_judged_here() {
        for (host, path, key) in [
            ("a.b.tenant.localhost", "/", "a.b"),
            ("127.0.0.1", "/o/tenant/..", ".."),
            ("127.0.0.1", "/o/tenant", ""),
        ] {
            assert!(
                matches!(of(host, path), Address::Instance { key: found, .. } if found == key),
                "{host} {path}"
            );
        }
    }
}
