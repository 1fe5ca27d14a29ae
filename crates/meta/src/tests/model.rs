//! Random namespace operations, compared step by step with a model made of plain maps, and a check of the whole state
//! after each step: link counts, entry counts, both sides of each entry, stable cookies, no orphan without an opener.

use super::world::World;
use crate::keys;
use crate::records::{EntryRecord, InodeBody, InodeRecord, ReclaimItem, VolumeUsageRecord};
use crate::view::View as _;
use std::collections::{BTreeMap, BTreeSet};
use weft_proto::namespace::{
    AttributeChange, Credentials, Mutation, NamespaceReply, NewInode, Query, RenameMode, TimeChange,
};
use weft_types::{ErrorKind, InodeNumber, ObjectId, SessionId, TruncateGeneration, VolumeId};

const VOLUME: VolumeId = VolumeId(1);
const ROOT: InodeNumber = InodeNumber::ROOT;

/// SplitMix64.
pub(super) struct Random(u64);

impl Random {
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x2545_f491_4f6c_dd1d))
    }

    pub const fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// What the namespace should be.
#[derive(Default)]
struct Model {
    /// Directories: names to inodes.
    directories: BTreeMap<InodeNumber, BTreeMap<String, InodeNumber>>,
    /// Files: number of names and size.
    files: BTreeMap<InodeNumber, (u32, u64)>,
    opens: BTreeSet<(SessionId, InodeNumber)>,
}

enum Step {
    Create(InodeNumber, String, bool),
    Link(InodeNumber, InodeNumber, String),
    Unlink(InodeNumber, String),
    Rmdir(InodeNumber, String),
    Rename((InodeNumber, String), (InodeNumber, String), RenameMode),
    Open(InodeNumber, bool),
    Close(InodeNumber),
    Truncate(InodeNumber, u64),
}

type Expected = Result<(), ErrorKind>;

impl Model {
    fn names(&self, directory: InodeNumber) -> Result<&BTreeMap<String, InodeNumber>, ErrorKind> {
        match self.directories.get(&directory) {
            // A removed directory has lost its name and is kept only for who has it open.
            Some(_) if directory != ROOT && !self.has_name(directory) => Err(ErrorKind::NotFound),
            Some(names) => Ok(names),
            None if self.files.contains_key(&directory) => Err(ErrorKind::NotDirectory),
            None => Err(ErrorKind::NotFound),
        }
    }

    fn has_name(&self, inode: InodeNumber) -> bool {
        self.directories.values().any(|names| names.values().any(|i| *i == inode))
    }

    fn is_open(&self, inode: InodeNumber) -> bool {
        self.opens.iter().any(|(_, i)| *i == inode)
    }

    fn is_below(&self, inode: InodeNumber, ancestor: InodeNumber) -> bool {
        inode == ancestor
            || self.directories.get(&ancestor).is_some_and(|names| names.values().any(|c| self.is_below(inode, *c)))
    }

    fn insert(&mut self, directory: InodeNumber, name: &str, inode: InodeNumber) {
        self.directories.entry(directory).or_default().insert(name.to_owned(), inode);
    }

    fn forget_name(&mut self, directory: InodeNumber, name: &str) -> Option<InodeNumber> {
        self.directories.get_mut(&directory)?.remove(name)
    }

    fn drop_name(&mut self, directory: InodeNumber, name: &str) {
        if let Some(inode) = self.forget_name(directory, name) {
            if let Some((links, _)) = self.files.get_mut(&inode) {
                *links -= 1;
            }
            self.collect(inode);
        }
    }

    /// What has neither name nor opener goes.
    fn collect(&mut self, inode: InodeNumber) {
        if inode != ROOT && !self.has_name(inode) && !self.is_open(inode) {
            self.directories.remove(&inode);
            self.files.remove(&inode);
        }
    }

    fn exists(&self, inode: InodeNumber) -> Expected {
        let known = self.files.contains_key(&inode) || self.directories.contains_key(&inode);
        if known { Ok(()) } else { Err(ErrorKind::NotFound) }
    }

