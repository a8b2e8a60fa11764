//! How many free addresses vSwitches have, counted once and known from then on: to count them takes the longer the
//! larger the pool is, and next to every pod asks.
//!
//! Owns nothing that a process could lose: whatever is not known is counted again. Does not know when an address comes
//! free or is taken; it is told.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use rusqlite::Result;

/// See the module. By the rows of vSwitches.
#[derive(Default)]
pub(crate) struct Free {
    known: RefCell<HashMap<i64, u64>>,
    version: Cell<i64>,
}

impl Free {
    /// The file is at this data version: what was known before another process wrote to it is not any more.
    pub(super) fn is_at(&self, version: i64) {
        if self.version.replace(version) != version {
            self.forget();
        }
    }

    /// Nothing is known: addresses may have changed, or changes of them were undone.
    pub(super) fn forget(&self) {
        self.known.borrow_mut().clear();
    }

    /// As it is known, or else counted.
    pub(super) fn of(&self, vswitch: i64, count: impl FnOnce() -> Result<u64>) -> Result<u64> {
        if let Some(known) = self.known.borrow().get(&vswitch) {
            return Ok(*known);
        }
        let counted = count()?;
        self.known.borrow_mut().insert(vswitch, counted);
        Ok(counted)
    }

    pub(super) fn knows(&self, vswitch: i64) -> bool {
        self.known.borrow().contains_key(&vswitch)
    }

    /// One more is free.
    pub(super) fn give(&self, vswitch: i64) {
        if let Some(free) = self.known.borrow_mut().get_mut(&vswitch) {
            *free += 1;
        }
    }

    /// A free one is taken. A count that says there is none is counted again.
    pub(super) fn take(&self, vswitch: i64) {
        let mut known = self.known.borrow_mut();
        if let Some(free) = known.get(&vswitch) {
            match free.checked_sub(1) {
                Some(left) => known.insert(vswitch, left),
                None => known.remove(&vswitch),
            };
        }
    }

    #[cfg(test)]
    pub(super) fn known(&self) -> HashMap<i64, u64> {
        self.known.borrow().clone()
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use crate::ledger::fault_tests::{begin, ordinary, settings};
    use crate::ledger::{Job, Ledger, Note};
    use crate::settings::{Settings, VSwitch};

    /// A second vSwitch in the zone makes the counts matter.
    fn two() -> Settings {
        let mut settings = settings();
        settings.vswitches.push(VSwitch {
            id: "vsw-b2".into(),
            cidr: "10.1.0.0/24".parse().unwrap(),
            ..settings.vswitches[0].clone()
        });
        settings
    }

    fn acquire(ledger: &mut Ledger, number: usize) -> String {
        let batch = ledger.commit(begin(), &[Job::Acquire(ordinary(number))]);
        assert!(batch.unwrap().results[0].is_ok());
        let rows = ledger.addresses(false).unwrap().into_iter();
        let uid = format!("uid-{number}");
        let mut of_pod = rows.filter(|row| row.uid.as_ref().is_some_and(|of| of.as_str() == uid));
        of_pod.next().unwrap().vswitch.to_string()
    }

    #[test]
    fn what_is_undone_is_counted_again() {
        let mut ledger = Ledger::in_memory(two(), begin()).unwrap();
        let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON journal BEGIN SELECT RAISE(ABORT, 'refused'); END";
        ledger.conn.execute_batch(refuse).unwrap();
        acquire(&mut ledger, 1);
        let jobs = [
            Job::Acquire(ordinary(2)),
            Job::Note(begin(), Note::Started),
            Job::Acquire(ordinary(3)),
            Job::Gone("uid-1".into()),
        ];
        let batch = ledger.commit(begin(), &jobs).unwrap();
        let is_ok: Vec<_> = batch.results.iter().map(Result::is_ok).collect();
        assert_eq!(is_ok, [true, false, true, true]);
        assert_eq!(ledger.miscounted(), Vec::<i64>::new());
    }

    #[test]
    fn what_another_process_or_other_settings_take_from_a_vswitch_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("holdfast.db");
        let mut ledger = Ledger::open(&path, two(), begin()).unwrap();
        assert_eq!(acquire(&mut ledger, 1), "vsw-b");
        assert_eq!(acquire(&mut ledger, 2), "vsw-b2");
        let take = "UPDATE address SET state = 'excluded', barred = 1, gen = gen + 1 \
             WHERE state = 'free' AND vswitch = 1 AND addr % 2";
        Connection::open(&path).unwrap().execute(take, []).unwrap();
        assert_eq!(acquire(&mut ledger, 3), "vsw-b2");

        let mut smaller = two();
        smaller.vswitches[1].exclude = vec![([10, 1, 0, 10].into(), [10, 1, 0, 240].into())];
        ledger.reconfigure(smaller, begin()).unwrap();
        assert_eq!(acquire(&mut ledger, 4), "vsw-b");
    }
}
