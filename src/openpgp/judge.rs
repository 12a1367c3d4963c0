//! What the library asks while it reads a message: which key, whose signatures, is it good enough.
//!
//! Passwords are never tried. Keys that the message names come first, then all of them, up to a limit, for recipients
//! that are hidden. A signature counts only when it was made by a pinned certificate whose key is still good now.

use sequoia_openpgp::cert::Cert;
use sequoia_openpgp::crypto::SessionKey;
use sequoia_openpgp::packet::{PKESK, Packet, SKESK};
use sequoia_openpgp::parse::PacketParser;
use sequoia_openpgp::parse::stream::{
    DecryptionHelper, GoodChecksum, MessageLayer, MessageStructure, VerificationError, VerificationHelper,
};
use sequoia_openpgp::policy::Policy;
use sequoia_openpgp::types::SymmetricAlgorithm;
use sequoia_openpgp::{Fingerprint, KeyHandle};

use super::decrypt::{MessageTerms, Verdict, damaged, unsupported};
use super::{POLICY, Purpose};
use crate::reason::{Finding, Reason};

/// How many private key operations one message may cost where it does not say for whom it is.
const TRIES: usize = 32;

/// Answers the library's questions.
pub(super) struct Judge {
    terms: MessageTerms,
    verdict: Verdict,
    containers: usize,
}

impl Judge {
    pub(super) fn new(terms: MessageTerms, verdict: Verdict) -> Self {
        Self { terms, verdict, containers: 0 }
    }

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