    /// What the step should give; its effect where it succeeds. `made` is the inode that a create made.
    fn apply(&mut self, session: SessionId, step: &Step, made: Option<InodeNumber>) -> Expected {
        match step {
            Step::Create(parent, name, directory) => {
                if self.names(*parent)?.contains_key(name) {
                    return Err(ErrorKind::Exists);
                }
                let Some(made) = made else { return Ok(()) };
                self.insert(*parent, name, made);
                if *directory {
                    self.directories.insert(made, BTreeMap::new());
                } else {
                    self.files.insert(made, (1, 0));
                }
            }
            Step::Link(inode, parent, name) => {
                let taken = self.names(*parent)?.contains_key(name);
                self.exists(*inode)?;
                if self.directories.contains_key(inode) {
                    return Err(ErrorKind::NotPermitted);
                }
                if taken {
                    return Err(ErrorKind::Exists);
                }
                let links = &mut self.files.get_mut(inode).ok_or(ErrorKind::NotFound)?.0;
                if *links == 0 {
                    return Err(ErrorKind::NotFound);
                }
                *links += 1;
                self.insert(*parent, name, *inode);
            }
            Step::Unlink(parent, name) => {
                let inode = *self.names(*parent)?.get(name).ok_or(ErrorKind::NotFound)?;
                if self.directories.contains_key(&inode) {
                    return Err(ErrorKind::IsDirectory);
                }
                self.drop_name(*parent, name);
            }
            Step::Rmdir(parent, name) => {
                let inode = *self.names(*parent)?.get(name).ok_or(ErrorKind::NotFound)?;
                if !self.directories.get(&inode).ok_or(ErrorKind::NotDirectory)?.is_empty() {
                    return Err(ErrorKind::NotEmpty);
                }
                self.drop_name(*parent, name);
            }
            Step::Rename(from, to, mode) => self.rename(from, to, *mode)?,
            Step::Open(inode, write) => {
                self.exists(*inode)?;
                if *write && self.directories.contains_key(inode) {
                    return Err(ErrorKind::IsDirectory);
                }
                self.opens.insert((session, *inode));
            }
            Step::Close(inode) => {
                self.opens.remove(&(session, *inode));
                self.collect(*inode);
            }
            Step::Truncate(inode, size) => {
                self.exists(*inode)?;
                self.files.get_mut(inode).ok_or(ErrorKind::IsDirectory)?.1 = *size;
            }
        }
        Ok(())
    }

    fn rename(&mut self, from: &(InodeNumber, String), to: &(InodeNumber, String), mode: RenameMode) -> Expected {
        let olds = self.names(from.0)?;
        let news = self.names(to.0)?;
        let source = *olds.get(&from.1).ok_or(ErrorKind::NotFound)?;
        let target = news.get(&to.1).copied();
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(ErrorKind::Exists),
            (RenameMode::Exchange, None) => return Err(ErrorKind::NotFound),
            _ => {}
        }
        let invalid = || ErrorKind::Invalid(String::new());
        let is_directory = |inode: &InodeNumber| self.directories.contains_key(inode);
        if is_directory(&source) && self.is_below(to.0, source) {
            return Err(invalid());
        }
        let Some(target) = target else {
            self.forget_name(from.0, &from.1);
            self.insert(to.0, &to.1, source);
            return Ok(());
        };
        if source == target {
            return Ok(());
        }
        if mode == RenameMode::Exchange {
            if is_directory(&target) && self.is_below(from.0, target) {
                return Err(invalid());
            }
            self.insert(from.0, &from.1, target);
            self.insert(to.0, &to.1, source);
            return Ok(());
        }
        match (is_directory(&source), is_directory(&target)) {
            (true, false) => return Err(ErrorKind::NotDirectory),
            (false, true) => return Err(ErrorKind::IsDirectory),
            (true, true) if !self.directories[&target].is_empty() => return Err(ErrorKind::NotEmpty),
            _ => {}
        }
        self.drop_name(to.0, &to.1);
        self.forget_name(from.0, &from.1);
        self.insert(to.0, &to.1, source);
        Ok(())
    }
}

fn mutation(step: &Step) -> Mutation {
    let bytes = |name: &String| name.as_bytes().to_vec();
    match step {
        Step::Create(parent, name, directory) => Mutation::Create {
            parent: *parent,
            name: bytes(name),
            new: if *directory { NewInode::Directory } else { NewInode::Regular },
            mode: 0o644,
            credentials: Credentials::default(),
            open: false,
        },
        Step::Link(inode, parent, name) => Mutation::Link { inode: *inode, parent: *parent, name: bytes(name) },
        Step::Unlink(parent, name) => Mutation::Unlink { parent: *parent, name: bytes(name) },
        Step::Rmdir(parent, name) => Mutation::RemoveDirectory { parent: *parent, name: bytes(name) },
        Step::Rename(from, to, mode) => Mutation::Rename {
            parent: from.0,
            name: bytes(&from.1),
            new_parent: to.0,
            new_name: bytes(&to.1),
            mode: *mode,
        },
        Step::Open(inode, write) => Mutation::Open { inode: *inode, write: *write, truncate: false },
        Step::Close(inode) => Mutation::Close { inode: *inode },
        Step::Truncate(inode, size) => {
            let modified = Some(TimeChange::Now);
            let change = AttributeChange { size_bytes: Some(*size), modified, ..AttributeChange::default() };
            Mutation::SetAttributes { inode: *inode, change }
        }
    }
}

