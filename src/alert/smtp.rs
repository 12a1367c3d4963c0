//! One conversation with the mail server.
//!
//! Who is to blame decides what follows: the server as a whole (nothing is sent until it is well), or one mail (it alone is
//! tried again later). What the server says may hold addresses, so logs get its code, and the store its words.
//!
//! lettre begins TLS before it sets its timeouts, so a server that accepts and then says nothing would hold `smtps://` for
//! ever: the connection is made on a thread that can be left behind, one at most.

use std::error::Error;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use lettre::Address;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{SmtpConnection, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::{ClientId, Extension, MailParameter};

use super::server::{Protection, Server};
use crate::error_chain::chain;

/// How long the server may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From connecting to logged in, in all.
    pub connect: Duration,
    /// For each answer.
    pub answer: Duration,
    /// For the answer to a whole message: giving up here is how mails are sent twice.
    pub delivery: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(60), answer: Duration::from_secs(30), delivery: Duration::from_secs(600) }
    }
}

impl Timeouts {
    /// Longer than any conversation about one mail: how long a mail is claimed.
    pub(super) fn longest(&self) -> Duration {
        self.connect + self.answer * 10 + self.delivery
    }
}

/// Why a mail was not sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    /// Who has it.
    pub(super) with: With,
    /// Whether waiting alone will not help.
    pub(super) lasting: bool,
    /// What to log: no address, no words of the server.
    pub(super) told: String,
    /// All of it, for the store.
    pub(super) whole: String,
}

/// Who has trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum With {
    /// The server, whatever the mail.
    Server,
    /// This mail.
    Mail,
    /// Nobody knows: the message was handed over and the answer never came.
    Answer,
}

impl Trouble {
    pub(super) fn server(text: impl Into<String>, lasting: bool) -> Self {
        let told = text.into();
        Self { with: With::Server, lasting, whole: told.clone(), told }
    }

    pub(super) fn mail(text: impl Into<String>) -> Self {
        let told = text.into();
        Self { with: With::Mail, lasting: true, whole: told.clone(), told }
    }

    fn from_server(with: With, step: &str, error: &lettre::transport::smtp::Error) -> Self {
        let whole = match timed_out(error) {
            true => format!("{step}: no answer in time"),
            false => format!("{step}: {}", chain(error)),
        };
        let told = match error.status() {
            Some(code) => format!("{step}: the server answered {code}"),
            None => whole.clone(),
        };
        Self { with, lasting: error.is_permanent(), told, whole }
    }

    /// What an answer to a command about one mail means. 421 is the server going away.
    fn about_mail(step: &str, error: &lettre::transport::smtp::Error) -> Self {
        let with = match error.status().map(u16::from) {
            Some(421) | None => With::Server,
            Some(_) => With::Mail,
        };
        Self::from_server(with, step, error)
    }
}

