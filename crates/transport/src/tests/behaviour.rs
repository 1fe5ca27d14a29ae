//! The same behaviour over memory and QUIC.

use super::rig::{LaneKind, Pair, SECOND, connected, echo, run, until};
use crate::error::{CallError, CloseReason, SendError};
use crate::lane::{BULK_BYTES, Channel};
use crate::{Payload, Service};
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};
use weft_proto::frame::Refusal;
use weft_types::limits::{MAX_FRAME_PAYLOAD_BYTES, MAX_QUEUED_BYTES_PER_CHANNEL, MAX_REQUESTS_PER_CONNECTION};

fn on_both_lanes(test: impl AsyncFn(Pair)) {
    for kind in [LaneKind::Memory, LaneKind::Quic] {
        run(async { test(connected(kind).await).await });
    }
}

#[test]
fn a_call_gets_its_own_answer_and_payload() {
    on_both_lanes(async |pair| {
        for size in [0usize, 1, 1024, 4096, 70_000, 1 << 20] {
            let payload: Vec<u8> = (0..size).map(|i| (i * 7 % 251) as u8).collect();
            let (number, back) = echo(&pair.client, size as u64, payload.clone()).await;
            assert_eq!(number, size as u64 + 1);
            assert_eq!(back, payload);
        }
    });
}

#[test]
fn many_calls_at_once_each_get_their_own_answer() {
    on_both_lanes(async |pair| {
        let done = Rc::new(RefCell::new(Vec::new()));
        for number in 0..500u64 {
            let done = Rc::clone(&done);
            let payload = Bytes::from(vec![number as u8; 4096]);
            let on_reply = move |reply: Result<crate::Message, CallError>| {
                let reply = reply.unwrap();
                assert_eq!(reply.decode::<u64>().unwrap(), number + 1);
                assert_eq!(reply.payload, vec![number as u8; 4096]);
                done.borrow_mut().push(number);
            };
            pair.client.call_with(Channel::Small, Service::Data, &number, payload, 5 * SECOND, on_reply).unwrap();
        }
        until("all answered", || done.borrow().len() == 500).await;
        assert!(pair.server_side.batches.get() < 500, "requests arrive in batches");
    });
}

#[test]
fn one_way_messages_of_a_channel_arrive_in_order_whatever_their_size() {
    on_both_lanes(async |pair| {
        let mut bytes = 0;
        for number in 0..400u64 {
            let size = if number % 7 == 0 { 100_000 } else { (number * 37 % 5000) as usize };
            bytes += size;
            pair.client.wait_for_room(Channel::Ordered).await;
            let parts = vec![Bytes::from(vec![1u8; size / 2]), Bytes::from(vec![2u8; size - size / 2])];
            pair.client.send(Channel::Ordered, Service::Replication, &number, parts).unwrap();
        }
        until("all arrived", || pair.server_side.messages.borrow().len() == 400).await;
        assert_eq!(*pair.server_side.messages.borrow(), (0..400).collect::<Vec<u64>>());
        assert_eq!(pair.server_side.message_bytes.get(), bytes);
    });
}

#[test]
fn a_server_sends_to_and_calls_its_client_too() {
    on_both_lanes(async |pair| {
        until("accepted", || !pair.server_side.opened.borrow().is_empty()).await;
        let accepted = pair.server_side.opened.borrow()[0].clone();
        accepted.send(Channel::Small, Service::Control, &7u64, ()).unwrap();
        assert_eq!(echo(&accepted, 1, vec![3; 10]).await.0, 2);
        assert_eq!(*pair.client_side.messages.borrow(), [7]);
    });
}

#[test]
fn small_calls_are_not_held_up_by_bulk_ones() {
    // In memory nothing takes time, so there is nothing to overtake.
    run(async {
        let pair = connected(LaneKind::Quic).await;
        let answered = Rc::new(RefCell::new(Vec::new()));
        for number in 0..16u64 {
            let answered = Rc::clone(&answered);
            let on_reply = move |_| answered.borrow_mut().push(number);
            let payload = Bytes::from(vec![0u8; 1 << 20]);
            pair.client.call_with(Channel::Bulk, Service::Data, &number, payload, 20 * SECOND, on_reply).unwrap();
        }
        echo(&pair.client, 1, vec![9; 100]).await;
        let before = answered.borrow().len();
        assert!(before < 8, "the small call came after {before} of 16 MiB");
        until("all answered", || answered.borrow().len() == 16).await;
    });
}

#[test]
fn a_call_ends_at_its_deadline_and_a_late_answer_is_ignored() {
    on_both_lanes(async |pair| {
        pair.server_side.keep.set(true);
        let started = Instant::now();
        let long = pair.client.call::<u64, u64>(Service::Data, &1, (), 60 * SECOND);
        let short = pair.client.call::<u64, u64>(Service::Data, &2, (), Duration::from_millis(100));
        let result = tokio::select! {
            _ = long => panic!("nobody answered"),
            result = short => result,
        };
        assert!(matches!(result, Err(CallError::DeadlinePassed { waited_ms: 100..20_000 })), "{result:?}");
        assert!(started.elapsed() < 20 * SECOND, "it waited for the other one's deadline");
        for late in pair.server_side.kept.borrow_mut().drain(..) {
            late.reply(&0u64, ());
        }
        pair.server_side.keep.set(false);
        assert_eq!(echo(&pair.client, 5, Vec::new()).await.0, 6);
    });
}

