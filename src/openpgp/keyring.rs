//! The daemon's own secret keys.
//!
//! Keeps `state_dir/openpgp/coupond.key` (mode 0600) when the configuration names no key files: made at first start,
//! never changed. A key that cannot be read stops the start: a daemon that silently made a second key would refuse every
//! file encrypted to the first.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use chrono::{DateTime, TimeDelta, Utc};
use sequoia_openpgp::cert::{CertBuilder, CertParser, CipherSuite};
use sequoia_openpgp::crypto::KeyPair;
use sequoia_openpgp::parse::Parse;
use sequoia_openpgp::serialize::SerializeInto;
use sequoia_openpgp::types::{Features, KeyFlags};
use sequoia_openpgp::{Cert, KeyHandle, Profile};

use super::{POLICY, read_key_file, system_time};

/// The secret keys: several while one replaces another.
pub struct Keyring {
    /// Newest first.
    certs: Vec<Cert>,
    decryptors: Vec<Decryptor>,
    warnings: Vec<String>,
}

/// One unlocked decryption key and the certificate it belongs to.
pub(super) struct Decryptor {
    pub(super) handle: KeyHandle,
    pub(super) pair: KeyPair,
    pub(super) cert: Cert,
}

/// Why there is no keyring.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// The disk, reading.
    #[error("read the secret key file `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The disk, writing.
    #[error("keep a new secret key in `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Not a key at all.
    #[error("read `{}`: it is not an OpenPGP secret key; export one with `gpg --export-secret-keys`", path.display())]
    NotASecretKey {
        /// The file.
        path: PathBuf,
    },
    /// The key is locked.
    #[error(
        "use `{}`: the key has a passphrase; remove it (`gpg --edit-key`, `passwd`) and protect the file by its mode",
        path.display()
    )]
    Passphrase {
        /// The file.
        path: PathBuf,
    },
    /// A key that decrypts nothing.
    #[error("use `{}`: it holds no secret key that can decrypt", path.display())]
    CannotDecrypt {
        /// The file.
        path: PathBuf,
    },
    /// The library could not make a key.
    #[error("make a secret key: {why}")]
    Generate {
        /// What the library said.
        why: String,
    },
}

