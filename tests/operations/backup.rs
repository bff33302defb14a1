//! Backups of a server under load, and what becomes of damaged ones.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use redb::ReadableTable;
use serde_json::{Value, json};

use super::site::{LISTENERS, run, start, text, url};
use crate::harness::{
    client::Client,
    eventually,
    http::Http,
    packet::Packet,
    server::{Server, Setup, UNLIMITED, store_path},
    shadow::Requester,
    wire::{Publish, V5},
};

const WRITERS: usize = 4;
/// Requests that a writer sends ahead.
const WINDOW: u64 = 16;

/// Every update that was accepted before the backup began is in what is restored from it, although the writers never
/// pause and the server dies by SIGKILL right after.
#[test]
fn a_backup_under_load_has_every_write_accepted_before() {
    let mut server = start();
    let web = url(server.address_of("web"));
    let (promised, done) = ([const { AtomicU64::new(0) }; WRITERS], AtomicBool::new(false));
    let copy = server.directory().join("copy");
    let (mut before, mut meanwhile) = ([0; WRITERS], 0);
    thread::scope(|scope| {
        for (writer, promised) in promised.iter().enumerate() {
            let client = Client::connect(&server, V5, &format!("writer-{writer}"));
            let done = &done;
            scope.spawn(move || write(client, writer, promised, done));
        }
        let now = || promised.each_ref().map(|promised| promised.load(Ordering::SeqCst));
        eventually("some load", || now().iter().all(|promised| *promised > 300).then_some(()));
        for _ in 0..3 {
            before = now();
            let (output, _) = run(&["backup", "--to", text(&copy), "--url", &web], 0);
            assert_eq!(serde_json::from_str::<Value>(&output).unwrap()["shadows"], json!(WRITERS));
            meanwhile += now().iter().sum::<u64>() - before.iter().sum::<u64>();
        }
        done.store(true, Ordering::SeqCst);
    });
    server.kill();
    println!("{meanwhile} updates were accepted while three backups were taken");
    assert!(meanwhile > 0, "the writers went on while backups were taken");

    let restored = tempfile::tempdir().unwrap();
    let path = store_path(restored.path());
    run(&["check", text(&copy)], 0);
    run(&["restore", text(&copy), "--store", text(&path)], 0);
    run(&["check", text(&path)], 0);
    let server = Server::within(restored, Setup { listener: LISTENERS, ..UNLIMITED }).unwrap_or_else(|_| panic!());
    for (writer, before) in before.into_iter().enumerate() {
        let mut reader = Requester::new(&server, V5, "reader", &format!("shadow/device-{writer}"));
        let kept = reader.get()["state"]["reported"]["n"].as_u64().unwrap();
        assert!(kept >= before, "writer {writer} was promised {before}, the backup has {kept}");
        reader.update(json!({"state": {"reported": {"n": 0}}}));
    }
}

/// Numbers its updates 1, 2, 3, … and notes the last one that was acknowledged, until it is `done`.
fn write(mut client: Client, writer: usize, promised: &AtomicU64, done: &AtomicBool) {
    let topic = format!("shadow/device-{writer}/update");
    let (mut sent, mut answered) = (0, 0);
    while answered < sent || !done.load(Ordering::SeqCst) {
        while sent < answered + WINDOW && !done.load(Ordering::SeqCst) {
            sent += 1;
            let body = json!({"state": {"reported": {"n": sent}}}).to_string();
            client.send(Publish::new(&topic, body).encode(V5, 1, (sent % 60_000) as u16 + 1));
        }
        match client.recv() {
            Packet::PubAck(ack) => assert_eq!(ack.code, 0, "{ack:?}"),
            other => panic!("{other:?}"),
        }
        answered += 1;
        promised.store(answered, Ordering::SeqCst);
    }
}

