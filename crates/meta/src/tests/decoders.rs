//! Records and commands with wrong bytes; and commands that nobody sane sends, applied.

use crate::command::{Command, CommandReply, Stamped};
use crate::locks::InodeLocks;
use crate::records::{
    ClusterRecord, EntryRecord, InodeRecord, NodeEntry, NoticeRecord, ReclaimItem, RequestWindow, SessionRecord,
    SizeRecovery, TokenRecord, VolumeUsageRecord,
};
use crate::view::MemoryView;
use std::sync::OnceLock;
use weft_types::SessionOwner;
use weft_types::codec::decode;
use weft_types::fuzz::{Counting, Decoder, Outcome, examples, message_limit_bytes, run};
use weft_types::map::{PgRecord, VolumeRecord};

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn decoders_of_metadata_keep_their_rules_whatever_the_bytes_are() {
    run(
        env!("CARGO_MANIFEST_DIR"),
        &[
            Decoder::of::<Stamped>("command"),
            Decoder::of::<CommandReply>("command-reply"),
            Decoder::of::<ClusterRecord>("cluster-record"),
            Decoder::of::<NodeEntry>("node-record"),
            Decoder::of::<TokenRecord>("token-record"),
            Decoder::of::<SessionRecord>("session-record"),
            Decoder::of::<RequestWindow>("request-window"),
            Decoder::of::<InodeRecord>("inode-record"),
            Decoder::of::<EntryRecord>("entry-record"),
            Decoder::of::<VolumeUsageRecord>("usage-record"),
            Decoder::of::<ReclaimItem>("reclaim-item"),
            Decoder::of::<NoticeRecord>("notice-record"),
            Decoder::of::<SizeRecovery>("size-recovery"),
            Decoder::of::<InodeLocks>("inode-locks"),
            Decoder::of::<PgRecord>("pg-record"),
            Decoder::of::<VolumeRecord>("volume-record"),
        ],
    );
}

/// A cluster with a volume, a session and a file, so that made-up numbers sometimes name something.
fn populated() -> &'static MemoryView {
    static VIEW: OnceLock<MemoryView> = OnceLock::new();
    VIEW.get_or_init(|| super::world::World::with_group(3, 3).view)
}

/// Any command may come out of the log, and after it another: each is applied or refused, and the state stays readable.
fn applied(bytes: &[u8]) -> Outcome {
    let Ok(stamped) = decode::<Stamped>(bytes) else { return Outcome::Refused };
    let mut view = populated().clone();
    let at = stamped.at;
    let open = Command::OpenSession {
        owner: SessionOwner(1),
        volume_name: "v".to_owned(),
        host: String::new(),
        mount_point: String::new(),
    };
    for command in [open, stamped.command.clone(), Command::Nothing, stamped.command] {
        match crate::apply(&view, &Stamped { at, command }) {
            Ok(applied) => view.write(applied.batch),
            Err(error) => return Outcome::Broken(error.to_string()),
        }
    }
    match crate::read::facts(&view) {
        Ok(_) => Outcome::Accepted,
        Err(error) => Outcome::Broken(error.to_string()),
    }
}

#[test]
fn decoders_hand_on_commands_that_are_applied_or_refused_whatever_they_say() {
    let limit_bytes = |input| (32 << 20) + message_limit_bytes(input);
    let decoder = Decoder { name: "apply", run: applied, examples: examples::<Stamped>, limit_bytes, cost: 10 };
    run(env!("CARGO_MANIFEST_DIR"), &[decoder]);
}
