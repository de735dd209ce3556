//! TLS: the manager's own certificate authority, the server's certificate, and the certificates of HSMs.
//!
//! The authority is made at the first start: `ca.pem`, which whoever calls the manager trusts, and `ca-key.pem`, mode 0600.
//! It signs the server's certificate, which is kept in memory alone and renewed long before it ends, and short-lived client
//! certificates of HSMs. An operator may bring the server's certificate and the authority of clients instead.

use std::{
    fmt,
    fs::File,
    io::BufReader,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use keywitness_circuits::{HsmId, Timestamp, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SignatureAlgorithm,
};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use webpki::EndEntityCert;

use crate::{
    clock::Clock,
    error::StartError,
    files::{self, check_private},
};

/// Name of the authority's certificate in a data directory.
pub const CA_FILE: &str = "manager.ca.pem";

/// Name of the authority's key in a data directory: PKCS#8, PEM, mode 0600.
const CA_KEY_FILE: &str = "manager.ca-key.pem";

/// Life of the authority, in seconds: twenty years.
const CA_LIFE: u64 = 20 * 365 * DAY;

/// Life of the server's certificate, in seconds.
const SERVER_LIFE: u64 = 90 * DAY;

/// The server's certificate is renewed once less than this is left of it, in seconds.
const SERVER_RENEWAL: u64 = 30 * DAY;

/// Life of an HSM's certificate, in seconds.
pub const HSM_LIFE: u64 = DAY;

/// Clocks differ: certificates are good from a little before they are made, in seconds.
const BACKDATE: u64 = 3600;

/// How often an operator's files are looked at again, in seconds.
const LOOK_AGAIN: u64 = 10;

const DAY: u64 = 24 * 60 * 60;

/// When the manager speaks TLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TlsMode {
    /// On loopback too.
    Always,
    /// Beyond loopback, unless plain HTTP is allowed there.
    #[default]
    Auto,
    /// Never.
    Off,
}

impl fmt::Display for TlsMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Always => "always",
            Self::Auto => "auto",
            Self::Off => "off",
        })
    }
}

impl std::str::FromStr for TlsMode {
    type Err = keywitness_circuits::Error;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "always" => Ok(Self::Always),
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            _ => Err(keywitness_circuits::Error::Malformed { what: "tls", why: "use always, auto or off" }),
        }
    }
}

/// How the manager speaks TLS.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TlsConfig {
    /// When.
    pub mode: TlsMode,
    /// Names and addresses of the manager besides localhost and where it listens, for its own certificate.
    pub names: Vec<String>,
    /// An operator's certificate chain, a PEM file, instead of the manager's own.
    pub certificate: Option<PathBuf>,
    /// The key of that certificate, a PEM file.
    pub key: Option<PathBuf>,
    /// The authority of client certificates, a PEM file, instead of the manager's own.
    pub client_ca: Option<PathBuf>,
}

/// The name by which a client certificate names an HSM.
fn hsm_uri(trust_domain: &TrustDomain, hsm: &HsmId) -> String {
    format!("urn:keywitness:{trust_domain}:hsm:{hsm}")
}

/// The HSM that a client certificate names, if it names one of this trust domain. The certificate's chain was
/// checked before.
pub fn named_hsm(certificate: &[u8], trust_domain: &TrustDomain) -> Option<HsmId> {
    let certificate = CertificateDer::from(certificate);
    let certificate = EndEntityCert::try_from(&certificate).ok()?;
    let prefix = format!("urn:keywitness:{trust_domain}:hsm:");
    certificate.valid_uri_names().find_map(|uri| uri.strip_prefix(&prefix)?.parse().ok())
}

fn failed(error: impl fmt::Display) -> StartError {
    StartError::Tls(error.to_string())
}

/// The manager's own certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    path: PathBuf,
    trust_domain: TrustDomain,
}

