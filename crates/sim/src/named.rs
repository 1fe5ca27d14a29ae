//! Whether what clients were told of names has an order in which it could have happened.
//!
//! A small sequential namespace, and the set of all states in which it may be now: at each answer every unanswered operation
//! may have happened before, in any order ("just-in-time linearization": Lowe, "Testing for linearizability", 2017). An
//! operation that is never answered stays open. Guarantees: nothing is called wrong that could have been; when too many states are
//! possible, it is said that no more is looked at. Must not know: how names are kept.

use std::collections::{BTreeMap, BTreeSet};
use weft_proto::namespace::RenameMode;
use weft_types::{ErrorKind, InodeNumber, SessionId};

/// More possible states than these are not followed.
const MAX_POSSIBLE: usize = 300;

pub type Name = u8;
pub type Place = (InodeNumber, Name);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Op {
    Create { at: Place, directory: bool },
    Link { inode: InodeNumber, at: Place },
    Unlink { at: Place },
    RemoveDirectory { at: Place },
    Rename { from: Place, to: Place, mode: Mode },
    Lookup { at: Place },
    List { directory: InodeNumber },
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Mode {
    Replace,
    NoReplace,
    Exchange,
}

impl From<Mode> for RenameMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Replace => Self::Replace,
            Mode::NoReplace => Self::NoReplace,
            Mode::Exchange => Self::Exchange,
        }
    }
}

/// A file without a name is linked where another name is: whether somebody has it open decides what is said.
const EITHER: &str = "not found, or exists";

/// What came of it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Outcome {
    Done,
    Inode(InodeNumber),
    Names(Vec<(Name, InodeNumber)>),
    /// The name of the error.
    Refused(&'static str),
}

impl Outcome {
    fn may_be_told(&self, told: &Self) -> bool {
        let either = *self == Self::Refused(EITHER);
        self == told || (either && matches!(told, Self::Refused("not found" | "exists")))
    }
}

/// The name of an error, without what it says besides.
pub const fn name_of(error: &ErrorKind) -> &'static str {
    match error {
        ErrorKind::NotFound => "not found",
        ErrorKind::Exists => "exists",
        ErrorKind::NotDirectory => "not a directory",
        ErrorKind::IsDirectory => "is a directory",
        ErrorKind::NotEmpty => "not empty",
        ErrorKind::Invalid(_) => "invalid",
        ErrorKind::NotPermitted => "not permitted",
        _ => "something else",
    }
}

/// A namespace.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct State {
    /// Directories that have a name: their parents and their entries.
    directories: BTreeMap<InodeNumber, (InodeNumber, BTreeMap<Name, InodeNumber>)>,
    /// Files, and how many names each has.
    files: BTreeMap<InodeNumber, u32>,
    last: InodeNumber,
}

type Result<T> = std::result::Result<T, &'static str>;

impl State {
    fn new() -> Self {
        let root = InodeNumber::ROOT;
        Self { directories: BTreeMap::from([(root, (root, BTreeMap::new()))]), files: BTreeMap::new(), last: root }
    }

    fn apply(&mut self, op: &Op) -> Outcome {
        let before = self.clone();
        let done = match op {
            Op::Create { at, directory } => self.create(*at, *directory).map(Outcome::Inode),
            Op::Link { inode, at } => self.link(*inode, *at).map(|()| Outcome::Done),
            Op::Unlink { at } => self.unlink(*at).map(|()| Outcome::Done),
            Op::RemoveDirectory { at } => self.remove_directory(*at).map(|()| Outcome::Done),
            Op::Rename { from, to, mode } => self.rename(*from, *to, *mode).map(|()| Outcome::Done),
            Op::Lookup { at } => self.find(*at).map(Outcome::Inode),
            Op::List { directory } => {
                let names = |entries: &BTreeMap<Name, InodeNumber>| entries.iter().map(|(n, i)| (*n, *i)).collect();
                self.entries(*directory).map(|entries| Outcome::Names(names(entries)))
            }
        };
        done.unwrap_or_else(|why| {
            *self = before;
            Outcome::Refused(why)
        })
    }

