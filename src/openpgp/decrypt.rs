//! A message is decrypted and verified as it is read.
//!
//! Bytes come out before the message has verified (all but the last buffer of a long one): only the end, `Ok(0)`, says
//! that it did. Whatever the library says in between, the answer is one: damaged or modified. Own texts are given only
//! for what stands outside the encryption, or inside a message that verified.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use sequoia_openpgp::armor::{Kind, Reader, ReaderMode};
use sequoia_openpgp::cert::Cert;
use sequoia_openpgp::crypto::SessionKey;
use sequoia_openpgp::packet::{PKESK, Packet, SKESK};
use sequoia_openpgp::parse::stream::{
    DecryptionHelper, Decryptor, DecryptorBuilder, GoodChecksum, MessageLayer, MessageStructure, VerificationError,
    VerificationHelper,
};
use sequoia_openpgp::parse::{PacketParser, Parse};
use sequoia_openpgp::policy::Policy;
use sequoia_openpgp::types::SymmetricAlgorithm;
use sequoia_openpgp::{Fingerprint, KeyHandle};

use super::armor::ArmoredSource;
use super::framing::Framing;
use super::{CLOCK_SKEW, Certificate, Keyring, POLICY, Purpose, system_time};
use crate::reason::{Finding, Reason};

/// What the library holds back until it has verified the end. Never read a larger slice than this.
const BUFFER_BYTES: usize = 256 * 1024;
/// How many private key operations one message may cost where it does not say for whom it is.
const TRIES: usize = 32;

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
struct Seen {
    /// The first fault; what comes later may be its consequence.
    fault: Option<Finding>,
    signed_by: Option<Fingerprint>,
    compressions: usize,
}

impl Verdict {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(&self, finding: Finding) {
        self.lock().fault.get_or_insert(finding);
    }

    pub(super) fn fault(&self) -> Option<Finding> {
        self.lock().fault.clone()
    }

