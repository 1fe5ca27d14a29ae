//! A file that several clients make longer, cut and look at.
//!
//! Follows `weft_client::{open_inode, size_cap, file, client}` line by line, on its production cores (`FileSize`, `SizeCap`,
//! `SettleOlder`): who may extend, what is told when, what a notice asks for. Modelled: the locks within one client (the
//! same ones), one open handle from the session's beginning to its end, no kernel. Guarantees: what a task was told goes to
//! the oracle with the time at which it began. Must not know: what other clients do.

mod notices;

use super::desk::{Answer, Desk};
use super::locks::{find, unexpected};
use super::{CHUNK_BYTES, HALF, Op, value_of};
use crate::failure::Oracle;
use crate::grown::{Change, What};
use crate::subjects::Subjects;
use crate::world::MS;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{Mutex, Notify, RwLock};
use weft_client::core::retry::pause;
use weft_client::core::{Admission, CapUse, Extension, FileSize, Life, Operation, Outcome, SessionState, SizeCap};
use weft_proto::control::{ControlReply, ControlRequest, ToldSize};
use weft_proto::namespace::{
    AttributeChange, FileRecord, Mutation, NamespaceReply, OtherSessions, Query, Room, SizeKnowledge, TimeChange,
};
use weft_types::{AckMode, ChunkId, ChunkIndex, ErrorKind, InodeNumber, ObjectId, PgId, TruncateGeneration};

/// Writes are of this size, and sizes are multiples of it.
pub const UNIT: u64 = HALF as u64;
/// From here on the file is cut rather than made longer.
const LONGEST: u64 = 48 * UNIT;
const NAME: &[u8] = b"growing";
const THINK_MS: u64 = 25;
/// Who opens the file anew writes to it after so long.
const FIRST_THOUGHT_MS: u64 = 600;
/// One in so many clients dies when a change was answered.
const DIES_ONE_IN: u64 = 150;
/// One in so many dies when the metadata group has answered its truncation, which the placement groups know nothing of.
const DIES_WITHIN_A_CUT_ONE_IN: u64 = 60;
/// One in so many sessions comes to act on nothing that others want, as one does whose writes never end.
const STUCK_ONE_IN: u64 = 20;
const ASK_AGAIN: Duration = Duration::from_millis(500);
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// Deadlines of polls, as in the shell.
const WATCH_MS: u32 = 20_000;
const WATCH_NS: u64 = 22_000 * MS;
const MAX_REFRESHES: u32 = 100;

type Done = Result<(), ErrorKind>;

struct Growing {
    desk: Desk,
    inode: InodeNumber,
    groups: u16,
    size: RefCell<FileSize>,
    cap: RefCell<SizeCap>,
    cap_changed: Notify,
    asking: Mutex<()>,
    gate: RwLock<()>,
    appending: Mutex<()>,
    commits: Mutex<()>,
    grew: Cell<bool>,
    /// Acts on nothing that others want, and goes on.
    stuck: Cell<bool>,
    /// It is often emptied.
    empties: bool,
}

/// Permission to write past the end. While it lives the cap is not given up.
struct Extending(Rc<Growing>);

impl Drop for Extending {
    fn drop(&mut self) {
        self.0.cap.borrow_mut().done();
        self.0.cap_changed.notify_waiters();
    }
}

struct Waiter<'f>(&'f Growing);

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.cap.borrow_mut().waits_no_more();
        self.0.cap_changed.notify_waiters();
    }
}

