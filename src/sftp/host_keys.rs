//! The host keys. Without any in the settings, an Ed25519 key is made at the first start and kept under
//! `state_dir/ssh`, readable by the daemon alone. It is written beside its place, synced and renamed, so that a crash
//! leaves a whole key or none.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use russh::keys::ssh_key::{self, LineEnding};
use russh::keys::{Algorithm, PrivateKey};

/// The keys that this server proves itself with.
#[derive(Clone)]
pub struct HostKeys(pub(super) Vec<PrivateKey>);

impl std::fmt::Debug for HostKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.fingerprints()).finish()
    }
}

impl HostKeys {
    /// `SHA256:...` of each key, as `ssh-keygen -l` prints it.
    #[must_use]
    pub fn fingerprints(&self) -> Vec<String> {
        self.0.iter().map(|key| key.fingerprint(ssh_key::HashAlg::Sha256).to_string()).collect()
    }

    /// The public part of each key, one line as in a `.pub` file.
    #[must_use]
    pub fn public_lines(&self) -> Vec<String> {
        self.0.iter().filter_map(|key| key.public_key().to_openssh().ok()).collect()
    }
}

/// A host key cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum HostKeyError {
    /// The file.
    #[error("read or write host key `{}`", path.display())]
    File {
        /// Where.
        path: PathBuf,
        #[source]
        /// Why.
        source: io::Error,
    },
    /// The content.
    #[error("read host key `{}`: it must be an unencrypted OpenSSH private key, Ed25519 or ECDSA", path.display())]
    Content {
        /// Where.
        path: PathBuf,
        #[source]
        /// Why.
        source: Option<ssh_key::Error>,
    },
}

/// Loads `paths`; with none, the key under `state_dir/ssh`, made where it is missing.
///
/// # Errors
/// [`HostKeyError`] with the path.
pub fn load_or_create(paths: &[PathBuf], state_dir: &Path) -> Result<HostKeys, HostKeyError> {
    if !paths.is_empty() {
        return Ok(HostKeys(paths.iter().map(|path| load(path)).collect::<Result<_, _>>()?));
    }
    let path = state_dir.join("ssh/host_ed25519");
    if !path.exists() {
        let key = PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519)
            .map_err(|source| HostKeyError::Content { path: path.clone(), source: Some(source) })?;
        create(&path, &key)?;
        tracing::info!(fingerprint = %key.fingerprint(ssh_key::HashAlg::Sha256), "made a host key");
    }
    Ok(HostKeys(vec![load(&path)?]))
}

/// Loads `paths`, or the key under `state_dir/ssh` if there is one already. Makes none.
///
/// # Errors
/// [`HostKeyError`] with the path.
pub fn load_existing(paths: &[PathBuf], state_dir: &Path) -> Result<Option<HostKeys>, HostKeyError> {
    let made = state_dir.join("ssh/host_ed25519");
    if paths.is_empty() && !made.exists() { Ok(None) } else { load_or_create(paths, state_dir).map(Some) }
}

fn load(path: &Path) -> Result<PrivateKey, HostKeyError> {
    let file_error = |source| HostKeyError::File { path: path.to_owned(), source };
    let mut text = Vec::new();
    // A private key has a few hundred bytes; a whole disk named by mistake is not read.
    let mut limited = File::open(path).map_err(file_error)?.take(64 << 10);
    io::copy(&mut limited, &mut text).map_err(file_error)?;
    let key = PrivateKey::from_openssh(&text)
        .map_err(|source| HostKeyError::Content { path: path.to_owned(), source: Some(source) })?;
    // RSA host keys would have to sign with a library that is not constant-time.
    if key.is_encrypted() || !matches!(key.algorithm(), Algorithm::Ed25519 | Algorithm::Ecdsa { .. }) {
        return Err(HostKeyError::Content { path: path.to_owned(), source: None });
    }
    Ok(key)
}

fn create(path: &Path, key: &PrivateKey) -> Result<(), HostKeyError> {
    let text = key
        .to_openssh(LineEnding::LF)
        .map_err(|source| HostKeyError::Content { path: path.to_owned(), source: Some(source) })?;
    let write = || -> io::Result<()> {
        let directory = path.parent().unwrap_or(Path::new("/"));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let beside = path.with_extension("new");
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        File::open(directory)?.sync_all()
    };
    write().map_err(|source| HostKeyError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_made_once_and_kept() {
        use std::os::unix::fs::MetadataExt as _;
        let state = tempfile::tempdir().unwrap();
        let first = load_or_create(&[], state.path()).unwrap();
        let again = load_or_create(&[], state.path()).unwrap();
        assert_eq!(first.fingerprints(), again.fingerprints());
        let path = state.path().join("ssh/host_ed25519");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(load_or_create(&[path], state.path()).unwrap().fingerprints(), first.fingerprints());
    }

    #[test]
    fn a_bad_key_names_its_file() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join("nonsense");
        std::fs::write(&path, "nonsense").unwrap();
        let error = load_or_create(std::slice::from_ref(&path), state.path()).unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        assert!(load_or_create(&[state.path().join("missing")], state.path()).is_err());
    }
}
