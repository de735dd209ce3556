//! Which webhooks there are, as operators write them: `NAME.FIELD=VALUE`.

use std::{collections::BTreeSet, fmt, net::IpAddr, path::PathBuf, time::Duration};

use keywitness_circuits::ClusterId;
use keywitness_verifier::wire::{Rule, Sends};
use ureq::http::Uri;

use crate::config::WrongTexts;

/// Most webhooks: each has a thread, and labels of its own among the measurements.
const MOST: usize = 16;

const TOO_MANY: &str = "there are at most 16 webhooks: one that tells several others takes fewer";

/// Longest name of a webhook.
const LONGEST_NAME: usize = 32;

/// The address of a receiver. Only its origin is ever shown: the rest may be a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(Uri);

impl Address {
    /// Parses an address.
    ///
    /// # Errors
    /// In words for an operator: it is not `http` or `https`, or carries a password or a fragment.
    pub fn parse(text: &str) -> Result<Self, String> {
        let uri: Uri =
            text.parse().map_err(|_| "its url is no address, such as https://alerts.example/hook".to_owned())?;
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        if !matches!(uri.scheme_str(), Some("http" | "https")) || authority.is_empty() {
            return Err("its url begins with https://, and names a host".to_owned());
        }
        if authority.contains('@') || text.contains('#') {
            return Err("its url has no user, password or fragment".to_owned());
        }
        Ok(Self(uri))
    }

    /// The address itself.
    pub(super) const fn uri(&self) -> &Uri {
        &self.0
    }

    /// Whether what is sent there is encrypted, or stays on this machine.
    fn is_safe(&self) -> bool {
        let host = self.0.host().unwrap_or_default();
        let ip = host.trim_matches(['[', ']']).parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        self.0.scheme_str() == Some("https") || host == "localhost" || ip
    }
}

/// Scheme, host and port.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = self.0.authority().map(ToString::to_string).unwrap_or_default();
        write!(f, "{}://{authority}", self.0.scheme_str().unwrap_or_default())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}/…")
    }
}

/// One webhook.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WebhookConfig {
    /// Its name.
    pub name: String,
    /// Its receiver.
    pub url: Option<Address>,
    /// What it is told.
    pub sends: Sends,
    /// Only what these rules find; every rule where there are none.
    pub rules: Vec<Rule>,
    /// Only what concerns these clusters; every cluster where none are named.
    pub clusters: Option<Vec<ClusterId>>,
    /// The authority of the receiver's certificate, in PEM; the public ones where it is none.
    pub ca: Option<PathBuf>,
    /// The client certificate to show, with its chain, in PEM.
    pub certificate: Option<PathBuf>,
    /// Its key, in PEM.
    pub key: Option<PathBuf>,
    /// Whether plain HTTP may leave this machine.
    pub plaintext: bool,
}

/// Every webhook, and how patient the manager is with them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WebhooksConfig {
    /// In the order in which they were named first.
    pub webhooks: Vec<WebhookConfig>,
    /// How patient the manager is.
    pub patience: Patience,
}

/// How long the manager waits for receivers, and between attempts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// For one attempt, from the look-up of the name to the answer's head.
    pub attempt: Duration,
    /// After the first failure, before some of it is taken off at random. It doubles with each further failure.
    pub first: Duration,
    /// After many failures.
    pub most: Duration,
}

impl Default for Patience {
    /// 10 seconds for an attempt; 1 second after the first failure, and 5 minutes at most.
    fn default() -> Self {
        Self { attempt: Duration::from_secs(10), first: Duration::from_secs(1), most: Duration::from_secs(300) }
    }
}

fn words<T>(value: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    value.split_whitespace().map(parse).collect()
}

fn file(value: &str) -> Option<PathBuf> {
    Some(PathBuf::from(value)).filter(|path| !path.as_os_str().is_empty())
}

impl WebhookConfig {
    fn set(&mut self, field: &str, value: &str) -> Result<(), String> {
        match field {
            "url" => self.url = Some(Address::parse(value)?),
            "sends" => {
                let found = Sends::ALL.into_iter().find(|(name, _)| *name == value);
                let names = Sends::ALL.map(|(name, _)| name).join(", ");
                self.sends = found.ok_or_else(|| format!("it sends one of {names}, not {value:?}"))?.1;
            }
            "rules" => {
                self.rules = words(value, |rule| rule.parse().map_err(|_| format!("no fraud rule is named {rule:?}")))?;
            }
            "clusters" => {
                let named = words(value, |name| name.parse().map_err(|_| format!("{name:?} is no name of a cluster")))?;
                self.clusters = Some(named).filter(|clusters| !clusters.is_empty());
            }
            "ca" => self.ca = file(value),
            "certificate" => self.certificate = file(value),
            "key" => self.key = file(value),
            "plaintext" => self.plaintext = value.parse().map_err(|_| "plaintext is true or false".to_owned())?,
            _ => {
                let fields = "url, sends, rules, clusters, ca, certificate, key and plaintext";
                return Err(format!("it has {fields}, and no {field:?}"));
            }
        }
        Ok(())
    }

