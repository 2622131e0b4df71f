//! The document says what the service does.

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;

fn document() -> Value {
    serde_json::from_str(&openapi().to_json().unwrap()).unwrap()
}

#[test]
fn every_route_is_in_the_document() {
    let document = document();
    // What the router is made of.
    let source = include_str!("../mod.rs");
    let routes = source.match_indices(".route(").map(|(at, _)| {
        let path = source[at..].split('"').nth(1).unwrap();
        path.replace("{*", "{")
    });
    let routes: BTreeSet<String> = routes.collect();
    let described = document["paths"].as_object().unwrap().keys().cloned();
    assert_eq!(described.collect::<BTreeSet<_>>(), routes);
}

#[test]
fn schemas_are_written_as_they_are_meant() {
    let document = document();
    let written = document["components"]["schemas"].as_object().unwrap();
    let meant = schemas::requests().into_iter();
    let meant: Vec<_> = meant
        .chain(schemas::answers())
        .chain(schemas::records())
        .collect();
    assert_eq!(written.len(), meant.len());
    for (name, schema) in meant {
        assert_eq!(written[name], schema, "{name}");
    }
}

#[test]
fn what_is_referred_to_is_there() {
    let document = document();
    let text = document.to_string();
    for (at, _) in text.match_indices("#/components/schemas/") {
        let name = text[at..]
            .split('"')
            .next()
            .unwrap()
            .rsplit('/')
            .next()
            .unwrap();
        assert!(
            document["components"]["schemas"].get(name).is_some(),
            "{name}"
        );
    }
    let ids: Vec<&str> = OPERATIONS.iter().map(|operation| operation.id).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
}
