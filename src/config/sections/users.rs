//! `[users.<name>]`: SFTP users of a namespace.

use argon2::password_hash::phc::PasswordHash;
use serde::Deserialize;

use crate::config::judge::Judge;
use crate::config::{Role, User, openssh, values};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a section")]
pub(in crate::config) struct Raw {
    role: Option<String>,
    public_keys: Vec<String>,
    password_hash: Option<String>,
    allow_from: Vec<String>,
}

const ROLES: [(&str, Role); 3] = [("client", Role::Client), ("campaigns", Role::Campaigns), ("all", Role::All)];
const LONGEST_NAME: usize = 64;

pub(in crate::config) fn judge(name: &str, raw: &Raw, judge: &mut Judge<'_>) -> Option<(String, User)> {
    let at = |key| ["users", name, key];
    let named = (1..=LONGEST_NAME).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte));
    if !named {
        judge.refuse_key(
            &["users", name],
            format!(
                "\"{}\" cannot be a user's name; use 1 to {LONGEST_NAME} of A-Z a-z 0-9 . _ @ -",
                values::short(name)
            ),
        );
    }
    let role = match raw.role.as_deref() {
        Some(role) => judge.choice(&at("role"), Some(role), &ROLES, Role::Client),
        None => {
            judge.refuse_key(&["users", name], "`role` is missing; use \"client\", \"campaigns\" or \"all\"");
            None
        }
    };
    if raw.public_keys.is_empty() && raw.password_hash.is_none() {
        judge.refuse_key(
            &["users", name],
            format!("user `{name}` cannot log in; give `public_keys` or `password_hash`"),
        );
        return None;
    }
    let mut sound = named;
    for (index, line) in raw.public_keys.iter().enumerate() {
        if let Err(message) = openssh::public_key(line) {
            judge.refuse_item(&at("public_keys"), index, message);
            sound = false;
        }
    }
    if let Some(hash) = &raw.password_hash {
        sound &= judge.accept(&at("password_hash"), check_hash(hash)).is_some();
    }
    let mut allow_from = Vec::new();
    for (index, text) in raw.allow_from.iter().enumerate() {
        match values::network(text) {
            Ok(network) => allow_from.push(network),
            Err(message) => {
                judge.refuse_item(&at("allow_from"), index, message);
                sound = false;
            }
        }
    }
    let user = User {
        role: role?,
        public_keys: raw.public_keys.clone(),
        password_hash: raw.password_hash.clone(),
        allow_from,
    };
    sound.then(|| (name.to_owned(), user))
}

/// The hash is not repeated in the message: what stands there instead may be the password itself.
fn check_hash(hash: &str) -> Result<(), String> {
    let advice = "make one with `argon2` or another tool that writes \"$argon2id$v=19$m=...\"";
    let parsed =
        PasswordHash::new(hash).map_err(|_| format!("`password_hash` is not an Argon2 hash in PHC form; {advice}"))?;
    let algorithm = parsed.algorithm.as_str();
    if !matches!(algorithm, "argon2id" | "argon2i" | "argon2d") {
        return Err(format!("`password_hash` is a hash of `{algorithm}`, not of Argon2; {advice}"));
    }
    if parsed.salt.is_none() || parsed.hash.is_none() {
        return Err(format!("`password_hash` has no salt or is cut short; {advice}"));
    }
    argon2::Params::try_from(&parsed)
        .map(|_| ())
        .map_err(|error| format!("`password_hash` has bad parameters: {error}; {advice}"))
}
