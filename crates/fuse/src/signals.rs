//! Whether a thread that waits in the kernel was sent a signal.
//!
//! The kernel tells a file system by INTERRUPT, which fuser answers with "not implemented"; from then on the kernel lets a
//! thread sleep until its request is answered, even when it is killed. So somebody has to look.

use std::fs;
use std::io::ErrorKind;
use tokio::time::{Instant, interval_at};
use weft_types::limits::LOCK_SIGNAL_CHECK;

/// Ends when the thread has a signal to act on, or is gone. Never ends for thread 0: one that this process cannot see.
pub async fn interrupted(thread: u32) {
    if thread == 0 {
        return std::future::pending().await;
    }
    let path = format!("/proc/{thread}/status");
    let mut every = interval_at(Instant::now() + LOCK_SIGNAL_CHECK, LOCK_SIGNAL_CHECK);
    loop {
        every.tick().await;
        match fs::read_to_string(&path) {
            Ok(status) if has_signal(&status) => return,
            Err(error) if error.kind() == ErrorKind::NotFound => return,
            // Look again.
            Ok(_) | Err(_) => {}
        }
    }
}

/// A signal is pending, to the thread or its process, that is not blocked. One that is ignored is never pending.
fn has_signal(status: &str) -> bool {
    let field = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
    };
    (field("SigPnd:") | field("ShdPnd:")) & !field("SigBlk:") != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pending_signal_counts_unless_it_is_blocked() {
        let status = |thread: &str, process: &str, blocked: &str| {
            format!("Name:\tx\nSigPnd:\t{thread}\nShdPnd:\t{process}\nSigBlk:\t{blocked}\nSigIgn:\t0000000000001000\n")
        };
        assert!(!has_signal(&status("0000000000000000", "0000000000000000", "0000000000000000")));
        assert!(has_signal(&status("0000000000000100", "0000000000000000", "0000000000000000")), "SIGKILL");
        assert!(has_signal(&status("0000000000000000", "0000000000004000", "0000000000000000")), "SIGTERM");
        assert!(!has_signal(&status("0000000000000000", "0000000000004000", "0000000000004000")), "blocked");
    }

    #[test]
    fn this_thread_reads_as_without_signals_and_a_missing_one_as_gone() {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        assert!(!has_signal(&status));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // Process ids stay below 2^22.
        runtime.block_on(interrupted(1 << 30));
    }
}