fn draw(random: &mut Random, model: &Model, gone: &[InodeNumber]) -> Step {
    let directories: Vec<InodeNumber> = model.directories.keys().copied().collect();
    let everything: Vec<InodeNumber> = directories.iter().chain(model.files.keys()).chain(gone).copied().collect();
    let mut pick = |from: &[InodeNumber]| from[random.below(from.len() as u64) as usize];
    let (d1, d2, any) = (pick(&directories), pick(&directories), pick(&everything));
    let (n1, n2) = (format!("n{}", random.below(5)), format!("n{}", random.below(5)));
    let parent = if random.below(20) == 0 { any } else { d1 };
    match random.below(20) {
        0..=3 => Step::Create(parent, n1, false),
        4..=6 => Step::Create(parent, n1, true),
        7 => Step::Link(any, parent, n1),
        8 | 9 => Step::Unlink(parent, n1),
        10 | 11 => Step::Rmdir(parent, n1),
        12..=14 => Step::Rename((parent, n1), (d2, n2), RenameMode::Replace),
        15 => Step::Rename((parent, n1), (d2, n2), RenameMode::Exchange),
        16 => Step::Rename((parent, n1), (d2, n2), RenameMode::NoReplace),
        17 => Step::Open(any, random.below(2) == 0),
        18 => Step::Close(any),
        _ => Step::Truncate(any, random.below(4) * 1000),
    }
}

/// The cookies of each directory, for comparison with the next step.
type Cookies = BTreeMap<(InodeNumber, String), (InodeNumber, u64)>;

/// Reads the whole state and compares it with the model.
fn check(w: &World, model: &Model, before: &Cookies) -> Result<Cookies, String> {
    let mut cookies = Cookies::new();
    let mut numbers = BTreeSet::new();
    let mut queued = BTreeSet::new();
    for item in
        crate::codec::fetch_all::<ReclaimItem>(&w.view, keys::RECLAIMS, usize::MAX).map_err(|e| e.to_string())?
    {
        queued.insert((item.object, item.generation()));
    }
    let prefix = keys::inodes_of(VOLUME);
    for (key, bytes) in w.view.scan(&prefix, &keys::after_prefix(&prefix), usize::MAX).map_err(|e| e.to_string())? {
        let number = InodeNumber(u64::from_be_bytes(key[5..13].try_into().map_err(|_| "key")?));
        let inode: InodeRecord = crate::codec::decode(&key, &bytes).map_err(|e| e.to_string())?;
        numbers.insert(number);
        let openers = model.opens.iter().filter(|(_, i)| *i == number).count();
        if inode.open_sessions as usize != openers {
            return Err(format!("{number}: {} openers counted, {openers} are", inode.open_sessions));
        }
        if queued.contains(&(inode.object, TruncateGeneration(0))) && inode.object != ObjectId(0) {
            return Err(format!("{number}: its object is queued for deletion"));
        }
        match &inode.body {
            InodeBody::Directory { entries, parent, .. } => {
                let names = model.directories.get(&number).ok_or("a directory that should not be")?;
                let below = names.values().filter(|c| model.directories.contains_key(c)).count();
                let has_name = number == ROOT || model.has_name(number);
                let links = if has_name { 2 + below as u32 } else { 0 };
                if inode.links != links || *entries != names.len() as u64 {
                    return Err(format!("{number}: {} links, {entries} entries, should be {links}", inode.links));
                }
                if has_name && number != ROOT && !model.directories[parent].values().any(|c| *c == number) {
                    return Err(format!("{number}: its parent does not name it"));
                }
                list(w, number, names, &mut cookies)?;
            }
            _ => {
                let (links, size) = *model.files.get(&number).ok_or("a file that should not be")?;
                if (inode.links, inode.size_bytes) != (links, size) {
                    return Err(format!("{number}: {} links, size {}", inode.links, inode.size_bytes));
                }
            }
        }
    }
    if numbers.len() != model.directories.len() + model.files.len() {
        return Err(format!("{} inodes, should be {}", numbers.len(), model.directories.len() + model.files.len()));
    }
    let usage: VolumeUsageRecord =
        crate::codec::fetch(&w.view, &keys::usage(VOLUME)).map_err(|e| e.to_string())?.ok_or("no usage")?;
    if usage.inodes != numbers.len() as u64 {
        return Err(format!("{} inodes counted", usage.inodes));
    }
    for (name, (inode, cookie)) in &cookies {
        if let Some((was, old)) = before.get(name)
            && was == inode
            && old != cookie
        {
            return Err(format!("the cookie of {name:?} changed"));
        }
    }
    Ok(cookies)
}

