//! Messages between the daemon and a real GnuPG, both ways, whole and damaged.

use std::fs::{self, File};
use std::io::{Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use coupond::clock::Clock;
use coupond::config::{Limits, RejectLimit, Require};
use coupond::openpgp::{Certificate, EncryptError, EncryptingWriter, Keyring, KeyringError, Purpose};
use coupond::plaintext::{Chunks, Layer, OpenError, RecordReader, Summary, Terms, open};
use coupond::reason::Reason;

fn limits() -> Limits {
    Limits {
        upload_bytes: 4 << 30,
        plaintext_bytes: 70 << 20,
        plaintext_ratio: 1000,
        nesting: 4,
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

/// A GnuPG home that ends its agent with itself.
struct Gpg {
    home: tempfile::TempDir,
}

impl Gpg {
    fn new() -> Self {
        // Under /tmp: a socket's path may have 107 bytes, and a build's temporary directory can be deep.
        let home = tempfile::Builder::new().prefix("gpg").tempdir_in("/tmp").unwrap();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).unwrap();
        Self { home }
    }

    fn try_run(&self, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>, String> {
        let mut gpg = Command::new("gpg")
            .args(["--batch", "--yes", "--no-tty", "--quiet", "--trust-model", "always", "--pinentry-mode", "loopback"])
            .args(["--passphrase", "", "--homedir"])
            .arg(self.home.path())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = gpg.stdin.take().unwrap();
        let input = input.to_vec();
        let feed = std::thread::spawn(move || stdin.write_all(&input));
        let output = gpg.wait_with_output().unwrap();
        // gpg may end before it has read everything.
        drop(feed.join().unwrap());
        match output.status.success() {
            true => Ok(output.stdout),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    #[track_caller]
    fn run(&self, arguments: &[&str], input: &[u8]) -> Vec<u8> {
        self.try_run(arguments, input).unwrap_or_else(|error| panic!("gpg {arguments:?}: {error}"))
    }

    fn make_key(&self, name: &str, algorithm: &str, usage: &str) {
        self.run(&["--quick-generate-key", name, algorithm, usage, "never"], b"");
    }
}

impl Drop for Gpg {
    fn drop(&mut self) {
        drop(Command::new("gpgconf").arg("--homedir").arg(self.home.path()).args(["--kill", "all"]).status());
    }
}

/// The daemon's side.
struct Daemon {
    keyring: Arc<Keyring>,
    state: tempfile::TempDir,
    signers: Arc<[Certificate]>,
    now: DateTime<Utc>,
}

impl Daemon {
    fn new() -> Self {
        let state = tempfile::tempdir().unwrap();
        let now = Clock::system().now();
        let keyring = Arc::new(Keyring::load_or_create(&[], state.path(), now).unwrap());
        Self { keyring, state, signers: [].into(), now }
    }

    /// A GnuPG that knows the daemon's certificate as `coupond`.
    fn partner(&self) -> Gpg {
        let gpg = Gpg::new();
        gpg.run(&["--import"], &self.keyring.certificate().unwrap());
        gpg
    }

    fn keep(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.state.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn open(&self, bytes: &[u8], require: Require) -> Result<(Vec<u8>, Summary), OpenError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        self.open_file(file, require)
    }

    fn open_file(&self, file: File, require: Require) -> Result<(Vec<u8>, Summary), OpenError> {
        let terms = Terms {
            keyring: Arc::clone(&self.keyring),
            require,
            signers: Arc::clone(&self.signers),
            limits: limits(),
            now: self.now,
            asks_sha256: true,
        };
        let mut plaintext = open(file, terms);
        let mut whole = Vec::new();
        while let Some(chunk) = plaintext.next_chunk()? {
            whole.extend(chunk);
        }
        Ok((whole, plaintext.summary().unwrap().clone()))
    }

    #[track_caller]
    fn opens(&self, bytes: &[u8], require: Require, rows: &[u8]) -> Summary {
        let (whole, summary) = self.open(bytes, require).unwrap();
        assert!(whole == rows, "{} bytes instead of {}", whole.len(), rows.len());
        assert_eq!(summary.plaintext_bytes, rows.len() as u64);
        summary
    }

    #[track_caller]
    fn refuses(&self, bytes: &[u8], require: Require, reason: Reason) -> String {
        match self.open(bytes, require) {
            Err(OpenError::Refused { finding }) => {
                assert_eq!(finding.reason, reason, "{finding}");
                finding.message
            }
            other => panic!("{:?}", other.map(|(whole, summary)| (whole.len(), summary))),
        }
    }
}

/// Rows that do not compress to nothing.
fn rows(bytes: usize) -> Vec<u8> {
    let mut state = 7_u64;
    let mut rows = Vec::with_capacity(bytes + 16);
    while rows.len() < bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        rows.extend_from_slice(format!("{:014X}\n", state >> 8).as_bytes());
    }
    rows
}

const TO_DAEMON: [&str; 3] = ["-e", "-r", "coupond"];

fn with<'a>(options: &[&'a str]) -> Vec<&'a str> {
    [options, &TO_DAEMON].concat()
}

#[test]
fn gnupg_encrypts_to_the_daemon() {
    let daemon = Daemon::new();
    let gpg = daemon.partner();
    let short = rows(100);
    let long = rows(700_000);
    for options in [
        &[][..],
        &["-z", "0"],
        &["--compress-algo", "zip"],
        &["--compress-algo", "zlib", "-z", "1"],
        &["--compress-algo", "bzip2"],
        &["--armor"],
        &["--armor", "-z", "0"],
        &["--throw-keyids"],
        &["--cipher-algo", "AES128"],
    ] {
        for rows in [&short, &long] {
            let message = gpg.run(&with(options), rows);
            let summary = daemon.opens(&message, Require::Encrypted, rows);
            assert_eq!(summary.signed_by, None);
            let armored = options.contains(&"--armor");
            assert_eq!(summary.layers[0], Layer::Openpgp { armored });
            let packed = !options.contains(&"0");
            assert_eq!(summary.layers.len(), if packed { 2 } else { 1 }, "{options:?}");
        }
    }
    // From a file, gpg knows the length and writes it instead of partial lengths.
    let path = daemon.keep("rows.csv", &long);
    let message = gpg.run(&[&with(&["-z", "0", "-o", "-"])[..], &[path.to_str().unwrap()]].concat(), b"");
    daemon.opens(&message, Require::Encrypted, &long);
    daemon.opens(&gpg.run(&TO_DAEMON, b""), Require::Encrypted, b"");
    // A text in the sense of OpenPGP travels with CRLF.
    daemon.opens(&gpg.run(&with(&["--textmode"]), b"A1\nB2\n"), Require::Encrypted, b"A1\r\nB2\r\n");
}

#[test]
fn what_surrounds_armor_and_gzip_in_both_orders() {
    let daemon = Daemon::new();
    let gpg = daemon.partner();
    let rows = rows(5000);
    let armored = gpg.run(&with(&["--armor"]), &rows);
    for before in ["\u{feff}", "From the shop:\r\n\r\n", "\n"] {
        daemon.opens(&[before.as_bytes(), &armored].concat(), Require::Encrypted, &rows);
    }
    let crlf = String::from_utf8(armored.clone()).unwrap().replace('\n', "\r\n");
    daemon.opens(crlf.as_bytes(), Require::Encrypted, &rows);
    daemon.opens(&[&armored, &b"\n\n"[..]].concat(), Require::Encrypted, &rows);
    daemon.opens(&[&armored, &b"\n-- \nThe shop\n"[..]].concat(), Require::Encrypted, &rows);
    daemon.refuses(&[&armored[..], &armored].concat(), Require::None, Reason::OpenpgpUnsupported);

    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let inside = gpg.run(&with(&["-z", "0"]), &gzip(&rows));
    assert_eq!(
        daemon.opens(&inside, Require::Encrypted, &rows).layers,
        [Layer::Openpgp { armored: false }, Layer::Gzip]
    );
    let outside = gzip(&gpg.run(&with(&["-z", "0"]), &rows));
    assert_eq!(
        daemon.opens(&outside, Require::Encrypted, &rows).layers,
        [Layer::Gzip, Layer::Openpgp { armored: false }]
    );
    let twice = gpg.run(&TO_DAEMON, &gpg.run(&TO_DAEMON, &rows));
    daemon.opens(&twice, Require::Encrypted, &rows);
    let deep = gpg.run(&TO_DAEMON, &twice);
    daemon.refuses(&deep, Require::None, Reason::TooManyLayers);
    // gzip that is damaged inside a message that is whole.
    let mut broken = gzip(&rows);
    let middle = broken.len() / 2;
    broken[middle] ^= 1;
    let broken = gpg.run(&with(&["-z", "0"]), &broken);
    daemon.refuses(&broken, Require::None, Reason::GzipDamaged);
    // The same in a message that is not: one answer for all damage.
    let mut worse = broken;
    let middle = worse.len() - 30;
    worse[middle] ^= 1;
    daemon.refuses(&worse, Require::None, Reason::OpenpgpDamaged);
}

#[test]
fn signatures() {
    let mut daemon = Daemon::new();
    let gpg = daemon.partner();
    gpg.make_key("feed", "ed25519", "default");
    gpg.make_key("stranger", "ed25519", "default");
    let path = daemon.keep("feed.asc", &gpg.run(&["--export", "--armor", "feed"], b""));
    let feed = Certificate::load(&path).unwrap();
    assert_eq!(feed.len(), 1);
    feed[0].usable(Purpose::Sign, daemon.now).unwrap();
    feed[0].usable(Purpose::Encrypt, daemon.now).unwrap_err();
    let fingerprint = feed[0].fingerprint();
    daemon.signers = feed.into();

    for size in [100, 700_000] {
        let rows = rows(size);
        let signed = gpg.run(&with(&["-s", "-u", "feed"]), &rows);
        assert_eq!(daemon.opens(&signed, Require::Signed, &rows).signed_by, Some(fingerprint.clone()));
        assert_eq!(daemon.opens(&signed, Require::None, &rows).signed_by, Some(fingerprint.clone()));
        let unsigned = gpg.run(&TO_DAEMON, &rows);
        daemon.refuses(&unsigned, Require::Signed, Reason::NotSigned);
        assert_eq!(daemon.opens(&unsigned, Require::Encrypted, &rows).signed_by, None);
        let strange = gpg.run(&with(&["-s", "-u", "stranger"]), &rows);
        let text = daemon.refuses(&strange, Require::Signed, Reason::OpenpgpBadSignature);
        assert!(text.contains("not one of the namespace's signers"), "{text}");
        assert_eq!(daemon.opens(&strange, Require::Encrypted, &rows).signed_by, None);
        let both = gpg.run(&with(&["-s", "-u", "stranger", "-u", "feed"]), &rows);
        assert_eq!(daemon.opens(&both, Require::Signed, &rows).signed_by, Some(fingerprint.clone()));
        let weak = gpg.run(&with(&["-s", "-u", "feed", "--digest-algo", "SHA1"]), &rows);
        daemon.refuses(&weak, Require::Signed, Reason::OpenpgpBadSignature);

        let only = gpg.run(&["-s", "-u", "feed"], &rows);
        daemon.refuses(&only, Require::None, Reason::OpenpgpUnsupported);
        let clear = gpg.run(&["--clear-sign", "-u", "feed"], &rows);
        daemon.refuses(&clear, Require::None, Reason::OpenpgpUnsupported);
    }
    let detached = gpg.run(&["-b", "-u", "feed"], b"rows");
    daemon.refuses(&detached, Require::None, Reason::OpenpgpUnsupported);
    daemon.refuses(&gpg.run(&["--store"], b"code\nA1\n"), Require::None, Reason::OpenpgpUnsupported);
}

#[test]
fn a_signer_that_has_expired_since_no_longer_counts() {
    let mut daemon = Daemon::new();
    let gpg = daemon.partner();
    gpg.run(&["--quick-generate-key", "feed", "ed25519", "default", "30d"], b"");
    let path = daemon.keep("feed.asc", &gpg.run(&["--export", "feed"], b""));
    daemon.signers = Certificate::load(&path).unwrap().into();
    let signed = gpg.run(&with(&["-s", "-u", "feed"]), b"A1\n");
    daemon.opens(&signed, Require::Signed, b"A1\n");
    // The key was made after the daemon looked at its clock.
    assert!(daemon.signers[0].expires(daemon.now + TimeDelta::minutes(1)).is_some());
    daemon.now += TimeDelta::days(31);
    let unusable = daemon.signers[0].usable(Purpose::Sign, daemon.now).unwrap_err();
    assert!(unusable.why.contains("expired on"), "{unusable}");
    daemon.refuses(&signed, Require::Signed, Reason::OpenpgpBadSignature);
}

#[test]
fn damage_has_one_answer() {
    let daemon = Daemon::new();
    let gpg = daemon.partner();
    let rows = rows(400);
    let mut answers = Vec::new();
    for options in [&["-z", "0"][..], &[]] {
        let message = gpg.run(&with(options), &rows);
        for len in (9..message.len()).step_by(2) {
            answers.push(daemon.refuses(&message[..len], Require::None, Reason::OpenpgpDamaged));
        }
        // Behind the packet that names the recipient and carries the session key.
        for at in (100..message.len()).step_by(3) {
            let mut flipped = message.clone();
            flipped[at] ^= 0x10;
            answers.push(daemon.refuses(&flipped, Require::None, Reason::OpenpgpDamaged));
        }
        // Before it other answers are possible, but never the file.
        for at in 0..100 {
            let mut flipped = message.clone();
            flipped[at] ^= 0x10;
            assert!(matches!(daemon.open(&flipped, Require::Encrypted), Err(OpenError::Refused { .. })), "{at}");
        }
        for behind in [&b"x"[..], b"\n", b"\0", &message] {
            let longer = [&message[..], behind].concat();
            answers.push(daemon.refuses(&longer, Require::None, Reason::OpenpgpDamaged));
        }
    }
    let armored = gpg.run(&with(&["--armor"]), &rows);
    for len in (160..armored.len() - 40).step_by(7) {
        answers.push(daemon.refuses(&armored[..len], Require::None, Reason::OpenpgpDamaged));
    }
    answers.sort();
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
}

#[test]
fn damage_in_a_long_message_comes_before_the_end() {
    let daemon = Daemon::new();
    let gpg = daemon.partner();
    let rows = rows(1_500_000);
    for options in [&["-z", "0"][..], &["-z", "1"]] {
        let message = gpg.run(&with(options), &rows);
        let mut flipped = message.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        daemon.refuses(&flipped, Require::None, Reason::OpenpgpDamaged);
        daemon.refuses(&message[..middle], Require::None, Reason::OpenpgpDamaged);
        daemon.refuses(&message[..message.len() - 1], Require::None, Reason::OpenpgpDamaged);
    }
}

#[test]
fn messages_for_others() {
    let daemon = Daemon::new();
    let gpg = daemon.partner();
    gpg.make_key("other", "rsa2048", "encr");
    let message = gpg.run(&["-e", "-r", "other"], b"A1\n");
    let text = daemon.refuses(&message, Require::None, Reason::OpenpgpNoKey);
    let listed = gpg.run(&["--list-keys", "--with-colons", "other"], b"");
    let listed = String::from_utf8(listed).unwrap();
    let id = listed.lines().find(|line| line.starts_with("pub:")).unwrap().split(':').nth(4).unwrap();
    assert!(text.contains(id), "{text} {id}");
    daemon.refuses(&gpg.run(&["-e", "--throw-keyids", "-r", "other"], b"A1\n"), Require::None, Reason::OpenpgpNoKey);
    // Among several recipients, hidden ones too.
    let both = gpg.run(&["-e", "-r", "other", "-r", "coupond"], b"A1\n");
    daemon.opens(&both, Require::Encrypted, b"A1\n");
    let hidden = gpg.run(&["-e", "-R", "other", "-R", "coupond"], b"A1\n");
    daemon.opens(&hidden, Require::Encrypted, b"A1\n");
    let password = gpg.run(&["--passphrase", "secret", "-c"], b"A1\n");
    daemon.refuses(&password, Require::None, Reason::OpenpgpUnsupported);
}

#[test]
fn weak_or_foreign_forms() {
    let daemon = Daemon::new();
    let gpg = daemon.partner();
    for cipher in ["CAST5", "3DES", "TWOFISH"] {
        let weak = gpg.run(&with(&["--cipher-algo", cipher]), b"A1\n");
        let text = daemon.refuses(&weak, Require::None, Reason::OpenpgpUnsupported);
        assert!(text.contains("use AES"), "{text}");
    }
    // No integrity protection: the outer packet is tag 9. Version 2.2 can no longer write it for such a key, so its
    // header is put in front of the body by hand.
    let message = gpg.run(&with(&["-z", "0"]), &rows(100));
    let key_packet = 2 + usize::from(message[1]);
    for tag in [9, 20] {
        let mut other = message.clone();
        other[key_packet] = 0xc0 | tag;
        let text = daemon.refuses(&other, Require::None, Reason::OpenpgpUnsupported);
        assert!(text.contains(if tag == 9 { "MDC" } else { "AEAD" }), "{text}");
    }
    let certificate = daemon.keyring.certificate().unwrap();
    daemon.refuses(&certificate, Require::None, Reason::OpenpgpUnsupported);
    let secret = fs::read(daemon.state.path().join("openpgp/coupond.key")).unwrap();
    daemon.refuses(&secret, Require::None, Reason::OpenpgpUnsupported);
    daemon.refuses(&gpg.run(&["--export", "coupond"], b""), Require::None, Reason::OpenpgpUnsupported);
    daemon.refuses(&gpg.run(&TO_DAEMON, b"PK\x03\x04\0\0"), Require::None, Reason::NotText);
}

#[test]
fn bombs_are_stopped() {
    let daemon = Daemon::new();
    let gpg = daemon.partner();
    let zeros = vec![b'0'; 68 << 20];
    let bomb = gpg.run(&with(&["--compress-algo", "bzip2"]), &zeros);
    assert!(bomb.len() < 1 << 16);
    daemon.refuses(&bomb, Require::None, Reason::TooCompressed);
    let more = gpg.run(&with(&["-z", "1"]), &vec![b'0'; 71 << 20]);
    daemon.refuses(&more, Require::None, Reason::TooLarge);
}

#[test]
fn gnupg_reads_what_the_daemon_writes() {
    let daemon = Daemon::new();
    let gpg = daemon.partner();
    gpg.make_key("mailer", "rsa2048", "encr");
    let path = daemon.keep("mailer.asc", &gpg.run(&["--export", "--armor", "mailer"], b""));
    let mailer = Certificate::load(&path).unwrap();
    for size in [0, 100, 5_000_000] {
        let rows = rows(size);
        for sign_with in [None, Some(&*daemon.keyring)] {
            let mut message = Vec::new();
            let mut writer = EncryptingWriter::new(&mut message, &mailer, sign_with, daemon.now).unwrap();
            for part in rows.chunks(100_000) {
                writer.write_all(part).unwrap();
            }
            writer.finish().unwrap();
            let path = daemon.keep("out.pgp", &message);
            let status = daemon.state.path().join("status");
            let arguments = ["--status-file", status.to_str().unwrap(), "-d", path.to_str().unwrap()];
            assert!(gpg.run(&arguments, b"") == rows);
            let status = String::from_utf8_lossy(&fs::read(status).unwrap()).into_owned();
            assert_eq!(status.contains("GOODSIG"), sign_with.is_some(), "{status}");
            assert!(status.contains("GOODMDC"), "{status}");
        }
    }
}

#[test]
fn a_recipient_that_cannot_be_used_is_named_with_the_reason() {
    let daemon = Daemon::new();
    let gpg = Gpg::new();
    gpg.run(&["--quick-generate-key", "old", "rsa2048", "encr", "30d"], b"");
    gpg.make_key("signs", "ed25519", "sign");
    let load = |name: &str| {
        let path = daemon.keep("one.asc", &gpg.run(&["--export", name], b""));
        Certificate::load(&path).unwrap()
    };
    let later = daemon.now + TimeDelta::days(31);
    for (name, now, why) in [("old", later, "expired on"), ("signs", daemon.now, "no key to encrypt to")] {
        let recipients = load(name);
        match EncryptingWriter::new(Vec::new(), &recipients, None, now) {
            Err(EncryptError::Recipient(unusable)) => {
                assert!(unusable.why.contains(why), "{unusable}");
                assert_eq!(unusable.fingerprint, recipients[0].fingerprint());
            }
            other => panic!("{other:?}"),
        }
    }
    let none = EncryptingWriter::new(Vec::new(), &[], None, daemon.now);
    assert!(matches!(none, Err(EncryptError::NoRecipient)));
    let text = daemon.keep("text.asc", b"code\nA1\n");
    Certificate::load(&text).unwrap_err();
    Certificate::load(Path::new("/nonexistent")).unwrap_err();
}

#[test]
fn keyrings() {
    let daemon = Daemon::new();
    let path = daemon.state.path().join("openpgp/coupond.key");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    let again = Keyring::load_or_create(&[], daemon.state.path(), daemon.now).unwrap();
    assert_eq!(again.fingerprints(), daemon.keyring.fingerprints());
    assert!(again.warnings().is_empty());
    let public = daemon.keyring.certificate().unwrap();
    assert!(public.starts_with(b"-----BEGIN PGP PUBLIC KEY BLOCK-----"));

    // Rotation: an RSA key made by GnuPG now, and ours, which is dated a day back.
    let gpg = daemon.partner();
    gpg.make_key("newer", "rsa2048", "encr");
    let newer = daemon.keep("newer.key", &gpg.run(&["--export-secret-keys", "newer"], b""));
    let both = Keyring::load_or_create(&[path.clone(), newer], daemon.state.path(), daemon.now).unwrap();
    assert_eq!(both.fingerprints().len(), 2);
    assert!(both.warnings()[0].contains("chmod 600"), "{:?}", both.warnings());
    assert_eq!(both.fingerprints()[1], daemon.keyring.fingerprints()[0]);
    let rotated = Daemon { keyring: Arc::new(both), state: tempfile::tempdir().unwrap(), ..Daemon::new() };
    for name in ["coupond", "newer"] {
        rotated.opens(&gpg.run(&["-e", "-r", name], b"A1\n"), Require::Encrypted, b"A1\n");
    }

    let load = |name: &str, bytes: &[u8]| {
        let path = daemon.keep(name, bytes);
        Keyring::load_or_create(&[path], daemon.state.path(), daemon.now).unwrap_err()
    };
    assert!(matches!(load("text", b"code\n"), KeyringError::NotASecretKey { .. }));
    assert!(matches!(load("public", &public), KeyringError::NotASecretKey { .. }));
    gpg.make_key("signs", "ed25519", "sign");
    let signs = gpg.run(&["--export-secret-keys", "signs"], b"");
    assert!(matches!(load("signs", &signs), KeyringError::CannotDecrypt { .. }));
    gpg.run(&["--passphrase", "secret", "--quick-generate-key", "locked", "rsa2048", "encr", "never"], b"");
    let locked = gpg.run(&["--passphrase", "secret", "--export-secret-keys", "locked"], b"");
    assert!(matches!(load("locked", &locked), KeyringError::Passphrase { .. }));
}

#[test]
fn records_come_out_of_a_message() {
    let daemon = Daemon::new();
    let gpg = daemon.partner();
    let rows = rows(5_000_000);
    let path = daemon.keep("rows.pgp", &gpg.run(&with(&["-z", "1"]), &rows));
    let terms = Terms {
        keyring: Arc::clone(&daemon.keyring),
        require: Require::Encrypted,
        signers: [].into(),
        limits: limits(),
        now: daemon.now,
        asks_sha256: false,
    };
    let mut reader = RecordReader::new(open(File::open(path).unwrap(), terms), 64 << 10);
    let mut lines = 0;
    while let Some(record) = reader.next_record().unwrap() {
        lines += 1;
        assert_eq!((record.line(), record.len(), record.raw().len()), (lines, 1, 14));
    }
    assert_eq!(lines, rows.len() as u64 / 15);
    assert_eq!(reader.notes().plaintext_bytes, rows.len() as u64);
    assert_eq!(reader.source().summary().unwrap().plaintext_bytes, rows.len() as u64);
}

#[test]
fn a_disk_that_fails_is_no_fault_of_the_file() {
    let daemon = Daemon::new();
    // Reading a directory fails, as a bad disk does.
    let directory = File::open(daemon.state.path()).unwrap();
    assert!(matches!(daemon.open_file(directory, Require::None), Err(OpenError::Io(_))));
}

#[test]
fn a_reader_that_goes_away_ends_the_thread() {
    let daemon = Daemon::new();
    let mut writer_end = {
        let (read, write) = std::io::pipe().unwrap();
        let terms = Terms {
            keyring: Arc::clone(&daemon.keyring),
            require: Require::None,
            signers: [].into(),
            limits: limits(),
            now: daemon.now,
            asks_sha256: true,
        };
        let mut plaintext = open(File::from(std::os::fd::OwnedFd::from(read)), terms);
        let mut write = write;
        write.write_all(&vec![b'A'; 300_000]).unwrap();
        assert!(plaintext.next_chunk().unwrap().is_some());
        write
    };
    // The thread holds the other end of the pipe: once it has ended, writing fails.
    let chunk = vec![b'A'; 1 << 20];
    let ended = (0..100).any(|_| writer_end.write_all(&chunk).is_err());
    assert!(ended);
}
