//! Tests of the file: created, locked, foreign, truncated, altered.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use super::{
    Random, Running, count, key, options, queued,
    sim_disk::{SimDisk, Stop},
    stepped::Stepped,
};
use redb::ReadableDatabase;

use crate::{
    shadow::Version,
    store::{StoreError, StoreOptions, schema},
};

const PATH_VARIABLE: &str = "UMBRA_TEST_HOLD_STORE";

fn at(path: &Path) -> StoreOptions {
    StoreOptions { path: path.to_owned(), ..options() }
}

fn open_error(path: &Path) -> StoreError {
    Running::open(at(path)).err().expect("it does not open")
}

#[test]
fn a_missing_file_is_created_without_leftovers() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    drop(Running::open(at(&path)).unwrap());
    let names: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["store.redb"]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "for its owner alone");
    assert!(matches!(open_error(&directory.path().join("no/such/store")), StoreError::Io { .. }));
    assert!(matches!(open_error(directory.path()), StoreError::Io { .. }));
}

#[test]
fn a_missing_file_is_refused_if_none_may_be_created() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions { create: false, ..at(&directory.path().join("store.redb")) };
    let error = Running::open(options.clone()).err().expect("there is no file");
    assert!(
        matches!(&error, StoreError::Missing { .. }) && error.to_string().contains("store.create = true"),
        "{error}"
    );
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
    drop(Running::open(at(&options.path)).unwrap());
    drop(Running::open(options).unwrap());
}

#[test]
fn a_file_that_is_no_store_is_not_changed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let other_redb = {
        drop(redb::Database::create(&path).unwrap());
        fs::read(&path).unwrap()
    };
    let contents: [&[u8]; 5] = [b"", b"x", &[0; 10_000], b"redb\x1A\x0A\xA9\x0D\x0A and then nothing", &other_redb];
    for content in contents {
        fs::write(&path, content).unwrap();
        let error = open_error(&path);
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
        assert!(error.to_string().contains("store.redb"), "{error}");
        if content == other_redb {
            let tables = redb::Database::open(&path).unwrap().begin_read().unwrap().list_tables().unwrap().count();
            assert_eq!(tables, 0, "nothing was put into it");
        } else {
            assert_eq!(fs::read(&path).unwrap(), content, "{error}");
        }
    }
}

#[test]
fn a_newer_format_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    drop(Running::open(at(&path)).unwrap());
    let database = redb::Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    let created = schema::Created { format: schema::FILE_FORMAT + 1, by: "9.0".to_owned() };
    transaction
        .open_table(schema::META_TABLE)
        .unwrap()
        .insert(schema::CREATED_KEY, created.encode().as_slice())
        .unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = open_error(&path);
    assert!(matches!(error, StoreError::Format { found: 2, supported: 1, .. }), "{error}");
}

#[test]
fn one_process_opens_a_store_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let running = Running::open(at(&path)).unwrap();
    assert!(matches!(open_error(&path), StoreError::Locked { .. }));
    drop(running);
    drop(Running::open(at(&path)).unwrap());
}

/// Holds the store open until its input ends. The test below runs this in another process.
#[test]
#[ignore = "a part of `another_process_is_refused`"]
fn hold_the_store_open() {
    let Some(path) = std::env::var_os(PATH_VARIABLE) else { return };
    let _running = Running::open(at(Path::new(&path))).unwrap();
    println!("\nholding");
    let _ = std::io::stdin().lines().count();
}

#[test]
fn another_process_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::tests::files::hold_the_store_open", "--ignored", "--nocapture"])
        .env(PATH_VARIABLE, &path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line == "holding"));
    assert!(matches!(open_error(&path), StoreError::Locked { .. }));
    drop(child.stdin.take());
    let _ = lines.count();
    assert!(child.wait().unwrap().success());
    drop(Running::open(at(&path)).unwrap());
}

/// Returns the image of a closed store of 40 shadows; the last two commits left the same documents.
fn sound_image() -> Vec<u8> {
    let disk = SimDisk::new(Vec::new(), Stop::Never);
    let mut stepped = Stepped::open(&disk, StoreOptions { flush_documents_min: 0, ..options() }).unwrap();
    for n in 0..3 {
        stepped.apply((0..40).map(|device| queued(&key(&format!("device-{device}")), count(n), 0)));
    }
    stepped.idle();
    drop(stepped);
    disk.durable()
}

/// Checks that `image` is refused with an error or holds the right documents, and never panics.
fn check_image(image: Vec<u8>, verify_on_open: bool, about: &str) -> bool {
    let options = StoreOptions { verify_on_open, ..options() };
    let Ok(mut stepped) = Stepped::open(&SimDisk::new(image, Stop::Never), options) else { return false };
    let mut sound = true;
    for device in 0..40 {
        match stepped.store.read(&key(&format!("device-{device}"))) {
            // Without the check of all pages, a broken tree may seem to lack a shadow.
            Ok(stored)
                if stored.document.version == Version(3)
                    || (!verify_on_open && stored.document.version == Version(0)) => {}
            Ok(stored) => panic!("{about}: device-{device} is at {:?}", stored.document.version),
            Err(_) => sound = false,
        }
    }
    sound &= stepped.store.list(None, 100).is_ok_and(|list| list.len() == 40);
    sound &= stepped.store.journal(crate::store::Seq(0), 1000).is_ok_and(|page| page.entries.len() == 120);
    stepped.apply([queued(&key("device-1"), count(9), 0), queued(&key("new"), count(9), 0)]);
    sound
}

#[test]
fn a_truncated_file_is_refused() {
    let image = sound_image();
    assert!(check_image(image.clone(), true, "whole") && check_image(image.clone(), false, "whole"));
    let step = image.len() / 60;
    let lengths = (0..image.len()).step_by(step).chain([1, 63, 64, 319, 320, 511, 512, 4095, 4096, image.len() - 1]);
    for length in lengths {
        for verify in [true, false] {
            let cut = image[..length].to_vec();
            let sound = length > 0 && check_image(cut, verify, &format!("cut to {length} of {}", image.len()));
            assert!(!sound, "cut to {length} of {}, verify {verify}", image.len());
        }
    }
}

#[test]
fn an_altered_file_is_refused_or_right() {
    let image = sound_image();
    let used: Vec<_> = (0..image.len()).filter(|index| image[*index] != 0).collect();
    let mut random = Random::new(99);
    let header = (0..512).step_by(3);
    let elsewhere: Vec<_> = (0..250).map(|_| used[random.below(used.len() as u64) as usize]).collect();
    for index in header.chain(elsewhere) {
        let mut altered = image.clone();
        altered[index] ^= 1 << random.below(8);
        for verify in [true, false] {
            check_image(altered.clone(), verify, &format!("byte {index} altered, verify {verify}"));
        }
    }
}