    /// Notes `finding` and gives the library something to fail with.
    fn fail(&self, finding: Finding) -> sequoia_openpgp::anyhow::Error {
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
        let judge = Judge { terms, verdict: verdict.clone(), containers: 0 };
        let (binary, armored): (Box<dyn Read + Send + Sync>, _) = if armored {
            let armored = ArmoredSource::new(source);
            let dearmored = Reader::from_reader(armored.clone(), ReaderMode::Tolerant(Some(Kind::Message)));
            (Box::new(Framing::new(dearmored, verdict.clone())), Some(armored))
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

/// Answers the library's questions.
struct Judge {
    terms: MessageTerms,
    verdict: Verdict,
    containers: usize,
}

impl Judge {
    /// Tries the keys that the message names, then every key on those that are for nobody in particular.
    fn session_key(
        &self,
        pkesks: &[PKESK],
        accept: &mut dyn FnMut(Option<SymmetricAlgorithm>, &SessionKey) -> bool,
        hint: Option<SymmetricAlgorithm>,
    ) -> Option<Cert> {
        let own = self.terms.keyring.decryptors();
        let named = pkesks.iter().filter_map(|pkesk| Some((pkesk, pkesk.recipient()?)));
        let named = named.flat_map(|(pkesk, recipient)| {
            own.iter().filter(move |key| key.handle.aliases(&recipient)).map(move |key| (pkesk, key))
        });
        let hidden = pkesks.iter().filter(|pkesk| pkesk.recipient().is_none());
        let hidden = hidden.flat_map(|pkesk| own.iter().map(move |key| (pkesk, key)));
        let found = named.chain(hidden).take(TRIES).find(|(pkesk, key)| {
            let Some((algorithm, session_key)) = pkesk.decrypt(&mut key.pair.clone(), hint) else { return false };
            if let Some(algorithm) = algorithm
                && (!algorithm.is_supported() || POLICY.symmetric_algorithm(algorithm).is_err())
            {
                self.verdict.note(unsupported(&format!("it is encrypted with {algorithm}; use AES")));
                return false;
            }
            accept(algorithm, &session_key)
        });
        found.map(|(_, key)| key.cert.clone())
    }

    /// Why no session key was found.
    fn no_key(&self, pkesks: &[PKESK]) -> Finding {
        let own = self.terms.keyring.decryptors();
        let ours = |recipient: &KeyHandle| own.iter().any(|key| key.handle.aliases(recipient));
        let recipients: Vec<KeyHandle> = pkesks.iter().filter_map(PKESK::recipient).collect();
        if pkesks.is_empty() {
            return unsupported("it is encrypted with a password; encrypt it to this daemon's certificate");
        }
        if recipients.iter().any(ours) {
            return damaged();
        }
        let mut names: Vec<String> = recipients.iter().take(10).map(|recipient| format!("{recipient:X}")).collect();
        match recipients.len() {
            0 => names.push("hidden".to_owned()),
            n if n > 10 => names.push(format!("{} more", n - 10)),
            _ => {}
        }
        let message = format!(
            "the file is not encrypted to this daemon (recipients: {}); encrypt it to the certificate in /openpgp/",
            names.join(", "),
        );
        Finding::file(Reason::OpenpgpNoKey, message)
    }

    /// The pinned certificate that made `good`, if it could sign now.
    fn counted(&self, good: &GoodChecksum<'_>) -> Option<Fingerprint> {
        let by = good.ka.cert().fingerprint();
        let pinned = self.terms.signers.iter().find(|signer| signer.0.fingerprint() == by)?;
        // The library judges a signer at the time that the signature names, which is the signer's own choice: whoever
        // took an expired key could date a signature back. So the key must be good now as well.
        let keys = pinned.keys(Purpose::Sign, self.terms.now).ok()?;
        let key = good.ka.key().fingerprint();
        keys.iter().any(|now| now.key().fingerprint() == key).then_some(by)
    }
}

impl DecryptionHelper for Judge {
    fn decrypt(
        &mut self,
        pkesks: &[PKESK],
        _passwords: &[SKESK],
        hint: Option<SymmetricAlgorithm>,
        accept: &mut dyn FnMut(Option<SymmetricAlgorithm>, &SessionKey) -> bool,
    ) -> sequoia_openpgp::Result<Option<Cert>> {
        match self.session_key(pkesks, accept, hint) {
            Some(cert) => Ok(Some(cert)),
            None => Err(self.verdict.fail(self.no_key(pkesks))),
        }
    }
}

impl VerificationHelper for Judge {
    fn inspect(&mut self, packets: &PacketParser<'_>) -> sequoia_openpgp::Result<()> {
        match packets.packet {
            Packet::CompressedData(_) => self.verdict.lock().compressions += 1,
            Packet::SEIP(_) => self.containers += 1,
            _ => return Ok(()),
        }
        // The outermost container is the message itself.
        if self.verdict.compressions() + self.containers > self.terms.layers_left + 1 {
            let message = "too many layers of encryption and compression in one OpenPGP message";
            return Err(self.verdict.fail(Finding::file(Reason::TooManyLayers, message)));
        }
        Ok(())
    }

    fn get_certs(&mut self, _issuers: &[KeyHandle]) -> sequoia_openpgp::Result<Vec<Cert>> {
        Ok(self.terms.signers.iter().map(|signer| signer.0.clone()).collect())
    }

    /// Called once, at the end of the message, when its integrity has been checked.
    fn check(&mut self, structure: MessageStructure<'_>) -> sequoia_openpgp::Result<()> {
        let mut encrypted = false;
        let mut signatures = 0;
        let mut signed_by = None;
        let mut why = None;
        let mut forged = false;
        for layer in structure {
            match layer {
                MessageLayer::Encryption { .. } => encrypted = true,
                MessageLayer::Compression { .. } => {}
                MessageLayer::SignatureGroup { results } => {
                    for result in results {
                        signatures += 1;
                        match result {
                            Ok(good) => match self.counted(&good) {
                                Some(by) => signed_by = signed_by.or(Some(by)),
                                None => why = Some("the signer's key is no longer valid".to_owned()),
                            },
                            Err(error) => {
                                forged = forged || matches!(error, VerificationError::BadSignature { .. });
                                why.get_or_insert(reject(&error));
                            }
                        }
                    }
                }
            }
        }
        if !encrypted {
            return Err(self.verdict.fail(unsupported("it is not encrypted; encrypt it to this daemon's certificate")));
        }
        match (signed_by, self.terms.signature_required) {
            (Some(by), _) => self.verdict.lock().signed_by = Some(by),
            (None, true) if signatures == 0 => {
                let message = "the file is not signed; sign it with the key that was agreed";
                return Err(self.verdict.fail(Finding::file(Reason::NotSigned, message)));
            }
            (None, required) if required || forged => {
                let why = why.unwrap_or_default();
                let message = format!("no signature of an agreed key holds: {why}");
                return Err(self.verdict.fail(Finding::file(Reason::OpenpgpBadSignature, message)));
            }
            // Signatures of strangers say nothing where none is required.
            (None, _) => {}
        }
        Ok(())
    }
}

/// Why a signature does not count. The message itself has verified, so the reason may be told.
fn reject(error: &VerificationError<'_>) -> String {
    match error {
        VerificationError::MissingKey { sig } => {
            let issuers: Vec<String> = sig.get_issuers().iter().map(|issuer| format!("{issuer:X}")).collect();
            format!("it was signed by {}, which is not one of the namespace's signers", issuers.join(", "))
        }
        VerificationError::BadSignature { .. } => "the signature does not fit the content".to_owned(),
        VerificationError::BadKey { error, .. } => format!("the signer's key was not valid ({error:#})"),
        VerificationError::UnboundKey { error, .. } => {
            format!("the signer's certificate does not hold by today's rules ({error:#})")
        }
        VerificationError::MalformedSignature { error, .. } => {
            format!("the signature does not hold by today's rules ({error:#}); sign with SHA-256 or better")
        }
        _ => "the signature cannot be read".to_owned(),
    }
}
