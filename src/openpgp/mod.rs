//! The only user of the OpenPGP library: the daemon's own keys, messages in, messages out.
//!
//! [`Keyring`] holds the secret keys (one is made at first start and kept under `state_dir/openpgp`); [`Certificate`] is
//! somebody else's public key; [`Message`] decrypts and verifies as it is read; [`EncryptingWriter`] encrypts and signs as
//! it is written to. Nothing is kept in the store. A message that fails says one thing whatever failed inside it: the
//! library's own texts depend on the position of the damage, and an answer that differs helps whoever made it.

mod armor;
mod certificate;
mod dearmor;
mod decrypt;
mod encrypt;
mod framing;
mod judge;
mod keyring;

pub use certificate::{Certificate, CertificateError, Purpose, Unusable};
pub use decrypt::{Message, MessageTerms, Refusal, Verdict, damaged};
pub use encrypt::{EncryptError, EncryptingWriter};
pub use keyring::{Keyring, KeyringError, generate_key_file};

use std::time::SystemTime;

use chrono::{DateTime, TimeDelta, Utc};
use sequoia_openpgp::policy::StandardPolicy;

/// What is considered secure: the library's judgement, dated by the library.
static POLICY: StandardPolicy<'static> = StandardPolicy::new();

/// How far other parties' clocks may be ahead of ours.
const CLOCK_SKEW: TimeDelta = TimeDelta::minutes(30);

/// Largest key or certificate file that is read.
const KEY_FILE_BYTES: u64 = 4 << 20;

fn system_time(at: DateTime<Utc>) -> SystemTime {
    at.into()
}

/// A whole key or certificate file, up to [`KEY_FILE_BYTES`].
fn read_key_file(path: &std::path::Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut file = std::io::Read::take(std::fs::File::open(path)?, KEY_FILE_BYTES + 1);
    std::io::copy(&mut file, &mut bytes)?;
    if bytes.len() as u64 > KEY_FILE_BYTES {
        return Err(std::io::Error::other(format!("larger than {KEY_FILE_BYTES} bytes, which no key is")));
    }
    Ok(bytes)
}
