//! The operator's settings: one file, the environment over it, flags over both.
//!
//! Whatever is wrong is told at once, with the file's line, and an unknown name with the nearest one that is known.

mod example;
mod source;
mod table;

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

use keywitness_circuits::TrustDomain;

pub use self::source::{Complaint, Source};
use self::{
    source::Layers,
    table::{Lens, Setting, TABLE},
};
use crate::{Config, StartError, files::check_private, signer::Pkcs11Config};

/// What the names of variables begin with that set something: the section and the name follow, in capitals.
pub const ENVIRONMENT: &str = "KEYWITNESS_MANAGER_";

/// Stands in [`Config`] until a trust domain is set.
const UNSET: &str = "unset.invalid";

/// How the process's own log is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

impl FromStr for LogFormat {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("{text:?} is no format: use text or json")),
        }
    }
}

/// Where the signer runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SignerMode {
    /// In a process of its own, which the manager starts.
    #[default]
    Process,
    /// In the manager's process.
    InProcess,
    /// Elsewhere, as another user: it is called at a socket.
    Socket,
}

impl fmt::Display for SignerMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Process => "process",
            Self::InProcess => "in-process",
            Self::Socket => "socket",
        })
    }
}

impl FromStr for SignerMode {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "process" => Ok(Self::Process),
            "in-process" => Ok(Self::InProcess),
            "socket" => Ok(Self::Socket),
            _ => Err(format!("{text:?} is no place for a signer: use process, in-process or socket")),
        }
    }
}

/// Everything that an operator can set.
#[derive(Clone, Debug)]
pub struct Settings {
    trust_domain: Option<TrustDomain>,
    config: Config,
    /// Where to listen.
    pub listen: SocketAddr,
    /// How long to serve on, while not ready, before stopping, in seconds.
    pub drain: u64,
    /// Where the signer runs.
    pub signer: SignerMode,
    /// Where a signer listens that another user runs.
    pub signer_socket: PathBuf,
    /// The PKCS#11 token that holds the signer's keys; none where no library is named.
    pkcs11: Pkcs11Config,
    /// Groth16 parameters; those of the data directory where there are none.
    pub groth16_parameters: Option<PathBuf>,
    /// The same for proofs of many keys.
    pub groth16_many_parameters: Option<PathBuf>,
    /// How the process's own log is written.
    pub log_format: LogFormat,
    /// What is logged.
    pub log_filter: String,
}

/// A setting's value, and where it comes from.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Effective {
    /// `section.name`.
    pub setting: String,
    /// The value, as the file would have it.
    pub value: String,
    /// Where it comes from.
    pub source: Source,
}

/// Settings that were read, each with where it comes from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// Every one of them, in the order of the example.
    pub effective: Vec<Effective>,
}

impl Settings {
    /// The defaults, for a manager that keeps everything in `data_dir`.
    ///
    /// # Panics
    /// Never: the names that it begins with are well-formed, as its test knows.
    pub fn new(data_dir: &Path) -> Self {
        let name = |text: &str| text.parse().unwrap_or_else(|_| unreachable!("{text} is a name"));
        let manager = "manager-1".parse().unwrap_or_else(|_| unreachable!("manager-1 is a name"));
        Self {
            trust_domain: None,
            config: Config::new(data_dir, name(UNSET), manager),
            listen: SocketAddr::from(([127, 0, 0, 1], 8470)),
            drain: 0,
            signer: SignerMode::Process,
            signer_socket: PathBuf::new(),
            pkcs11: Pkcs11Config::default(),
            groth16_parameters: None,
            groth16_many_parameters: None,
            log_format: LogFormat::Text,
            log_filter: "info".to_owned(),
        }
    }

