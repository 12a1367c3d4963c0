//! One connection as russh drives it: logs in, opens channels, feeds the SFTP engine. Everything that SSH offers beyond
//! session channels with the subsystem `sftp` is refused.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use russh::keys::{Algorithm, EcdsaCurve, HashAlg};
use russh::server::{Auth, ChannelOpenHandle, Config, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey};
use russh::{ChannelId, ChannelOpenFailure, MethodKind, MethodSet, Preferred, SshId, cipher, compression, kex, mac};
use tokio_util::sync::CancellationToken;

use super::channel::{Channel, MOST_AT_ONCE, SLOW_DOWN, Turn};
use super::engine::{Engine, Fatal};
use super::{HostKeys, Shared, auth, packet};
use crate::config::Limits;
use crate::spool::Sender;

const WINDOW: u32 = 4 << 20;
/// The window of a client that is far ahead of its answers.
const SMALL_WINDOW: u32 = 64 << 10;
const MOST_CHANNELS: usize = 4;
/// A client that takes less than this at once makes forty bytes of headers for each byte of a file.
const SMALLEST_PACKET: usize = 1024;
/// Keys that a client may offer without a signature. russh does not count those that would be accepted.
const MOST_OFFERS: usize = 30;

/// What is negotiated: post-quantum first, AEAD only, no SHA-1, no compression. Leaving the two extension names out
/// would silently switch strict key exchange off.
const KEX: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::EXTENSION_SUPPORT_AS_SERVER,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
];
const CIPHERS: &[cipher::Name] = &[cipher::CHACHA20_POLY1305, cipher::AES_128_GCM, cipher::AES_256_GCM];
/// Only named: AEAD ciphers bring their own.
const MACS: &[mac::Name] = &[mac::HMAC_SHA512_ETM, mac::HMAC_SHA256_ETM];
const KEYS: &[Algorithm] = &[
    Algorithm::Ed25519,
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
    Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
    Algorithm::Rsa { hash: Some(HashAlg::Sha256) },
];

fn methods() -> MethodSet {
    MethodSet::from([MethodKind::PublicKey, MethodKind::Password].as_slice())
}

/// How russh is set up.
pub(super) fn ssh_config(host_keys: HostKeys, limits: &Limits) -> Config {
    Config {
        server_id: SshId::Standard(Cow::Borrowed("SSH-2.0-coupond")),
        methods: methods(),
        auth_rejection_time: Duration::from_secs(1),
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys: host_keys.0,
        window_size: WINDOW,
        maximum_packet_size: 65_535,
        channel_buffer_size: 1,
        event_buffer_size: 8,
        preferred: Preferred {
            kex: Cow::Borrowed(KEX),
            key: Cow::Borrowed(KEYS),
            host_key_certificates: Cow::Borrowed(&[]),
            cipher: Cow::Borrowed(CIPHERS),
            mac: Cow::Borrowed(MACS),
            compression: Cow::Borrowed(&[compression::NONE]),
        },
        max_auth_attempts: limits.login_attempts,
        // Idle and stalled connections are ended by the listener, which goes by SFTP requests and by bytes taken.
        inactivity_timeout: None,
        keepalive_interval: Some(Duration::from_secs(30)),
        keepalive_max: 3,
        nodelay: true,
        ..Config::default()
    }
}

/// What the listener knows of a connection while russh drives it.
pub(super) struct Connection {
    pub(super) source: SocketAddr,
    pub(super) end: CancellationToken,
    begun: Instant,
    last_request: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    user: Option<Sender>,
    channels: HashMap<ChannelId, Arc<Channel>>,
}

impl Connection {
    pub(super) fn new(source: SocketAddr, end: CancellationToken) -> Arc<Self> {
        Arc::new(Self { source, end, begun: Instant::now(), last_request: AtomicU64::new(0), state: Mutex::default() })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn user(&self) -> Option<Sender> {
        self.state().user.clone()
    }

    pub(super) fn channels(&self) -> Vec<Arc<Channel>> {
        self.state().channels.values().cloned().collect()
    }

    pub(super) fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    fn touch(&self) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_request.store(now, Ordering::Relaxed);
    }

