//! The private PostgreSQL's settings, all on its command line, so that nothing is to be edited on disk.

use std::fs;

/// The same on every machine. `fsync`, `full_page_writes` and `synchronous_commit` stay on.
const FIXED: &[&str] = &[
    // No TCP: the socket in a private directory is the only way in.
    "listen_addresses=",
    "unix_socket_permissions=0700",
    "port=5432",
    "cluster_name=coupond",
    "max_connections=50",
    "max_wal_size=4GB",
    "checkpoint_timeout=15min",
    "wal_compression=lz4",
    // `minimal` gains nothing here and forbids pg_basebackup.
    "wal_level=replica",
    "max_wal_senders=3",
    // Compiled queries need memory that is writable and executable, which the systemd unit forbids.
    "jit=off",
    "logging_collector=off",
    "timezone=UTC",
    "log_timezone=UTC",
    // Details and statements in PostgreSQL's log would show codes.
    "log_error_verbosity=terse",
    "log_min_error_statement=panic",
];

const MIB: u64 = 1 << 20;

/// What the server is started with on a machine with `memory` bytes.
pub(super) fn of(memory: u64, durable: bool) -> Vec<String> {
    let mut settings: Vec<String> = FIXED.iter().map(|setting| (*setting).to_owned()).collect();
    settings.push(format!("shared_buffers={}MB", shared_buffers(memory) / MIB));
    if !durable {
        settings.push("fsync=off".to_owned());
    }
    settings
}

/// An eighth of the memory, between 128 MiB and 2 GiB: an upload into a large bank touches index pages all over it, and what
/// does not fit here is read again and again. The rest is the system's own cache.
fn shared_buffers(memory: u64) -> u64 {
    (memory / 8).clamp(128 * MIB, 2048 * MIB)
}

/// The memory of the machine, or of the container where that has less, in bytes. 0 where neither can be read.
pub(super) fn memory() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(total);
    let container = fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    machine.into_iter().chain(container).min().unwrap_or(0)
}

/// The total in `/proc/meminfo`, which counts in KiB.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(memory: u64, expected: &str) {
        let settings = of(memory, true);
        assert!(settings.iter().any(|setting| setting == expected), "{settings:?}");
        assert!(!settings.iter().any(|setting| setting.starts_with("fsync")));
    }

    #[test]
    fn buffers_follow_the_memory() {
        check(0, "shared_buffers=128MB");
        check(512 * MIB, "shared_buffers=128MB");
        check(2048 * MIB, "shared_buffers=256MB");
        check(8192 * MIB, "shared_buffers=1024MB");
        check(1024 * 1024 * MIB, "shared_buffers=2048MB");
        assert!(of(0, false).contains(&"fsync=off".to_owned()));
    }

    #[test]
    fn memory_is_read_in_kib() {
        assert_eq!(total("MemTotal:       24576 kB\nMemFree:  1 kB\n"), Some(24 * MIB));
        assert_eq!(total("MemFree: 1 kB\n"), None);
        assert_eq!(total("MemTotal: many kB\n"), None);
        assert!(memory() > 64 * MIB);
    }
}
