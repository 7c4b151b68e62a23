use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Watch;
use crate::config::Identity;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn used(watch: &Watch) -> Vec<u8> {
    watch.current.key.load().end_entity_cert().unwrap().to_vec()
}

#[test]
fn a_certificate_of_our_own_is_renewed_while_it_is_served() {
    let directory = tempfile::tempdir().unwrap();
    let identity = Identity::SelfMade { directory: directory.path().to_owned(), names: Vec::new() };
    let begun = SystemTime::now();
    let mut watch = Watch::open(identity, begun).unwrap();
    let authority = fs::read(directory.path().join("ca.crt")).unwrap();
    let first = used(&watch);
    watch.look(begun + 300 * DAY);
    assert_eq!(used(&watch), first);
    watch.look(begun + 340 * DAY);
    assert_ne!(used(&watch), first);
    assert_eq!(fs::read(directory.path().join("ca.crt")).unwrap(), authority);
}

#[test]
fn a_pair_that_cannot_be_used_leaves_the_one_before_until_it_can() {
    let directory = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let pair = crate::certificate::ensure(directory.path(), &[], now).unwrap();
    let identity = Identity::Given { certificate: pair.certificate.clone(), key: pair.key.clone() };
    let mut watch = Watch::open(identity, now).unwrap();
    let first = used(&watch);
    let key = fs::read(&pair.key).unwrap();
    fs::write(&pair.key, "junk, and of another length").unwrap();
    for _ in 0..2 {
        watch.look(now);
        assert_eq!(used(&watch), first);
        let problem = watch.current.problem.load_full().map(Arc::unwrap_or_clone);
        assert!(problem.is_some_and(|problem| problem.contains("server.key")));
    }
    fs::write(&pair.key, key).unwrap();
    watch.look(now);
    assert_eq!(watch.current.problem.load_full(), None);
    assert_eq!(used(&watch), first);
}
