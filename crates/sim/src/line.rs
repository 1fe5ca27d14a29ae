//! The line in which sessions wait for a file's size cap (decision 0014).
//!
//! Guarantees: it keeps an order of its own, by when somebody was first seen waiting; whoever gets the cap came before
//! everybody who still waits. Must not know: how the line is kept.

use crate::failure::Oracle;
use crate::world::World;
use weft_meta::read;
use weft_types::SessionId;

#[derive(Default)]
pub struct SizeLine {
    holder: Option<SessionId>,
    /// Who waits, in the order in which they came.
    arrived: Vec<SessionId>,
}

impl SizeLine {
    /// Takes in what the metadata group says now.
    ///
    /// # Errors
    /// Who was overtaken by whom.
    fn look(&mut self, holder: Option<SessionId>, waiting: &[SessionId]) -> Result<(), String> {
        if let Some(next) = holder.filter(|_| holder != self.holder) {
            let place = self.arrived.iter().position(|session| *session == next).unwrap_or(self.arrived.len());
            let overtaken = self.arrived[..place].iter().find(|session| waiting.contains(session));
            if let Some(overtaken) = overtaken {
                return Err(format!("session {next} gets a size cap for which session {overtaken} waits for longer"));
            }
        }
        self.holder = holder;
        self.arrived.retain(|session| waiting.contains(session));
        let new: Vec<SessionId> = waiting.iter().filter(|session| !self.arrived.contains(session)).copied().collect();
        self.arrived.extend(new);
        Ok(())
    }
}

impl World {
    /// Something was committed.
    pub fn look_at_size_line(&mut self) {
        let growing = self.ledger.open().growing;
        let (Some(inode), Some(volume)) = (growing, self.metadata.map.volumes.first()) else { return };
        let seen = match read::size_line(&self.metadata.view, volume.id, inode) {
            Ok((holder, waiting)) => self.size_line.look(holder, &waiting),
            Err(error) => return self.fail(Oracle::Integrity, format!("the metadata state cannot be read: {error}")),
        };
        if let Err(what) = seen {
            self.fail(Oracle::Sizes, what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: SessionId = SessionId(1);
    const TWO: SessionId = SessionId(2);
    const THREE: SessionId = SessionId(3);

    #[test]
    fn whoever_came_first_is_first() {
        let mut line = SizeLine::default();
        assert_eq!(line.look(Some(ONE), &[TWO]), Ok(()));
        assert_eq!(line.look(Some(ONE), &[TWO, THREE]), Ok(()));
        assert_eq!(line.look(Some(TWO), &[THREE]), Ok(()));
        assert_eq!(line.look(Some(TWO), &[THREE, ONE]), Ok(()));
        assert!(line.look(Some(ONE), &[THREE]).is_err());
    }

    #[test]
    fn nobody_gets_it_past_the_line() {
        let mut line = SizeLine::default();
        assert_eq!(line.look(None, &[TWO]), Ok(()));
        assert!(line.look(Some(ONE), &[TWO]).is_err());
    }
}
