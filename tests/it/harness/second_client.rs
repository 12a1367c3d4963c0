//! A second SFTP client, which shares no code with OpenSSH's: it sends any path as it stands, and tells status codes.

use std::path::Path;
use std::sync::Arc;

use russh::client::{self, Handle};
use russh::keys::{PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh_sftp::client::error::Error;
use russh_sftp::client::{RawSftpSession, SftpSession};
use russh_sftp::protocol::{FileAttributes, OpenFlags, StatusCode};
use tokio::runtime::Runtime;

/// A connection that is logged in.
pub struct SecondClient {
    runtime: Runtime,
    connection: Handle<Trusting>,
    raw: RawSftpSession,
}

/// How a request ended that did not succeed.
pub type Answer<T> = Result<T, StatusCode>;

struct Trusting;

impl client::Handler for Trusting {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _key: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        Ok(true)
    }
}

enum Proof<'a> {
    Key(&'a Path),
    Password(&'a str),
}

impl SecondClient {
    /// Logs in with a key; says why not.
    pub fn with_key(port: u16, user: &str, key: &Path) -> Result<Self, String> {
        Self::connect(port, user, &Proof::Key(key))
    }

    /// Logs in with a password; says why not.
    pub fn with_password(port: u16, user: &str, password: &str) -> Result<Self, String> {
        Self::connect(port, user, &Proof::Password(password))
    }

    fn connect(port: u16, user: &str, proof: &Proof<'_>) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (connection, raw) = runtime.block_on(async {
            let config = Arc::new(client::Config::default());
            let mut connection =
                client::connect(config, ("127.0.0.1", port), Trusting).await.map_err(|error| error.to_string())?;
            let answer = match proof {
                Proof::Key(path) => {
                    let key = Arc::new(russh::keys::load_secret_key(path, None).unwrap());
                    connection.authenticate_publickey(user, PrivateKeyWithHashAlg::new(key, None)).await
                }
                Proof::Password(password) => connection.authenticate_password(user, *password).await,
            };
            if !answer.map_err(|error| error.to_string())?.success() {
                return Err("not logged in".to_owned());
            }
            let channel = connection.channel_open_session().await.map_err(|error| error.to_string())?;
            channel.request_subsystem(true, "sftp").await.map_err(|error| error.to_string())?;
            let raw = RawSftpSession::new(channel.into_stream());
            raw.init().await.map_err(|error| error.to_string())?;
            Ok::<_, String>((connection, raw))
        })?;
        Ok(Self { runtime, connection, raw })
    }

    /// The library's own way to work with files, on a channel of its own.
    pub fn session<T>(&self, work: impl AsyncFnOnce(&SftpSession) -> T) -> T {
        self.runtime.block_on(async {
            let channel = self.connection.channel_open_session().await.unwrap();
            channel.request_subsystem(true, "sftp").await.unwrap();
            let session = SftpSession::new(channel.into_stream()).await.unwrap();
            work(&session).await
        })
    }

    /// The names in a directory, sorted.
    pub fn list(&self, path: &str) -> Answer<Vec<String>> {
        self.runtime.block_on(async {
            let handle = self.raw.opendir(path).await.map_err(status)?.handle;
            let mut names = Vec::new();
            loop {
                match self.raw.readdir(handle.as_str()).await.map_err(status) {
                    Ok(more) => names.extend(more.files.into_iter().map(|file| file.filename)),
                    Err(StatusCode::Eof) => break,
                    Err(other) => return Err(other),
                }
            }
            self.raw.close(handle).await.map_err(status)?;
            names.retain(|name| name != "." && name != "..");
            names.sort();
            Ok(names)
        })
    }

    /// The first bytes of a file, up to 32,000.
    pub fn read(&self, path: &str) -> Answer<Vec<u8>> {
        self.runtime.block_on(async {
            let opened = self.raw.open(path, OpenFlags::READ, FileAttributes::empty()).await;
            let handle = opened.map_err(status)?.handle;
            let read = self.raw.read(handle.as_str(), 0, 32_000).await.map_err(status);
            self.raw.close(handle).await.map_err(status)?;
            match read {
                Ok(data) => Ok(data.data),
                Err(StatusCode::Eof) => Ok(Vec::new()),
                Err(other) => Err(other),
            }
        })
    }

    /// OPEN for writing, WRITE, CLOSE.
    pub fn write(&self, path: &str, content: &[u8]) -> Answer<()> {
        self.write_with(path, content, OpenFlags::CREATE | OpenFlags::TRUNCATE | OpenFlags::WRITE)
    }

    /// The same with these flags.
    pub fn write_with(&self, path: &str, content: &[u8], flags: OpenFlags) -> Answer<()> {
        self.runtime.block_on(async {
            let handle = self.raw.open(path, flags, FileAttributes::empty()).await.map_err(status)?.handle;
            let written = self.raw.write(handle.as_str(), 0, content.to_vec()).await.map_err(status);
            self.raw.close(handle).await.map_err(status)?;
            written.map(drop)
        })
    }

    /// Writes and leaves the file open: the session drops in the middle.
    pub fn write_and_drop(self, path: &str, content: &[u8]) {
        self.runtime.block_on(async {
            let flags = OpenFlags::CREATE | OpenFlags::TRUNCATE | OpenFlags::WRITE;
            let handle = self.raw.open(path, flags, FileAttributes::empty()).await.unwrap().handle;
            self.raw.write(handle, 0, content.to_vec()).await.unwrap();
        });
    }

    /// The size of a file.
    pub fn size(&self, path: &str) -> Answer<u64> {
        let found = self.runtime.block_on(self.raw.stat(path)).map_err(status)?;
        Ok(found.attrs.size.unwrap_or_default())
    }

    /// LSTAT
    pub fn lstat(&self, path: &str) -> Answer<FileAttributes> {
        self.runtime.block_on(self.raw.lstat(path)).map(|found| found.attrs).map_err(status)
    }

    /// SETSTAT
    pub fn set(&self, path: &str, attributes: FileAttributes) -> Answer<()> {
        self.runtime.block_on(self.raw.setstat(path, attributes)).map(drop).map_err(status)
    }

    /// RENAME
    pub fn rename(&self, from: &str, to: &str) -> Answer<()> {
        self.runtime.block_on(self.raw.rename(from, to)).map(drop).map_err(status)
    }

    /// REMOVE
    pub fn remove(&self, path: &str) -> Answer<()> {
        self.runtime.block_on(self.raw.remove(path)).map(drop).map_err(status)
    }

    /// MKDIR
    pub fn make_directory(&self, path: &str) -> Answer<()> {
        self.runtime.block_on(self.raw.mkdir(path, FileAttributes::empty())).map(drop).map_err(status)
    }

    /// RMDIR
    pub fn remove_directory(&self, path: &str) -> Answer<()> {
        self.runtime.block_on(self.raw.rmdir(path)).map(drop).map_err(status)
    }

    /// SYMLINK
    pub fn link(&self, path: &str, target: &str) -> Answer<()> {
        self.runtime.block_on(self.raw.symlink(path, target)).map(drop).map_err(status)
    }

    /// READLINK
    pub fn read_link(&self, path: &str) -> Answer<()> {
        self.runtime.block_on(self.raw.readlink(path)).map(drop).map_err(status)
    }

    /// hardlink@openssh.com
    pub fn hard_link(&self, path: &str, target: &str) -> Answer<()> {
        self.runtime.block_on(self.raw.hardlink(path, target)).map(drop).map_err(status)
    }

    /// REALPATH
    pub fn real_path(&self, path: &str) -> Answer<String> {
        let found = self.runtime.block_on(self.raw.realpath(path)).map_err(status)?;
        Ok(found.files[0].filename.clone())
    }

    /// statvfs@openssh.com
    pub fn space(&self, path: &str) -> Answer<()> {
        self.runtime.block_on(self.raw.statvfs(path)).map(drop).map_err(status)
    }
}

#[track_caller]
fn status(error: Error) -> StatusCode {
    match error {
        // A reply to one request that fits no pattern would be a bug of the daemon: it shows as this.
        Error::Status(status) => status.status_code,
        Error::Timeout => StatusCode::NoConnection,
        _ => StatusCode::ConnectionLost,
    }
}