fn list(
    w: &World,
    directory: InodeNumber,
    names: &BTreeMap<String, InodeNumber>,
    cookies: &mut Cookies,
) -> Result<(), String> {
    let (mut after, mut found) = (0, BTreeMap::new());
    loop {
        let query = Query::ReadDirectory { inode: directory, after, max_entries: 2 };
        let Ok(NamespaceReply::Directory { entries, complete, .. }) = w.query(query) else {
            return Err(format!("{directory} cannot be listed"));
        };
        for entry in entries {
            let name = String::from_utf8_lossy(&entry.name).into_owned();
            let inode = entry.record.attributes.inode;
            let key = keys::entry(VOLUME, directory, &entry.name);
            let by_name: Option<EntryRecord> = crate::codec::fetch(&w.view, &key).map_err(|e| e.to_string())?;
            if by_name != Some(EntryRecord { inode, cookie: entry.cookie }) {
                return Err(format!("{directory}/{name}: by name {by_name:?}, by cookie {inode}"));
            }
            after = entry.cookie;
            cookies.insert((directory, name.clone()), (inode, entry.cookie));
            found.insert(name, inode);
        }
        if complete {
            break;
        }
    }
    if found == *names { Ok(()) } else { Err(format!("{directory}: {found:?}, should be {names:?}")) }
}

#[test]
fn thousands_of_random_operations_agree_with_a_simple_model() {
    for seed in 0..8 {
        let mut random = Random::new(seed);
        let mut w = World::with_group(3, 3);
        let sessions = [w.session(), w.session()];
        let mut model = Model::default();
        model.directories.insert(ROOT, BTreeMap::new());
        let mut gone = vec![InodeNumber(999)];
        let mut cookies = Cookies::new();
        let mut succeeded = 0;
        for number in 0..500 {
            let session = sessions[random.below(2) as usize];
            let step = draw(&mut random, &model, &gone);
            let known: Vec<InodeNumber> = model.directories.keys().chain(model.files.keys()).copied().collect();
            let reply = w.mutate(session, mutation(&step));
            let made = match (&step, &reply) {
                (Step::Create(..), Ok(NamespaceReply::Record(record))) => Some(record.attributes.inode),
                _ => None,
            };
            if reply == Err(ErrorKind::WouldBlock) {
                // A cut of another session is under way: finish it, as its client would.
                finish_cuts(&mut w);
                continue;
            }
            let expected = model.apply(session, &step, made);
            let text = mutation(&step);
            match (&reply, &expected) {
                (Ok(_), Ok(())) => succeeded += 1,
                (Err(ErrorKind::Invalid(_)), Err(ErrorKind::Invalid(_))) => {}
                (Err(got), Err(wanted)) if got == wanted => {}
                _ => panic!("seed {seed}, step {number}: {text:?} gave {reply:?}, the model says {expected:?}"),
            }
            gone.extend(known.into_iter().filter(|i| model.exists(*i).is_err()));
            cookies = check(&w, &model, &cookies)
                .unwrap_or_else(|why| panic!("seed {seed}, step {number}, after {text:?}: {why}"));
        }
        assert!(succeeded > 150, "seed {seed}: only {succeeded} operations succeeded");
        leave(&mut w, &mut model, &sessions, &cookies);
    }
}

fn finish_cuts(w: &mut World) {
    for item in crate::read::reclaims(&w.view, usize::MAX).unwrap() {
        let (volume, object, generation) = (item.volume, item.object, item.generation());
        w.run(crate::Command::ReclaimDone { volume, object, generation });
    }
}

/// When the sessions are gone no orphan is left, and the reclaim queue runs dry.
fn leave(w: &mut World, model: &mut Model, sessions: &[SessionId], cookies: &Cookies) {
    for session in sessions {
        w.run(crate::Command::CloseSession { session: *session });
    }
    let open: Vec<InodeNumber> = model.opens.iter().map(|(_, inode)| *inode).collect();
    model.opens.clear();
    for inode in open {
        model.collect(inode);
    }
    check(w, model, cookies).unwrap();
    finish_cuts(w);
    assert!(crate::read::reclaims(&w.view, 9).unwrap().is_empty());
    let kinds: BTreeSet<u8> = w.view.pairs().map(|(key, _)| key[0]).collect();
    assert!(!kinds.contains(&b'o') && !kinds.contains(&b'r') && !kinds.contains(&b'l'), "a session left something");
}