impl Authority {
    /// Reads the authority of a data directory, or makes one.
    ///
    /// # Errors
    /// [`StartError`] where a file cannot be read or written, or is not what it should be.
    pub fn open(directory: &Path, trust_domain: &TrustDomain, now: Timestamp) -> Result<Self, StartError> {
        let (path, key_path) = (directory.join(CA_FILE), directory.join(CA_KEY_FILE));
        let read =
            |path: &Path| files::read_if_there(path).map_err(|error| StartError::File { path: path.to_owned(), error });
        if read(&path)?.is_none() {
            Self::make(directory, trust_domain, now)?;
        }
        let missing = |path: &Path| failed(format!("{} is missing: restore it, or remove {CA_FILE}", path.display()));
        let pem = read(&path)?.ok_or_else(|| missing(&path))?;
        check_private(&key_path).map_err(|error| StartError::File { path: key_path.clone(), error })?;
        let key = read(&key_path)?.ok_or_else(|| missing(&key_path))?;
        let key = KeyPair::from_pem(&key).map_err(failed)?;
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(failed)?;
        let parsed = EndEntityCert::try_from(&certificate).map_err(failed)?;
        if *parsed.subject_public_key_info() != key.subject_public_key_info() {
            return Err(failed(format!("{} is not the key of {}", key_path.display(), path.display())));
        }
        let issuer = Issuer::new(Self::params(trust_domain), key);
        Ok(Self { issuer, certificate, path, trust_domain: trust_domain.clone() })
    }

    /// What the authority's certificate says, and its signatures rest on: the same for a trust domain at every start.
    fn params(trust_domain: &TrustDomain) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("Keywitness manager of {trust_domain}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    }

    /// The key is on disk before the certificate, which says that all is there.
    fn make(directory: &Path, trust_domain: &TrustDomain, now: Timestamp) -> Result<(), StartError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = Self::params(trust_domain);
        (params.not_before, params.not_after) = validity(now, CA_LIFE);
        let certificate = params.self_signed(&key).map_err(failed)?;
        for (name, content) in [(CA_KEY_FILE, key.serialize_pem()), (CA_FILE, certificate.pem())] {
            files::write_private(directory, name, content.as_bytes())
                .map_err(|error| StartError::File { path: directory.join(name), error })?;
        }
        tracing::info!(path = %directory.join(CA_FILE).display(), "made a certificate authority");
        Ok(())
    }

    /// Where its certificate is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its certificate, DER.
    pub const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    fn server(&self, names: &[String], now: Timestamp) -> Result<CertifiedKey, StartError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = CertificateParams::new(names).map_err(failed)?;
        params.distinguished_name.push(DnType::CommonName, "Keywitness manager");
        params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ServerAuth);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = validity(now, SERVER_LIFE);
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        let chain = vec![certificate.der().clone(), self.certificate.clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        CertifiedKey::from_der(chain, key, &provider()).map_err(failed)
    }

    /// A client certificate of an HSM for the TLS key with this SPKI, P-256, good until [`HSM_LIFE`] from now.
    ///
    /// # Errors
    /// Words for the caller where the key is not a P-256 key.
    pub fn hsm(&self, hsm: &HsmId, spki: &[u8], now: Timestamp) -> Result<CertificateDer<'static>, String> {
        let key = TlsKey::from_spki(spki)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, hsm.as_str());
        let uri = hsm_uri(&self.trust_domain, hsm).try_into().map_err(|error: rcgen::Error| error.to_string())?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ClientAuth);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = validity(now, HSM_LIFE);
        let certificate = params.signed_by(&key, &self.issuer).map_err(|error| error.to_string())?;
        Ok(certificate.der().clone())
    }

    /// How a server at `address` speaks TLS.
    ///
    /// # Errors
    /// [`StartError`] where an operator's files cannot be used.
    pub fn server_config(
        self: &Arc<Self>,
        config: &TlsConfig,
        address: SocketAddr,
        clock: Arc<dyn Clock>,
    ) -> Result<ServerConfig, StartError> {
        let mut roots = RootCertStore::empty();
        match &config.client_ca {
            Some(path) => {
                for certificate in certificates(path)? {
                    roots.add(certificate).map_err(failed)?;
                }
            }
            None => roots.add(self.certificate.clone()).map_err(failed)?,
        }
        let provider = Arc::new(provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let verifier = verifier.allow_unauthenticated().build().map_err(failed)?;
        let identity = ServerIdentity::new(Arc::clone(self), config, address, clock)?;
        let versions = [&rustls::version::TLS13, &rustls::version::TLS12];
        let builder =
            ServerConfig::builder_with_provider(provider).with_protocol_versions(&versions).map_err(failed)?;
        Ok(builder.with_client_cert_verifier(verifier).with_cert_resolver(Arc::new(identity)))
    }
}

