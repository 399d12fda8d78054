//! A class deployed: its door makes an instance for a permitted first use, sends later uses there, and makes nothing for others.

use serde_json::Value;

use crate::daemon::until;
use crate::host::{Deployed, event};

const RULES: &str = r#"
@id("found") permit (principal is Caller, action == Action::"instantiate", resource)
when { context has request && context.request.headers has "x-secret" && context.request.headers["x-secret"] == resource.key };
@id("use") permit (principal, action in [Action::"wake", Action::"admit"], resource)
when { context has request && context.request.headers has "x-secret" && context.request.headers["x-secret"] == resource.key };
@id("visited") permit (principal, action == Action::"remain", resource)
when { context.activity.in_flight > 0 || context.activity.idle < duration("2s") };
"#;

fn machines(deployed: &Deployed, app: &str) -> Vec<Value> {
    let found = deployed.host.get(&format!("/apps/{app}/machines")).is(200);
    found.as_array().unwrap().clone()
}

/// The token that the present door was given.
fn token_of(deployed: &Deployed) -> String {
    if deployed.plain.is_some() {
        return String::new();
    }
    let shown = deployed.host.get("/apps/shop/secrets?show_secrets=true").is(200);
    let secrets = shown["secrets"].as_array().unwrap();
    let found = secrets
        .iter()
        .find(|secret| secret["name"] == "SUIJURIS_DOOR_TOKEN");
    found.unwrap()["value"].as_str().unwrap().to_owned()
}

/// Makes the object of these tests a class whose instances are named by a header.
pub(crate) fn make_class(deployed: &Deployed) {
    let definition = std::fs::read_to_string(deployed.home.dir().join("object.toml")).unwrap();
    let gate = "[gate]\nheaders = [\"x-secret\"]\n[class]\nmax_instances = 2\nfrom = [\"header x-tenant\"]\n";
    deployed.home.file("object.toml", &format!("{definition}{gate}"));
    deployed.home.file("governance.cedar", RULES);
}

// proves E6, E7, E8, E14
#[test]
fn a_permitted_first_use_makes_an_instance_and_later_ones_are_sent_there() {
    Deployed::each(|deployed| {
        make_class(deployed);
        let events = deployed.deploy(&[]).code(0).lines();
        let class = event(&events, "class");
        assert_eq!(class["instances"], "shop-objects");
        let instances = || machines(deployed, "shop-objects");
        let visit = |tenant: &str, secret: &str| {
            let fields = format!("X-Tenant: {tenant}\r\nX-Secret: {secret}\r\n");
            deployed.ask("shop.localhost", "/index.html", &fields)
        };
        // What the rules do not permit, and what names no instance, makes nothing.
        let (status, refused) = visit("acme", "wrong");
        assert_eq!(status, 403, "{refused}");
        let (status, nobody) = deployed.ask("shop.localhost", "/", "");
        assert_eq!(status, 404, "{nobody}");
        assert_eq!(visit("NO!", "NO!").0, 400);
        assert_eq!(instances().len(), 0);
        let volumes = || deployed.host.get("/apps/shop-objects/volumes").is(200);
        assert_eq!(volumes().as_array().unwrap().len(), 0);
        // The first permitted use makes volume and machine, and is served by it.
        let (status, served) = visit("acme", "acme");
        assert_eq!(status, 200, "{served}");
        assert!(served.ends_with("<h1>Hello from an image</h1>\n"), "{served}");
        let made = instances();
        assert_eq!(made.len(), 1);
        let (machine, metadata) = (made[0]["id"].clone(), made[0]["config"]["metadata"].clone());
        assert_eq!(metadata["suijuris_key"], "acme");
        let object = metadata["suijuris_object"].as_str().unwrap();
        // No token is in the instance's machine.
        let inside = "for file in /proc/[0-9]*/environ /proc/[0-9]*/cmdline; do /bin/busybox cat $file; done";
        let body = serde_json::json!({ "command": ["/bin/busybox", "sh", "-c", inside] });
        let path = format!("/apps/shop-objects/machines/{}/exec", machine.as_str().unwrap());
        let said = deployed.host.post(&path, &body).is(200);
        let said = said["stdout"].as_str().unwrap();
        assert!(
            said.contains("SUIJURIS_TICKET")
                && !said.contains("SUIJURIS_DOOR")
                && !said.contains(&deployed.host.token),
            "{said}"
        );
        // The second use goes to the same one, which has fallen asleep by then and is the same object.
        until("it is stopped", || instances()[0]["state"] == "stopped");
        let (status, again) = visit("acme", "acme");
        assert_eq!(status, 200, "{again}");
        let still = instances();
        assert_eq!((still.len(), &still[0]["id"]), (1, &machine));
        assert_eq!(still[0]["config"]["metadata"]["suijuris_object"], object);
        // It decides again: who is not permitted there is refused by it, not by the door alone.
        let (status, refused) = visit("acme", "wrong");
        assert_eq!(status, 403, "{refused}");
        // Another key is another object; beyond the class's bound there is none.
        assert_eq!(visit("zenith", "zenith").0, 200);
        let (status, full) = visit("third", "third");
        assert!([403, 503].contains(&status), "{full}");
        assert_eq!(instances().len(), 2);
        // Deployed again: a new door with a token of its own, the same instances; the token before is worth nothing any more.
        let before = token_of(deployed);
        let again = deployed.deploy(&[]).code(0).lines();
        assert_eq!(event(&again, "machine")["made"], false);
        if deployed.plain.is_none() {
            let reaches = |token: &str| {
                let shown = format!("Authorization: Bearer {token}\r\n");
                let answer = deployed
                    .host
                    .raw("GET", "/apps/shop-objects/machines", &shown, "");
                answer.unwrap().status
            };
            assert_eq!((reaches(&before), reaches(&token_of(deployed))), (401, 200));
            let metadata = &machines(deployed, "shop")[0]["config"]["metadata"];
            assert!(metadata["suijuris_tokens_before"].is_null(), "{metadata}");
        }
        let (status, served) = visit("acme", "acme");
        assert_eq!(status, 200, "{served}");
        let all = instances();
        let same = all.iter().find(|found| found["id"] == machine).unwrap();
        assert_eq!(
            (all.len(), &same["config"]["metadata"]["suijuris_object"]),
            (2, &Value::from(object))
        );
    });
}