    pub(super) fn idle_for(&self) -> Duration {
        self.begun.elapsed().saturating_sub(Duration::from_millis(self.last_request.load(Ordering::Relaxed)))
    }
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error(transparent)]
    Ssh(#[from] russh::Error),
    #[error(transparent)]
    Sftp(#[from] Fatal),
    #[error("log in: too many keys offered")]
    TooManyKeys,
}

/// russh's handler of one connection.
pub(super) struct SshSession {
    shared: Arc<Shared>,
    connection: Arc<Connection>,
    /// Called once, at login.
    logged_in: Box<dyn Fn() + Send + Sync>,
    offers: usize,
    /// Open channels; with SFTP on it or not yet.
    open: HashMap<ChannelId, Option<Arc<Channel>>>,
}

impl SshSession {
    pub(super) fn new(
        shared: Arc<Shared>,
        connection: Arc<Connection>,
        logged_in: Box<dyn Fn() + Send + Sync>,
    ) -> Self {
        Self { shared, connection, logged_in, offers: 0, open: HashMap::new() }
    }

    fn refuse(&self, user: &str, method: &'static str) -> Auth {
        self.shared.metrics.auth_failure(method);
        tracing::warn!(
            user = %user.escape_debug(), source = %self.connection.source, method, "login refused"
        );
        Auth::Reject { proceed_with_methods: Some(methods()), partial_success: false }
    }

    /// The decision, and all that is kept of it: from here on russh takes no further request to log in.
    fn accept(&mut self, sender: Sender, method: &'static str) -> Auth {
        tracing::info!(
            namespace = %sender.namespace, user = sender.user, source = %self.connection.source, method, "logged in"
        );
        self.connection.state().user = Some(sender);
        Auth::Accept
    }

    fn sftp(&self, id: ChannelId) -> Option<Arc<Channel>> {
        self.open.get(&id).cloned().flatten()
    }

    /// Answers the WRITEs at the front of `data` without copying them, where nothing is queued before them; gives back
    /// the rest. Many clients send each request in an SSH packet of its own, so this is most of their uploads.
    async fn write_in_place<'d>(
        &self,
        channel: &Arc<Channel>,
        mut data: &'d [u8],
        session: &mut Session,
    ) -> Result<&'d [u8], SessionError> {
        if !channel.inbox.is_idle() {
            return Ok(data);
        }
        let mut engine = channel.engine.lock().await;
        // The answers are bounded by the packet that `data` came in.
        while !session.has_pending_data(channel.id)
            && let Some((write, behind)) = packet::whole_write(data)
            && let Some(reply) = engine.answer_write(write)
        {
            self.connection.touch();
            session.data(channel.id, reply)?;
            data = behind;
        }
        Ok(data)
    }

    /// Answers what is queued, as long as the client takes the answers.
    async fn work(&self, channel: &Arc<Channel>, session: &mut Session) -> Result<(), SessionError> {
        let mut made = 0;
        loop {
            match channel.inbox.turn()? {
                Turn::Rest => return Ok(()),
                Turn::Finish => {
                    // russh tells nothing more about a channel that this side has closed.
                    channel.engine.lock().await.abandon().await;
                    session.exit_status_request(channel.id, 0)?;
                    session.eof(channel.id)?;
                    session.close(channel.id)?;
                    return Ok(());
                }
                Turn::Answer(packet) if made > MOST_AT_ONCE || session.has_pending_data(channel.id) => {
                    let connection = Arc::clone(&self.connection);
                    let answered = Arc::new(move || connection.touch());
                    channel.start_pump(packet, self.connection.end.clone(), answered);
                    return Ok(());
                }
                Turn::Answer(packet) => {
                    self.connection.touch();
                    let reply = channel.engine.lock().await.answer(packet).await?;
                    made += reply.len();
                    session.data(channel.id, reply)?;
                }
            }
        }
    }
}

impl Handler for SshSession {
    type Error = SessionError;

    async fn auth_none(&mut self, _user: &str) -> Result<Auth, Self::Error> {
        Ok(Auth::Reject { proceed_with_methods: Some(methods()), partial_success: false })
    }

