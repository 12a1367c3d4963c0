//! A second SFTP client, which shares no code with OpenSSH's: the library russh-sftp, used as its documentation shows.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use russh::Preferred;
use russh::client::{self, Handle};
use russh::keys::{PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh_sftp::client::SftpSession;
use tokio::runtime::Runtime;

/// A connection that is logged in.
pub struct Client {
    runtime: Runtime,
    _connection: Handle<Trusting>,
    session: SftpSession,
}

struct Trusting;

impl client::Handler for Trusting {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _key: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        Ok(true)
    }
}

impl Client {
    /// Logs in with a key.
    pub fn connect(port: u16, user: &str, key: &Path, cipher: Option<&str>) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (connection, session) = runtime.block_on(async {
            let mut config = client::Config { nodelay: true, ..client::Config::default() };
            if let Some(cipher) = cipher {
                let name = russh::cipher::Name::try_from(cipher).ok().context("a cipher that the client knows")?;
                config.preferred = Preferred { cipher: vec![name].into(), ..Preferred::default() };
            }
            let mut connection = client::connect(Arc::new(config), ("127.0.0.1", port), Trusting).await?;
            let key = PrivateKeyWithHashAlg::new(Arc::new(russh::keys::load_secret_key(key, None)?), None);
            let answer = connection.authenticate_publickey(user, key).await?;
            anyhow::ensure!(answer.success(), "log in as `{user}`");
            let patient = russh_sftp::client::Config { request_timeout_secs: 600, ..Default::default() };
            let channel = connection.channel_open_session().await?;
            channel.request_subsystem(true, "sftp").await?;
            let session = SftpSession::new_with_config(channel.into_stream(), patient).await?;
            Ok((connection, session))
        })?;
        Ok(Self { runtime, _connection: connection, session })
    }

    /// Something with the library's session.
    pub fn does<T>(&self, work: impl AsyncFnOnce(&SftpSession) -> anyhow::Result<T>) -> anyhow::Result<T> {
        self.runtime.block_on(work(&self.session))
    }

    /// RENAME
    pub fn rename(&self, from: &str, to: &str) -> anyhow::Result<()> {
        self.does(async |session| Ok(session.rename(from, to).await?)).with_context(|| format!("rename `{from}`"))
    }
}
