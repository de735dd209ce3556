//! Where settings come from, and what can be wrong with each.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::{Serialize, Serializer};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{ENVIRONMENT, Settings, TABLE, table::Lens, table::Setting};

/// Where a setting's value comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// Nothing sets it.
    Default,
    /// A line of a file, from 1.
    File(PathBuf, usize),
    /// A variable of the environment.
    Environment(String),
    /// A flag.
    Flag(String),
    /// Several settings, each of which could be right.
    Together,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Environment(variable) => f.write_str(variable),
            Self::Flag(flag) => f.write_str(flag),
            Self::Together => f.write_str("settings"),
        }
    }
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Complaint {
    /// Where.
    pub source: Source,
    /// Which setting, as `section.name`, where it is one.
    pub setting: Option<String>,
    /// What is wrong, and what to do.
    pub why: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.source)?;
        if let Some(setting) = &self.setting {
            write!(f, "{setting}: ")?;
        }
        f.write_str(&self.why)
    }
}

/// A value as it is given.
enum Given<'a> {
    /// A value of the file.
    Toml(&'a DeValue<'a>),
    /// A variable's or a flag's text.
    Text(&'a str),
}

/// Settings, and what has set them so far.
pub(super) struct Layers {
    settings: Settings,
    sources: Vec<Source>,
    complaints: Vec<Complaint>,
}

impl Layers {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, sources: vec![Source::Default; TABLE.len()], complaints: Vec::new() }
    }

    pub(super) fn finish(self) -> (Settings, Vec<Source>, Vec<Complaint>) {
        (self.settings, self.sources, self.complaints)
    }

    fn complain(&mut self, source: Source, setting: Option<&str>, why: impl Into<String>) {
        self.complaints.push(Complaint { source, setting: setting.map(str::to_owned), why: why.into() });
    }

    /// Sets one thing to what `source` gives; where it is a list, `of_text` is where each of its texts comes from.
    fn set(&mut self, position: usize, source: Source, given: &Given<'_>, of_text: impl Fn(usize) -> Source) {
        let Some(setting) = TABLE.get(position) else { return };
        match assign(&mut self.settings, setting, given) {
            Ok(()) => {
                if let Some(slot) = self.sources.get_mut(position) {
                    *slot = source;
                }
            }
            Err(wrong) => {
                for (at, why) in wrong {
                    let source = at.map_or_else(|| source.clone(), &of_text);
                    self.complain(source, Some(&setting.path()), why);
                }
            }
        }
    }

    /// A file's settings.
    pub(super) fn file(&mut self, path: &Path, text: &str) {
        let line = |at: usize| text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1;
        let source = |at: usize| Source::File(path.to_owned(), line(at));
        let (tables, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            self.complain(source(error.span().map_or(0, |span| span.start)), None, error.message());
        }
        for (section, entries) in tables.get_ref() {
            let known = || TABLE.iter().map(|setting| setting.section);
            let at = section.span().start;
            let name = section.get_ref();
            if known().all(|known| known != name) {
                self.complain(source(at), Some(name), format!("there is no such section{}", nearest(name, known())));
                continue;
            }
            match entries.get_ref() {
                DeValue::Table(entries) => self.section(name, entries, &source),
                _ => self.complain(
                    source(at),
                    Some(name),
                    format!("this is a section: write [{name}] above its settings"),
                ),
            }
        }
    }

    fn section(&mut self, section: &str, entries: &DeTable<'_>, source: &impl Fn(usize) -> Source) {
        for (name, value) in entries {
            let found = TABLE.iter().position(|known| known.section == section && known.name == name.get_ref());
            let here = source(name.span().start);
            match found {
                Some(position) => {
                    let text = |at: usize| match value.get_ref() {
                        DeValue::Array(values) => values.get(at).map(|text| source(text.span().start)),
                        _ => None,
                    };
                    let of_text = |at| text(at).unwrap_or_else(|| here.clone());
                    self.set(position, here.clone(), &Given::Toml(Spanned::get_ref(value)), of_text);
                }
                None => {
                    let known = TABLE.iter().filter(|known| known.section == section).map(|known| known.name);
                    let why = format!("there is no such setting{}", nearest(name.get_ref(), known));
                    self.complain(here, Some(&format!("{section}.{}", name.get_ref())), why);
                }
            }
        }
    }

    /// The environment's settings: every variable whose name begins with [`ENVIRONMENT`].
    pub(super) fn environment(&mut self, variables: impl IntoIterator<Item = (String, String)>) {
        for (name, value) in variables {
            if !name.starts_with(ENVIRONMENT) {
                continue;
            }
            let source = Source::Environment(name.clone());
            match TABLE.iter().position(|setting| setting.variable() == name) {
                Some(position) => self.set(position, source.clone(), &Given::Text(&value), |_| source.clone()),
                None => {
                    let known: Vec<_> = TABLE.iter().map(Setting::variable).collect();
                    let near = nearest(&name, known.iter().map(String::as_str));
                    self.complain(source, None, format!("no setting has this variable{near}"));
                }
            }
        }
    }

    /// Flags, by `section.name`.
    pub(super) fn flags(&mut self, flags: &[(String, String)]) {
        for (path, value) in flags {
            let source = Source::Flag(format!("--set {path}"));
            match TABLE.iter().position(|setting| setting.path() == *path) {
                Some(position) => self.set(position, source.clone(), &Given::Text(value), |_| source.clone()),
                None => {
                    let known: Vec<_> = TABLE.iter().map(Setting::path).collect();
                    let near = nearest(path, known.iter().map(String::as_str));
                    self.complain(source, None, format!("there is no such setting{near}"));
                }
            }
        }
    }
}

