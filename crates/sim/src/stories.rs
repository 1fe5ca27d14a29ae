//! Faults that belong together and strike at the moment where they hurt.
//!
//! A fault that is drawn by the clock seldom meets the few milliseconds in which a rule matters. A story waits for a moment
//! of the protocol in some group (a resync begins, a promotion is committed, a flush is answered), then strikes the members
//! that take part in it, a little later. Guarantees: what is drawn depends on the seed alone, and not on the plan that is
//! drawn without stories. Must not know: what ought to come of it.

use crate::aimed;
use crate::plan::{Fault, Mix, one_of};
use crate::world::{MS, SECOND, US, World};
use weft_store::fault::Random;
use weft_types::{DiskId, NodeId, PgId};

/// Something that happened to a group or to a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// A member began to be copied to.
    Resyncing,
    /// It takes part in the log, and the first blocks are compared.
    Copying,
    /// A copied member was taken into the set.
    Promoted,
    /// A member that was not level was recognised as level again.
    Caught,
    /// A new primary hears the promise of a member.
    Promising,
    /// A new primary has levelled its members.
    Levelled,
    /// A member was not levelled, or lost what it had not synced.
    Flawed,
    /// A primary is asked to make room for another.
    Moving,
    Struck,
    Truncated,
    Flushed,
    Written,
}

/// A member, as seen from the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Primary,
    /// Whom the moment is about, or some backup.
    Subject,
    /// One of the others.
    Other,
    /// The node that leads the metadata group.
    Leader,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    Crash,
    PowerCut,
    PowerCutOfAll,
    /// Nothing gets from this one to that one.
    Silence,
    Isolate,
    BreakLinks,
    Pause,
    SlowDisk,
    Deafen,
    Fill,
    /// Its disk has so many KiB of room from now on.
    Fit,
    Evict,
    Move,
    /// The primary reaches clients, and no other node.
    Alone,
    /// The power goes within one of the next changes of the disk.
    PowerCutWithin,
    /// An operator stops it and removes it.
    Remove,
    /// Bits of several files flip there.
    Rot,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Blow {
    pub after_us: u64,
    pub how: How,
    pub who: Role,
    pub to: Role,
    pub ms: u64,
}

pub type Blows = [Option<Blow>; 3];

/// A story that waits for its moment.
#[derive(Clone, Copy, Debug)]
pub struct Ambush {
    pub moment: Moment,
    pub blows: Blows,
}

const ROLES: [Role; 3] = [Role::Primary, Role::Subject, Role::Other];

/// The mix that goes with stories, and when each begins. `None`: this seed has none.
pub fn draw(seed: u64, mix: &Mix, without_aimed: bool) -> Option<(Mix, Vec<(u64, Fault)>)> {
    let mut random = story_chances(seed)?;
    let rare = rare_of(seed);
    let mut mix = Mix {
        threads: 2 + random.below(4) as usize,
        readers: random.below(2) as usize,
        think_ms: one_of(&mut random, &[4, 10, 20]),
        hot_percent: one_of(&mut random, &[0, 30, 70]),
        late_change_percent: one_of(&mut random, &[0, 10, 40]),
        cut_percent: one_of(&mut random, &[0, 0, 30]),
        segment_bytes: one_of(&mut random, &[256 << 10, 128 << 10]),
        groups: 1 + random.below(3) as u16,
        faulty_ns: mix.faulty_ns.max(10 * SECOND),
        ..*mix
    };
    let theme = random.below(THEMES);
    let mut faults = Vec::new();
    let mut at = 300 * MS;
    for _ in 0..2 + random.below(4) {
        at += random.below(mix.faulty_ns / 5);
        // Mostly one theme a seed, so that it gets many tries.
        let theme = if random.chance(75) { theme } else { random.below(THEMES) };
        faults.extend(tell(&mut random, &mut mix, theme).into_iter().map(|fault| (at, fault)));
    }
    if let Some((mut random, theme)) = rare {
        faults = tell_rare(&mut random, &mut mix, theme);
    }
    if let Some((mut random, aimed)) = aimed::of(seed).filter(|_| !without_aimed) {
        faults = (aimed.tell)(&mut random, &mut mix);
    }
    Some((mix, faults))
}

/// The chances of a seed that tells a story.
fn story_chances(seed: u64) -> Option<Random> {
    let mut random = Random::new(seed.wrapping_mul(0x9e37_79b9) ^ 0x5354_4f52);
    random.chance(80).then_some(random)
}

pub fn has_story(seed: u64) -> bool {
    story_chances(seed).is_some()
}

