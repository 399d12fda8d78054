//! `build`: what is in the image, and what is not.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;
use suijuris_testkit::registry::Real;

use crate::rig::{Home, run};

/// A layout on disk as its files say, read without anything of ours.
struct Layout {
    manifest: Value,
    config: Value,
    dir: PathBuf,
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

impl Layout {
    fn read(dir: &Path) -> Self {
        let blob = |digest: &Value| {
            let hex = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
            json(&dir.join("blobs/sha256").join(hex))
        };
        let index = json(&dir.join("index.json"));
        let manifest = blob(&index["manifests"][0]["digest"]);
        Self {
            config: blob(&manifest["config"]["digest"]),
            manifest,
            dir: dir.to_owned(),
        }
    }

    fn layers(&self) -> Vec<String> {
        let layers = self.manifest["layers"].as_array().unwrap();
        let digest = |layer: &Value| layer["digest"].as_str().unwrap().to_owned();
        layers.iter().map(digest).collect()
    }

    /// The members of a layer, as `tar` lists them: kind and permissions by path.
    fn members(&self, layer: usize) -> BTreeMap<String, String> {
        let digest = self.layers()[layer].clone();
        let blob = self.dir.join("blobs/sha256").join(&digest["sha256:".len()..]);
        let listed = run(std::process::Command::new("tar").arg("-tvf").arg(blob)).code(0);
        let line = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            (words[5..].join(" "), words[..2].join(" "))
        };
        listed.out.lines().map(line).collect()
    }

    fn member(&self, layer: usize, path: &str) -> Vec<u8> {
        let digest = self.layers()[layer].clone();
        let blob = self.dir.join("blobs/sha256").join(&digest["sha256:".len()..]);
        let mut tar = std::process::Command::new("tar");
        let out = tar.arg("-xOf").arg(blob).arg(path).output().unwrap();
        assert!(out.status.success(), "{path}");
        out.stdout
    }
}

// proves E1
#[test]
fn an_image_is_wrapped_and_stays_what_it_was() {
    let home = Home::with_image();
    home.file("site/key.pem", "hush");
    let secret = home.dir().join("site/key.pem");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let before = run(home
        .command("sh")
        .args(["-c", "find object/layout -type f | sort | xargs sha256sum"]));
    let built = home.suijuris(&["build", "object", "-o", "one.oci", "--dynamic", "--json"]);
    let built = built.code(0);
    assert!(built.err.contains("key.pem` is left out"), "{}", built.err);
    let (one, base) = (
        Layout::read(&home.path().join("one.oci")),
        Layout::read(&home.dir().join("layout")),
    );
    // The base's layers come first, byte for byte.
    assert_eq!(one.layers()[..1], base.layers()[..]);
    assert_eq!(one.layers().len(), 3);
    let run_as = &one.config["config"];
    assert_eq!(run_as["Entrypoint"][0], "/.suijuris/loader");
    let last: Vec<_> = run_as["Entrypoint"]
        .as_array()
        .unwrap()
        .iter()
        .rev()
        .take(2)
        .collect();
    assert_eq!(last, ["/.suijuris", "--resident"]);
    assert_eq!(run_as["Cmd"], serde_json::json!([]));
    assert_eq!(
        (&run_as["User"], &run_as["StopSignal"]),
        (&"0:0".into(), &"SIGTERM".into())
    );
    assert_eq!(run_as["Env"], base.config["config"]["Env"]);
    // What the image said is the workload's, and is kept as it was.
    let kept: Value = serde_json::from_slice(&one.member(2, ".suijuris/base/config.json")).unwrap();
    assert_eq!(kept, base.config);
    let members = one.members(2);
    assert_eq!(
        members["./.suijuris/bundle/program".trim_start_matches("./")],
        "-rw-r--r-- 0/0"
    );
    for path in [
        "image",
        "bundle/manifest",
        "bundle/governance.cedar",
        "object/object.toml",
        "object/site/index.html",
    ] {
        assert!(
            members.contains_key(&format!(".suijuris/{path}")),
            "{path}: {members:?}"
        );
    }
    assert_eq!(members[".suijuris/object/make-image"], "-rwxr-xr-x 0/0");
    let left_out = |path: &String| path.contains("key.pem") || path.contains("layout");
    assert!(!members.keys().any(left_out), "{members:?}");
    assert!(one.members(1).contains_key(".suijuris/suijuris-init"));
    // The image itself is untouched.
    let after = run(home
        .command("sh")
        .args(["-c", "find object/layout -type f | sort | xargs sha256sum"]));
    assert_eq!(before.out, after.out);
    // The same again is the same.
    let again = home
        .suijuris(&["build", "object", "-o", "two.oci", "--dynamic", "--json"])
        .code(0);
    assert_eq!(again.json()["digest"], built.json()["digest"]);
    assert_eq!(built.json()["base"], again.json()["base"]);
    let taken = home
        .suijuris(&["build", "object", "-o", "two.oci", "--dynamic"])
        .code(3);
    assert!(taken.err.contains("is not empty"), "{}", taken.err);
}