/// Starts the writers of a client and what its session does by itself.
pub fn start(desk: &Desk, subjects: Subjects, groups: u16) {
    let starting = desk.clone();
    desk.spawn(async move {
        let Ok(inode) = find(&starting, NAME).await else { return };
        let anew = subjects.anew.then(|| {
            let change = Change::new(What::Cut { to: 0 }, starting.now());
            starting.ledger.open().grown.begin(change)
        });
        let open = Mutation::Open { inode, write: true, truncate: anew.is_some() };
        let Ok(NamespaceReply::Opened { record, size_cap, others }) = starting.mutate(open).await else { return };
        let file = Rc::new(Growing {
            desk: starting.clone(),
            inode,
            groups,
            size: RefCell::new(FileSize::new(&record)),
            cap: RefCell::default(),
            cap_changed: Notify::new(),
            asking: Mutex::default(),
            gate: RwLock::default(),
            appending: Mutex::default(),
            commits: Mutex::default(),
            grew: Cell::new(false),
            stuck: Cell::new(false),
            empties: subjects.empties,
        });
        file.desk.ledger.open().growing = Some(inode);
        if size_cap {
            file.cap_granted(&record);
        }
        starting.spawn(Rc::clone(&file).watch());
        starting.spawn(Rc::clone(&file).upkeep());
        if let Some(number) = anew {
            let life = file.life();
            starting.ledger.open().grown.took_place(number, life, starting.now());
            let known = match others {
                OtherSessions::NothingToSay => Ok(()),
                OtherSessions::Told => file.until_truncation_is_known().await,
            };
            if file.told(number, known, "files opened anew").is_err() {
                return;
            }
        }
        let unlucky = starting.ledger.below(STUCK_ONE_IN) == 0;
        if unlucky || (subjects.stuck && starting.who.index == 0) {
            starting.spawn(Rc::clone(&file).gets_stuck());
        }
        for _ in 0..subjects.writers {
            let file = Rc::clone(&file);
            starting.spawn(async move {
                if anew.is_some() {
                    file.desk.think(FIRST_THOUGHT_MS).await;
                }
                loop {
                    file.desk.think(THINK_MS).await;
                    let last = !file.desk.goes_on();
                    let _busy = file.desk.begins();
                    let done = if last { file.stat().await } else { file.step().await };
                    match done {
                        Ok(()) if last => return,
                        Ok(()) | Err(ErrorKind::NoSpace) => {}
                        Err(ErrorKind::Fenced) => return,
                        Err(error) => {
                            let what = format!("session {} is told: {error}", file.desk.who.id);
                            return file.desk.ledger.fail(Oracle::Sizes, what);
                        }
                    }
                }
            });
        }
    });
}

/// What writers do.
impl Growing {
    async fn step(self: &Rc<Self>) -> Done {
        let ledger = &self.desk.ledger;
        let long = self.live() >= LONGEST;
        match ledger.below(100) {
            0..40 if !long => self.append().await,
            40..50 if !long => {
                let at = self.live() + UNIT * ledger.below(3);
                self.write(at).await
            }
            50.. if self.empties => {
                let units = ledger.below(2) * (1 + self.live() / UNIT / 2);
                self.truncate(units * UNIT).await
            }
            50..70 => self.stat().await,
            70..84 => {
                let last = self.live() / UNIT;
                let at = UNIT * ledger.below(last + 2);
                self.read(at).await
            }
            84..92 => self.grow_and_look().await,
            _ => {
                let units = match ledger.below(4) {
                    0 => 0,
                    1 => self.live() / UNIT + ledger.below(3),
                    _ => ledger.below(self.live() / UNIT + 1),
                };
                self.truncate(units * UNIT).await
            }
        }
    }

    /// Makes the file longer by truncation, and looks at what nobody has written since it was cut off.
    async fn grow_and_look(&self) -> Done {
        let (before, more) = (self.live() / UNIT, 1 + self.desk.ledger.below(8));
        if self.live() >= LONGEST {
            return Ok(());
        }
        self.truncate((before + more) * UNIT).await?;
        self.read(UNIT * (before + self.desk.ledger.below(more))).await
    }

    async fn gets_stuck(self: Rc<Self>) {
        self.desk.think(10_000).await;
        self.desk.ledger.count("sessions that act on nothing");
        self.desk.ledger.open().stuck.insert(self.desk.who.id);
        self.stuck.set(true);
    }

    fn begin(&self, what: What) -> u64 {
        let change = Change::new(what, self.desk.now());
        self.desk.ledger.open().grown.begin(change)
    }

    async fn append(self: &Rc<Self>) -> Done {
        let _one = self.appending.lock().await;
        let _shared = self.gate.read().await;
        let value = self.desk.ledger.new_value();
        loop {
            let extending = self.begin_extending(|| self.live() + UNIT).await?;
            let (life, offset) = (self.life(), self.live());
            let number = self.begin(What::Append { at: offset, value });
            match self.write_once(offset, value).await {
                Err(ErrorKind::Stale) => {
                    self.desk.ledger.open().grown.refused(number);
                    drop(extending);
                    self.refresh_past(life).await?;
                }
                result => return self.told(number, result, "appends"),
            }
        }
    }

    fn told(&self, number: u64, result: Done, what: &'static str) -> Done {
        match &result {
            Ok(()) => {
                self.desk.ledger.count(what);
                if self.desk.goes_on() && self.desk.ledger.below(DIES_ONE_IN) == 0 {
                    // Nobody else knows yet how long the file is.
                    self.desk.die();
                }
                let possible = self.desk.ledger.open().grown.answered(number, self.desk.now());
                if let Err(what) = possible {
                    self.desk.ledger.fail(Oracle::Sizes, format!("session {}: {what}", self.desk.who.id));
                }
            }
            Err(ErrorKind::NoSpace) => self.desk.ledger.open().grown.refused(number),
            // Nobody knows whether it happens.
            Err(_) => {}
        }
        result
    }