/// The longest delay of a network on which no lease lasts. It becomes so when the cluster serves: before, there is nothing to tell,
/// and a cluster that is being made there does not get on.
pub const SLOW_NETWORK_MS: u64 = 1500;

/// Which of the rare executions a seed tells, and the chance that goes on with it: of a stream of its own, so that the other
/// seeds stay what they were.
fn rare_of(seed: u64) -> Option<(Random, u64)> {
    let mut random = Random::new(seed.wrapping_mul(0x9e37_79b9) ^ 0x5241_5245);
    if !random.chance(25) {
        return None;
    }
    let theme = random.below(RARE_THEMES);
    Some((random, theme))
}

/// The number of the rare execution that a seed tells, if it tells one.
#[must_use]
pub fn rare_theme(seed: u64) -> Option<u64> {
    rare_of(seed).filter(|_| has_story(seed)).map(|(_, theme)| theme)
}

/// Executions that take several things at once, so that they are told with nothing beside them, and again and again.
fn tell_rare(random: &mut Random, mix: &mut Mix, theme: u64) -> Vec<(u64, Fault)> {
    let blow = |after_us, how, who, to, ms| Some(Blow { after_us, how, who, to, ms });
    let ambush = |moment, blow| Fault::Ambush { moment, blows: [blow, None, None] };
    let node = 1 + random.below(mix.nodes);
    let tries = match theme {
        2 => 12,
        5 | 6 => 5,
        _ => 3,
    };
    let mut faults = Vec::new();
    let mut at = 300 * MS;
    for _ in 0..tries {
        let mut tell = |fault| faults.push((at, fault));
        match theme {
            // A member that was away for longer than journals go back is copied to, and interrupted before the end. What
            // it lacks is not written again at once. It fits a journal: copies that cannot be committed, because another
            // member is away, fill the target's, and it is given up (docs/ROADMAP.md; 40 objects and 128 KiB, seed 443).
            0 | 1 => {
                (mix.groups, mix.segment_bytes, mix.think_ms) = (1, 256 << 10, 4);
                (mix.cold_disks, mix.disk_us) = (true, 5000);
                (mix.churn_percent, mix.churn_objects) = (60, 16);
                let slow = blow(0, How::SlowDisk, Role::Primary, Role::Other, 2000);
                let after_us = random.below(if theme == 0 { 30_000 } else { 300_000 });
                let end = if theme == 0 {
                    let how = one_of(random, &[How::Crash, How::PowerCut]);
                    blow(after_us, how, Role::Subject, Role::Primary, 20 + random.below(300))
                } else {
                    // Its last word is that it has no room, while blocks are being read for it.
                    blow(after_us, How::Fill, Role::Subject, Role::Primary, 3000)
                };
                tell(ambush(Moment::Resyncing, slow));
                tell(ambush(Moment::Copying, end));
                tell(Fault::Isolate { node, heal_ms: 2500 + random.below(1000) });
            }
            // One disk loses its power in the middle of a write, again and again, also while it is opened. All records are
            // of one length, so that an old one may begin where the log ends.
            2 => {
                (mix.segment_bytes, mix.think_ms, mix.disk_us) = (128 << 10, 4, 5000);
                (mix.writers, mix.readers, mix.reading_clients) = (mix.threads, 0, 0);
                let back_ms = 20 + random.below(200);
                let within = |operations| Fault::PowerCutWithin { node, operations, back_ms };
                match random.below(3) {
                    0 => tell(Fault::Crash { node, parent: false, back_ms }),
                    1 => tell(within(1 + random.below(12))),
                    _ => {
                        tell(within(1 + random.below(12)));
                        faults.push((at + 700 * MS, within(4 + random.below(40))));
                    }
                }
            }
            // A new primary whose member has promised and has nothing of the epoch yet is asked to flush.
            3 => {
                mix.groups = 1;
                let late = blow(0, How::Silence, Role::Primary, Role::Subject, 1501);
                let end = blow(random.below(50_000), How::PowerCutOfAll, Role::Primary, Role::Other, 300);
                tell(ambush(Moment::Promising, late));
                tell(ambush(Moment::Flushed, end));
                tell(Fault::MovePrimary { choice: random.next_u64() });
            }
            // A primary that nobody but readers reach. Others write seldom, so that few blocks wait for a write that was
            // under way, and a reader that meets one of them is not held up for all of the time.
            4 => {
                (mix.groups, mix.hot_percent, mix.think_ms) = (1, 0, 40);
                (mix.clients, mix.readers, mix.threads, mix.reading_clients) = (mix.clients.max(2), 0, 2, 1);
                tell(Fault::Split { group: 0, role: Role::Primary, clients: 1, heal_ms: 6000 });
            }
            // A leader whose majority has answered it, and goes over to another before the answers arrive.
            5 => {
                (mix.slow_message_percent, mix.slow_message_ms) = (15, SLOW_NETWORK_MS);
                tell(Fault::Split { group: 0, role: Role::Leader, clients: 0, heal_ms: 3500 + random.below(2000) });
                tell(Fault::UnseatLeader);
            }
            // What only a primary has, and loses in part, lies behind what the next one has it write there.
            6 => {
                (mix.groups, mix.segment_bytes, mix.think_ms, mix.disk_us) = (1, 128 << 10, 4, 5000);
                (mix.writers, mix.readers, mix.reading_clients) = (mix.threads, 0, 0);
                let alone = blow(0, How::Alone, Role::Primary, Role::Other, 300);
                let cut = blow(1000 + random.below(20_000), How::PowerCut, Role::Primary, Role::Other, 20);
                let after_us = 300_000 + random.below(2_000_000);
                let again = blow(after_us, How::PowerCutWithin, Role::Primary, Role::Other, 1 + random.below(30));
                tell(Fault::Ambush { moment: Moment::Written, blows: [alone, cut, again] });
            }
            // A disk gets full while much waits to be written to files that are not there yet.
            _ => {
                (mix.churn_percent, mix.churn_objects, mix.think_ms) = (80, 60, 4);
                (mix.readers, mix.reading_clients) = (0, 0);
                tell(Fault::Full { node, ms: 1500 + random.below(3000) });
                let back_ms = 20 + random.below(1000);
                match random.below(3) {
                    0 => faults.push((at + random.below(1500 * MS), Fault::Crash { node, parent: true, back_ms })),
                    1 => faults.push((at + random.below(1500 * MS), Fault::PowerCut { node, back_ms })),
                    _ => {}
                }
            }
        }
        at += random.below(2 * mix.faulty_ns / (tries + 1));
    }
    faults
}