    async fn auth_publickey_offered(&mut self, user: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, Self::Error> {
        self.offers += 1;
        if self.offers > MOST_OFFERS {
            return Err(SessionError::TooManyKeys);
        }
        let settings = self.shared.live.current();
        let key = (offer.public_key, offer.algorithm);
        Ok(match auth::by_key(&settings, user, self.connection.source.ip(), key) {
            // Worth a signature; nothing is decided yet, and nothing remembered.
            Some(_) => Auth::Accept,
            None => self.refuse(user, "publickey"),
        })
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        let settings = self.shared.live.current();
        let key = (key.public_key, key.algorithm);
        Ok(match auth::by_key(&settings, user, self.connection.source.ip(), key) {
            Some(sender) => self.accept(sender, "publickey"),
            None => self.refuse(user, "publickey"),
        })
    }

    async fn auth_password(&mut self, user: &str, password: &str) -> Result<Auth, Self::Error> {
        let settings = self.shared.live.current();
        let source = self.connection.source.ip();
        Ok(match self.shared.passwords.check(&settings, user, source, password).await {
            Some(sender) => self.accept(sender, "password"),
            None => self.refuse(user, "password"),
        })
    }

    async fn auth_succeeded(&mut self, _session: &mut Session) -> Result<(), Self::Error> {
        self.connection.touch();
        (self.logged_in)();
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: russh::Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.open.retain(|_, channel| channel.as_ref().is_none_or(|channel| !channel.inbox.is_gone()));
        self.connection.state().channels.retain(|_, channel| !channel.inbox.is_gone());
        // Dropping `channel` with its read half keeps russh from waiting for a reader that is not there.
        if self.open.len() >= MOST_CHANNELS || channel.writable_packet_size().await < SMALLEST_PACKET {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
        } else {
            self.open.insert(channel.id(), None);
            reply.accept().await;
        }
        Ok(())
    }

    async fn subsystem_request(&mut self, id: ChannelId, name: &str, session: &mut Session) -> Result<(), Self::Error> {
        let user = self.connection.user();
        match (self.open.get_mut(&id), user) {
            (Some(slot @ None), Some(user)) if name == "sftp" => {
                let engine = Engine::new(Arc::clone(&self.shared), user, self.connection.source.to_string());
                let channel = Channel::new(id, engine, session.handle());
                *slot = Some(Arc::clone(&channel));
                self.connection.state().channels.insert(id, channel);
                session.channel_success(id)?;
            }
            _ => session.channel_failure(id)?,
        }
        Ok(())
    }

    async fn data(&mut self, id: ChannelId, data: &[u8], session: &mut Session) -> Result<(), Self::Error> {
        let Some(channel) = self.sftp(id) else { return Ok(()) };
        let data = self.write_in_place(&channel, data, session).await?;
        channel.inbox.push(data)?;
        // Safe to wait for: while this holds, the pump needs nothing from this task.
        while channel.inbox.lags() && !session.has_pending_data(id) {
            channel.inbox.catch_up().await;
        }
        self.work(&channel, session).await
    }

    fn adjust_window(&mut self, _channel: ChannelId, _current: u32) -> u32 {
        let behind = self.open.values().flatten().any(|channel| channel.inbox.len() > SLOW_DOWN);
        if behind { SMALL_WINDOW } else { WINDOW }
    }

    async fn channel_eof(&mut self, id: ChannelId, session: &mut Session) -> Result<(), Self::Error> {
        if let Some(channel) = self.sftp(id) {
            channel.inbox.end_of_input();
            self.work(&channel, session).await?;
        }
        Ok(())
    }

    async fn channel_close(&mut self, id: ChannelId, _session: &mut Session) -> Result<(), Self::Error> {
        if let Some(Some(channel)) = self.open.remove(&id) {
            channel.inbox.close();
            self.connection.state().channels.remove(&id);
            channel.engine.lock().await.abandon().await;
        }
        Ok(())
    }

    async fn pty_request(
        &mut self,
        id: ChannelId,
        _term: &str,
        _columns: u32,
        _rows: u32,
        _width: u32,
        _height: u32,
        _modes: &[(russh::Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        Ok(session.channel_failure(id)?)
    }

    async fn x11_request(
        &mut self,
        id: ChannelId,
        _single: bool,
        _protocol: &str,
        _cookie: &str,
        _screen: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        Ok(session.channel_failure(id)?)
    }

    async fn env_request(
        &mut self,
        id: ChannelId,
        _name: &str,
        _value: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        Ok(session.channel_failure(id)?)
    }

    async fn shell_request(&mut self, id: ChannelId, session: &mut Session) -> Result<(), Self::Error> {
        Ok(session.channel_failure(id)?)
    }

    async fn exec_request(&mut self, id: ChannelId, _command: &[u8], session: &mut Session) -> Result<(), Self::Error> {
        Ok(session.channel_failure(id)?)
    }
}