    async fn write(self: &Rc<Self>, offset: u64) -> Done {
        let _shared = self.gate.read().await;
        let (value, end) = (self.desk.ledger.new_value(), offset + UNIT);
        loop {
            self.desk.check_fence()?;
            let life = self.life();
            let extending = self.permission_to_reach(end).await?;
            let number = self.begin(What::Write { at: offset, value });
            match self.write_once(offset, value).await {
                Err(ErrorKind::Stale) => {
                    self.desk.ledger.open().grown.refused(number);
                    drop(extending);
                    self.refresh_past(life).await?;
                }
                result => return self.told(number, result, "writes past the end"),
            }
        }
    }

    async fn permission_to_reach(self: &Rc<Self>, end: u64) -> Result<Option<Extending>, ErrorKind> {
        if end <= self.live() {
            return Ok(None);
        }
        self.refresh().await?;
        if end <= self.live() {
            return Ok(None);
        }
        self.begin_extending(|| end).await.map(Some)
    }

    async fn write_once(&self, offset: u64, value: u64) -> Done {
        let life = self.life();
        let (chunk, offset_bytes) = place(life.object, offset);
        let operation = Operation::Write {
            chunk,
            offset_bytes,
            generation: life.generation,
            ack: AckMode::Memory,
            hashes: Vec::new(),
            data: value.to_le_bytes().repeat(HALF / 8).into(),
        };
        self.submit("write", operation).await?;
        self.wrote(life, offset + UNIT).await
    }

    fn submit(&self, what: &'static str, operation: Operation) -> impl Future<Output = Answer> + use<> {
        self.desk.submit(Op::Other(what), Some(self.inode), operation)
    }

    async fn wrote(&self, life: Life, end: u64) -> Done {
        let extension = {
            let mut size = self.size.borrow_mut();
            let held = self.cap.borrow().is_held() && self.desk.state() == SessionState::Live;
            size.wrote(life, end, if held { CapUse::Allowed } else { CapUse::Forbidden })
        };
        match extension {
            Extension::Covered => Ok(()),
            Extension::Remembered => {
                self.grew.set(true);
                Ok(())
            }
            Extension::CommitFirst { generation, size_bytes } => {
                self.commit_size(generation, size_bytes, Room::Keep).await?;
                self.size.borrow_mut().committed(generation, size_bytes);
                Ok(())
            }
        }
    }

    async fn read(&self, offset: u64) -> Done {
        let began = self.desk.now();
        if offset + UNIT > self.live() {
            self.refresh().await?;
        }
        let (life, value) = loop {
            let life = self.life();
            if offset + UNIT > self.live() {
                break (life, None);
            }
            let (chunk, offset_bytes) = place(life.object, offset);
            let length_bytes = HALF as u32;
            let operation = Operation::Read { chunk, offset_bytes, length_bytes, generation: life.generation };
            match self.submit("read", operation).await {
                Ok(Outcome::Read(bytes)) if self.life() == life => break (life, value_of(&bytes).ok()),
                Ok(_) | Err(ErrorKind::Stale) => self.refresh_past(life).await?,
                Err(error) => return Err(error),
            }
        };
        let pages = self.desk.ledger.open();
        let (now, lost) = (self.desk.now(), pages.last_loss.is_some_and(|at| at >= began));
        let seen = value.map(|value| pages.grown.read(offset, value, life, (began, now)));
        drop(pages);
        match seen {
            Some(Err(what)) if !lost => self.desk.ledger.fail(Oracle::Sizes, what),
            Some(_) => self.desk.ledger.count("reads of a growing file"),
            None => {}
        }
        Ok(())
    }

    /// What a session says of the file's size.
    pub async fn stat(&self) -> Done {
        let began = self.desk.now();
        let record = self.exact_record().await?;
        self.size.borrow_mut().learned(&record);
        let size = self.live();
        self.desk.ledger.count("stats");
        self.desk.say(|| format!("session {} finds {} units", self.desk.who.id, size / UNIT));
        let seen = self.desk.ledger.open().grown.stat(size, (began, self.desk.now()));
        if let Err(what) = seen {
            self.desk.ledger.fail(Oracle::Sizes, format!("session {}: {what}", self.desk.who.id));
        }
        Ok(())
    }

    async fn truncate(&self, size_bytes: u64) -> Done {
        let number = self.begin(What::Cut { to: size_bytes });
        let result = self.cut_to(number, size_bytes).await;
        self.told(number, result, "cuts of a growing file")
    }

