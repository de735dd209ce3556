//! Settings as a file has them.

use std::fmt::Write;

use super::{Lens, Settings, TABLE, table::Setting};

/// A setting's value as TOML.
pub(super) fn literal(setting: &Setting, settings: &Settings) -> String {
    let mut settings = settings.clone();
    match setting.lens {
        Lens::Seconds(field) => quoted(&duration(*field(&mut settings))),
        Lens::Count(field) => field(&mut settings).to_string(),
        Lens::Number(field) => field(&mut settings).to_string(),
        Lens::Switch(field) => field(&mut settings).to_string(),
        Lens::File(field) => quoted(&field(&mut settings).clone().unwrap_or_default().to_string_lossy()),
        Lens::Text(_, show) => quoted(&show(&settings)),
        Lens::List(_, show) => {
            let texts: Vec<_> = show(&settings).iter().map(|text| quoted(text)).collect();
            format!("[{}]", texts.join(", "))
        }
    }
}

fn duration(seconds: u64) -> String {
    humantime::format_duration(std::time::Duration::from_secs(seconds)).to_string()
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// A commented file with every setting of `settings`.
pub(super) fn example(settings: &Settings) -> String {
    let mut text = String::from(
        "# Settings of a Keywitness manager. What is commented out is the default.\n\
         # The environment goes before this file (KEYWITNESS_MANAGER_RECORDS_TTL=5m), and flags before both\n\
         # (--set records.ttl=5m). Check it with: keywitness config check FILE\n",
    );
    let mut section = "";
    for setting in TABLE {
        if setting.section != section {
            section = setting.section;
            // Writing to a String does not fail.
            let _ = writeln!(text, "\n[{section}]");
        }
        for line in wrapped(setting.doc) {
            let _ = writeln!(text, "# {line}");
        }
        let value = literal(setting, settings);
        let _ = match (setting.section, setting.name) {
            ("manager", "trust-domain") => writeln!(text, "{} = \"acme.example\"", setting.name),
            _ => writeln!(text, "#{} = {value}", setting.name),
        };
    }
    text
}

/// Lines of at most 100 characters.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.len() + word.len() < 100 => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
