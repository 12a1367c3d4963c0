//! Takes the layers off a file, outermost first, each recognised by its first bytes.
//!
//! Every layer is a reader over the one below it and reports its verdict only by an error or by the end. Errors pass
//! through libraries that reword or swallow them, so each layer notes its fault in [`Fault`] and the first one noted is
//! the answer: that is the layer nearest to the disk.

use std::fs::File;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flate2::read::MultiGzDecoder;

use super::OpenError;
use super::open::Terms;
use super::sniff::{Form, HEAD_BYTES, sniff};
use crate::config::Require;
use crate::openpgp::{Message, MessageTerms, Refusal};
use crate::reason::{Finding, Reason};

/// The largest slice that is read into: half of what the decryptor buffers.
pub(super) const READ_BYTES: usize = 128 * 1024;

/// One layer around the plaintext.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// An OpenPGP message.
    Openpgp {
        /// Armored, not binary.
        armored: bool,
    },
    /// Compression inside an OpenPGP message.
    Compression,
    /// gzip.
    Gzip,
}

type Reader = Box<dyn Read + Send + Sync>;

/// The innermost layer's reader.
pub(super) struct Peeled {
    pub(super) reader: Reader,
    /// The verdicts of the OpenPGP layers, complete at the end.
    verdicts: Vec<crate::openpgp::Verdict>,
}

impl Peeled {
    /// The pinned signer; known at the end.
    pub(super) fn signed_by(&self) -> Option<String> {
        self.verdicts.iter().find_map(crate::openpgp::Verdict::signed_by)
    }
}

/// What the layers share: the first fault, what was peeled so far, how much came from the disk.
#[derive(Clone, Default)]
pub(super) struct Fault(Arc<Mutex<Noted>>);

#[derive(Default)]
struct Noted {
    error: Option<OpenError>,
    layers: Vec<Layer>,
    bytes_read: u64,
}

impl Fault {
    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, error: OpenError) {
        self.lock().error.get_or_insert(error);
    }

    pub(super) fn take(&self) -> Option<OpenError> {
        self.lock().error.take()
    }

    pub(super) fn layers(&self) -> Vec<Layer> {
        self.lock().layers.clone()
    }

    pub(super) fn bytes_read(&self) -> u64 {
        self.lock().bytes_read
    }

    /// A library panicked. The OpenPGP one is known to, on messages cut in their first bytes.
    pub(super) fn after_panic(&self) -> OpenError {
        let openpgp = self.layers().iter().any(|layer| matches!(layer, Layer::Openpgp { .. }));
        self.take().unwrap_or_else(|| match openpgp {
            true => crate::openpgp::damaged().into(),
            false => OpenError::Io(io::Error::other("the reading thread panicked")),
        })
    }
}

/// Takes every layer off `file`.
pub(super) fn peel(file: File, terms: &Terms, fault: &Fault) -> Result<Peeled, OpenError> {
    let mut peeled = Peeled { reader: Box::new(Disk { file, fault: fault.clone() }), verdicts: Vec::new() };
    loop {
        let head = read_head(&mut peeled.reader).map_err(|error| failed(fault, error))?;
        let form = sniff(&head);
        let peeked = Box::new(io::Cursor::new(head).chain(peeled.reader));
        peeled.reader = match form {
            Form::Text => {
                peeled.reader = peeked;
                return encrypted_enough(terms, fault).map(|()| peeled).map_err(OpenError::from);
            }
            Form::Gzip => {
                push(fault, &[Layer::Gzip], terms)?;
                Box::new(Gzip { decoder: MultiGzDecoder::new(peeked), fault: fault.clone() })
            }
            Form::OpenpgpBinary => open_message(peeked, None, terms, fault, &mut peeled.verdicts)?,
            Form::OpenpgpArmored(at) => open_message(peeked, Some(at), terms, fault, &mut peeled.verdicts)?,
            Form::OpenpgpOther(what) => {
                let message = format!("the file is {what}; send the data encrypted to this daemon's certificate");
                return Err(refuse(peeked, fault, Finding::file(Reason::OpenpgpUnsupported, message)));
            }
            Form::Other(what) => {
                let message = format!("the file is {what}; send CSV text, plain or as gzip or OpenPGP");
                return Err(refuse(peeked, fault, Finding::file(Reason::NotText, message)));
            }
        };
    }
}