/// A P-256 key that the manager has not the secret of: an uncompressed point, SEC1.
struct TlsKey(Vec<u8>);

impl TlsKey {
    fn from_spki(spki: &[u8]) -> Result<Self, String> {
        use p256::{elliptic_curve::sec1::ToEncodedPoint as _, pkcs8::DecodePublicKey as _};
        let key = p256::PublicKey::from_public_key_der(spki);
        let key = key.map_err(|_| "the key is no P-256 key (SPKI, DER)".to_owned())?;
        Ok(Self(key.to_encoded_point(false).as_bytes().to_vec()))
    }
}

impl PublicKeyData for TlsKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

fn provider() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

type Validity = (time::OffsetDateTime, time::OffsetDateTime);

fn validity(now: Timestamp, life: u64) -> Validity {
    let at = |seconds: u64| rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(seconds);
    (at(now.0.saturating_sub(BACKDATE)), at(now.0.saturating_add(life)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, StartError> {
    let file = |error| StartError::File { path: path.to_owned(), error };
    let reader = BufReader::new(File::open(path).map_err(file)?);
    let found = CertificateDer::pem_reader_iter(reader).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| failed(format!("{}: {error}", path.display())))?;
    if found.is_empty() {
        return Err(failed(format!("{} has no certificate in PEM", path.display())));
    }
    Ok(found)
}

/// The server's certificate in force, looked at again as connections arrive.
struct ServerIdentity {
    authority: Arc<Authority>,
    /// An operator's certificate chain and key.
    files: Option<(PathBuf, PathBuf)>,
    names: Vec<String>,
    clock: Arc<dyn Clock>,
    current: Mutex<Current>,
}

struct Current {
    key: Arc<CertifiedKey>,
    looked_at: Timestamp,
    /// When to make the next one of our own.
    renew_at: Timestamp,
    /// When the operator's files were written.
    written: Option<(SystemTime, SystemTime)>,
}

impl ServerIdentity {
    fn new(
        authority: Arc<Authority>,
        config: &TlsConfig,
        address: SocketAddr,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
        names.extend(config.names.iter().cloned());
        names.extend(named(address.ip()));
        names.sort_unstable();
        names.dedup();
        let files = config.certificate.clone().zip(config.key.clone());
        let current = load(&authority, files.as_ref(), &names, clock.now())?;
        Ok(Self { authority, files, names, clock, current: Mutex::new(current) })
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the certificate should be made or read again.
    fn stale(&self, current: &Current, now: Timestamp) -> bool {
        match &self.files {
            // While one of two files is written, they do not match: the old pair stays in use meanwhile.
            Some(files) => now.0.abs_diff(current.looked_at.0) >= LOOK_AGAIN && written(files) != current.written,
            None => now >= current.renew_at,
        }
    }
}

/// The listening address as a name, unless it is every address.
fn named(address: IpAddr) -> Option<String> {
    (!address.is_unspecified()).then(|| address.to_string())
}

fn written(files: &(PathBuf, PathBuf)) -> Option<(SystemTime, SystemTime)> {
    let at = |path: &Path| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    Some((at(&files.0)?, at(&files.1)?))
}

fn load(
    authority: &Authority,
    files: Option<&(PathBuf, PathBuf)>,
    names: &[String],
    now: Timestamp,
) -> Result<Current, StartError> {
    let Some(files) = files else {
        let key = Arc::new(authority.server(names, now)?);
        return Ok(Current { key, looked_at: now, renew_at: now.plus(SERVER_LIFE - SERVER_RENEWAL), written: None });
    };
    let written = written(files);
    check_private(&files.1).map_err(|error| failed(format!("{}: {error}", files.1.display())))?;
    let key =
        PrivateKeyDer::from_pem_file(&files.1).map_err(|error| failed(format!("{}: {error}", files.1.display())))?;
    // Refuses a key that is not the certificate's.
    let key = CertifiedKey::from_der(certificates(&files.0)?, key, &provider()).map_err(failed)?;
    Ok(Current { key: Arc::new(key), looked_at: now, renew_at: now, written })
}

impl ResolvesServerCert for ServerIdentity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let now = self.clock.now();
        let mut current = self.current();
        if self.stale(&current, now) {
            match load(&self.authority, self.files.as_ref(), &self.names, now) {
                Ok(next) => *current = next,
                Err(error) => {
                    tracing::error!(%error, "the server's certificate cannot be renewed; the old one stays in use");
                    current.renew_at = now.plus(LOOK_AGAIN);
                }
            }
            current.looked_at = now;
        }
        Some(Arc::clone(&current.key))
    }
}

impl fmt::Debug for ServerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerIdentity").field("names", &self.names).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use std::{
        os::unix::fs::PermissionsExt,
        sync::atomic::{AtomicU64, Ordering},
    };

    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_000);

    struct At(AtomicU64);

    impl Clock for At {
        fn now(&self) -> Timestamp {
            Timestamp(self.0.load(Ordering::SeqCst))
        }
    }

    fn authority(directory: &Path) -> Arc<Authority> {
        Arc::new(Authority::open(directory, &"acme.example".parse().unwrap(), NOW).unwrap())
    }

    #[test]
    fn the_authority_is_made_once_and_its_key_is_private() {
        let directory = tempfile::tempdir().unwrap();
        let made = authority(directory.path()).certificate().clone();
        assert_eq!(*authority(directory.path()).certificate(), made);
        let key = directory.path().join(CA_KEY_FILE);
        assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        let other = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem();
        std::fs::write(&key, other).unwrap();
        assert!(Authority::open(directory.path(), &"acme.example".parse().unwrap(), NOW).is_err());
    }

    #[test]
    fn a_certificate_names_its_hsm_in_its_own_trust_domain_alone() {
        use p256::pkcs8::EncodePublicKey as _;
        let directory = tempfile::tempdir().unwrap();
        let authority = authority(directory.path());
        let key = p256::SecretKey::random(&mut rand::rngs::OsRng).public_key().to_public_key_der().unwrap();
        let hsm: HsmId = "hsm-1".parse().unwrap();
        let certificate = authority.hsm(&hsm, key.as_bytes(), NOW).unwrap();
        assert_eq!(named_hsm(&certificate, &"acme.example".parse().unwrap()), Some(hsm.clone()));
        assert_eq!(named_hsm(&certificate, &"other.example".parse().unwrap()), None);
        assert_eq!(named_hsm(authority.certificate(), &"acme.example".parse().unwrap()), None);
        assert!(authority.hsm(&hsm, b"noise", NOW).is_err());
    }

    #[test]
    fn the_servers_certificate_is_renewed_long_before_it_ends_and_an_operators_when_its_file_changes() {
        let directory = tempfile::tempdir().unwrap();
        let authority = authority(directory.path());
        let clock = Arc::new(At(AtomicU64::new(NOW.0)));
        let own = TlsConfig { names: vec!["manager.example".to_owned()], ..TlsConfig::default() };
        let address = "192.0.2.1:1".parse().unwrap();
        let identity = ServerIdentity::new(Arc::clone(&authority), &own, address, clock.clone()).unwrap();
        let stale = |seconds: u64| identity.stale(&identity.current(), NOW.plus(seconds));
        assert!(!stale(60 * DAY - 1) && stale(60 * DAY));
        for name in ["manager.example", "192.0.2.1", "localhost"] {
            assert!(identity.names.iter().any(|known| known == name), "{name}");
        }
        let write = |name: &str| {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
            let certificate = CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap();
            std::fs::write(directory.path().join("tls.pem"), certificate.pem()).unwrap();
            files::write_private(directory.path(), "tls-key.pem", key.serialize_pem().as_bytes()).unwrap();
            certificate.der().clone()
        };
        let first = write("one.example");
        let files = (directory.path().join("tls.pem"), directory.path().join("tls-key.pem"));
        let theirs =
            TlsConfig { certificate: Some(files.0.clone()), key: Some(files.1.clone()), ..TlsConfig::default() };
        let identity = ServerIdentity::new(authority, &theirs, address, clock).unwrap();
        assert_eq!(identity.current().key.cert[0], first);
        let later = NOW.plus(LOOK_AGAIN);
        assert!(!identity.stale(&identity.current(), later));
        std::thread::sleep(std::time::Duration::from_millis(20));
        write("two.example");
        assert!(identity.stale(&identity.current(), later) && !identity.stale(&identity.current(), NOW));
        std::fs::write(&files.1, "noise").unwrap();
        assert!(load(&identity.authority, Some(&files), &[], later).is_err());
    }
}
