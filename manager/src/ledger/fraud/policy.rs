//! What the rules go by: part of the [`Configuration`](crate::ledger::Configuration), so that a replay reads the same.

use std::collections::BTreeMap;

use keywitness_verifier::wire::{Action, Rule};
use serde::{Deserialize, Serialize};

use crate::config::WrongTexts;

/// How one rule goes. Which of the numbers a rule reads, [`uses`] says; the others are zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RuleSettings {
    /// Whether it is looked at.
    pub enabled: bool,
    /// Over how long it counts, in seconds.
    pub window: u64,
    /// From which count on it fires.
    pub threshold: u32,
    /// What it forgives for how long, in seconds.
    pub grace: u64,
    /// What happens then.
    pub action: Action,
}

/// A change of one rule's settings: what is left out stays.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RuleChange {
    /// Whether it is looked at.
    pub enabled: Option<bool>,
    /// Over how long it counts, in seconds.
    pub window: Option<u64>,
    /// From which count on it fires.
    pub threshold: Option<u32>,
    /// What it forgives for how long, in seconds.
    pub grace: Option<u64>,
    /// What happens then.
    pub action: Option<Action>,
}

/// Which numbers a rule reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Uses {
    /// It counts over a window, up to a threshold.
    pub window: bool,
    /// It has a grace.
    pub grace: bool,
    /// It rests on what the HSM signed and nobody else could have brought: it may suspend.
    pub suspends: bool,
}

/// Which numbers a rule reads, and whether it may suspend.
pub const fn uses(rule: Rule) -> Uses {
    let (window, grace, suspends) = match rule {
        Rule::ForeignCluster | Rule::TagsDiffer | Rule::FaultyDealing | Rule::UnfoundedComplaint | Rule::Replay => {
            (false, false, true)
        }
        Rule::Drift => (false, true, true),
        Rule::RepeatedFailures | Rule::ImpossiblePace => (true, false, true),
        Rule::RevokedPersists => (true, true, true),
        Rule::FleetFailures | Rule::ManagerClock => (true, false, false),
        // Whoever delays an HSM's requests makes its clock look slow.
        Rule::ClockSkew => (true, true, false),
        Rule::SilentHsm => (false, true, false),
        Rule::ForeignMeasurement | Rule::SharedDevice => (false, false, true),
    };
    Uses { window, grace, suspends }
}

/// The settings that a rule begins with.
const fn initial(rule: Rule) -> RuleSettings {
    let (window, threshold, grace) = match rule {
        Rule::ForeignCluster | Rule::TagsDiffer | Rule::FaultyDealing | Rule::UnfoundedComplaint | Rule::Replay => {
            (0, 0, 0)
        }
        Rule::Drift => (0, 0, 600),
        Rule::RepeatedFailures | Rule::FleetFailures => (600, 5, 0),
        Rule::ImpossiblePace => (60, 60, 0),
        Rule::RevokedPersists => (600, 5, 60),
        Rule::ClockSkew => (3600, 5, 60),
        Rule::ManagerClock => (3600, 3, 0),
        Rule::SilentHsm => (0, 0, 3600),
        Rule::ForeignMeasurement | Rule::SharedDevice => (0, 0, 0),
    };
    // Whoever lists what may run wants nothing else to.
    let action = if matches!(rule, Rule::ForeignMeasurement) { Action::Quarantine } else { Action::Alert };
    RuleSettings { enabled: true, window, threshold, grace, action }
}

/// Longest window or grace, in seconds: 30 days.
const LONGEST: u64 = 30 * 24 * 60 * 60;

/// Greatest threshold: what a window remembers is bounded by it.
const GREATEST: u32 = 1000;

/// The settings of every rule.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FraudPolicy(BTreeMap<Rule, RuleSettings>);

impl Default for FraudPolicy {
    /// Every rule, and each raises an alert and suspends nobody, but for [`Rule::ForeignMeasurement`], which suspends.
    fn default() -> Self {
        Self(Rule::ALL.iter().map(|rule| (*rule, initial(*rule))).collect())
    }
}

impl FraudPolicy {
    /// One rule's settings: a rule that this policy was made without has those it begins with.
    pub fn rule(&self, rule: Rule) -> RuleSettings {
        self.0.get(&rule).copied().unwrap_or_else(|| initial(rule))
    }

