//! The certificate that we make ourselves: an authority that clients can be told to trust, kept for as long as it is valid,
//! and a server certificate signed by it, renewed well before it ends.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::ServerCertVerifier as _;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::sign::CertifiedKey;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Trusting an authority is work for its users, so ours is made once.
const AUTHORITY_LIFE: Duration = DAY.saturating_mul(3650);

/// Apple's systems take no server certificate that lives for more than 825 days, browsers none for more than 398.
const SERVER_LIFE: Duration = DAY.saturating_mul(365);

/// A certificate is renewed when it has less left than this.
const RENEWAL: Duration = DAY.saturating_mul(30);

/// Clocks of clients may be this late.
const SKEW: Duration = Duration::from_secs(60 * 60);

/// What every certificate of ours is valid for.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// A certificate that cannot be used, or made.
#[derive(Debug, thiserror::Error)]
#[error("`{}`: {why}", path.display())]
pub struct CertificateError {
    path: PathBuf,
    why: String,
}

impl CertificateError {
    fn new(path: &Path, why: &dyn ToString) -> Self {
        Self { path: path.to_owned(), why: why.to_string() }
    }
}

/// A certificate and its key, as PEM files.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Pair {
    fn named(directory: &Path, name: &str) -> Self {
        let certificate = directory.join(format!("{name}.crt"));
        Self { certificate, key: directory.join(format!("{name}.key")) }
    }

    /// Read both, and check that they belong together.
    pub(crate) fn load(&self) -> Result<CertifiedKey, CertificateError> {
        let chain = CertificateDer::pem_file_iter(&self.certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| CertificateError::new(&self.certificate, &in_words(&error)))?;
        if chain.is_empty() {
            return Err(CertificateError::new(&self.certificate, &"there is no certificate in it"));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|error| CertificateError::new(&self.key, &in_words(&error)))?;
        CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| {
            let certificate = self.certificate.display();
            CertificateError::new(&self.key, &format!("it does not fit `{certificate}`: {error}"))
        })
    }

    /// Write both, the key first: who sees a new certificate finds its key.
    fn write(&self, certificate: &str, key: &str) -> Result<(), CertificateError> {
        write(&self.key, key)?;
        write(&self.certificate, certificate)
    }
}

fn in_words(error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound => {
            "there is nothing of the kind in it (PEM is expected)".to_owned()
        }
        error => error.to_string(),
    }
}

/// The server certificate of `directory`, made or renewed if it has to be. Valid for `names` and the loopback interface.
pub(crate) fn ensure(
    directory: &Path,
    names: &[String],
    now: SystemTime,
) -> Result<Pair, CertificateError> {
    let server = Pair::named(directory, "server");
    let authority = Pair::named(directory, "ca");
    let names = distinct(names);
    if serves(&server, &authority, &names, now + RENEWAL) {
        return Ok(server);
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|error| CertificateError::new(directory, &error))?;
    let ends = match expiry(&authority.certificate)? {
        Some(ends) if ends > now + RENEWAL => ends,
        _ => make_authority(&authority, now)?,
    };
    make_server(&server, &authority, names, (now, ends.min(now + SERVER_LIFE)))?;
    Ok(server)
}

/// The names as clients write them, without those that no client can use.
fn distinct(names: &[String]) -> Vec<String> {
    let mut distinct: Vec<String> = LOOPBACK.map(str::to_owned).to_vec();
    for name in names {
        let unspecified = name.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified());
        let usable = !unspecified && ServerName::try_from(name.as_str()).is_ok();
        if usable && !distinct.contains(name) {
            distinct.push(name.clone());
        }
    }
    distinct
}

/// Whether clients that trust the authority would be served under all these names, then.
fn serves(server: &Pair, authority: &Pair, names: &[String], then: SystemTime) -> bool {
    let Ok(loaded) = server.load() else { return false };
    let Ok(root) = CertificateDer::from_pem_file(&authority.certificate) else { return false };
    let mut roots = RootCertStore::empty();
    let verifier = roots.add(root).ok().and_then(|()| {
        let provider = Arc::new(ring::default_provider());
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().ok()
    });
    let (Some(verifier), Ok(certificate)) = (verifier, loaded.end_entity_cert()) else {
        return false;
    };
    let then = UnixTime::since_unix_epoch(then.duration_since(UNIX_EPOCH).unwrap_or_default());
    names.iter().all(|name| {
        ServerName::try_from(name.as_str()).is_ok_and(|name| {
            verifier.verify_server_cert(certificate, &[], &name, &[], then).is_ok()
        })
    })
}

/// When a certificate ends; `None` if there is none.
fn expiry(path: &Path) -> Result<Option<SystemTime>, CertificateError> {
    let certificate = match CertificateDer::from_pem_file(path) {
        Ok(certificate) => certificate,
        Err(pem::Error::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(remove_to_renew(path, &in_words(&error))),
    };
    let (_, parsed) = x509_parser::parse_x509_certificate(&certificate)
        .map_err(|error| remove_to_renew(path, &error))?;
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or_default();
    Ok(Some(UNIX_EPOCH + Duration::from_secs(seconds)))
}

/// Clients trust what is there, so it is not replaced unasked.
fn remove_to_renew(path: &Path, why: &dyn ToString) -> CertificateError {
    let hint =
        "remove `ca.crt` and `ca.key` to have new ones made, which clients must be told to trust";
    CertificateError::new(path, &format!("{} ({hint})", why.to_string()))
}

/// Make the authority; when it ends.
fn make_authority(pair: &Pair, now: SystemTime) -> Result<SystemTime, CertificateError> {
    let ends = now + AUTHORITY_LIFE;
    let failed = |error: rcgen::Error| CertificateError::new(&pair.certificate, &error);
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "model-runner local authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (now - SKEW).into();
    params.not_after = ends.into();
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    pair.write(&certificate.pem(), &key.serialize_pem())?;
    Ok(ends)
}

fn make_server(
    pair: &Pair,
    authority: &Pair,
    names: Vec<String>,
    (begins, ends): (SystemTime, SystemTime),
) -> Result<(), CertificateError> {
    let read =
        |path: &Path| fs::read_to_string(path).map_err(|error| remove_to_renew(path, &error));
    let (certificate, key) = (read(&authority.certificate)?, read(&authority.key)?);
    let issuer = KeyPair::from_pem(&key)
        .and_then(|key| Issuer::from_ca_cert_pem(&certificate, key))
        .map_err(|error| remove_to_renew(&authority.key, &error))?;
    let failed = |error: rcgen::Error| CertificateError::new(&pair.certificate, &error);
    let mut params = CertificateParams::new(names).map_err(failed)?;
    params.distinguished_name.push(DnType::CommonName, "model-runner");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = (begins - SKEW).into();
    params.not_after = ends.into();
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.signed_by(&key, &issuer).map_err(failed)?;
    pair.write(&certificate.pem(), &key.serialize_pem())
}

/// Put a file in place as a whole, readable by its owner only from the first moment.
fn write(path: &Path, contents: &str) -> Result<(), CertificateError> {
    let fresh = path.with_extension(format!("new-{}", std::process::id()));
    let written = || -> io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(contents.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    };
    written().map_err(|error| CertificateError::new(path, &error))
}

#[cfg(test)]
mod tests;
