//! Tests of files with one flipped bit: no shadow is absent or at an older version because of it, and none is created anew.

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Random, Running, count, key, options, queued, update};
use crate::{
    shadow::{Document, Rejection, ShadowKey, Version},
    store::{Pages, Store, StoreError, StoreOptions},
};

const SHADOWS: usize = 3000;

fn at(path: &Path) -> StoreOptions {
    StoreOptions { page_cache_bytes: 8 << 20, document_cache_bytes: 16 << 20, path: path.to_owned(), ..options() }
}

fn shadow(n: usize) -> ShadowKey {
    key(&format!("device-{n:05}"))
}

/// A store file of a clean stop, with its documents.
struct Sound {
    image: Vec<u8>,
    documents: Vec<Arc<Document>>,
}

impl Sound {
    /// Makes a store in which every shadow was updated twice, and is at version 2.
    fn make() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.redb");
        let running = Running::open(at(&path)).unwrap();
        for round in 0..2 {
            running.apply((0..SHADOWS).map(|n| queued(&shadow(n), count(round * 7 + n as u64), 0)));
        }
        running.store.close();
        let documents = (0..SHADOWS).map(|n| running.store.read(&shadow(n)).unwrap().document).collect();
        drop(running);
        Self { image: fs::read(&path).unwrap(), documents }
    }

    /// Checks all answers of a store whose file has `bit` flipped. Returns the number of shadows out of service; `None`
    /// if the file is refused.
    fn check(&self, bit: usize) -> Option<usize> {
        let about = format!("bit {bit} of {}", 8 * self.image.len());
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.redb");
        let mut image = self.image.clone();
        image[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &image).unwrap();
        let mut failed = None;
        // Damage is neither forgotten nor spread by what the first run writes.
        for run in 0..2 {
            let running = match Running::open(at(&path)) {
                Ok(running) => running,
                Err(error) => {
                    assert!(matches!(error, StoreError::Corrupt { .. } | StoreError::Record { .. } | StoreError::Format { .. }));
                    assert!(run == 0, "{about}: refused after a run: {error}");
                    return None;
                }
            };
            let now = self.check_run(&running, run, &about);
            assert_eq!(failed.get_or_insert(now), &now, "{about}");
        }
        failed
    }

    fn check_run(&self, running: &Running, run: u64, about: &str) -> usize {
        let store = &running.store;
        let mut is_sound = vec![true; SHADOWS];
        for (n, document) in self.documents.iter().enumerate() {
            match store.read(&shadow(n)) {
                Ok(stored) if run == 0 => assert_eq!(stored.document, *document, "{about}: device {n}"),
                Ok(stored) => assert_eq!(stored.document.version.0, 2 + u64::from(n % 37 == 0), "{about}: device {n}"),
                Err(_) => is_sound[n] = false,
            }
        }
        // No shadow can be created where one is.
        let create = |n: usize| queued(&shadow(n), update(&serde_json::json!({"reported": {"n": 0}}), Some(0)), n as u64);
        for outcome in running.apply((0..SHADOWS).step_by(5).map(create)) {
            let n = outcome.context.unwrap() as usize;
            let is_refused = match &outcome.result {
                Err(Rejection::VersionConflict { .. }) => is_sound[n],
                Err(Rejection::Internal) => !is_sound[n],
                _ => false,
            };
            assert!(is_refused, "{about}: device {n}: {:?}", outcome.result);
        }
        if run == 0 {
            let write = |n: usize| queued(&shadow(n), count(99_999), n as u64);
            for outcome in running.apply((0..SHADOWS).step_by(37).map(write)) {
                let n = outcome.context.unwrap() as usize;
                assert_eq!(outcome.result.is_ok(), is_sound[n], "{about}: device {n}: {:?}", outcome.result);
            }
        }
        check_list(store, &is_sound, about);
        is_sound.iter().filter(|sound| !**sound).count()
    }
}

/// Checks that the list is complete up to an error.
fn check_list(store: &Store<u64>, is_sound: &[bool], about: &str) {
    let mut listed = Vec::new();
    loop {
        match store.list(listed.last(), 100) {
            Ok(page) if page.is_empty() => break assert_eq!(listed.len(), SHADOWS, "{about}: the list ended"),
            Ok(page) => listed.extend(page.into_iter().map(|listed| listed.key)),
            Err(_) => break assert!(is_sound.contains(&false), "{about}: a sound list failed"),
        }
    }
    assert!(listed.iter().enumerate().all(|(n, key)| *key == shadow(n)), "{about}");
}

#[test]
fn a_flipped_bit_hides_no_shadow() {
    let sound = Sound::make();
    let files = std::env::var("UMBRA_TEST_FLIPS").map_or(150, |files| files.parse().unwrap());
    let used: Vec<_> = (0..sound.image.len()).filter(|at| sound.image[*at] != 0).collect();
    let mut random = Random::new(7);
    let (mut partly, mut refused) = (0, 0);
    for n in 0..files {
        let place = (n * used.len() + random.below(used.len() as u64) as usize) / files;
        match sound.check(8 * used[place] + random.below(8) as usize) {
            Some(0) => {}
            Some(failed) => {
                assert!(failed < SHADOWS / 2, "{failed} shadows are out of service");
                partly += 1;
            }
            None => refused += 1,
        }
    }
    println!("{files} files: {partly} with shadows out of service, {refused} refused, the others served whole");
    assert!(partly > files / 20, "{partly} of {files} files had shadows out of service");
}

#[test]
fn an_undamaged_file_is_sound() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let mut random = Random::new(3);
    for run in 0..8 {
        let running = Running::open(at(&path)).unwrap();
        assert_eq!(running.store.health().pages, Pages::Sound, "run {run}");
        for _ in 0..6 {
            let writes = random.below(400) as usize;
            let filler = "x".repeat(random.below(6000) as usize);
            let state = serde_json::json!({"reported": {"filler": filler}});
            let shadows: Vec<_> = (0..writes).map(|_| shadow(random.below(1500) as usize)).collect();
            running.apply(shadows.iter().map(|key| queued(key, update(&state, None), 0)));
        }
    }
}
