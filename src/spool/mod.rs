//! The only module that creates, moves or deletes data files: uploads, reports, assignment files.
//!
//! Each namespace has one directory tree, so that every move is a rename in one file system ([`layout`]). An upload's
//! row in the store is the truth; the file follows.

mod behind;
pub mod drops;
pub mod durable;
mod file_name;
mod layout;
mod place;
mod prepared;
mod publish;
mod reception;
pub mod retention;
pub mod tree;

pub use file_name::{FileName, inbound_name, parse_date};
pub use layout::Layout;
pub use place::{Kind, Place};
pub use prepared::{PreparedReport, RejectsWriter};
pub use publish::{Content, Prepared, content_of, publish};
pub use reception::{Closed, Intent, Receiving, Reception, ReceptionError, Sender, Wake, WriteError, is_temporary};