#[test]
fn damaged_backups_are_refused() {
    let mut server = start();
    let (web, viewers) = (url(server.address_of("web")), url(server.address_of("viewers")));
    for device in 0..20 {
        let mut client = Requester::private(&server, "setter", &format!("shadow/d-{device}"));
        client.update(json!({"state": {"desired": {"text": "a value that is easily found"}}}));
    }
    let (copy, bad) = (server.directory().join("copy"), server.directory().join("bad"));
    let store = store_path(server.directory());
    let target = server.directory().join("restored.redb");

    let (_, output) = run(&["backup", "--to", text(&copy), "--url", &viewers], 3);
    assert!(output.contains("needs all rights"), "{output}");
    let (_, output) = run(&["backup", "--to", text(&copy), "--url", "http://127.0.0.1:1"], 1);
    assert!(output.contains("Connection refused"), "{output}");
    let (_, output) = run(&["backup", "--to", text(&copy), "--store", text(&store)], 4);
    assert!(output.contains("in use by another process"), "{output}");
    let names =
        || fs::read_dir(server.directory()).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    assert!(!names().iter().any(|name| name.to_str().unwrap().starts_with("copy")), "{:?}", names());

    let nowhere = server.directory().join("nowhere").join("copy");
    let (_, output) = run(&["backup", "--to", text(&nowhere), "--url", &web], 1);
    assert!(output.contains(&format!("{}: cannot write: No such file", text(&nowhere))), "{output}");
    // A file that is not there was damage to one command and not to the other.
    for command in [&["check", text(&copy)][..], &["restore", text(&copy), "--store", text(&target)]] {
        let (_, output) = run(command, 1);
        assert!(output.contains(&format!("{}: No such file", text(&copy))), "{output}");
    }

    // A backup once took the last space of the store's disk.
    let (_, output) = run(&["backup", "--to", text(&copy), "--url", &web, "--keep-free", "1000000 TiB"], 1);
    assert!(output.contains("must stay free for the store"), "{output}");
    assert!(!names().iter().any(|name| name.to_str().unwrap().starts_with("copy")), "{:?}", names());

    run(&["backup", "--to", text(&copy), "--url", &web], 0);
    let whole = fs::read(&copy).unwrap();
    fs::write(&bad, &whole[..whole.len() - 40]).unwrap();
    for command in [&["check", text(&bad)][..], &["restore", text(&bad), "--store", text(&target)]] {
        let (_, output) = run(command, 4);
        assert!(output.contains("it is cut short"), "{output}");
    }
    let mut altered = whole.clone();
    let place = whole.windows(6).rposition(|bytes| bytes == b"easily").unwrap();
    altered[place] ^= 1;
    fs::write(&bad, &altered).unwrap();
    for command in [&["check", text(&bad)][..], &["restore", text(&bad), "--store", text(&target)]] {
        let (_, output) = run(command, 4);
        assert!(output.contains("its digest does not match"), "{output}");
    }
    assert!(!target.exists());
    let (_, output) = run(&["restore", text(&copy), "--store", text(&store)], 1);
    assert!(output.contains("there is a file already"), "{output}");

    // Of a store at rest the same commands.
    server.stop();
    run(&["check", text(&store)], 0);
    let again = server.directory().join("again");
    run(&["backup", "--to", text(&again), "--store", text(&store)], 0);
    run(&["restore", text(&again), "--store", text(&target)], 0);
    assert_eq!(run(&["check", text(&target)], 0), run(&["check", text(&store)], 0));
    let mut image = fs::read(&store).unwrap();
    for place in (0..image.len() - 6)
        .filter(|place| whole.len() > 6 && &image[*place..*place + 6] == b"easily")
        .collect::<Vec<_>>()
    {
        image[place] ^= 1;
    }
    fs::write(&store, image).unwrap();
    run(&["check", text(&store)], 4);
}

/// The part of a damaged store that can be read, with an exit code of its own.
#[test]
fn the_readable_part_of_a_damaged_store_is_backed_up() {
    let mut server = start();
    let sound = 200;
    for n in 0..sound {
        let mut client = Requester::new(&server, V5, &format!("setter-{n}"), &format!("shadow/lamp-{n:03}"));
        client.update(json!({"state": {"desired": {"text": format!("{n:0900}")}}}));
    }
    let mut lost = Requester::new(&server, V5, "setter", "shadow/zzz");
    lost.update(json!({"state": {"desired": {"text": "easily found"}}}));
    server.stop();
    let store = store_path(server.directory());
    let [copy, target] = ["copy", "target"].map(|name| server.directory().join(name));
    let back_up = |code| run(&["backup", "--readable-part", "--to", text(&copy), "--store", text(&store)], code);
    let (whole, _) = back_up(0);
    let whole: Value = serde_json::from_str(&whole).unwrap();
    assert_eq!((&whole["shadows"], &whole["entries"]), (&json!(sound + 1), &json!(sound + 1)), "nothing is damaged");
    let mut image = fs::read(&store).unwrap();
    let places: Vec<_> = (0..image.len() - 12).filter(|place| image[*place..].starts_with(b"easily found")).collect();
    for place in places {
        image[place] ^= 1;
    }
    fs::write(&store, &image).unwrap();
    let (_, refused) = run(&["backup", "--to", text(&copy), "--store", text(&store)], 4);
    assert!(refused.contains("damaged"), "{refused}");
    let (part, text_of_lost) = back_up(5);
    assert!(text_of_lost.contains("lost: state: a page is damaged"), "{text_of_lost}");
    let part: Value = serde_json::from_str(&part).unwrap();
    let shadows = part["shadows"].as_u64().unwrap();
    assert!((sound / 2..=sound).contains(&shadows), "{part}");
    run(&["restore", text(&copy), "--store", text(&target)], 0);
    run(&["check", text(&target)], 0);
    run(&["backup", "--readable-part", "--to", text(&copy)], 2);
}