    async fn cut_to(&self, number: u64, size_bytes: u64) -> Done {
        let _gate = self.gate.write().await;
        self.commit(Room::Keep).await?;
        self.submit("settle", Operation::Settle).await?;
        let change = AttributeChange { size_bytes: Some(size_bytes), ..AttributeChange::default() };
        let reply = self.desk.mutate(Mutation::SetAttributes { inode: self.inode, change }).await?;
        let NamespaceReply::Changed { record, cut, others } = reply else { return Err(unexpected(&reply)) };
        self.size.borrow_mut().learned(&record);
        let life = Life { object: record.object, generation: record.generation };
        self.desk.ledger.open().grown.took_place(number, life, self.desk.now());
        if self.desk.goes_on() && self.desk.ledger.below(DIES_WITHIN_A_CUT_ONE_IN) == 0 {
            self.desk.ledger.count("clients killed within a cut");
            self.desk.die();
            return Err(ErrorKind::Fenced);
        }
        if others == OtherSessions::Told {
            self.until_truncation_is_known().await?;
        }
        match cut {
            Some(size_bytes) => self.cut(&record, size_bytes).await,
            None => Ok(()),
        }
    }

    async fn until_truncation_is_known(&self) -> Done {
        let mut wait = Duration::from_millis(2);
        loop {
            match self.desk.query(Query::TruncationUnknownTo { inode: self.inode }).await? {
                NamespaceReply::Sessions(unknown) if unknown.iter().all(|id| *id == self.desk.who.id) => return Ok(()),
                NamespaceReply::Sessions(_) => {}
                other => return Err(unexpected(&other)),
            }
            self.desk.sleep(wait).await;
            wait = (wait * 2).min(Duration::from_millis(50));
        }
    }

    async fn cut(&self, record: &FileRecord, size_bytes: u64) -> Done {
        let (object, generation) = (record.object, record.generation);
        let groups = (0..self.groups).map(|index| PgId { volume: self.desk.volume, index });
        let answers: Vec<_> =
            groups.map(|pg| self.submit("cut", Operation::Truncate { pg, object, size_bytes, generation })).collect();
        for answer in answers {
            match answer.await {
                Ok(_) | Err(ErrorKind::Stale) => {}
                Err(error) => return Err(error),
            }
        }
        self.desk.mutate(Mutation::FinishTruncate { inode: self.inode, generation }).await.map(drop)
    }
}

/// The size, and who may change it.
impl Growing {
    fn live(&self) -> u64 {
        self.size.borrow().live()
    }

    fn life(&self) -> Life {
        self.size.borrow().life()
    }

    async fn record(&self) -> Result<FileRecord, ErrorKind> {
        match self.desk.query(Query::Attributes { inode: self.inode }).await? {
            NamespaceReply::Record(record) => Ok(record),
            other => Err(unexpected(&other)),
        }
    }

    async fn exact_record(&self) -> Result<FileRecord, ErrorKind> {
        let mut tries = 0;
        loop {
            let mut record = self.record().await?;
            match record.knowledge {
                SizeKnowledge::Exact => return Ok(record),
                SizeKnowledge::Holder { session, .. } if session == self.desk.who.id => return Ok(record),
                SizeKnowledge::Holder { session: holder, .. } => {
                    let (session, volume) = (self.desk.who.id, self.desk.volume);
                    let request = ControlRequest::AskSize { session, volume, inode: self.inode, holder };
                    if let ControlReply::SizeTold(told) = self.desk.ask(request).await
                        && take_word(&mut record, &told)
                    {
                        return Ok(record);
                    }
                }
                SizeKnowledge::Collecting => {}
            }
            self.desk.check_fence()?;
            tries += 1;
            self.desk.sleep(pause(tries)).await;
        }
    }

    async fn refresh(&self) -> Done {
        if self.cap.borrow().is_held() && self.desk.state() == SessionState::Live {
            return Ok(());
        }
        let record = self.exact_record().await?;
        self.size.borrow_mut().learned(&record);
        Ok(())
    }

    async fn refresh_past(&self, old: Life) -> Done {
        let mut tries = 0;
        loop {
            let record = self.record().await?;
            self.size.borrow_mut().learned(&record);
            if self.life() != old {
                return Ok(());
            }
            tries += 1;
            if tries >= MAX_REFRESHES {
                return Err(ErrorKind::Io("the file was truncated, and its new generation is not known".into()));
            }
            self.desk.sleep(pause(tries)).await;
        }
    }

