//! How much is measured.

/// Sizes of every job. Rows, unless it says bytes.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// What it is called.
    pub name: &'static str,
    /// Rounds of each job, unless the command line says otherwise.
    pub rounds: usize,
    /// Codes in a file of coupons.
    pub coupons: u64,
    /// Codes in the bank that is not empty: lots, codes of each.
    pub filled: (u16, u64),
    /// Codes in a file of redemptions; the 20 banks have 20 times as many.
    pub redemptions: u64,
    /// Recipients of a batch.
    pub recipients: u64,
    /// Bytes of a large file over SFTP.
    pub transfer: u64,
    /// Small files over SFTP.
    pub small_files: u64,
    /// Log-ins over SFTP.
    pub logins: u64,
    /// Bytes of plaintext in an OpenPGP message.
    pub message: u64,
    /// Bytes in the messages that are slow by nature (bzip2).
    pub slow_message: u64,
    /// Codes in the bank: a third of three steps of growth, each ten times the one before: lots, codes of each.
    pub scale: [(u16, u64); 3],
    /// Rows of the jobs on those banks.
    pub scale_rows: u64,
}

/// What the goals are about.
pub const FULL: Size = Size {
    name: "full",
    rounds: 3,
    coupons: 10_000_000,
    filled: (20, 1_000_000),
    redemptions: 1_000_000,
    recipients: 5_000_000,
    transfer: 1 << 30,
    small_files: 2_000,
    logins: 200,
    message: 1 << 30,
    slow_message: 256 << 20,
    scale: [(1, 1_000_000), (10, 1_000_000), (100, 1_000_000)],
    scale_rows: 1_000_000,
};

/// For whoever changes the code: minutes instead of hours.
pub const SMALL: Size = Size {
    name: "small",
    rounds: 2,
    coupons: 500_000,
    filled: (10, 100_000),
    redemptions: 100_000,
    recipients: 250_000,
    transfer: 100 << 20,
    small_files: 200,
    logins: 20,
    message: 100 << 20,
    slow_message: 16 << 20,
    scale: [(1, 50_000), (10, 50_000), (100, 50_000)],
    scale_rows: 50_000,
};

/// Only to see that everything runs; its figures say nothing.
pub const TINY: Size = Size {
    name: "tiny",
    rounds: 1,
    coupons: 20_000,
    filled: (4, 10_000),
    redemptions: 5_000,
    recipients: 10_000,
    transfer: 8 << 20,
    small_files: 20,
    logins: 5,
    message: 4 << 20,
    slow_message: 1 << 20,
    scale: [(1, 2_000), (10, 2_000), (100, 2_000)],
    scale_rows: 2_000,
};
