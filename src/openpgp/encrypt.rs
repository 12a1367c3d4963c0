//! Encrypts and signs what is written to it, without keeping it.
//!
//! The output is a binary message without compression: assignment files are fetched once, and a part less in the message
//! is a part less that the other side may stumble over. Every run draws new session keys, so the same content gives other
//! bytes each time: whoever must deliver the same file again keeps the encrypted file.

use std::fmt;
use std::io::{self, Write};

use chrono::{DateTime, Utc};
use sequoia_openpgp::serialize::stream::{Encryptor, LiteralWriter, Message, Recipient, Signer};

use super::{Certificate, Keyring, Purpose, Unusable, system_time};

/// Writes one encrypted message; [`EncryptingWriter::finish`] ends it.
pub struct EncryptingWriter<'a> {
    message: Message<'a>,
}

/// Why a file cannot be encrypted.
#[derive(Debug, thiserror::Error)]
pub enum EncryptError {
    /// A recipient's certificate cannot be encrypted to.
    #[error("encrypt the file")]
    Recipient(#[from] Unusable),
    /// Nobody to encrypt to.
    #[error("encrypt the file: no recipient was given")]
    NoRecipient,
    /// No secret key of this daemon can sign.
    #[error("sign the file: none of the daemon's keys can sign")]
    NoSigner,
    /// The library or the disk.
    #[error("write the encrypted file")]
    Write(#[source] io::Error),
}

impl<'a> EncryptingWriter<'a> {
    /// Starts a message to every one of `recipients`, signed by the newest signing key of `sign_with`.
    ///
    /// # Errors
    ///
    /// When a recipient's certificate cannot be used at `now`, with the reason, or nothing can sign.
    pub fn new<W>(
        sink: W,
        recipients: &'a [Certificate],
        sign_with: Option<&Keyring>,
        now: DateTime<Utc>,
    ) -> Result<Self, EncryptError>
    where
        W: Write + Send + Sync + 'a,
    {
        // Asked of each by itself: the library leaves out in silence whoever it does not like.
        let mut keys = Vec::new();
        for recipient in recipients {
            keys.extend(recipient.keys(Purpose::Encrypt, now)?);
        }
        if keys.is_empty() {
            return Err(EncryptError::NoRecipient);
        }
        let signer = match sign_with {
            Some(keyring) => Some(keyring.signer(now).ok_or(EncryptError::NoSigner)?),
            None => None,
        };
        let start = || {
            let keys = keys.into_iter().map(Recipient::from);
            let mut message = Encryptor::for_recipients(Message::new(sink), keys).build()?;
            if let Some(pair) = signer {
                message = Signer::new(message, pair)?.creation_time(system_time(now)).build()?;
            }
            LiteralWriter::new(message).build()
        };
        match start() {
            Ok(message) => Ok(Self { message }),
            Err(error) => Err(EncryptError::Write(plain(error))),
        }
    }

    /// Ends the message and flushes the sink. Without it the message is cut, which its reader notices.
    ///
    /// # Errors
    ///
    /// When the sink fails.
    pub fn finish(self) -> Result<(), EncryptError> {
        self.message.finalize().map_err(|error| EncryptError::Write(plain(error)))
    }
}

impl Write for EncryptingWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.message.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.message.flush()
    }
}

impl fmt::Debug for EncryptingWriter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncryptingWriter").finish_non_exhaustive()
    }
}

/// The system's error where there is one.
fn plain(error: sequoia_openpgp::anyhow::Error) -> io::Error {
    error.downcast::<io::Error>().unwrap_or_else(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use sequoia_openpgp::Profile;
    use sequoia_openpgp::cert::CertBuilder;
    use sequoia_openpgp::serialize::SerializeInto;
    use sequoia_openpgp::types::Features;

    use super::*;
    use crate::openpgp::{Message, MessageTerms};

    /// Encrypts and signs to a key of this kind, then reads it with that key.
    fn check(profile: Profile, features: Features) {
        let directory = tempfile::tempdir().unwrap();
        let now = crate::clock::Clock::system().now();
        let builder = CertBuilder::general_purpose(["mailer"]).set_profile(profile).unwrap();
        let (cert, _) = builder.set_features(features).unwrap().generate().unwrap();
        let path = directory.path().join("mailer.key");
        fs::write(&path, cert.as_tsk().to_vec().unwrap()).unwrap();
        let certificates = Certificate::load(&path).unwrap();
        let keyring = Arc::new(Keyring::load_or_create(&[path], directory.path(), now).unwrap());

        let rows = b"customer_id,code\n".repeat(50_000);
        let mut message = Vec::new();
        let mut writer = EncryptingWriter::new(&mut message, &certificates, Some(&keyring), now).unwrap();
        writer.write_all(&rows).unwrap();
        writer.finish().unwrap();

        let read = |message: Vec<u8>| {
            let terms = MessageTerms {
                keyring: Arc::clone(&keyring),
                signers: certificates.clone().into(),
                signature_required: true,
                now,
                layers_left: 0,
            };
            let mut message = Message::open(io::Cursor::new(message), false, terms).ok()?;
            let mut plaintext = Vec::new();
            let mut buffer = vec![0; 300_000];
            loop {
                match message.read(&mut buffer).ok()? {
                    0 => return Some((plaintext, message.verdict().signed_by())),
                    n => plaintext.extend_from_slice(&buffer[..n]),
                }
            }
        };
        let by = Some(certificates[0].fingerprint());
        assert!(read(message.clone()) == Some((rows, by)));
        for at in [message.len() / 2, message.len() - 1] {
            let mut flipped = message.clone();
            flipped[at] ^= 1;
            assert!(read(flipped).is_none());
            assert!(read(message[..at].to_vec()).is_none());
        }
    }

    #[test]
    fn every_kind_of_key_and_integrity_protection() {
        check(Profile::RFC4880, Features::empty().set_seipdv1());
        check(Profile::RFC4880, Features::empty().set_seipdv1().set_seipdv2());
        check(Profile::RFC9580, Features::empty().set_seipdv1().set_seipdv2());
    }
}