#[test]
fn what_an_image_cannot_carry_is_said_before_it_is_built() {
    let home = Home::with_example("hello");
    let no_image = home
        .suijuris(&["build", "object", "-o", "x.oci", "--dynamic"])
        .code(2);
    for word in ["`python3` would not be in it", "workload.image", "--base"] {
        assert!(no_image.err.contains(word), "{}", no_image.err);
    }
    let runtime = home.suijuris(&["build", "object", "-o", "x.oci"]).code(3);
    assert!(runtime.err.contains("cargo xtask init"), "{}", runtime.err);
    let by_reference = home
        .suijuris(&["build", "object", "-o", "x.oci", "--by-reference"])
        .code(2);
    assert!(by_reference.err.contains("names none"), "{}", by_reference.err);
    let class = Home::with_example("tenant");
    class
        .suijuris(&["token", "key", "--write", "object/callers.pem"])
        .code(0);
    let refused = class
        .suijuris(&["build", "object", "-o", "x.oci", "--dynamic"])
        .code(3);
    assert!(refused.err.contains("defines a class"), "{}", refused.err);
    std::os::unix::fs::symlink("/etc/passwd", home.dir().join("public/leads-out")).unwrap();
    let image = Home::with_image();
    let base = format!("oci:{}", image.dir().join("layout").display());
    let link = home
        .suijuris(&["build", "object", "-o", "x.oci", "--dynamic", "--base", &base])
        .code(3);
    assert!(
        link.err.contains("leads out of the object's directory"),
        "{}",
        link.err
    );
    assert!(!home.path().join("x.oci").exists());
}

#[test]
fn an_object_without_an_image_is_built_on_another_or_on_nothing() {
    let home = Home::with_example("hello");
    let image = Home::with_image();
    let base = format!("oci:{}", image.dir().join("layout").display());
    home.suijuris(&["build", "object", "-o", "on.oci", "--dynamic", "--base", &base])
        .code(0);
    let on = Layout::read(&home.path().join("on.oci"));
    assert_eq!(on.layers().len(), 3);
    // The workload has no image: what this one says is not the workload's.
    assert!(!on.members(2).contains_key(".suijuris/image"));
    home.file("program", "#!/nowhere\n");
    let definition = "name = \"alone\"\n[workload]\ncommand = [\"{object}/program\"]\n";
    home.file("object.toml", definition);
    home.file("governance.cedar", "permit (principal, action, resource);");
    let alone = home
        .suijuris(&["build", "object", "-o", "alone.oci", "--dynamic"])
        .code(0);
    assert!(alone.err.contains("nothing in this one but"), "{}", alone.err);
    let alone = Layout::read(&home.path().join("alone.oci"));
    assert_eq!(alone.layers().len(), 2);
    assert_eq!(alone.manifest["annotations"], serde_json::json!({}));
}

