//! Clients that tools of others generate from the description: they must compile, have every operation, and work.

use std::{fs, os::unix::fs::symlink, process::Command};

use crate::{
    others::{beside, python, run},
    site::Site,
};

fn description(site: &Site) -> String {
    site.get("/openapi.json").text()
}

#[test]
fn openapi_python_client() {
    let site = Site::open();
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    fs::write(at("openapi.json"), description(&site)).unwrap();
    // As in docs/http.md; and formatting what it made takes another tool.
    let config = "content_type_overrides: {application/json-patch+json: none}\npost_hooks: []\n";
    fs::write(at("config.yaml"), config).unwrap();
    let generate = ["-m", "openapi_python_client", "generate", "--meta", "none"];
    let files = ["--path", &at("openapi.json"), "--config", &at("config.yaml"), "--output-path", &at("generated")];
    let output = run(Command::new(python()).args(generate).args(files));
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let (warnings, patches) = (said.matches("WARNING").count(), said.matches("Invalid content type").count());
    assert_eq!((warnings, patches), (2, 2), "only that both ways to PATCH take no JSON Patch: {said}");
    let arguments = [beside("generated_client.py"), at("generated"), at("openapi.json")];
    run(Command::new(python()).args(arguments).arg(format!("http://{}", site.address)));
}

#[test]
fn openapi_typescript() {
    let site = Site::open();
    let modules = std::env::var("UMBRA_TEST_NODE")
        .unwrap_or_else(|_| panic!("UMBRA_TEST_NODE names no modules with openapi-typescript: run ./test"));
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    symlink(&modules, at("node_modules")).unwrap();
    fs::write(at("package.json"), r#"{"type": "module"}"#).unwrap();
    fs::write(at("openapi.json"), description(&site)).unwrap();
    fs::copy(beside("generated_client.ts"), at("client.ts")).unwrap();
    let tool = |path: &str| format!("{modules}/{path}");
    let node = || {
        let mut node = Command::new("node");
        node.current_dir(directory.path());
        node
    };
    run(node().args([&tool("openapi-typescript/bin/cli.js"), "openapi.json", "-o", "api.d.ts"]));
    let types = fs::read_to_string(at("api.d.ts")).unwrap();
    for id in operation_ids(&description(&site)) {
        assert!(types.contains(&format!("\n    {id}: {{")), "no type for {id}");
    }
    let options = ["--strict", "--module", "nodenext", "--target", "es2022", "--outDir", "out", "client.ts"];
    run(node().arg(tool("typescript/bin/tsc")).args(options));
    run(node().arg("out/client.js").arg(format!("http://{}", site.address)));
}

fn operation_ids(description: &str) -> Vec<String> {
    let description: serde_json::Value = serde_json::from_str(description).unwrap();
    let items = description["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap().values());
    items.filter_map(|operation| Some(operation.get("operationId")?.as_str()?.to_owned())).collect()
}