const RARE_THEMES: u64 = 8;

const THEMES: u64 = 14;

fn tell(random: &mut Random, mix: &mut Mix, theme: u64) -> Vec<Fault> {
    let heal_ms = one_of(random, &[1000, 3000, 5000, 7000]) + random.below(1000);
    let ms = one_of(random, &[20, 300, 2000, 5000]) + random.below(300);
    let blow = |after_us, how, who, to, ms| Some(Blow { after_us, how, who, to, ms });
    let soon = soon_us(random);
    let ambush = |moment, blows| Fault::Ambush { moment, blows };
    // Something to copy: a whole disk, or what a member missed.
    let node = 1 + random.below(mix.nodes);
    let empty = Fault::ReplaceDisk { node, back_ms: 20 + random.below(200) };
    let away = Fault::Isolate { node, heal_ms: 3000 + random.below(2000) };
    let to_copy = if random.chance(60) { empty } else { away };
    let slow_copies = |mix: &mut Mix| {
        mix.cold_disks = true;
        mix.disk_us = 5000;
        mix.groups = 1;
        mix.writers = mix.threads.min(2) - usize::from(mix.threads == mix.readers + 1);
        ambush(Moment::Resyncing, [blow(0, How::SlowDisk, Role::Primary, Role::Other, 2000), None, None])
    };
    match theme {
        0 => {
            let (group, role) = (random.below(4), one_of(random, &[Role::Primary, Role::Primary, Role::Leader]));
            // Somebody reads on each side.
            mix.readers = mix.readers.max(1);
            mix.clients = mix.clients.max(2);
            let alone = random.chance(50);
            mix.reading_clients = mix.reading_clients.max(usize::from(alone));
            mix.groups = 1;
            let clients = if alone { 1 } else { (random.below(16) | 1) & !2 };
            vec![Fault::Split { group, role, clients, heal_ms }]
        }
        1 => {
            // A write waits for its old block while its session is struck off.
            mix.cold_disks = true;
            mix.disk_us = 5000;
            let slow = blow(0, How::SlowDisk, Role::Primary, Role::Other, 5000);
            let evict = blow(random.below(300_000), How::Evict, Role::Primary, Role::Other, random.below(4));
            vec![ambush(Moment::Written, [slow, evict, None])]
        }
        2 => {
            // Somebody has to acknowledge what a node that hears no maps cannot.
            mix.faulty_ns = mix.faulty_ns.max(20 * SECOND);
            let deaf = blow(0, How::Deafen, Role::Other, Role::Primary, 12_000);
            let evict = blow(random.below(300_000), How::Evict, Role::Primary, Role::Other, random.below(4));
            vec![ambush(Moment::Written, [deaf, evict, None])]
        }
        3 => {
            mix.cut_percent = 30;
            let moment = one_of(random, &[Moment::Truncated, Moment::Flushed]);
            vec![ambush(moment, [blow(soon, How::PowerCutOfAll, Role::Primary, Role::Other, ms), None, None])]
        }
        4 => {
            // The target's copy is interrupted.
            let how = one_of(random, &[How::Crash, How::PowerCut, How::BreakLinks, How::Pause]);
            let most = one_of(random, &[2000, 50_000]);
            let after_us = random.below(most);
            let end = blow(after_us, how, Role::Subject, Role::Primary, 20 + random.below(300));
            vec![to_copy, slow_copies(mix), ambush(Moment::Copying, [end, None, None])]
        }
        5 => {
            // What one backup lacks is shown by another that leads, and dies.
            let silence = blow(0, How::Silence, Role::Primary, Role::Other, 4500);
            let crash = blow(soon, How::Crash, Role::Primary, Role::Other, 5000);
            let between = blow(0, How::Silence, Role::Subject, Role::Other, 4500);
            vec![ambush(Moment::Written, [silence, between, crash])]
        }
        6 => {
            // One member is lossy for a while, another dies.
            let lossy = blow(0, How::PowerCut, Role::Subject, Role::Primary, 20);
            let silence = blow(100, How::Silence, Role::Primary, Role::Subject, 1000);
            let crash = blow(50_000 + random.below(500_000), How::Crash, Role::Other, Role::Primary, 2000);
            vec![ambush(Moment::Written, [lossy, silence, crash])]
        }
        // What is being copied is written meanwhile.
        7 => {
            let full = blow(0, How::Fill, Role::Subject, Role::Primary, 2500).filter(|_| random.chance(50));
            let slow = slow_copies(mix);
            vec![to_copy, ambush(Moment::Resyncing, [full, None, None]), slow]
        }
        8 => {
            // The primary does not hear that a member is level, and the member does not hear from the primary.
            let moment = one_of(random, &[Moment::Promoted, Moment::Caught]);
            let deaf = blow(0, How::Deafen, Role::Primary, Role::Other, 900);
            let silence = blow(0, How::Silence, Role::Primary, Role::Subject, 901);
            let end = blow(500_000, How::Crash, Role::Primary, Role::Other, 3000).filter(|_| random.chance(50));
            // One that lost what it had not synced is caught up with at once.
            let first = if moment == Moment::Caught { Fault::PowerCut { node, back_ms: 20 } } else { to_copy };
            vec![ambush(moment, [deaf, silence, end]), first]
        }
        9 => {
            // What was cut while a member was away, for longer than journals go back.
            mix.cut_percent = 30;
            mix.segment_bytes = 128 << 10;
            mix.groups = 1;
            vec![away]
        }
        10 => {
            // What an old primary sent arrives when the new one has been promised, and has sent nothing.
            let held = blow(0, How::Silence, Role::Primary, Role::Other, 501);
            let promise = blow(0, How::Silence, Role::Other, Role::Subject, 1501);
            let going = Fault::MovePrimary { choice: random.next_u64() };
            vec![ambush(Moment::Moving, [held, promise, None]), going]
        }
        12 => {
            // One that has promised is not levelled, is recognised later, and lacks again what is written then.
            let late = blow(0, How::Silence, Role::Primary, Role::Subject, 701);
            let deaf = blow(0, How::Deafen, Role::Primary, Role::Other, 900);
            let silence = blow(0, How::Silence, Role::Primary, Role::Subject, 901);
            let going = Fault::MovePrimary { choice: random.next_u64() };
            vec![ambush(Moment::Promising, [late, None, None]), ambush(Moment::Caught, [deaf, silence, None]), going]
        }
        11 => {
            // One that has not synced what was acknowledged is not there when another leads.
            let away = blow(0, How::Pause, Role::Other, Role::Primary, 4500);
            let crash = blow(random.below(20_000), How::Crash, Role::Primary, Role::Other, 5000);
            vec![ambush(Moment::Written, [away, crash, None])]
        }
        _ => {
            let moment = one_of(random, &MOMENTS);
            let count = 1 + random.below(3) as usize;
            let mut blows = [None; 3];
            for blow in blows.iter_mut().take(count) {
                *blow = Some(any_blow(random));
            }
            vec![ambush(moment, blows)]
        }
    }
}

