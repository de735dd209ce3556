#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;

use keywitness_verifier::wire::path;

use super::*;

/// Every path that the routes name, by the constants of `wire::path`.
fn routed() -> BTreeSet<&'static str> {
    let source = include_str!("../mod.rs").split("#[cfg(test)]\nmod tests {").next().unwrap();
    let constants = include_str!("../../../../verifier/src/wire/path.rs");
    let value = |name: &str| {
        let line = constants.lines().find(|line| line.starts_with(&format!("pub const {name}:")));
        line.unwrap_or_else(|| panic!("no path {name}")).split('"').nth(1).unwrap()
    };
    let is_name = |sign: char| !(sign.is_ascii_uppercase() || sign.is_ascii_digit() || sign == '_');
    let names =
        source.match_indices("path::").map(|(at, found)| source[at + found.len()..].split(is_name).next().unwrap());
    names.filter(|name| !name.is_empty()).map(value).collect()
}

#[test]
fn every_route_is_described_and_nothing_else() {
    let described: BTreeSet<_> =
        OPERATIONS.iter().map(|operation| operation.path).filter(|path| !["/", "/docs"].contains(path)).collect();
    assert_eq!(routed(), described);
    assert!(described.len() > 20 && described.contains(path::ATTESTATIONS));
    let unique: BTreeSet<_> = OPERATIONS.iter().map(|operation| (operation.method, operation.path)).collect();
    assert_eq!(unique.len(), OPERATIONS.len());
}

#[test]
fn every_reference_leads_to_a_schema_and_every_schema_is_used() {
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(members) => members.iter().for_each(|(name, value)| match value {
                Value::String(target) if name == "$ref" => drop(found.insert(target.clone())),
                value => references(value, found),
            }),
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let document = describe();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    for target in &found {
        assert!(document.pointer(target.strip_prefix('#').unwrap()).is_some(), "{target}");
    }
    assert!(found.len() > 50);
}
