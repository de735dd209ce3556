//! What operators watch: readiness, measurements, request ids.

use keywitness_verifier::wire::{ProblemKind, Readiness, Role, path};

use super::{Api, Response};

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

#[test]
fn every_answer_has_a_request_id_and_a_problem_names_its_request() {
    let api = Api::new();
    let well = api.call("GET", path::TRUST_DOMAIN, None, b"");
    assert_eq!(header(&well, "x-request-id").unwrap().len(), 32);
    let other = api.call("GET", path::TRUST_DOMAIN, None, b"");
    assert_ne!(header(&well, "x-request-id"), header(&other, "x-request-id"));
    for (method, target) in [("GET", path::STATUS), ("GET", "/nowhere"), ("PATCH", path::STATUS)] {
        let refused = api.call(method, target, None, b"");
        let problem: serde_json::Value = serde_json::from_slice(&refused.body).unwrap();
        let instance = format!("urn:keywitness:request:{}", header(&refused, "x-request-id").unwrap());
        assert_eq!(problem["instance"], instance.as_str());
        assert_eq!(header(&refused, "content-length"), Some(refused.body.len().to_string().as_str()));
    }
}

#[test]
fn a_wrong_method_is_told_the_right_ones_and_a_wrong_media_type_the_right_one() {
    let api = Api::new();
    let refused = api.call("DELETE", path::SHARINGS, None, b"");
    refused.refused(ProblemKind::MethodNotAllowed);
    assert_eq!(header(&refused, "allow"), Some("post, get"));
    let form = "x\r\ncontent-type: application/x-www-form-urlencoded";
    for target in [path::HSMS, path::ATTESTATIONS] {
        let refused = api.call("POST", target, Some(form), b"{}");
        refused.refused(ProblemKind::UnsupportedMediaType);
        assert!(String::from_utf8_lossy(&refused.body).contains("application/json"));
    }
    let json = "x\r\ncontent-type: Application/JSON; charset=utf-8";
    api.call("POST", path::HSMS, Some(json), b"{}").refused(ProblemKind::Malformed);
}

#[test]
fn a_manager_that_stops_or_whose_clock_went_back_is_not_ready_and_says_why() {
    let api = Api::new();
    let readiness = |expected: u16| {
        let response = api.call("GET", path::READY, None, b"");
        assert_eq!(response.status, expected);
        let readiness: Readiness = serde_json::from_slice(&response.body).unwrap();
        assert_eq!(readiness.ready, expected == 200);
        readiness.checks.into_iter().filter(|check| !check.ok).map(|check| check.name).collect::<Vec<_>>()
    };
    assert_eq!(readiness(200), [""; 0]);
    api.credential(Role::Viewer);
    api.world.advance(-61);
    assert_eq!(readiness(503), ["clock"]);
    api.world.advance(61);
    assert_eq!(readiness(200), [""; 0]);
    api.world.manager.drain();
    assert_eq!(readiness(503), ["running"]);
    // Whatever is asked is still answered.
    assert_eq!(api.call("GET", path::TRUST_DOMAIN, None, b"").status, 200);
}

#[test]
fn measurements_name_routes_and_problems_and_nobody() {
    let api = Api::new();
    let hsm = api.world.hsm("hsm-with-a-name", "cluster-with-a-name");
    api.call("GET", "/v1/attested?key=key-with-a-name", None, b"").refused(ProblemKind::Unauthenticated);
    api.call("GET", "/somewhere/hsm-with-a-name", None, b"").refused(ProblemKind::NotFound);
    api.signed(&hsm, "GET", path::HOLDERS, &());
    api.call("GET", path::METRICS, None, b"").refused(ProblemKind::Unauthenticated);
    let viewer = api.credential(Role::Viewer);
    let response = api.bearer(&viewer, "GET", path::METRICS, &());
    assert!(header(&response, "content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    let text = String::from_utf8(response.body).unwrap();
    for line in [
        "keywitness_http_problems_total{problem=\"unauthenticated\",route=\"/v1/attested\"} 1",
        "keywitness_http_problems_total{problem=\"not-found\",route=\"none\"} 1",
        "keywitness_http_request_duration_seconds_count{method=\"GET\",route=\"/v1/holders\",status=\"2xx\"} 1",
        "keywitness_ledger_commands_waiting 0",
        "keywitness_ready 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    assert!(
        text.lines()
            .any(|line| line.starts_with("keywitness_ledger_commands_total{command=\"") && line.contains("done"))
    );
    assert!(!text.contains("with-a-name"), "{text}");
}
