//! What the data thread counts: how much of what it did, and how long each hop of a request took.
//!
//! Plain numbers, added to in place; read as a list of names and values for reports. A hop is kept in nanoseconds and
//! reported in microseconds, so that short ones do not round to nothing.

use std::time::Duration;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Hop {
    count: u64,
    nanoseconds: u64,
    longest_nanoseconds: u64,
}

impl Hop {
    pub(super) fn took(&mut self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.count += 1;
        self.nanoseconds = self.nanoseconds.saturating_add(nanoseconds);
        self.longest_nanoseconds = self.longest_nanoseconds.max(nanoseconds);
    }

    fn list(&self, name: &str, into: &mut Vec<(String, u64)>) {
        into.push((format!("{name}_count"), self.count));
        into.push((format!("{name}_us_sum"), self.nanoseconds / 1000));
        into.push((format!("{name}_us_max"), self.longest_nanoseconds / 1000));
    }
}

macro_rules! counters {
    ({ $($(#[$meta:meta])* $name:ident,)* } hops { $($(#[$hop_meta:meta])* $hop:ident,)* }) => {
        #[derive(Clone, Debug, Default)]
        pub(super) struct Counters {
            $($(#[$meta])* pub(super) $name: u64,)*
            $($(#[$hop_meta])* pub(super) $hop: Hop,)*
        }

        impl Counters {
            pub(super) fn list(&self) -> Vec<(String, u64)> {
                let mut all = vec![$((stringify!($name).to_owned(), self.$name)),*];
                $(self.$hop.list(stringify!($hop), &mut all);)*
                all
            }
        }
    };
}

counters! { {
    requests,
    requests_refused,
    /// Of a client for the session of another one.
    requests_of_other_sessions,
    /// Waited for a newer map.
    requests_waited_for_map,
    /// Writes sent back because too many were being worked on.
    requests_without_room,
    /// The most data of writes that were being worked on at a time.
    request_bytes_most,
    /// Slowed down because a journal was filling up.
    requests_slowed,
    bytes_written,
    bytes_read,
    /// Read from another group's primary, or this node's own, and written here.
    bytes_copied,
    peer_messages,
    /// Not sent: no connection, or its queue is full. The protocol repeats what matters.
    peer_messages_unsent,
    /// From somebody who may not say it, or for a group that is not here.
    peer_messages_refused,
    appended_entries,
    appended_bytes,
    syncs,
    checkpoints,
    checkpoint_waits,
    reads_from_memory,
    reads_from_disk,
    blocks_bad,
    blocks_repaired,
    blocks_unrepairable,
    scrubbed_blocks,
    scrub_rounds,
    events_dropped,
} hops {
    /// From the frame's arrival to its place in the log, appended here and queued to the backups.
    write_sequence,
    /// From there to the answer: every member has it (and has synced it, where asked).
    write_replicate,
    write_total,
    read_total,
    flush_total,
    other_total,
    /// A backup's turn: from an append message's arrival to its answer.
    backup_append,
    /// One write to the journal's page cache.
    journal_append,
    /// One fdatasync, waiting for its thread included.
    journal_sync,
    /// One cold read, waiting for its thread included.
    cold_read,
    /// A turn of the loop: everything that was ready, as one batch.
    turn,
} }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hops_shorter_than_a_microsecond_add_up() {
        let mut counters = Counters::default();
        for _ in 0..10 {
            counters.turn.took(Duration::from_nanos(300));
        }
        let list = counters.list();
        let value = |name: &str| list.iter().find(|(n, _)| n == name).map(|(_, v)| *v);
        assert_eq!(value("turn_count"), Some(10));
        assert_eq!(value("turn_us_sum"), Some(3));
        assert_eq!(value("turn_us_max"), Some(0));
        assert_eq!(value("requests"), Some(0));
    }
}