    /// Reads the file (its path and text), then the environment, then flags (`section.name` and value): the later goes
    /// before the earlier.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn load(
        data_dir: &Path,
        file: Option<(&Path, &str)>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &[(String, String)],
    ) -> Result<Loaded, Vec<Complaint>> {
        let mut layers = Layers::new(Self::new(data_dir));
        if let Some((path, text)) = file {
            layers.file(path, text);
        }
        layers.environment(environment);
        layers.flags(flags);
        let (settings, sources, mut complaints) = layers.finish();
        // What nobody set, and what is wrong together, could be the other complaints' doing.
        let all_read = complaints.is_empty();
        let set = |source: &Source| matches!(source, Source::File(..) | Source::Environment(_) | Source::Flag(_));
        let more = settings.complaints(&sources).into_iter().filter(|complaint| all_read || set(&complaint.source));
        complaints.extend(more);
        if !complaints.is_empty() {
            return Err(complaints);
        }
        let effective = TABLE.iter().zip(sources).map(|(setting, source)| Effective {
            setting: setting.path(),
            value: example::literal(setting, &settings),
            source,
        });
        let effective = effective.collect();
        Ok(Loaded { settings, effective })
    }

    /// A commented file with every setting and its default.
    pub fn example() -> String {
        example::example(&Self::new(Path::new("DATA")))
    }

    /// The manager's part.
    ///
    /// # Errors
    /// [`StartError::Refused`] where no trust domain is set.
    pub fn config(&self) -> Result<Config, StartError> {
        let trust_domain = self.trust_domain.clone().ok_or_else(|| StartError::Refused(NO_TRUST_DOMAIN.to_owned()))?;
        let config = self.config.clone();
        let signer_dir = config.signer_dir.clone().or_else(|| Some(config.data_dir.with_file_name(SIGNER)));
        let pkcs11 = (!self.pkcs11.module.as_os_str().is_empty()).then(|| self.pkcs11.clone());
        Ok(Config { trust_domain, signer_dir, pkcs11, ..config })
    }

    fn nonsense_of_signer(&self) -> Vec<String> {
        let Pkcs11Config { module, token, pin_file, .. } = &self.pkcs11;
        let socket = !self.signer_socket.as_os_str().is_empty();
        let named = [!module.as_os_str().is_empty(), !token.is_empty(), !pin_file.as_os_str().is_empty()];
        let within = self.config.signer_dir.as_ref().is_some_and(|path| path.starts_with(&self.config.data_dir));
        let rules = [
            (socket != (self.signer == SignerMode::Socket), "signer: give socket with mode socket, and only then"),
            (
                named.contains(&true) && named.contains(&false),
                "signer: give pkcs11-module, pkcs11-token and pkcs11-pin-file, or none of them",
            ),
            (
                within && self.signer == SignerMode::Process,
                "signer: directory must be outside the manager's own, which the manager can read",
            ),
        ];
        rules.into_iter().filter(|(broken, _)| *broken).map(|(_, why)| why.to_owned()).collect()
    }

    /// Files to look at that are secret, or that are no setting of their own: with the setting that names them, and whether they
    /// are secret.
    fn files(&self) -> Vec<(&'static str, &Path, bool)> {
        let key = self.config.tls.key.as_deref();
        let mut files: Vec<_> = key.into_iter().map(|key| (TLS_KEY, key, true)).collect();
        for webhook in &self.config.webhooks.webhooks {
            let secret = |path: &PathBuf| webhook.key.as_ref() == Some(path);
            files.extend(webhook.files().map(|path| ("webhooks.sinks", path.as_path(), secret(path))));
        }
        files
    }

    /// What makes no sense, though each value can be read.
    fn complaints(&self, sources: &[Source]) -> Vec<Complaint> {
        let about = |setting: &Setting, why: String| {
            let position = TABLE.iter().position(|other| other.path() == setting.path());
            let source = position.and_then(|at| sources.get(at)).cloned().unwrap_or(Source::Default);
            Complaint { source, setting: Some(setting.path()), why }
        };
        let named = |path: &str| TABLE.iter().find(|setting| setting.path() == path);
        let mut complaints = Vec::new();
        if self.trust_domain.is_none() {
            complaints.extend(named("manager.trust-domain").map(|setting| about(setting, NO_TRUST_DOMAIN.to_owned())));
        }
        for setting in TABLE {
            if let Lens::File(field) = setting.lens
                && let Some(path) = field(&mut self.clone())
                && let Err(error) = std::fs::File::open(&path)
            {
                complaints.push(about(setting, format!("{}: {error}", path.display())));
            }
        }
        if let Err(why) = self.config.evidence.read() {
            complaints.extend(named("evidence.policy").map(|setting| about(setting, why)));
        }
        for (path, file, secret) in self.files() {
            let private = if secret { check_private(file) } else { Ok(()) };
            let there = std::fs::metadata(file).map(drop);
            let absent = there.err().filter(|error| path != TLS_KEY && error.kind() == std::io::ErrorKind::NotFound);
            let wrong = absent.or(private.err()).map(|error| error.to_string());
            let told = named(path).zip(wrong);
            complaints.extend(told.map(|(setting, why)| about(setting, format!("{}: {why}", file.display()))));
        }
        let nonsense = self.config.nonsense().into_iter().chain(self.nonsense_of_signer());
        let nonsense = nonsense.into_iter().chain(self.config.check_exposure(self.listen).err());
        complaints.extend(nonsense.map(|why| Complaint { source: Source::Together, setting: None, why }));
        complaints
    }
}

/// Name of the directory of the signer, beside the manager's.
pub const SIGNER: &str = "signer";

/// The setting of a file that is opened where the others are, but must be private besides.
const TLS_KEY: &str = "tls.key";

const NO_TRUST_DOMAIN: &str = "it is not set: give --trust-domain NAME, or set it in DATA/manager.toml (`keywitness config example`): what \
    this manager speaks for, such as acme.example";

#[cfg(test)]
mod tests;
