//! A NATS server that is cut off from the others, while nodes still reach it.

use std::fs;

use super::{
    append_all, follow_all,
    proxy::{Fault, Proxy},
    record,
    servers::{SOUND, Servers, connected_to},
    store,
};

/// The server answers pings and heartbeats, and knows nothing new. The node changes to another one.
#[tokio::test]
async fn a_node_leaves_a_server_that_is_cut_off() {
    let mut servers = Servers::start(SOUND).await;
    let routes = through_proxies(&mut servers).await;
    let log = servers.connect(1).await;
    let cut_off = connected_to(&log);
    let mut settings = servers.settings(2);
    settings.servers.remove(cut_off);
    let writer = servers.try_connect(&settings).await.unwrap();
    let mut follower = log.follow(1);
    append_all(&writer, 0, 10).await;
    follow_all(&mut follower, 0, 10).await;

    for (from, to, proxy) in &routes {
        if [*from, *to].contains(&cut_off) {
            proxy.set(Fault::Refused);
        }
    }
    append_all(&writer, 10, 10).await;
    follow_all(&mut follower, 10, 10).await;
    store(&log, 20, record(21)).await;
    assert_ne!(connected_to(&log), cut_off);
    follow_all(&mut follower, 20, 1).await;
    routes.iter().for_each(|(.., proxy)| proxy.set(Fault::None));
    append_all(&log, 21, 10).await;
}

/// Starts the servers again with a proxy for each route, and returns these with the numbers of their two servers.
async fn through_proxies(servers: &mut Servers) -> Vec<(usize, usize, Proxy)> {
    (0..3).for_each(|number| servers.kill(number));
    let files: Vec<_> = (0..3).map(|number| servers.file(&format!("n{number}.conf"))).collect();
    let mut texts: Vec<_> = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let port_of = |text: &String| -> u16 {
        let cluster = text.split("cluster { name: tests, listen: \"127.0.0.1:").nth(1).unwrap();
        cluster.split('"').next().unwrap().parse().unwrap()
    };
    let ports: Vec<_> = texts.iter().map(port_of).collect();
    let mut routes = Vec::new();
    for (from, text) in texts.iter_mut().enumerate() {
        // Routes that servers find by themselves would not pass the proxies.
        *text = text.replace("cluster { name: tests,", "cluster { name: tests, advertise: \"127.0.0.1:1\",");
        for (to, port) in ports.iter().enumerate().filter(|(to, _)| *to != from) {
            let proxy = Proxy::to(*port).await;
            *text = text.replace(&format!("nats://127.0.0.1:{port}"), &format!("nats://127.0.0.1:{}", proxy.port));
            routes.push((from, to, proxy));
        }
    }
    files.iter().zip(texts).for_each(|(file, text)| fs::write(file, text).unwrap());
    (0..3).for_each(|number| servers.launch(number));
    routes
}
