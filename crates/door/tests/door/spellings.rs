//! However a request is spelt, the door decides about its canonical form, asleep as the gate does awake.

use suijuris_testkit::spellings;

use crate::life::Definition;
use crate::rig::Rig;

/// Tells by its code what was judged: below /private or for the forbidden host, or something else.
const GUARDED: &str = r#"
    @id("wake") permit(principal, action == Action::"wake", resource);
    @id("private") forbid(principal, action == Action::"wake", resource)
    when { context has request && (context.request.path like "/private*" || context.request.host == "forbidden") };
    @id("port") forbid(principal, action == Action::"wake", resource)
    when { context has request && context.request has port && context.request.port == 80 };
"#;

// proves C11
#[tokio::test]
async fn every_spelling_is_judged_as_what_it_becomes() {
    let rig = Rig::new().await;
    let object = rig
        .sleeper(&Definition::rules(GUARDED).build().unwrap(), "a")
        .await;
    let corpus = spellings::all();
    for spelling in corpus.iter().filter(|spelling| spelling.part != "fields") {
        let sent = spelling.request();
        let head = format!(
            "{} /ext_authz{} HTTP/1.1\r\nhost: {}\r\nx-suijuris-object: {object}",
            sent.method, sent.target, sent.host
        );
        let answer = rig.send(&head, b"").await;
        let code = match spelling.becomes {
            Ok(form)
                if form.starts_with("/private") || form.starts_with("forbidden") || form.ends_with(":80") =>
            {
                "wake_refused"
            }
            Ok(_) => "admit_refused",
            Err(404) => "no_such_route",
            Err(_) => "bad_request",
        };
        assert_eq!(answer.code(), code, "{spelling:?}: {answer:?}");
    }
    for (fields, status) in [
        ("authorization: Bearer a\r\nauthorization: Bearer b", 400),
        ("upgrade: websocket, x", 400),
        ("authorization: Bearer \u{e9}", 400),
    ] {
        let head = format!("GET /ext_authz/ HTTP/1.1\r\nhost: h\r\nx-suijuris-object: {object}\r\n{fields}");
        assert_eq!(rig.send(&head, b"").await.status, status, "{fields}");
    }
    assert_eq!(rig.starts(), 0);
    rig.end().await;
}