    /// One rule's settings, to change them.
    fn rule_mut(&mut self, rule: Rule) -> &mut RuleSettings {
        self.0.entry(rule).or_insert_with(|| initial(rule))
    }

    /// Changes settings, one after the other, and checks the rules that were changed.
    ///
    /// # Errors
    /// Everything that is wrong, a rule as a whole with the last text that changed it.
    pub fn change_all(&mut self, texts: &[&str]) -> Result<(), WrongTexts> {
        let (mut changed, mut wrong) = (BTreeMap::new(), Vec::new());
        for (at, text) in texts.iter().enumerate() {
            match self.change(text) {
                Ok(rule) => {
                    changed.insert(rule, at);
                }
                Err(why) => wrong.push((at, why)),
            }
        }
        let check = |(rule, at): (Rule, usize)| {
            let why = self.rule(rule).check(rule).err()?;
            Some((at, format!("fraud rule {rule}: {why}")))
        };
        wrong.extend(changed.into_iter().filter_map(check));
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    /// Changes one setting of the rule that is returned: `RULE.FIELD=VALUE`, such as `drift.grace=3600`.
    ///
    /// # Errors
    /// In words for an operator; also for what the rule does not read.
    pub fn change(&mut self, text: &str) -> Result<Rule, String> {
        let form = || format!("{text:?} is not RULE.FIELD=VALUE, such as drift.grace=3600");
        let (name, value) = text.split_once('=').ok_or_else(form)?;
        let (rule, field) = name.split_once('.').ok_or_else(form)?;
        let rule: Rule = rule.parse().map_err(|_| {
            let names: Vec<_> = Rule::ALL.iter().map(|rule| rule.name()).collect();
            format!("no fraud rule is named {rule:?}; there are {}", names.join(", "))
        })?;
        let wrong = |want: &str| format!("{rule}.{field} is {want}, not {value:?}");
        let idle = |why: &str| Err(format!("{rule}.{field} has no effect: the rule {why}; leave it out"));
        let uses = uses(rule);
        match field {
            "window" | "threshold" if !uses.window => {
                return idle("counts nothing, and has no window and no threshold");
            }
            "grace" if !uses.grace => return idle("has no grace"),
            _ => {}
        }
        let settings = self.rule_mut(rule);
        match field {
            "enabled" => settings.enabled = value.parse().map_err(|_| wrong("true or false"))?,
            "window" => settings.window = value.parse().map_err(|_| wrong("a number of seconds"))?,
            "threshold" => settings.threshold = value.parse().map_err(|_| wrong("a number"))?,
            "grace" => settings.grace = value.parse().map_err(|_| wrong("a number of seconds"))?,
            "action" => {
                let named = |action: &Action| action.to_string() == value;
                let found = [Action::Note, Action::Alert, Action::Quarantine].into_iter().find(named);
                settings.action = found.ok_or_else(|| wrong("note, alert or quarantine"))?;
            }
            _ => return Err(format!("a rule has enabled, window, threshold, grace and action, not {field:?}")),
        }
        Ok(rule)
    }

    /// What differs from the defaults, as [`Self::change`] reads it.
    pub fn changes(&self) -> Vec<String> {
        let mut changes = Vec::new();
        for rule in Rule::ALL {
            let (RuleSettings { enabled, window, threshold, grace, action }, old) = (self.rule(*rule), initial(*rule));
            let mut add = |differs: bool, field: &str, value: &dyn std::fmt::Display| {
                if differs {
                    changes.push(format!("{rule}.{field}={value}"));
                }
            };
            add(enabled != old.enabled, "enabled", &enabled);
            add(window != old.window, "window", &window);
            add(threshold != old.threshold, "threshold", &threshold);
            add(grace != old.grace, "grace", &grace);
            add(action != old.action, "action", &action);
        }
        changes
    }

    /// This policy, with one rule changed.
    #[must_use]
    pub fn with(mut self, rule: Rule, change: RuleChange) -> Self {
        let old = self.rule(rule);
        let RuleChange { enabled, window, threshold, grace, action } = change;
        let new = RuleSettings {
            enabled: enabled.unwrap_or(old.enabled),
            window: window.unwrap_or(old.window),
            threshold: threshold.unwrap_or(old.threshold),
            grace: grace.unwrap_or(old.grace),
            action: action.unwrap_or(old.action),
        };
        self.0.insert(rule, new);
        self
    }

    /// Whether every rule can go by its settings.
    ///
    /// # Errors
    /// In words for an operator.
    pub fn check(&self) -> Result<(), String> {
        for rule in Rule::ALL {
            self.rule(*rule).check(*rule).map_err(|why| format!("fraud rule {rule}: {why}"))?;
        }
        Ok(())
    }
}

impl RuleSettings {
    fn check(&self, rule: Rule) -> Result<(), String> {
        let uses = uses(rule);
        if uses.window && !(1..=LONGEST).contains(&self.window) {
            return Err("its window must be 1 second to 30 days".to_owned());
        }
        if uses.window && !(1..=GREATEST).contains(&self.threshold) {
            return Err(format!("its threshold must be 1 to {GREATEST}"));
        }
        if !uses.window && (self.window, self.threshold) != (0, 0) {
            return Err("it counts nothing: leave out its window and threshold".to_owned());
        }
        if self.grace > LONGEST {
            return Err("its grace is at most 30 days".to_owned());
        }
        if !uses.grace && self.grace != 0 {
            return Err("it has no grace: leave it out".to_owned());
        }
        if !uses.suspends && self.action > Action::Alert {
            return Err(format!("it rests on no proof against an HSM, and may note or alert, not {}", self.action));
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_whole_and_suspend_only_for_what_an_operator_has_listed() {
        let policy = FraudPolicy::default();
        policy.check().unwrap();
        for rule in Rule::ALL {
            let settings = policy.rule(*rule);
            let listed = *rule == Rule::ForeignMeasurement;
            assert!(settings.enabled && settings.action == if listed { Action::Quarantine } else { Action::Alert });
            assert_eq!(rule.name().parse::<Rule>().unwrap(), *rule);
            assert_eq!(serde_json::to_value(rule).unwrap(), rule.name());
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_the_rules_name() {
        let change = |rule, change| FraudPolicy::default().with(rule, change).check();
        let quarantine = RuleChange { action: Some(Action::Quarantine), ..RuleChange::default() };
        for rule in Rule::ALL {
            assert_eq!(change(*rule, quarantine).is_ok(), uses(*rule).suspends, "{rule}");
            let grace = RuleChange { grace: Some(1), ..RuleChange::default() };
            assert_eq!(change(*rule, grace).is_ok(), uses(*rule).grace, "{rule}");
            let window = RuleChange { window: Some(1), threshold: Some(1), ..RuleChange::default() };
            assert_eq!(change(*rule, window).is_ok(), uses(*rule).window, "{rule}");
            let endless = RuleChange { window: Some(LONGEST + 1), grace: Some(LONGEST + 1), ..RuleChange::default() };
            assert!(change(*rule, endless).unwrap_err().contains(rule.name()));
        }
        let mut policy = FraudPolicy::default();
        for change in ["drift.grace=7", "replay.action=quarantine", "silent-hsm.enabled=false"] {
            policy.change(change).unwrap();
        }
        assert_eq!(policy.changes(), ["drift.grace=7", "replay.action=quarantine", "silent-hsm.enabled=false"]);
        policy.check().unwrap();
        for wrong in ["drift", "drift.grace", "drifts.grace=1", "drift.grace=-1", "drift.gracious=1", "drift.action=x"]
        {
            policy.change(wrong).unwrap_err();
        }
        for (idle, why) in [
            ("drift.threshold=5", "counts nothing"),
            ("drift.threshold=0", "counts nothing"),
            ("replay.window=60", "counts nothing"),
            ("impossible-pace.grace=0", "has no grace"),
        ] {
            let told = policy.change(idle).unwrap_err();
            assert!(told.contains("has no effect") && told.contains(why), "{told}");
        }
        let texts =
            ["drift.threshold=5", "repeated-failures.threshold=0", "manager-clock.action=quarantine", "drift.grace=1"];
        let wrong = FraudPolicy::default().change_all(&texts).unwrap_err();
        assert_eq!(wrong.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 1, 2], "{wrong:?}");
        let none = RuleChange { threshold: Some(0), ..RuleChange::default() };
        change(Rule::RepeatedFailures, none).unwrap_err();
    }
}