impl Keyring {
    /// The keys in `paths`, or where there are none the daemon's own under `state_dir`, made now if need be.
    ///
    /// # Errors
    ///
    /// When a key cannot be read, made, kept or used as it stands.
    pub fn load_or_create(paths: &[PathBuf], state_dir: &Path, now: DateTime<Utc>) -> Result<Self, KeyringError> {
        if !paths.is_empty() {
            return Self::load(paths);
        }
        let path = state_dir.join("openpgp").join("coupond.key");
        match fs::symlink_metadata(&path) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => create(&path, now)?,
            Err(source) => return Err(KeyringError::Read { path, source }),
        }
        Self::load(&[path])
    }

    /// The keys in `paths`, or where there are none the daemon's own if it has been made. Makes none.
    ///
    /// # Errors
    ///
    /// When a key cannot be read or used as it stands.
    pub fn load_existing(paths: &[PathBuf], state_dir: &Path) -> Result<Option<Self>, KeyringError> {
        let own = state_dir.join("openpgp").join("coupond.key");
        match paths {
            [] if !own.exists() => Ok(None),
            [] => Self::load(&[own]).map(Some),
            paths => Self::load(paths).map(Some),
        }
    }

    fn load(paths: &[PathBuf]) -> Result<Self, KeyringError> {
        let mut keyring = Self { certs: Vec::new(), decryptors: Vec::new(), warnings: Vec::new() };
        for path in paths {
            keyring.add(path)?;
        }
        // Stable: of two keys made in the same second the one named first counts as the newer.
        keyring.certs.sort_by_key(|cert| std::cmp::Reverse(cert.primary_key().key().creation_time()));
        Ok(keyring)
    }

    fn add(&mut self, path: &Path) -> Result<(), KeyringError> {
        let bytes = read_key_file(path).map_err(|source| KeyringError::Read { path: path.to_owned(), source })?;
        let certs: Vec<Cert> = CertParser::from_bytes(&bytes)
            .and_then(Iterator::collect)
            .map_err(|_| KeyringError::NotASecretKey { path: path.to_owned() })?;
        if certs.is_empty() || !certs.iter().all(Cert::is_tsk) {
            return Err(KeyringError::NotASecretKey { path: path.to_owned() });
        }
        let mode = fs::metadata(path).map(|metadata| metadata.permissions().mode());
        if mode.is_ok_and(|mode| mode & 0o077 != 0) {
            let path = path.display();
            self.warnings.push(format!("the secret key file `{path}` is open to others; `chmod 600` it"));
        }
        for cert in certs {
            self.add_cert(cert, path)?;
        }
        Ok(())
    }

    /// Takes decryption keys without asking any policy: a key with signatures from the days of SHA-1 still has to open
    /// the files that are encrypted to it.
    fn add_cert(&mut self, cert: Cert, path: &Path) -> Result<(), KeyringError> {
        let before = self.decryptors.len();
        for key in cert.keys().unencrypted_secret() {
            let key = key.key().clone();
            if key.pk_algo().for_encryption() && key.pk_algo().is_supported() {
                let handle = key.key_handle();
                let pair = key.into_keypair().map_err(|_| KeyringError::CannotDecrypt { path: path.to_owned() })?;
                self.decryptors.push(Decryptor { handle, pair, cert: cert.clone().strip_secret_key_material() });
            }
        }
        if self.decryptors.len() == before {
            let locked = cert.keys().secret().any(|key| key.key().has_secret() && !key.key().has_unencrypted_secret());
            return Err(match locked {
                true => KeyringError::Passphrase { path: path.to_owned() },
                false => KeyringError::CannotDecrypt { path: path.to_owned() },
            });
        }
        if advertises_tag_20(&cert) {
            self.warnings.push(format!(
                "the OpenPGP key {} invites GnuPG 2.3 and later to a form of encryption that only GnuPG reads; in \
                 `gpg --edit-key` give `setpref AES256 AES192 AES SHA512 SHA256 ZLIB BZIP2 ZIP mdc no-aead`, and \
                 publish the certificate again",
                cert.fingerprint().to_hex(),
            ));
        }
        self.certs.push(cert);
        Ok(())
    }

    /// The newest key's public part, armored: what clients encrypt to.
    ///
    /// # Errors
    ///
    /// When the library cannot write it, which would be a fault in it.
    pub fn certificate(&self) -> Result<Vec<u8>, io::Error> {
        let newest = self.certs.first().ok_or_else(|| io::Error::other("the keyring is empty"))?;
        newest.clone().strip_secret_key_material().armored().to_vec().map_err(io::Error::other)
    }

    /// Fingerprints, newest key first, in upper-case hexadecimal.
    #[must_use]
    pub fn fingerprints(&self) -> Vec<String> {
        self.certs.iter().map(|cert| cert.fingerprint().to_hex()).collect()
    }

    /// What an admin should know about the keys, one text each, complete sentences.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    pub(super) fn decryptors(&self) -> &[Decryptor] {
        &self.decryptors
    }

    /// The newest key that can sign at `now`.
    pub(super) fn signer(&self, now: DateTime<Utc>) -> Option<KeyPair> {
        self.certs.iter().find_map(|cert| {
            let valid = cert.with_policy(&POLICY, system_time(now)).ok()?;
            let mut keys = valid.keys().supported().alive().revoked(false).for_signing().unencrypted_secret();
            keys.next()?.key().clone().into_keypair().ok()
        })
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("fingerprints", &self.fingerprints()).finish_non_exhaustive()
    }
}

/// GnuPG's own AEAD packet, which nobody else reads, is bit 0x02 of the features.
fn advertises_tag_20(cert: &Cert) -> bool {
    let of_users = cert.userids().flat_map(|user| user.self_signatures().collect::<Vec<_>>());
    let of_key = cert.primary_key().self_signatures();
    of_key.chain(of_users).any(|signature| signature.features().is_some_and(|features| features.get(1)))
}