/// An OpenPGP layer; `armor_at` is where its armor starts.
fn open_message(
    mut below: Reader,
    armor_at: Option<usize>,
    terms: &Terms,
    fault: &Fault,
    verdicts: &mut Vec<crate::openpgp::Verdict>,
) -> Result<Reader, OpenError> {
    push(fault, &[Layer::Openpgp { armored: armor_at.is_some() }], terms)?;
    if let Some(at) = armor_at {
        let skipped = io::copy(&mut (&mut below).take(at as u64), &mut io::sink());
        skipped.map_err(|error| failed(fault, error))?;
    }
    let message_terms = MessageTerms {
        keyring: Arc::clone(&terms.keyring),
        signers: Arc::clone(&terms.signers),
        signature_required: terms.require == Require::Signed,
        now: terms.now,
        layers_left: terms.limits.nesting.saturating_sub(fault.layers().len()),
    };
    let message = Message::open(below, armor_at.is_some(), message_terms).map_err(|finding| {
        fault.note(finding.into());
        fault.take().unwrap_or_else(|| crate::openpgp::damaged().into())
    })?;
    let verdict = message.verdict();
    push(fault, &vec![Layer::Compression; verdict.compressions()], terms)?;
    verdicts.push(verdict);
    Ok(Box::new(Openpgp { message, fault: fault.clone() }))
}

/// Notes layers, up to the limit.
fn push(fault: &Fault, layers: &[Layer], terms: &Terms) -> Result<(), Finding> {
    let mut noted = fault.lock();
    noted.layers.extend_from_slice(layers);
    if noted.layers.len() > terms.limits.nesting {
        let message = format!("more than {} layers of encryption and compression", terms.limits.nesting);
        return Err(Finding::file(Reason::TooManyLayers, message));
    }
    Ok(())
}

fn encrypted_enough(terms: &Terms, fault: &Fault) -> Result<(), Finding> {
    let encrypted = fault.layers().iter().any(|layer| matches!(layer, Layer::Openpgp { .. }));
    match terms.require {
        Require::Encrypted | Require::Signed if !encrypted => {
            let message = "the file must be encrypted with OpenPGP to this daemon's certificate";
            Err(Finding::file(Reason::NotEncrypted, message))
        }
        Require::None | Require::Encrypted | Require::Signed => Ok(()),
    }
}

/// The first bytes, as far as there are any.
fn read_head(reader: &mut Reader) -> io::Result<Vec<u8>> {
    let mut head = vec![0; HEAD_BYTES];
    let mut filled = 0;
    while let Some(room) = head.get_mut(filled..).filter(|room| !room.is_empty()) {
        match reader.read(room) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    head.truncate(filled);
    Ok(head)
}

/// The fault that was noted first, or the error itself.
fn failed(fault: &Fault, error: io::Error) -> OpenError {
    fault.take().unwrap_or(OpenError::Io(error))
}

/// Refuses the content of a layer, unless that layer itself turns out not to verify: then that is the answer. Otherwise a
/// sender of modified messages could learn from the answer what they decrypt to.
fn refuse(mut reader: Reader, fault: &Fault, finding: Finding) -> OpenError {
    drain(&mut reader);
    fault.take().unwrap_or(finding.into())
}

/// Reads to the end, or to a fault, which the layer itself notes.
fn drain(reader: &mut impl Read) {
    let mut sink = vec![0; READ_BYTES];
    loop {
        match reader.read(&mut sink) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_noted) => return,
        }
    }
}

/// The file on disk.
struct Disk {
    file: File,
    fault: Fault,
}

impl Read for Disk {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer);
        match &read {
            Ok(n) => self.fault.lock().bytes_read += *n as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                let copy = error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error);
                self.fault.note(OpenError::Io(copy));
            }
        }
        read
    }
}

/// gzip, any number of members, nothing behind them.
struct Gzip {
    decoder: MultiGzDecoder<Box<io::Chain<io::Cursor<Vec<u8>>, Reader>>>,
    fault: Fault,
}

impl Read for Gzip {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.decoder.read(buffer).inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted {
                drain(self.decoder.get_mut());
                let message = "the gzip data is damaged or cut, or other data follows it; send the file again";
                self.fault.note(Finding::file(Reason::GzipDamaged, message).into());
            }
        })
    }
}

/// An OpenPGP message.
struct Openpgp {
    message: Message,
    fault: Fault,
}

