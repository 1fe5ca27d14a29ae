//! Clients that make, find, move and remove names in a few directories.
//!
//! One request of the production client each, asked again across leaders under its number. Guarantees: what was asked and
//! what was answered goes to the oracle in the order in which it happened. Must not know: which names there are.

use super::desk::Desk;
use crate::failure::Oracle;
use crate::named::{Mode, Name, Op, Outcome, Place, name_of};
use weft_client::core::SessionState;
use weft_proto::namespace::{Credentials, DirectoryEntry, Mutation, NamespaceReply, NewInode, Query};
use weft_types::{ErrorKind, InodeNumber};

const NAMES: u64 = 3;
const THINK_MS: u64 = 25;
/// Inodes that a client remembers.
const KNOWN: usize = 6;

/// Starts the tasks of a client.
pub fn start(desk: &Desk, tasks: usize) {
    for task in 0..tasks {
        // The metadata group knows of one open of an inode in a session.
        let opens = task == 0;
        let user = User { desk: desk.clone(), opens, directories: vec![InodeNumber::ROOT], files: Vec::new() };
        desk.spawn(user.live());
    }
}

struct User {
    desk: Desk,
    /// Opens and closes files.
    opens: bool,
    directories: Vec<InodeNumber>,
    files: Vec<InodeNumber>,
}

fn bytes(name: Name) -> Vec<u8> {
    vec![b'a' + name]
}

fn name(bytes: &[u8]) -> Name {
    bytes.first().map_or(0, |byte| byte.wrapping_sub(b'a'))
}

impl User {
    async fn live(mut self) {
        loop {
            self.desk.think(THINK_MS).await;
            if !self.desk.goes_on() {
                return;
            }
            let _busy = self.desk.begins();
            let step =
                if self.opens && self.desk.ledger.chance(6) { self.keep_open().await } else { self.step().await };
            if step.is_err() {
                return;
            }
        }
    }

    fn place(&self) -> Place {
        let known = self.desk.ledger.below(self.directories.len() as u64) as usize;
        (self.directories[known], self.desk.ledger.below(NAMES) as Name)
    }

    fn choose(&self) -> Op {
        let ledger = &self.desk.ledger;
        let at = self.place();
        match ledger.below(100) {
            0..28 => Op::Create { at, directory: ledger.chance(45) },
            28..40 => Op::Lookup { at },
            40..52 => Op::List { directory: at.0 },
            52..74 => {
                let mode = match ledger.below(4) {
                    0 => Mode::NoReplace,
                    1 => Mode::Exchange,
                    _ => Mode::Replace,
                };
                Op::Rename { from: at, to: self.place(), mode }
            }
            74..84 => Op::Unlink { at },
            84..92 => Op::RemoveDirectory { at },
            _ => match self.files.last() {
                Some(inode) => Op::Link { inode: *inode, at },
                None => Op::Lookup { at },
            },
        }
    }

    async fn step(&mut self) -> Result<(), ErrorKind> {
        let op = self.choose();
        let number = self.desk.ledger.open().named.begin(self.desk.who.id, op.clone());
        let reply = self.ask(&op).await;
        let outcome = match &reply {
            Ok(NamespaceReply::Done) => Outcome::Done,
            Ok(NamespaceReply::Record(record)) if matches!(op, Op::Link { .. }) => {
                self.learn(record.attributes.inode, false);
                Outcome::Done
            }
            Ok(NamespaceReply::Record(record) | NamespaceReply::Opened { record, .. }) => {
                let directory = record.attributes.kind == weft_types::FileKind::Directory;
                self.learn(record.attributes.inode, directory);
                Outcome::Inode(record.attributes.inode)
            }
            Ok(NamespaceReply::Directory { entries, .. }) => self.listed(&op, entries),
            Ok(other) => {
                self.desk.ledger.fail(Oracle::Names, format!("{op:?} was answered with {other:?}"));
                return Ok(());
            }
            // The change stays open: it may have been done before the session was struck off.
            Err(ErrorKind::Fenced) => return Err(ErrorKind::Fenced),
            Err(error) => Outcome::Refused(name_of(error)),
        };
        self.desk.ledger.count(if reply.is_ok() { "names changed or read" } else { "requests about names refused" });
        let mut pages = self.desk.ledger.open();
        if let Err(what) = pages.named.answered(number, &outcome) {
            pages.fail(Oracle::Names, format!("session {}: {what}", self.desk.who.id));
        }
        Ok(())
    }