/// The known name that is most like `name`, in words, where one is like it at all.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let likeness = |known: &&str| (strsim::jaro_winkler(name, known) * 1000.0) as u32;
    match known.max_by_key(likeness).filter(|known| likeness(known) > 700) {
        Some(known) => format!("; did you mean {known}?"),
        None => String::new(),
    }
}

/// What is wrong with a value, or with one of its texts, by the position of that from 0.
type Wrong = (Option<usize>, String);

fn assign(settings: &mut Settings, setting: &Setting, given: &Given<'_>) -> Result<(), Vec<Wrong>> {
    let assigned = match setting.lens {
        Lens::Seconds(field) => seconds(given).map(|value| *field(settings) = value),
        Lens::Count(field) => number(given).map(|value| *field(settings) = value),
        Lens::Number(field) => number(given).map(|value| *field(settings) = value),
        Lens::Switch(field) => switch(given).map(|value| *field(settings) = value),
        Lens::File(field) => text(given)
            .map(|value| *field(settings) = Some(PathBuf::from(value)).filter(|path| !path.as_os_str().is_empty())),
        Lens::Text(parse, _) => text(given).and_then(|value| parse(settings, value)),
        Lens::List(parse, _) => {
            let parsed = parse(settings, &list(given)?);
            return parsed.map_err(|wrong| wrong.into_iter().map(|(at, why)| (Some(at), why)).collect());
        }
    };
    assigned.map_err(|why| vec![(None, why)])
}

fn text<'a>(given: &'a Given<'a>) -> Result<&'a str, String> {
    match given {
        Given::Text(text) | Given::Toml(DeValue::String(std::borrow::Cow::Borrowed(text))) => Ok(text),
        Given::Toml(value) => value.as_str().ok_or_else(|| "this is a text, between quotation marks".to_owned()),
    }
}

fn seconds(given: &Given<'_>) -> Result<u64, String> {
    let wrong = "this is a duration in whole seconds, such as \"90s\", \"10m\" or \"1h 30m\"";
    let text = text(given).map_err(|_| wrong.to_owned())?;
    let duration = humantime::parse_duration(text).map_err(|error| format!("{wrong}: {error}"))?;
    if duration.subsec_nanos() == 0 { Ok(duration.as_secs()) } else { Err(wrong.to_owned()) }
}

fn number<T: std::str::FromStr>(given: &Given<'_>) -> Result<T, String> {
    let digits = match given {
        Given::Text(text) => Some((*text).to_owned()),
        Given::Toml(DeValue::Integer(integer)) if integer.radix() == 10 => Some(integer.as_str().to_owned()),
        Given::Toml(_) => None,
    };
    let parsed = digits.and_then(|digits| digits.parse().ok());
    parsed.ok_or_else(|| "this is a whole number, in digits".to_owned())
}

fn switch(given: &Given<'_>) -> Result<bool, String> {
    match given {
        Given::Text("true") | Given::Toml(DeValue::Boolean(true)) => Ok(true),
        Given::Text("false") | Given::Toml(DeValue::Boolean(false)) => Ok(false),
        _ => Err("this is true or false".to_owned()),
    }
}

fn list<'a>(given: &'a Given<'a>) -> Result<Vec<&'a str>, Vec<Wrong>> {
    let wrong = |at: Option<usize>| (at, "this is a list of texts: [\"one\", \"two\"]".to_owned());
    match given {
        Given::Text(text) => Ok(text.split(',').map(str::trim).filter(|text| !text.is_empty()).collect()),
        Given::Toml(DeValue::Array(values)) => {
            let texts: Vec<_> = values.iter().map(|value| value.get_ref().as_str()).collect();
            let others: Vec<_> =
                (0..).zip(&texts).filter(|(_, text)| text.is_none()).map(|(at, _)| wrong(Some(at))).collect();
            if others.is_empty() { Ok(texts.into_iter().flatten().collect()) } else { Err(others) }
        }
        Given::Toml(_) => Err(vec![wrong(None)]),
    }
}
