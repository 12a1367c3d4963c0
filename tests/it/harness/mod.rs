//! What the tests stand on. Everything it starts ends with the test process, and everything it writes is removed.

pub mod mail_server;
pub mod postgres;
pub mod workshop;