    fn entries(&mut self, directory: InodeNumber) -> Result<&mut BTreeMap<Name, InodeNumber>> {
        self.directories.get_mut(&directory).map(|(_, entries)| entries).ok_or("not found")
    }

    fn find(&mut self, (parent, name): Place) -> Result<InodeNumber> {
        self.entries(parent)?.get(&name).copied().ok_or("not found")
    }

    fn is_directory(&self, inode: InodeNumber) -> bool {
        self.directories.contains_key(&inode)
    }

    fn create(&mut self, (parent, name): Place, directory: bool) -> Result<InodeNumber> {
        let number = self.last.next();
        let entries = self.entries(parent)?;
        if entries.contains_key(&name) {
            return Err("exists");
        }
        entries.insert(name, number);
        if directory {
            self.directories.insert(number, (parent, BTreeMap::new()));
        } else {
            self.files.insert(number, 1);
        }
        self.last = number;
        Ok(number)
    }

    fn link(&mut self, inode: InodeNumber, (parent, name): Place) -> Result<()> {
        let there = self.entries(parent)?.contains_key(&name);
        if self.is_directory(inode) {
            return Err("not permitted");
        }
        match (there, self.files.contains_key(&inode)) {
            (true, true) => return Err("exists"),
            (true, false) => return Err(EITHER),
            _ => {}
        }
        *self.files.get_mut(&inode).filter(|links| **links > 0).ok_or("not found")? += 1;
        self.entries(parent)?.insert(name, inode);
        Ok(())
    }

    fn drop_name(&mut self, inode: InodeNumber) {
        self.directories.remove(&inode);
        if let Some(links) = self.files.get_mut(&inode) {
            *links -= 1;
            if *links == 0 {
                self.files.remove(&inode);
            }
        }
    }

    fn unlink(&mut self, at: Place) -> Result<()> {
        let inode = self.find(at)?;
        if self.is_directory(inode) {
            return Err("is a directory");
        }
        self.entries(at.0)?.remove(&at.1);
        self.drop_name(inode);
        Ok(())
    }

    fn check_empty(&mut self, inode: InodeNumber) -> Result<()> {
        match self.directories.get(&inode) {
            Some((_, entries)) if entries.is_empty() => Ok(()),
            Some(_) => Err("not empty"),
            None => Err("not a directory"),
        }
    }

    fn remove_directory(&mut self, at: Place) -> Result<()> {
        let inode = self.find(at)?;
        self.check_empty(inode)?;
        self.entries(at.0)?.remove(&at.1);
        self.drop_name(inode);
        Ok(())
    }

    fn is_within(&self, mut inode: InodeNumber, ancestor: InodeNumber) -> bool {
        while inode != ancestor && inode != InodeNumber::ROOT {
            inode = self.directories.get(&inode).map_or(InodeNumber::ROOT, |(parent, _)| *parent);
        }
        inode == ancestor
    }

    fn rename(&mut self, from: Place, to: Place, mode: Mode) -> Result<()> {
        self.entries(from.0)?;
        let target = self.entries(to.0)?.get(&to.1).copied();
        let source = self.find(from)?;
        match (mode, target) {
            (Mode::NoReplace, Some(_)) => return Err("exists"),
            (Mode::Exchange, None) => return Err("not found"),
            _ => {}
        }
        if self.is_directory(source) && self.is_within(to.0, source) {
            return Err("invalid");
        }
        let Some(target) = target else { return self.move_to(from, to, source) };
        if target == source {
            return Ok(());
        }
        if mode == Mode::Exchange {
            if self.is_directory(target) && self.is_within(from.0, target) {
                return Err("invalid");
            }
            self.put(from, target)?;
            return self.put(to, source);
        }
        match (self.is_directory(source), self.is_directory(target)) {
            (true, false) => return Err("not a directory"),
            (false, true) => return Err("is a directory"),
            (true, true) => self.check_empty(target)?,
            (false, false) => {}
        }
        self.entries(to.0)?.remove(&to.1);
        self.drop_name(target);
        self.move_to(from, to, source)
    }

