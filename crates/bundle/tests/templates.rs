//! What `new` writes passes `check` without a word, and never lands on somebody's files.

use std::fs;

use suijuris_bundle::{ScaffoldError, Style, build, scaffold, templates};

#[test]
fn each_template_builds_without_findings_under_its_own_name() {
    for template in templates() {
        let dir = tempfile::tempdir().unwrap();
        let written = scaffold(template.name, dir.path(), "my-object").unwrap();
        let built = build(dir.path())
            .unwrap_or_else(|report| panic!("{}\n{}", template.name, report.render(Style::PLAIN)));
        assert!(
            built.findings.is_empty(),
            "{}\n{}",
            template.name,
            built.findings.render(Style::PLAIN)
        );
        assert_eq!(built.manifest.name, "my-object");
        let readme = fs::read_to_string(dir.path().join("README.md")).unwrap();
        assert!(readme.starts_with("# my-object\n") && readme.contains("suijuris up"));
        for file in written {
            assert!(
                !fs::read_to_string(&file).unwrap().contains("__NAME__"),
                "{}",
                file.display()
            );
        }
    }
}

#[test]
fn a_directory_with_anything_in_it_is_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("diary.txt"), "mine").unwrap();
    let refused = scaffold("http", dir.path(), "hello");
    assert!(matches!(refused, Err(ScaffoldError::NotEmpty(_))));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_template_or_name_that_is_none_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("new");
    assert!(matches!(
        scaffold("htp", &inner, "hello"),
        Err(ScaffoldError::UnknownTemplate(_))
    ));
    assert!(matches!(
        scaffold("http", &inner, "Hello World"),
        Err(ScaffoldError::Name(_))
    ));
    assert!(!inner.exists());
}