/// A backup with a damaged record took the place of the last sound one.
#[test]
fn a_backup_with_a_damaged_record_does_not_replace_a_former_one() {
    let mut server = start();
    for device in ["lamp", "pump"] {
        let mut client = Requester::private(&server, "setter", &format!("shadow/{device}"));
        client.update(json!({"state": {"desired": {"on": true}}}));
    }
    server.stop();
    let store = store_path(server.directory());
    let [copy, part, other] = ["copy", "copy.part", "other"].map(|name| server.directory().join(name));
    let back_up = |to: &Path, code| run(&["backup", "--to", text(to), "--store", text(&store)], code);
    back_up(&copy, 0);
    let sound = fs::read(&copy).unwrap();
    // The pages are sound, and the record is not.
    let database = redb::Database::open(&store).unwrap();
    let transaction = database.begin_write().unwrap();
    let mut state = transaction.open_table(redb::TableDefinition::<&[u8], &[u8]>::new("state")).unwrap();
    let mut record = state.get(b"lamp\0".as_slice()).unwrap().unwrap().value().to_vec();
    record[9] ^= 1;
    state.insert(b"lamp\0".as_slice(), record.as_slice()).unwrap();
    drop(state);
    transaction.commit().unwrap();
    drop(database);

    let (output, error) = back_up(&copy, 4);
    assert!(error.contains("lamp") && error.contains("does not replace the former one"), "{output} {error}");
    assert_eq!(fs::read(&copy).unwrap(), sound, "the last sound one");
    run(&["check", text(&part)], 4);
    // Where there is none, it is better than nothing.
    back_up(&other, 4);
    run(&["check", text(&other)], 4);
    fs::remove_file(&copy).unwrap();
    back_up(&copy, 4);
    assert!(!part.exists(), "the next one takes its place");
}

/// A file at FILE.part was written to as it was: through a link, readable by all, or while another backup wrote it.
#[test]
fn an_unfinished_backup_is_readable_by_its_owner_only() {
    let mut server = start();
    let mut client = Requester::private(&server, "setter", "shadow/lamp");
    client.update(json!({"state": {"desired": {"on": true}}}));
    server.stop();
    let store = store_path(server.directory());
    let (copy, part) = (server.directory().join("copy"), server.directory().join("copy.part"));
    let theirs = server.directory().join("theirs");
    fs::write(&theirs, "theirs").unwrap();
    let back_up = |code| run(&["backup", "--to", text(&copy), "--store", text(&store)], code).1;
    let link = || symlink(&theirs, &part).unwrap();
    let readable_by_all = || {
        fs::write(&part, "of a backup that was killed").unwrap();
        fs::set_permissions(&part, fs::Permissions::from_mode(0o666)).unwrap();
    };
    for leave in [&link as &dyn Fn(), &readable_by_all] {
        leave();
        back_up(0);
        let made = fs::symlink_metadata(&copy).unwrap();
        assert!(made.is_file() && made.permissions().mode() & 0o777 == 0o600, "{made:?}");
        run(&["check", text(&copy)], 0);
        assert_eq!(fs::read_to_string(&theirs).unwrap(), "theirs");
        assert!(!part.exists());
    }

    fs::write(&part, "of a backup that is being taken").unwrap();
    let other = fs::File::open(&part).unwrap();
    other.lock().unwrap();
    let output = back_up(1);
    assert!(output.contains(&format!("{}: cannot write: another process is writing it", text(&copy))), "{output}");
    assert_eq!(fs::read_to_string(&part).unwrap(), "of a backup that is being taken");
    run(&["check", text(&copy)], 0);
}

/// A reader that takes nothing keeps the one place and no memory; when it goes, the next one has it.
#[test]
fn concurrent_backups_are_refused() {
    const SHADOWS: u16 = 1_500;
    let server = start();
    let body = json!({"state": {"reported": {"text": "x".repeat(8_000)}}}).to_string();
    let mut client = Client::connect(&server, V5, "writer");
    for first in (1..=SHADOWS).step_by(50) {
        let publish = |id: u16| Publish::new(&format!("shadow/device-{id}/update"), &body).encode(V5, 1, id);
        client.send((first..first + 50).flat_map(publish).collect::<Vec<_>>());
        (first..first + 50).for_each(|id| assert_eq!(client.puback(id).code, 0));
    }
    let web = server.address_of("web");
    // The backup has the journal, and every document in a record too.
    eventually("every document to be in a record", || {
        let metrics = Http::connect(web).send("GET /metrics HTTP/1.1", b"");
        metrics.text().contains("\numbra_lag_bytes 0\n").then_some(())
    });
    let post = || {
        let mut http = Http::connect(web);
        http.write("POST /v1/backup HTTP/1.1", b"");
        let head = http.head();
        (http, head)
    };
    let (slow, head) = post();
    assert_eq!((head.status, head.header("transfer-encoding")), (200, Some("chunked")));
    let before = server.resident_bytes();
    let (_, second) = post();
    assert_eq!(second.status, 429, "{second:?}");
    client.publish("shadow/device-1/update", r#"{"state":{"reported":{"text":"y"}}}"#, 1);
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "the server has grown by {grown} bytes");
    drop(slow);
    let (mut third, mut bytes) = eventually("the place to be free", || {
        let (http, head) = post();
        (head.status == 200).then_some((http, 0))
    });
    while let Some(piece) = third.chunk() {
        bytes += piece.len();
    }
    assert!(bytes > usize::from(SHADOWS) * 16_000, "{bytes}");
}