    fn move_to(&mut self, from: Place, to: Place, inode: InodeNumber) -> Result<()> {
        self.entries(from.0)?.remove(&from.1);
        self.put(to, inode)
    }

    fn put(&mut self, (parent, name): Place, inode: InodeNumber) -> Result<()> {
        self.entries(parent)?.insert(name, inode);
        if let Some((above, _)) = self.directories.get_mut(&inode) {
            *above = parent;
        }
        Ok(())
    }
}

/// One way in which it may have been.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Possible {
    state: State,
    /// Unanswered operations that have changed it, and what came of them.
    happened: BTreeMap<u64, Outcome>,
    /// What others would have been told that change nothing, in some state since they began.
    seen: BTreeMap<u64, BTreeSet<Outcome>>,
}

impl Possible {
    /// What the operation comes to now, and the state after it if that is another one.
    fn try_out(&self, op: &Op) -> (Outcome, Option<State>) {
        let mut state = self.state.clone();
        let came = state.apply(op);
        let changed = state != self.state;
        (came, changed.then_some(state))
    }

    fn look(&mut self, number: u64, op: &Op) {
        if let (came, None) = self.try_out(op) {
            self.seen.entry(number).or_default().insert(came);
        }
    }
}

pub struct Named {
    possible: BTreeSet<Possible>,
    /// Not answered.
    open: BTreeMap<u64, (SessionId, Op)>,
    last: u64,
    /// Those that never will be.
    gone: BTreeSet<u64>,
    /// Which name an entry's cookie stood for, for ever.
    cookies: BTreeMap<(InodeNumber, u64), Name>,
    /// Too many states were possible.
    pub gave_up: bool,
}

impl Default for Named {
    fn default() -> Self {
        let first = Possible { state: State::new(), happened: BTreeMap::new(), seen: BTreeMap::new() };
        let (open, cookies) = (BTreeMap::new(), BTreeMap::new());
        Self { possible: BTreeSet::from([first]), open, last: 0, gone: BTreeSet::new(), cookies, gave_up: false }
    }
}

impl Named {
    pub fn begin(&mut self, session: SessionId, op: Op) -> u64 {
        self.last += 1;
        let begins = |mut one: Possible| {
            one.look(self.last, &op);
            one
        };
        self.possible = std::mem::take(&mut self.possible).into_iter().map(begins).collect();
        self.open.insert(self.last, (session, op));
        self.last
    }

    /// It was answered.
    ///
    /// # Errors
    /// What cannot be.
    pub fn answered(&mut self, number: u64, outcome: &Outcome) -> std::result::Result<(), String> {
        if self.gave_up {
            return Ok(());
        }
        let mut met = BTreeSet::new();
        let mut left: Vec<Possible> = self.possible.iter().cloned().collect();
        let mut after = BTreeSet::new();
        while let Some(mut one) = left.pop() {
            let fits = |came: &Outcome| came.may_be_told(outcome);
            if let Some(came) = one.happened.remove(&number) {
                if fits(&came) {
                    one.seen.remove(&number);
                    after.insert(one);
                }
                continue;
            }
            if one.seen.get(&number).is_some_and(|seen| seen.iter().any(fits)) {
                let mut unchanged = one.clone();
                unchanged.seen.remove(&number);
                after.insert(unchanged);
                // Only "done" may come of a change and of none.
                if *outcome != Outcome::Done {
                    continue;
                }
            }
            for next in self.steps(&one) {
                if met.len() >= MAX_POSSIBLE {
                    self.gave_up = true;
                    return Ok(());
                }
                if met.insert(next.clone()) {
                    left.push(next);
                }
            }
        }
        let op = self.open.remove(&number).map(|(_, op)| op);
        if after.is_empty() {
            let (count, first) = (self.possible.len(), self.possible.first());
            return Err(format!(
                "{op:?} came to {outcome:?}, in no order possible from {count} states, of which {first:?}"
            ));
        }
        self.possible = after;
        Ok(())
    }

