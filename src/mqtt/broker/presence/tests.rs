//! Tests of the table of presence, at a node alone and in a cluster.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::net::Ipv4Addr;

use super::*;

const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn device(name: &str) -> DeviceId {
    DeviceId::new(name).unwrap()
}

fn table(devices_max: usize) -> PresenceTable {
    PresenceTable::new(Arc::<Router>::default(), devices_max)
}

/// Returns the number, device and connected flag of each change, oldest first.
fn changes(table: &PresenceTable) -> Vec<(u64, String, bool)> {
    let changes = table.changed_after(0, 100).into_iter();
    changes.map(|(number, id)| (number, id.as_str().to_owned(), table.of(&id).unwrap().connected)).collect()
}

#[test]
fn a_device_is_connected_while_any_connection_is_open() {
    let table = table(10);
    let (a, open) = (device("a"), |id: &DeviceId, at| table.opened(id, ADDRESS, Protocol::V5, Timestamp(at), None));
    open(&a, 100);
    open(&a, 101);
    table.closed(&a, Timestamp(102));
    let connected = Presence { connected: true, last_seen: Timestamp(100), address: ADDRESS, protocol: Protocol::V5 };
    assert_eq!(table.of(&a), Some(connected));
    assert_eq!((changes(&table), table.connected_here()), (vec![(1, "a".to_owned(), true)], 1));
    table.closed(&a, Timestamp(103));
    assert_eq!(table.of(&a), Some(Presence { connected: false, last_seen: Timestamp(103), ..connected }));
    assert_eq!((changes(&table), table.connected_here()), (vec![(2, "a".to_owned(), false)], 0));
    table.closed(&a, Timestamp(104));
    assert_eq!(changes(&table).len(), 1, "another close changes nothing");
    assert_eq!(table.of(&device("b")), None);
}

/// Its former node said that its connection there had ended after the opening here was in the log, and before the connection was open:
/// the device was gone for a moment.
#[test]
fn a_device_that_comes_from_another_node_is_never_gone() {
    let (table, a) = (table(10), device("a"));
    let connected = |at| {
        let last_seen = Timestamp(at);
        Some(Presence { connected: true, last_seen, address: ADDRESS, protocol: Protocol::V5 })
    };
    let receive = |here, elsewhere| table.receive(vec![LoggedPresence { device: a.clone(), here, elsewhere }]);
    receive(None, connected(100));
    table.table.lock().opening.insert(a.clone(), 1);
    receive(connected(101), connected(100));
    receive(connected(101), None);
    assert_eq!(table.of(&a), connected(101));
    table.table.lock().end_opening(&a);
    table.opened(&a, ADDRESS, Protocol::V5, Timestamp(101), None);
    assert_eq!(changes(&table), [(1, "a".to_owned(), true)]);
    // The log has an earlier run of this node, which is no opening.
    receive(connected(101), connected(102));
    table.closed(&a, Timestamp(103));
    receive(connected(101), None);
    assert_eq!(changes(&table), [(2, "a".to_owned(), false)]);
}

#[test]
fn devices_that_disconnected_first_are_evicted_first() {
    let table = table(3);
    let open = |id: &str| table.opened(&device(id), ADDRESS, Protocol::V4, Timestamp(1), None);
    let close = |id: &str| table.closed(&device(id), Timestamp(2));
    ["a", "b", "c"].into_iter().for_each(open);
    close("b");
    close("a");
    open("d");
    assert_eq!(changes(&table), [(3, "c".to_owned(), true), (5, "a".to_owned(), false), (6, "d".to_owned(), true)]);
    open("e");
    open("f");
    let ids: Vec<_> = table.page(None, 10).iter().map(|id| id.as_str().to_owned()).collect();
    assert_eq!(ids, ["c", "d", "e", "f"], "a connected device is never evicted");
    assert_eq!(table.page(Some(&device("d")), 1), [device("e")]);
}

#[test]
fn restored_devices_are_disconnected_and_the_longest_unseen_are_evicted() {
    let table = table(2);
    let row = |id, connected, last_seen| {
        (device(id), Presence { connected, last_seen: Timestamp(last_seen), address: ADDRESS, protocol: Protocol::V5 })
    };
    table.restore(
        vec![row("a", false, 10), row("b", true, 20), row("c", true, 60), row("d", false, 30)],
        Some(Timestamp(50)),
    );
    // Of those that were connected, "b" was seen up to the last date on disk, and "c" connected after it.
    assert_eq!(changes(&table), [(3, "b".to_owned(), false), (4, "c".to_owned(), false)]);
    let seen = |id: &str| table.of(&device(id)).map(|presence| presence.last_seen.0);
    assert_eq!((seen("b"), seen("c"), table.connected_here()), (Some(50), Some(60), 0));
    table.opened(&device("b"), ADDRESS, Protocol::V4, Timestamp(70), None);
    assert_eq!((changes(&table).len(), table.connected_here()), (2, 1));
}