// proves E16
#[test]
fn governance_goes_to_a_registry_on_top_of_an_image_or_beside_it() {
    let home = Home::with_image();
    let registry = Real::open();
    let to = |tag: &str| format!("{}/shop:{tag}", registry.address);
    // Beside it: the image must be there, as somebody else pushed it.
    let early = home
        .suijuris(&["build", "object", "--by-reference", "--push", &to("rules")])
        .code(3);
    assert!(early.err.contains("copy it there first"), "{}", early.err);
    let whole = home
        .suijuris(&["build", "object", "--dynamic", "--push", &to("v1"), "--json"])
        .code(0);
    assert_eq!(whole.json()["reference"], to("v1").as_str());
    let layout = home
        .suijuris(&["build", "object", "--by-reference", "-o", "rules.oci", "--json"])
        .code(0);
    let artifact = Layout::read(&home.path().join("rules.oci"));
    let base = json(&home.dir().join("layout/index.json"))["manifests"][0]["digest"].clone();
    assert_eq!(artifact.manifest["subject"]["digest"], base);
    assert_eq!(artifact.manifest["artifactType"], BUNDLE_TYPE);
    assert_eq!(
        artifact.manifest["annotations"]["dev.suijuris.bundle"],
        layout.json()["bundle"]
    );
    push_as_somebody_else(&home, &registry.address);
    let beside = home
        .suijuris(&[
            "build",
            "object",
            "--by-reference",
            "--push",
            &to("rules"),
            "--json",
        ])
        .code(0);
    assert_eq!(beside.json()["digest"], layout.json()["digest"]);
    // The registry knows it by its image, no matter who asks.
    let tag = base.as_str().unwrap().replace(':', "-");
    let url = format!("http://{}/v2/shop/manifests/{tag}", registry.address);
    let accept = "Accept: application/vnd.oci.image.index.v1+json";
    let index: Value = serde_json::from_str(&curl(&home, &["-H", accept, &url])).unwrap();
    assert_eq!(index["manifests"][0]["digest"], beside.json()["digest"]);
    assert_eq!(index["manifests"][0]["artifactType"], BUNDLE_TYPE);
}

const BUNDLE_TYPE: &str = "application/vnd.suijuris.bundle.v1";

fn curl(home: &Home, args: &[&str]) -> String {
    run(home.command("curl").args(["-sS", "--fail-with-body"]).args(args))
        .code(0)
        .out
}

/// Puts the image of the object, as it is, into the repository `shop`.
fn push_as_somebody_else(home: &Home, address: &str) {
    let dir = home.dir().join("layout/blobs/sha256");
    let index = json(&home.dir().join("layout/index.json"));
    let name = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
    for blob in std::fs::read_dir(&dir).unwrap() {
        let blob = blob.unwrap().path();
        let hex = blob.file_name().unwrap().to_str().unwrap().to_owned();
        let begun = curl(
            home,
            &[
                "-X",
                "POST",
                "-D",
                "-",
                &format!("http://{address}/v2/shop/blobs/uploads/"),
            ],
        );
        let place = begun
            .lines()
            .find_map(|line| line.strip_prefix("Location: "))
            .unwrap();
        let data = format!("@{}", blob.display());
        let to = format!("{}&digest=sha256:{hex}", place.trim());
        curl(
            home,
            &[
                "-X",
                "PUT",
                "-H",
                "Content-Type: application/octet-stream",
                "--data-binary",
                &data,
                &to,
            ],
        );
    }
    let data = format!("@{}", dir.join(&name["sha256:".len()..]).display());
    let kind = "Content-Type: application/vnd.oci.image.manifest.v1+json";
    let to = format!("http://{address}/v2/shop/manifests/{name}");
    curl(home, &["-X", "PUT", "-H", kind, "--data-binary", &data, &to]);
}
