//! The SFTP endpoint.
mod packet;
mod path;
mod permissions;
mod tree;