fn logged(name: &str, here: Option<Presence>, elsewhere: Option<Presence>) -> LoggedPresence {
    LoggedPresence { device: device(name), here, elsewhere }
}

fn seen(connected: bool, last_seen: u64) -> Option<Presence> {
    Some(Presence { connected, last_seen: Timestamp(last_seen), address: ADDRESS, protocol: Protocol::V5 })
}

/// Returns what has changed after `last`, which is moved.
fn news(table: &PresenceTable, last: &mut u64) -> Vec<(String, bool)> {
    let changed = table.changed_after(*last, 100);
    *last = table.newest();
    changed.into_iter().map(|(_, id)| (id.as_str().to_owned(), table.of(&id).unwrap().connected)).collect()
}

#[test]
fn a_device_that_goes_from_node_to_node_is_never_gone() {
    let (table, lamp, mut last) = (table(10), device("lamp"), 0);
    table.join_cluster(1);
    let is = |connected| vec![("lamp".to_owned(), connected)];
    table.opened(&lamp, ADDRESS, Protocol::V5, Timestamp(10), None);
    assert_eq!(news(&table, &mut last), is(true));
    table.receive(vec![logged("lamp", seen(true, 10), None)]);
    assert_eq!(news(&table, &mut last), []);
    // To another node, and there to a third, which is noticed before its connection here has ended.
    table.receive(vec![logged("lamp", seen(true, 10), seen(true, 20))]);
    table.receive(vec![logged("lamp", seen(true, 10), seen(true, 30))]);
    table.closed(&lamp, Timestamp(31));
    table.receive(vec![logged("lamp", None, seen(true, 30))]);
    assert_eq!(news(&table, &mut last), []);
    assert_eq!(table.of(&lamp), seen(true, 30));
    table.receive(vec![logged("lamp", None, seen(false, 40))]);
    assert_eq!(news(&table, &mut last), is(false));
    assert_eq!(table.of(&lamp), seen(false, 40));
    // Back: the log still has it elsewhere when it is connected here, and the other way.
    table.opened(&lamp, ADDRESS, Protocol::V5, Timestamp(50), None);
    assert_eq!(news(&table, &mut last), is(true));
    table.receive(vec![logged("lamp", None, seen(false, 40))]);
    table.receive(vec![logged("lamp", seen(true, 50), None)]);
    assert_eq!((news(&table, &mut last), table.of(&lamp)), (vec![], seen(true, 50)));
    table.closed(&lamp, Timestamp(60));
    table.receive(vec![logged("lamp", seen(true, 50), None)]);
    assert_eq!((news(&table, &mut last), table.of(&lamp)), (is(false), seen(false, 60)));
    assert_eq!(table.connected_here(), 0);
}

#[test]
fn a_node_continues_with_the_presence_of_all_nodes() {
    let (table, mut last) = (table(10), 0);
    table.join_cluster(1);
    let restored = vec![
        logged("here", seen(true, 10), None),
        logged("both", seen(true, 10), seen(true, 5)),
        logged("there", None, seen(true, 7)),
        logged("gone", None, seen(false, 6)),
    ];
    table.restore_logged(restored, Some(Timestamp(20)));
    let mut found = news(&table, &mut last);
    found.sort();
    let expected = [("both", true), ("gone", false), ("here", false), ("there", true)];
    assert_eq!(found, expected.map(|(name, connected)| (name.to_owned(), connected)));
    assert_eq!((table.of(&device("here")), table.of(&device("both"))), (seen(false, 20), seen(true, 5)));
    // A record that was read after the start has a later connection of the former run, which the start has ended.
    table.receive(vec![logged("here", seen(true, 25), None), logged("here", seen(false, 26), None)]);
    assert_eq!((news(&table, &mut last), table.of(&device("here"))), (vec![], seen(false, 26)));
    table.receive(vec![logged("gone", None, None)]);
    assert_eq!((table.of(&device("gone")), table.changed_after(0, 9).len()), (None, 3), "the log has forgotten it");
}