/// Makes a new secret key in a new file, as the daemon makes its own; the fingerprint.
///
/// # Errors
///
/// When the file exists or cannot be written.
pub fn generate_key_file(path: &Path, now: DateTime<Utc>) -> Result<String, KeyringError> {
    if fs::symlink_metadata(path).is_ok() {
        let source =
            io::Error::new(io::ErrorKind::AlreadyExists, "there is a file already; a key is never overwritten");
        return Err(KeyringError::Write { path: path.to_owned(), source });
    }
    create(path, now)?;
    Ok(Keyring::load(&[path.to_owned()])?.fingerprints().into_iter().next().unwrap_or_default())
}

/// Makes a key that every GnuPG since 2.1 can encrypt to, and keeps it at `path`.
///
/// Version 4, Curve25519, announcing only the integrity protection that all of them write (SEIPD version 1). It never
/// expires: clients have pinned it by hand, and an expiry would stop their uploads one night; it is replaced by adding a
/// second key. Dated a day back, because GnuPG refuses keys from the future and clients' clocks differ.
fn create(path: &Path, now: DateTime<Utc>) -> Result<(), KeyringError> {
    let armored = generate(now).map_err(|error| KeyringError::Generate { why: format!("{error:#}") })?;
    keep(path, &armored).map_err(|source| KeyringError::Write { path: path.to_owned(), source })
}

fn generate(now: DateTime<Utc>) -> sequoia_openpgp::Result<Vec<u8>> {
    let (cert, _revocation) = CertBuilder::new()
        .set_profile(Profile::RFC4880)?
        .set_cipher_suite(CipherSuite::Cv25519)
        .set_features(Features::empty().set_seipdv1())?
        .set_creation_time(system_time(now - TimeDelta::days(1)))
        .set_validity_period(None)
        .set_primary_key_flags(KeyFlags::empty().set_certification())
        .add_userid("coupond")
        .add_signing_subkey()
        .add_subkey(KeyFlags::empty().set_transport_encryption().set_storage_encryption(), None, None)
        .generate()?;
    cert.as_tsk().armored().to_vec()
}

/// Written aside, synced, renamed, directory synced: a key that clients have seen must survive a power cut.
fn keep(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().ok_or_else(|| io::Error::other("no directory"))?;
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let aside = path.with_extension("key.tmp");
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    File::open(directory)?.sync_all()?;
    match directory.parent() {
        Some(above) => File::open(above)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use sequoia_openpgp::cert::Preferences;

    use super::*;

    #[track_caller]
    fn check(features: Features, expected: bool) {
        let builder = CertBuilder::general_purpose(["shop"]).set_profile(Profile::RFC4880).unwrap();
        let (cert, _) = builder.set_features(features).unwrap().generate().unwrap();
        assert_eq!(advertises_tag_20(&cert), expected);
    }

    #[test]
    fn keys_that_invite_a_form_only_gnupg_reads() {
        check(Features::empty().set_seipdv1(), false);
        check(Features::empty().set_seipdv1().set_seipdv2(), false);
        check(Features::empty().set_seipdv1().set(1), true);
    }

    #[test]
    fn a_key_made_here_never_expires_and_invites_only_what_all_read() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let cert = CertParser::from_bytes(&generate(now).unwrap()).unwrap().next().unwrap().unwrap();
        let valid = cert.with_policy(&POLICY, system_time(now)).unwrap();
        assert_eq!(valid.primary_key().key_expiration_time(), None);
        assert!(valid.keys().all(|key| key.key_expiration_time().is_none() && key.key().version() == 4));
        let features = valid.features().unwrap();
        assert!(features.supports_seipdv1() && !features.supports_seipdv2() && !features.get(1));
        assert_eq!(valid.keys().for_signing().count(), 1);
        assert_eq!(valid.keys().for_transport_encryption().count(), 1);
    }
}