    async fn ask(&self, op: &Op) -> Result<NamespaceReply, ErrorKind> {
        let credentials = Credentials::default();
        let mutation = match *op {
            Op::Create { at: (parent, name), directory } => {
                let new = if directory { NewInode::Directory } else { NewInode::Regular };
                Mutation::Create { parent, name: bytes(name), new, mode: 0o755, credentials, open: false }
            }
            Op::Link { inode, at: (parent, name) } => Mutation::Link { inode, parent, name: bytes(name) },
            Op::Unlink { at: (parent, name) } => Mutation::Unlink { parent, name: bytes(name) },
            Op::RemoveDirectory { at: (parent, name) } => Mutation::RemoveDirectory { parent, name: bytes(name) },
            Op::Rename { from: (parent, name), to: (new_parent, new_name), mode } => {
                let (name, new_name) = (bytes(name), bytes(new_name));
                Mutation::Rename { parent, name, new_parent, new_name, mode: mode.into() }
            }
            Op::Lookup { at: (parent, name) } => {
                return self.desk.query(Query::Lookup { parent, name: bytes(name) }).await;
            }
            Op::List { directory: inode } => {
                return self.desk.query(Query::ReadDirectory { inode, after: 0, max_entries: 100 }).await;
            }
        };
        self.desk.mutate(mutation).await
    }

    fn listed(&self, op: &Op, entries: &[DirectoryEntry]) -> Outcome {
        let mut pages = self.desk.ledger.open();
        let mut names: Vec<(Name, InodeNumber)> = Vec::new();
        for entry in entries {
            if let Op::List { directory } = op
                && let Err(what) = pages.named.listed(*directory, entry.cookie, name(&entry.name))
            {
                pages.fail(Oracle::Names, what);
            }
            names.push((name(&entry.name), entry.record.attributes.inode));
        }
        names.sort_unstable();
        Outcome::Names(names)
    }

    fn learn(&mut self, inode: InodeNumber, directory: bool) {
        let known = if directory { &mut self.directories } else { &mut self.files };
        known.retain(|other| *other != inode);
        known.push(inode);
        if known.len() > KNOWN {
            // The root stays.
            known.remove(usize::from(directory));
        }
    }

    /// A file that is open stays although its last name goes.
    async fn keep_open(&self) -> Result<(), ErrorKind> {
        let Some(inode) = self.files.last().copied() else { return Ok(()) };
        let opened = self.desk.mutate(Mutation::Open { inode, write: false, truncate: false }).await;
        match opened {
            Ok(NamespaceReply::Opened { .. }) => {}
            Err(ErrorKind::Fenced) => return Err(ErrorKind::Fenced),
            _ => return Ok(()),
        }
        self.desk.think(200).await;
        let found = self.desk.query(Query::Attributes { inode }).await;
        let acts = self.desk.state() == SessionState::Live;
        let evicted = self.desk.ledger.open().evicted.contains(&self.desk.who.id);
        if found == Err(ErrorKind::NotFound) && acts && !evicted {
            let what = format!("inode {inode} is gone, and session {} has it open", self.desk.who.id);
            self.desk.ledger.fail(Oracle::Names, what);
        }
        self.desk.ledger.count("files kept open");
        self.desk.mutate(Mutation::Close { inode }).await.map(drop)
    }
}
