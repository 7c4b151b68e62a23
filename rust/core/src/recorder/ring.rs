//! The records of all models: so many of each model, so many bytes of all. The oldest go first, those in flight last.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::record::{Answer, End, Head, Kept, Parts, Record};

#[cfg(test)]
mod tests;

/// What a record takes besides its bodies, roughly: names, times, the places in which they lie.
const OVERHEAD: usize = 1024;

/// All records, with their bounds.
#[derive(Debug)]
pub(super) struct Ring {
    count: usize,
    bytes: usize,
    held: usize,
    latest: u64,
    shelves: BTreeMap<Arc<str>, Shelf>,
}

/// The records of one model. It stays when the model is unloaded.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    names: Arc<[String]>,
    slots: VecDeque<Slot>,
}

#[derive(Debug)]
struct Slot {
    record: Record,
    size: usize,
}

/// Records that were taken out, to be dropped when the lock is released.
pub(super) type Evicted = Vec<Record>;

impl Shelf {
    pub(super) fn parts(&self) -> Vec<Parts> {
        self.slots.iter().map(|slot| slot.record.parts()).collect()
    }

    /// What clients call the model.
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.names.iter().chain(self.slots.iter().map(|slot| &slot.record.head.model))
    }

    /// Where the record of that moment is. They are in order.
    fn position(&self, instant: u64) -> Option<usize> {
        self.slots.binary_search_by_key(&instant, |slot| slot.record.head.instant).ok()
    }

    /// Where the record is that goes first.
    fn first_to_go(&self) -> usize {
        self.slots.iter().position(|slot| slot.record.end.is_some()).unwrap_or(0)
    }
}

impl Ring {
    pub(super) fn new(count: usize, bytes: usize) -> Self {
        Self { count, bytes, held: 0, latest: 0, shelves: BTreeMap::new() }
    }

    /// A moment that no record has yet, this one if possible.
    pub(super) fn instant(&mut self, now: u64) -> u64 {
        self.latest = now.max(self.latest + 1);
        self.latest
    }

    pub(super) fn shelves(&self) -> impl Iterator<Item = (&Arc<str>, &Shelf)> {
        self.shelves.iter()
    }

    /// What a model was called when it was last asked.
    pub(super) fn names(&self, model_id: &str) -> Arc<[String]> {
        self.shelves.get(model_id).map(|shelf| Arc::clone(&shelf.names)).unwrap_or_default()
    }

    /// Take in a request that begins.
    pub(super) fn begin(
        &mut self,
        head: &Arc<Head>,
        request: &Arc<Kept>,
        names: &Arc<[String]>,
    ) -> Evicted {
        let record = Record { head: Arc::clone(head), request: Arc::clone(request), end: None };
        let size = OVERHEAD + request.bytes.len();
        let shelf = self.shelves.entry(Arc::clone(&head.model_id)).or_default();
        shelf.names = Arc::clone(names);
        shelf.slots.push_back(Slot { record, size });
        self.held += size;
        let mut evicted = Evicted::new();
        while let Some(shelf) = self.shelves.get_mut(&head.model_id)
            && shelf.slots.len() > self.count
        {
            evicted.extend(shelf.slots.remove(shelf.first_to_go()).map(|slot| {
                self.held -= slot.size;
                slot.record
            }));
        }
        self.make_room(&mut evicted);
        evicted
    }

    /// Let a request take more room, if it is still here then.
    pub(super) fn grow(&mut self, head: &Head, more: usize) -> (bool, Evicted) {
        let mut evicted = Evicted::new();
        if let Some(slot) = self.slot(head) {
            slot.size += more;
            self.held += more;
            self.make_room(&mut evicted);
        }
        (self.slot(head).is_some(), evicted)
    }

    /// Note how a request ended, if it is still here.
    pub(super) fn end(&mut self, head: &Head, end: &Arc<End>, answer: &Arc<Answer>) -> Evicted {
        let mut evicted = Evicted::new();
        if let Some(slot) = self.slot(head) {
            let size = OVERHEAD + slot.record.request.bytes.len() + answer.size();
            slot.record.end = Some((Arc::clone(end), Arc::clone(answer)));
            let before = std::mem::replace(&mut slot.size, size);
            self.held = self.held - before + size;
            self.make_room(&mut evicted);
        }
        evicted
    }

    /// Forget a request as if it had not been.
    pub(super) fn strike(&mut self, head: &Head) -> Option<Record> {
        let shelf = self.shelves.get_mut(&head.model_id)?;
        let at = shelf.position(head.instant)?;
        self.remove(&Arc::clone(&head.model_id), at)
    }

    fn slot(&mut self, head: &Head) -> Option<&mut Slot> {
        let shelf = self.shelves.get_mut(&head.model_id)?;
        shelf.slots.get_mut(shelf.position(head.instant)?)
    }

    /// Drop the oldest until the bytes fit: of those that ended, and if there are none, of those in flight.
    fn make_room(&mut self, evicted: &mut Evicted) {
        while self.held > self.bytes {
            let oldest = self.shelves.iter().filter_map(|(id, shelf)| {
                let at = shelf.first_to_go();
                let record = &shelf.slots.get(at)?.record;
                Some((record.end.is_none(), record.head.instant, Arc::clone(id), at))
            });
            let Some((_, _, id, at)) = oldest.min() else { return };
            evicted.extend(self.remove(&id, at));
        }
    }

    fn remove(&mut self, id: &Arc<str>, at: usize) -> Option<Record> {
        let shelf = self.shelves.get_mut(id)?;
        let slot = shelf.slots.remove(at)?;
        self.held -= slot.size;
        if shelf.slots.is_empty() {
            self.shelves.remove(id);
        }
        Some(slot.record)
    }
}
