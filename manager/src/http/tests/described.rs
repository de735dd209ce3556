//! Every answer is what the published description says, and has nothing that it does not name.
//!
//! [`check`] looks at the status and media type of every answer of every test that asks over [`super::Api`]; [`complaints`]
//! has a validator of JSON Schema compare answers with their schemas.

use std::{
    collections::BTreeSet,
    io::Write as _,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use super::Response;
use crate::http::openapi::{self, OPERATIONS, Operation, Who};

/// Whether a path is one of an operation's.
fn fits(operation: &Operation, path: &str) -> bool {
    let (template, longer) = match operation.path.split_once("/{tile") {
        Some((before, _)) => (before, true),
        None => (operation.path, false),
    };
    let (parts, names): (Vec<_>, Vec<_>) = (path.split('/').collect(), template.split('/').collect());
    (parts.len() == names.len() || longer && parts.len() > names.len())
        && names.iter().zip(&parts).all(|(name, part)| name.starts_with('{') || name == part)
}

fn operation(method: &str, target: &str) -> Option<&'static Operation> {
    let path = target.split('?').next()?;
    OPERATIONS.iter().find(|operation| operation.method == method && fits(operation, path))
}

/// The published schemas, each made to refuse members that it does not name.
fn strict() -> Value {
    let mut schemas = openapi::describe()["components"]["schemas"].clone();
    // A schema that is a part of another one cannot know its other parts' members.
    let mut parts = BTreeSet::new();
    collect_parts(&schemas, &mut parts);
    let members = schemas.as_object_mut().unwrap().iter_mut();
    members.filter(|(name, _)| !parts.contains(*name)).for_each(|(_, schema)| close(schema));
    schemas
}

fn collect_parts(value: &Value, parts: &mut BTreeSet<String>) {
    if let Some(all) = value.get("allOf").and_then(Value::as_array) {
        let references = all.iter().filter_map(|part| part["$ref"].as_str());
        parts.extend(references.map(|target| target.rsplit('/').next().unwrap().to_owned()));
    }
    match value {
        Value::Object(members) => members.values().for_each(|value| collect_parts(value, parts)),
        Value::Array(values) => values.iter().for_each(|value| collect_parts(value, parts)),
        _ => {}
    }
}

/// Has a schema refuse members that it does not name.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(members) if members.contains_key("allOf") => {
            members.insert("unevaluatedProperties".to_owned(), false.into());
        }
        Value::Object(members) => {
            if members.contains_key("properties") {
                members.entry("additionalProperties").or_insert(false.into());
            }
            members.values_mut().for_each(close);
        }
        Value::Array(values) => values.iter_mut().for_each(close),
        _ => {}
    }
}

/// Panics unless an answer's status and media type are described. The name of its schema, where it has one.
#[track_caller]
pub(super) fn check(method: &str, target: &str, response: &Response) -> Option<String> {
    let media = response.head.lines().find_map(|line| line.strip_prefix("content-type: "));
    let media = media.map(|media| media.split(';').next().unwrap().trim());
    let asked = format!("{method} {target}: {} {media:?}", response.status);
    let Some(operation) = operation(method, target).filter(|_| ![404, 405].contains(&response.status)) else {
        assert_eq!(media, Some("application/problem+json"), "{asked}");
        return Some("Problem".to_owned());
    };
    let described = openapi::described(operation);
    let answer = &described["responses"][response.status.to_string()];
    assert!(answer.is_object(), "{asked} is not described");
    let Some(media) = media else {
        assert!(answer.get("content").is_none() && response.body.is_empty(), "{asked}");
        return None;
    };
    let schema = &answer["content"][media]["schema"];
    assert!(schema.is_object(), "{asked} is not described");
    schema["$ref"].as_str().map(|reference| reference.rsplit('/').next().unwrap().to_owned())
}

/// What is wrong with values by the schemas that are named with them, as a validator of another language says.
pub(super) fn complaints(answers: &[(String, Value)]) -> Vec<String> {
    let program = std::env::var("KEYWITNESS_TEST_PYTHON").expect("./test sets KEYWITNESS_TEST_PYTHON");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/peers/validate.py");
    let mut peer = Command::new(program).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let request = json!({ "schemas": strict(), "answers": answers });
    peer.stdin.take().unwrap().write_all(request.to_string().as_bytes()).unwrap();
    let output = peer.wait_with_output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_member_that_is_not_described_is_seen() {
    let event = json!({ "number": 1, "at": 2, "event": "hsm-enrolled", "hsm": "a", "cluster": "b", "revision": 1 });
    let with = |name: &str, value: Value| {
        let mut event = event.clone();
        event[name] = value;
        ("Event".to_owned(), event)
    };
    let retained = |value: Value| ("Retained".to_owned(), value);
    let right = [with("alert", 3.into()), retained(json!({ "deleted_through": 1 }))];
    assert_eq!(complaints(&right), [""; 0]);
    let wrong = [
        with("undescribed", 3.into()),
        with("revision", "one".into()),
        retained(json!({ "deleted_through": 1, "more": 1 })),
        retained(json!({ "deleted_through": -1 })),
        retained(json!({})),
    ];
    assert_eq!(complaints(&wrong).len(), wrong.len());
}

/// Whom the description lets in, by a request's method and target.
pub(super) fn roles(method: &str, target: &str) -> BTreeSet<&'static str> {
    match operation(method, target).map(|operation| operation.who) {
        Some(Who::Roles(roles)) => roles.iter().copied().collect(),
        _ => BTreeSet::new(),
    }
}
