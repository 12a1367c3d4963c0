//! The only module that creates, moves or deletes data files: uploads, reports, assignment files.
//!
//! Each namespace has one directory tree, so that every move is a rename in one file system ([`layout`]). An upload's
//! row in the store is the truth; the file follows.

mod layout;
mod place;
mod publish;

pub use layout::Layout;
pub use place::{Kind, Place};
pub use publish::{Content, Prepared, content_of, publish};
