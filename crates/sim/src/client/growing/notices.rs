//! What other sessions want of this one: the size cap, an acknowledgement, how long the file is.
//!
//! Follows `weft_client::size_cap` and the watch of the client's upkeep. Must not know: who asks.

use super::{ASK_AGAIN, Done, Growing, WATCH_MS, WATCH_NS};
use crate::failure::Oracle;
use crate::world::MS;
use std::rc::Rc;
use std::time::Duration;
use weft_client::core::retry::pause;
use weft_client::core::{GivingUp, Operation};
use weft_proto::control::{ControlReply, ControlRequest, ToldSize};
use weft_proto::namespace::{Mutation, Notice};
use weft_types::{ErrorKind, TruncateGeneration};

/// What others want of this session.
impl Growing {
    pub(super) async fn watch(self: Rc<Self>) {
        let mut seen = 0;
        loop {
            let session = self.desk.who.id;
            let request = ControlRequest::Watch { session, seen, wait_ms: WATCH_MS };
            let reply = tokio::select! {
                biased;
                reply = self.desk.try_once(request, WATCH_NS) => reply,
                () = self.desk.leader_moved() => None,
            };
            match reply {
                Some(ControlReply::Notices { upto, notices }) => {
                    seen = if notices.is_empty() { 0 } else { seen.max(upto) };
                    for notice in notices {
                        let file = Rc::clone(&self);
                        self.desk.spawn(async move { file.noticed(notice).await });
                    }
                }
                _ => self.desk.sleep(Duration::from_millis(20)).await,
            }
        }
    }

    async fn noticed(self: Rc<Self>, notice: Notice) {
        if self.stuck.get() && matches!(notice, Notice::Recall { .. } | Notice::Truncated { .. }) {
            return;
        }
        let result = match notice {
            Notice::Recall { .. } => {
                self.desk.ledger.count("size caps recalled");
                self.give_up_cap().await
            }
            Notice::CapGranted { .. } => {
                self.cap_changed.notify_waiters();
                Ok(())
            }
            Notice::Truncated { generation, .. } => self.learn_truncation(generation).await,
            Notice::SizeWanted { question, .. } => {
                let life = self.life();
                let (object, generation) = (life.object, life.generation);
                let told = ToldSize { object, generation, size_bytes: self.live(), written: None };
                let (session, volume) = (self.desk.who.id, self.desk.volume);
                let request = ControlRequest::TellSize { session, volume, inode: self.inode, question, told };
                self.desk.ledger.count("sizes told");
                self.desk.try_once(request, 500 * MS).await;
                Ok(())
            }
        };
        match result {
            Ok(()) | Err(ErrorKind::Fenced) => {}
            Err(error) => {
                let what = format!("session {} could not do what {notice:?} asks: {error}", self.desk.who.id);
                self.desk.ledger.fail(Oracle::Sizes, what);
            }
        }
    }

    async fn give_up_cap(&self) -> Done {
        self.cap.borrow_mut().recall();
        loop {
            let changed = self.cap_changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let now = self.desk.boot_time();
            let decision = self.cap.borrow_mut().giving_up(now);
            match decision {
                GivingUp::NotAsked => return Ok(()),
                GivingUp::Now => break,
                GivingUp::At(time) => self.desk.sleep(time.since(now) + Duration::from_millis(1)).await,
                GivingUp::WhenDone => self.until(changed, ASK_AGAIN).await,
            }
        }
        let _one = self.asking.lock().await;
        self.release_cap().await?;
        self.cap.borrow_mut().given_up();
        self.cap_changed.notify_waiters();
        Ok(())
    }

    async fn release_cap(&self) -> Done {
        let _one = self.commits.lock().await;
        let (life, live) = (self.life(), self.live());
        let (inode, generation) = (self.inode, life.generation);
        let release = Mutation::ReleaseSizeCap { inode, generation, size_bytes: live, modified: None };
        match self.desk.mutate(release).await {
            Ok(_) => {
                self.size.borrow_mut().committed(generation, live);
                Ok(())
            }
            Err(ErrorKind::NotFound | ErrorKind::Stale) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn learn_truncation(&self, generation: TruncateGeneration) -> Done {
        let mut tries = 0;
        let life = loop {
            let record = self.record().await?;
            self.size.borrow_mut().learned(&record);
            let life = self.life();
            if life.generation >= generation {
                break life;
            }
            tries += 1;
            self.desk.sleep(pause(tries)).await;
        };
        let (object, generation) = (life.object, life.generation);
        self.submit("settle older", Operation::SettleOlder { object, generation }).await?;
        self.desk.ledger.count("truncations acknowledged");
        match self.desk.mutate(Mutation::AcknowledgeTruncate { inode: self.inode, generation }).await {
            Ok(_) | Err(ErrorKind::NotFound | ErrorKind::Stale) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
