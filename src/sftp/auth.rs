//! Who may log in. Decided on the name of the request at hand and on the settings in force at that moment, and only by
//! what has been proven: a signature that verified, or a password. Nothing is remembered from one request to the next.

use std::net::IpAddr;
use std::sync::Arc;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use russh::keys::{Algorithm, PublicKey};
use tokio::sync::Semaphore;

use crate::config::{Settings, User};
use crate::spool::Sender;

/// Options of an authorized_keys line that take away what no session has here anyway. With any other option the line is
/// refused: to ignore `from=` or `cert-authority` would let in whom the admin meant to keep out.
const HARMLESS: [&str; 8] = [
    "restrict",
    "no-pty",
    "no-agent-forwarding",
    "no-port-forwarding",
    "no-X11-forwarding",
    "no-x11-forwarding",
    "no-user-rc",
    "no-touch-required",
];

/// The key of one configured line, or why the line does not count.
fn configured_key(line: &str) -> Result<PublicKey, String> {
    let line = line.trim();
    let key_first = ["ssh-", "ecdsa-", "sk-"].iter().any(|kind| line.starts_with(kind));
    let (options, key) = if key_first { ("", line) } else { split_options(line) };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        if !HARMLESS.contains(&option) {
            let name = option.split('=').next().unwrap_or_default();
            return Err(format!("option `{name}` is not supported: use allow_from, or leave it out"));
        }
    }
    key.parse().map_err(|error| format!("not an OpenSSH public key: {error}"))
}

/// Options end at the first blank that no quotes hold.
fn split_options(line: &str) -> (&str, &str) {
    let mut quoted = false;
    let end = line.find(|letter: char| {
        quoted ^= letter == '"';
        letter == ' ' && !quoted
    });
    end.and_then(|end| line.split_at_checked(end)).map_or((line, ""), |(options, key)| (options, key.trim_start()))
}

/// Whether `algorithm` and the size of `key` are good enough today: no SHA-1, no RSA under 2048 bits, no DSA.
fn strong(key: &PublicKey, algorithm: &Algorithm) -> bool {
    match algorithm {
        Algorithm::Ed25519 | Algorithm::Ecdsa { .. } => true,
        Algorithm::Rsa { hash: Some(_) } => key.key_data().rsa().is_some_and(|rsa| rsa.key_size() >= 2048),
        _ => false,
    }
}

/// The user called `name` as one that `source` may log in as.
fn user<'a>(settings: &'a Settings, name: &str, source: IpAddr) -> Option<(Sender, &'a User)> {
    let (namespace, user) = settings.user(name)?;
    let source = source.to_canonical();
    let allowed = user.allow_from.is_empty() || user.allow_from.iter().any(|network| network.contains(&source));
    allowed.then(|| (Sender { namespace: namespace.name.clone(), user: name.to_owned() }, user))
}

/// The user that `key` lets in. The caller has seen (or will ask for) the proof of it.
pub(super) fn by_key(
    settings: &Settings,
    name: &str,
    source: IpAddr,
    (key, algorithm): (&PublicKey, &Algorithm),
) -> Option<Sender> {
    if !strong(key, algorithm) {
        return None;
    }
    let (sender, user) = user(settings, name, source)?;
    let listed = user.public_keys.iter().any(|line| match configured_key(line) {
        Ok(configured) => configured.key_data() == key.key_data(),
        Err(reason) => {
            tracing::warn!(user = name, reason, "a public key of this user does not count");
            false
        }
    });
    listed.then_some(sender)
}

/// Verifies passwords: a few at a time, since each takes the memory and time that make guessing dear.
pub(super) struct Passwords {
    turns: Arc<Semaphore>,
    /// What an unknown user's password is checked against, so that it takes as long as a known one's.
    decoy: String,
}

impl Passwords {
    pub(super) fn new() -> Self {
        let decoy = Argon2::default()
            .hash_password(&rand::random::<[u8; 16]>())
            .map(|hash| hash.to_string())
            .unwrap_or_default();
        Self { turns: Arc::new(Semaphore::new(2)), decoy }
    }

    /// The user that `password` lets in.
    pub(super) async fn check(
        &self,
        settings: &Settings,
        name: &str,
        source: IpAddr,
        password: &str,
    ) -> Option<Sender> {
        let found = user(settings, name, source).and_then(|(sender, user)| Some((sender, user.password_hash.clone()?)));
        let (sender, hash) = match found {
            Some((sender, hash)) => (Some(sender), hash),
            None => (None, self.decoy.clone()),
        };
        let _turn = self.turns.acquire().await.ok()?;
        let password = password.to_owned();
        let right = tokio::task::spawn_blocking(move || verify(&hash, &password)).await.unwrap_or(false);
        sender.filter(|_| right)
    }
}

fn verify(hash: &str, password: &str) -> bool {
    match PasswordHash::new(hash) {
        Ok(hash) => Argon2::default().verify_password(password.as_bytes(), &hash).is_ok(),
        Err(error) => {
            tracing::error!(%error, "a configured password_hash cannot be read");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    #[test]
    fn options_are_tolerated_or_refused_by_name() {
        assert!(configured_key(KEY).is_ok());
        assert!(configured_key(&format!("{KEY} feed@example")).is_ok());
        assert!(configured_key(&format!("restrict,no-pty {KEY} feed")).is_ok());
        let refused = configured_key(&format!("from=\"192.0.2.1\" {KEY}")).unwrap_err();
        assert!(refused.contains("`from`"), "{refused}");
        let refused = configured_key(&format!("no-pty,command=\"a b,c\" {KEY}")).unwrap_err();
        assert!(refused.contains("`command`"), "{refused}");
        assert!(configured_key(&format!("cert-authority {KEY}")).is_err());
        assert!(configured_key("ssh-ed25519 nonsense").is_err());
        assert!(configured_key("").is_err());
    }

    #[test]
    fn weak_algorithms_are_refused() {
        let key = configured_key(KEY).unwrap();
        assert!(strong(&key, &Algorithm::Ed25519));
        assert!(!strong(&key, &Algorithm::Rsa { hash: None }));
        assert!(!strong(&key, &Algorithm::Dsa));
    }

    #[test]
    fn passwords() {
        let hash = Argon2::default().hash_password(b"correct").unwrap().to_string();
        assert!(verify(&hash, "correct"));
        assert!(!verify(&hash, "wrong"));
        assert!(!verify("nonsense", "wrong"));
    }
}