#[test]
fn a_request_that_is_dropped_is_refused_at_once() {
    on_both_lanes(async |pair| {
        pair.server_side.drop_them.set(true);
        let result = pair.client.call::<u64, u64>(Service::Data, &1, (), 5 * SECOND).await;
        assert_eq!(result, Err(CallError::Refused(Refusal::Dropped)));
    });
}

#[test]
fn closing_ends_calls_in_flight_on_both_sides_and_says_why() {
    on_both_lanes(async |pair| {
        pair.server_side.keep.set(true);
        let call = pair.client.call::<u64, u64>(Service::Data, &1, (), 5 * SECOND);
        let end = async {
            until("request arrived", || !pair.server_side.kept.borrow().is_empty()).await;
            let accepted = pair.server_side.opened.borrow()[0].clone();
            accepted.close("the node is stopping");
        };
        let (result, ()) = tokio::join!(call, end);
        let reason = CloseReason::Peer("the node is stopping".to_owned());
        assert_eq!(result, Err(CallError::Closed(reason.clone())));
        assert_eq!(*pair.client_side.closed.borrow(), [reason]);
        assert_eq!(*pair.server_side.closed.borrow(), [CloseReason::Here("the node is stopping".to_owned())]);
        let again = pair.client.call::<u64, u64>(Service::Data, &1, (), SECOND).await;
        assert_eq!(again, Err(CallError::NotSent(SendError::Down)));
    });
}

#[test]
fn a_peer_that_does_not_read_stops_the_sender_not_the_memory() {
    on_both_lanes(async |pair| {
        // Nothing runs between the sends, so nothing is written.
        let payload = Bytes::from(vec![0u8; 1 << 20]);
        let mut queued = 0;
        let refused = loop {
            match pair.client.send(Channel::Bulk, Service::Data, &1u64, payload.clone()) {
                Ok(()) => queued += 1,
                Err(error) => break error,
            }
            assert!(queued < 100);
        };
        assert_eq!(refused, SendError::QueueFull);
        assert!(pair.client.queued_bytes() <= MAX_QUEUED_BYTES_PER_CHANNEL + (2 << 20));
        pair.client.wait_for_room(Channel::Bulk).await;
        pair.client.send(Channel::Bulk, Service::Data, &1u64, payload).unwrap();
        until("all arrived", || pair.server_side.messages.borrow().len() == queued + 1).await;
    });
}

#[test]
fn a_closed_gate_holds_up_large_requests_for_a_while_and_nothing_else() {
    on_both_lanes(async |pair| {
        pair.server_side.gate.set_open(false);
        let large = Rc::new(Cell::new(0));
        for _ in 0..2 {
            let large = Rc::clone(&large);
            let data = Bytes::from(vec![1u8; BULK_BYTES]);
            let count =
                move |reply: Result<crate::Message, CallError>| large.set(large.get() + usize::from(reply.is_ok()));
            pair.client.call_with(Channel::Bulk, Service::Data, &1u64, data, 5 * SECOND, count).unwrap();
        }
        let began = Instant::now();
        assert_eq!(echo(&pair.client, 8, vec![1; BULK_BYTES - 1]).await.0, 9);
        assert_eq!(large.get(), 0, "after {:?}", began.elapsed());
        until("the first to have waited enough", || large.get() == 1).await;
        assert!(began.elapsed() >= Duration::from_millis(50));
        pair.server_side.gate.set_open(true);
        until("the second to be let through", || large.get() == 2).await;
        assert_eq!(echo(&pair.client, 8, vec![1; BULK_BYTES]).await.0, 9);
    });
}

#[test]
fn calls_in_flight_are_bounded_and_waiting_ones_go_on_when_others_end() {
    on_both_lanes(async |pair| {
        pair.server_side.keep.set(true);
        for _ in 0..MAX_REQUESTS_PER_CONNECTION {
            pair.client.call_with(Channel::Small, Service::Data, &1u64, (), 20 * SECOND, |_| {}).unwrap();
        }
        let over = pair.client.call_with(Channel::Small, Service::Data, &1u64, (), SECOND, |_| panic!("not sent"));
        assert_eq!(over, Err(SendError::TooManyInFlight));
        let waited = pair.client.call::<u64, u64>(Service::Data, &1, (), Duration::from_millis(50)).await;
        assert_eq!(waited, Err(CallError::NotSent(SendError::QueueFull)));
        until("all arrived", || pair.server_side.kept.borrow().len() == MAX_REQUESTS_PER_CONNECTION).await;
        pair.server_side.keep.set(false);
        for replier in pair.server_side.kept.borrow_mut().drain(..) {
            replier.reply(&0u64, ());
        }
        assert_eq!(echo(&pair.client, 8, Vec::new()).await.0, 9);
    });
}

#[test]
fn a_payload_over_the_limit_is_refused_before_it_is_queued() {
    on_both_lanes(async |pair| {
        let payload = Payload::One(Bytes::from(vec![0u8; MAX_FRAME_PAYLOAD_BYTES + 1]));
        let result = pair.client.send(Channel::Bulk, Service::Data, &1u64, payload);
        assert!(matches!(result, Err(SendError::TooLong(_))));
        assert_eq!(pair.client.queued_bytes(), 0);
        assert_eq!(echo(&pair.client, 1, vec![1; MAX_FRAME_PAYLOAD_BYTES]).await.1.len(), MAX_FRAME_PAYLOAD_BYTES);
    });
}