    /// States that one more unanswered change leads to.
    fn steps(&self, one: &Possible) -> Vec<Possible> {
        let mut steps = Vec::new();
        for (number, (_, op)) in self.open.iter().filter(|(number, _)| !one.happened.contains_key(number)) {
            let (came, Some(state)) = one.try_out(op) else { continue };
            let mut next = Possible { state, ..one.clone() };
            next.happened.insert(*number, came);
            for (other, (_, op)) in self.open.iter().filter(|(other, _)| !self.gone.contains(other)) {
                if !next.happened.contains_key(other) {
                    next.look(*other, op);
                }
            }
            steps.push(next);
        }
        steps
    }

    /// The client is gone: questions of it have no answer and no effect; changes stay open.
    pub fn forget(&mut self, session: SessionId) {
        let of_it: Vec<u64> =
            self.open.iter().filter(|(_, (of, _))| *of == session).map(|(number, _)| *number).collect();
        if of_it.is_empty() {
            return;
        }
        self.open.retain(|_, (of, op)| *of != session || !matches!(op, Op::Lookup { .. } | Op::List { .. }));
        self.gone.extend(of_it.iter().copied());
        // Nobody is told any more what they would have come to.
        let forgets = |mut one: Possible| {
            one.seen.retain(|number, _| !of_it.contains(number));
            one
        };
        self.possible = std::mem::take(&mut self.possible).into_iter().map(forgets).collect();
    }

    /// An entry was listed under this cookie.
    ///
    /// # Errors
    /// When the cookie stood for another name before.
    pub fn listed(&mut self, directory: InodeNumber, cookie: u64, name: Name) -> std::result::Result<(), String> {
        let known = *self.cookies.entry((directory, cookie)).or_insert(name);
        if known == name {
            return Ok(());
        }
        Err(format!("cookie {cookie} of directory {directory} stands for name {name}, and stood for {known}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: InodeNumber = InodeNumber::ROOT;
    const ME: SessionId = SessionId(1);

    fn create(name: Name) -> Op {
        Op::Create { at: (ROOT, name), directory: false }
    }

    #[test]
    fn what_is_not_answered_may_have_happened_or_not() {
        let mut named = Named::default();
        named.begin(ME, create(1));
        for (outcome, fine) in [(Outcome::Refused("not found"), true), (Outcome::Inode(ROOT.next()), true)] {
            let look = named.begin(ME, Op::Lookup { at: (ROOT, 1) });
            assert_eq!(named.answered(look, &outcome).is_ok(), fine);
        }
        // What was seen stays.
        let look = named.begin(ME, Op::Lookup { at: (ROOT, 1) });
        assert!(named.answered(look, &Outcome::Refused("not found")).is_err());
    }

    #[test]
    fn a_create_that_was_done_twice_is_noticed() {
        let mut named = Named::default();
        let number = named.begin(ME, create(1));
        assert!(named.answered(number, &Outcome::Refused("exists")).is_err(), "nobody else made it");
    }

    #[test]
    fn two_at_once_have_some_order() {
        let mut named = Named::default();
        let (one, other) = (named.begin(ME, create(1)), named.begin(ME, create(1)));
        assert_eq!(named.answered(one, &Outcome::Refused("exists")), Ok(()));
        assert!(named.answered(other, &Outcome::Refused("exists")).is_err(), "one of them made it");
    }

    #[test]
    fn a_directory_does_not_move_into_itself() {
        let mut named = Named::default();
        let made = named.begin(ME, Op::Create { at: (ROOT, 1), directory: true });
        let inode = ROOT.next();
        assert_eq!(named.answered(made, &Outcome::Inode(inode)), Ok(()));
        let moved = named.begin(ME, Op::Rename { from: (ROOT, 1), to: (inode, 1), mode: Mode::Replace });
        assert!(named.answered(moved, &Outcome::Done).is_err());
    }

    #[test]
    fn a_cookie_stands_for_one_name() {
        let mut named = Named::default();
        assert_eq!(named.listed(ROOT, 3, 1), Ok(()));
        assert_eq!(named.listed(ROOT, 3, 1), Ok(()));
        assert!(named.listed(ROOT, 3, 2).is_err());
    }
}