    /// Its fields that are set, as they are read, the secret part of the address among them.
    fn fields(&self) -> Vec<String> {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let many = |names: Vec<String>| Some(names.join(" ")).filter(|names| !names.is_empty());
        let clusters = self.clusters.iter().flatten().map(ToString::to_string).collect();
        let fields = [
            ("url", self.url.as_ref().map(|url| url.uri().to_string())),
            ("sends", (self.sends != Sends::default()).then(|| self.sends.name().to_owned())),
            ("rules", many(self.rules.iter().map(ToString::to_string).collect())),
            ("clusters", many(clusters)),
            ("ca", path(&self.ca)),
            ("certificate", path(&self.certificate)),
            ("key", path(&self.key)),
            ("plaintext", self.plaintext.then(|| "true".to_owned())),
        ];
        let fields = fields.into_iter().filter_map(|(field, value)| Some(format!("{}.{field}={}", self.name, value?)));
        fields.collect()
    }

    /// What makes no sense together, or has no effect.
    fn nonsense(&self) -> Vec<String> {
        let Some(url) = &self.url else {
            return vec![format!("webhook {0}: it has no url: give {0}.url=https://...", self.name)];
        };
        let plain = url.uri().scheme_str() == Some("http");
        let unused = plain && (self.ca.is_some() || self.certificate.is_some() || self.key.is_some());
        let name = &self.name;
        let rules = [
            (
                !url.is_safe() && !self.plaintext,
                format!(
                    "its url is plain HTTP beyond this machine: whoever is in between reads the alerts. Use https, or say \
                     so with {name}.plaintext=true"
                ),
            ),
            (self.certificate.is_some() != self.key.is_some(), "give certificate and key, or neither".to_owned()),
            (
                unused,
                "its url is plain HTTP, where no certificate is looked at: leave out ca, certificate and key"
                    .to_owned(),
            ),
            (
                self.sends == Sends::Events && !self.rules.is_empty(),
                "it sends every event, of which most are no rule's: leave out its rules".to_owned(),
            ),
        ];
        rules.into_iter().filter(|(broken, _)| *broken).map(|(_, why)| format!("webhook {name}: {why}")).collect()
    }

    /// The files that it names.
    pub(crate) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.ca, &self.certificate, &self.key].into_iter().flatten()
    }
}

impl WebhooksConfig {
    /// Reads `NAME.FIELD=VALUE`, one after the other; lists are separated by spaces.
    ///
    /// # Errors
    /// Everything that cannot be read.
    pub fn parse(texts: &[&str]) -> Result<Self, WrongTexts> {
        let (config, wrong, _) = Self::gather(texts);
        if wrong.is_empty() { Ok(config) } else { Err(wrong) }
    }

    /// The same, and checks that every webhook is whole.
    ///
    /// # Errors
    /// Everything that is wrong, a webhook as a whole with the first text that names it.
    pub fn read(texts: &[&str]) -> Result<Self, WrongTexts> {
        let (config, mut wrong, unread) = Self::gather(texts);
        let first = |name: &str| texts.iter().position(|text| named(text) == Some(name)).unwrap_or_default();
        let whole = config.webhooks.iter().filter(|webhook| !unread.contains(webhook.name.as_str()));
        wrong.extend(whole.flat_map(|webhook| webhook.nonsense().into_iter().map(|why| (first(&webhook.name), why))));
        wrong.extend(config.webhooks.get(MOST).map(|beyond| (first(&beyond.name), TOO_MANY.to_owned())));
        if wrong.is_empty() { Ok(config) } else { Err(wrong) }
    }