/// The system says of a read that took too long that it would block.
fn timed_out(error: &(dyn Error + 'static)) -> bool {
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    matches!(kind, Some(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)) || error.source().is_some_and(timed_out)
}

/// Makes connections.
#[derive(Debug, Default)]
pub(super) struct Connector {
    /// The thread that was left behind.
    stuck: Option<JoinHandle<()>>,
}

impl Connector {
    /// Connects and logs in.
    pub(super) fn connect(
        &mut self,
        server: &Server,
        password: Option<&Path>,
        hello: &str,
        timeouts: Timeouts,
    ) -> Result<Conversation, Trouble> {
        if self.stuck.as_ref().is_some_and(|stuck| !stuck.is_finished()) {
            return Err(Trouble::server("connect: the last connection is still open without an answer", false));
        }
        let login = match (&server.user, password) {
            (Some(user), Some(path)) => Some(Credentials::new(user.clone(), read_password(path)?)),
            _ => None,
        };
        let (server, hello) = (server.clone(), ClientId::Domain(hello.to_owned()));
        let (done, result) = mpsc::channel();
        let thread = thread::spawn(move || {
            // Nobody listens any more when it took too long; the connection is then closed by being dropped.
            let _ = done.send(open(&server, login.as_ref(), &hello, timeouts.answer));
        });
        match result.recv_timeout(timeouts.connect) {
            Ok(opened) => opened.map(|connection| Conversation { connection, timeouts }),
            Err(_) => {
                self.stuck = Some(thread);
                Err(Trouble::server(format!("connect: no answer within {} s", timeouts.connect.as_secs()), false))
            }
        }
    }
}

fn open(
    server: &Server,
    login: Option<&Credentials>,
    hello: &ClientId,
    timeout: Duration,
) -> Result<SmtpConnection, Trouble> {
    let trouble = |step: &str, error: &_| Trouble::from_server(With::Server, step, error);
    let checked = server.protection != Protection::WhereOffered;
    let tls = TlsParameters::builder(server.host.clone())
        .dangerous_accept_invalid_certs(!checked)
        .dangerous_accept_invalid_hostnames(!checked)
        .build()
        .map_err(|error| trouble("prepare TLS", &error))?;
    let at_once = (server.protection == Protection::FromTheStart).then_some(&tls);
    let place = (server.host.as_str(), server.port);
    let mut connection = SmtpConnection::connect(place, Some(timeout), hello, at_once, None)
        .map_err(|error| trouble("connect", &error))?;
    let starttls = match server.protection {
        Protection::FromTheStart => false,
        Protection::Required => true,
        Protection::WhereOffered => connection.can_starttls(),
    };
    if starttls {
        connection.starttls(&tls, hello).map_err(|error| trouble("start TLS", &error))?;
    }
    if let Some(login) = login {
        connection.auth(&[Mechanism::Plain, Mechanism::Login], login).map_err(|error| trouble("log in", &error))?;
    }
    Ok(connection)
}

/// The first line of the password file; read each time, so that a changed password needs no reload.
fn read_password(path: &Path) -> Result<String, Trouble> {
    let unreadable = |why: String| Trouble::server(format!("read the password file: {why}"), true);
    let file = File::open(path).map_err(|error| unreadable(error.to_string()))?;
    let mut line = String::new();
    BufReader::new(file.take(4096)).read_line(&mut line).map_err(|error| unreadable(error.to_string()))?;
    let password = line.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(unreadable("its first line is empty".to_owned()));
    }
    Ok(password.to_owned())
}

/// A connection that is logged in.
pub(super) struct Conversation {
    connection: SmtpConnection,
    timeouts: Timeouts,
}

impl Conversation {
    /// Hands one message over. `Ok`: the server has it.
    ///
    /// After any trouble the conversation is over.
    pub(super) fn deliver(&mut self, from: &Address, to: &Address, message: &[u8]) -> Result<(), Trouble> {
        let ascii = AsRef::<str>::as_ref(from).is_ascii() && AsRef::<str>::as_ref(to).is_ascii();
        let mut parameters = Vec::new();
        if !ascii {
            if !self.connection.server_info().supports_feature(Extension::SmtpUtfEight) {
                return Err(Trouble::mail("the address is not ASCII and the server takes no others"));
            }
            parameters.push(MailParameter::SmtpUtfEight);
        }
        let connection = &mut self.connection;
        connection
            .command(Mail::new(Some(from.clone()), parameters))
            .map_err(|error| Trouble::about_mail("name the sender", &error))?;
        connection
            .command(Rcpt::new(to.clone(), Vec::new()))
            .map_err(|error| Trouble::about_mail("name the recipient", &error))?;
        connection.command(Data).map_err(|error| Trouble::about_mail("begin the message", &error))?;
        self.wait(self.timeouts.delivery)?;
        let handed_over = self.connection.message(message).map_err(|error| match error.status() {
            Some(_) => Trouble::about_mail("hand the message over", &error),
            None => Trouble::from_server(With::Answer, "wait for the last answer", &error),
        });
        handed_over?;
        fail::fail_point!("mail-accepted", |_| std::process::abort());
        self.wait(self.timeouts.answer)
            // The message is with the server, whatever happens to the connection now.
            .or(Ok(()))
    }

    fn wait(&mut self, timeout: Duration) -> Result<(), Trouble> {
        self.connection
            .set_timeout(Some(timeout))
            .map_err(|error| Trouble::server(format!("set a timeout: {error}"), false))
    }

    /// Says goodbye.
    pub(super) fn quit(mut self) {
        let _ = self.connection.quit();
    }
}
