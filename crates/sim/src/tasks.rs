//! Runs the few futures of a node (repair, reclaim, digests) on simulated time.
//!
//! Guarantees: tasks are polled in the order in which they were woken, so one seed gives one order. Must not know: what
//! the tasks do.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

type Task = Pin<Box<dyn Future<Output = ()>>>;

#[derive(Default)]
struct Ready {
    queue: Mutex<VecDeque<u64>>,
}

struct TaskWaker {
    id: u64,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.ready.queue.lock().unwrap_or_else(PoisonError::into_inner).push_back(self.id);
    }
}

/// The tasks of one process.
#[derive(Default)]
pub struct Tasks {
    running: RefCell<BTreeMap<u64, Task>>,
    new: RefCell<Vec<Task>>,
    ready: Arc<Ready>,
    next: RefCell<u64>,
    timers: Timers,
}

/// Wakers by time, in nanoseconds of simulated time.
#[derive(Clone, Default)]
pub struct Timers(Rc<RefCell<BTreeMap<(u64, u64), Waker>>>);

impl Tasks {
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.new.borrow_mut().push(Box::pin(task));
    }

    pub fn timers(&self) -> Timers {
        self.timers.clone()
    }

    /// Polls whatever is ready until nothing is. Whether anything was polled.
    pub fn run(&self, now_ns: u64) -> bool {
        self.timers.wake_due(now_ns);
        let mut any = false;
        loop {
            let new = std::mem::take(&mut *self.new.borrow_mut());
            for task in new {
                let mut next = self.next.borrow_mut();
                *next += 1;
                self.running.borrow_mut().insert(*next, task);
                self.ready.queue.lock().unwrap_or_else(PoisonError::into_inner).push_back(*next);
            }
            let Some(id) = self.ready.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front() else {
                return any;
            };
            let Some(mut task) = self.running.borrow_mut().remove(&id) else { continue };
            any = true;
            let waker = Waker::from(Arc::new(TaskWaker { id, ready: Arc::clone(&self.ready) }));
            if task.as_mut().poll(&mut Context::from_waker(&waker)) == Poll::Pending {
                self.running.borrow_mut().insert(id, task);
            }
        }
    }

    /// When the next timer is due.
    pub fn next_timer(&self) -> Option<u64> {
        self.timers.0.borrow().first_key_value().map(|((at, _), _)| *at)
    }

    /// Ends every task.
    pub fn clear(&self) {
        // Dropping a task may wake or spawn another.
        let gone = (std::mem::take(&mut *self.running.borrow_mut()), std::mem::take(&mut *self.new.borrow_mut()));
        drop(gone);
        self.timers.0.borrow_mut().clear();
    }
}

impl Timers {
    fn wake_due(&self, now_ns: u64) {
        loop {
            let due = {
                let mut timers = self.0.borrow_mut();
                match timers.first_key_value() {
                    Some(((at, _), _)) if *at <= now_ns => timers.pop_first(),
                    _ => None,
                }
            };
            let Some((_, waker)) = due else { return };
            waker.wake();
        }
    }

    /// Ready at a time.
    pub fn sleep_until(self, at_ns: u64, now: Rc<std::cell::Cell<u64>>) -> impl Future<Output = ()> + 'static {
        let timers = self;
        let mut registered = false;
        std::future::poll_fn(move |context| {
            if now.get() >= at_ns {
                return Poll::Ready(());
            }
            if !registered {
                registered = true;
                let mut timers = timers.0.borrow_mut();
                let mut key = (at_ns, 0);
                while timers.contains_key(&key) {
                    key.1 += 1;
                }
                timers.insert(key, context.waker().clone());
            }
            Poll::Pending
        })
    }
}