impl Read for Openpgp {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.message.read(buffer).map_err(|Refusal(finding)| {
            self.fault.note(finding.into());
            io::Error::other("the message was refused")
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::{Seek, Write};
    use std::time::Duration;

    use chrono::DateTime;
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;
    use crate::config::{Limits, RejectLimit};
    use crate::openpgp::Keyring;
    use crate::plaintext::{Chunks, open};

    /// Limits as in the design, but for those that matter here.
    pub(in crate::plaintext) fn limits(plaintext_bytes: u64, nesting: usize) -> Limits {
        Limits {
            upload_bytes: 4 << 30,
            plaintext_bytes,
            plaintext_ratio: 1000,
            nesting,
            row_bytes: 64 << 10,
            code_bytes: 99,
            customer_id_bytes: 320,
            reject: RejectLimit { rows: 10_000, percent: 10 },
            quota_bytes: 1 << 40,
            free_space_bytes: 0,
            sessions: 500,
            sessions_per_source: 20,
            sessions_before_login: 100,
            login_grace: Duration::from_secs(30),
            login_attempts: 6,
            idle: Duration::from_secs(900),
            open_files: 64,
            open_directories: 8,
            lease: Duration::from_secs(60),
        }
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// The plaintext and its layers, or the reason of the refusal.
    #[track_caller]
    fn check(bytes: &[u8], require: Require, expected: Result<(&[u8], usize), Reason>) {
        let state = tempfile::tempdir().unwrap();
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        let keyring = Keyring::load_or_create(&[], state.path(), now).unwrap();
        let terms = Terms {
            keyring: Arc::new(keyring),
            require,
            signers: [].into(),
            limits: limits(80 << 20, 3),
            now,
            asks_sha256: true,
        };
        let mut plaintext = open(file, terms);
        let mut whole = Vec::new();
        let found = loop {
            match plaintext.next_chunk() {
                Ok(Some(chunk)) => whole.extend(chunk),
                Ok(None) => {
                    let summary = plaintext.summary().unwrap();
                    assert_eq!(summary.plaintext_bytes, whole.len() as u64);
                    assert_eq!(summary.signed_by, None);
                    break Ok((whole.as_slice(), summary.layers.len()));
                }
                Err(OpenError::Refused { finding }) => break Err(finding.reason),
                Err(error) => panic!("{error:?}"),
            }
        };
        assert!(found == expected, "{:?} instead of {expected:?}", found.map(|found| (found.0.len(), found.1)));
    }

    #[test]
    fn plain_and_gzip() {
        let rows = b"code\nA1\n".as_slice();
        let packed = gzip(rows);
        check(b"", Require::None, Ok((b"", 0)));
        check(rows, Require::None, Ok((rows, 0)));
        check(rows, Require::Encrypted, Err(Reason::NotEncrypted));
        check(&packed, Require::None, Ok((rows, 1)));
        check(&packed, Require::Signed, Err(Reason::NotEncrypted));
        check(&gzip(b""), Require::None, Ok((b"", 1)));
        let twice = [packed.clone(), gzip(b"B2\n")].concat();
        check(&twice, Require::None, Ok((b"code\nA1\nB2\n", 1)));
        check(&gzip(&packed), Require::None, Ok((rows, 2)));
        check(&gzip(&gzip(&gzip(&packed))), Require::None, Err(Reason::TooManyLayers));
        check(b"ab\0c", Require::None, Err(Reason::NotText));
        check(&gzip(b"%PDF-1.7"), Require::None, Err(Reason::NotText));
    }

    #[test]
    fn damaged_gzip() {
        let packed = gzip(&b"code,bank\nA1,spring\n".repeat(40));
        for len in 3..packed.len() {
            check(&packed[..len], Require::None, Err(Reason::GzipDamaged));
        }
        check(&[&packed[..], b"x"].concat(), Require::None, Err(Reason::GzipDamaged));
        check(&[&packed[..], &[0; 512]].concat(), Require::None, Err(Reason::GzipDamaged));
        let mut flipped = packed;
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        check(&flipped, Require::None, Err(Reason::GzipDamaged));
    }

    #[test]
    fn bombs() {
        let zeros = vec![b'0'; 81 << 20];
        let packed = gzip(&zeros);
        check(&packed, Require::None, Err(Reason::TooLarge));
        check(&gzip(&packed), Require::None, Err(Reason::TooCompressed));
    }
}