    async fn commit_size(&self, generation: TruncateGeneration, size_bytes: u64, room: Room) -> Done {
        let (inode, modified) = (self.inode, TimeChange::Now);
        self.desk.mutate(Mutation::CommitSize { inode, generation, size_bytes, modified, room }).await.map(drop)
    }

    async fn commit(&self, room: Room) -> Done {
        let _one = self.commits.lock().await;
        let (life, live, uncommitted) = {
            let size = self.size.borrow();
            (size.life(), size.live(), size.uncommitted())
        };
        let room = if room == Room::GiveBack && self.cap.borrow().room_bytes() > live { room } else { Room::Keep };
        if uncommitted.is_none() && room == Room::Keep {
            return Ok(());
        }
        let own = uncommitted.map_or(0, |(_, size_bytes)| size_bytes);
        self.commit_size(life.generation, own, room).await?;
        if room == Room::GiveBack {
            self.cap.borrow_mut().room_given_back(live);
        }
        self.size.borrow_mut().committed(life.generation, live);
        Ok(())
    }

    async fn upkeep(self: Rc<Self>) {
        loop {
            self.desk.sleep(COMMIT_INTERVAL).await;
            if self.desk.state() != SessionState::Live {
                continue;
            }
            let resting = !self.grew.replace(false) && self.cap.borrow_mut().begin_rest();
            let committed = self.commit(if resting { Room::GiveBack } else { Room::Keep }).await;
            if resting {
                self.cap.borrow_mut().end_rest();
                self.cap_changed.notify_waiters();
            }
            match committed {
                Err(ErrorKind::Fenced) => return,
                // As in the shell: it is tried again.
                Err(_) => self.desk.ledger.count("sizes not committed"),
                Ok(()) => {
                    if let Ok(record) = self.record().await {
                        self.size.borrow_mut().learned(&record);
                    }
                }
            }
        }
    }

    async fn begin_extending(self: &Rc<Self>, end: impl Fn() -> u64) -> Result<Extending, ErrorKind> {
        let mut waiter = None;
        loop {
            let changed = self.cap_changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let admission = self.cap.borrow_mut().admit(self.desk.boot_time(), end());
            match admission {
                Admission::Go => return Ok(Extending(Rc::clone(self))),
                Admission::Ask => {
                    waiter.get_or_insert_with(|| {
                        self.cap.borrow_mut().waits();
                        Waiter(self)
                    });
                    if self.ask_for_cap(end()).await? {
                        continue;
                    }
                }
                Admission::Wait => {}
            }
            self.desk.check_fence()?;
            self.until(changed, ASK_AGAIN).await;
        }
    }

    async fn until(&self, what: impl Future<Output = ()>, longest: Duration) {
        tokio::select! {
            biased;
            () = what => {}
            () = self.desk.sleep(longest) => {}
        }
    }

    async fn ask_for_cap(&self, end_bytes: u64) -> Result<bool, ErrorKind> {
        let _one = self.asking.lock().await;
        {
            let cap = self.cap.borrow();
            if cap.is_held() && cap.room_bytes() >= end_bytes {
                return Ok(true);
            }
        }
        let reply = self.desk.mutate(Mutation::AcquireSizeCap { inode: self.inode, end_bytes }).await?;
        let NamespaceReply::Opened { record, size_cap, .. } = reply else { return Err(unexpected(&reply)) };
        self.size.borrow_mut().learned(&record);
        if size_cap {
            self.desk.ledger.count("size caps granted");
            self.cap_granted(&record);
        }
        Ok(size_cap)
    }

    fn cap_granted(&self, record: &FileRecord) {
        let room = match record.knowledge {
            SizeKnowledge::Holder { session, max_size_bytes } if session == self.desk.who.id => max_size_bytes,
            _ => record.attributes.size_bytes,
        };
        self.cap.borrow_mut().granted(self.desk.boot_time(), room);
        self.cap_changed.notify_waiters();
    }
}

fn place(object: ObjectId, offset: u64) -> (ChunkId, u32) {
    let chunk_bytes = u64::from(CHUNK_BYTES);
    let index = ChunkIndex(u32::try_from(offset / chunk_bytes).unwrap_or(u32::MAX));
    (ChunkId { object, index }, u32::try_from(offset % chunk_bytes).unwrap_or(0))
}

/// As in `weft_client::size_cap`.
fn take_word(record: &mut FileRecord, told: &ToldSize) -> bool {
    let (of, known) = ((told.object, told.generation), (record.object, record.generation));
    if of == known {
        record.attributes.size_bytes = record.attributes.size_bytes.max(told.size_bytes);
    }
    of <= known
}
