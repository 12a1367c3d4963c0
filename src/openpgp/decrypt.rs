//! A message is decrypted and verified as it is read.
//!
//! Bytes come out before the message has verified (all but the last buffer of a long one): only the end, `Ok(0)`, says
//! that it did. Whatever the library says in between, the answer is one: damaged or modified. Own texts are given only
//! for what stands outside the encryption, or inside a message that verified.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use sequoia_openpgp::Fingerprint;
use sequoia_openpgp::parse::Parse;
use sequoia_openpgp::parse::stream::{Decryptor, DecryptorBuilder};

use super::armor::ArmoredSource;
use super::dearmor::Dearmor;
use super::framing::Framing;
use super::judge::Judge;
use super::{CLOCK_SKEW, Certificate, Keyring, POLICY, system_time};
use crate::reason::{Finding, Reason};

/// What the library holds back until it has verified the end. Never read a larger slice than this.
const BUFFER_BYTES: usize = 256 * 1024;

/// What a message must be.
#[derive(Clone, Debug)]
pub struct MessageTerms {
    /// The daemon's keys.
    pub keyring: Arc<Keyring>,
    /// Certificates whose signatures count.
    pub signers: Arc<[Certificate]>,
    /// Whether one of them must have signed.
    pub signature_required: bool,
    /// The instant at which signers are judged.
    pub now: DateTime<Utc>,
    /// Layers of compression and encryption that may stand inside.
    pub layers_left: usize,
}

/// Why a message is refused.
#[derive(Debug, thiserror::Error)]
#[error("open the message: {0}")]
pub struct Refusal(pub Finding);

/// An OpenPGP message, decrypted and verified while it is read.
pub struct Message {
    decryptor: Decryptor<'static, Judge>,
    verdict: Verdict,
    /// Looked at once more at the end.
    armored: Option<ArmoredSource>,
    ended: bool,
}

/// What became known about a message. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Verdict(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The first fault; what comes later may be its consequence.
    fault: Option<Finding>,
    pub(super) signed_by: Option<Fingerprint>,
    pub(super) compressions: usize,
}

impl Verdict {
    pub(super) fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(&self, finding: Finding) {
        self.lock().fault.get_or_insert(finding);
    }

    pub(super) fn fault(&self) -> Option<Finding> {
        self.lock().fault.clone()
    }

    /// Notes `finding` and gives the library something to fail with.
    pub(super) fn fail(&self, finding: Finding) -> sequoia_openpgp::anyhow::Error {
        self.note(finding);
        io::Error::other("refused").into()
    }

    /// Fingerprint of the pinned certificate that signed the message; known at its end.
    #[must_use]
    pub fn signed_by(&self) -> Option<String> {
        self.lock().signed_by.as_ref().map(Fingerprint::to_hex)
    }

    /// Layers of compression inside the message.
    #[must_use]
    pub fn compressions(&self) -> usize {
        self.lock().compressions
    }
}

/// The one thing that is said about a message that does not verify.
#[must_use]
pub fn damaged() -> Finding {
    let message = "the OpenPGP message is damaged, cut or modified; encrypt the file again and send it again";
    Finding::file(Reason::OpenpgpDamaged, message)
}

pub(super) fn unsupported(what: &str) -> Finding {
    Finding::file(Reason::OpenpgpUnsupported, format!("the OpenPGP message cannot be accepted: {what}"))
}

impl Message {
    /// Starts on `source`, which stands at the first byte of the message or of its armor.
    ///
    /// # Errors
    ///
    /// When what stands at the start refuses the message, or a short message does not verify.
    pub fn open<R>(source: R, armored: bool, terms: MessageTerms) -> Result<Self, Finding>
    where
        R: Read + Send + Sync + 'static,
    {
        let verdict = Verdict::default();
        let reference = system_time(terms.now + CLOCK_SKEW);
        let judge = Judge::new(terms, verdict.clone());
        let (binary, armored): (Box<dyn Read + Send + Sync>, _) = if armored {
            let armored = ArmoredSource::new(source);
            (Box::new(Framing::new(Dearmor::new(armored.clone()), verdict.clone())), Some(armored))
        } else {
            (Box::new(Framing::new(source, verdict.clone())), None)
        };
        let decryptor = DecryptorBuilder::from_reader(binary)
            .and_then(|builder| builder.buffer_size(BUFFER_BYTES).with_policy(&POLICY, reference, judge))
            .map_err(|_same_answer| verdict.fault().unwrap_or_else(damaged))?;
        Ok(Self { decryptor, verdict, armored, ended: false })
    }

    /// What becomes known about the message.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.verdict.clone()
    }

    /// Reads plaintext into `buffer`, at most half of what is held back; 0 only at the verified end.
    ///
    /// # Errors
    ///
    /// When the message is refused. What came out before must then be dropped.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Refusal> {
        if self.ended {
            return Ok(0);
        }
        let slice = match buffer.get_mut(..BUFFER_BYTES / 2) {
            Some(_) => buffer.split_at_mut(BUFFER_BYTES / 2).0,
            None => buffer,
        };
        let read = self.decryptor.read(slice);
        let fault = self.verdict.fault();
        match (read, fault) {
            (_, Some(finding)) => Err(Refusal(finding)),
            (Err(_same_answer), None) => Err(Refusal(damaged())),
            (Ok(0), None) if !slice.is_empty() => {
                self.ended = true;
                match self.armored.as_mut().map(ArmoredSource::is_alone) {
                    None | Some(Ok(true)) => Ok(0),
                    Some(Ok(false)) => Err(Refusal(unsupported("another one follows it; send one message a file"))),
                    Some(Err(_same_answer)) => Err(Refusal(damaged())),
                }
            }
            (Ok(read), None) => Ok(read),
        }
    }
}
