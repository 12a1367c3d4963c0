//! A file a section: the raw struct as the admin writes it, and the judge that makes settings of it.
//!
//! A judge returns `None` only after it has noted a problem.

pub(super) mod banks;
pub(super) mod campaigns;
pub(super) mod database;
pub(super) mod http;
pub(super) mod limits;
pub(super) mod mail;
pub(super) mod openpgp;
pub(super) mod redemptions;
pub(super) mod sftp;
pub(super) mod signing;
pub(super) mod spool;
pub(super) mod users;
