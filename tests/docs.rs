//! The documents speak of what is there: references to code, links, statements.
//!
//! A reference is a code span `path#identifier`, or `path#one, another`: a file of the repository, and names that literally
//! occur in it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use keywitness_circuits::Kind;

/// Extensions of files that a reference may name. A path whose first part is in the repository needs none.
const EXTENSIONS: [&str; 5] = ["rs", "md", "json", "toml", "mjs"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// README.md and docs/*.md.
fn documents() -> Vec<PathBuf> {
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut documents: Vec<_> = docs.filter(|path| path.extension().is_some_and(|ending| ending == "md")).collect();
    documents.push(root().join("README.md"));
    documents
}

/// A document's lines, numbered, but for those between fences.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    })
}

/// The code spans of a line: whatever stands between two backticks.
fn spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// A span as a path and the names that occur there, if it is a reference.
fn reference(span: &str) -> Option<(&str, Vec<&str>)> {
    let (path, names) = span.split_once('#')?;
    let first = path.split('/').next().filter(|first| !first.is_empty())?;
    let known = Path::new(path).extension().is_some_and(|found| EXTENSIONS.into_iter().any(|known| found == known));
    (known || root().join(first).exists()).then(|| (path, names.split(", ").collect()))
}

/// Whether `name` stands in `text` as a whole word.
fn occurs(text: &str, name: &str) -> bool {
    let word = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let bytes = text.as_bytes();
    !name.is_empty()
        && text.match_indices(name).any(|(at, _)| {
            let before = at.checked_sub(1).and_then(|at| bytes.get(at).copied());
            !word(before) && !word(bytes.get(at + name.len()).copied())
        })
}

/// The targets of a line's links, but for those on other hosts.
fn links(line: &str) -> impl Iterator<Item = &str> {
    let targets = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.contains("://"))
}

/// The anchor that a page gives a heading: lower case, hyphens for spaces, no other signs.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|sign| sign.is_alphanumeric() || matches!(sign, ' ' | '-' | '_'));
    kept.map(|sign| if sign == ' ' { '-' } else { sign.to_ascii_lowercase() }).collect()
}

fn has_anchor(text: &str, wanted: &str) -> bool {
    prose(text).any(|(_, line)| line.starts_with('#') && anchor(line.trim_start_matches('#')) == wanted)
}

#[test]
fn every_reference_names_what_is_in_the_file() {
    let mut wrong = Vec::new();
    let mut found = 0;
    for document in documents() {
        let text = read(&document);
        for (number, line) in prose(&text) {
            for (path, names) in spans(line).filter_map(reference) {
                found += 1;
                let place = format!("{}:{number}: {path}", document.display());
                let Ok(code) = fs::read_to_string(root().join(path)) else {
                    wrong.push(format!("{place} is no file"));
                    continue;
                };
                let missing = names.into_iter().filter(|name| !occurs(&code, name));
                wrong.extend(missing.map(|name| format!("{place} has no {name:?}")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(found > 100, "only {found} references were recognised");
}

#[test]
fn every_link_leads_somewhere() {
    let mut wrong = Vec::new();
    for document in documents() {
        let text = read(&document);
        for (number, line) in prose(&text) {
            for target in links(line) {
                let (path, section) = target.split_once('#').unwrap_or((target, ""));
                let file = if path.is_empty() { document.clone() } else { document.parent().unwrap().join(path) };
                let leads = file.exists() && (section.is_empty() || has_anchor(&read(&file), section));
                if !leads {
                    wrong.push(format!("{}:{number}: {target}", document.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_statement_is_in_the_soundness_guide() {
    let guide = read(&root().join("docs/soundness.md"));
    for kind in Kind::ALL {
        assert!(guide.contains(&format!("`{kind}`")), "{kind} is not in docs/soundness.md");
    }
    let folders = fs::read_dir(root().join("circuits/src")).unwrap().map(|entry| entry.unwrap().path());
    let specified: Vec<_> = folders.filter(|folder| folder.join("spec.md").exists()).collect();
    assert!(!specified.is_empty());
    for folder in specified {
        let link = format!("](../{}/spec.md", folder.strip_prefix(root()).unwrap().display());
        assert!(guide.contains(&link), "docs/soundness.md has no link {link}...)");
    }
}

#[test]
fn the_checks_see_what_is_broken() {
    let (path, names) = reference("circuits/src/registry.rs#open, verify").unwrap();
    assert_eq!((path, names), ("circuits/src/registry.rs", vec!["open", "verify"]));
    assert!(reference("nowhere/at/all.rs#open").is_some(), "a wrong path is a reference too");
    assert!(reference("tag:ietf.org,2026:rats/ear#04").is_none());
    assert!(
        occurs("fn open(", "open") && !occurs("fn opened(", "open") && !occurs("", "") && occurs("a \"b c\"", "b c")
    );
    assert_eq!(prose("a\n```\nb\n```\nc").map(|(number, _)| number).collect::<Vec<_>>(), [1, 5]);
    assert_eq!(links("[a](b.md#c) [d](https://e) [f](g)").collect::<Vec<_>>(), ["b.md#c", "g"]);
    assert_eq!(anchor(" What the proof does *not* say "), "what-the-proof-does-not-say");
}