const MOMENTS: [Moment; 12] = [
    Moment::Promising,
    Moment::Resyncing,
    Moment::Copying,
    Moment::Promoted,
    Moment::Caught,
    Moment::Levelled,
    Moment::Flawed,
    Moment::Moving,
    Moment::Struck,
    Moment::Truncated,
    Moment::Flushed,
    Moment::Written,
];

/// Between 0.1 ms and a second, each order of magnitude as often.
fn soon_us(random: &mut Random) -> u64 {
    let most = one_of(random, &[1000, 10_000, 100_000, 1_000_000]);
    100 + random.below(most)
}

fn any_blow(random: &mut Random) -> Blow {
    let all = [
        How::Crash,
        How::Crash,
        How::PowerCut,
        How::Silence,
        How::Silence,
        How::Isolate,
        How::BreakLinks,
        How::Pause,
        How::SlowDisk,
        How::Move,
    ];
    Blow {
        after_us: soon_us(random),
        how: one_of(random, &all),
        who: one_of(random, &ROLES),
        to: one_of(random, &ROLES),
        ms: one_of(random, &[20, 200, 1000, 4500]) + random.below(300),
    }
}

impl World {
    /// Something happened that a story may wait for.
    pub fn moment(&mut self, moment: Moment, pg: Option<PgId>, subject: Option<DiskId>) {
        let Some(at) = self.ambushes.iter().position(|ambush| ambush.moment == moment) else { return };
        if self.quiet {
            return;
        }
        let Ambush { blows, .. } = self.ambushes.remove(at);
        let map = std::sync::Arc::clone(&self.metadata.map);
        let any = map.pgs.get(self.random.below(map.pgs.len().max(1) as u64) as usize);
        let Some(record) = map.pgs.iter().find(|record| Some(record.pg) == pg).or(any) else { return };
        self.stats.count("ambushes");
        self.say(|| format!("ambush at {moment:?} of group {}", record.pg));
        for blow in blows.into_iter().flatten() {
            let Some(fault) = self.aim(blow, record, subject) else { continue };
            self.after(blow.after_us * US, "ambush", move |world| {
                if !world.quiet {
                    world.strike(fault);
                }
            });
        }
    }

