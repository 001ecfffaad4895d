//! The API's descriptions: as they were looked at last, whole in themselves, and true of what is
//! routed.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "what is not there fails the test"
)]

use std::collections::BTreeSet;
use std::path::Path;

use rollcall_aggregator::{admin, intake};
use serde_json::Value;

/// The descriptions by name, as the program prints them.
fn descriptions() -> [(&'static str, Value); 2] {
    let json = |api: &utoipa::openapi::OpenApi| serde_json::to_value(api).expect("encoded");
    [
        ("intake", json(&intake::openapi::description())),
        ("admin", json(&admin::openapi::description())),
    ]
}

/// Every operation of a description, as `METHOD PATH` and its description.
fn operations(description: &Value) -> Vec<(String, &Value)> {
    let paths = description["paths"].as_object().expect("paths");
    let of_path = |(path, item): (&String, &Value)| -> Vec<(String, String)> {
        let methods = item.as_object().expect("methods").keys();
        methods.map(|method| (method.clone(), path.clone())).collect()
    };
    let described = |(method, path): (String, String)| {
        (format!("{} {path}", method.to_uppercase()), &description["paths"][&path][&method])
    };
    paths.iter().flat_map(of_path).map(described).collect()
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                match value {
                    Value::String(reference) if key == "$ref" => {
                        found.insert(reference.clone());
                    }
                    _ => references(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

/// A change of the API shows in review.
#[test]
fn the_descriptions_are_those_that_were_looked_at() {
    for (name, description) in descriptions() {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../docs/openapi/{name}.json"));
        let mut json = serde_json::to_string_pretty(&description).expect("encoded");
        json.push('\n');
        expectorate::assert_contents(path, &json);
    }
}

#[test]
fn every_reference_leads_somewhere_and_every_schema_is_referred_to() {
    for (name, description) in descriptions() {
        let mut referred = BTreeSet::new();
        references(&description, &mut referred);
        let schemas = description["components"]["schemas"].as_object().expect("schemas");
        let there: BTreeSet<String> =
            schemas.keys().map(|name| format!("#/components/schemas/{name}")).collect();
        assert_eq!(referred, there, "{name}");
    }
}

#[test]
fn every_operation_says_what_it_is_and_how_it_may_be_refused() {
    for (name, description) in descriptions() {
        let tags = description["tags"].as_array().expect("tags");
        let tags: Vec<&Value> = tags.iter().map(|tag| &tag["name"]).collect();
        let mut ids = BTreeSet::new();
        for (what, operation) in operations(&description) {
            let id = operation["operationId"].as_str().expect("an id");
            assert!(ids.insert(id.to_owned()), "{name}: {what}: {id} is another's id");
            let summary = operation["summary"].as_str().expect("a summary");
            assert!(!summary.is_empty() && !summary.contains('\n'), "{name}: {what}: {summary}");
            let tagged = operation["tags"].as_array().expect("tags");
            assert!(tagged.len() == 1 && tags.contains(&&tagged[0]), "{name}: {what}: {tagged:?}");
            let secured = operation.get("security").is_some();
            let responses = operation["responses"].as_object().expect("responses");
            let refused = ["401", "403"].iter().all(|status| responses.contains_key(*status));
            assert_eq!(
                secured, refused,
                "{name}: {what}: whoever is asked who he is can be refused"
            );
            for (status, response) in responses {
                let is_text = what.ends_with("/readyz") || what.ends_with("/metrics");
                if status.starts_with(['4', '5']) && !is_text {
                    let body = &response["content"]["application/json"]["schema"]["$ref"];
                    assert_eq!(body, "#/components/schemas/Refusal", "{name}: {what}: {status}");
                }
            }
        }
    }
}

/// Other pages of this listener are no part of its API.
#[test]
fn what_is_described_is_what_is_promised() {
    let described = |wanted: &str| -> Vec<String> {
        let [intake, admin] = descriptions();
        let (_, description) = if wanted == "intake" { intake } else { admin };
        operations(&description).into_iter().map(|(what, _)| what).collect()
    };
    assert_eq!(described("intake"), ["POST /v1/reports", "GET /openapi.json"]);
    assert_eq!(
        described("admin"),
        [
            "GET /livez",
            "GET /readyz",
            "GET /metrics",
            "GET /v1/nodes",
            "DELETE /v1/nodes/{name}",
            "POST /v1/nodes/{name}/rebind",
            "GET /v1/status",
            "GET /v1/document",
            "GET /v1/region",
            "GET /v1/targets/{name}/plan",
            "POST /v1/targets/{name}/submit",
            "POST /v1/targets/{name}/approve",
            "POST /v1/targets/{name}/offboard",
            "POST /v1/targets/{name}/infrastructure",
            "GET /v1/history",
            "GET /openapi.json",
        ]
    );
}
