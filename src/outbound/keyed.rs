//! The real [`Lists`] and [`Seals`]: lists opened as inbound files are, assignment files encrypted with OpenPGP.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use super::{ListError, Lists, Seal, SealError, Sealed, Seals};
use crate::clock::Clock;
use crate::config::{LiveSettings, Namespace, Require};
use crate::openpgp::{Certificate, EncryptError, EncryptingWriter, Keyring, Purpose};
use crate::plaintext::{self, OpenError, ReadError, RecordReader, Terms};
use crate::recipients::Row;

/// Opens with, and signs with, the daemon's own keys.
#[derive(Clone, Debug)]
pub struct KeyedDoors {
    /// The daemon's own keys.
    pub keyring: Arc<Keyring>,
    /// The settings in force: limits.
    pub live: LiveSettings,
    /// The time.
    pub clock: Clock,
}

impl Lists for KeyedDoors {
    fn read(
        &self,
        _namespace: &Namespace,
        file: &Path,
        each: &mut dyn FnMut(&dyn Row) -> ControlFlow<()>,
    ) -> Result<(), ListError> {
        let settings = self.live.current();
        let terms = Terms {
            keyring: Arc::clone(&self.keyring),
            // It was accepted under the terms of its day; a signer who was removed since does not take that back.
            require: Require::None,
            signers: Arc::from([]),
            limits: settings.limits.clone(),
            now: self.clock.now(),
            asks_sha256: false,
        };
        let file = std::fs::File::open(file).map_err(ListError::Disk)?;
        let mut rows = RecordReader::new(plaintext::open(file, terms), settings.limits.row_bytes);
        while let Some(record) = rows.next_record().map_err(unreadable)? {
            if each(&record).is_break() {
                return Ok(());
            }
        }
        Ok(())
    }
}

fn unreadable(error: ReadError) -> ListError {
    match error {
        ReadError::Open(OpenError::Io(error)) => ListError::Disk(error),
        ReadError::Open(OpenError::Refused { finding }) | ReadError::Refused(finding) => ListError::Refused(finding),
    }
}

impl Seals for KeyedDoors {
    fn prepare(&self, encrypt_to: &Path) -> Result<Box<dyn Seal>, SealError> {
        let now = self.clock.now();
        let recipients = Certificate::load(encrypt_to).map_err(|error| SealError::Key(error.into()))?;
        for certificate in &recipients {
            certificate.usable(Purpose::Encrypt, now).map_err(|error| SealError::Key(error.into()))?;
        }
        Ok(Box::new(KeyedSeal { recipients, doors: self.clone() }))
    }
}

/// Recipients that were found usable.
struct KeyedSeal {
    recipients: Vec<Certificate>,
    doors: KeyedDoors,
}

impl Seal for KeyedSeal {
    fn start<'a>(&'a self, sink: Box<dyn Write + Send + Sync + 'a>) -> Result<Box<dyn Sealed + 'a>, SealError> {
        let (keyring, now) = (&self.doors.keyring, self.doors.clock.now());
        let writer = EncryptingWriter::new(sink, &self.recipients, Some(keyring.as_ref()), now).map_err(failed)?;
        Ok(Box::new(KeyedSealed(writer)))
    }
}

struct KeyedSealed<'a>(EncryptingWriter<'a>);

impl Write for KeyedSealed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Sealed for KeyedSealed<'_> {
    fn finish(self: Box<Self>) -> Result<(), SealError> {
        self.0.finish().map_err(failed)
    }
}

fn failed(error: EncryptError) -> SealError {
    match error {
        EncryptError::Write(error) => SealError::Write(error),
        other => SealError::Key(other.into()),
    }
}