    /// What can be read, what cannot, and the names of the webhooks of which something cannot.
    fn gather<'a>(texts: &[&'a str]) -> (Self, WrongTexts, BTreeSet<&'a str>) {
        let (mut config, mut wrong, mut unread) = (Self::default(), Vec::new(), BTreeSet::new());
        for (at, &text) in texts.iter().enumerate() {
            if let Err(why) = config.set(text) {
                wrong.push((at, why));
                unread.extend(named(text));
            }
        }
        (config, wrong, unread)
    }

    fn set(&mut self, text: &str) -> Result<(), String> {
        let form = || format!("{text:?} is not NAME.FIELD=VALUE, such as pager.url=https://alerts.example/hook");
        let (place, value) = text.split_once('=').ok_or_else(form)?;
        let (name, field) = place.trim().split_once('.').ok_or_else(form)?;
        let plain = |sign: char| sign.is_ascii_lowercase() || sign.is_ascii_digit() || sign == '-';
        if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(plain) {
            return Err(format!("a webhook's name is 1 to {LONGEST_NAME} of a-z, 0-9 and -, not {name:?}"));
        }
        let wrong = |why: String| format!("webhook {name}: {why}");
        match self.webhooks.iter_mut().find(|known| known.name == name) {
            Some(known) => known.set(field, value.trim()).map_err(wrong),
            None => {
                let mut new = WebhookConfig { name: name.to_owned(), ..WebhookConfig::default() };
                new.set(field, value.trim()).map_err(wrong)?;
                self.webhooks.push(new);
                Ok(())
            }
        }
    }

    /// What [`Self::parse`] would read.
    pub fn texts(&self) -> Vec<String> {
        self.webhooks.iter().flat_map(WebhookConfig::fields).collect()
    }

    /// Whether every webhook is whole.
    ///
    /// # Errors
    /// In words for an operator.
    pub fn check(&self) -> Result<(), String> {
        if self.webhooks.len() > MOST {
            return Err(TOO_MANY.to_owned());
        }
        let names: BTreeSet<_> = self.webhooks.iter().map(|webhook| &webhook.name).collect();
        if names.len() != self.webhooks.len() {
            return Err("two webhooks have one name".to_owned());
        }
        let nonsense: Vec<_> = self.webhooks.iter().flat_map(WebhookConfig::nonsense).collect();
        if nonsense.is_empty() { Ok(()) } else { Err(nonsense.join("; ")) }
    }
}

/// The name of the webhook that a text is about.
fn named(text: &str) -> Option<&str> {
    Some(text.split_once('=')?.0.trim().split_once('.')?.0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let texts = [
            "pager.url=https://alerts.example:8443/hook/s3cret?x=1",
            "pager.sends=quarantines",
            "pager.rules=replay drift",
            "pager.clusters=eu us",
            "pager.ca=/etc/ca.pem",
            "pager.certificate=/etc/c.pem",
            "pager.key=/etc/k.pem",
            "siem.url=http://10.0.0.1/",
            "siem.sends=events",
            "siem.plaintext=true",
        ];
        let config = WebhooksConfig::parse(&texts).unwrap();
        config.check().unwrap();
        assert_eq!(config.texts(), texts);
        assert_eq!(config.webhooks[0].url.as_ref().unwrap().to_string(), "https://alerts.example:8443");
        assert!(!format!("{config:?}").contains("s3cret"));
    }

    #[test]
    fn what_is_unsafe_or_makes_no_sense_is_refused() {
        for wrong in [
            "pager",
            "pager.url",
            ".url=https://a/",
            "Pager.url=https://a/",
            "pager.url=ftp://a/",
            "pager.url=/hook",
            "pager.url=https://user:word@a/",
            "pager.url=https://a/#x",
            "pager.sends=all",
            "pager.rules=drifts",
            "pager.clusters=a/b",
            "pager.plaintext=yes",
            "pager.verify=false",
        ] {
            WebhooksConfig::parse(&[wrong]).unwrap_err();
        }
        for (wrong, why) in [
            (&["pager.sends=alerts"][..], "no url"),
            (&["pager.url=http://alerts.example/"], "plain HTTP"),
            (&["pager.url=http://127.0.0.1.evil.example/"], "plain HTTP"),
            (&["pager.url=https://a/", "pager.key=k"], "certificate and key"),
            (&["pager.url=http://localhost/", "pager.ca=k"], "leave out ca"),
            (&["pager.url=https://a/", "pager.sends=events", "pager.rules=drift"], "leave out"),
        ] {
            let refusal = WebhooksConfig::parse(wrong).unwrap().check().unwrap_err();
            assert!(refusal.contains(why), "{refusal}");
        }
        let wrong = WebhooksConfig::read(&[
            "pager.url=https://a/",
            "pager.sends=all",
            "siem.sends=events",
            "siem.rules=drift",
            "phone.url=http://alerts.example/",
            "phone.key=k",
            "pager",
        ]);
        let wrong = wrong.unwrap_err();
        let told = |at: usize, part: &str| wrong.iter().any(|(found, why)| *found == at && why.contains(part));
        for (at, part) in [(1, "not \"all\""), (2, "siem: it has no url"), (4, "plain HTTP beyond"), (6, "NAME.FIELD")]
        {
            assert!(told(at, part), "{at} {part}: {wrong:?}");
        }
        assert!(told(4, "certificate and key") && told(4, "leave out ca"), "{wrong:?}");
        assert_eq!(wrong.len(), 6);
        for right in ["pager.url=http://127.0.0.1:9/", "pager.url=http://[::1]:9/", "pager.url=http://localhost/"] {
            WebhooksConfig::parse(&[right]).unwrap().check().unwrap();
        }
        let many: Vec<_> = (0..=MOST).map(|number| format!("w{number}.url=https://a/")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        WebhooksConfig::parse(&many).unwrap().check().unwrap_err();
    }
}
