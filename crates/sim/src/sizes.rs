//! The ends of an object in its placement groups, asked on behalf of the metadata leader (design 7, size).

use crate::world::{MS, World};
use bytes::Bytes;
use std::cell::RefCell;
use std::rc::Rc;
use weft_meta::leader::LeaderEvent;
use weft_meta::records::SizeRecovery;
use weft_node::data::turn::Speaker;
use weft_proto::data::{DataReply, DataRequest};
use weft_types::NodeId;

impl World {
    /// Asks every group of the volume; an answer comes only when all of them gave one.
    pub fn recover_size(&mut self, id: NodeId, life: u64, recovery: SizeRecovery) {
        self.stats.count("sizes collected");
        let map = std::sync::Arc::clone(&self.metadata.map);
        let groups: Vec<_> = map.pgs.iter().filter(|record| record.pg.volume == recovery.volume).collect();
        let answers: Rc<RefCell<(usize, u64)>> = Rc::new(RefCell::new((groups.len(), 0)));
        for record in groups {
            let Some(member) = record.primary_member() else { continue };
            let Some(primary_life) = self.life_of(member.node) else { continue };
            let request = DataRequest::ObjectExtent {
                pg: record.pg,
                map_version: map.version,
                object: recovery.object,
                generation: recovery.generation,
            };
            let answers = Rc::clone(&answers);
            self.data_request(
                member.node,
                primary_life,
                request,
                Bytes::new(),
                Speaker::Node,
                Box::new(move |_, answer| {
                    if let Some((Ok(DataReply::ObjectExtent { end_bytes, .. }), _)) = answer {
                        let mut answers = answers.borrow_mut();
                        *answers = (answers.0.saturating_sub(1), answers.1.max(end_bytes));
                    }
                }),
            );
        }
        self.after(400 * MS, "size collected", move |world| {
            let (missing, end) = *answers.borrow();
            if world.life_of(id) == Some(life) {
                let end_bytes = (missing == 0).then_some(end);
                world.step_leader(id, LeaderEvent::SizeCollected { recovery, end_bytes });
            }
        });
    }
}
