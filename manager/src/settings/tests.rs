#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;

fn load(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Loaded, Vec<String>> {
    let own = |pairs: &[(&str, &str)]| -> Vec<_> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    Settings::load(Path::new("DATA"), Some((Path::new("m.toml"), file)), own(environment), &own(flags))
        .map_err(|complaints| complaints.iter().map(ToString::to_string).collect())
}

const LEAST: &str = "[manager]\ntrust-domain = \"acme.example\"\n";

#[test]
fn the_example_has_every_setting_and_its_default() {
    let example = Settings::example();
    let uncommented: String = example
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let (read, default) = (load(&uncommented, &[], &[]).unwrap(), load(LEAST, &[], &[]).unwrap());
    assert_eq!(format!("{:?}", read.settings), format!("{:?}", default.settings));
    for effective in &read.effective {
        assert!(matches!(effective.source, Source::File(..)), "{effective:?} is not in the example");
    }
    load(&example, &[], &[]).unwrap();
}

#[test]
fn the_environment_goes_before_the_file_and_flags_before_both() {
    let file = format!("{LEAST}[records]\nttl = \"20m\"\nchallenge-ttl = \"30s\"\n[tokens]\nttl = \"1m\"\n");
    let environment =
        [("KEYWITNESS_MANAGER_RECORDS_TTL", "30m"), ("KEYWITNESS_MANAGER_TOKENS_TTL", "2m"), ("PATH", "x")];
    let loaded = load(&file, &environment, &[("tokens.ttl", "3m")]).unwrap();
    let config = loaded.settings.config().unwrap();
    assert_eq!((config.challenge_ttl, config.record_ttl, config.token_ttl), (30, 1800, 180));
    assert_eq!(config.trust_domain.to_string(), "acme.example");
    let source = |setting: &str| {
        let found = loaded.effective.iter().find(|effective| effective.setting == setting).unwrap();
        (found.value.as_str(), found.source.to_string())
    };
    assert_eq!(source("records.challenge-ttl"), ("\"30s\"", "m.toml:5".to_owned()));
    assert_eq!(source("records.ttl"), ("\"30m\"", "KEYWITNESS_MANAGER_RECORDS_TTL".to_owned()));
    assert_eq!(source("tokens.ttl"), ("\"3m\"", "--set tokens.ttl".to_owned()));
    assert_eq!(source("limits.mistake"), ("50", "default".to_owned()));
}

#[test]
fn everything_that_is_wrong_is_told_at_once_with_its_line_and_the_nearest_name() {
    let file = "[manager]\ntrust-domian = \"a\"\n[recrods]\n[records]\nttl = 600\n[verification]\nthreads = \"many\"\n\
                suites = [\"rot13\"]\n[listen]\nallow-plaintext = \"yes\"\naddress = \"here\"\n";
    let wrong = load(file, &[("KEYWITNESS_MANAGER_TOKEN_TTL", "1m")], &[("fraud.rule", "1")]).unwrap_err();
    for expected in [
        "m.toml:2: manager.trust-domian: there is no such setting; did you mean trust-domain?",
        "m.toml:3: recrods: there is no such section; did you mean records?",
        "m.toml:5: records.ttl: this is a duration in whole seconds, such as \"90s\", \"10m\" or \"1h 30m\"",
        "m.toml:7: verification.threads: this is a whole number, in digits",
        "m.toml:8: verification.suites: \"rot13\" is no suite for symmetric keys: use halo2-pasta or groth16-bn254",
        "m.toml:10: listen.allow-plaintext: this is true or false",
        "m.toml:11: listen.address: \"here\" is no address with a port, such as 127.0.0.1:8470 or [::]:8470",
        "KEYWITNESS_MANAGER_TOKEN_TTL: no setting has this variable; did you mean KEYWITNESS_MANAGER_TOKENS_TTL?",
        "--set fraud.rule: there is no such setting; did you mean fraud.rules?",
    ] {
        assert!(wrong.iter().any(|told| told == expected), "{expected:?} is not in {wrong:#?}");
    }
    assert_eq!(wrong.len(), 9);
}

#[test]
fn everything_that_is_wrong_in_a_list_is_told_at_once_each_with_the_line_of_its_text() {
    let file = format!(
        "{LEAST}[fraud]\nrules = [\n  \"drift.grace=60\",\n  \"drift.threshold=5\",\n  \"drifts.grace=1\",\n  \
         \"repeated-failures.threshold=0\",\n]\n[webhooks]\nsinks = [\n  \"pager.url=ftp://a/\",\n  \"pager.sends=all\",\n  \
         \"siem.sends=events\",\n]\n[log]\nwitnesses = [\n  \"nobody\",\n  7,\n  \"nothing\"]\n[verification]\nsuites = [\"rot13\", \
         \"rot26\"]\n"
    );
    let wrong =
        load(&file, &[("KEYWITNESS_MANAGER_FRAUD_RULES", "replay.window=1,drift.gracious=1")], &[]).unwrap_err();
    for (place, part) in [
        ("m.toml:6: fraud.rules: ", "drift.threshold has no effect"),
        ("m.toml:7: fraud.rules: ", "no fraud rule is named \"drifts\""),
        ("m.toml:8: fraud.rules: ", "its threshold must be 1 to 1000"),
        ("m.toml:12: webhooks.sinks: ", "webhook pager: its url begins with https://"),
        ("m.toml:13: webhooks.sinks: ", "webhook pager: it sends one of"),
        ("m.toml:14: webhooks.sinks: ", "webhook siem: it has no url: give siem.url="),
        ("m.toml:19: log.witnesses: ", "this is a list of texts"),
        ("m.toml:22: verification.suites: ", "\"rot13\" is no suite"),
        ("m.toml:22: verification.suites: ", "\"rot26\" is no suite"),
        ("KEYWITNESS_MANAGER_FRAUD_RULES: fraud.rules: ", "replay.window has no effect"),
        ("KEYWITNESS_MANAGER_FRAUD_RULES: fraud.rules: ", "not \"gracious\""),
    ] {
        assert!(
            wrong.iter().any(|told| told.starts_with(place) && told.contains(part)),
            "{place}{part} is not in {wrong:#?}"
        );
    }
    assert_eq!(wrong.len(), 11, "{wrong:#?}");
    let file = format!("{LEAST}[log]\nwitnesses = [\n  \"nobody\",\n  \"nothing\"]\n");
    let wrong = load(&file, &[], &[]).unwrap_err();
    assert!(wrong[0].starts_with("m.toml:5: log.witnesses: \"nobody\""), "{wrong:?}");
    assert!(wrong[1].starts_with("m.toml:6: log.witnesses: \"nothing\""), "{wrong:?}");
}

#[test]
fn what_is_no_toml_is_told_with_its_line() {
    let wrong = load("[manager]\ntrust-domain = \n[listen]\naddress == 1\n", &[], &[]).unwrap_err();
    assert!(wrong.iter().any(|told| told.starts_with("m.toml:2: ")), "{wrong:?}");
    assert!(wrong.iter().any(|told| told.starts_with("m.toml:4: ")), "{wrong:?}");
}

#[test]
fn what_makes_no_sense_together_is_refused_all_at_once() {
    let file = format!(
        "{}[listen]\naddress = \"0.0.0.0:8470\"\n[tls]\nmode = \"off\"\n[records]\nttl = \"10s\"\n[tokens]\nttl = \"0s\"\n[verification]\n\
         groth16-parameters = \"/nowhere/at-all\"\n",
        "[manager]\nid = \"m\"\n"
    );
    let wrong = load(&file, &[], &[]).unwrap_err();
    for expected in ["trust-domain: it is not set", "record-ttl must be", "token-ttl", "/nowhere/at-all", "plain HTTP"]
    {
        assert!(wrong.iter().any(|told| told.contains(expected)), "{expected:?} is not in {wrong:#?}");
    }
}

#[test]
fn names_are_used_once() {
    let paths: std::collections::BTreeSet<_> = TABLE.iter().map(Setting::path).collect();
    let variables: std::collections::BTreeSet<_> = TABLE.iter().map(Setting::variable).collect();
    assert_eq!((paths.len(), variables.len()), (TABLE.len(), TABLE.len()));
}
