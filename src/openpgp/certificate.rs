//! Other parties' certificates: those we encrypt to, those whose signatures count.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use sequoia_openpgp::Cert;
use sequoia_openpgp::cert::amalgamation::key::ValidErasedKeyAmalgamation;
use sequoia_openpgp::cert::{CertParser, ValidCert};
use sequoia_openpgp::packet::key::PublicParts;
use sequoia_openpgp::parse::Parse;
use sequoia_openpgp::types::RevocationStatus;

use super::{CLOCK_SKEW, POLICY, read_key_file, system_time};

/// A public key with its names and subkeys.
#[derive(Clone, Debug)]
pub struct Certificate(pub(super) Cert);

/// What a certificate is to be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Encrypting to it.
    Encrypt,
    /// Counting its signatures.
    Sign,
}

/// Why a certificate file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The disk.
    #[error("read the certificate file `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The content.
    #[error("read `{}`: it is not an OpenPGP certificate; export one with `gpg --export --armor`", path.display())]
    NotACertificate {
        /// The file.
        path: PathBuf,
    },
}

/// Why a certificate cannot be used for a purpose now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("use certificate {fingerprint}: {why}")]
pub struct Unusable {
    /// Which certificate.
    pub fingerprint: String,
    /// Why, and what to do.
    pub why: String,
}

impl Certificate {
    /// Every certificate in the file at `path`, armored or binary. Secret parts are dropped. Nothing is said about
    /// whether they can be used: that changes with time, see [`Certificate::usable`].
    ///
    /// # Errors
    ///
    /// When the file cannot be read or holds anything but certificates.
    pub fn load(path: &Path) -> Result<Vec<Self>, CertificateError> {
        let bytes = read_key_file(path).map_err(|source| CertificateError::Read { path: path.to_owned(), source })?;
        let parsed: Result<Vec<_>, _> = CertParser::from_bytes(&bytes).and_then(Iterator::collect);
        match parsed {
            Ok(certs) if !certs.is_empty() => {
                Ok(certs.into_iter().map(|cert| Self(cert.strip_secret_key_material())).collect())
            }
            _ => Err(CertificateError::NotACertificate { path: path.to_owned() }),
        }
    }

    /// The fingerprint, in upper-case hexadecimal.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.0.fingerprint().to_hex()
    }

    /// When it expires; `None`: never, or it is not valid at `now` at all.
    #[must_use]
    pub fn expires(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let valid = self.0.with_policy(&POLICY, system_time(now)).ok()?;
        valid.primary_key().key_expiration_time().map(DateTime::<Utc>::from)
    }

    /// Whether it can be used for `purpose` at `now`.
    ///
    /// # Errors
    ///
    /// Why it cannot, with what to do.
    pub fn usable(&self, purpose: Purpose, now: DateTime<Utc>) -> Result<(), Unusable> {
        self.keys(purpose, now).map(drop)
    }

    /// The keys for `purpose` that are alive at `now`; never empty.
    pub(super) fn keys(
        &self,
        purpose: Purpose,
        now: DateTime<Utc>,
    ) -> Result<Vec<ValidErasedKeyAmalgamation<'_, PublicParts>>, Unusable> {
        let unusable = |why: String| Unusable { fingerprint: self.fingerprint(), why };
        let valid = self.valid(now).map_err(unusable)?;
        let keys = valid.keys().supported().alive().revoked(false);
        let keys: Vec<_> = match purpose {
            Purpose::Encrypt => keys.for_transport_encryption().for_storage_encryption().collect(),
            Purpose::Sign => keys.for_signing().collect(),
        };
        if keys.is_empty() {
            return Err(unusable(format!(
                "it has no key {purpose} that is valid now; ask its owner for a current one"
            )));
        }
        Ok(keys)
    }

    /// The certificate as it stands at `now`, if it is alive; otherwise why not.
    fn valid(&self, now: DateTime<Utc>) -> Result<ValidCert<'_>, String> {
        let at = |at: DateTime<Utc>| self.0.with_policy(&POLICY, system_time(at));
        // A certificate made or renewed this minute, by a clock ahead of ours, must not fail.
        let valid = at(now).or_else(|error| at(now + CLOCK_SKEW).map_err(|_| error)).map_err(|error| {
            format!("it does not hold by today's rules ({error:#}); ask its owner for a current one, or to renew it")
        })?;
        if matches!(valid.revocation_status(), RevocationStatus::Revoked(_)) {
            return Err("it is revoked; ask its owner for the new one".to_owned());
        }
        if valid.alive().is_err() {
            let expired = valid.primary_key().key_expiration_time().map(DateTime::<Utc>::from);
            return Err(match expired {
                Some(at) if at <= now => {
                    format!("it expired on {}; ask its owner for the renewed one", at.format("%Y-%m-%d"))
                }
                _ => "it is not valid yet; check the clock".to_owned(),
            });
        }
        Ok(valid)
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Encrypt => "to encrypt to",
            Self::Sign => "for signatures",
        })
    }
}