    /// The node of a member in a role.
    pub fn in_role(&self, role: Role, record: &weft_types::PgRecord, subject: Option<DiskId>) -> Option<NodeId> {
        let primary = record.primary_member().map(|member| member.node);
        let backups = || record.members.iter().filter(|member| Some(member.node) != primary);
        let named = subject.filter(|disk| Some(*disk) != record.primary);
        let subject = backups().find(|m| named.is_none_or(|disk| m.disk == disk)).or(backups().next()).map(|m| m.node);
        match role {
            Role::Primary => primary,
            Role::Subject => subject,
            Role::Leader => self.metadata.leader,
            Role::Other => backups().map(|member| member.node).find(|node| Some(*node) != subject),
        }
    }

    fn aim(&self, blow: Blow, record: &weft_types::PgRecord, subject: Option<DiskId>) -> Option<Fault> {
        let node = self.in_role(blow.who, record, subject)?.0;
        let (to, ms) = (self.in_role(blow.to, record, subject).map(|node| node.0), blow.ms);
        Some(match blow.how {
            How::Crash => Fault::Crash { node, parent: ms % 2 == 0, back_ms: ms },
            How::PowerCut => Fault::PowerCut { node, back_ms: ms },
            How::PowerCutOfAll => Fault::PowerCutOfAll { back_ms: ms },
            How::Silence => {
                let to = to.filter(|to| *to != node)?;
                Fault::Partition { from: node, to, both: ms % 2 == 0, heal_ms: ms }
            }
            How::Isolate => Fault::Isolate { node, heal_ms: ms },
            How::BreakLinks => Fault::BreakLinks { node },
            How::Pause => Fault::Pause { node, ms },
            How::SlowDisk => Fault::SlowDisk { node, times: 300, ms },
            How::Deafen => Fault::Deafen { node, ms },
            How::Fill => Fault::Full { node, ms },
            How::Fit => Fault::Fit { node, room_kib: ms },
            How::Evict => Fault::Evict { client: ms % self.clients.len().max(1) as u64 },
            How::Alone => {
                Fault::Split { group: u64::from(record.pg.index), role: Role::Primary, clients: u64::MAX, heal_ms: ms }
            }
            How::PowerCutWithin => Fault::PowerCutWithin { node, operations: ms, back_ms: 20 * ms },
            How::Remove => Fault::RemoveNode { node, away: aimed::operators::away(ms) },
            How::Rot => Fault::Rot { node, choice: self.now() },
            How::Move => Fault::MovePrimary { choice: u64::from(record.pg.index) | ms << 8 },
        })
    }
}
