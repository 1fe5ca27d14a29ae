//! Contents that nobody knows of any more, and that no deletion will find.
//!
//! Guarantees: once everything is quiet, every object of which a replica holds blocks is that of an inode or waits to be
//! deleted. Objects that the workload makes up without files are left out. Must not know: how deletions are carried out.

use crate::client::FIRST_OBJECT;
use crate::world::World;
use weft_meta::read;
use weft_types::map::MemberState;

impl World {
    /// What a level replica has, and nobody knows of.
    ///
    /// # Errors
    /// The first object that was left behind.
    pub fn look_for_leaks(&self) -> Result<(), String> {
        let map = &self.metadata.map;
        let Some(volume) = map.volumes.first() else { return Ok(()) };
        let known = read::known_objects(&self.metadata.view, volume.id).map_err(|error| error.to_string())?;
        for record in &map.pgs {
            let level = record.members.iter().filter(|member| matches!(member.state, MemberState::InSync { .. }));
            for member in level {
                let Some(content) = crate::check::content_of(self, member.node, member.disk, record.pg) else {
                    continue;
                };
                let left = content?.into_iter().map(|(chunk, _)| chunk);
                let mut left = left.filter(|chunk| chunk.object.0 < FIRST_OBJECT && !known.contains(&chunk.object));
                if let Some(chunk) = left.next() {
                    return Err(format!(
                        "group {}: disk {} keeps {chunk}, whose object is gone",
                        record.pg, member.disk
                    ));
                }
            }
        }
        Ok(())
    }
}
